"""Statistics over calibration samples beyond ranges: moments, Gram matrices, comparisons of models.

`Needs` asks for moments of the model as it is when the pass begins; a pass that goes on by what its
own edits have done asks `Facts.measure`, which runs any model on the samples.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = [
    "Array",
    "Asked",
    "ChannelMoments",
    "Channels",
    "CrossMoments",
    "Held",
    "Measure",
    "Window",
]

Array: TypeAlias = npt.NDArray[np.float64]


class Window(NamedTuple):
    """What a convolution sees of its input at one position; all by spatial axis.

    Attributes:
        kernel: Size of the kernel.
        strides: As of ``Conv``.
        dilations: As of ``Conv``.
        pads: As of ``Conv``: the starts of all axes, then the ends. Filled with zeros.
        groups: Groups of channels.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    groups: int = 1


class Channels(NamedTuple):
    """How a value is read as rows of channels.

    Attributes:
        value: Its name: an input of the model, or computed in its main graph.
        axis: The axis of the channels; every position along all other axes is a row. Without
            meaning where there is a window.
        window: Rows are what a convolution multiplies by a row of its weight seen as a matrix:
            the value must be ``(batch, channels, *spatial)``, and a row has ``channels * kernel``
            elements, in the order of the weight's axes.
        positions: Most rows of one run, evenly spread and others in each run; ``None``: all. Two
            values with as many positions are sampled at the same ones.
    """

    value: str
    axis: int = -1
    window: Window | None = None
    positions: int | None = None


Asked: TypeAlias = str | Channels
"""A value, by name alone where its channels are the last axis."""


@dataclass(frozen=True, eq=False)
class ChannelMoments:
    """Moments of the channels of a value over all rows of all samples, padding left out.

    All arrays are float64. Where a row was not finite, neither is what depends on it: see
    `is_finite`.

    Attributes:
        count: Rows.
        mean: ``E[x]``, ``(channels,)``.
        second: ``E[x^2]``, ``(channels,)``.
        largest: ``max |x|``, ``(channels,)``.
        gram: ``E[x x^T]``, uncentred: ``(channels, channels)``; with a window in groups
            ``(groups, channels / groups, channels / groups)``. ``None`` where not asked for.
        minimum: Least element, ``(channels,)``; ``None``: ``-largest`` stands for it.
        maximum: Largest element, ``(channels,)``; ``None``: `largest` stands for it.
    """

    count: int
    mean: Array
    second: Array
    largest: Array
    gram: Array | None = None
    minimum: Array | None = None
    maximum: Array | None = None

    @property
    def limits(self) -> tuple[Array, Array]:
        """Return the least and the largest element of each channel; of both, what is known."""
        low = -self.largest if self.minimum is None else self.minimum
        high = self.largest if self.maximum is None else self.maximum
        return low, high

    def of(self, kept: Any) -> ChannelMoments:
        """Return the moments of some of the channels, without the Gram matrix.

        Args:
            kept: ``bool[channels]``, or a slice.
        """
        limits = (None if part is None else part[kept] for part in (self.minimum, self.maximum))
        return ChannelMoments(
            self.count, self.mean[kept], self.second[kept], self.largest[kept], None, *limits
        )

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.mean)

    @property
    def variance(self) -> Array:
        """``E[x^2] - E[x]^2``, at least 0."""
        # Where nothing varies, rounding may leave a difference just below 0.
        return np.maximum(self.second - self.mean**2, 0.0)

    @property
    def is_finite(self) -> bool:
        """Tell whether every row was finite, and every moment is."""
        parts = (self.mean, self.second, self.largest, self.gram)
        return all(part is None or bool(np.isfinite(part).all()) for part in parts)


@dataclass(frozen=True, eq=False)
class CrossMoments:
    """Moments of two values, of one model or of two, over the same rows of the same samples.

    Attributes:
        first: Of the first value, ``x``; with `ChannelMoments.gram` where products were wanted.
        second: Of the second value, ``y``; without.
        product: ``E[x y^T]``, ``(channels of x, channels of y)``; with a window in groups
            ``(groups, channels of x / groups, channels of y / groups)``. ``None`` where not wanted.
        shift: ``E[y - x]``, ``(channels,)``; ``None`` where the two differ in channels.
        error: ``E[(y - x)^2]``, ``(channels,)``, summed from differences: no digits cancel.
            ``None`` where the two differ in channels.
    """

    first: ChannelMoments
    second: ChannelMoments
    product: Array | None
    shift: Array | None
    error: Array | None

    @property
    def sqnr_db(self) -> float:
        """``10 log10(E[y^2] / E[(y - x)^2])``, of all channels together; ``y`` is the signal.

        Infinite where the two are equal; NaN where they differ in channels.
        """
        if self.error is None:
            return math.nan
        signal, noise = float(self.second.second.sum()), float(self.error.sum())
        if noise == 0.0:
            return math.inf
        return 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf


class Held(Protocol):
    """Values of one model on all samples, from which `Measure` goes on; see `Measure.hold`."""

    def close(self) -> None:
        """Give back the room they take; they are of no use after that."""
        ...


@runtime_checkable
class Measure(Protocol):
    """Runs models on the calibration samples; the models are left as they were.

    Every call runs the model on all samples, so that values should be asked for together. Large
    Gram matrices (75 MB each at 3072 channels) are held until the caller drops them: ask for those
    of a few layers at a time.
    """

    def moments(
        self, model: ir.Model, asked: Sequence[Asked], *, grams: Collection[Asked] = ()
    ) -> dict[Asked, ChannelMoments]:
        """Return moments of values of ``model`` as it is now, by what was asked.

        Values that do not exist, hold no real numbers, were empty in every sample, or had other
        numbers of channels from sample to sample, are left out.

        Args:
            model: The model.
            asked: Values.
            grams: Those of them, or others, that are wanted with their Gram matrix.

        Raises:
            SessionLoadError: The runtime refuses the model.
            RuntimeFailure: The runtime fails on a sample, which is named.
        """
        ...

    def cross(
        self,
        model: ir.Model,
        other: ir.Model,
        pairs: Sequence[tuple[Asked, Asked]],
        *,
        products: bool = True,
        held: tuple[Held | None, Held | None] = (None, None),
    ) -> list[CrossMoments | None]:
        """Return moments of pairs of values, in order: the first of ``model``, then of ``other``.

        ``None`` stands where a value is missing or was empty, or the two never had as many rows.
        A sample in which the numbers of rows differ is left out.

        Args:
            model: Computes the first value of each pair.
            other: Computes the second; may be the very same model.
            pairs: Values.
            products: `CrossMoments.product` and the Gram matrix of the first value are wanted.
            held: What was held of each of the two: nothing before it is computed again.

        Raises:
            SessionLoadError, RuntimeFailure: As for `moments`.
        """
        ...

    def hold(self, model: ir.Model, names: Sequence[str], since: Held | None = None) -> Held | None:
        """Keep what values of ``model`` are on every sample, for `cross` to go on from there.

        It is for the caller to know that what leads to them stays as it is.

        Args:
            model: The model.
            names: Values that nodes of the main graph compute: all that is read later.
            since: What was held before of the same model, to go on from in turn.

        Returns:
            ``None`` where they take more room than computing them again is worth, or are not
            tensors of numbers.

        Raises:
            SessionLoadError, RuntimeFailure: As for `moments`.
        """
        ...

    def outputs(
        self,
        model: ir.Model,
        names: Sequence[str] | None = None,
        *,
        settings: Sequence[Mapping[str, npt.NDArray[Any]]] = ({},),
    ) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
        """Yield, sample by sample, outputs of ``model`` or other values of its main graph.

        Args:
            model: The model.
            names: Values; the outputs of the model by default.
            settings: What inputs are fed that samples do not have: each sample is run once with
                each of them, in order.

        Raises:
            SessionLoadError, RuntimeFailure: As for `moments`.
        """
        ...

    def split(self, held_out: float) -> tuple[Measure, Measure] | None:
        """Return measures on most of the samples, and on those held out to judge by.

        Every so-many-th sample is held out. ``None`` where there are too few to hold one out.

        Args:
            held_out: Share of the samples that is held out, in (0, 0.5].
        """
        ...

    def feeds(self) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
        """Yield the samples themselves, by name of the input, in their order."""
        ...
