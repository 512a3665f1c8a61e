"""A candidate as the runtime runs it: what it made of the model, and where the time goes."""

from __future__ import annotations

import collections
import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from graphopt.runtime.client import Worker
from graphopt.runtime.integer_rate import integer_rate
from graphopt.runtime.options import SessionOptions
from graphopt.runtime.session import NodeTiming, Session
from graphopt.runtime.values import Feeds

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphopt.analysis.loaded_findings import Finding

__all__ = ["GROUPS", "LoadedGraph", "inspect_loaded"]

_RUNS = 8
_WORTH_A_WORD = 0.05
# Weights that lie beside the model are looked for beside the file that is written, too.
_BESIDE = {
    "session.optimized_model_external_initializers_file_name": "loaded.data",
    "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
}
_X86 = frozenset({"x86_64", "amd64", "i386", "i686"})

GROUPS: dict[str, frozenset[str]] = {
    "integer layers": frozenset(
        {"ConvInteger", "DynamicQuantizeMatMul", "GatherBlockQuantized", "MatMulInteger"}
        | {"MatMulIntegerToFloat", "MatMulNBits", "QGemm", "QLinearConv", "QLinearMatMul"}
    ),
    "float layers": frozenset({"Conv", "ConvTranspose", "FusedConv", "FusedGemm", "Gemm"}),
    "attention": frozenset(
        {"Attention", "FusedMatMul", "GroupQueryAttention", "MatMul", "MultiHeadAttention"}
        | {"Softmax"}
    ),
    "activations": frozenset(
        {"BiasGelu", "Erf", "FastGelu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish"}
        | {"QLinearLeakyRelu", "QLinearSigmoid", "QuickGelu", "Relu", "Sigmoid", "Tanh"}
    ),
    "normalization": frozenset(
        {"BatchNormalization", "GroupNorm", "GroupNormalization", "InstanceNormalization"}
        | {"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"}
        | {"SkipLayerNormalization", "SkipSimplifiedLayerNormalization"}
    ),
    "Q/DQ": frozenset({"DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"}),
    "moving data": frozenset(
        {"Cast", "Concat", "Expand", "Flatten", "Gather", "Pad", "QLinearConcat", "Reorder"}
        | {"ReorderInput", "ReorderOutput", "Reshape", "Slice", "Split", "Squeeze", "Tile"}
        | {"Transpose", "Unsqueeze"}
    ),
}
"""Operators by what they are for; all others count as `other`."""


@dataclass(frozen=True, kw_only=True)
class LoadedGraph:
    """What became of a model in the runtime.

    Attributes:
        operators: Nodes by operator, as the runtime runs them.
        findings: What costs time and need not.
        shares: Share of the run by `GROUPS`, a fraction, the largest first.
        run_ms: Sum over all nodes of the wall time of each, the least of a few runs.
        macs: Multiply-accumulate operations of one run, where integers multiply and they can be
            counted.
        floor_ms: What they would take at the rate of the runtime's 8-bit product on this machine.
        floor_ratio: `run_ms` over `floor_ms`.
    """

    operators: Mapping[str, int]
    findings: tuple[Finding, ...]
    shares: Mapping[str, float]
    run_ms: float
    macs: int | None = None
    floor_ms: float | None = None
    floor_ratio: float | None = None

    def summary(self) -> str:
        """Return one line: distance from the floor, and where the time goes."""
        parts = [
            f"{name} {share:.0%}" for name, share in self.shares.items() if share >= _WORTH_A_WORD
        ]
        if self.floor_ratio is None:
            return ", ".join(parts)
        return f"{self.floor_ratio:.1f}x the int8 floor: " + ", ".join(parts)


def inspect_loaded(
    model_path: Path,
    options: SessionOptions,
    feed: Feeds,
    *,
    worker: Worker,
) -> LoadedGraph:
    """Load a model as a device would, and look at what the runtime made of it.

    Args:
        model_path: The candidate.
        options: Of the session that will run it.
        feed: What is timed.
        worker: Where it runs.

    Raises:
        RuntimeFailure: The runtime refuses the model or the feed.
    """
    from graphopt.analysis.loaded_findings import find_slow_parts, is_integer_product
    from graphopt.ir import load, scratch_folder

    with scratch_folder() as folder:
        written = Path(folder) / "loaded.onnx"
        timed = replace(
            options,
            optimized_model_path=written,
            profile=True,
            config={**options.config, **_BESIDE},
        )
        with worker.load(model_path, timed) as session:
            timings = _timings(session, feed)
        graph = load(written).graph
        found = find_slow_parts(graph, is_x86=platform.machine().lower() in _X86)
        layers = {node.name or "" for node in graph if _matrix_operand(node) is not None}
        has_integers = any(is_integer_product(node) for node in graph)
        operators = collections.Counter(node.op_type for node in graph)
    run_us = sum(timing.duration_us for timing in timings)
    macs = floor_ms = None
    if has_integers:  # a model of floats has no such floor: nothing to count for
        model = load(model_path)
        macs = _macs(model, feed)
        if macs:
            rows = max(1, round(macs / _multiplied_elements(model)))
            floor_ms = macs / integer_rate(worker, options.threads, rows) * 1e3
    return LoadedGraph(
        operators=dict(operators.most_common()),
        findings=tuple(_with_share(finding, timings, run_us) for finding in found),
        shares=_shares(timings, layers, run_us),
        run_ms=run_us / 1e3,
        macs=macs,
        floor_ms=floor_ms,
        floor_ratio=run_us / 1e3 / floor_ms if floor_ms else None,
    )


def _timings(session: Session, feed: Feeds) -> list[NodeTiming]:
    """Return what each node took when it was fastest in a few runs: others disturb single nodes."""
    from graphopt.ir.walk import CONTAINERS

    for _ in range(_RUNS):
        session.run(feed)
    # What runs a branch or a loop takes the time of the nodes in it, which are timed themselves.
    timings = [timing for timing in session.profile() if timing.operator not in CONTAINERS]
    size, rest = divmod(len(timings), _RUNS)
    # Branches and loops: not every run has the same nodes, so take the mean of them all. Where all
    # is constant none ran, and there are none.
    if rest or not size:
        return [timing._replace(duration_us=timing.duration_us / _RUNS) for timing in timings]
    runs = [timings[start : start + size] for start in range(size, len(timings), size)]
    return [min(same, key=lambda timing: timing.duration_us) for same in zip(*runs, strict=True)]


def _with_share(finding: Finding, timings: Sequence[NodeTiming], run_us: float) -> Finding:
    names = frozenset(finding.nodes)
    spent = sum(timing.duration_us for timing in timings if timing.name in names)
    return replace(finding, share=spent / run_us if run_us else None)


def _shares(
    timings: Sequence[NodeTiming], layers: Collection[str], run_us: float
) -> dict[str, float]:
    spent: dict[str, float] = collections.defaultdict(float)
    for timing in timings:
        group = _group_of(timing.operator)
        # A product with constant weights is a layer, one of two computed values is attention.
        is_layer = group == "attention" and timing.name in layers
        spent["float layers" if is_layer else group] += timing.duration_us
    largest = sorted(spent, key=lambda name: -spent[name])
    return {name: spent[name] / run_us for name in largest} if run_us else {}


def _group_of(operator: str) -> str:
    return next((name for name, held in GROUPS.items() if operator in held), "other")


def _multiplied_elements(model: ir.Model) -> int:
    """Return how many weights the layers have, so that operations per weight can be told."""
    seen = {tensor.name: tensor.size for tensor in map(_matrix_operand, model.graph) if tensor}
    return max(1, sum(seen.values()))


def _matrix_operand(node: ir.Node) -> ir.TensorProtocol | None:
    """Return the constant matrix or kernel that ``node`` multiplies by, dequantized or not."""
    from graphopt.ir import constant_tensor

    if node.op_type in ("Gather", "Reshape"):
        return None
    for value in node.inputs:
        tensor = constant_tensor(value)
        if tensor is not None and len(tensor.shape) > 1:
            return tensor
    return None


def _macs(model: ir.Model, feed: Feeds) -> int | None:
    """Count operations with the sizes of ``feed``, which then spread through the whole graph."""
    import onnx_ir as ir

    from graphopt.analysis.macs import count_macs
    from graphopt.ir import clone

    bound = clone(model)
    for value in bound.graph.inputs:
        array = feed.get(value.name or "")
        if isinstance(array, np.ndarray):
            value.shape = ir.Shape(array.shape)
    return count_macs(bound)
