"""The result of `optimize` as data; `schema.json` beside this file describes its JSON form."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from importlib import resources
from typing import Any, Generic, Literal, Self, TypeAlias, TypeVar

from graphopt.calibration import SampleWarning
from graphopt.pipeline import PassEntry
from graphopt.report.details import ReportDetails
from graphopt.rewrite import ExitDecision, GroupDecision
from graphopt.runtime import LatencyComparison, LoadedGraph, Placement
from graphopt.targets import GateResult

__all__ = [
    "BeforeAfter",
    "CandidateResult",
    "CandidateStatus",
    "LatencyResult",
    "MetricResult",
    "OptimizeResult",
    "PassResult",
    "result_schema",
    "to_json",
]

SCHEMA_VERSION = 1

Value = TypeVar("Value")
Errors: TypeAlias = Mapping[str, Mapping[str, float | bool | str | None]]
"""Per output what `ErrorSummary.to_dict` says of it."""

CandidateStatus: TypeAlias = Literal["chosen", "passed", "missed-goals", "broken", "rejected"]
"""`passed` met every gate and was not best; `missed-goals` is right, and too slow or too large;
`broken` fails a correctness gate; `rejected` could not be built, loaded or run."""


@dataclass(frozen=True)
class BeforeAfter(Generic[Value]):
    """A figure of the original and of what was chosen; ``None`` where it was not measured."""

    before: Value
    after: Value


_NOT_MEASURED: BeforeAfter[float | None] = BeforeAfter(None, None)


@dataclass(frozen=True, kw_only=True)
class LatencyResult:
    """Time of one run against the original.

    Attributes:
        verdict: `faster`, `same`, `slower`, `too-noisy`, or `not-measured`.
        ratio: Candidate over original; ``None`` where not measured.
        ratio_low: Lower end of its confidence interval.
        ratio_high: Upper end of its confidence interval.
        p10_ms: 10th percentile of wall time, the figure that verdicts rest on.
        median_ms: Median of wall time.
        p99_ms: 99th percentile of wall time.
        cpu_ms: Processor time of one run, all threads.
        reason: What must be known about the verdict.
    """

    verdict: str = "not-measured"
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    p10_ms: BeforeAfter[float | None] = _NOT_MEASURED
    median_ms: BeforeAfter[float | None] = _NOT_MEASURED
    p99_ms: BeforeAfter[float | None] = _NOT_MEASURED
    cpu_ms: BeforeAfter[float | None] = _NOT_MEASURED
    reason: str | None = None

    @classmethod
    def of(cls, latency: LatencyComparison | None) -> Self:
        """Take over what was measured, if anything was."""
        if latency is None:
            return cls()
        before, after = latency.before, latency.after
        return cls(
            verdict=latency.verdict,
            ratio=latency.ratio,
            ratio_low=latency.ratio_low,
            ratio_high=latency.ratio_high,
            p10_ms=BeforeAfter(before.p10_ms, after.p10_ms),
            median_ms=BeforeAfter(before.median_ms, after.median_ms),
            p99_ms=BeforeAfter(before.p99_ms, after.p99_ms),
            cpu_ms=BeforeAfter(before.cpu_ms, after.cpu_ms),
            reason=latency.reason or None,
        )


@dataclass(frozen=True, kw_only=True)
class MetricResult:
    """The task metric of the original and of what was chosen.

    Attributes:
        name: Name of the metric.
        before: Of the original.
        after: Of what was chosen; ``None`` where nothing was.
        drop: How much worse it got, as `max_metric_drop` counts; negative where it got better.
    """

    name: str
    before: float
    after: float | None = None
    drop: float | None = None


@dataclass(frozen=True, kw_only=True)
class CandidateResult:
    """One version that was considered.

    Attributes:
        name: Its name in the target.
        pipeline: Its whole recipe as pipeline text.
        status: What became of it.
        reason: Why, where it is not `chosen` or `passed`.
        size_bytes: Bytes of its files.
        nodes: Nodes of all graphs.
        latency: Against the original.
        metric: Its task metric.
        error: Per output the worst difference from the original.
        gates: Every gate with its value.
        loaded: What the runtime made of it; ``None`` where it was not timed.
        placement: Which provider runs what; ``None`` where the CPU provider runs all.
    """

    name: str
    pipeline: str
    status: CandidateStatus
    reason: str | None = None
    size_bytes: int | None = None
    nodes: int | None = None
    latency: LatencyResult = field(default_factory=LatencyResult)
    metric: float | None = None
    error: Errors = field(default_factory=dict)
    gates: tuple[GateResult, ...] = ()
    loaded: LoadedGraph | None = None
    placement: Placement | None = None


@dataclass(frozen=True, kw_only=True)
class PassResult:
    """One run of one pass of the chosen candidate's recipe.

    Attributes:
        name: Name of the pass.
        text: Its pipeline text, options included.
        status: `applied`, `unchanged`, `skipped` or `rolled-back`.
        reason: Why, where that needs saying.
        edits: Rewrites applied.
        refusals: Places where it matched and did not act.
        nodes: Nodes of all graphs.
        size_bytes: Bytes of all weights.
        seconds: Wall time.
        drift: Per output the difference that an approximate pass made.
    """

    name: str
    text: str
    status: str
    reason: str | None = None
    edits: int = 0
    refusals: int = 0
    nodes: BeforeAfter[int]
    size_bytes: BeforeAfter[int]
    seconds: float = 0.0
    drift: Errors | None = None

    @classmethod
    def of(cls, entry: PassEntry) -> Self:
        """Take over an entry of the ledger."""
        return cls(
            name=entry.pass_name,
            text=entry.pass_text,
            status=entry.status,
            reason=entry.reason,
            edits=entry.edits,
            refusals=entry.refusals,
            nodes=BeforeAfter(entry.nodes_before, entry.nodes_after),
            size_bytes=BeforeAfter(entry.bytes_before, entry.bytes_after),
            seconds=entry.seconds,
            drift=entry.drift,
        )


@dataclass(frozen=True, kw_only=True)
class OptimizeResult:
    """What `optimize` did and measured; field names are the keys of the JSON form.

    Attributes:
        source: File of the original.
        source_sha256: Digest of the original's structure and weights.
        target: Name of the target.
        chosen: Name of the candidate that was written; ``None`` where none passes correctness.
        verdict: `equal` bit for bit, `within-budget`, or `broken` where nothing was chosen.
        gates_met: Whether what was chosen meets every gate.
        gates: Every gate with limit and value, of what was chosen.
        size_bytes: Bytes of the model's files.
        nodes: Nodes of all graphs.
        latency: Against the original.
        error: Per output the worst difference from the original.
        metric: The task metric; ``None`` without evaluation data.
        candidates: Everything that was considered.
        passes: What each pass of the chosen recipe did.
        pipeline: The chosen recipe as pipeline text.
        operators: Nodes by operator.
        macs: Multiply-accumulate operations for the measured shapes, where they can be counted.
        samples: Number of inputs on which outputs were compared.
        samples_are_real: They come from the user; generated ones say less.
        seed: Seed of everything random.
        seconds: Wall time of the whole job.
        output: The bundle; ``None`` where nothing was written.
        versions: Of the tools that made and measured it.
        sample_warnings: What is doubtful about the samples that were given.
        notes: What a reader of the numbers must know.
        not_verified: Why the target is not on this machine, where it is not; numbers are then
            those of the CPU provider without optimizations.
        decisions: Which units of which groups the chosen recipe removed, and why.
        exits: Where inputs may leave what the chosen recipe made early.
        details: What only the page of a bundle shows; ``None`` elsewhere.
    """

    source: str
    source_sha256: str | None = None
    target: str
    chosen: str | None
    verdict: Literal["equal", "within-budget", "broken"]
    gates_met: bool
    gates: tuple[GateResult, ...]
    size_bytes: BeforeAfter[int | None]
    nodes: BeforeAfter[int | None]
    latency: LatencyResult = field(default_factory=LatencyResult)
    error: Errors = field(default_factory=dict)
    metric: MetricResult | None = None
    candidates: tuple[CandidateResult, ...] = ()
    passes: tuple[PassResult, ...] = ()
    pipeline: str | None = None
    operators: BeforeAfter[Mapping[str, int]] = field(
        default_factory=lambda: BeforeAfter[Mapping[str, int]]({}, {})
    )
    macs: BeforeAfter[int | None] = field(
        default_factory=lambda: BeforeAfter[int | None](None, None)
    )
    samples: int = 0
    samples_are_real: bool = False
    seed: int = 0
    seconds: float = 0.0
    output: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    sample_warnings: tuple[SampleWarning, ...] = ()
    notes: tuple[str, ...] = ()
    not_verified: str | None = None
    decisions: tuple[GroupDecision, ...] = ()
    exits: tuple[ExitDecision, ...] = ()
    details: ReportDetails | None = None
    schema_version: int = SCHEMA_VERSION

    @property
    def exit_code(self) -> int:
        """0 where everything was met, 1 where a gate fails or nothing could be chosen."""
        return 0 if self.chosen is not None and self.gates_met else 1

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: plain tables, no NaN and no infinity."""
        plain = _plain(self)
        return {"schema_version": plain.pop("schema_version"), **plain}


def to_json(result: OptimizeResult) -> str:
    """Return the JSON text of a result, with a final newline."""
    return json.dumps(result.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


@cache
def result_schema() -> dict[str, Any]:
    """Return the JSON schema of the JSON form."""
    text = (resources.files("graphopt.report") / "schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def _plain(item: Any) -> Any:
    if isinstance(item, GroupDecision | ExitDecision):
        return _plain(item.to_dict())
    if is_dataclass(item):
        return {part.name: _plain(getattr(item, part.name)) for part in fields(item)}
    if isinstance(item, Mapping):
        return {str(key): _plain(part) for key, part in item.items()}
    if isinstance(item, list | tuple):
        return [_plain(part) for part in item]
    if isinstance(item, float) and not math.isfinite(item):
        return None
    return item
