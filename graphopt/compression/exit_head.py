"""The mathematics of leaving early: a head fitted in closed form, and a threshold that is kept to.

A head is linear in pooled features of a stream, ``e = f W + b``, fitted by ridge least squares to
the scores (logits) of the whole model, without labels. It is sure of an input by the largest
probability of its softmax, or by the negative entropy (Teerapittayanon et al. 2016, section III).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.compression.compensation import Affine

__all__ = ["CERTAINTIES", "ExitRule", "certainty_of", "choose_exit", "fit_head", "lower_bound"]

Array = npt.NDArray[Any]

CERTAINTIES = ("probability", "entropy")

_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_NOTHING = 1e-12
"""Of the largest weight: what is smaller is what rounding left of zero."""
_TEMPERATURES = np.geomspace(0.2, 5.0, 41)


@dataclass(frozen=True, eq=False)
class ExitRule:
    """A head, and when it is believed.

    Attributes:
        head: ``features @ matrix + bias`` are its scores, temperature included.
        threshold: It is believed where it is surer than this.
        leaving: Share of the rows that were chosen by which leave, in [0, 1].
    """

    head: Affine
    threshold: float
    leaving: float


def softmax(scores: Array) -> Array:
    """Return probabilities of scores ``(rows, classes)``."""
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def certainty_of(scores: Array, certainty: str) -> Array:
    """Return how sure a head is of each row: the largest probability, or ``sum p log p``.

    In single precision, as the graph has it: there probabilities near to 1 are 1.
    """
    if certainty == "probability":
        return np.asarray(softmax(scores).max(-1), np.float32)
    shifted = scores - scores.max(-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return np.asarray((np.exp(logs) * logs).sum(-1), np.float32)


def fit_head(features: Array, scores: Array, held: Array, held_scores: Array) -> Affine:
    """Return the head with the least squared error on rows that it was not fitted to.

    Args:
        features: float[rows, channels] that it is fitted on.
        scores: float[rows, classes], of the whole model.
        held: float[other rows, channels], by which ridge and temperature are chosen.
        held_scores: float[other rows, classes].
    """
    mean, deviation = features.mean(0), features.std(0)
    # A feature that never changes says nothing: it gets no weight, whatever it is elsewhere.
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 0.0)
    centre = scores.mean(0)
    rows = (features - mean) * scale
    gram, product = rows.T @ rows / len(rows), rows.T @ (scores - centre) / len(rows)
    heads = []
    for ridge in _RIDGES:
        weights = scale[:, None] * np.linalg.solve(gram + ridge * np.eye(len(gram)), product)
        head = Affine(weights, centre - mean @ weights)
        heads.append((float(np.mean((_scores(head, held) - held_scores) ** 2)), head))
    _, best = min(heads, key=lambda item: item[0])
    heat = _temperature(_scores(best, held), held_scores)
    least = _NOTHING * float(np.abs(best.matrix).max(initial=0.0))
    matrix = np.where(np.abs(best.matrix) > least, best.matrix, 0.0)
    return Affine(matrix * heat, best.bias * heat)


def _scores(head: Affine, features: Array) -> Array:
    return np.asarray(features @ head.matrix + head.bias)


def _temperature(scores: Array, wanted: Array) -> float:
    """Return the factor whose softmax has the least cross entropy with that of ``wanted``."""
    target = softmax(wanted)

    def loss(factor: float) -> float:
        hot = scores * factor
        hot = hot - hot.max(-1, keepdims=True)
        logs = hot - np.log(np.exp(hot).sum(-1, keepdims=True))
        return -float((target * logs).sum(-1).mean())

    return float(min(_TEMPERATURES, key=loss))


def choose_exit(
    head: Affine, features: Array, scores: Array, *, certainty: str, agreement: float
) -> ExitRule:
    """Return the rule by which most rows leave and enough of all rows get the same class.

    Half of the disagreement that is allowed is used: what is chosen on some rows is a little
    worse on others.

    Args:
        head: As of `fit_head`.
        features: float[rows, channels] that the head was not fitted to.
        scores: float[rows, classes], of the whole model.
        certainty: One of `CERTAINTIES`.
        agreement: Share of all rows, those that do not leave included, in (0, 1].
    """
    own = _scores(head, features)
    sure = certainty_of(own, certainty)
    order = np.argsort(-sure, kind="stable")
    wrong = np.cumsum((own.argmax(-1) != scores.argmax(-1))[order])
    allowed = math.floor((1.0 - agreement) * len(order) / 2 + 1e-9)
    count = int(np.searchsorted(wrong, allowed, side="right"))
    ranked = sure[order]
    if count == len(order):
        threshold = float(ranked[-1]) - 1e-3 * abs(float(ranked[-1]))
    elif count == 0:
        threshold = math.inf
    else:
        threshold = (float(ranked[count - 1]) + float(ranked[count])) / 2
    threshold = float(np.float32(threshold))  # as the graph holds it
    return ExitRule(head, threshold, float((sure > threshold).mean()))


def lower_bound(successes: int, trials: int, confidence: float = 0.95) -> float:
    """Return the one-sided lower bound of a share (Clopper and Pearson 1934).

    The least probability under which that many successes or more are as likely as
    ``1 - confidence``; found by bisection.
    """
    if successes == 0:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _at_least(successes, trials, middle) < 1.0 - confidence:
            low = middle
        else:
            high = middle
    return low


def _at_least(successes: int, trials: int, probability: float) -> float:
    if probability <= 0.0 or probability >= 1.0:
        return float(probability >= 1.0)
    counts = range(successes, trials + 1)
    logs = [
        math.lgamma(trials + 1)
        - math.lgamma(count + 1)
        - math.lgamma(trials - count + 1)
        + count * math.log(probability)
        + (trials - count) * math.log1p(-probability)
        for count in counts
    ]
    return math.fsum(map(math.exp, logs))
