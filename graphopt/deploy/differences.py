"""How far numbers are from the recorded ones. Part of `validate.py`: see `integrity`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["LIMITS", "difference"]

LIMITS = (
    ("max_rel_error", "error", 1),
    ("min_cosine", "cosine", -1),
    ("min_sqnr_db", "sqnr_db", -1),
)
KINDS = {"f": "floats", "i": "integers", "u": "integers", "b": "booleans", "V": "bytes"}


def difference(reference: Any, values: Any) -> dict[str, Any]:
    """Say how far the array `values` is from `reference`.

    Returns:
        `error`: for floats the largest difference over the largest value of the reference, else the
        share of elements that differ; `cosine`: else the share of equal elements; `sqnr_db`: floats
        only; `mismatch`: why the two cannot be compared, or None.
    """
    worst = {"error": math.inf, "cosine": -1.0, "sqnr_db": -math.inf}
    if reference.shape != values.shape:
        return {**worst, "mismatch": f"shape {values.shape}, expected {reference.shape}"}
    kinds = [KINDS.get(array.dtype.kind, "texts") for array in (values, reference)]
    if kinds[0] != kinds[1]:  # cast to each other they could agree
        return {**worst, "mismatch": f"{kinds[0]}, expected {kinds[1]}"}
    if reference.dtype.kind != "f" or values.dtype.kind != "f":
        kind = str if reference.dtype.kind in "OSU" else reference.dtype
        equal = (
            float(np.mean(reference.astype(kind) == values.astype(kind))) if values.size else 1.0
        )
        return {"error": 1.0 - equal, "cosine": equal, "sqnr_db": math.inf, "mismatch": None}
    reference, values = reference.astype(np.float64), values.astype(np.float64)
    for name, test in (("NaN", np.isnan), ("+inf", np.isposinf), ("-inf", np.isneginf)):
        if (test(reference) != test(values)).any():
            return {**worst, "mismatch": f"{name} at other positions"}
    finite = np.isfinite(reference)
    return {**_distance(reference[finite], values[finite]), "mismatch": None}


def _distance(reference: Any, values: Any) -> dict[str, float]:
    if np.array_equal(reference, values):
        return {"error": 0.0, "cosine": 1.0, "sqnr_db": math.inf}
    largest = float(np.abs(reference).max())
    if largest == 0.0:
        return {"error": math.inf, "cosine": 0.0, "sqnr_db": -math.inf}
    reference, values = reference / largest, values / largest  # squares must not overflow
    norm, other = _norm(reference), _norm(values)
    return {
        "error": float(np.abs(values - reference).max()),
        "cosine": float(np.sum((reference / norm) * (values / other))) if other else 0.0,
        "sqnr_db": 20.0 * math.log10(norm / _norm(values - reference)),
    }


def _norm(array: Any) -> float:
    # Not `np.linalg.norm`, nor `np.dot`: a BLAS adds in an order that hangs on where in memory an
    # array begins, and the same outputs are to give the same last digit everywhere.
    return math.sqrt(float(np.sum(np.square(array))))
