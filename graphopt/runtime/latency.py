"""Latency of two models against each other, in one worker process."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.runtime.client import Worker
from graphopt.runtime.latency_statistics import (
    LOW_QUANTILE,
    Array,
    Interval,
    Verdict,
    judge,
    low_quantile_ratio,
    ratio_interval,
)
from graphopt.runtime.options import SessionOptions
from graphopt.runtime.session import Session, Timing, time_sessions
from graphopt.runtime.values import Feeds

__all__ = ["LatencyComparison", "LatencySummary", "measure_latency"]

_NANOSECONDS_PER_MS = 1e6
_WARM_UP_RUNS = 5
# Shorter samples than this are mostly the clock and the call.
_SHORTEST_SAMPLE_NS = 1e6
_BATCH_NS = 4e8
_LEAST_ROUNDS = 3
_ENOUGH_ROUNDS = 30
_MOST_ROUNDS = 4000
_QUANTILES = 21


@dataclass(frozen=True)
class LatencySummary:
    """Times of one model, in milliseconds per run.

    Attributes:
        p10_ms: 10 % quantile of the wall time: what the model takes when left alone.
        median_ms: Median of the wall time.
        p99_ms: 99 % quantile of the wall time; the maximum where there are few samples.
        cpu_ms: 10 % quantile of the CPU time, all threads together.
        runs: Timed runs.
        involuntary_switches: How often the process was taken off a core during them.
        quantiles_ms: Wall time at 21 evenly spaced quantiles, from the shortest to the longest.
    """

    p10_ms: float
    median_ms: float
    p99_ms: float
    cpu_ms: float
    runs: int
    involuntary_switches: int
    quantiles_ms: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LatencyComparison:
    """How fast a candidate is beside the baseline.

    Attributes:
        verdict: `faster`, `same`, `slower`, or `too-noisy` where the timings do not tell.
        reason: Why.
        bound: The ratio that is safe to promise: `ratio` itself, or the worst that wall and CPU
            time allow where noise leaves only the direction certain. Gates judge it.
        ratio: Candidate to baseline, of the 10 % quantiles of wall time; below 1 is faster.
        ratio_low: Lower end of the 95 % confidence interval.
        ratio_high: Upper end.
        cpu_ratio: The same ratio of CPU time.
        before: The baseline.
        after: The candidate.
        threads: Threads of both sessions; 0 where the runtime chose.
        rounds: Pairs of samples.
        seconds: Time spent, loading included.
        load_average: Of the last minute, before and after; empty where the system does not tell.
        cpu_interval: Ends of the 95 % confidence interval of `cpu_ratio`; None where CPU time is no
            measure of speed: of several threads, or of a clock that stood still.
    """

    verdict: Verdict
    reason: str
    bound: float
    ratio: float
    ratio_low: float
    ratio_high: float
    cpu_ratio: float
    before: LatencySummary
    after: LatencySummary
    threads: int
    rounds: int
    seconds: float
    load_average: tuple[float, ...] = ()
    cpu_interval: tuple[float, float] | None = None

    @property
    def surest(self) -> Interval:
        """The ratio of wall or of CPU time, whichever is known better.

        Where other work waits for the same cores, wall time says as much of it as of the models;
        of one thread, CPU time then measures the same thing with less noise.
        """
        wall = Interval(self.ratio, self.ratio_low, self.ratio_high)
        if self.cpu_interval is None:
            return wall
        cpu = Interval(self.cpu_ratio, *self.cpu_interval)
        return cpu if cpu.width < wall.width else wall

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


@dataclass
class _Samples:
    """What was timed so far: pairs of baseline and candidate, in order of time."""

    repeats: tuple[int, int]
    pairs: list[tuple[Timing, Timing]] = field(default_factory=list)

    def wall(self, side: int) -> Array:
        return np.array([pair[side].wall_ns for pair in self.pairs])

    def cpu(self, side: int) -> Array:
        return np.array([pair[side].cpu_ns for pair in self.pairs])

    def interval(self, seed: int) -> Interval:
        return ratio_interval(self.wall(0), self.wall(1), seed=seed)

    def summary(self, side: int) -> LatencySummary:
        low, median, high = np.quantile(self.wall(side), [LOW_QUANTILE, 0.5, 0.99])
        spread = np.quantile(self.wall(side), np.linspace(0.0, 1.0, _QUANTILES))
        return LatencySummary(
            p10_ms=float(low) / _NANOSECONDS_PER_MS,
            median_ms=float(median) / _NANOSECONDS_PER_MS,
            p99_ms=float(high) / _NANOSECONDS_PER_MS,
            cpu_ms=float(np.quantile(self.cpu(side), LOW_QUANTILE)) / _NANOSECONDS_PER_MS,
            runs=len(self.pairs) * self.repeats[side],
            involuntary_switches=sum(pair[side].switches for pair in self.pairs),
            quantiles_ms=tuple(float(ns) / _NANOSECONDS_PER_MS for ns in spread),
        )


def measure_latency(
    baseline: str | Path | bytes,
    candidate: str | Path | bytes,
    feeds: Feeds,
    *,
    options: SessionOptions | None = None,
    candidate_options: SessionOptions | None = None,
    budget_s: float = 10.0,
    precision: float = 0.03,
    margin: float = 0.03,
    seed: int = 0,
    timeout_s: float | None = None,
) -> LatencyComparison:
    """Time two models by turns until their ratio is known well enough, or the budget is spent.

    Both live in one fresh worker. Each round runs both, in an order that alternates at random;
    rounds go on until there are 30 and the confidence interval is narrow. Three are always run.

    Args:
        baseline: The model that ratios are relative to: a path, or its bytes.
        candidate: The model to judge.
        feeds: Input name to array.
        options: Of both sessions; the runtime's defaults with one thread where None.
        candidate_options: Of the candidate, where they differ.
        budget_s: Seconds for warm-up and rounds.
        precision: Relative width of the interval at which to stop, for example 0.03.
        margin: Ratios within ``1 / (1 + margin)`` and ``1 + margin`` are called the same.
        seed: Of the order of runs and the resampling.
        timeout_s: Seconds after which one batch of runs is a failure; None for no limit.

    Raises:
        SessionLoadError: The runtime refuses a model.
        RunError: The runtime refuses to run one.
        WorkerCrash, WorkerTimeout, WorkerOutOfMemory: The worker ended.
    """
    options = options or SessionOptions()
    start, load_before = time.monotonic(), _load_average()
    with Worker(timeout_s=timeout_s) as worker:
        sessions = (
            worker.load(baseline, options),
            worker.load(candidate, candidate_options or options),
        )
        for session in sessions:
            session.prepare(feeds)
        samples = _sample(sessions, budget_s, precision, seed)
    return _comparison(
        samples,
        threads=options.threads,
        margin=margin,
        seed=seed,
        seconds=time.monotonic() - start,
        load_average=load_before + _load_average(),
    )


def _comparison(
    samples: _Samples,
    *,
    threads: int,
    margin: float,
    seed: int,
    seconds: float,
    load_average: tuple[float, ...],
) -> LatencyComparison:
    wall = samples.interval(seed)
    cpu_ratio = low_quantile_ratio(samples.cpu(0), samples.cpu(1))
    # Of several threads some only wait, and waiting costs CPU time too.
    judgement = judge(wall, cpu_ratio if threads == 1 else None, margin=margin)
    return LatencyComparison(
        **vars(judgement),
        ratio=wall.ratio,
        ratio_low=wall.low,
        ratio_high=wall.high,
        cpu_ratio=cpu_ratio,
        before=samples.summary(0),
        after=samples.summary(1),
        threads=threads,
        rounds=len(samples.pairs),
        seconds=seconds,
        load_average=load_average,
        cpu_interval=_cpu_interval(samples, seed) if threads == 1 else None,
    )


def _cpu_interval(samples: _Samples, seed: int) -> tuple[float, float] | None:
    before, after = samples.cpu(0), samples.cpu(1)
    if not before.min() > 0 or not after.min() > 0:  # a clock that ticks slowly shows nothing
        return None
    found = ratio_interval(before, after, seed=seed)
    return found.low, found.high


def _sample(
    sessions: tuple[Session, Session], budget_s: float, precision: float, seed: int
) -> _Samples:
    deadline = time.monotonic() + budget_s
    per_run = _warm_up(sessions, budget_s)
    samples = _Samples((_repeats(per_run[0]), _repeats(per_run[1])))
    per_round = sum(ns * repeats for ns, repeats in zip(per_run, samples.repeats, strict=True))
    orders = _orders(np.random.default_rng(seed))
    while True:
        left_ns = (deadline - time.monotonic()) * 1e9
        missing = _LEAST_ROUNDS - len(samples.pairs)
        if missing <= 0 and (left_ns < per_round or len(samples.pairs) >= _MOST_ROUNDS):
            return samples
        batch = max(missing, 1, min(_ENOUGH_ROUNDS, int(min(_BATCH_NS, left_ns) // per_round)))
        samples.pairs += _rounds(sessions, samples.repeats, [next(orders) for _ in range(batch)])
        if len(samples.pairs) >= _ENOUGH_ROUNDS and samples.interval(seed).width <= precision:
            return samples


def _warm_up(sessions: tuple[Session, Session], budget_s: float) -> tuple[float, float]:
    """Run both a few times and return the shortest times seen, in nanoseconds per run."""
    best = [session.time().wall_ns for session in sessions]
    for _ in range(_WARM_UP_RUNS - 1):
        if sum(best) * _WARM_UP_RUNS > budget_s * 1e9 / 4:
            break  # models so slow that more warm-up would eat the rounds
        timings = time_sessions([(session, 1) for session in sessions])
        best = [min(old, new.wall_ns) for old, new in zip(best, timings, strict=True)]
    if min(best) < _SHORTEST_SAMPLE_NS:  # single runs of a small model are still mostly overhead
        plan = [(s, _repeats(ns)) for s, ns in zip(sessions, best, strict=True)]
        best = [timing.wall_ns for timing in time_sessions(plan)]
    return best[0], best[1]


def _repeats(per_run_ns: float) -> int:
    return max(1, round(_SHORTEST_SAMPLE_NS / per_run_ns))


def _orders(rng: np.random.Generator) -> Iterator[bool]:
    """Yield whether the candidate goes first: at random, and as often as not."""
    while True:
        first = bool(rng.integers(2))
        yield first
        yield not first


def _rounds(
    sessions: tuple[Session, Session], repeats: tuple[int, int], orders: Sequence[bool]
) -> list[tuple[Timing, Timing]]:
    sides = [side for swapped in orders for side in ((1, 0) if swapped else (0, 1))]
    timings = time_sessions([(sessions[side], repeats[side]) for side in sides])
    pairs = zip(timings[0::2], timings[1::2], strict=True)
    return [
        (second, first) if swapped else (first, second)
        for swapped, (first, second) in zip(orders, pairs, strict=True)
    ]


def _load_average() -> tuple[float, ...]:
    return os.getloadavg()[:1] if hasattr(os, "getloadavg") else ()
