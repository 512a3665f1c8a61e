"""The command line: one command, one file, no logic.

`main.py` owns the exit codes, `failures.py` how an error reads. Every `<name>_command.py` holds one
command and is imported when that command is used, so `graphopt --help` loads no heavy library.
"""
