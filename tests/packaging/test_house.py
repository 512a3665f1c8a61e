"""The rules of the house: which room imports which, how long files and functions may be."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2]
FILES = sorted((SOURCE / "graphopt").rglob("*.py"))
MAXIMUM_FILE_LINES, MAXIMUM_FUNCTION_LINES = 400, 50
CROSS_CUTTING_NAMES = {"utils.py", "util.py", "common.py", "helpers.py", "misc.py"}
# The command line prints; so does the validator that stands alone in every bundle.
PRINTS = ("graphopt/cli/", "graphopt/deploy/validate.py")


def functions(tree):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def long_functions(text):
    """Return the names of functions whose code, the docstring aside, exceeds the limit."""
    found = []
    for function in functions(ast.parse(text)):
        first = function.body[0]
        documented = ast.get_docstring(function) is not None
        docstring_lines = first.end_lineno - first.lineno + 1 if documented else 0
        lines = function.end_lineno - function.lineno + 1 - docstring_lines
        if lines > MAXIMUM_FUNCTION_LINES:
            found.append(f"{function.name} ({lines} lines)")
    return found


def prints(text):
    return [
        node.lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "print"
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_file_keeps_its_shape(path):
    text, name = path.read_text(encoding="utf-8"), path.relative_to(SOURCE).as_posix()
    assert len(text.splitlines()) <= MAXIMUM_FILE_LINES
    assert long_functions(text) == []
    assert path.name not in CROSS_CUTTING_NAMES
    assert name.startswith(PRINTS) or prints(text) == []


def test_shape_checks_notice_what_they_look_for():
    body = "".join(f"    x = {number}\n" for number in range(MAXIMUM_FUNCTION_LINES))
    assert long_functions(f"def f():\n{body}") == ["f (51 lines)"]
    assert long_functions(f'def f():\n    """Text."""\n{body[10:]}') == []
    assert prints("def f():\n    print(1)") == [2]


def test_rooms_import_downwards_only():
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    # What is judged is the source, also where the installed wheel is what the tests import.
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run(
        command, cwd=SOURCE, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
