"""The public names are pinned: adding or removing one is a decision."""

import subprocess
import sys

import pytest

import graphopt

PUBLIC = [
    "Bundle",
    "GraphoptError",
    "Optimization",
    "Pass",
    "Pipeline",
    "Target",
    "__version__",
    "bench",
    "inspect",
    "load",
    "load_target",
    "optimize",
    "plan",
    "run_pipeline",
    "save",
    "validate",
    "verify",
]


def test_the_public_names_are_these():
    assert graphopt.__all__ == PUBLIC
    assert dir(graphopt) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_exists(name):
    assert getattr(graphopt, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute `nothing`"):
        graphopt.nothing  # noqa: B018


def test_importing_graphopt_is_light():
    code = "import graphopt, sys; print(*sorted({n.split('.')[0] for n in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"onnx", "onnx_ir", "onnxruntime", "numpy", "torch", "rich"}.isdisjoint(loaded)
