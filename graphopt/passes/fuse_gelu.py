"""Fusing the arithmetic of the Gaussian error linear unit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import onnx_ir as ir

from graphopt.analysis import Operators
from graphopt.analysis.contrib import CONTRIB_DOMAIN, import_contrib, is_supported_type
from graphopt.analysis.growing_shapes import GrowingShapes
from graphopt.analysis.orphans import orphans
from graphopt.analysis.polynomials import Polynomial, is_close, polynomial_of
from graphopt.analysis.shape_proofs import is_same_rank
from graphopt.ir import graphs
from graphopt.rewrite import (
    Contract,
    Editor,
    Facts,
    Needs,
    Pass,
    Rounding,
    ShapeTable,
    TargetFacts,
    option,
)

__all__ = ["FuseGelu"]

_STEPS_TO_RESULT = 4
_STEPS_TO_INPUT = 6
_MOST_READERS = 4
_ARITHMETIC = frozenset({"Add", "Mul", "Div"})
_STANDARD_SINCE = 20

_ARGUMENTS: dict[str, Polynomial] = {
    "Erf": {(1,): 1 / math.sqrt(2)},
    "Tanh": {(1,): math.sqrt(2 / math.pi), (3,): math.sqrt(2 / math.pi) * 0.044715},
}
_HALF: Polynomial = {(1, 0): 0.5, (1, 1): 0.5}  # x (1 + f) / 2
_PRODUCT: Polynomial = {(1, 1): 1.0}  # x f


class _Gelu(NamedTuple):
    """A place: what it reads, what it computes, and the function in the middle.

    Attributes:
        alpha: The factor before the argument of a Sigmoid.
    """

    source: ir.Value
    result: ir.Value
    function: ir.Node
    alpha: float = 1.0

    @property
    def is_quick(self) -> bool:
        """Whether the function is a Sigmoid."""
        return self.function.op_type == "Sigmoid"


@dataclass(frozen=True, kw_only=True)
class FuseGelu(Pass):
    """Turn the arithmetic of Gelu, exact or by tanh, into one operator.

    What it does
        Around each Erf and Tanh, multiplies out what is computed of one value: where it comes to
        `x (1 + erf(x / sqrt 2)) / 2` or `x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`, in
        any order and with the constants in any place, one Gelu takes its place. With `domain` at
        `contrib`, `x sigmoid(a x)` becomes QuickGelu. Functions of the model are left alone.

    When it refuses
        `opset-too-low`    the opset has no Gelu (before 20) or, in any, no QuickGelu, and `domain`
                           is not `contrib`.
        `element-type`     the elements are not float, which is what kernels exist for.
        `higher-rank`      a constant has more dimensions than what is read, and gives them to the
                           result; or nobody knows.
        `read-elsewhere`   what is computed on the way is read by others too.

    What it keeps
        The model's inputs and outputs, their names, order, types and shapes.

    Cost
        Time O(nodes), after shape inference; memory O(nodes). No weight is read.

    Example
        before  (float[N] x) => (float[N] z) <float s = {1.4142135}, float o = {1}, float h = {0.5}> { a = Div(x, s)  b = Erf(a)  c = Add(b, o)  d = Mul(x, c)  z = Mul(d, h) }
        after   (float[N] x) => (float[N] z) <float s = {1.4142135}, float o = {1}, float h = {0.5}> { z = Gelu<approximate="none">(x) }

    References
        Hendrycks and Gimpel, Gaussian error linear units, arXiv 1606.08415, section 2; ONNX Gelu
        (opset 20); ONNX Runtime contrib operators Gelu and FastGelu.
    """  # noqa: E501 - the example is one line of ONNX text

    name: ClassVar[str] = "fuse-gelu"
    contract: ClassVar[Contract] = Contract(
        numerics=Rounding(1e-5, "factors in another order: 1e-7 measured for one, 100 in a row"),
        is_idempotent=True,
    )
    anchors: ClassVar[frozenset[str] | None] = frozenset({"Erf", "Sigmoid", "Tanh"})

    domain: str = option(
        "standard",
        help="`contrib`: operators of ONNX Runtime where the opset has none",
        choices=("standard", "contrib"),
    )

    def needs(self, model: ir.Model) -> Needs:  # noqa: ARG002
        """Ask for shapes, which tell the element types."""
        return Needs(shapes=True)

    def run(self, model: ir.Model, edit: Editor, facts: Facts) -> None:
        """Fuse around every Erf and Tanh."""
        operators, shapes = Operators(model), GrowingShapes(facts.shapes)
        for graph in graphs(model):
            for node in () if operators.is_in_function(graph) else graph:
                found = _find(node)
                if found is not None:
                    slug = self._refusal(found, operators, shapes, facts.target)
                    if slug is None:
                        self._fuse(found, operators, shapes, edit)
                    else:
                        edit.refuse(node, slug)

    def _refusal(
        self, found: _Gelu, operators: Operators, shapes: ShapeTable, target: TargetFacts
    ) -> str | None:
        version = operators.version(found.function) or 1
        if self.domain == "standard" and (version < _STANDARD_SINCE or found.is_quick):
            return "opset-too-low"
        if not is_supported_type(found.result, shapes, target):
            return "element-type"
        if not is_same_rank(found.source, found.result, shapes):
            return "higher-rank"
        return None if found.function in _replaced(found, operators) else "read-elsewhere"

    def _fuse(
        self, found: _Gelu, operators: Operators, shapes: GrowingShapes, edit: Editor
    ) -> None:
        version = operators.version(found.function) or 1
        root = found.result.producer()
        assert root is not None
        with edit.rewrite(root, because=f"Gelu around {found.function.op_type}") as change:
            is_exact = found.function.op_type == "Erf"
            attributes: dict[str, str | float] = {}
            if found.is_quick:
                kind, domain, attributes = "QuickGelu", CONTRIB_DOMAIN, {"alpha": found.alpha}
            elif version >= _STANDARD_SINCE:
                kind, domain = "Gelu", ""
                attributes = {"approximate": "none" if is_exact else "tanh"}
            else:
                kind, domain = "Gelu" if is_exact else "FastGelu", CONTRIB_DOMAIN
            if domain:
                import_contrib(edit.model, change)
            fused = change.node(kind, [found.source], attributes=attributes, domain=domain)
            change.replace(found.result, fused)
            shapes.alias(fused, found.result)
            for node in _replaced(found, operators):
                change.remove(node)


def _replaced(found: _Gelu, operators: Operators) -> list[ir.Node]:
    root = found.result.producer()
    assert root is not None
    return orphans([root], [found.source], operators)


def _find(node: ir.Node) -> _Gelu | None:
    """Return the Gelu that ``node`` is the function of."""
    argument = node.inputs[0] if node.inputs and not node.domain else None
    if argument is None:
        return None
    if node.op_type == "Sigmoid":
        return _find_quick(node, argument)
    expected = _ARGUMENTS.get(node.op_type)
    for source in _sources(argument) if expected is not None else ():
        if expected is not None and is_close(polynomial_of(argument, [source]), expected):
            result = _result(source, node.outputs[0], _HALF)
            if result is not None:
                return _Gelu(source, result, node)
    return None


def _find_quick(node: ir.Node, argument: ir.Value) -> _Gelu | None:
    """Return `x sigmoid(a x)` around ``node``."""
    producer = argument.producer()
    inner = producer.inputs if producer is not None and producer.op_type in _ARITHMETIC else ()
    for source in (argument, *(value for value in inner if value is not None)):
        polynomial = polynomial_of(argument, [source])
        result = _result(source, node.outputs[0], _PRODUCT)
        if polynomial is not None and list(polynomial) == [(1,)] and result is not None:
            return _Gelu(source, result, node, polynomial[1,])
    return None


def _sources(argument: ir.Value) -> Iterator[ir.Value]:
    """Yield the values that ``argument`` may be a polynomial of, the nearest first."""
    layer = [argument]
    for _ in range(_STEPS_TO_INPUT):
        yield from layer
        producers = [producer for value in layer if (producer := value.producer()) is not None]
        inputs = (value for producer in producers for value in producer.inputs)
        layer = list(dict.fromkeys(value for value in inputs if value is not None))


def _result(source: ir.Value, function: ir.Value, wanted: Polynomial) -> ir.Value | None:
    """Return the value that is ``wanted`` of the two, downwards from ``function``."""
    layer = [function]
    for _ in range(_STEPS_TO_RESULT):
        users = {user: None for value in layer for user, _ in value.uses()}
        layer = [user.outputs[0] for user in users if user.op_type in _ARITHMETIC]
        for value in layer[:_MOST_READERS]:
            if is_close(polynomial_of(value, [source, function]), wanted):
                return value
    return None
