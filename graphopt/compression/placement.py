"""Where quantizers stand, by target: each runtime fuses other patterns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graphopt.compression.boundary_plan import plan_everything, plan_operands
from graphopt.compression.integer_plan import IntegerPlan, PlanQuestion
from graphopt.compression.kernel_plan import plan_kernels

__all__ = ["PLACEMENTS", "Placement", "plan_integers"]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What a runtime wants of quantized models; the reasons stand in `docs/quantization.md`.

    Attributes:
        name: As in options and target files.
        rule: Quantizers stand around operators with integer ``kernels``, before ``operands``,
            before operands of ``sums`` too, or around ``everything``.
        activation: Integer type of values, where neither user nor target says another.
        weight: Integer type of weights, likewise.
        symmetric: The zero point of values is the middle of their type.
        integer_bias: Biases are 32-bit integers; otherwise they stay in float.
        per_channel: Operators whose weights have a scale for each output channel; ``None``: all.
        leaves_slow_layers: Convolutions whose integer kernel is no faster stay in float.
        integer_results: A ``Gemm`` is computed in integers only if its result is one, too; a
            ``MatMul`` never is.
    """

    name: str
    rule: Literal["kernels", "operands", "sums", "everything"] = "kernels"
    activation: str = "u8"
    weight: str = "s8"
    symmetric: bool = False
    integer_bias: bool = True
    per_channel: frozenset[str] | None = None
    leaves_slow_layers: bool = False
    integer_results: bool = False


PLACEMENTS = {
    placement.name: placement
    for placement in (
        Placement(name="x86-cpu", leaves_slow_layers=True),
        Placement(name="arm-cpu", activation="s8"),
        Placement(name="nnapi", per_channel=frozenset({"Conv"}), integer_results=True),
        Placement(
            name="tensorrt",
            rule="operands",
            activation="s8",
            symmetric=True,
            integer_bias=False,
        ),
        Placement(name="openvino", rule="sums", integer_bias=False),
        Placement(
            name="qnn-htp", rule="everything", per_channel=frozenset({"Conv", "ConvTranspose"})
        ),
    )
}


def plan_integers(question: PlanQuestion, placement: Placement) -> IntegerPlan:
    """Decide which values are carried as integers; nothing is changed.

    Args:
        question: The graph, and what is known of it.
        placement: What the runtime wants.
    """
    if placement.rule == "everything":
        return plan_everything(question)
    if placement.rule in ("operands", "sums"):
        return plan_operands(question, all_sums=placement.rule == "sums")
    return plan_kernels(
        question,
        leaves_slow_layers=placement.leaves_slow_layers,
        integer_results=placement.integer_results,
    )
