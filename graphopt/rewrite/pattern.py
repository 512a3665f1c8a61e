"""Patterns: small trees of operators, matched upwards from the value that they compute.

    x = Var("x")
    SILU = Op("Mul", x, Op("Sigmoid", x))
    found = match(SILU, node.outputs[0])

A name that occurs twice must be the same value. Operators that commute match in either order.
Constants match by value only where `Const` says so, and then exactly, after rounding the expected
number to the type of the tensor: a tolerance would take `x + 1e-8` for `x`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.ir import constant_array, constant_tensor

__all__ = ["Absent", "Const", "Either", "Match", "Op", "Pattern", "Var", "match"]

COMMUTATIVE = frozenset({"Add", "Mul", "And", "Or", "Xor", "Equal", "Min", "Max", "Sum", "Mean"})


@dataclass(frozen=True)
class Match:
    """Where a pattern was found.

    Attributes:
        values: The values bound to names of variables and constants.
        nodes: The matched nodes, by name where the pattern names them, the root first.
        root: The value that the whole pattern computes.
    """

    values: Mapping[str, ir.Value]
    nodes: Mapping[str, ir.Node]
    root: ir.Value

    def __getitem__(self, name: str) -> ir.Value:
        return self.values[name]

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """Return the constant bound to ``name``; it must not be written to."""
        array = constant_array(self.values[name])
        assert array is not None
        return array

    def is_private(self) -> bool:
        """Tell whether nothing outside the match reads what it computes on the way."""
        inside = set(self.nodes.values())
        for node in inside:
            for output in node.outputs:
                if output is self.root:
                    continue
                if output.is_graph_output() or any(user not in inside for user, _ in output.uses()):
                    return False
        return True


@dataclass(frozen=True)
class _Binding:
    """What is bound so far; never changed, so that alternatives can be tried."""

    values: Mapping[str, ir.Value] = field(default_factory=dict)
    nodes: Mapping[str, ir.Node] = field(default_factory=dict)

    def with_value(self, name: str, value: ir.Value) -> _Binding | None:
        bound = self.values.get(name)
        if bound is None:
            return _Binding({**self.values, name: value}, self.nodes)
        return self if bound is value else None

    def with_node(self, name: str, node: ir.Node) -> _Binding:
        unique = name or f"{node.op_type}#{len(self.nodes)}"
        return _Binding(self.values, {**self.nodes, unique: node})


class Pattern:
    """Something that a value may match."""

    def solutions(self, value: ir.Value | None, binding: _Binding) -> Iterator[_Binding]:
        """Yield every way in which ``value`` matches, given what is bound already."""
        raise NotImplementedError


@dataclass(frozen=True)
class Var(Pattern):
    """Any value.

    Attributes:
        name: What to call it.
        where: A further condition.
    """

    name: str
    where: Callable[[ir.Value], bool] | None = None

    def solutions(self, value: ir.Value | None, binding: _Binding) -> Iterator[_Binding]:
        """Bind the value."""
        if value is None or (self.where is not None and not self.where(value)):
            return
        bound = binding.with_value(self.name, value)
        if bound is not None:
            yield bound


@dataclass(frozen=True)
class Const(Pattern):
    """A constant that no caller can override.

    Attributes:
        name: What to call it.
        equals: The number that its one element is, after rounding to its type.
        where: A condition on the array; it is read, so keep to small constants.
        max_elements: Larger constants do not match.
    """

    name: str
    equals: float | None = None
    where: Callable[[np.ndarray[Any, Any]], bool] | None = None
    max_elements: int | None = None

    def solutions(self, value: ir.Value | None, binding: _Binding) -> Iterator[_Binding]:
        """Bind the constant."""
        tensor = constant_tensor(value)
        if value is None or tensor is None or not self._fits(tensor):
            return
        bound = binding.with_value(self.name, value)
        if bound is not None:
            yield bound

    def _fits(self, tensor: ir.TensorProtocol) -> bool:
        if self.max_elements is not None and tensor.size > self.max_elements:
            return False
        if self.equals is not None:
            if tensor.size != 1:
                return False
            array = tensor.numpy()
            # Rounded to the type of the tensor: 0.7978845608 in 16 bits is another number than in
            # 32.
            if not bool((array == np.asarray(self.equals).astype(array.dtype)).all()):
                return False
        return self.where is None or self.where(tensor.numpy())


@dataclass(frozen=True)
class Absent(Pattern):
    """An optional input that was left out."""

    def solutions(self, value: ir.Value | None, binding: _Binding) -> Iterator[_Binding]:
        """Match nothing at all."""
        if value is None:
            yield binding


@dataclass(frozen=True, init=False)
class Op(Pattern):
    """The first output of an operator.

    Attributes:
        op_type: Operator, or several to choose from.
        inputs: A pattern per input; inputs beyond them must be absent.
        name: What to call the node.
        domain: Operator domain.
        output: Which output the value must be.
        where: A condition on the node, for example on its attributes.
    """

    op_type: tuple[str, ...]
    inputs: tuple[Pattern, ...]
    name: str
    domain: str
    output: int
    where: Callable[[ir.Node], bool] | None

    def __init__(
        self,
        op_type: str | tuple[str, ...],
        *inputs: Pattern,
        name: str = "",
        domain: str = "",
        output: int = 0,
        where: Callable[[ir.Node], bool] | None = None,
    ) -> None:
        kinds = (op_type,) if isinstance(op_type, str) else op_type
        for key, value in (
            ("op_type", kinds),
            ("inputs", inputs),
            ("name", name),
            ("domain", domain),
            ("output", output),
            ("where", where),
        ):
            object.__setattr__(self, key, value)

    def solutions(self, value: ir.Value | None, binding: _Binding) -> Iterator[_Binding]:
        """Match the producer of the value, then its inputs in every order that it allows."""
        node = value.producer() if value is not None else None
        if node is None or value is None or not self._fits(node, value):
            return
        bound = binding.with_node(self.name, node)
        yield from _all_inputs(self.inputs, _padded(node, len(self.inputs)), bound)
        is_pair = len(self.inputs) == len(node.inputs) == 2  # noqa: PLR2004
        if is_pair and node.op_type in COMMUTATIVE and not node.domain:
            yield from _all_inputs(self.inputs, tuple(reversed(node.inputs)), bound)

    def _fits(self, node: ir.Node, value: ir.Value) -> bool:
        return (
            node.op_type in self.op_type
            and node.domain == self.domain
            and value.index() == self.output
            and not any(given is not None for given in node.inputs[len(self.inputs) :])
            and (self.where is None or self.where(node))
        )


@dataclass(frozen=True, init=False)
class Either(Pattern):
    """One of several patterns, the first that fits the rest.

    Attributes:
        options: The patterns, in order of preference.
    """

    options: tuple[Pattern, ...]

    def __init__(self, *options: Pattern) -> None:
        object.__setattr__(self, "options", options)

    def solutions(self, value: ir.Value | None, binding: _Binding) -> Iterator[_Binding]:
        """Try one after the other."""
        for option in self.options:
            yield from option.solutions(value, binding)


def _padded(node: ir.Node, count: int) -> tuple[ir.Value | None, ...]:
    given = tuple(node.inputs[:count])
    return given + (None,) * (count - len(given))


def _all_inputs(
    patterns: tuple[Pattern, ...], values: tuple[ir.Value | None, ...], binding: _Binding
) -> Iterator[_Binding]:
    if not patterns:
        yield binding
        return
    for bound in patterns[0].solutions(values[0], binding):
        yield from _all_inputs(patterns[1:], values[1:], bound)


def match(pattern: Pattern, value: ir.Value) -> Match | None:
    """Return where ``pattern`` is found with ``value`` as its result, or ``None``."""
    for binding in pattern.solutions(value, _Binding()):
        return Match(binding.values, binding.nodes, value)
    return None
