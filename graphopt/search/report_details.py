"""What the page of a bundle shows beside the result: layers, weights, how times are spread."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.errors import RuntimeFailure
from graphopt.ir import clone, initializer_tensors, load, save, scratch_folder, weight_bytes
from graphopt.report import LayerError, ReportDetails
from graphopt.runtime import Feeds, LatencyComparison, Worker
from graphopt.verification import compare_outputs

__all__ = ["report_details"]

_MOST_LAYERS = 48
_LARGEST_BYTES = 1 << 30
"""Both models are written once more, with the values as outputs."""

# Where the work is, and where integers come in; what lies between follows from them.
_SHOWN_OPERATORS = frozenset(
    {"Attention", "Conv", "ConvTranspose", "Gemm", "LayerNormalization", "MatMul", "Softmax"}
)


def report_details(
    source: ir.Model, chosen: Path, feed: Feeds, latency: LatencyComparison | None, worker: Worker
) -> ReportDetails:
    """Return the figures; values inside are compared on one sample.

    Args:
        source: The original.
        chosen: File of what is shipped.
        feed: The sample.
        latency: Times of the two, where they were measured.
        worker: Where the models run.
    """
    shipped = load(chosen)
    notes: list[str] = []
    layers: tuple[LayerError, ...] = ()
    if max(weight_bytes(source), weight_bytes(shipped)) > _LARGEST_BYTES:
        notes.append(f"errors by layer were not measured: more than {_LARGEST_BYTES >> 30} GiB")
    else:
        try:
            layers = _layer_errors(source, shipped, feed, worker)
        except RuntimeFailure as error:
            notes.append(f"errors by layer could not be measured: {error.why or error.message}")
    return ReportDetails(
        weights_before=_weights(source),
        weights_after=_weights(shipped),
        layers=layers,
        quantiles_before=latency.before.quantiles_ms if latency else (),
        quantiles_after=latency.after.quantiles_ms if latency else (),
        notes=tuple(notes),
    )


def _weights(model: ir.Model) -> dict[str, int]:
    found: Counter[str] = Counter()
    # A tensor that several share is stored once.
    for tensor in {id(tensor): tensor for _, tensor in initializer_tensors(model)}.values():
        found[tensor.dtype.name] += tensor.nbytes
    return dict(found.most_common())


def _layer_errors(
    source: ir.Model, shipped: ir.Model, feed: Feeds, worker: Worker
) -> tuple[LayerError, ...]:
    before = _inner_values(source)
    after = _inner_values(shipped)
    names = [name for name, operator in before.items() if operator in _SHOWN_OPERATORS]
    names = [name for name in names if name in after]
    if len(names) > _MOST_LAYERS:
        # Evenly spread: errors grow with depth, and the first layers alone would show none.
        picks = np.linspace(0, len(names) - 1, _MOST_LAYERS).round().astype(int)
        names = [names[place] for place in picks]
    if not names:
        return ()
    reference, values = (_run(model, names, feed, worker) for model in (source, shipped))
    differences = compare_outputs(reference, values)
    return tuple(
        LayerError(
            name=name,
            operator=before[name],
            cosine=differences[name].cosine,
            sqnr_db=None if differences[name].is_identical else differences[name].sqnr_db,
        )
        for name in names
        if differences[name].mismatch is None  # a name may have gone to another value
    )


def _inner_values(model: ir.Model) -> dict[str, str]:
    """Return the named float values of the main graph, with the operator that makes each."""
    return {
        value.name: node.op_type
        for node in model.graph
        for value in node.outputs
        if value.name and value.dtype in {None, ir.DataType.FLOAT} and not value.is_graph_output()
    }


def _run(model: ir.Model, names: list[str], feed: Feeds, worker: Worker) -> dict[str, Any]:
    exposed = clone(model)
    held = {value.name: value for node in exposed.graph for value in node.outputs}
    for name in names:
        # An output must have a type; where none is declared, the runtime refuses the wrong guess.
        held[name].type = held[name].type or ir.TensorType(ir.DataType.FLOAT)
        exposed.graph.outputs.append(held[name])
    with scratch_folder() as folder:
        path = save(exposed, folder / "exposed.onnx")[0]
        return dict(worker.evaluate(path, feed, names))
