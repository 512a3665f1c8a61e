"""`make new-pass` writes two files that load, run and keep the house's rules."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from goldens import check_golden, read_goldens, run_golden
from laws import SECTIONS, sections

from graphopt.ir import from_text, structure_digest
from graphopt.rewrite import Pass

TOOL = Path(__file__).parents[2] / "tools" / "new_pass.py"


@pytest.fixture
def load(monkeypatch):
    def load(path):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, path.stem, module)  # dataclasses look there
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def tool(load, tmp_path, monkeypatch):
    module = load(TOOL)
    for folder in ("graphopt/passes", "tests/passes"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


def test_writes_a_pass_that_runs_and_a_golden(tool, load, tmp_path):
    assert tool.main(["fold-transposes"]) == 0
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert written == {"graphopt/passes/fold_transposes.py", "tests/passes/fold_transposes.md"}
    made = load(tmp_path / "graphopt/passes/fold_transposes.py").FoldTransposes
    assert issubclass(made, Pass)
    assert str(made()) == "fold-transposes"
    assert tuple(sections(made)) == SECTIONS
    model = from_text("(float[N] x) => (float[N] y) { y = Relu(x) }")
    before = structure_digest(model)
    assert not made().call(model).modified
    assert structure_digest(model) == before


def test_golden_is_in_the_form_that_the_runner_reads(tool, tmp_path):
    tool.main(["collapse-chains"])  # a pass that exists, so that the runner finds it
    text = (tmp_path / "tests/passes/collapse_chains.md").read_text(encoding="utf-8")
    (golden,) = read_goldens(text)
    check_golden(golden, run_golden(golden))


@pytest.mark.parametrize("name", ["", "Fold", "fold", "fold_transposes", "fold-", "../x-y"])
def test_other_names_are_refused(tool, tmp_path, name, capsys):
    assert tool.main([name]) == 2
    assert "full words" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.*"))


def test_nothing_is_overwritten(tool, capsys):
    assert tool.main(["fold-transposes"]) == 0
    assert tool.main(["fold-transposes"]) == 2
    assert "fold_transposes.py exists" in capsys.readouterr().out


def test_a_check_of_no_pass_makes_no_environment(tmp_path):
    words = ["make", "-C", str(TOOL.parents[1]), "check", f"VENV={tmp_path / 'venv'}"]
    # What another make was told, this one would hear, too.
    environment = {
        key: text for key, text in os.environ.items() if key not in {"MAKEFLAGS", "PASS"}
    }
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: make check PASS=")
    assert not (tmp_path / "venv").exists()
