"""Extremes of a model's values, reduced where they are computed."""

from __future__ import annotations

import math
from collections.abc import Iterable

import onnx_ir as ir

from graphopt.calibration.samples import Feed
from graphopt.ir import clone
from graphopt.runtime import Histogram, Session

__all__ = ["Reductions", "with_reductions"]

# The sum is not wanted: it alone is sure to show a NaN, which minimum and maximum may skip.
_OBSERVERS = ("ReduceMin", "ReduceMax", "ReduceSum")


class Reductions:
    """Extremes of inputs and computed values over all samples that were added.

    Args:
        session: Of a model from `with_reductions`.
        inputs: Inputs to look at.
        outputs: Values whose reductions the model returns.
    """

    def __init__(self, session: Session, inputs: Iterable[str], outputs: Iterable[str]) -> None:
        self._session = session
        self._inputs, self._outputs = list(inputs), list(outputs)
        self._found: dict[str, Histogram] = {}

    def add(self, feed: Feed) -> None:
        """Run on one sample."""
        for name in self._inputs:
            self._of(name).add(feed[name])
        if self._outputs:
            wanted = [_output(name, kind) for name in self._outputs for kind in _OBSERVERS]
            found = self._session.run(feed, wanted)
            for name in self._outputs:
                self._widen(name, *(float(found[_output(name, kind)]) for kind in _OBSERVERS))

    def found(self) -> dict[str, Histogram]:
        """Return what was seen so far; where values were computed, elements count as one a run."""
        return {name: item for name, item in self._found.items() if item.elements}

    def _of(self, name: str) -> Histogram:
        return self._found.setdefault(name, Histogram(is_counted=False))

    def _widen(self, name: str, low: float, high: float, total: float) -> None:
        seen = self._of(name)
        if not math.isfinite(total):
            seen.merge(Histogram(elements=1, nonfinite=1, is_counted=False))
        elif low <= high:
            seen.merge(Histogram(minimum=low, maximum=high, elements=1, is_counted=False))


def _output(name: str, reduction: str) -> str:
    return f"{name}//{reduction}"


def with_reductions(model: ir.Model, names: Iterable[str]) -> ir.Model:
    """Return a copy of ``model`` that also returns the reductions of the named values."""
    copy = clone(model)
    values = {output.name: output for node in copy.graph for output in node.outputs}
    for name in names:
        for reduction in _OBSERVERS:
            # All axes is what every opset does when none are given.
            node = ir.node(reduction, [values[name]], name=_output(name, reduction))
            node.attributes["keepdims"] = ir.AttrInt64("keepdims", 0)
            node.outputs[0].name = _output(name, reduction)
            # Beside what computes the value: of nodes that are due the runtime takes the first one,
            # and would hold all values until the last one was computed.
            producer = values[name].producer()
            assert producer is not None
            copy.graph.insert_after(producer, node)
            copy.graph.outputs.append(node.outputs[0])
    return copy
