"""What a model would compute with some units removed: the reference that surgery is held to.

Every sum over a removed unit runs over zeros instead. The weights that sums run over get those
zeros; all else stays as it is, so that the two models agree up to the rounding of shorter sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis import infer_shapes
from graphopt.analysis.coupling import Use, couple
from graphopt.compression.surgery import Obstacle, Surgery, plan_surgery
from graphopt.errors import RunError, SessionLoadError, UnsupportedModelError
from graphopt.ir import clone, constant_tensor, save, scratch_folder
from graphopt.rewrite import Change, Editor, Journal, ShapeTable
from graphopt.runtime import shared_worker
from graphopt.verification import OutputDifference, compare_models

__all__ = ["MAX_SURGERY_ERROR", "SurgeryTest", "judge_surgery", "masked", "surgery_fault"]

MAX_SURGERY_ERROR = 1e-4
"""Largest difference over the largest element of an output, in single precision."""

Feeds = Iterable[Mapping[str, Any]]


def masked(change: Change, surgery: Surgery, shapes: ShapeTable) -> None:
    """Put zeros where sums run over removed units: into constants, or onto what is computed."""
    for use in surgery.coupling.uses:
        value = use.node.inputs[use.operand] if use.role == "contracts" else None
        if value is None or surgery.kept(use.factor) is None:
            continue
        mask = surgery.masks(value)[use.axis]
        tensor = constant_tensor(value)
        if tensor is None:
            _hide(change, use, value, mask, shapes)
            continue
        array = np.moveaxis(tensor.numpy().copy(), use.axis, 0)
        array[~mask] = 0
        array = np.moveaxis(array, 0, use.axis)
        change.set_input(use.node, use.operand, change.initializer(array, name=f"{value.name}_0"))


def _hide(
    change: Change, use: Use, value: ir.Value, mask: npt.NDArray[np.bool_], shapes: ShapeTable
) -> None:
    """Multiply what a node reads by 0 where units are removed, and by 1 elsewhere."""
    known = shapes.of(value)
    if known is None or known.dtype is None or known.dims is None:
        return  # what is cut then differs from what is not: a refusal
    dims = [1] * len(known.dims)
    dims[use.axis] = len(mask)
    ones = mask.astype(known.dtype.numpy()).reshape(dims)
    factor = change.initializer(ones, name=f"{value.name}_mask")
    hidden = change.node("Mul", [value, factor], before=use.node, like=value)
    change.set_input(use.node, use.operand, hidden)


@dataclass(frozen=True)
class SurgeryTest:
    """What came of a comparison of a cut copy with a masked one.

    Attributes:
        error: Largest difference over the largest element of an output or sum; NaN: none was found.
        fault: What is wrong, for a person; ``None`` where `error` is within `MAX_SURGERY_ERROR`.
        compared: How many outputs and sums were compared.
    """

    error: float
    fault: str | None
    compared: int = 0


def judge_surgery(
    model: ir.Model, cuts: Iterable[Sequence[int]], feeds: Feeds, *, caches: bool = False
) -> SurgeryTest:
    """Remove units from a copy of a model, and compare it with a copy that has zeros there.

    Compared are the outputs, and what sums over removed units come to.

    Args:
        model: The model as it is, which stays so.
        cuts: The units to remove, as `couple` numbers them: one rewrite each.
        feeds: Inputs to compare on.
        caches: Units may be heads of caches, as `couple` says; those of the inputs are then given
            in full to both, and only those that stay are compared.

    Raises:
        WorkerCrash, WorkerTimeout, WorkerOutOfMemory: The worker ended.
    """
    chosen = list(cuts)
    with scratch_folder() as folder:
        zeros, shorter = folder / "zeros.onnx", folder / "shorter.onnx"
        _write(model, chosen, zeros, is_masked=True, caches=caches)
        obstacle = _write(model, chosen, shorter, is_masked=False, caches=caches)
        if obstacle is not None:
            where = obstacle.where.name or obstacle.where.op_type
            return SurgeryTest(math.nan, f"{obstacle.why} (`{where}`)")
        try:
            states: Mapping[str, str] | None = {} if caches else None
            found = compare_models(zeros, shorter, feeds, worker=shared_worker(), states=states)
        except (SessionLoadError, RunError, UnsupportedModelError) as error:
            why = f"the cut model does not run: {error.why or error.message}"
            return SurgeryTest(math.nan, why)
    return _verdict(found.outputs)


def _verdict(outputs: Mapping[str, OutputDifference]) -> SurgeryTest:
    # Of what depends on random numbers nothing is told: no proof is no proof.
    fault = None if outputs else "there is nothing to compare: all outputs depend on chance"
    for name, difference in outputs.items():
        if difference.mismatch is not None:
            fault = fault or f"output `{name}`: {difference.mismatch}"
        # Without an answer (NaN) nothing is shown to be right.
        elif not difference.max_rel <= MAX_SURGERY_ERROR:
            off = f"is off by {difference.max_rel:.2g} of its largest element"
            fault = fault or f"output `{name}` {off}"
    error = max((difference.max_rel for difference in outputs.values()), default=math.nan)
    return SurgeryTest(error, fault, len(outputs))


def surgery_fault(
    model: ir.Model, cuts: Iterable[Sequence[int]], feeds: Feeds, *, caches: bool = False
) -> str | None:
    """Return what is wrong with a cut, or ``None``; see `judge_surgery`."""
    return judge_surgery(model, cuts, feeds, caches=caches).fault


def _write(
    model: ir.Model, cuts: list[Sequence[int]], path: Path, *, is_masked: bool, caches: bool
) -> Obstacle | None:
    copy = clone(model)
    shapes = infer_shapes(copy)
    coupling = couple(copy, shapes, caches=caches)
    editor = Editor(copy, pass_name="self-test", journal=Journal())  # noqa: S106 - no secret
    everything = plan_surgery(coupling, [unit for units in cuts for unit in units])
    obstacle: Obstacle | None = None
    for surgery in (everything,) if is_masked else [plan_surgery(coupling, cut) for cut in cuts]:
        with editor.rewrite(copy.graph, because="self-test") as change:
            if is_masked:
                masked(change, surgery, shapes)
            else:
                obstacle = obstacle or surgery.apply(change)
    _return_sums(copy, everything, shapes)
    if caches:
        _pick_heads(copy, everything, is_masked=is_masked)
    save(copy, path)
    return obstacle


def _return_sums(model: ir.Model, surgery: Surgery, shapes: ShapeTable) -> None:
    """Let a copy return what runs over removed units, too.

    Outputs alone may hardly hang on a layer: one that was scaled by 1e-6 to begin with, or that
    starts at zero, would pass whatever was done to it.
    """
    returned = set(model.graph.outputs)
    for use in surgery.coupling.uses:
        value = use.node.outputs[0]
        if use.role != "contracts" or value in returned or surgery.kept(use.factor) is None:
            continue
        known = shapes.of(value)
        if not value.name or known is None or known.dtype is None or surgery.masks(value):
            continue
        value.type = ir.TensorType(known.dtype)
        model.graph.outputs.append(value)
        returned.add(value)


def _pick_heads(model: ir.Model, surgery: Surgery, *, is_masked: bool) -> None:
    """Give copies one interface: a cut one picks from inputs, a masked one from outputs."""
    ports = model.graph.outputs if is_masked else model.graph.inputs
    for place, value in enumerate(list(ports)):
        for axis, mask in surgery.masks(value).items():
            name, shape = value.name or "", value.shape
            assert shape is not None
            other = ir.Value(name=name, type=value.type, shape=_with_size(shape, axis, mask))
            value.name = f"{name}_{'full' if is_masked else 'kept'}"
            picked = ir.Value(
                name=f"{name}_picked", const_value=ir.tensor(np.flatnonzero(mask), name=name)
            )
            model.graph.register_initializer(picked)
            ports[place] = other
            data, result = (value, other) if is_masked else (other, value)
            attributes = [ir.AttrInt64("axis", axis)]
            node = ir.Node("", "Gather", [data, picked], attributes, outputs=[result])
            if is_masked:
                model.graph.append(node)
            else:
                model.graph.insert_before(model.graph[0], node)


def _with_size(shape: ir.Shape, axis: int, mask: npt.NDArray[np.bool_]) -> ir.Shape:
    """Return a shape with all indices along an axis, whether some are cut already or not."""
    dims = list(shape)
    dims[axis] = len(mask)
    return ir.Shape(dims)
