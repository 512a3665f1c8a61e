"""Which provider runs what: pieces, copies between devices, and the work that is left to others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.runtime.options import SessionOptions
from graphopt.runtime.values import Feeds

if TYPE_CHECKING:
    from graphopt.runtime.client import Worker
    from graphopt.runtime.session import NodeTiming

__all__ = ["Placement", "measure_placement", "placement_of_run"]

_COPIES = ("MemcpyFromHost", "MemcpyToHost")
_RUNS = 2  # the first one allocates, and compiles where a provider does that late


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the nodes of a model run.

    Attributes:
        provider: The provider that should run all of them.
        is_estimate: Told by rules, for a provider that is not here; otherwise it ran.
        partitions: Pieces that the provider runs without a node of another one between.
        copies: Values that cross from device to device in a run; where it ran, copies that the
            runtime inserted (none for providers that share the memory of the host).
        share_off_accelerator: Share of the work that others do: of the time where it ran, of the
            multiplications in an estimate (of the nodes, where those cannot be counted).
        nodes: Nodes by provider; a piece that a provider compiled counts as one where it ran.
        operators_off: Operators that others run, with how many nodes, the most frequent first.
    """

    provider: str
    is_estimate: bool
    partitions: int
    copies: int
    share_off_accelerator: float
    nodes: Mapping[str, int]
    operators_off: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            **asdict(self),
            "nodes": dict(self.nodes),
            "operators_off": dict(self.operators_off),
        }

    def summary(self) -> str:
        """Return one line for a reader."""
        kind = "estimated" if self.is_estimate else "measured"
        pieces = f"{self.partitions} partition{'s' * (self.partitions != 1)}"
        off = ", ".join(f"{name} {count}" for name, count in list(self.operators_off.items())[:5])
        rest = f": {off}" if off else ""
        return (
            f"{kind}: {pieces} on {self.provider}, {self.copies} copies, "
            f"{self.share_off_accelerator:.1%} of the work elsewhere{rest}"
        )


def measure_placement(
    model_path: Path, options: SessionOptions, feed: Feeds, *, worker: Worker
) -> Placement:
    """Run a model as a device would, and tell which provider ran what.

    Args:
        model_path: The model.
        options: Of its session; the first provider is the one that should run all.
        feed: What it runs on.
        worker: Where it runs.

    Raises:
        RuntimeFailure: The runtime refuses the model or the feed.
    """
    with worker.load(model_path, replace(options, profile=True)) as session:
        for _ in range(_RUNS):
            session.run(feed)
        timings = session.profile()
    # Branches and loops may run other nodes each time; then what all runs did is the answer.
    size, rest = divmod(len(timings), _RUNS)
    return placement_of_run(
        timings[-size:] if size and not rest else timings, options.providers[0][0]
    )


def placement_of_run(timings: Sequence[NodeTiming], provider: str) -> Placement:
    """Return the placement that the profile of one run shows, its nodes in the order of the run."""
    others = [node for node in timings if node.provider != provider]
    total = sum(node.duration_us for node in timings)
    return Placement(
        provider=provider,
        is_estimate=False,
        partitions=_pieces(timings, provider),
        copies=sum(node.operator in _COPIES for node in timings),
        share_off_accelerator=sum(node.duration_us for node in others) / total if total else 0.0,
        nodes=dict(Counter(node.provider for node in timings).most_common()),
        operators_off=dict(Counter(node.operator for node in others).most_common()),
    )


def _pieces(timings: Iterable[NodeTiming], provider: str) -> int:
    """Count the pieces: runs of nodes, of which each compiled one is a piece of its own."""
    count = 0
    for name, group in groupby(timings, key=lambda node: node.provider):
        if name == provider:
            # What a provider compiled is named after it.
            compiled = sum(node.name.startswith(provider) for node in group)
            count += max(1, compiled)
    return count
