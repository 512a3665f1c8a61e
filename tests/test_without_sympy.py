"""onnx-ir is imported without sympy, and nobody can tell but by the time that it takes."""

import subprocess
import sys

import pytest

RUN = "import sys, graphopt, onnx_ir as ir; "


def result(program: str) -> str:
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (RUN + "print('sympy' in sys.modules)", "False"),
        (RUN + "print(ir.SymbolicDim('n') + 1, 'sympy' in sys.modules)", "n + 1 True"),
        (RUN + "print(ir.SymbolicDim('2*n').evaluate({'n': 3}))", "6"),
        (RUN + "import sympy; print(sympy.Symbol('n') + 1)", "n + 1"),
        (RUN + "import sympy.core; print(sympy.core.Symbol('n'))", "n"),
        ("import sympy, graphopt, onnx_ir as ir; print(ir.SymbolicDim('n') + 1)", "n + 1"),
        ("import onnx_ir as ir, graphopt; print(ir.SymbolicDim('n') + 1)", "n + 1"),
        (RUN + "import importlib.resources as r; print(r.files('onnx_ir').name)", "onnx_ir"),
    ],
)
def test_without_sympy(program, expected):
    assert result(program) == expected
