"""The simplifier onnxsim, as a pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.rewrite import Contract, Rounding
from graphopt.runtime.foreign_tool import ForeignTool

__all__ = ["ExternalOnnxsim"]


@dataclass(frozen=True, kw_only=True)
class ExternalOnnxsim(ForeignTool):
    """Run the simplifier onnxsim, and keep what it did where it is right.

    What it does
        Runs `onnxsim MODEL OUT` with its default settings, and takes over the result.

    When it refuses
        Never: which places it declined is not known. Where it fails, takes too long or writes a
        model that is wrong, it is rolled back, with the reason and a reproducer in the ledger.

    What it keeps
        Inputs and outputs, their names, order, types and shapes, and what the model computes up to
        rounding: not as the tool promises, but as measured afterwards.

    Cost
        That of the tool, in a process of its own: at most `timeout_s` seconds and `memory_mb` MB.
        The model is written and read once more.

    Example
        before  (float[N] x) => (float[N] z) { y = Identity(x)  z = Relu(y) }
        after   (float[N] x) => (float[N] z) { z = Relu(x) }

    References
        https://github.com/onnxsim/onnxsim
    """

    name: ClassVar[str] = "external-onnxsim"
    contract: ClassVar[Contract] = Contract(
        numerics=Rounding(1e-4, "constants folded and layers merged in another order"),
        is_idempotent=False,
    )
    tool: ClassVar[str] = "onnxsim"
    package: ClassVar[str] = "onnxsim"
