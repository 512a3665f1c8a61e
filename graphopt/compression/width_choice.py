"""Which weights need more bits than others, measured at the outputs of the model.

What rounding a weight costs at the outputs has little to do with how it looks: in a detector of 98
layers, one of 512 weights made nine tenths of the noise. So each weight is rounded alone and the
model run on samples. Noise of independent sources adds up, so that the sum tells what all of them
will cost together; weights are then given more bits, those first that cost most per byte, until
the sum is within the limit, and the choice is checked by a run of the whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.macs import count_macs
from graphopt.compression.output_noise import OutputNoise, Outputs
from graphopt.ir import as_tensor, clone, graphs, weight_bytes
from graphopt.rewrite import Measure

__all__ = ["WidthChoice", "choose_finer", "choose_wide"]

Rounded: TypeAlias = Callable[[str], npt.NDArray[np.float32]]
"""Returns a weight after rounding, as it is stored, by the name of its initializer."""

_FEWEST_SAMPLES, _MOST_SAMPLES = 8, 256
# Multiplications for all runs together: minutes. How many samples that allows depends on the model
# alone, so that the same call gives the same choice.
_WORK = 4e12
_USES = 100  # of a byte of weights, where shapes do not tell
_ROUNDS = 8  # the sum of parts is off by a few dB at most, so that two or three rounds do


@dataclass(frozen=True)
class WidthChoice:
    """What was measured, and what follows.

    Attributes:
        wide: Weights that need more bits, by name.
        alone_db: By name, the worst signal-to-noise ratio of an output with that weight rounded.
        together_db: That of the choice as a whole; of `choose_finer`, what the parts add up to.
    """

    wide: frozenset[str]
    alone_db: Mapping[str, float]
    together_db: float


def choose_wide(
    model: ir.Model,
    measure: Measure,
    rounded: Mapping[str, npt.NDArray[np.float32]],
    limit_db: float,
) -> WidthChoice:
    """Return the weights that must not be rounded so, for the outputs to keep ``limit_db``.

    Args:
        model: The model; left as it is.
        measure: Runs it on samples.
        rounded: Weights after rounding, by the names of their initializers.
        limit_db: Least signal-to-noise ratio of every output, over all samples together.

    Raises:
        SessionLoadError, RuntimeFailure: The runtime refuses the model, or fails on a sample.
    """
    trials = _Trials(model, measure, rounded.__getitem__, len(rounded))
    noise = {name: trials.noise([name]) for name in rounded}
    limit = 10.0 ** (-limit_db / 10)
    sizes = {name: array.size for name, array in rounded.items()}
    order = sorted(rounded, key=lambda name: noise[name].max(initial=0.0) / sizes[name])
    allowed, kept, together = limit, list(order), np.zeros(0)
    for _ in range(_ROUNDS):
        kept = _within(order, noise, allowed)
        together = trials.noise(kept)
        worst = float(together.max(initial=0.0))
        if worst <= limit or not kept:
            break
        allowed *= 0.8 * limit / worst
    return WidthChoice(
        wide=frozenset(rounded) - frozenset(kept),
        alone_db={name: _decibels(noise[name]) for name in rounded},
        together_db=_decibels(together),
    )


def choose_finer(
    model: ir.Model,
    measure: Measure,
    sizes: Mapping[str, int],
    rounded: Rounded,
    share: float,
) -> WidthChoice:
    """Return the weights to give twice the bits: those that make most noise for their size.

    Args:
        model: The model; left as it is.
        measure: Runs it on samples.
        sizes: Elements of each weight, by the name of its initializer.
        rounded: Returns a weight after rounding to few bits, as it is stored, by name.
        share: Of all elements that may have more bits.

    Raises:
        SessionLoadError, RuntimeFailure: The runtime refuses the model, or fails on a sample.
    """
    trials = _Trials(model, measure, rounded, len(sizes))
    noise = {name: trials.noise([name]) for name in sizes}
    order = sorted(sizes, key=lambda name: -float(noise[name].sum()) / sizes[name])
    room, wide = share * sum(sizes.values()), list[str]()
    for name in order:
        if sizes[name] <= room:
            room -= sizes[name]
            wide.append(name)
    kept = [noise[name] for name in sizes if name not in wide]
    return WidthChoice(
        wide=frozenset(wide),
        alone_db={name: _decibels(found) for name, found in noise.items()},
        together_db=_decibels(np.sum(kept, axis=0) if kept else np.zeros(1)),
    )


def _within(
    order: Sequence[str], noise: Mapping[str, npt.NDArray[np.float64]], allowed: float
) -> list[str]:
    """Return what can be kept of ``order``, from the start, with noise that adds up to no more."""
    kept: list[str] = []
    total = np.zeros(0)
    for name in order:
        # By output; a weight that one output alone sees takes nothing from the others.
        raised = total + noise[name] if kept else noise[name]
        if np.max(raised, initial=0.0) <= allowed:
            total = raised
            kept.append(name)
    return kept


def _decibels(noise: npt.NDArray[np.float64]) -> float:
    worst = float(noise.max(initial=0.0))
    return float("inf") if worst == 0.0 else -10.0 * float(np.log10(worst))


class _Trials:
    """Runs the model with some of its weights rounded, and compares."""

    def __init__(self, model: ir.Model, measure: Measure, rounded: Rounded, number: int) -> None:
        self._model = clone(model)
        self._measure = measure
        # Open sizes count as 1, which is too little, but orders of magnitude do.
        known = count_macs(model) or 0
        work = max(known, weight_bytes(model) * _USES) * max(number, 1)
        self._samples = int(min(max(_WORK / max(work, 1), _FEWEST_SAMPLES), _MOST_SAMPLES))
        self._rounded = rounded
        self._judge = OutputNoise(self._outputs())
        self._constants = {
            name: value
            for graph in graphs(self._model)
            for name, value in graph.initializers.items()
        }

    def noise(self, names: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return noise over signal of each output of floats, with these weights rounded."""
        originals = {name: self._constants[name].const_value for name in names}
        for name in names:
            self._constants[name].const_value = as_tensor(self._rounded(name), name)
        found = self._outputs()
        for name, tensor in originals.items():
            self._constants[name].const_value = tensor
        return self._judge.of(found)

    def _outputs(self) -> list[Outputs]:
        return list(itertools.islice(self._measure.outputs(self._model), self._samples))
