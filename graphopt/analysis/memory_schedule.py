"""In which order the nodes of a graph keep the least memory in use at once.

A value takes memory from the node that computes it to its last reader. Several orders are tried,
since the best one is hard to find (register allocation, Sethi 1975): the one that is there; at each
step the node after which the least is held; and depth first from the outputs, what needs most
before the rest (Sethi and Ullman 1970). Weights, and what callers give, are there all the time
whatever the order, and do not count.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.analysis.operators import Effect, Operators
from graphopt.analysis.reads import values_read
from graphopt.ir import subgraphs_of
from graphopt.rewrite import is_overwritten

__all__ = ["Schedule", "schedule_graph"]

_VIEWS = frozenset({"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
"""Operators whose result the runtime keeps where their first input is."""

_IN_PLACE = frozenset(
    {"Clip", "Elu", "HardSigmoid", "LeakyRelu", "Relu", "Selu", "Sigmoid", "Softmax", "Softplus"}
    | {"Tanh"}
)
"""Operators whose result takes the place of an input that nobody else reads.

Found by the resident memory of ONNX Runtime 1.32, whose sums and products do not.
"""


@dataclass(frozen=True)
class Schedule:
    """An order of the nodes of a graph.

    Attributes:
        order: The nodes.
        peak: Most bytes of values that are in use at once, those inside subgraphs included.
    """

    order: tuple[ir.Node, ...]
    peak: int


def schedule_graph(
    graph: ir.Graph,
    sizes: Mapping[ir.Value, int],
    operators: Operators,
    inner: Mapping[ir.Graph, int],
) -> tuple[Schedule, Schedule]:
    """Return the order that is there, and the best one that was found: never a worse one.

    What has effects runs in the order in which it stood, and so do readers of what is overwritten.

    Args:
        graph: The graph, in order.
        sizes: Bytes of values.
        operators: Of the model.
        inner: Peaks of subgraphs.
    """
    tasks = _Tasks(graph, sizes, operators, inner)
    first = best = tuple(range(len(tasks.nodes)))
    peak = least = tasks.peak(first)
    while True:
        found = min(_orders(tasks, best), key=tasks.peak)
        if tasks.peak(found) >= least:
            break
        best, least = found, tasks.peak(found)  # ties fall otherwise now: again
    nodes = tuple(tasks.nodes)
    return Schedule(nodes, peak), Schedule(tuple(nodes[task] for task in best), least)


def _orders(tasks: _Tasks, now: Sequence[int]) -> Iterator[tuple[int, ...]]:
    places = {task: place for place, task in enumerate(now)}
    yield _greedy(tasks, places)
    yield _depth_first(tasks, places, tasks.needs(now))
    yield _depth_first(tasks, places, [0] * len(tasks.nodes))


class _Tasks:
    """The nodes of a graph by number: what each needs, holds and frees.

    Attributes:
        nodes: In order.
        before: What has to run before each.
        after: What waits for each.
        reads: Memory that each reads, by number.
        makes: Memory that each takes.
        sizes: Bytes of memory, by number.
        readers: Who reads it.
        is_kept: It is returned, and so in use to the end.
    """

    def __init__(
        self,
        graph: ir.Graph,
        sizes: Mapping[ir.Value, int],
        operators: Operators,
        inner: Mapping[ir.Graph, int],
    ) -> None:
        self.nodes = list(graph)
        numbers = {node: number for number, node in enumerate(self.nodes)}
        self.before: list[set[int]] = [set() for _ in self.nodes]
        self.reads: list[set[int]] = [set() for _ in self.nodes]
        self.makes: list[list[int]] = [[] for _ in self.nodes]
        self.within = [
            max((inner.get(body, 0) for body in subgraphs_of(node)), default=0)
            for node in self.nodes
        ]
        self.sizes: list[int] = []
        self._places: dict[ir.Value, int] = {}
        for number, node in enumerate(self.nodes):
            for value in values_read(node):
                producer = value.producer()
                if producer in numbers:
                    self.before[number].add(numbers[producer])
                if value in self._places:
                    self.reads[number].add(self._places[value])
            self._hold(number, node, sizes)
        self.readers: list[set[int]] = [set() for _ in self.sizes]
        for number, read in enumerate(self.reads):
            for place in read:
                self.readers[place].add(number)
        returned = (value for value in graph.outputs if value in self._places)
        self.is_kept = {self._places[value] for value in returned}
        self._keep_order(operators)
        self.after: list[list[int]] = [[] for _ in self.nodes]
        for number, needed in enumerate(self.before):
            for other in needed:
                self.after[other].append(number)

    def _hold(self, number: int, node: ir.Node, sizes: Mapping[ir.Value, int]) -> None:
        source = node.inputs[0] if node.inputs else None
        for value in node.outputs:
            is_view = not node.domain and node.op_type in _VIEWS and value is node.outputs[0]
            if is_view and source in self._places:
                self._places[value] = self._places[source]
                continue
            place = self._places[value] = len(self.sizes)
            # Constants are weights by another name.
            self.sizes.append(0 if node.op_type == "Constant" else sizes.get(value, 0))
            self.makes[number].append(place)

    def _keep_order(self, operators: Operators) -> None:
        chains: dict[object, int] = {}
        for number, node in enumerate(self.nodes):
            links: list[object] = [v for v in values_read(node) if is_overwritten(v)]
            if operators.effect(node) is not Effect.PURE:
                links.append("effect")
            for link in links:
                if link in chains and chains[link] != number:
                    self.before[number].add(chains[link])
                chains[link] = number

    def needed(self, number: int) -> int:
        """Return the bytes that a task takes while it runs, in whatever place they are."""
        return sum(self.sizes[place] for place in self.makes[number]) + self.within[number]

    def reused(self, number: int, freed: Sequence[int]) -> int:
        """Return the bytes that a result takes over from what is freed by the same task."""
        node = self.nodes[number]
        if node.op_type not in _IN_PLACE or len(self.makes[number]) != 1:
            return 0
        size = self.sizes[self.makes[number][0]]
        return size if any(self.sizes[place] == size for place in freed) else 0

    def peak(self, order: Sequence[int]) -> int:
        """Return the most bytes in use at once."""
        left = [len(readers) for readers in self.readers]
        used = most = 0
        for number in order:
            freed = []
            for place in self.reads[number]:
                left[place] -= 1
                if not left[place] and place not in self.is_kept:
                    freed.append(place)
            most = max(most, used + self.needed(number) - self.reused(number, freed))
            used += sum(self.sizes[place] for place in self.makes[number])
            used -= sum(self.sizes[place] for place in freed)
            unread = (p for p in self.makes[number] if not left[p] and p not in self.is_kept)
            used -= sum(self.sizes[place] for place in unread)
        return most

    def needs(self, order: Sequence[int]) -> list[int]:
        """Return for each task the bytes that computing it from nothing takes, as in a tree."""
        needs = [0] * len(self.nodes)
        for number in order:
            held = most = 0
            for other in sorted(self.before[number], key=lambda task: -needs[task]):
                most = max(most, held + needs[other])
                held += sum(self.sizes[place] for place in self.makes[other])
            needs[number] = max(most, held + self.needed(number))
        return needs


def _greedy(tasks: _Tasks, places: Mapping[int, int]) -> tuple[int, ...]:
    """Run of all that is ready what leaves the least in use; of equals, what stands first."""
    waiting = [len(needed) for needed in tasks.before]
    left = [len(readers) for readers in tasks.readers]
    done: set[int] = set()
    order: list[int] = []

    def growth(number: int) -> int:
        freed = (p for p in tasks.reads[number] if left[p] == 1 and p not in tasks.is_kept)
        made = (p for p in tasks.makes[number] if left[p] or p in tasks.is_kept)
        return sum(tasks.sizes[p] for p in made) - sum(tasks.sizes[p] for p in freed)

    heap = [(growth(n), places[n], n) for n, count in enumerate(waiting) if not count]
    heapq.heapify(heap)
    while heap:
        _, _, number = heapq.heappop(heap)
        if number in done:  # it was offered again when it had become better
            continue
        done.add(number)
        order.append(number)
        offered = set()
        for place in tasks.reads[number]:
            left[place] -= 1
            if left[place] == 1:
                offered |= {n for n in tasks.readers[place] if n not in done and not waiting[n]}
        for other in tasks.after[number]:
            waiting[other] -= 1
            if not waiting[other]:
                offered.add(other)
        for other in offered:
            heapq.heappush(heap, (growth(other), places[other], other))
    return tuple(order)


def _depth_first(tasks: _Tasks, places: Mapping[int, int], needs: Sequence[int]) -> tuple[int, ...]:
    """Run what each task needs just before it, what needs most first."""
    order: list[int] = []
    done: set[int] = set()

    def wanted(number: int) -> list[int]:
        # A stack: the last one runs first.
        return sorted(tasks.before[number], key=lambda task: (needs[task], -places[task]))

    ends = sorted((n for n in places if not tasks.after[n]), key=places.__getitem__)
    for end in ends:
        stack = [(end, False)]
        while stack:
            number, is_ready = stack.pop()
            if number in done:
                continue
            if is_ready:
                done.add(number)
                order.append(number)
                continue
            stack.append((number, True))
            stack.extend((task, False) for task in wanted(number) if task not in done)
    return tuple(order)
