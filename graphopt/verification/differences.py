"""How far one output of a model is from the same output of another.

Every number is computed in float64 on the positions where both are finite; positions of NaN and
of either infinity must coincide, otherwise the pair is a mismatch and its numbers are the worst.

    max_abs   max |r - c|
    max_rel   max |r - c| / max |r|         (0 where both are zero, infinite where only r is)
    cosine    <r, c> / (|r| |c|)            (1 where both are zero or empty, 0 where only one is)
    sqnr_db   10 log10(sum r^2 / sum (r - c)^2), infinite without noise

`max_rel` is relative to the largest value of the output, not element by element: an element near
zero says nothing about the rest, and this is the form in which rounding bounds are stated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

__all__ = [
    "OutputDifference",
    "compare_outputs",
    "compare_values",
    "has_elements",
    "is_floating",
]

Array: TypeAlias = np.ndarray[Any, Any]

MIN_CLASSES = 2
# (batch, classes) and (batch, positions, classes); the last axis of higher ranks, as of images,
# holds no classes.
CLASS_RANKS = (2, 3)


@dataclass(frozen=True, kw_only=True)
class OutputDifference:
    """The difference between a reference output and a candidate's.

    Attributes:
        max_abs: Largest absolute difference, in the unit of the output.
        max_rel: `max_abs` as a fraction of the largest absolute value of the reference.
        cosine: Cosine of the two outputs taken as vectors, in [-1, 1]; ``None`` for outputs of
            integers, booleans or text, where an angle means nothing.
        sqnr_db: Signal-to-noise ratio in dB; ``None`` where `cosine` is.
        top1_agreement: Share of equal decisions: the largest class along the last axis for floats
            of rank 2 or 3, equal elements for integers, booleans and text; ``None`` otherwise.
        is_identical: Both are the same bit for bit (any NaN equals any NaN).
        mismatch: Why the two cannot be compared by numbers: missing, type, shape, pattern of NaN
            or infinity; ``None`` where they can.
    """

    max_abs: float = 0.0
    max_rel: float = 0.0
    cosine: float | None = 1.0
    sqnr_db: float | None = math.inf
    top1_agreement: float | None = None
    is_identical: bool = True
    mismatch: str | None = None

    @classmethod
    def broken(cls, mismatch: str) -> OutputDifference:
        """Return the difference of a pair that cannot be compared: the worst of everything."""
        return cls(
            max_abs=math.inf,
            max_rel=math.inf,
            cosine=-1.0,
            sqnr_db=-math.inf,
            top1_agreement=0.0,
            is_identical=False,
            mismatch=mismatch,
        )

    def to_dict(self) -> dict[str, float | bool | str | None]:
        """Return the JSON form; what is infinite becomes ``None``, `is_identical` tells which."""
        return {
            "max_abs": finite_or_none(self.max_abs),
            "max_rel": finite_or_none(self.max_rel),
            "cosine": self.cosine,
            "sqnr_db": finite_or_none(self.sqnr_db),
            "top1_agreement": self.top1_agreement,
            "is_identical": self.is_identical,
            "mismatch": self.mismatch,
        }


def finite_or_none(value: float | None) -> float | None:
    """Return `value`, or ``None`` where JSON has no number for it."""
    return value if value is not None and math.isfinite(value) else None


def compare_outputs(
    reference: Mapping[str, Any], candidate: Mapping[str, Any]
) -> dict[str, OutputDifference]:
    """Compare the outputs of two models for the same inputs, by name.

    Args:
        reference: Arrays by output name; a list of arrays for a sequence, ``None`` for an empty
            optional.
        candidate: The same of the other model.

    Returns:
        One difference per name in either; a name that only one has is a mismatch.
    """
    found = {}
    for name in dict.fromkeys((*reference, *candidate)):
        if name not in candidate:
            found[name] = OutputDifference.broken("the candidate has no such output")
        elif name not in reference:
            found[name] = OutputDifference.broken("the reference has no such output")
        else:
            found[name] = compare_values(reference[name], candidate[name])
    return found


def compare_values(reference: Any, candidate: Any) -> OutputDifference:
    """Compare two values: arrays, lists of arrays (sequences), mappings, or ``None``."""
    if reference is None or candidate is None:
        if reference is None and candidate is None:
            return OutputDifference()
        return OutputDifference.broken("only one of the two is empty")
    if isinstance(reference, Mapping) and isinstance(candidate, Mapping):
        return _worst(list(compare_outputs(reference, candidate).values()))
    if isinstance(reference, list | tuple) and isinstance(candidate, list | tuple):
        return _compare_sequences(reference, candidate)
    if isinstance(reference, Mapping | list | tuple) or isinstance(
        candidate, Mapping | list | tuple
    ):
        return OutputDifference.broken("one is a tensor, the other is not")
    return _compare_arrays(np.asarray(reference), np.asarray(candidate))


def has_elements(value: Any) -> bool:
    """Tell whether a value holds anything that could differ: two empty tensors are equal.

    Of NaN and infinities only the places are compared, and that there is nothing else.
    """
    if isinstance(value, Mapping):
        return any(map(has_elements, value.values()))
    if isinstance(value, list | tuple):
        return any(map(has_elements, value))
    array = np.asarray(value)
    if value is None or not is_floating(array.dtype):
        return value is not None and array.size > 0
    return bool(np.isfinite(array).any())


def _compare_sequences(reference: Sequence[Any], candidate: Sequence[Any]) -> OutputDifference:
    if len(reference) != len(candidate):
        return OutputDifference.broken(
            f"sequence of {len(candidate)} elements, expected {len(reference)}"
        )
    return _worst([compare_values(*pair) for pair in zip(reference, candidate, strict=True)])


def _worst(parts: Sequence[OutputDifference]) -> OutputDifference:
    if not parts:
        return OutputDifference()
    return OutputDifference(
        max_abs=max(part.max_abs for part in parts),
        max_rel=max(part.max_rel for part in parts),
        cosine=least(part.cosine for part in parts),
        sqnr_db=least(part.sqnr_db for part in parts),
        top1_agreement=least(part.top1_agreement for part in parts),
        is_identical=all(part.is_identical for part in parts),
        mismatch=next((part.mismatch for part in parts if part.mismatch), None),
    )


def least(values: Any) -> float | None:
    """Return the smallest of the values that are known, or ``None``."""
    return min((value for value in values if value is not None), default=None)


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Tell whether a type holds floating-point numbers, those of `ml_dtypes` included."""
    # All types of `ml_dtypes` are of kind V to numpy: the name alone tells their floats from their
    # 2- and 4-bit integers.
    return dtype.kind in "fc" or (dtype.kind == "V" and "float" in dtype.name)


def _compare_arrays(reference: Array, candidate: Array) -> OutputDifference:
    # The runtime gives text as objects, recorded samples as text of a fixed width: the same to a
    # caller.
    text = reference.dtype.kind in "OUST" and candidate.dtype.kind in "OUST"
    if reference.dtype != candidate.dtype and not text:
        return OutputDifference.broken(f"type {candidate.dtype}, expected {reference.dtype}")
    if reference.shape != candidate.shape:
        return OutputDifference.broken(
            f"shape {list(candidate.shape)}, expected {list(reference.shape)}"
        )
    if not is_floating(reference.dtype):
        if reference.dtype.kind == "V":  # the 2- and 4-bit integers of `ml_dtypes`
            reference, candidate = reference.astype(np.int32), candidate.astype(np.int32)
        return _compare_discrete(reference, candidate)
    if reference.dtype.kind == "c":
        reference, candidate = (_as_pairs(array) for array in (reference, candidate))
    return _compare_floats(reference, candidate)


def _as_pairs(array: Array) -> Array:
    return np.stack([array.real, array.imag], axis=-1)


def _compare_discrete(reference: Array, candidate: Array) -> OutputDifference:
    is_equal = np.asarray(reference == candidate, dtype=bool)
    if is_equal.all():
        max_abs = max_rel = 0.0
    elif reference.dtype.kind in "OUST":
        max_abs = max_rel = math.inf
    else:
        # Python integers: the difference of two 64-bit numbers fits no 64-bit type.
        pairs = zip(reference[~is_equal].tolist(), candidate[~is_equal].tolist(), strict=True)
        max_abs = float(max(abs(int(left) - int(right)) for left, right in pairs))
        # Of Python integers, again: numpy's `abs` of the least 64-bit integer is negative.
        largest = float(max(abs(int(item)) for item in (reference.max(), reference.min())))
        max_rel = max_abs / largest if largest else math.inf
    return OutputDifference(
        max_abs=max_abs,
        max_rel=max_rel,
        cosine=None,
        sqnr_db=None,
        top1_agreement=float(is_equal.mean()) if is_equal.size else 1.0,
        is_identical=bool(is_equal.all()),
    )


def _compare_floats(reference: Array, candidate: Array) -> OutputDifference:
    left, right = reference.astype(np.float64), candidate.astype(np.float64)
    is_identical = _is_identical(reference, candidate, np.isnan(left) & np.isnan(right))
    mismatch = _pattern_mismatch(left, right)
    if mismatch:
        return OutputDifference.broken(mismatch)
    agreement = _class_agreement(left, right)
    finite = np.isfinite(left)
    if not finite.all():
        left, right = left[finite], right[finite]
    if not left.size:
        return OutputDifference(top1_agreement=agreement, is_identical=is_identical)
    with np.errstate(over="ignore"):  # two opposite numbers near the limit of float64
        noise = left - right
    max_abs = float(np.abs(noise).max())
    largest = float(np.abs(left).max())
    signal_norm, other_norm, noise_norm = (_norm(array) for array in (left, right, noise))
    return OutputDifference(
        max_abs=max_abs,
        max_rel=_ratio(max_abs, largest),
        # The product of a vector with itself, over its norm, is 1 only up to rounding.
        cosine=_cosine(left, right, signal_norm, other_norm) if max_abs else 1.0,
        sqnr_db=_decibels(signal_norm, noise_norm),
        top1_agreement=agreement,
        is_identical=is_identical,
    )


def _is_identical(reference: Array, candidate: Array, both_nan: Array) -> bool:
    """Compare bits, so that -0.0 differs from 0.0; all NaN are alike."""
    if both_nan.any():
        reference, candidate = reference[~both_nan], candidate[~both_nan]
    return reference.tobytes() == candidate.tobytes()


def _pattern_mismatch(left: Array, right: Array) -> str | None:
    for what, test in (("NaN", np.isnan), ("+inf", np.isposinf), ("-inf", np.isneginf)):
        here, there = test(left), test(right)
        differs = here != there
        if differs.any():
            first = [int(index) for index in np.argwhere(differs)[0]]
            return (
                f"{what} at {int(there.sum())} of {there.size} positions, expected"
                f" {int(here.sum())}; first difference at {first}"
            )
    return None


def _class_agreement(left: Array, right: Array) -> float | None:
    if left.ndim not in CLASS_RANKS or left.shape[-1] < MIN_CLASSES or not left.size:
        return None
    return float((left.argmax(axis=-1) == right.argmax(axis=-1)).mean())


def _norm(array: Array) -> float:
    """Euclidean norm, scaled first so that squares neither overflow nor vanish."""
    scale = float(np.abs(array).max())
    if scale == 0.0 or not math.isfinite(scale):
        return scale
    return scale * float(np.sqrt(np.square(array / scale).sum()))


def _ratio(part: float, whole: float) -> float:
    if part == 0.0:
        return 0.0
    return part / whole if whole else math.inf


def _cosine(left: Array, right: Array, left_norm: float, right_norm: float) -> float:
    if left_norm == 0.0 and right_norm == 0.0:
        return 1.0
    if left_norm == 0.0 or right_norm == 0.0:
        return 0.0
    product = float(np.vdot(left / left_norm, right / right_norm))
    return max(-1.0, min(1.0, product))


def _decibels(signal_norm: float, noise_norm: float) -> float:
    if noise_norm == 0.0:
        return math.inf
    if signal_norm == 0.0 or math.isinf(noise_norm):
        return -math.inf
    return 20.0 * math.log10(signal_norm / noise_norm)
