"""ONNX Runtime's transformer optimizer, as a pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.rewrite import Contract, Rounding, option
from graphopt.runtime.foreign_tool import ForeignTool

__all__ = ["ExternalOrtTransformers"]


@dataclass(frozen=True, kw_only=True)
class ExternalOrtTransformers(ForeignTool):
    """Run ONNX Runtime's transformer optimizer, and keep what it did where it is right.

    What it does
        Runs `python -m onnxruntime.transformers.optimizer` for `model_type`, and takes over the
        result, which holds operators of ONNX Runtime. It needs torch.

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
        before  (float[N, 4] x) => (float[N, 4] y) <float r = {1.4142135}, float o = {1.0}, float h = {0.5}>
                { d = Div(x, r)  e = Erf(d)  s = Add(e, o)  p = Mul(x, s)  y = Mul(p, h) }
        after   (float[N, 4] x) => (float[N, 4] y) { y = Gelu<approximate = "none">(x) }

    References
        ONNX Runtime, "Transformers Optimizer"
    """  # noqa: E501 - a line of ONNX text

    name: ClassVar[str] = "external-ort-transformers"
    contract: ClassVar[Contract] = Contract(
        numerics=Rounding(1e-4, "constants folded and layers merged in another order"),
        is_idempotent=False,
    )
    tool: ClassVar[str] = "ort-transformers"
    package: ClassVar[str] = "ONNX Runtime's transformer optimizer"

    model_type: str = option("bert", help="architecture, as the tool names it", unit="name")
    num_heads: int = option(0, help="heads of attention; 0: as found", minimum=0)
    hidden_size: int = option(0, help="width of the stream; 0: as found", minimum=0)

    def tool_options(self) -> dict[str, Any]:
        """Return the architecture."""
        return {
            "model_type": self.model_type,
            "num_heads": self.num_heads,
            "hidden_size": self.hidden_size,
        }
