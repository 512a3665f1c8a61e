"""What a pass is told about a model beyond the model itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import onnx_ir as ir

from graphopt.errors import PreconditionError
from graphopt.rewrite.statistics import Asked, ChannelMoments, Measure

__all__ = [
    "Facts",
    "Needs",
    "RangeMethod",
    "ShapeTable",
    "TargetFacts",
    "ValueRange",
    "ValueShape",
    "provide_shapes_with",
    "standalone_facts",
]


class ValueShape(NamedTuple):
    """Type and shape of one value; a tuple, because a model has thousands and compares them.

    Attributes:
        dtype: Element type; ``None`` where unknown or not a tensor.
        dims: Per axis an ``int``, a symbol's name, or ``None``; ``None`` where the rank is unknown.
    """

    dtype: ir.DataType | None
    dims: tuple[int | str | None, ...] | None

    def is_static(self) -> bool:
        """Tell whether every dimension is a known number."""
        return self.dims is not None and all(isinstance(dim, int) for dim in self.dims)

    def renamed(self, names: Mapping[str, str]) -> ValueShape:
        """Return the shape with other names for its symbols; those not in ``names`` stay."""
        if self.dims is None or all(isinstance(dim, int) for dim in self.dims):
            return self
        dims = (names.get(dim, dim) if isinstance(dim, str) else dim for dim in self.dims)
        return ValueShape(self.dtype, tuple(dims))


class ShapeTable:
    """Shapes of the values of one model, by value; built by ``graphopt.analysis.infer_shapes``.

    The table is a snapshot: values created afterwards are not in it.
    """

    def __init__(self, shapes: Mapping[ir.Value, ValueShape]) -> None:
        self._shapes = dict(shapes)

    def renewed(self, model: ir.Model) -> ShapeTable:
        """Return the shapes of the values of ``model`` as it is now, after edits.

        Raises:
            PreconditionError: Nobody infers shapes.
        """
        return _shapes_of(model, "shapes")

    def of(self, value: ir.Value | None) -> ValueShape | None:
        """Return what is known of ``value``, or ``None`` where nothing is."""
        return self._shapes.get(value) if value is not None else None

    def __len__(self) -> int:
        return len(self._shapes)


@dataclass(frozen=True)
class ValueRange:
    """What a tensor spans over all calibration samples, or the part of it that is worth keeping."""

    minimum: float
    maximum: float


@dataclass(frozen=True, kw_only=True)
class RangeMethod:
    """How a range is taken from the values that a tensor had over all calibration samples.

    Attributes:
        name: ``minmax``: all values; ``percentile``: all but the outermost; ``entropy``: those that
            keep the distribution nearest to itself; ``mse``: those with the least squared error.
        percentile: Share of the values that ``percentile`` keeps, in (0, 100].
        levels: Number of integers in use, for which ``entropy`` and ``mse`` optimize.
        symmetric: The zero point is the middle of the integers, so that both bounds are one.
        padding: Positions that padding fills count, too; otherwise they are left out.
    """

    name: str = "minmax"
    percentile: float = 99.99
    levels: int = 256
    symmetric: bool = False
    padding: bool = False


@dataclass(frozen=True, kw_only=True)
class TargetFacts:
    """The part of a target profile that passes may look at.

    Attributes:
        name: Name of the target, for messages.
        provider: ONNX Runtime execution provider.
        activation_type: Integer type of quantized activations, ``u8`` or ``s8``.
        weight_type: Integer type of quantized weights, ``u8`` or ``s8``.
        placement: Where quantizers stand: a name in `graphopt.compression.PLACEMENTS`.
        features: Instruction-set features of the device, named as by `graphopt.runtime`.
        maximum_opset: Newest default-domain opset that the device's runtime takes; ``None``: any.
        maximum_ir_version: Newest IR version that it takes; ``None``: any.
    """

    name: str = "generic"
    provider: str = "CPUExecutionProvider"
    activation_type: str = "u8"
    weight_type: str = "s8"
    placement: str = "x86-cpu"
    features: frozenset[str] = frozenset()
    maximum_opset: int | None = None
    maximum_ir_version: int | None = None


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a pass must be given before it can run on a model.

    Attributes:
        shapes: It needs `Facts.shapes`.
        ranges: Names of values whose calibrated range it needs.
        range_method: How those ranges are taken.
        target: It needs `Facts.target` to be the real target.
        moments: Values whose moments it needs, by channel; see `Channels` for other axes than the
            last and for what convolutions read.
        grams: Values whose moments it needs with their Gram matrix. All of them are held at once:
            a pass over many wide layers asks `Facts.measure` for a few at a time.
        samples: It needs `Facts.measure`.
        original: It needs `Facts.original`.
    """

    shapes: bool = False
    ranges: tuple[str, ...] = ()
    range_method: RangeMethod = field(default_factory=RangeMethod)
    target: bool = False
    moments: tuple[Asked, ...] = ()
    grams: tuple[Asked, ...] = ()
    samples: bool = False
    original: bool = False

    @property
    def is_measured(self) -> bool:
        """Tell whether calibration samples are needed."""
        return bool(self.ranges or self.moments or self.grams or self.samples)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The answers to a pass's needs.

    Attributes:
        shapes: Of the values of the model.
        ranges: By name of the value.
        target: What is known of the target.
        moments: By what was asked for, just as it was asked; values that do not exist, or were
            empty in every sample, are missing.
        measure: Runs models on the calibration samples; ``None`` where `Needs.samples` is not set.
        original: The model as it was before the first approximate pass that is no preparation, to
            compare with: not to be changed. ``None`` where `Needs.original` is not set.
        report: Tells whoever waits how far long work has come; ``None`` where nobody does.
    """

    shapes: ShapeTable = field(default_factory=lambda: ShapeTable({}))
    ranges: Mapping[str, ValueRange] = field(default_factory=dict)
    target: TargetFacts = TargetFacts()
    moments: Mapping[Asked, ChannelMoments] = field(default_factory=dict)
    measure: Measure | None = None
    original: ir.Model | None = None
    report: Callable[[str], None] | None = None


_shape_provider: list[Callable[[ir.Model], ShapeTable]] = []


def provide_shapes_with(provider: Callable[[ir.Model], ShapeTable]) -> None:
    """Register the shape inference that `standalone_facts` uses.

    This room may not import the analysis room, so the analysis room announces itself here; a pass
    that needs shapes imports that room and thereby makes the provider known.
    """
    _shape_provider[:] = [provider]


def standalone_facts(model: ir.Model, needs: Needs, *, pass_name: str) -> Facts:
    """Return the facts that can be had from the model alone.

    Raises:
        PreconditionError: The pass needs calibration, a target, or shapes nobody provides.
    """
    if needs.is_measured or needs.target or needs.original:
        what = "a target" if needs.target else "the model as it was before the pipeline"
        if needs.is_measured:
            what = "calibration ranges" if needs.ranges else "calibration samples"
        raise PreconditionError(
            f"pass `{pass_name}` needs {what}",
            why="it was called on its own, outside a graphopt pipeline",
            hint="run it with `graphopt run MODEL --target NAME --calibration SAMPLES --pipeline "
            f"'{pass_name}'`",
        )
    if not needs.shapes:
        return Facts()
    return Facts(shapes=_shapes_of(model, f"pass `{pass_name}`"))


def _shapes_of(model: ir.Model, who: str) -> ShapeTable:
    if not _shape_provider:
        raise PreconditionError(
            f"{who} needs shape inference",
            why="none is registered",
            hint="import `graphopt.analysis` in the module of the pass",
        )
    return _shape_provider[0](model)
