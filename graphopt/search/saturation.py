"""Predicting, on any machine, what a quantized model loses on x86 processors without VNNI."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.integer_layers import IntegerLayer, Windows, find_integer_layers
from graphopt.compression import Saturation, replay_saturation
from graphopt.ir import clone, constant_array, graphs, save, scratch_folder
from graphopt.runtime import Feeds, SessionOptions, Worker

__all__ = ["LayerSaturation", "lacks_wide_sums", "predict_saturation", "windows_of"]

ROWS = 128
"""Rows of activations that are replayed for each layer and sample."""

# Sums of four products in 32 bits: x86 with one of these, and everything that is not x86.
_WIDE_SUMS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "avx_vnni_int8"})
_NARROW = frozenset({"avx2", "avx512f", "avx512bw", "sse4_1", "sse4_2", "avx"})

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class LayerSaturation:
    """What becomes of one layer without VNNI.

    Attributes:
        name: The layer.
        operator: The operator that multiplies.
        saturation: What was replayed; ``None`` where it could not be.
        reason: Why not, or what must be known.
    """

    name: str
    operator: str
    saturation: Saturation | None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        found = self.saturation
        return {
            "name": self.name,
            "operator": self.operator,
            "rate": None if found is None else found.rate,
            "sqnr_db": None if found is None else found.sqnr_db,
            "saturated_sqnr_db": None if found is None else found.saturated_sqnr_db,
            "needs_seven_bits": found is not None and found.is_worse_than_seven_bits,
            "reason": self.reason,
        }


def lacks_wide_sums(features: Iterable[str]) -> bool:
    """Tell whether a device, by the features that it is known to have, is x86 without VNNI."""
    known = frozenset(features)
    return bool(known & _NARROW) and not known & _WIDE_SUMS


def predict_saturation(
    model: ir.Model, feeds: Iterable[Feeds], *, worker: Worker
) -> list[LayerSaturation]:
    """Replay the sums of 16 bits of every integer layer on the activations of samples.

    The model runs without optimizations, so that its activations are those of a machine that does
    not saturate: what a layer loses counts where it arises, and not in the layers behind it.

    Args:
        model: A quantized model: with `DequantizeLinear` around its layers, with operators on
            integers, or dynamically quantized.
        feeds: A few samples; one or two are enough.
        worker: Where it runs.

    Raises:
        RuntimeFailure: The runtime refuses the model or a sample.
    """
    layers, others = find_integer_layers(model.graph)
    others += _inside_subgraphs(model)
    at_risk = [layer for layer in layers if _reason(layer) is None]
    totals = {layer.node: Saturation() for layer in at_risk}
    for feed in feeds if at_risk else ():
        values = _values_of(model, at_risk, feed, worker)
        for layer in at_risk:
            totals[layer.node] += _replay(layer, values)
    found = [
        LayerSaturation(
            name=layer.name,
            operator=layer.node.op_type,
            saturation=totals.get(layer.node, Saturation()),
            reason=_reason(layer),
        )
        for layer in layers
    ]
    return found + [
        LayerSaturation(name=node.name or "", operator=node.op_type, saturation=None, reason=why)
        for node, why in others
    ]


def _inside_subgraphs(model: ir.Model) -> list[tuple[ir.Node, str]]:
    inner = [graph for graph in graphs(model) if graph is not model.graph]
    found = [layer for graph in inner for layer in find_integer_layers(graph)[0]]
    return [(layer.node, "values of branches and loops are not replayed") for layer in found]


def _reason(layer: IntegerLayer) -> str | None:
    """Return why a layer cannot saturate, or ``None``."""
    if layer.weights.dtype == np.uint8:
        return "unsigned weights are multiplied in 16 bits and added in 32"
    if layer.windows is not None and layer.weights.shape[1:] == (np.prod(layer.windows.sizes), 1):
        return "the kernel for depthwise convolutions adds single products in 32 bits"
    return None


def _values_of(
    model: ir.Model, layers: list[IntegerLayer], feed: Feeds, worker: Worker
) -> Mapping[str, Array]:
    """Run the model and return the activations of layers, and zero points that are computed."""
    wanted: dict[str, None] = {}
    for layer in layers:
        wanted[layer.activation.name or ""] = None
        if layer.zero_point is not None and constant_array(layer.zero_point) is None:
            wanted[layer.zero_point.name or ""] = None
    given = {value.name: value for value in model.graph.inputs}
    fed = {name: np.asarray(feed[name]) for name in wanted if name in given}
    if len(fed) == len(wanted):
        return fed
    exposed = clone(model)
    held = {value.name: value for node in exposed.graph for value in node.outputs}
    returned = {value.name for value in exposed.graph.outputs}
    for name in wanted:
        if name in held and name not in returned:
            held[name].type = held[name].type or ir.TensorType(ir.DataType.UINT8)
            exposed.graph.outputs.append(held[name])
    with scratch_folder() as folder:
        path = save(exposed, Path(folder) / "exposed.onnx")[0]
        # Optimized, the runtime fuses layers with their quantizers, and the values between are
        # gone.
        options = SessionOptions(optimization="disabled")
        with worker.load(path, options) as session:
            run = session.run(feed, [name for name in wanted if name not in given])
    return fed | {name: np.asarray(value) for name, value in run.items()}


def _replay(layer: IntegerLayer, values: Mapping[str, Array]) -> Saturation:
    activations = values[layer.activation.name or ""]
    zero_point = _zero_point(layer, values)
    if activations.dtype == np.int8:
        # The runtime turns signed activations into unsigned ones before it multiplies.
        activations = (activations.astype(np.int16) + 128).astype(np.uint8)
        zero_point += 128
    groups, depth, columns = layer.weights.shape
    rows = (
        _some_rows(activations.reshape(-1, activations.shape[-1]))[np.newaxis]
        if layer.windows is None
        else windows_of(activations, layer.windows, zero_point, groups, at_most=ROWS)
    )
    scale = np.broadcast_to(layer.scale, (groups * columns,)).reshape(groups, columns)
    total = Saturation()
    for group in range(groups):
        total += replay_saturation(
            rows[group].reshape(-1, depth), layer.weights[group], zero_point, scale[group]
        )
    return total


def _zero_point(layer: IntegerLayer, values: Mapping[str, Array]) -> int:
    if layer.zero_point is None:
        return 0
    held = constant_array(layer.zero_point)
    found = values[layer.zero_point.name or ""] if held is None else held
    return int(found.reshape(-1)[0])


def _some_rows(rows: Array) -> Array:
    """Return up to `ROWS` rows, evenly spread."""
    picked = np.linspace(0, len(rows) - 1, min(ROWS, len(rows))).astype(np.int64)
    return rows[picked]


def windows_of(
    images: Array, windows: Windows, zero_point: int, groups: int, *, at_most: int | None
) -> Array:
    """Return what a convolution sees: (groups, windows, kernel positions, channels of a group).

    Args:
        images: Integers, (batch, channels, *sizes).
        windows: How it slides over them.
        zero_point: What padding holds.
        groups: Into how many parts the channels fall.
        at_most: How many windows are picked, evenly spread; all where ``None``.
    """
    spatial = tuple(range(2, images.ndim))
    reach = [
        (size - 1) * step + 1 for size, step in zip(windows.sizes, windows.dilations, strict=True)
    ]
    padded = np.pad(
        images,
        [(0, 0), (0, 0), *_padding(images.shape[2:], windows, reach)],
        constant_values=zero_point,
    )
    view = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=spatial)
    strided = (slice(None, None, step) for step in (*windows.strides, *windows.dilations))
    every: tuple[Any, ...] = (slice(None), slice(None), *strided)
    view = view[every]
    places = view.shape[:1] + view.shape[2 : images.ndim]
    count = int(np.prod(places))
    picked = np.linspace(0, count - 1, min(at_most or count, count)).astype(np.int64)
    first, *rest = np.unravel_index(picked, places)
    some = view[(first, slice(None), *rest)]  # (windows, channels, kernel...)
    channels = some.shape[1] // groups
    parts: Array = some.reshape(len(picked), groups, channels, -1)
    return parts.transpose(1, 0, 3, 2)


def _padding(sizes: tuple[int, ...], windows: Windows, reach: list[int]) -> list[tuple[int, int]]:
    rank = len(sizes)
    if windows.auto_pad == "VALID":
        return [(0, 0)] * rank
    if windows.auto_pad == "NOTSET":
        return list(zip(windows.pads[:rank], windows.pads[rank:], strict=True))
    found = []
    for size, step, width in zip(sizes, windows.strides, reach, strict=True):
        total = max((-(-size // step) - 1) * step + width - size, 0)
        less = total // 2
        found.append(
            (less, total - less) if windows.auto_pad == "SAME_UPPER" else (total - less, less)
        )
    return found
