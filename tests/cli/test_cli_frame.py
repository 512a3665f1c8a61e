"""What holds for every command: imports, exit status, streams, errors."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest

from graphopt.cli import main as cli_main
from graphopt.cli.error_pages import error_codes, error_page
from graphopt.cli.failures import UnexpectedError, as_graphopt_error
from graphopt.cli.lazy_group import LazyGroup
from graphopt.cli.main import SECTIONS, application, main
from graphopt.cli.options import THREADS
from graphopt.cli.output import print_result
from graphopt.cli.settings import Settings
from graphopt.errors import GraphoptError, OutputError, error_classes
from graphopt.targets import target_schema

COMMANDS = [name for section in SECTIONS.values() for name in section]
HEAVY = {"numpy", "onnx", "onnx_ir", "onnxruntime", "torch", "rich", "jsonschema"}


def loaded_by(*arguments):
    script = (
        "import sys\nfrom graphopt.cli.main import main\n"
        f"status = main({list(arguments)!r})\n"
        "print(status, *sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    status, *modules = done.stderr.splitlines()[-1].split()
    return int(status), set(modules), done.stdout


def test_help_imports_nothing_heavy():
    status, modules, output = loaded_by("--help")
    assert status == 0
    assert "Usage: graphopt" in output
    assert not modules & HEAVY
    assert "click" in modules  # the list of modules is real


def test_help_of_a_command_imports_nothing_heavy():
    script = (
        "import sys\nfrom graphopt.cli.main import main\n"
        f"for name in {COMMANDS!r}:\n    assert main([name, '--help']) == 0\n"
        f"    print(name, set({sorted(HEAVY)!r}) & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines() == [f"{name} set()" for name in COMMANDS]


@pytest.mark.parametrize("name", COMMANDS)
def test_static_help_line_is_the_first_line_of_the_command(name):
    command = application.get_command(click.Context(application), name)
    line = next(section[name] for section in SECTIONS.values() if name in section)
    assert command.name == name
    assert command.help.split("\n", 1)[0] == line


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name):
    command = application.get_command(click.Context(application), name)
    options = [item for item in command.params if isinstance(item, click.Option)]
    assert [item.name for item in options if not item.help] == []
    assert {"traceback", "color", "no_progress"} <= {item.name for item in options}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_teaches_with_examples(name, capsys):
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out.split("Examples:\n")[1]
    assert f"graphopt {name} " in text.replace("\n", " ")


PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


def test_the_page_on_the_command_line_shows_an_error_as_it_is(capsys):
    line, shown = re.search(r"```console\n\$ graphopt (.*)\n((?s:.*?))```", PAGE).groups()
    assert main(line.split()) == 2
    assert capsys.readouterr().out == shown


def test_the_page_on_the_command_line_names_every_command():
    rows = [line.split(" | ")[0] for line in PAGE.splitlines() if line.startswith("| `")]
    assert set(COMMANDS) <= {word for row in rows for word in re.findall(r"`(\w+)", row)}


def test_threads_are_as_many_as_a_target_may_ask_for():
    allowed = target_schema()["properties"]["runtime"]["properties"]["threads"]
    assert allowed["maximum"] == THREADS.max


def test_every_error_code_has_a_page_and_every_page_a_code():
    assert set(error_codes()) == set(error_classes()) | {UnexpectedError.code}
    for code in error_codes():
        page = error_page(code)
        assert page.startswith(f"# {code}: ")
        assert "\n## What to do\n" in page


class Ends(LazyGroup):
    """A group whose one command ends in the way a test wants."""

    def __init__(self, end):
        super().__init__(sections={"Test": {"end": "End."}}, name="graphopt")
        self.end = end

    def get_command(self, ctx, cmd_name):
        return click.Command("end", callback=self.end)


def ending(monkeypatch, end):
    monkeypatch.setattr(cli_main, "application", Ends(end))
    return main(["end"])


def raising(error):
    def end():
        raise error

    return end


@pytest.mark.parametrize(("code", "kind"), sorted(error_classes().items()))
def test_exit_status_is_that_of_the_error(monkeypatch, capsys, code, kind):
    class Failure(kind):
        def __init__(self):
            GraphoptError.__init__(self, "it is so", where="here", why="because", hint="do that")

    assert ending(monkeypatch, raising(Failure())) == kind.exit_code
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == (
        f"error[{code}]: it is so\n  where: here\n  why: because\n\nhint: do that\n"
    )


def test_status_that_a_command_returns_is_the_exit_status(monkeypatch):
    assert ending(monkeypatch, lambda: 1) == 1
    assert ending(monkeypatch, lambda: None) == 0


def test_interrupt_is_one_line_and_130(monkeypatch, capsys):
    assert ending(monkeypatch, raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


def test_unforeseen_error_is_a_bug_with_a_hint(monkeypatch, capsys):
    assert ending(monkeypatch, raising(ZeroDivisionError("division by zero"))) == 3
    error = capsys.readouterr().err
    assert error.startswith("error[G900]: unexpected ZeroDivisionError\n  why: division by zero\n")
    assert "Traceback" not in error


def test_full_disk_is_no_bug():
    error = as_graphopt_error(OSError(28, "No space left on device", "/out/model.onnx"))
    assert isinstance(error, OutputError)
    assert error.where == "/out/model.onnx"
    assert isinstance(as_graphopt_error(OSError(5, "Input/output error")), UnexpectedError)


def test_traceback_only_when_asked(capsys):
    assert main(["optimise"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert main(["optimise", "--traceback"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Traceback")
    assert "error[G101]: unknown command `optimise`" in error


def test_json_error_is_one_document_on_standard_output(capsys):
    assert main(["passes", "--jsn", "--json"]) == 2
    output = capsys.readouterr()
    assert output.err == ""
    document = json.loads(output.out)
    assert document["schema_version"] == 1
    assert document["error"]["code"] == "G101"
    assert document["error"]["hint"] == "did you mean `--json`?"


def test_json_result_has_a_version_and_no_infinities(capsys):
    document = {"a": float("inf"), "b": [float("nan"), 1.5], "c": {"d": True}}
    print_result(Settings(json=True), text="never", document=document)
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found == {"schema_version": 1, "a": None, "b": [None, 1.5], "c": {"d": True}}


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ([], {}, Settings()),
        (["--json", "--traceback", "--no-progress"], {}, Settings(json=True, traceback=True, progress=False)),
        (["--", "--json"], {}, Settings()),
        (["--color", "always"], {"NO_COLOR": "1"}, Settings(color="always")),
        (["--color=never"], {}, Settings(color="never")),
        ([], {"NO_COLOR": "1"}, Settings(color="never")),
        ([], {"NO_COLOR": ""}, Settings()),
        ([], {"TERM": "dumb"}, Settings(color="never")),
        ([], {"GRAPHOPT_NO_PROGRESS": "1"}, Settings(progress=False)),
    ],
)  # fmt: skip
def test_settings(arguments, environment, expected):
    found = Settings.read(arguments, environment)
    assert found.arguments == tuple(arguments)
    assert replace(found, arguments=()) == expected


def test_colour_never_changes_the_words(capsys):
    main(["optimise"])
    plain = capsys.readouterr().err
    main(["optimise", "--color", "always"])
    coloured = capsys.readouterr().err
    assert coloured != plain
    assert click.unstyle(coloured) == plain


def test_no_command_shows_help_and_fails(capsys):
    assert main([]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("Usage: graphopt")


def test_module_and_script_are_the_same():
    done = subprocess.run(
        [sys.executable, "-m", "graphopt", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("graphopt ")


def test_a_name_that_the_terminal_cannot_say(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "graphopt", "inspect", "mod\u00e8le.onnx"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 2
    assert "mod\\xe8le.onnx` does not exist" in done.stderr


def test_reader_that_goes_away_is_no_error():
    # `head` has closed the pipe before the second process writes.
    line = f"({sys.executable} -c 'import time; time.sleep(1)'; {sys.executable} -m graphopt explain G102; echo $? >&2) | true"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.stderr == "141\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no disk that is always full")  # noqa: PTH110
@pytest.mark.parametrize("words", [["passes"], ["passes", "--json"], ["explain", "G999", "--json"]])
def test_a_full_disk_below_the_output_is_not_an_answer(words):
    """Status 1 would mean: it ran, and the answer is no."""
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-m", "graphopt", *words],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error[G1")
    assert "Traceback" not in done.stderr


def test_an_error_that_nobody_can_be_told_of_keeps_its_status():
    with open("/dev/full", "w") as full:  # noqa: PTH123
        words = [sys.executable, "-m", "graphopt", "explain", "G999"]
        assert subprocess.run(words, stderr=full, check=False).returncode == 2


def test_who_closes_the_output_gets_the_status():
    line = f"{sys.executable} -m graphopt passes >&-; echo $? >&2"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.stderr == "0\n"


def in_shell(line):
    line = line.replace("graphopt", f"{sys.executable} -m graphopt")
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)


LATE = f"{sys.executable} -c 'import time; time.sleep(1)'"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        # Nobody reads the error, which keeps its status: 1 would say that the answer is no.
        (f"({LATE}; graphopt optimise --json; echo $? >&2) | true", "error[G101]: unknown command `optimise`\n\nhint: did you mean `optimize`?\n2\n"),
        (f"({LATE}; graphopt optimise 2>&1; echo $? >&3) 3>&2 | true", "2\n"),
        ("graphopt optimise 2>&-; echo $? >&2", "2\n"),
        ("graphopt optimise 2>/dev/full; echo $? >&2", "2\n"),
        # A result that was not written is no result.
        ("graphopt explain G102 >/dev/full; echo $? >&2", "error[G105]: cannot write: no space left on device\n2\n"),
        ("graphopt explain G102 --json >/dev/full; echo $? >&2", "error[G105]: cannot write: no space left on device\n2\n"),
        # Nobody wants to see one.
        ("graphopt explain G102 >&-; echo $? >&2", "0\n"),
        ("graphopt explain G102 --json <&- >&-; echo $? >&2", "0\n"),
    ],
)  # fmt: skip
def test_streams_that_take_nothing(line, expected):
    done = in_shell(line)
    assert done.stderr == expected
    assert done.stdout == ""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_unwind(tmp_path, number, status):
    script = (
        "import sys, time, click\nfrom graphopt.cli import main as m\n"
        "@click.command()\ndef end():\n"
        "    try:\n        print('ready', flush=True)\n"
        "        while True:\n            time.sleep(0.05)\n"
        f"    finally:\n        open({str(tmp_path / 'cleaned')!r}, 'w').close()\n"
        "m.application.get_command = lambda *_: end\nsys.exit(m.main(['doctor']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, number)
        _, error = process.communicate(timeout=30)
    assert process.returncode == status
    assert (tmp_path / "cleaned").exists()
    assert "Traceback" not in error


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_names_the_variable(capsys, shell):
    assert main(["completion", shell]) == 0
    assert f"_GRAPHOPT_COMPLETE={shell}_complete" in capsys.readouterr().out


def test_shell_completes_commands_and_passes(monkeypatch, capsys):
    monkeypatch.setenv("_GRAPHOPT_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "graphopt opt")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert main([]) == 0
    assert capsys.readouterr().out == "plain,optimize\n"
