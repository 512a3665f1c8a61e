"""How far the outputs of a changed model are from those of the model, over samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["OutputNoise", "Outputs"]

Outputs: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""Outputs of one run, by name."""


class OutputNoise:
    """Compares outputs with what was expected; outputs that hold no real numbers are left out.

    Args:
        expected: Outputs of the model, sample by sample; at least one.
    """

    def __init__(self, expected: Sequence[Outputs]) -> None:
        self._expected = expected
        self._names = [name for name, found in expected[0].items() if _is_real(found)]
        self._signal = [sum(_energy(outputs[name]) for outputs in expected) for name in self._names]

    def of(self, found: Sequence[Outputs]) -> npt.NDArray[np.float64]:
        """Return noise over signal of each output, over all samples: infinite for another shape."""
        pairs = zip(self._names, self._signal, strict=True)
        return np.array([self._relative(name, signal, found) for name, signal in pairs])

    def _relative(self, name: str, signal: float, found: Sequence[Outputs]) -> float:
        pairs = [
            (wanted[name], outputs[name])
            for wanted, outputs in zip(self._expected, found, strict=True)
        ]
        if any(wanted.shape != got.shape for wanted, got in pairs):
            return float("inf")
        error = sum(_energy(got.astype(np.float64) - wanted) for wanted, got in pairs)
        return 0.0 if error == 0.0 else error / signal if signal > 0.0 else float("inf")


def _is_real(array: npt.NDArray[Any]) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind == "f"


def _energy(array: npt.NDArray[Any]) -> float:
    # What is infinite or NaN, as masks make it, is no signal, and is there in both or in none.
    finite = np.nan_to_num(array.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    return float(np.square(finite).sum())
