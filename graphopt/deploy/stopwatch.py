"""How long one run takes on a device, alone or beside the original: the method of the host.

A part of the `validate.py` of every bundle, as the statistics are: Python 3.8 and numpy.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.runtime.latency_statistics import judge, low_quantile_ratio, ratio_interval

__all__ = ["measure"]

ALONE_BUDGET_S, BESIDE_BUDGET_S = 2.0, 10.0
WARM_UP_RUNS, FEWEST_SAMPLES, ENOUGH_SAMPLES, MOST_SAMPLES = 3, 10, 30, 1000
SHORTEST_SAMPLE_MS = 1.0  # what is shorter is mostly the clock and the call
PRECISION, MARGIN = 0.03, 0.03
NOTICEABLE_DRIFT = 1.1


def measure(
    model: Callable[[], tuple[float, float]],
    original: Callable[[], tuple[float, float]] | None,
    threads: int,
) -> tuple[dict[str, Any], str]:
    """Time a model, and the original by turns with it where there is one.

    Args:
        model: Runs once and returns milliseconds of wall time and of CPU time.
        original: The same.
        threads: Of the sessions. Where there are several, some only wait, and their CPU time is no
            measure of speed.

    Returns:
        What the report says under `latency`, and the sentence of the check.
    """
    runs = [model] if original is None else [original, model]
    repeats = [_repeats(run) for run in runs]
    rounds = _rounds(runs, repeats)
    own = [sample[-1] for sample in rounds]
    found = _summary(own)
    found["runs"] = len(rounds) * repeats[-1]
    found["drift_ratio"] = drift = _drift([wall for wall, _ in own])
    found["reference"] = None
    text = f"median {found['median_ms']:.3g} ms, p99 {found['p99_ms']:.3g} ms, {found['runs']} runs"
    if drift >= NOTICEABLE_DRIFT:
        text += f"; the last tenth took {drift:.2f} times the first: heat, or other work"
    if original is not None:
        found["reference"] = beside = _beside([sample[0] for sample in rounds], own, threads)
        text += f"; {beside['verdict']} than the original: {beside['reason']}"
    return found, text.replace("same than", "same as").replace("too-noisy than", "too noisy beside")


def _repeats(run: Callable[[], tuple[float, float]]) -> int:
    shortest = min(run()[0] for _ in range(WARM_UP_RUNS))
    return max(1, round(SHORTEST_SAMPLE_MS / max(shortest, 1e-6)))


def _rounds(
    runs: list[Callable[[], tuple[float, float]]], repeats: list[int]
) -> list[list[tuple[float, float]]]:
    """Return samples, (milliseconds of wall, of CPU) per run, one for each of `runs` per round."""
    # Who goes first is drawn: what comes second finds other caches.
    order, generator = list(range(len(runs))), random.Random(0)  # noqa: S311 - no secret
    budget = ALONE_BUDGET_S if len(runs) == 1 else BESIDE_BUDGET_S
    end = time.monotonic() + budget
    rounds: list[list[tuple[float, float]]] = []
    while len(rounds) < FEWEST_SAMPLES or (len(rounds) < MOST_SAMPLES and time.monotonic() < end):
        generator.shuffle(order)
        sample = [(0.0, 0.0)] * len(runs)
        for place in order:
            taken = np.array([runs[place]() for _ in range(repeats[place])])
            wall, cpu = taken.mean(axis=0)
            sample[place] = (float(wall), float(cpu))
        rounds.append(sample)
        if len(runs) > 1 and len(rounds) >= ENOUGH_SAMPLES and len(rounds) % 10 == 0:
            before, after = (np.array([pair[side][0] for pair in rounds]) for side in (0, 1))
            if ratio_interval(before, after).width <= PRECISION:
                break
    return rounds


def _summary(samples: list[tuple[float, float]]) -> dict[str, Any]:
    low, median, high = np.percentile([wall for wall, _ in samples], [10, 50, 99])
    return {"p10_ms": float(low), "median_ms": float(median), "p99_ms": float(high)}


def _drift(walls: list[float]) -> float:
    """Return the median of the last tenth over that of the first."""
    tenth = max(1, len(walls) // 10)
    return float(np.median(walls[-tenth:]) / np.median(walls[:tenth]))


def _beside(
    original: list[tuple[float, float]], model: list[tuple[float, float]], threads: int
) -> dict[str, Any]:
    before, after = np.array(original), np.array(model)
    wall = ratio_interval(before[:, 0], after[:, 0])
    # A clock of CPU time that ticks slowly may show nothing at all.
    has_cpu = bool(before[:, 1].min() > 0 and after[:, 1].min() > 0)
    cpu = low_quantile_ratio(before[:, 1], after[:, 1]) if has_cpu else None
    found = judge(wall, cpu if threads == 1 else None, margin=MARGIN)
    return {
        **_summary(original),
        "verdict": found.verdict,
        "reason": found.reason,
        "ratio": wall.ratio,
        "ratio_low": wall.low,
        "ratio_high": wall.high,
        "cpu_ratio": cpu,
    }
