"""Task metrics on predictions and labels, in numpy alone.

Each metric is a pair: `collect` turns the prediction for one sample and its labels into columns of
numbers, and `combine` turns the columns of all samples into the value. So nothing as large as the
logits of a language model is ever kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from graphopt.errors import MetricError

__all__ = ["BUILT_IN", "BuiltIn"]

Array: TypeAlias = np.ndarray[Any, Any]

_TEXT = "OUS"

IGNORED = -100
"""Label of positions that do not count, as in PyTorch's cross-entropy."""


@dataclass(frozen=True, kw_only=True)
class BuiltIn:
    """A metric that needs labels.

    Attributes:
        collect: `(prediction, labels)` of one sample to an array of shape ``(columns, rows)``.
        combine: All columns, joined along the rows, to the value.
        higher_is_better: Which direction is good.
        is_relative: A drop is a fraction of the value before, because the metric has no fixed
            scale; otherwise it is the plain difference.
        help: One line.
    """

    collect: Callable[[Array, Array], Array]
    combine: Callable[[Array], float]
    higher_is_better: bool
    is_relative: bool
    help: str


def _require(condition: bool, message: str, why: str) -> None:
    if not condition:
        raise MetricError(message, why=why, hint="write a metric of your own: `module:function`")


def _classes(prediction: Array, labels: Array) -> Array:
    """Return predicted and true classes, one column each; ignored positions left out.

    Args:
        prediction: Scores of shape ``(*labels.shape, classes)``, or classes of labels' shape.
        labels: Integers.
    """
    classes = None
    # Scores that are integers, as of a model quantized to its end, are told by their axis more.
    if prediction.dtype.kind == "f" or prediction.ndim > labels.ndim:
        _require(
            prediction.ndim >= 1 and prediction.shape[-1] > 1,
            "classes cannot be read from the output",
            f"expected one score per class along the last axis, found shape {prediction.shape}",
        )
        classes = prediction.shape[-1]
        prediction = prediction.argmax(axis=-1)
    labels = _as_shape(labels, prediction.shape)
    keep = labels != IGNORED
    _check_classes(prediction, labels[keep], classes)
    return np.stack([prediction[keep], labels[keep]])


def _check_classes(prediction: Array, labels: Array, classes: int | None) -> None:
    """Refuse labels that no prediction could meet: a metric that is always 0 drops by nothing."""
    is_text = labels.dtype.kind in _TEXT
    _require(
        is_text == (prediction.dtype.kind in _TEXT),
        "labels do not fit the output",
        f"labels are {labels.dtype.name}, predicted classes {prediction.dtype.name}",
    )
    if is_text or not labels.size:
        return
    others = labels[~(np.isfinite(labels) & (labels == np.floor(labels)))]
    _require(
        not others.size, "labels are no classes", f"expected whole numbers, found {others[:1]}"
    )
    _require(
        classes is None or bool(((labels >= 0) & (labels < classes)).all()),
        "a label is none of the classes",
        f"labels go from {labels.min()} to {labels.max()}, the output has scores for {classes}"
        f" classes, from 0; {IGNORED} is a label that does not count",
    )


def _as_shape(labels: Array, shape: tuple[int, ...]) -> Array:
    """Return labels in a shape, where they differ from it by axes of length 1 only."""
    squeezed = tuple(length for length in labels.shape if length != 1)
    _require(
        squeezed == tuple(length for length in shape if length != 1),
        "labels do not fit the output",
        f"labels have shape {labels.shape}, predictions {shape}",
    )
    return labels.reshape(shape)


def _top1(columns: Array) -> float:
    return float((columns[0] == columns[1]).mean())


def _f1(columns: Array) -> float:
    """F1 of class 1 where the labels are 0 and 1, else the mean of F1 over the classes (macro)."""
    predicted, true = columns
    classes = np.union1d(predicted, true)
    if np.isin(classes, (0, 1)).all():
        classes = np.array([1])
    scores = []
    for one in classes:
        hits = float(((predicted == one) & (true == one)).sum())
        total = float((predicted == one).sum() + (true == one).sum())
        scores.append(2 * hits / total if total else 0.0)
    return float(np.mean(scores))


def _values(prediction: Array, labels: Array) -> Array:
    """Return predicted and true numbers, one column each."""
    found = prediction.astype(np.float64)
    wanted = _as_shape(labels, found.shape).astype(np.float64)
    _require(bool(np.isfinite(wanted).all()), "a label is NaN or infinite", "expected numbers")
    return np.stack([found.reshape(-1), wanted.reshape(-1)])


def _mse(columns: Array) -> float:
    return float(np.square(columns[0] - columns[1]).mean())


def _ranks(values: Array) -> Array:
    """Return ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean = last - (counts - 1) / 2
    return np.asarray(mean[inverse.reshape(-1)])


def _spearman(columns: Array) -> float:
    """Pearson correlation of the ranks (Spearman 1904)."""
    left, right = (_ranks(column) for column in columns)
    left, right = left - left.mean(), right - right.mean()
    scale = math.sqrt(float(np.square(left).sum() * np.square(right).sum()))
    _require(
        scale > 0.0,
        "rank correlation is not defined",
        "predictions or labels are all the same",
    )
    return float((left * right).sum()) / scale


def _token_losses(prediction: Array, labels: Array) -> Array:
    """Return the negative log-likelihood of each token that counts, in nats.

    Args:
        prediction: Logits ``(batch, length, vocabulary)``.
        labels: ``(batch, length)``: the token that each position should predict, already shifted.
    """
    _require(
        prediction.ndim >= 2 and prediction.shape[:-1] == labels.shape,  # noqa: PLR2004
        "labels do not fit the logits",
        f"labels have shape {labels.shape}, logits {prediction.shape}",
    )
    keep = labels != IGNORED
    logits = prediction[keep].astype(np.float64)
    tokens = labels[keep].astype(np.int64)
    _require(
        bool(((tokens >= 0) & (tokens < prediction.shape[-1])).all()),
        "a label is not in the vocabulary",
        f"labels go from {tokens.min(initial=0)} to {tokens.max(initial=0)}, the vocabulary has"
        f" {prediction.shape[-1]} tokens",
    )
    # Taken out before the powers of e, which would overflow from about 700 on.
    peak = logits.max(axis=-1, keepdims=True, initial=-math.inf)
    log_total = np.log(np.exp(logits - peak).sum(axis=-1)) + peak[:, 0]
    return np.asarray((log_total - logits[np.arange(len(tokens)), tokens])[None])


def _perplexity(columns: Array) -> float:
    # More than e^700 is no number any more; a model that bad has no perplexity worth telling.
    return math.exp(min(700.0, float(columns[0].mean())))


BUILT_IN: Mapping[str, BuiltIn] = {
    "top1": BuiltIn(
        collect=_classes,
        combine=_top1,
        higher_is_better=True,
        is_relative=False,
        help="share of rows whose largest score is that of the label",
    ),
    "f1": BuiltIn(
        collect=_classes,
        combine=_f1,
        higher_is_better=True,
        is_relative=False,
        help="F1 of class 1 for labels 0 and 1, else the mean over classes",
    ),
    "spearman": BuiltIn(
        collect=_values,
        combine=_spearman,
        higher_is_better=True,
        is_relative=False,
        help="rank correlation of predicted and true numbers",
    ),
    "mse": BuiltIn(
        collect=_values,
        combine=_mse,
        higher_is_better=False,
        is_relative=True,
        help="mean squared error",
    ),
    "perplexity": BuiltIn(
        collect=_token_losses,
        combine=_perplexity,
        higher_is_better=False,
        is_relative=True,
        help="e to the mean negative log-likelihood of the labelled tokens",
    ),
}
