"""Values of a model counted over samples, in a streaming pass whose memory samples do not grow."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import onnx_ir as ir

from graphopt.analysis import Effect, Operators, infer_shapes
from graphopt.calibration.padding import padded_positions
from graphopt.calibration.reductions import Reduced, Reductions, with_reductions
from graphopt.calibration.samples import Feed, Samples
from graphopt.errors import RuntimeFailure
from graphopt.ir import StateFolder, clone, operators_of, release_files
from graphopt.runtime import Histogram, Padding, Session, SessionOptions, Worker, usable_cores
from graphopt.runtime.process_usage import collect_memory

__all__ = ["MEMORY_BYTES", "Observation", "Observer"]

MEMORY_BYTES = 256 << 20
"""Bytes of values that are held at once; a model with more of them is run several times."""

# The runtime may optimize: a range does not hang on the last bit. Threads that spin while they
# wait steal time from the counting, which runs on one. Layouts of the processor's own would copy
# every weight; in order of priority, what looks at a value does so before the next one is computed.
_OPTIONS = SessionOptions(
    optimization="extended",
    threads=0,
    config={"session.intra_op.allow_spinning": "0"},
    memory_pattern=False,
    arena="exact",
    order="priority",
    is_rooted=True,
)
# Packed weights are copies as well. Convolutions are as fast without, and the layer behind them
# multiplies few rows; matrices that multiply a hundred rows take a quarter less time when packed.
_UNPACKED = replace(_OPTIONS, config={**_OPTIONS.config, "session.disable_prepacking": "1"})
# A second thread hardly helps small convolutions, and reductions not at all; a second sample does,
# for the values of one sample more in memory.
_AT_ONCE = 2
_SMALL_BYTES = 2 << 20
# For one run, to load fast is worth more than to run fast.
_ONCE = SessionOptions(
    optimization="disabled",
    threads=0,
    config={"session.disable_prepacking": "1"},
    is_rooted=True,
)
_LARGEST_ELEMENT_BYTES = 4


@dataclass
class Observation:
    """What was counted so far.

    Attributes:
        histograms: By value name.
        seen: By value name, how many samples are counted; those that are missing have none.
    """

    histograms: dict[str, Histogram] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)


class _Group(NamedTuple):
    """Values that are counted in the same runs, from sample number ``start`` on."""

    start: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class _Counter(Protocol):
    def add(self, feeds: Sequence[Feed]) -> None: ...

    def found(self) -> dict[str, Histogram]: ...


@dataclass
class _InWorker:
    """Counts whole values in the worker."""

    session: Session
    group: _Group
    padding: Mapping[str, Padding]
    is_counted: bool

    def add(self, feeds: Sequence[Feed]) -> None:
        for feed in feeds:
            self.session.collect(
                feed,
                self.group.outputs,
                inputs=self.group.inputs,
                padding=padded_positions(feed, self.padding),
                is_counted=self.is_counted,
            )

    def found(self) -> dict[str, Histogram]:
        return self.session.collected()


@dataclass(kw_only=True)
class Observer:
    """Counts what values of a model hold over samples.

    Where extremes alone are wanted and nothing is left out, they are computed by reductions in a
    copy of the model, so that memory is that of a plain run. Else values are counted in the worker,
    as many at a time as fit into `memory_bytes` on the largest sample; the model is run once for
    each such group.

    Attributes:
        model: The model; it is left as it was.
        samples: Feeds.
        worker: Where the model runs.
        is_counted: Count cells; extremes alone otherwise.
        padding: Positions that are left out where they are padded, by value name.
        memory_bytes: Bytes of values held at once.
        progress: Told after each sample how many runs are done, and how many there are.
        checkpoint: Given what was counted so far, every `checkpoint_s` seconds.
        folder: Where copies of the model lie while they run.
    """

    model: ir.Model
    samples: Samples
    worker: Worker
    is_counted: bool = True
    padding: Mapping[str, Padding] = field(default_factory=dict)
    memory_bytes: int = MEMORY_BYTES
    progress: Callable[[int, int], None] | None = None
    checkpoint: Callable[[Observation], None] | None = None
    checkpoint_s: float = 5.0
    folder: StateFolder = field(default_factory=StateFolder)

    def run(self, names: Sequence[str], known: Observation | None = None) -> Observation:
        """Count the named values.

        Args:
            names: Inputs of the model, and float values of its main graph; others are ignored.
            known: An earlier observation that was interrupted, to go on with; it is changed.

        Returns:
            The histograms of the named values; one that was always empty may be missing.

        Raises:
            SessionLoadError: The runtime refuses the model.
            RuntimeFailure: The runtime fails on a sample, which is named.
        """
        state = known or Observation()
        total = len(self.samples)
        groups = self._groups(names, state.seen)
        planned = sum(total - group.start for group in groups)
        runs = itertools.count(1)
        for group in groups:
            with self._counter(group) as counter:
                self._run_group(group, counter, state, lambda: self._tell(next(runs), planned))
        return state

    def _run_group(
        self, group: _Group, counter: _Counter, state: Observation, tell: Callable[[], None]
    ) -> None:
        names = (*group.inputs, *group.outputs)
        earlier = {name: state.histograms[name] for name in names if name in state.histograms}
        saved = time.monotonic()
        feeds = itertools.islice(self.samples, group.start, None)
        done = group.start
        for batch in self._batches(feeds):
            self._add(counter, batch, done)
            count = len(batch)
            del batch  # here as well
            done += count
            for _ in range(count):
                tell()
            if self.checkpoint and time.monotonic() - saved >= self.checkpoint_s:
                self._enter(state, names, earlier, counter.found(), done)
                self.checkpoint(state)
                saved = time.monotonic()
        self._enter(state, names, earlier, counter.found(), done)

    def _enter(
        self,
        state: Observation,
        names: Sequence[str],
        earlier: Mapping[str, Histogram],
        found: Mapping[str, Histogram],
        done: int,
    ) -> None:
        """Enter into ``state`` what was counted by now, on top of what it held at the start."""
        for name in names:
            state.seen[name] = done
            parts = [item[name] for item in (earlier, found) if name in item]
            if parts:
                # Made anew from what there was at the start: the counter's own goes on from there,
                # and would be added twice.
                state.histograms[name] = whole = Histogram(is_counted=self.is_counted)
                for part in parts:
                    whole.merge(part)

    def _batches(self, feeds: Iterator[Feed]) -> Iterator[list[Feed]]:
        """Yield what is run at one time."""
        others = self._at_once - 1
        for feed in feeds:
            is_small = sum(array.nbytes for array in feed.values()) <= _SMALL_BYTES
            # Copied, for whoever fills one array again and again.
            is_copied = is_small and others > 0
            batch = [{name: array.copy() for name, array in feed.items()} if is_copied else feed]
            del feed
            batch += itertools.islice(feeds, others if is_small else 0)
            yield batch
            del batch  # before the next one is read

    def _tell(self, done: int, planned: int) -> None:
        if self.progress is not None:
            self.progress(done, planned)

    def _add(self, counter: _Counter, batch: Sequence[Feed], done: int) -> None:
        """Count samples; where one of several fails, all are tried again, to name it."""
        try:
            counter.add(batch)
        except RuntimeFailure as error:
            if len(batch) > 1 and self.worker.is_alive:
                for place, feed in enumerate(batch):
                    self._add(counter, [feed], done + place)
                return  # together they were too large
            numbers = " or ".join(str(done + 1 + place) for place in range(len(batch)))
            error.where = f"sample {numbers} of `{self.samples.source}`"
            raise

    # -- what is counted together --------------------------------------------------------------

    @property
    def _is_reduced(self) -> bool:
        return not self.is_counted and not self.padding

    def _groups(self, names: Sequence[str], seen: Mapping[str, int]) -> list[_Group]:
        """Divide values by how far they are, and by what can be held at once."""
        wanted = dict.fromkeys(names)
        # An initializer that may be overridden is an input too, and samples do not hold it.
        defaults = self.model.graph.initializers
        fed = [
            value.name
            for value in self.model.graph.inputs
            if value.name in wanted and value.name not in defaults
        ]
        computed = self._computed(wanted)
        inputs: defaultdict[int, list[str]] = defaultdict(list)
        outputs: defaultdict[int, list[str]] = defaultdict(list)
        for found, place in ((fed, inputs), (computed, outputs)):
            for name in found:
                place[seen.get(name or "", 0)].append(name or "")
        groups: list[_Group] = []
        for start in sorted({*inputs, *outputs}):
            if start < len(self.samples):
                # Inputs are counted along with the first: they take no room among the outputs of a
                # run.
                first, *others = self._packed(outputs[start]) or [()]
                groups.append(_Group(start, tuple(inputs[start]), first))
                groups += [_Group(start, (), part) for part in others]
        return groups

    def _computed(self, wanted: Mapping[str, None]) -> list[str | None]:
        """Return the values that nodes compute and that are not known to be other than floats."""
        found = [
            output for node in self.model.graph for output in node.outputs if output.name in wanted
        ]
        if all(value.dtype is not None for value in found):
            types = {value.name: value.dtype for value in found}
        else:  # exporters leave most of them out, and booleans cannot be summed
            shapes = infer_shapes(self.model)
            known = {value.name: shapes.of(value) for value in found}
            types = {name: None if item is None else item.dtype for name, item in known.items()}
        kinds = {name: kind is None or kind.is_floating_point() for name, kind in types.items()}
        return [value.name for value in found if kinds[value.name]]

    def _packed(self, names: Sequence[str]) -> list[tuple[str, ...]]:
        """Divide values into groups that fit into memory on the largest sample."""
        if self._is_reduced or not names:
            return [tuple(names)] if names else []
        sizes = self._sizes(names)
        packed: list[list[str]] = [[]]
        held = 0
        for name in names:
            size = sizes[name] * _LARGEST_ELEMENT_BYTES
            if packed[-1] and held + size > self.memory_bytes:
                packed.append([])
                held = 0
            packed[-1].append(name)
            held += size
        return [tuple(part) for part in packed]

    def _sizes(self, names: Sequence[str]) -> dict[str, int]:
        """Return the elements of each value on the largest sample, from one plain run."""
        largest = max(self.samples, key=lambda feed: sum(item.size for item in feed.values()))
        copy = clone(self.model)
        values = {output.name: output for node in copy.graph for output in node.outputs}
        for name in names:
            node = ir.node("Size", [values[name]], name=f"{name}//Size")
            node.outputs[0].name = f"{name}//Size"
            copy.graph.append(node)
            copy.graph.outputs.append(node.outputs[0])
        with self.folder.written(copy) as path, self.worker.load(path, _ONCE) as session:
            found = session.run(largest, [f"{name}//Size" for name in names])
        return {name: int(found[f"{name}//Size"]) for name in names}

    @contextmanager
    def _counter(self, group: _Group) -> Iterator[_Counter]:
        with ExitStack() as stack:
            path, reduced = self._written(stack, group)
            # The copy, what was there to write it, and what was read of weights.
            collect_memory()
            release_files(self.model)
            with self.worker.load(path, self._options()) as session:
                if self._is_reduced:
                    yield Reductions(session, group.inputs, reduced)
                else:
                    yield _InWorker(session, group, self.padding, self.is_counted)
        self.worker.release()  # whoever asked goes on to round weights

    @property
    def _at_once(self) -> int:
        """How many samples are run at once."""
        if not self._is_reduced or usable_cores() < _AT_ONCE:
            return 1
        convolutions, products = _layers(self.model)
        if 2 * convolutions <= products:
            return 1
        # Who draws first would be chance, and the same seed would give other ranges.
        operators = Operators(self.model)
        nodes = self.model.graph.all_nodes()
        return 1 if any(operators.effect(node) is Effect.RANDOM for node in nodes) else _AT_ONCE

    def _options(self) -> SessionOptions:
        convolutions, products = _layers(self.model)
        options = _UNPACKED if convolutions > products else _OPTIONS
        share = self._at_once
        return options if share == 1 else replace(options, threads=usable_cores() // share)

    def _written(self, stack: ExitStack, group: _Group) -> tuple[Path, dict[str, Reduced]]:
        """Write the model that is run, for as long as ``stack`` is open; it is not held."""
        reduced: dict[str, Reduced] = {}
        if self._is_reduced:
            copy, reduced = with_reductions(self.model, group.outputs)
        else:
            copy = self._exposed(group.outputs)
        return stack.enter_context(self.folder.written(copy)), reduced

    def _exposed(self, names: Sequence[str]) -> ir.Model:
        """Return a copy of the model that also returns the named values."""
        copy = clone(self.model)
        returned = {value.name for value in copy.graph.outputs}
        values = {output.name: output for node in copy.graph for output in node.outputs}
        copy.graph.outputs.extend(values[name] for name in names if name not in returned)
        return copy


def _layers(model: ir.Model) -> tuple[int, int]:
    """Return how many convolutions there are, and how many products of matrices."""
    counts = operators_of(model)
    products = counts.get(("", "MatMul"), 0) + counts.get(("", "Gemm"), 0)
    return counts.get(("", "Conv"), 0), products
