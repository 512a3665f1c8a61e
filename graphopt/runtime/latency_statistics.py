"""From paired timings to a verdict. Pure functions of numbers; nothing here runs a model.

On a shared machine noise only ever adds time, and adds more to the slower of two models: its runs
are longer, so more of them are interrupted. Medians therefore exaggerate ratios. The ratio here is
that of low quantiles, its interval comes from a bootstrap over blocks of consecutive rounds (noise
comes in bursts, so rounds are not independent), and the CPU time has to tell the same story.

The `validate.py` of every bundle holds this file, too: it keeps to Python 3.8 and numpy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

__all__ = [
    "Interval",
    "Judgement",
    "Verdict",
    "judge",
    "low_quantile_ratio",
    "ratio_interval",
]

if TYPE_CHECKING:
    from typing import TypeAlias

Array: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"
Verdict: TypeAlias = Literal["faster", "same", "slower", "too-noisy"]

LOW_QUANTILE = 0.10
_RESAMPLES = 400
_CONFIDENCE = 0.95
# An interval wider than this says at most on which side of 1 the ratio lies.
_WIDEST = 2.0
# Wall and CPU ratios of one thread differ by the noise; beyond this factor one of them is wrong.
_LARGEST_DISAGREEMENT = 1.25
_LEAST_ROUNDS_FOR_HALVES = 20


@dataclass(frozen=True)
class Interval:
    """A ratio, candidate to baseline, with its 95 % confidence interval."""

    ratio: float
    low: float
    high: float

    @property
    def width(self) -> float:
        """Relative width: 0.04 where the upper end is 4 % above the lower one."""
        return self.high / self.low - 1


@dataclass(frozen=True)
class Judgement:
    """A verdict and the sentence that explains it.

    Attributes:
        verdict: What the timings say.
        reason: Why.
        bound: The ratio that is safe to promise: the ratio itself, or where noise leaves only the
            direction certain, the worst that wall and CPU time allow.
    """

    verdict: Verdict
    reason: str
    bound: float


def low_quantile_ratio(baseline: Array, candidate: Array) -> float:
    """Return the ratio of the 10 % quantiles, candidate to baseline.

    Args:
        baseline: Times of each round, any unit; at least one.
        candidate: Times of the same rounds.
    """
    return float(np.quantile(candidate, LOW_QUANTILE) / np.quantile(baseline, LOW_QUANTILE))


def ratio_interval(baseline: Array, candidate: Array, *, seed: int = 0) -> Interval:
    """Return the ratio of low quantiles and its interval.

    Circular block bootstrap (Politis and Romano, 1992) of whole rounds, percentile interval, blocks
    of the cube root of the number of rounds. The interval also covers the ratios of the first and
    the second half: what drifts between them is no property of the models.

    Args:
        baseline: Times of each round, shape (rounds,).
        candidate: Times of the same rounds.
        seed: Of the resampling.
    """
    ratio = low_quantile_ratio(baseline, candidate)
    rounds = len(baseline)
    picks = _block_picks(rounds, np.random.default_rng(seed))
    resampled = np.quantile(candidate[picks], LOW_QUANTILE, axis=1) / np.quantile(
        baseline[picks], LOW_QUANTILE, axis=1
    )
    tail = (1 - _CONFIDENCE) / 2
    ends = [*np.quantile(resampled, [tail, 1 - tail]), ratio]
    if rounds >= _LEAST_ROUNDS_FOR_HALVES:
        middle = rounds // 2
        ends.append(low_quantile_ratio(baseline[:middle], candidate[:middle]))
        ends.append(low_quantile_ratio(baseline[middle:], candidate[middle:]))
    return Interval(ratio, float(min(ends)), float(max(ends)))


def judge(wall: Interval, cpu_ratio: float | None, *, margin: float) -> Judgement:
    """Return what timings say.

    Args:
        wall: Of the wall times.
        cpu_ratio: Of the CPU times; None where CPU time is no measure of speed (several threads).
        margin: Ratios within ``1 / (1 + margin)`` and ``1 + margin`` are the same speed.
    """
    verdict = _by_wall(wall, margin)
    is_wide = wall.high / wall.low > _WIDEST
    shown = f"{wall.low:.3f} to {wall.high:.3f}"
    if is_wide and (verdict == "too-noisy" or cpu_ratio is None):
        return Judgement("too-noisy", f"the interval {shown} is too wide to mean much", wall.high)
    if verdict == "too-noisy":
        return Judgement(verdict, f"the interval {shown} holds both faster and slower", wall.high)
    if cpu_ratio is None or not (is_wide or _disagrees(wall.ratio, cpu_ratio)):
        if cpu_ratio is None or not _contradicts(verdict, cpu_ratio):
            return Judgement(verdict, f"ratio {wall.ratio:.3f} ({shown})", wall.ratio)
    elif _is_same_direction(verdict, cpu_ratio, margin):
        reason = f"noisy: {shown} by wall time, {cpu_ratio:.3f} by CPU time; the direction is sure"
        return Judgement(verdict, reason, max(wall.high, cpu_ratio))
    reason = f"wall time says {wall.ratio:.2f}, CPU time {cpu_ratio:.2f}"
    return Judgement("too-noisy", reason, wall.high)


def _by_wall(wall: Interval, margin: float) -> Verdict:
    if wall.low >= 1 / (1 + margin) and wall.high <= 1 + margin:
        return "same"
    if wall.high < 1:
        return "faster"
    return "slower" if wall.low > 1 else "too-noisy"


def _contradicts(verdict: Verdict, cpu_ratio: float) -> bool:
    return (verdict == "faster" and cpu_ratio >= 1) or (verdict == "slower" and cpu_ratio <= 1)


def _is_same_direction(verdict: Verdict, cpu_ratio: float, margin: float) -> bool:
    """Tell whether CPU time alone says the same, by more than the margin."""
    if verdict == "faster":
        return cpu_ratio <= 1 / (1 + margin)
    return verdict == "slower" and cpu_ratio >= 1 + margin


def _disagrees(wall_ratio: float, cpu_ratio: float) -> bool:
    """Tell whether the two differ by more than the noise of a quiet machine."""
    return abs(math.log(wall_ratio / cpu_ratio)) > math.log(_LARGEST_DISAGREEMENT)


def _block_picks(rounds: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Return indices of rounds, shape (resamples, rounds)."""
    length = max(1, round(rounds ** (1 / 3)))
    starts = rng.integers(0, rounds, (_RESAMPLES, math.ceil(rounds / length)))
    picks = (starts[:, :, None] + np.arange(length)) % rounds
    resampled: np.ndarray[Any, Any] = picks.reshape(_RESAMPLES, -1)[:, :rounds]
    return resampled
