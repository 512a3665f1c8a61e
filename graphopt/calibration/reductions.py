"""Extremes of a model's values, reduced where they are computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.calibration.samples import Feed
from graphopt.ir import clone, constant_array
from graphopt.runtime import Histogram, Session

__all__ = ["Reduced", "Reductions", "with_reductions"]

_MOVES = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
# Each takes the least element to the least one, and the greatest to the greatest.
_RISING = frozenset({"Clip", "Relu", "Sigmoid", "Tanh"})
_NEVER_NEGATIVE = frozenset({"Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Sqrt"})


class Reduced(NamedTuple):
    """Which outputs of a model tell the extremes of a value.

    Attributes:
        least: Its minimum; ``None`` where no element is negative, and 0 stands for it.
        greatest: Its maximum.
        total: A sum that is finite where all elements are: it alone is sure to show a NaN, which
            minimum and maximum may skip.
        filled: A maximum that is infinite and negative where the value has no element.
    """

    least: str | None
    greatest: str
    total: str
    filled: str


class Reductions:
    """Extremes of inputs and computed values over all samples that were added.

    Args:
        session: Of a model from `with_reductions`.
        inputs: Inputs to look at.
        reduced: Values to look at, and what the model returns of them.
    """

    def __init__(
        self, session: Session, inputs: Iterable[str], reduced: Mapping[str, Reduced]
    ) -> None:
        self._session = session
        self._inputs = {name: Histogram(is_counted=False) for name in inputs}
        self._names = list(reduced)
        returned = (name for item in reduced.values() for name in item if name is not None)
        self._outputs = list(dict.fromkeys(returned))
        places = {name: place for place, name in enumerate(self._outputs)}
        # What is not returned is read off a zero behind the last output.
        places[None] = len(self._outputs)  # type: ignore[index]
        self._places = np.array(
            [[places[name] for name in item] for item in reduced.values()],  # type: ignore[index]
            dtype=np.intp,
        ).reshape(-1, len(Reduced._fields))
        self._low = np.full(len(self._names), np.inf)
        self._high = np.full(len(self._names), -np.inf)
        self._runs = np.zeros(len(self._names), np.int64)
        self._broken = np.zeros(len(self._names), np.int64)

    def add(self, feeds: Sequence[Feed]) -> None:
        """Run on samples, all at once; where one of them fails, nothing is added."""
        found = self._run(feeds)
        for name, histogram in self._inputs.items():
            for feed in feeds:
                histogram.add(feed[name])
        for row in found:
            self._take(row)

    def _run(self, feeds: Sequence[Feed]) -> npt.NDArray[np.float64]:
        if not self._names:
            return np.zeros((0, 1))
        return np.pad(self._session.run_scalars(feeds, self._outputs), ((0, 0), (0, 1)))

    def _take(self, returned: npt.NDArray[np.float64]) -> None:
        low, high, total, filled = returned[self._places].T
        is_finite = np.isfinite(total)
        is_seen = is_finite & (filled > -np.inf)
        np.minimum(self._low, low, out=self._low, where=is_seen)
        np.maximum(self._high, high, out=self._high, where=is_seen)
        self._runs += is_seen | ~is_finite
        self._broken += ~is_finite

    def found(self) -> dict[str, Histogram]:
        """Return what was seen so far; where values were computed, elements count as one a run."""
        computed = zip(
            self._names,
            self._low.tolist(),
            self._high.tolist(),
            self._runs.tolist(),
            self._broken.tolist(),
            strict=True,
        )
        found = {
            name: Histogram(
                minimum=low, maximum=high, elements=runs, nonfinite=broken, is_counted=False
            )
            for name, low, high, runs, broken in computed
        }
        return {name: item for name, item in (self._inputs | found).items() if item.elements}


def with_reductions(model: ir.Model, names: Iterable[str]) -> tuple[ir.Model, dict[str, Reduced]]:
    """Return a copy of ``model`` that also returns reductions, and which tell of each named value.

    Passes over large values are what calibration costs beside the runs. So a value that moves the
    elements of another one shares its reductions; where a function never falls (`Sigmoid`,
    `Relu`), its extremes are the function of those of its argument; and behind `Relu` and others
    that return nothing negative the minimum is left out, since every range of integers holds 0.
    """
    copy = clone(model)
    reducer = _Reducer(copy)
    wanted = set(names)
    # In order of execution: what a value's extremes are read from was met before it.
    for node in list(copy.graph):
        for output in node.outputs:
            if output.name in wanted:
                reducer.reduce(output, node)
    return copy, {name or "": item for name, item in reducer.reduced.items()}


class _Reducer:
    """Adds reductions to a graph.

    Args:
        model: The model; it is changed.
    """

    def __init__(self, model: ir.Model) -> None:
        self._graph = model.graph
        self._returned: dict[str, ir.Value] = {}
        self.reduced: dict[str | None, Reduced] = {}

    def reduce(self, value: ir.Value, producer: ir.Node) -> None:
        """Let the model return what tells the extremes of a value; its sources came before."""
        is_positive = _is_never_negative(value)
        source = producer.inputs[0] if producer.inputs else None
        known = None if source is None else self.reduced.get(source.name)
        if known is not None and _is_move(producer):
            self.reduced[value.name] = known
        elif known is not None and _is_rising(producer) and (known.least or is_positive):
            low = None if is_positive else self._applied(producer, known.least, value)
            high = self._applied(producer, known.greatest, value)
            self.reduced[value.name] = Reduced(low, high, known.total, known.filled)
        else:
            low = None if is_positive else self._reduction("ReduceMin", value)
            high = self._reduction("ReduceMax", value)
            total = self._reduction("ReduceSum", value)
            self.reduced[value.name] = Reduced(low, high, total, high)

    def _reduction(self, operator: str, value: ir.Value) -> str:
        # All axes is what every opset does when none are given.
        node = ir.node(operator, [value], attributes={"keepdims": 0})
        return self._add(node, f"{value.name}//{operator}", value)

    def _applied(self, function: ir.Node, extreme: str | None, result: ir.Value) -> str:
        """Apply a function to an extreme of its argument, by the kernel that computes it."""
        assert extreme is not None
        inputs = [self._returned[extreme], *function.inputs[1:]]
        node = ir.Node("", function.op_type, inputs, function.attributes.values())
        return self._add(node, f"{result.name}//{extreme.rpartition('//')[2]}", result)

    def _add(self, node: ir.Node, name: str, behind: ir.Value) -> str:
        # Beside what computes the value: of nodes that are due the runtime takes the first one,
        # and would hold all values until the last one was computed.
        producer = behind.producer()
        assert producer is not None
        node.name = node.outputs[0].name = name
        self._returned[name] = node.outputs[0]
        self._graph.insert_after(producer, node)
        self._graph.outputs.append(node.outputs[0])
        return name


def _is_move(node: ir.Node) -> bool:
    return not node.domain and node.op_type in _MOVES


def _is_rising(node: ir.Node) -> bool:
    return not node.domain and node.op_type in _RISING


def _is_never_negative(value: ir.Value | None) -> bool:
    """Tell whether no element of a value can be below 0, NaN aside."""
    node = None if value is None else value.producer()
    if node is None or node.domain:
        return False
    if node.op_type in _MOVES:
        return _is_never_negative(node.inputs[0])
    if node.op_type != "Clip":
        return node.op_type in _NEVER_NEGATIVE
    if len(node.inputs) == 1:  # before opset 11
        return node.attributes.get_float("min", -np.inf) >= 0.0
    limit = constant_array(node.inputs[1]) if node.inputs[1] is not None else None
    return limit is not None and bool(np.all(limit >= 0.0))
