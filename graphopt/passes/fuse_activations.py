"""Fusing the arithmetic of activation functions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import onnx_ir as ir

from graphopt.analysis import Operators
from graphopt.analysis.contrib import is_supported_type
from graphopt.analysis.growing_shapes import GrowingShapes
from graphopt.analysis.operands import operand
from graphopt.analysis.orphans import orphans
from graphopt.analysis.polynomials import is_close, polynomial_of
from graphopt.analysis.shape_proofs import is_same_rank
from graphopt.ir import constant_array, graphs
from graphopt.rewrite import Contract, Editor, Facts, Needs, Pass, Rounding, ShapeTable, TargetFacts

__all__ = ["FuseActivations"]

_STEPS = 3
_MOST_READERS = 4
_ARITHMETIC = frozenset({"Add", "Div", "Mul"})
_SINCE = {"HardSigmoid": 6, "HardSwish": 14, "Mish": 18}
_LIMITS_ARE_INPUTS_SINCE = 11
_SLOPE, _OFFSET = 1 / 6, 0.5


class _Activation(NamedTuple):
    """A place: what is read, what is computed of it, and how to say so in one operator."""

    op_type: str
    source: ir.Value
    result: ir.Value
    attributes: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class FuseActivations(Pass):
    """Turn the arithmetic of HardSigmoid, HardSwish and Mish into one operator.

    What it does
        `clip(a x + b, 0, h) / h` becomes HardSigmoid, `x clip(x + 3, 0, 6) / 6` in any order, or
        `x` times such a HardSigmoid, HardSwish, and `x tanh(softplus(x))` Mish. A Softplus written
        out stays: it runs four times as fast as the operator. Functions of the model are left
        alone.

    When it refuses
        `opset-too-low`   the opset has no such operator: HardSwish before 14, Mish before 18.
        `element-type`    the elements are not float, which is what kernels exist for.
        `higher-rank`     a constant has more dimensions than what is read, and gives them to the
                          result; or nobody knows.
        `read-elsewhere`  what is computed on the way is read by others too.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes.

    Cost
        Time O(nodes), after shape inference; memory O(1). No weight is read.

    Example
        before  (float[N] x) => (float[N] z) <float three = {3}, float zero = {0}, float six = {6}> { a = Add(x, three)  c = Clip(a, zero, six)  p = Mul(x, c)  z = Div(p, six) }
        after   (float[N] x) => (float[N] z) <float three = {3}, float zero = {0}, float six = {6}> { z = HardSwish(x) }

    References
        Howard et al., Searching for MobileNetV3, arXiv 1905.02244, section 5.2; Misra, Mish,
        arXiv 1908.08681; ONNX HardSigmoid, HardSwish (opset 14), Mish (opset 18).
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "fuse-activations"
    contract: ClassVar[Contract] = Contract(
        numerics=Rounding(1e-5, "factors in another order: 2e-7 measured for one"),
        is_idempotent=True,
    )
    anchors: ClassVar[frozenset[str] | None] = frozenset({"Clip", "HardSigmoid", "Softplus"})

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes, which tell the element types."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Fuse around every Clip, HardSigmoid and Softplus."""
        operators, shapes = Operators(model), GrowingShapes(facts.shapes)
        for graph in graphs(model):
            pending = [] if operators.is_in_function(graph) else list(graph)
            for node in pending:
                found = None if node.domain or node.graph is None else _find(node, operators)
                if found is None:
                    continue
                slug = _refusal(found, node, operators, shapes, facts.target)
                if slug is None:
                    _fuse(found, operators, shapes, edit)
                else:
                    edit.refuse(node, slug)


def _refusal(
    found: _Activation, node: ir.Node, operators: Operators, shapes: ShapeTable, target: TargetFacts
) -> str | None:
    if (operators.version(node) or 1) < _SINCE[found.op_type]:
        return "opset-too-low"
    if not is_supported_type(node.outputs[0], shapes, target):
        return "element-type"
    if not is_same_rank(found.source, found.result, shapes):
        return "higher-rank"
    return None if node in _replaced(found, operators) else "read-elsewhere"


def _replaced(found: _Activation, operators: Operators) -> list[ir.Node]:
    root = found.result.producer()
    assert root is not None
    return orphans([root], [found.source], operators)


def _fuse(found: _Activation, operators: Operators, shapes: GrowingShapes, edit: Editor) -> None:
    root = found.result.producer()
    assert root is not None
    with edit.rewrite(root, because=f"{found.op_type} in arithmetic") as change:
        fused = change.node(found.op_type, [found.source], attributes=found.attributes)
        change.replace(found.result, fused)
        shapes.alias(fused, found.result)
        for node in _replaced(found, operators):
            change.remove(node)


def _find(node: ir.Node, operators: Operators) -> _Activation | None:
    """Return the activation that ``node`` is the middle of."""
    if node.op_type == "Clip":
        return _find_hard(node, operators)
    if node.op_type == "HardSigmoid":
        return _find_swish_of_sigmoid(node)
    return _find_mish(node) if node.op_type == "Softplus" else None


def _find_hard(clip: ir.Node, operators: Operators) -> _Activation | None:
    limits = _limits(clip, operators.version(clip) or 1)
    if limits is None or limits[0] != 0 or not 0 < limits[1] < math.inf:
        return None
    result, high = clip.outputs[0], limits[1]
    for source, slope, offset in _linear_arguments(clip.inputs[0]):
        for value in _readers(result):
            product = polynomial_of(value, [source, result])
            factor = product.get((1, 1), 0.0) if product is not None else 0.0
            is_swish = math.isclose(factor * high, 1.0, rel_tol=1e-6) and is_close(
                {(0,): factor * offset, (1,): factor * slope}, {(0,): _OFFSET, (1,): _SLOPE}
            )
            if is_swish and product == {(1, 1): factor}:
                return _Activation("HardSwish", source, value, {})
        for value in (result, *_readers(result)):
            scaled = polynomial_of(value, [result])
            factor = scaled.get((1,), 0.0) if scaled is not None and len(scaled) == 1 else 0.0
            if math.isclose(factor * high, 1.0, rel_tol=1e-6):
                attributes = {"alpha": factor * slope, "beta": factor * offset}
                return _Activation("HardSigmoid", source, value, attributes)
    return None


def _limits(clip: ir.Node, version: int) -> tuple[float, float] | None:
    if version < _LIMITS_ARE_INPUTS_SINCE:
        given = [clip.attributes.get(name) for name in ("min", "max")]
        found = [one.as_float() for one in given if one is not None and not one.is_ref()]
        return (found[0], found[1]) if len(found) == len(given) else None
    arrays = [constant_array(operand(clip, index), 1) for index in (1, 2)]
    numbers = [float(one.reshape(-1)[0]) for one in arrays if one is not None and one.size]
    return (numbers[0], numbers[1]) if len(numbers) == len(arrays) else None


def _linear_arguments(argument: ir.Value | None) -> Iterator[tuple[ir.Value, float, float]]:
    """Yield values that ``argument`` is ``slope * value + offset`` of, the nearest first."""
    layer = [argument] if argument is not None else []
    for _ in range(_STEPS):
        producers = [value.producer() for value in layer]
        arithmetic = [one for one in producers if one is not None and one.op_type in _ARITHMETIC]
        layer = [value for one in arithmetic for value in one.inputs if value is not None]
        for value in layer:
            found = polynomial_of(argument, [value]) if argument is not None else None
            if found is not None and found.keys() == {(0,), (1,)}:
                yield value, found[1,], found[0,]


def _readers(value: ir.Value) -> list[ir.Value]:
    """Return what arithmetic computes of ``value`` in a few steps, the nearest first."""
    layer, found = [value], []
    for _ in range(_STEPS):
        users = {user: None for one in layer for user, _ in one.uses()}
        layer = [user.outputs[0] for user in users if user.op_type in _ARITHMETIC][:_MOST_READERS]
        found += layer
    return found


def _find_swish_of_sigmoid(sigmoid: ir.Node) -> _Activation | None:
    given = {"alpha": 0.2, "beta": 0.5}
    for name, attribute in sigmoid.attributes.items():
        if attribute.is_ref():
            return None
        given[name] = attribute.as_float()
    source, result = sigmoid.inputs[0], sigmoid.outputs[0]
    if source is None or not is_close(
        {(0,): given["beta"], (1,): given["alpha"]}, {(0,): _OFFSET, (1,): _SLOPE}
    ):
        return None
    return _product("HardSwish", source, result)


def _find_mish(softplus: ir.Node) -> _Activation | None:
    source = softplus.inputs[0]
    for user, _ in softplus.outputs[0].uses():
        if (user.domain, user.op_type) == ("", "Tanh") and source is not None:
            return _product("Mish", source, user.outputs[0])
    return None


def _product(op_type: str, source: ir.Value, factor: ir.Value) -> _Activation | None:
    """Return the product of both, if that is computed."""
    for user, index in factor.uses():
        if (user.domain, user.op_type) == ("", "Mul") and user.inputs[1 - index] is source:
            return _Activation(op_type, source, user.outputs[0], {})
    return None
