"""Every ``$ graphopt ...`` in the Markdown files here: exit status, output and errors, word for word.

The commands of one heading run in one folder, beside the files of `cli_inputs`. ``$ ls`` shows what
they left behind. ``pytest --update-snapshots`` rewrites the files.
"""

import importlib.util
import re
import shlex
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from graphopt import __version__
from graphopt.cli.main import main

HERE = Path(__file__).parent
BLOCK = re.compile(r"````console\n(.*?)````", re.DOTALL)
BLOCK_OR_HEADING = re.compile(r"(?ms)````console\n.*?````|^(?=#{1,2} )")

# What differs from run to run or from machine to machine; words around it stay.
VARIABLE = (
    (re.compile(r"\b\d+(\.\d+)? (ms|s)\b"), r"[TIME] \2"),
    (re.compile(r"(?m)  \d+\.\d\d$"), "  [S]"),
    (re.compile(r"(\d+\.\d{3})\d{6,}"), r"\1..."),
    (re.compile(r"(?<![.\d])\b(?=\d*[a-f])[0-9a-f]{12,64}\b"), "[DIGEST]"),
    (re.compile(re.escape(__version__) + r"\b"), "[VERSION]"),
)


def sections():
    for path in sorted(HERE.glob("*.md")):
        for part in parts(path.read_text(encoding="utf-8")):
            if BLOCK.search(part):
                title = title_of(part)
                yield pytest.param(path, title, id=f"{path.stem}-{title}")


def parts(text):
    """Cut a page at its headings; what looks like one in an output is none."""
    ends = [match.start() for match in BLOCK_OR_HEADING.finditer(text) if not match[0]]
    return [text[start:end] for start, end in pairwise([0, *ends, len(text)])]


def title_of(part):
    return part.split("\n", 1)[0].lstrip("# ")


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("cli_inputs", HERE / "cli_inputs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("inputs")
    module.write_inputs(folder)
    return folder


@pytest.mark.parametrize(("path", "title"), list(sections()))
def test_snapshot(*, path, title, inputs, tmp_path, monkeypatch, capfd, request):
    folder = tmp_path / "work"
    shutil.copytree(inputs, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "100")
    before = {item.name for item in folder.iterdir()}
    section = find_section(path, title)
    found = BLOCK.sub(lambda block: run_block(block[1], folder, before, capfd), section)
    if request.config.getoption("--update-snapshots"):
        whole = path.read_text(encoding="utf-8")
        path.write_text(whole.replace(section, found), encoding="utf-8")
        return
    assert found == section


def find_section(path, title):
    text = path.read_text(encoding="utf-8")
    return next(part for part in parts(text) if title_of(part) == title)


def run_block(block, folder, before, capfd):
    commands = re.findall(r"(?m)^\$ (.*)$", block)
    return (
        "````console\n"
        + "".join(run_line(line, folder, before, capfd) for line in commands)
        + "````"
    )


def run_line(line, folder, before, capfd):
    program, *words = shlex.split(line)
    if program == "ls":
        left = sorted(item.name for item in folder.iterdir() if item.name not in before)
        return f"$ {line}\n" + "".join(f"{name}\n" for name in left)
    assert program == "graphopt", line
    capfd.readouterr()
    status = main(words)
    captured = capfd.readouterr()
    text = f"$ {line}\nexit status: {status}\n"
    for label, stream in (("output", captured.out), ("errors", captured.err)):
        if stream:
            text += f"----- {label}\n{normal(stream, folder)}"
    return text.rstrip("\n") + "\n"


def normal(text, folder):
    text = text.replace(str(folder), "[DIR]").replace(str(folder.parent), "[TMP]")
    for pattern, name in VARIABLE:
        text = pattern.sub(name, text)
    return text


def test_every_block_is_run():
    for path in HERE.glob("*.md"):
        text = path.read_text(encoding="utf-8")
        titles = {param.values[1] for param in sections() if param.values[0] == path}
        found = sum(len(BLOCK.findall(find_section(path, title))) for title in titles)
        assert found == len(BLOCK.findall(text)), path.name
        assert all(block.startswith("$ ") for block in BLOCK.findall(text)), path.name


def test_a_changed_word_is_noticed(tmp_path, capfd):
    block = "$ graphopt optimise\nexit status: 2\n"
    found = run_block(block, tmp_path, set(), capfd)
    assert "did you mean `optimize`?" in found
    assert found != f"````console\n{block}````"
