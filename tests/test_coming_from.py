"""Every command of ours in `docs/coming-from.md` runs."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from graphopt.cli.main import main
from graphopt.demo import demo_files

PAGE = Path(__file__).parents[1] / "docs" / "coming-from.md"
COMMANDS = re.findall(r"\| `(graphopt [^`]*)`(?: |$)", PAGE.read_text(encoding="utf-8"))
NEEDS_A_FRAMEWORK = ("export",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, demo = tmp_path_factory.mktemp("coming"), demo_files()
    shutil.copy(demo.model, folder / "model.onnx")
    shutil.copy(demo.calibration, folder / "samples.npz")
    shutil.copy(demo.evaluation, folder / "labelled.npz")
    return folder


def test_commands(folder, monkeypatch, capfd):
    """One after the other: some read what the ones before wrote."""
    monkeypatch.chdir(folder)
    wrong = []
    for text in COMMANDS:
        _, *words = shlex.split(text)
        if words[0] in NEEDS_A_FRAMEWORK:
            continue
        if words[0] == "optimize" and "--dry-run" not in words:
            words += ["--latency", "off"]  # nobody waits for times here
        status = main(words)
        said = capfd.readouterr()
        if status != 0:
            wrong.append(f"$ {text}\nexit status {status}\n{said.err}")
    assert not wrong, "\n".join(wrong)


def test_the_page_has_commands_for_all():
    assert len(COMMANDS) >= 18
