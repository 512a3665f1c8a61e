"""What runs in the process that exports: nothing of graphopt is imported here.

The interpreter may be that of another environment, which has the framework and nothing of ours.
"""
