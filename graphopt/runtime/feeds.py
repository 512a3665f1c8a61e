"""Generated inputs that a model can take: indices inside their tables, masks of 0 and 1."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.errors import UnknownNameError, UnsupportedModelError
from graphopt.runtime.dimensions import assign, dimension_roles, shape_of
from graphopt.runtime.options import TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["FeedPlan", "generate_feeds", "input_specs"]

_WORDS = ("", "a", "graph", "of", "Ünïcödé", "words", "1 2 3", "\n")
# Each row of a mask hides at most this share of its end, and never its first element.
_HIDDEN_SHARE = 0.25
# Whole numbers of unknown meaning: counts, lengths, modes. Small ones suit most of them.
_WHOLE_NUMBERS = 4
# More is no input that anybody feeds, but a dimension that somebody mistyped.
_MOST_ELEMENTS = 1 << 28


def input_specs(model: ir.Model) -> tuple[TensorSpec, ...]:
    """Return what a session of `model` must be fed; initializers that may be overridden are not.

    Raises:
        UnsupportedModelError: An input has no type.
    """
    return tuple(_spec_of(value) for value in model.graph.inputs if not value.is_initializer())


def generate_feeds(
    model: ir.Model, *, seed: int = 0, dims: Mapping[str, int] | None = None
) -> dict[str, np.ndarray[Any, Any]]:
    """Return one valid feed at the dimensions that a benchmark would take.

    Open dimensions are batch 1, 128 tokens, images of 224 x 224 unless `dims` says otherwise; they
    are not tried: `generate_feed_sets` does that.

    Args:
        model: The model; no weight is read but small constants.
        seed: The same seed gives the same feed, input by input.
        dims: Sizes by the names of the symbols.

    Raises:
        UnknownNameError: `dims` names a symbol that no input has.
        UnsupportedModelError: An input is of a type that cannot be generated.
    """
    plan = FeedPlan.of(model)
    sizes = assign(plan.roles, None)
    for symbol in dims or ():
        if symbol not in sizes:
            raise UnknownNameError("dimension", symbol, sizes)
    return plan.feeds(sizes | dict(dims or {}), seed)


@dataclass(frozen=True)
class FeedPlan:
    """What is known about the inputs of a model, ready for feeds of any size.

    Attributes:
        specs: The inputs.
        bounds: Input to the exclusive upper bound of its indices.
        masks: Inputs that are masks.
        choices: Input to the constants that the model compares it with.
    """

    specs: tuple[TensorSpec, ...]
    bounds: Mapping[str, int]
    masks: frozenset[str]
    choices: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, model: ir.Model) -> FeedPlan:
        """Analyse a model.

        Raises:
            UnsupportedModelError: An input has no type.
        """
        from graphopt.analysis import compared_values, index_ranges, mask_inputs

        return cls(
            input_specs(model), index_ranges(model), mask_inputs(model), compared_values(model)
        )

    @property
    def roles(self) -> dict[str, Any]:
        """The symbols of the open dimensions, with their roles."""
        return dimension_roles(self.specs)

    def feeds(self, sizes: Mapping[str, int], seed: int) -> dict[str, np.ndarray[Any, Any]]:
        """Return a feed whose open dimensions have these sizes.

        Raises:
            UnsupportedModelError: An input is of a type that cannot be generated, or too large.
        """
        return {spec.name: self._array(spec, shape_of(spec, sizes), seed) for spec in self.specs}

    def _array(self, spec: TensorSpec, shape: tuple[int, ...], seed: int) -> Any:
        # Named, not numbered: a feed stays the same when another input comes or goes.
        rng = np.random.default_rng((seed, zlib.crc32(spec.name.encode())))
        if spec.dtype.startswith("optional("):
            return None
        if "(" in spec.dtype:
            raise UnsupportedModelError(
                "no input can be generated for this type",
                where=f"input `{spec.name}`",
                why=f"its type is {spec.dtype}",
                hint="let the model make the sequence itself, from inputs that are tensors",
            )
        _refuse_what_is_too_large(spec, shape)
        drawn = self._drawn(spec, shape, rng)
        return np.asarray(drawn).astype(spec.numpy_dtype)

    def _drawn(self, spec: TensorSpec, shape: tuple[int, ...], rng: np.random.Generator) -> Any:
        dtype = spec.numpy_dtype
        if spec.dtype == "string":
            return rng.choice(np.array(_WORDS, dtype=object), shape)
        if spec.name in self.masks:
            return _mask(shape, rng)
        if dtype.kind == "b":
            return rng.integers(0, 2, shape)
        if spec.name in self.bounds:
            return _indices(spec.name, shape, self.bounds[spec.name], rng)
        if dtype.kind in "iu":
            return _whole_numbers(spec.name, shape, dtype, self.choices.get(spec.name), rng)
        return rng.standard_normal(shape)


def _refuse_what_is_too_large(spec: TensorSpec, shape: tuple[int, ...]) -> None:
    if math.prod(shape) > _MOST_ELEMENTS:
        raise UnsupportedModelError(
            "an input is too large to be generated",
            where=f"input `{spec.name}`",
            why=f"its shape is {shape}, at most {_MOST_ELEMENTS:,} elements are generated",
            hint="export the model with smaller or open dimensions, or give samples of real inputs",
        )


def _spec_of(value: ir.Value) -> TensorSpec:
    import onnx_ir as ir

    name = value.name or ""
    if value.type is None:
        raise UnsupportedModelError("an input has no type", where=f"input `{name}`")
    dims = tuple(
        dim if isinstance(dim, int) else dim.value
        for dim in (() if value.shape is None else value.shape)
    )
    is_sequence = isinstance(value.type, ir.SequenceType)
    kind = "sequence" if is_sequence else "optional"
    is_tensor = isinstance(value.type, ir.TensorType)
    dtype = "string" if value.dtype == ir.DataType.STRING else value.type.dtype.numpy().name
    return TensorSpec(name, dtype if is_tensor else f"{kind}({dtype})", dims)


def _mask(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Ones, with a few zeros at the end of each row; the first element is never hidden."""
    if not shape:  # also where the model does not say how many axes there are
        return np.ones(shape, bool)
    length = shape[-1]
    hidden = rng.integers(0, int(length * _HIDDEN_SHARE) + 1, (*shape[:-1], 1))
    result: np.ndarray[Any, Any] = np.arange(length) < length - hidden
    return result


def _indices(
    name: str, shape: tuple[int, ...], bound: int, rng: np.random.Generator
) -> np.ndarray[Any, Any]:
    if "position" in name.lower() and shape:
        return np.broadcast_to(np.arange(shape[-1]) % bound, shape)
    return rng.integers(0, bound, shape)


def _whole_numbers(
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    choices: tuple[int, ...] | None,
    rng: np.random.Generator,
) -> np.ndarray[Any, Any]:
    if choices:
        return np.asarray(rng.choice(np.array(choices), shape))
    if dtype.itemsize == 1 and dtype.name in ("int8", "uint8"):  # pixels and quantized values
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max + 1, shape)
    if "position" in name.lower() and shape:
        return np.broadcast_to(np.arange(shape[-1]), shape)
    return np.asarray(rng.integers(1, _WHOLE_NUMBERS, shape))
