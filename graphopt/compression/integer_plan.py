"""What static quantization does to a graph: which values travel as integers, and between whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.compression.static_layers import Layer, LayerRefused
from graphopt.rewrite import ShapeTable

__all__ = ["TYPED_OPSET", "Carried", "ConstantOperand", "IntegerPlan", "PlanQuestion"]

TYPED_OPSET = 21
"""Since which opset `QuantizeLinear` names the type of its result."""

ConstantOperand: TypeAlias = tuple[ir.Node, int, npt.NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class PlanQuestion:
    """What a plan is made for.

    Attributes:
        graph: The main graph of a model.
        is_excluded: Tells which nodes stay in float.
        without_range: Values that cannot be quantized because their range is not known.
        absorbs_limits: A ``Relu`` or ``Clip`` behind an integer operator becomes the saturation
            of its quantizer. False where the zero point is fixed, since the integers then reach
            below 0.
        is_signed_and_typed: Values become signed 8-bit integers in an opset of at least
            `TYPED_OPSET`: ONNX Runtime 1.32 refuses quantizers that it moves itself.
        shapes: What is known of the values; ``None`` gives every form the benefit of the doubt.
    """

    graph: ir.Graph
    is_excluded: Callable[[ir.Node], bool]
    without_range: frozenset[ir.Value] = frozenset()
    absorbs_limits: bool = True
    is_signed_and_typed: bool = False
    shapes: ShapeTable | None = None


@dataclass(frozen=True)
class Carried:
    """A value that travels through a quantizer.

    Attributes:
        value: The value.
        like: The value whose range gives the parameters; another one behind operators that only
            move elements.
        source: What the quantizer reads: `value`, or what the limiting operator behind it reads.
        limiter: A ``Relu`` or ``Clip`` that the saturation of the quantizer stands for.
        readers: Who reads the quantized value, node and input; ``None`` for everybody.
    """

    value: ir.Value
    like: ir.Value
    source: ir.Value
    limiter: ir.Node | None
    readers: tuple[tuple[ir.Node, int], ...] | None


@dataclass
class IntegerPlan:
    """What static quantization does to one graph.

    Attributes:
        layers: Layers that compute in integers.
        carried: Quantized values, in the order in which they are computed.
        constants: Constant operands of integer operators: node, input, array.
        refused: Layers that stay in float, and why.
        averages: Integer operators that have their kernel in another form only.
    """

    layers: list[Layer] = field(default_factory=list)
    carried: list[Carried] = field(default_factory=list)
    constants: list[ConstantOperand] = field(default_factory=list)
    refused: list[tuple[ir.Node, LayerRefused]] = field(default_factory=list)
    averages: list[ir.Node] = field(default_factory=list)
