"""Every line of `docs/coming-from.md` has a command of ours, and it runs."""

import re
import shutil

import pytest
from coming_from import LINES, PAGE, command, needs_a_framework, run

from graphopt.demo import demo_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with all that the commands name."""
    folder, demo = tmp_path_factory.mktemp("coming"), demo_files()
    shutil.copy(demo.model, folder / "model.onnx")
    shutil.copy(demo.calibration, folder / "samples.npz")
    shutil.copy(demo.evaluation, folder / "labelled.npz")
    for text in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL):
        name = re.search(r'^name = "(.*)"$', text, re.MULTILINE)[1]
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return folder


def test_each_line_has_a_command():
    assert [line for line in LINES if not command(line)] == []
    assert len(LINES) >= 35


def test_commands(folder, monkeypatch, capfd):
    """One after the other: some read what the ones before wrote."""
    monkeypatch.chdir(folder)
    plain = [words for words in map(command, LINES) if not needs_a_framework(words)]
    assert "\n".join(fault for words in plain if (fault := run(words, capfd))) == ""


def test_what_is_excluded_is_there(folder):
    """A name that fits nothing would leave nothing alone, and nobody would see it."""
    names = set(re.findall(r'exclude=\["([^"*]*)"', PAGE))
    graph = (folder / "model.onnx").read_bytes()
    assert names
    assert all(name.encode() in graph for name in names)
