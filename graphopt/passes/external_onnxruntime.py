"""ONNX Runtime's offline optimization, as a pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.rewrite import Contract, Rounding, option
from graphopt.runtime.foreign_tool import ForeignTool

__all__ = ["ExternalOnnxruntime"]


@dataclass(frozen=True, kw_only=True)
class ExternalOnnxruntime(ForeignTool):
    """Let ONNX Runtime optimize the graph, and keep what it wrote where it is right.

    What it does
        Loads a session at `level` that saves its graph, and takes over the result. Above `basic`
        it holds operators of ONNX Runtime, and is for this runtime alone; at `all` also layouts
        for the processor that it was made on.

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
        ONNX Runtime, "Graph Optimizations in ONNX Runtime": offline mode
    """

    name: ClassVar[str] = "external-onnxruntime"
    contract: ClassVar[Contract] = Contract(
        numerics=Rounding(1e-4, "constants folded and layers merged in another order"),
        is_idempotent=False,
    )
    tool: ClassVar[str] = "onnxruntime"
    package: ClassVar[str] = "onnxruntime"

    level: str = option(
        "basic", help="how far it may go", choices=("basic", "extended", "layout", "all")
    )

    def tool_options(self) -> dict[str, Any]:
        """Return the level."""
        return {"level": self.level}
