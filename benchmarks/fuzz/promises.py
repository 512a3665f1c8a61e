"""What `@exact` promises about every model, checked on one."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from graphs import Sample
from scopes import Runtime

from graphopt.analysis import infer_shapes
from graphopt.errors import GraphoptError, RuntimeFailure
from graphopt.ir import load, model_bytes
from graphopt.pipeline import Ledger, Pipeline
from graphopt.verification import Interface

PIPELINE = Pipeline.parse("@exact")
NAME_BYTES = 64
"""What longer names and a few sizes that became constant may add to a tiny file."""


@dataclass(frozen=True)
class Outcome:
    """What `@exact` made: bytes before and after, what changed outside, and how it went."""

    source: bytes
    result: bytes
    changes: list[str]
    ledger: Ledger


def exact(model: onnx.ModelProto) -> Outcome:
    """Load a model from a file and run `@exact` on it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        loaded = load(path)
        before, source = Interface.of(loaded), model_bytes(loaded)
        ledger = PIPELINE.run(loaded, verify="structure", reproducer_dir=None).ledger
        changes = before.differences(Interface.of(loaded))
        return Outcome(source, model_bytes(loaded), changes, ledger)


def broken_promise(sample: Sample, runtime: Runtime) -> str | None:
    """Return which promise is broken and how; None where none is; `skip: ...` for no sample."""
    try:
        onnx.checker.check_model(sample.model)
        expected = runtime.run(sample.model.SerializeToString(), sample.feeds)
        again = runtime.run(sample.model.SerializeToString(), sample.feeds)
    except (RuntimeFailure, onnx.checker.ValidationError) as error:
        return f"skip: {error}"
    lie = lie_about_shapes(sample)
    if lie:
        return lie
    try:
        outcome = exact(sample.model)
        onnx.checker.check_model(onnx.ModelProto.FromString(outcome.result))
        found = runtime.run(outcome.result, sample.feeds)
    except GraphoptError as error:
        return f"error: {error}"
    except onnx.checker.ValidationError as error:
        return f"checker: {error}"
    if outcome.changes:
        return f"interface: {outcome.changes}"
    return _difference(sample.model, expected, again, found) or _restlessness(sample, outcome)


def _difference(model, expected, again, found) -> str | None:
    loose = has_halves(model)
    for before, repeated, after in zip(expected, again, found, strict=True):
        for name, value in before.items():
            if unlike(value, repeated[name]):
                continue  # random
            fault = unlike(value, after[name], loose=loose)
            if fault:
                return f"numbers: output {name}: {fault}"
    return None


def _restlessness(sample: Sample, outcome: Outcome) -> str | None:
    if any("still changed" in note or "circles" in note for note in outcome.ledger.notes):
        return f"no rest: {outcome.ledger.notes}"
    second = exact(onnx.ModelProto.FromString(outcome.result)).ledger
    if second.edits:
        edits = [f"{edit.pass_name} {edit.where} {edit.because}" for edit in second.journal.edits]
        return f"no rest: a second run edits {edits}"
    if exact(sample.model).result != outcome.result:
        return "another result the second time"
    sizes = len(outcome.source), len(outcome.result)
    is_larger = sizes[1] > sizes[0] + NAME_BYTES
    return f"grows: {sizes[0]} to {sizes[1]} bytes" if is_larger else None


# -- shapes ---------------------------------------------------------------------------------------


def lie_about_shapes(sample: Sample) -> str | None:
    """Return what shape inference says of a value that is not so.

    Equal symbols have to mean equal sizes.
    """
    model = ir.from_proto(sample.model)
    if any(
        value.is_initializer() and value.name in sample.feeds[1] for value in model.graph.inputs
    ):
        return None  # what depends on a weight that is overridden is not what was recorded
    table = infer_shapes(model)
    sizes: dict[str, tuple] = {}
    for value in (*model.graph.inputs, *(out for node in model.graph for out in node.outputs)):
        known, truth = table.of(value), sample.values.get(value.name or "")
        if known is None or truth is None or not truth.is_tensor:
            continue
        kind = ir.DataType(truth.type.tensor_type.elem_type)
        if known.dtype not in (None, kind):
            return f"shapes: `{value.name}` is {kind}, said to be {known.dtype}"
        shapes = [held.shape for held in truth.held]
        if known.dims is not None and not _fits(known.dims, shapes, sizes):
            return f"shapes: `{value.name}` has {shapes}, said to have {known.dims}"
    return None


def _fits(dims, shapes, sizes: dict[str, tuple]) -> bool:
    if any(len(shape) != len(dims) for shape in shapes):
        return False
    for axis, dim in enumerate(dims):
        found = tuple(shape[axis] for shape in shapes)
        if isinstance(dim, int) and found != (dim, dim):
            return False
        if isinstance(dim, str) and sizes.setdefault(dim, found) != found:
            return False
    return True


# -- numbers --------------------------------------------------------------------------------------


def has_halves(model: onnx.ModelProto) -> bool:
    """Tell whether the runtime may emulate halves by floats, and round where it likes."""
    text = onnx.printer.to_text(model)
    return "float16" in text or "to: int = 10" in text or "to: int = 16" in text


def unlike(first, second, *, loose: bool = False) -> str | None:
    """Return how two outputs differ, None where every bit agrees; any NaN equals any other."""
    if isinstance(first, list):
        if len(first) != len(second):
            return "another length"
        pairs = (unlike(a, b, loose=loose) for a, b in zip(first, second, strict=True))
        return next((fault for fault in pairs if fault), None)
    if first is None or second is None:
        return None if first is second else "an empty optional"
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return f"{first.dtype}{first.shape} became {second.dtype}{second.shape}"
    if first.dtype == object:
        is_same = first.tolist() == second.tolist()
        return None if is_same else f"{first.tolist()} became {second.tolist()}"
    return _unlike_numbers(first, second, loose=loose) if first.size else None


def _unlike_numbers(first, second, *, loose: bool) -> str | None:
    if first.dtype.kind == "V":
        first, second = first.astype(np.float32), second.astype(np.float32)
    sides = (np.ascontiguousarray(side).reshape(-1).view(np.uint8) for side in (first, second))
    bits = [side.reshape(first.size, -1) for side in sides]
    same = (bits[0] == bits[1]).all(axis=1).reshape(first.shape)
    if first.dtype.kind == "f":
        same |= np.isnan(first) & np.isnan(second)
        if loose:
            wide = [side.astype(np.float64) for side in (first, second)]
            with np.errstate(all="ignore"):
                same |= np.isclose(*wide, rtol=2e-2, atol=1e-3)
    return None if same.all() else f"{first[~same][:3]} became {second[~same][:3]}"
