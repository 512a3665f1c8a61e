"""From a chosen candidate to the parts of its bundle."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir

from graphopt.deploy import (
    BundleParts,
    Golden,
    RawGolden,
    convert_to_ort,
    record_golden,
    record_raw,
)
from graphopt.deploy.integrity import file_sha256
from graphopt.ir import external_files, load
from graphopt.report import OptimizeResult, to_html
from graphopt.runtime import measure_cold_start
from graphopt.search.campaign import Outcome
from graphopt.search.measure import Measured
from graphopt.search.prepared_samples import vector_output
from graphopt.search.report_details import report_details
from graphopt.targets import Target

__all__ = ["bundle_parts"]

_MEMORY_RUNS = 3
_ORT_NOTE = (
    "gates and times are those of the ONNX file that `model.ort` was made from; the recorded "
    "outputs of the model are those of `model.ort`"
)
_LEAST_MEMORY_GAIN = 0.01
"""Of the peak: by so much it differs from process to process."""


def bundle_parts(outcome: Outcome, chosen: Measured, result: OptimizeResult) -> BundleParts:
    """Return the parts of the bundle of a chosen candidate; golden samples are recorded now.

    Args:
        outcome: What came of the search.
        chosen: The candidate to ship.
        result: What is reported about it.

    Raises:
        RuntimeFailure: The model does not run any more.
    """
    bench = outcome.bench
    target, peaks = _with_measured_order(outcome, chosen)
    shipped = chosen.built.path
    if target.package.format == "ort":
        shipped = convert_to_ort(shipped, bench.options, bench.worker)
        result = replace(result, notes=(*result.notes, _ORT_NOTE))
    golden = record_golden(
        bench.source,
        shipped,
        bench.feeds[: bench.target.package.golden_samples],
        options=bench.options,
        worker=bench.worker,
        random_outputs=frozenset(chosen.comparison.random_outputs),
        is_verified=bench.absence is None,
    )
    # Where things lie on the machine that made it is nobody's business on the device.
    result = replace(result, source=Path(result.source).name, output=None)
    # Loaded again: the stages that all candidates share have changed `bench.model`.
    original = load(bench.source)
    details = report_details(
        original, chosen.built.path, bench.feeds[0], chosen.latency, bench.worker
    )
    result = replace(result, details=details)
    journal = _journal(outcome, chosen)
    return BundleParts(
        model=shipped,
        source=bench.source,
        source_sha256=_source_digest(bench.source, original, result),
        source_bytes=outcome.original_bytes,
        target=target,
        candidate=chosen.built.candidate.name,
        pipeline=result.pipeline or "",
        gates=chosen.gates,
        golden=golden,
        raw=_raw(outcome, shipped, golden),
        is_verified=bench.absence is None,
        seed=bench.seed,
        calibration_sha256=bench.calibration.digest() if bench.calibration else None,
        measured=_figures(chosen, result) | peaks,
        report=result.to_dict(),
        report_html=to_html(result, journal),
        journal=journal,
    )


def _source_digest(source: Path, original: ir.Model, result: OptimizeResult) -> str:
    """Return the digest of the original's file; of the model where weights lie outside of it."""
    # A device holds it against the file that it is given as the original, and cannot read models.
    return result.source_sha256 or "" if external_files(original) else file_sha256(source)


def _raw(outcome: Outcome, shipped: Path, golden: Golden) -> RawGolden | None:
    """Return what the golden samples were made of; ``None`` where they came as arrays."""
    bench = outcome.bench
    samples = bench.judging
    if samples is None or samples.prepared is None:
        return None
    items = [held or [] for held in islice(samples.items(), len(golden.samples))]
    return record_raw(
        bench.source,
        shipped,
        samples.prepared,
        items,
        vector_output=vector_output(bench.model, samples),
        options=bench.options,
        worker=bench.worker,
        is_verified=bench.absence is None,
    )


def _with_measured_order(
    outcome: Outcome, chosen: Measured
) -> tuple[Target, dict[str, float | str | None]]:
    """Return the target with the order of the file only where its peak is lower, and the peaks."""
    bench, found = outcome.bench, dict[str, int]()
    if bench.target.runtime.order == "default":
        return bench.target, {}
    orders: tuple[Literal["default", "priority"], ...] = ("default", "priority")
    for order in orders:
        options = replace(bench.options, order=order)
        starts = [
            measure_cold_start(chosen.built.path, bench.latency_feed, options)
            for _ in range(_MEMORY_RUNS)
        ]
        # The least of several: other work on the machine only adds to a peak.
        found[order] = min(start.peak_rss_bytes for start in starts)
    is_lower = found["priority"] < found["default"] * (1.0 - _LEAST_MEMORY_GAIN)
    target = bench.target.with_order("priority" if is_lower else "default")
    return target, {f"peak_memory_{order}_order_bytes": found[order] for order in orders}


def _figures(chosen: Measured, result: OptimizeResult) -> dict[str, float | str | None]:
    figures: dict[str, float | str | None] = {
        "latency_verdict": result.latency.verdict,
        "latency_ratio": result.latency.ratio,
        "latency_p10_ms": result.latency.p10_ms.after,
        "latency_before_p10_ms": result.latency.p10_ms.before,
        "size_ratio": chosen.size_ratio,
    }
    if chosen.cold_starts is not None:
        before, after = chosen.cold_starts
        figures |= {
            "peak_memory_bytes": after.peak_rss_bytes,
            "peak_memory_before_bytes": before.peak_rss_bytes,
            "load_ms": after.load_ms,
            "first_run_ms": after.first_run_ms,
        }
    if chosen.placement is not None:
        figures |= {
            "placement": "estimated" if chosen.placement.is_estimate else "measured",
            "partitions": chosen.placement.partitions,
            "copies": chosen.placement.copies,
            "share_off_accelerator": chosen.placement.share_off_accelerator,
        }
    if result.metric is not None:
        figures |= {"metric_before": result.metric.before, "metric_after": result.metric.after}
    return figures


def _journal(outcome: Outcome, chosen: Measured) -> dict[str, Any]:
    """Return every edit and refusal: of the shared stages, then of the candidate's own passes.

    Edits that are not shipped are none of the bundle's.
    """
    shared, own = outcome.shared.journal.to_dict(), chosen.built.ledger.journal.to_dict()
    whole = {key: [*shared[key], *own[key]] for key in shared}
    nothing: dict[str, Any] = {"edits": [], "decisions": [], "exits": []}
    return whole | nothing if chosen.built.is_original else whole
