"""Where a candidate runs: measured where its providers are here, else told by their rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from graphopt.analysis import infer_shapes
from graphopt.analysis.macs import macs_by_node
from graphopt.analysis.partitions import cut
from graphopt.ir import load
from graphopt.runtime import Placement, measure_placement
from graphopt.search.workbench import Workbench
from graphopt.targets import Target, provider_rules

__all__ = ["CPU", "estimate_placement", "placement_of"]

CPU = "CPUExecutionProvider"


def placement_of(bench: Workbench, path: Path) -> Placement | None:
    """Return where a candidate runs; ``None`` where there is nothing to tell.

    Nothing is to be told where the host's own processor is the target, and where nobody wrote down
    what an absent provider runs.

    Raises:
        RuntimeFailure: The runtime refuses the model.
    """
    if bench.target.runtime.providers[0].name == CPU:
        return None
    if bench.absence is None:
        return measure_placement(path, bench.options, bench.latency_feed, worker=bench.worker)
    return estimate_placement(load(path), bench.target, bench.sizes())


def estimate_placement(
    model: ir.Model, target: Target, sizes: Mapping[str, int] | None = None
) -> Placement | None:
    """Tell from rules which nodes the first provider of a target runs.

    Args:
        model: The model as shipped; what the runtime fuses when it loads it is not looked at.
        target: Its providers.
        sizes: Of symbolic dimensions, for the share of the work.

    Returns:
        ``None`` where nothing is known of the provider.
    """
    provider = target.runtime.providers[0].name
    rules = provider_rules(provider)
    if rules is None:
        return None
    shapes = infer_shapes(model)
    found = cut(
        model.graph,
        lambda node: rules.runs(node, shapes),
        lambda node: not node.domain and node.op_type in rules.joined,
    )
    off = Counter(node.op_type for node in found.outside)
    host = next((item.name for item in target.runtime.providers[1:]), CPU)
    return Placement(
        provider=provider,
        is_estimate=True,
        partitions=found.partitions,
        copies=found.copies,
        share_off_accelerator=_share(model, found.inside, found.outside, sizes),
        nodes={provider: len(found.inside), host: len(found.outside)},
        operators_off=dict(off.most_common()),
    )


def _share(
    model: ir.Model,
    inside: Sequence[ir.Node],
    outside: Sequence[ir.Node],
    sizes: Mapping[str, int] | None,
) -> float:
    macs = macs_by_node(model, sizes)
    # By name: both counts are taken over the same nodes, which have one of their own since they
    # were loaded.
    held = {node.name for node in outside}
    if macs:
        return sum(count for name, count in macs.items() if name in held) / sum(macs.values())
    total = len(inside) + len(outside)
    return len(outside) / total if total else 0.0
