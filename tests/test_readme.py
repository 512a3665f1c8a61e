"""Every command and program of the README runs, and the figures' words are those it prints.

Figures differ from machine to machine, so numbers are compared as "there is one"; ``...`` stands for
any lines. ``pytest --update-snapshots`` rewrites the output that is shown whole.
"""

import re
import shlex
from pathlib import Path

import pytest

from graphopt.cli.main import main
from graphopt.runtime import cpu_features
from graphopt.targets import load_target

README = Path(__file__).parents[1] / "README.md"
CONSOLE = re.compile(r"````console\n(.*?)````", re.DOTALL)
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
NUMBER = re.compile(r"[-+]?\d[\d.,]*")
MEASURES = ("optimize",)
"""Commands whose outcome depends on what integers are worth on this machine, and on its peace."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


def commands(block):
    parts = re.split(r"(?m)^\$ ", block)[1:]
    return [tuple(part.partition("\n")[::2]) for part in parts]


def test_commands(folder, monkeypatch, capfd, request):
    monkeypatch.chdir(folder)
    text = README.read_text(encoding="utf-8")
    wrong = []
    for line, expected in [item for block in CONSOLE.findall(text) for item in commands(block)]:
        program, *words = shlex.split(line)
        assert program == "graphopt", line
        hurry = ["--latency", "2"] if words[0] == "optimize" else []
        capfd.readouterr()
        status = main([*words, *hurry])
        output = capfd.readouterr().out
        is_whole = "...\n" not in expected
        if is_whole and request.config.getoption("--update-snapshots"):
            text = text.replace(f"$ {line}\n{expected}", f"$ {line}\n{output}")
            README.write_text(text, encoding="utf-8")
        elif not is_as_written(words, status, expected, output):
            wrong.append(f"$ {line}\nexit status {status}\n{output}")
    assert not wrong, "\n".join(wrong)


def is_as_written(words, status, expected, output):
    if words[0] in MEASURES and (status == 1 or not has_fast_integers()):
        return status in {0, 1} and words[words.index("-o") + 1] in output
    return status == 0 and matches(expected, output)


def has_fast_integers():
    return bool({"avx_vnni", "avx512_vnni"} & cpu_features())


def matches(expected, output):
    lines = [re.escape(plain(line)) for line in expected.splitlines()]
    pattern = "".join(r"(.*\n)*?" if line == re.escape("...") else line + r"\n" for line in lines)
    return re.fullmatch(pattern, "".join(f"{plain(line)}\n" for line in output.splitlines()))


def plain(line):
    return " ".join(NUMBER.sub("#", line).split())


def test_the_limits_shown_are_those_of_the_target():
    # Numbers are compared as "there is one" above; these are no measurement.
    rows = r"(?m)^(m\w+) +(?:correctness|goal) +([\d.]+) "
    shown = re.findall(rows, README.read_text(encoding="utf-8"))
    assert {name: float(limit) for name, limit in shown} == load_target("cpu-int8").gates


def test_program(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main(["demo", "--files", "digits"]) == 0
    (program,) = PYTHON.findall(README.read_text(encoding="utf-8"))
    exec(compile(program, str(README), "exec"), {})  # noqa: S102 - our own page
    assert (folder / "digits.bundle" / "manifest.json").exists()
    assert capsys.readouterr().out


def test_a_wrong_word_is_noticed():
    assert matches("a 1.5 b\n...\nlast 3\n", "a 2 b\nany\nlast 4\n")
    assert not matches("a 1.5 b\n...\nlast 3\n", "a 2 c\nany\nlast 4\n")
    assert not matches("a 1\n", "a 1\nmore\n")


def test_length():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200


def test_links_lead_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
