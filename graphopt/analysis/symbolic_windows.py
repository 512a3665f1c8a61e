"""Dimensions of what convolutions, pooling, resizing and look-ups make of expressions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from graphopt.analysis.operands import int_attribute, ints_attribute, operand
from graphopt.analysis.symbolic_expressions import Integer, is_nonnegative

if TYPE_CHECKING:
    from graphopt.analysis.symbolic_shapes import SymbolicShapes

__all__ = ["WINDOW_DIMS"]

_Dims = tuple[Integer, ...]
_Sizes = Sequence[int] | None
_Found = Sequence[_Dims | None] | None


def _window(
    node: ir.Node, known: SymbolicShapes, channels: Integer | None, kernel: _Sizes
) -> _Found:
    """Images stay as many as they are; shape inference knows how large they get, or it follows."""
    data = known.dims(operand(node, 0))
    result = known.dims(node.outputs[0])
    if data is None or len(data) < 3 or (result is not None and len(result) != len(data)):  # noqa: PLR2004
        return None
    followed = _window_sizes(node, known, data[2:], kernel)
    if result is None and None in followed:
        result = known.ask_inference(node)
    if result is None:
        result = tuple(
            known.symbols.of(("dim", node.outputs[0], axis), is_size=True)
            for axis in range(len(data))
        )
    sizes = [
        size if isinstance(size, int) or other is None else other
        for size, other in zip(result[2:], followed, strict=True)
    ]
    return [(data[0], result[1] if channels is None else channels, *sizes)]


def _window_sizes(
    node: ir.Node, known: SymbolicShapes, sizes: _Dims, kernel: _Sizes
) -> Sequence[Integer | None]:
    """Return in how many places windows of size ``kernel`` fit into each axis."""
    rank = len(sizes)
    mode = node.attributes.get("auto_pad")
    padding = "NOTSET" if mode is None else mode.as_string()
    pads = _numbers(node, "pads", (0,) * 2 * rank) if padding == "NOTSET" else (0,) * 2 * rank
    strides, dilations = (_numbers(node, key, (1,) * rank) for key in ("strides", "dilations"))
    if any(step < 1 for step in strides):
        return [None] * rank  # the runtime refuses to load it
    if padding in ("SAME_UPPER", "SAME_LOWER") and len(strides) == rank:
        pairs = zip(sizes, strides, strict=True)
        return [-(-size // step) if isinstance(size, int) else None for size, step in pairs]
    is_rounded_up = int_attribute(node, "ceil_mode", 0) != 0
    if kernel is None or padding not in ("NOTSET", "VALID"):
        return [None] * rank
    if [len(each) for each in (pads, strides, dilations, kernel)] != [2 * rank, rank, rank, rank]:
        return [None] * rank
    found: list[Integer | None] = []
    for axis, size in enumerate(sizes):
        padded = size + (pads[axis] + pads[axis + rank])
        left = padded - (dilations[axis] * (kernel[axis] - 1) + 1)
        if is_rounded_up:
            found.append(_rounded_up(left, strides[axis], size + pads[axis]))
            continue
        if isinstance(left, int) and left >= 0:
            found.append(left // strides[axis] + 1)
            continue
        # The same name wherever windows go on by the same step over as much: both sides of a
        # residual sum come to it in different ways.
        steps = known.symbols.of(("windows", left, strides[axis]), is_size=True)
        found.append(left + 1 if strides[axis] == 1 else steps)
    return found


def _rounded_up(left: Integer, stride: int, reach: Integer) -> int | None:
    """Return the places of a window where the last one may be partly outside (`ceil_mode`).

    Args:
        left: How much of an axis is beyond the first window; negative where that does not fit.
        stride: From one place to the next.
        reach: Where padding at the end begins.

    Returns:
        ``None`` where sizes are not numbers, and where versions of the operator differ: whether a
        window that begins in the padding counts.
    """
    if not isinstance(left, int) or not isinstance(reach, int) or left <= -stride:
        return None
    places = -(-left // stride) + 1
    return places if (places - 1) * stride < reach else None


def _numbers(node: ir.Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """Return a list attribute, empty where it is not known."""
    return (ints_attribute(node, name) or ()) if name in node.attributes else default


def _conv(node: ir.Node, known: SymbolicShapes) -> _Found:
    weight = known.dims(operand(node, 1))
    kernel = [dim for dim in weight[2:] if isinstance(dim, int)] if weight else []
    is_known = weight is not None and len(kernel) == len(weight) - 2
    return _window(node, known, weight[0] if weight else None, kernel if is_known else None)


def _pool(node: ir.Node, known: SymbolicShapes) -> _Found:
    data = known.dims(operand(node, 0))
    channels = data[1] if data is not None and len(data) > 1 else None
    return _window(node, known, channels, ints_attribute(node, "kernel_shape"))


def _global_pool(node: ir.Node, known: SymbolicShapes) -> _Found:
    """One number for each image and channel."""
    data = known.dims(operand(node, 0))
    return None if data is None or len(data) < 3 else [(*data[:2], *(1,) * (len(data) - 2))]  # noqa: PLR2004


def _gather_nd(node: ir.Node, known: SymbolicShapes) -> _Found:
    data, indices = known.dims(operand(node, 0)), known.dims(operand(node, 1))
    batch = int_attribute(node, "batch_dims", 0)
    if data is None or not indices or batch is None or not isinstance(indices[-1], int):
        return None
    return [(*indices[:-1], *data[batch + indices[-1] :])]


def _resize(node: ir.Node, known: SymbolicShapes) -> _Found:
    """What is resized to given sizes has them; `axes` since opset 18, `sizes` since 11."""
    data, sizes = known.dims(operand(node, 0)), known.elements(operand(node, 3))
    policy = node.attributes.get("keep_aspect_ratio_policy")
    if data is None or sizes is None or (policy is not None and policy.as_string() != "stretch"):
        return None
    items = sizes.reshape(-1).tolist()
    axes = ints_attribute(node, "axes") if "axes" in node.attributes else range(len(data))
    if axes is None or len(items) != len(axes):
        return None
    if not all(-len(data) <= axis < len(data) for axis in axes):
        return None
    dims = list(data)
    for axis, item in zip(axes, items, strict=True):
        dims[axis] = item
    return [tuple(dims)] if all(map(is_nonnegative, dims)) else None


WINDOW_DIMS: Mapping[str, Callable[[ir.Node, SymbolicShapes], _Found]] = {
    "AveragePool": _pool,
    "Conv": _conv,
    "ConvInteger": _conv,
    "GatherND": _gather_nd,
    "GlobalAveragePool": _global_pool,
    "GlobalLpPool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "MaxPool": _pool,
    "Resize": _resize,
}
