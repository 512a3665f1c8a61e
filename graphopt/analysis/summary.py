"""A model in a few figures, for reports and before/after tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from graphopt.analysis.macs import count_macs
from graphopt.analysis.operators import operator_counts
from graphopt.analysis.quantized_forms import quantized_forms
from graphopt.ir import initializer_tensors, tensor_dims
from graphopt.rewrite import ShapeTable

__all__ = ["ModelSummary", "PortSummary", "summarise"]


@dataclass(frozen=True)
class PortSummary:
    """One input or output of a model.

    Attributes:
        name: Its public name.
        type: ONNX name of the type, for example ``FLOAT`` or ``Sequence(Tensor(FLOAT))``.
        dims: Sizes and symbols, ``None`` for an unnamed dimension; ``None`` for unknown rank.
    """

    name: str
    type: str
    dims: tuple[int | str | None, ...] | None


@dataclass(frozen=True)
class ModelSummary:
    """A model in figures.

    Attributes:
        nodes: Nodes of all graphs, subgraphs and functions included.
        parameters: Elements of all initializers; a tensor shared by several counts once.
        weight_bytes: Their bytes.
        macs: Multiply-accumulate operations of one run, or ``None`` where shapes are unknown.
        operators: Nodes by operator, the most frequent first.
        quantized: Layers with weights of integers, by form (`quantized_forms`).
        opsets: Imported version by domain.
        inputs: Inputs, those with a default included.
        outputs: Outputs.
    """

    nodes: int
    parameters: int
    weight_bytes: int
    macs: int | None
    operators: dict[str, int]
    quantized: dict[str, int]
    opsets: dict[str, int]
    inputs: tuple[PortSummary, ...]
    outputs: tuple[PortSummary, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        ports = ("inputs", "outputs")
        plain = {key: value for key, value in vars(self).items() if key not in ports}
        return plain | {key: [vars(port) for port in getattr(self, key)] for key in ports}


def summarise(
    model: ir.Model,
    bindings: Mapping[str, int] | None = None,
    *,
    shapes: ShapeTable | None = None,
) -> ModelSummary:
    """Summarise ``model``.

    Args:
        model: The model; no large weight is read.
        bindings: Sizes of symbolic dimensions for `ModelSummary.macs`; 1 where not given.
        shapes: Those of ``model``, where they are known already.
    """
    operators = operator_counts(model)
    distinct = {id(tensor): tensor for _, tensor in initializer_tensors(model)}
    return ModelSummary(
        nodes=sum(operators.values()),
        parameters=sum(math.prod(tensor_dims(tensor)) for tensor in distinct.values()),
        weight_bytes=sum(tensor.nbytes for tensor in distinct.values()),
        macs=count_macs(model, shapes, bindings),
        operators=operators,
        quantized=quantized_forms(model),
        opsets=dict(model.opset_imports),
        inputs=tuple(_port(value) for value in model.graph.inputs),
        outputs=tuple(_port(value) for value in model.graph.outputs),
    )


def _port(value: ir.Value) -> PortSummary:
    plain_tensor = isinstance(value.type, ir.TensorType)
    kind = value.type.dtype.name if plain_tensor and value.type is not None else str(value.type)
    dims = None
    if value.shape is not None:
        dims = tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)
    return PortSummary(value.name or "", kind, dims)
