"""Moments of values over samples, of one model or of two side by side, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis import mask_inputs
from graphopt.calibration.held_values import HeldValues, needed_part
from graphopt.calibration.observing import MEMORY_BYTES
from graphopt.calibration.padding import is_padded, padding_of
from graphopt.calibration.samples import Samples
from graphopt.errors import RuntimeFailure
from graphopt.ir import StateFolder, clone
from graphopt.rewrite import Asked, ChannelMoments, Channels, CrossMoments
from graphopt.runtime import Padding, Pair, Session, SessionOptions, Watched, Worker

__all__ = ["Gathering", "channels_of", "naming_sample"]

_OPTIONS = SessionOptions(
    optimization="all",
    threads=0,
    config={"session.intra_op.allow_spinning": "0"},
    is_rooted=True,
)
_ONCE = SessionOptions(
    optimization="disabled",
    threads=0,
    config={"session.disable_prepacking": "1"},
    is_rooted=True,
)
_FLOAT_BYTES, _SUM_BYTES = 4, 8
# Rows of which products are summed, over all samples: 8 for each of 8,192 channels, where more
# bring least squares nothing. Without a limit, 10,000 samples would take hours.
_MOST_ROWS = 65_536
# What passes that go on by what they measure ask for in turn: layers, and what they read.
_LIKELY = frozenset(
    {"Add", "Conv", "DequantizeLinear", "Gemm", "LayerNormalization", "MatMul", "Mul"}
)
_LAYERS = frozenset({"Conv", "Gemm", "MatMul"})

Sums = Mapping[str, npt.NDArray[Any]]


class _Task(NamedTuple):
    """Values that are gathered together, or not at all: one value, or a pair.

    Attributes:
        watched: One or two values.
        products: For a pair: products are wanted too. ``None``: it is no pair.
    """

    watched: tuple[Watched, ...]
    products: bool | None


def channels_of(asked: Asked) -> Channels:
    """Return what was asked for, in full."""
    return Channels(asked) if isinstance(asked, str) else asked


@contextmanager
def naming_sample(number: int, source: str) -> Iterator[None]:
    """Say in an error of the runtime which sample it was."""
    try:
        yield
    except RuntimeFailure as error:
        error.where = f"sample {number} of `{source}`"
        raise


@dataclass(kw_only=True)
class Gathering:
    """Gathers moments of values while models run on samples, one feed at a time.

    What is summed, and the values it is summed from on the largest sample, stay within
    `memory_bytes`; where they do not fit together, the models are run several times. A single
    value that alone needs more is gathered alone: a Gram matrix of 3072 channels takes 75 MB.

    Attributes:
        models: One model, or two; they are left as they were.
        samples: Feeds.
        worker: Where the models run.
        memory_bytes: Bytes held at once in the worker.
        progress: Told after each run how many are done, and how many there are.
        notes: Told what a reader of the result must know.
        shapes: Of values on the largest sample, as far as they are known; added to. They serve to
            bound memory alone, so that those of an earlier state of a model will do.
        folder: Where copies of the models lie while they run.
        held: Of each model, by its place, the values from which its runs go on.
    """

    models: Sequence[ir.Model]
    samples: Samples
    worker: Worker
    memory_bytes: int = MEMORY_BYTES
    progress: Callable[[int, int], None] | None = None
    notes: list[str] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    folder: StateFolder = field(default_factory=StateFolder)
    held: Mapping[int, HeldValues] = field(default_factory=dict)

    def moments(self, asked: Sequence[tuple[Asked, bool]]) -> dict[Asked, ChannelMoments]:
        """Return moments of values of the only model; ``True``: with their Gram matrix."""
        padding = self._padding(0, [channels_of(one).value for one, _ in asked])
        known = self._known(0)
        tasks, kept = [], []
        for one, has_gram in asked:
            channels = channels_of(one)
            if channels.value in known:
                channels = self._sampled(channels) if has_gram else channels
                watched = self._watched(channels, 0, padding, has_gram=has_gram)
                tasks.append(_Task((watched,), None))
                kept.append(one)
        found = self._run(tasks)
        return {
            one: moments
            for one, (moments, *_) in zip(kept, found, strict=True)
            if moments is not None
        }

    def cross(
        self, pairs: Sequence[tuple[Asked, Asked]], *, products: bool
    ) -> list[CrossMoments | None]:
        """Return moments of pairs of values of the two models."""
        asked = [(channels_of(first), channels_of(second)) for first, second in pairs]
        paddings = [self._padding(side, [pair[side].value for pair in asked]) for side in (0, 1)]
        known = [self._known(side) for side in (0, 1)]
        tasks: list[_Task] = []
        places: list[int | None] = []
        for pair in asked:
            if not all(one.value in names for one, names in zip(pair, known, strict=True)):
                places.append(None)
                continue
            watched = tuple(
                self._watched(
                    self._sampled(one) if products else one,
                    side,
                    paddings[side],
                    has_gram=products and not side,
                )
                for side, one in enumerate(pair)
            )
            # Rows must be the same ones: what is not left out of the one stays in the other.
            if any(item.padding is None for item in watched):
                watched = tuple(item._replace(padding=None) for item in watched)
            places.append(len(tasks))
            tasks.append(_Task(watched, products))
        found = self._run(tasks)
        return [None if place is None else _cross(found[place]) for place in places]

    # -- what is gathered together ---------------------------------------------------------------

    def _known(self, side: int) -> frozenset[str]:
        """Return the names of the values that can be had from a model."""
        graph = self.models[side].graph
        fed = {value.name for value in graph.inputs if value.name not in graph.initializers}
        computed = {output.name for node in graph for output in node.outputs}
        return frozenset(name for name in fed | computed if name)

    def _sampled(self, channels: Channels) -> Channels:
        """Return the channels with so many positions of a run that all runs stay in the limit."""
        share = math.ceil(_MOST_ROWS / max(len(self.samples), 1))
        asked = channels.positions
        return channels._replace(positions=share if asked is None else min(asked, share))

    def _watched(
        self, channels: Channels, side: int, padding: Mapping[str, Padding], *, has_gram: bool
    ) -> Watched:
        inputs = {value.name for value in self.models[side].graph.inputs}
        return Watched(
            channels, side, channels.value in inputs, has_gram, padding.get(channels.value)
        )

    def _padding(self, side: int, names: Sequence[str]) -> dict[str, Padding]:
        masks = mask_inputs(self.models[side])
        used = {
            mask
            for mask in masks
            if any(mask in feed and is_padded(feed, mask) for feed in self.samples)
        }
        if not used:  # spares the symbolic shapes
            return {}
        found = padding_of(self.models[side], names)
        used &= {item.mask for item in found.values()}
        for mask in sorted(used):
            note = f"calibration: positions where `{mask}` is 0 were left out"
            if note not in self.notes:
                self.notes.append(note)
        return {name: item for name, item in found.items() if item.mask in used}

    def _run(self, tasks: Sequence[_Task]) -> list[list[Any]]:
        """Return for each task its moments, and for a pair what they have in common."""
        groups = self._groups(tasks)
        planned, done = len(groups) * len(self.samples), 0
        found: dict[int, list[Any]] = {}
        for group in groups:
            watched = [item for number in group for item in tasks[number].watched]
            pairs, starts = [], {}
            for number in group:
                starts[number] = sum(len(tasks[one].watched) for one in group if one < number)
                wanted = tasks[number].products
                if wanted is not None:
                    pairs.append((number, Pair(starts[number], starts[number] + 1, wanted)))
            with self._sessions(watched) as (session, other):
                session.plan_gathering(watched, [pair for _, pair in pairs], other)
                for number, feed in enumerate(self.samples, start=1):
                    fed = dict(feed)
                    for side, values in self.held.items():
                        fed |= values.feed(number, side)
                    with naming_sample(number, self.samples.source):
                        session.gather(fed)
                    done += 1
                    if self.progress is not None:
                        self.progress(done, planned)
                sums = session.gathered()
            for number in group:
                count = len(tasks[number].watched)
                found[number] = [
                    _moments(sums, starts[number] + step, watched[starts[number] + step])
                    for step in range(count)
                ]
            for place, (number, _) in enumerate(pairs):
                found[number].append(_parts(sums, f"pairs/{place}/"))
        return [found[number] for number in range(len(tasks))]

    def _groups(self, tasks: Sequence[_Task]) -> list[list[int]]:
        """Divide tasks into groups that fit into memory on the largest sample."""
        if not tasks:
            return []
        if len(tasks) == 1:  # it is gathered whatever it takes
            return [[0]]
        costs = self._costs(tasks)
        groups: list[list[int]] = [[]]
        held = 0
        for number, cost in enumerate(costs):
            if groups[-1] and held + cost > self.memory_bytes:
                groups.append([])
                held = 0
            groups[-1].append(number)
            held += cost
        return groups

    def _costs(self, tasks: Sequence[_Task]) -> list[int]:
        shapes = [self._shapes(side, tasks) for side in range(len(self.models))]
        costs = []
        for task in tasks:
            widths = []
            cost = 0
            for item in task.watched:
                shape = shapes[item.side].get(item.channels.value, ())
                widths.append(_width(shape, item.channels))
                cost += math.prod(shape) * _FLOAT_BYTES
                cost += widths[-1] ** 2 * _SUM_BYTES * item.has_gram
            if task.products:
                cost += widths[0] * widths[-1] * _SUM_BYTES
            costs.append(cost)
        return costs

    def _shapes(self, side: int, tasks: Sequence[_Task]) -> dict[str, tuple[int, ...]]:
        """Return the shape of each watched value on the largest sample, from one plain run."""
        watched = [item for task in tasks for item in task.watched if item.side == side]
        missing = {item.channels.value for item in watched} - self.shapes.keys()
        if missing:
            largest = max(self.samples, key=lambda feed: sum(item.size for item in feed.values()))
            self.shapes |= {name: array.shape for name, array in largest.items()}
        missing -= self.shapes.keys()
        if missing:
            self.shapes |= self._computed_shapes(self.models[side], missing, largest)
        return self.shapes

    def _computed_shapes(
        self, model: ir.Model, names: Collection[str], feed: Mapping[str, Any]
    ) -> dict[str, tuple[int, ...]]:
        """Return the shapes of some values for a feed, and of what else may be asked for later."""
        copy = clone(model)
        watched = {
            output.name: output
            for node in copy.graph
            for output in node.outputs
            if output.name and (output.name in names or _is_likely(node, output))
        }
        # Only shapes are returned: values of all layers of the largest sample could fill the
        # memory.
        copy.graph.outputs.clear()
        for name, value in watched.items():
            node = ir.node("Shape", [value], name=f"{name}//Shape")
            node.outputs[0].name = f"{name}//Shape"
            copy.graph.append(node)
            copy.graph.outputs.append(node.outputs[0])
        with self.folder.written(copy) as path, self.worker.load(path, _ONCE) as session:
            found = session.run(_taken(feed, session), None)
        return {name: tuple(found[f"{name}//Shape"].tolist()) for name in watched}

    @contextmanager
    def _sessions(self, watched: Sequence[Watched]) -> Iterator[tuple[Session, Session | None]]:
        with ExitStack() as stack:
            sessions: list[Session] = []
            for side, model in enumerate(self.models):
                names = [
                    item.channels.value
                    for item in watched
                    if item.side == side and not item.is_input
                ]
                copy = needed_part(model, dict.fromkeys(names), self.held.get(side), side)
                path = stack.enter_context(self.folder.written(copy))
                sessions.append(stack.enter_context(self.worker.load(path, _OPTIONS)))
            yield sessions[0], sessions[1] if len(sessions) > 1 else None


def _is_likely(node: ir.Node, output: ir.Value) -> bool:
    return node.op_type in _LIKELY or any(
        reader.op_type in _LAYERS and not reader.domain for reader, _ in output.uses()
    )


def _taken(feed: Mapping[str, Any], session: Session) -> dict[str, Any]:
    """Return the part of a feed that a session takes."""
    names = {spec.name for spec in session.inputs}
    return {name: array for name, array in feed.items() if name in names}


def _width(shape: tuple[int, ...], channels: Channels) -> int:
    """Return how many channels a row has; of one group, where there are groups."""
    window = channels.window
    if window is None:
        return shape[channels.axis] if -len(shape) <= channels.axis < len(shape) else 0
    width = shape[1] * math.prod(window.kernel) if len(shape) > 1 else 0
    # So that its square is the sum of the squares of all groups: as many Gram matrices as groups.
    return math.ceil(width / math.sqrt(window.groups))


def _parts(sums: Sums, prefix: str) -> dict[str, npt.NDArray[Any]]:
    return {name[len(prefix) :]: array for name, array in sums.items() if name.startswith(prefix)}


def _moments(sums: Sums, number: int, item: Watched) -> ChannelMoments | None:
    parts = _parts(sums, f"watched/{number}/")
    count = int(parts["count"])
    if not count:  # no row, or rows of several widths
        return None
    gram = parts.get("gram")
    if gram is not None:
        gram = gram / count
        window = item.channels.window
        if window is None or window.groups == 1:
            gram = gram[0]
    low, high = np.array(parts["minimum"]), np.array(parts["maximum"])
    return ChannelMoments(
        count=count,
        mean=parts["total"] / count,
        second=parts["squares"] / count,
        largest=np.maximum(-low, high),
        gram=gram,
        minimum=low,
        maximum=high,
    )


def _cross(found: list[Any]) -> CrossMoments | None:
    first, second, common = found
    count = int(common["count"])
    if first is None or second is None or not count:
        return None
    product = common.get("product")
    if product is not None:
        product = product / count
        product = product[0] if len(product) == 1 else product
    shift, error = (common.get(name) for name in ("shift", "error"))
    return CrossMoments(
        first=first,
        second=second,
        product=product,
        shift=None if shift is None else shift / count,
        error=None if error is None else error / count,
    )
