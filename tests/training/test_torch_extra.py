"""Where torch is absent: nothing needs it until something is computed, and then an error says so."""

import subprocess
import sys

import pytest

from graphopt.errors import MissingExtraError
from graphopt.ir import from_text
from graphopt.training import TorchModel, require_torch, torch_extra

MODEL = "(float[N,2] x) => (float[N,2] y) { y = Relu(x) }"


@pytest.fixture
def no_torch(monkeypatch):
    monkeypatch.setattr(torch_extra, "has_torch", lambda: False)


@pytest.mark.usefixtures("no_torch")
def test_an_error_names_the_extra():
    with pytest.raises(MissingExtraError, match=r"pass `distill` needs torch") as caught:
        require_torch("pass `distill`")
    assert "graphopt[torch]" in caught.value.hint


@pytest.mark.usefixtures("no_torch")
def test_a_model_cannot_be_computed_without():
    with pytest.raises(MissingExtraError):
        TorchModel(from_text(MODEL))


def test_the_room_and_the_pass_are_imported_without_torch():
    code = (
        "import sys, graphopt.training, graphopt.passes.distill;"
        "print(sorted(n for n in sys.modules if n == 'torch' or 'training.operators.e' in n))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
