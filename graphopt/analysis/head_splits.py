"""How one tensor is split into the heads of an attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from graphopt.analysis.operands import (
    int_attribute,
    operand,
    squeeze_axes,
    transpose_permutation,
)
from graphopt.analysis.symbolic_table import SymbolicTable
from graphopt.ir import constant_array

__all__ = ["Dims", "Heads", "asked_dims", "split_heads", "unscaled"]

Dims = tuple[int | str | None, ...]
"""Dimensions; equal names are equal sizes."""

_RANK = 4
_MATRIX = 2  # the rank of (B * S, H * d)
_MATRICES = 3  # the rank of (B * H, S, d)
_PARTED = 5  # the rank of (B, S, 3, H, d)
_PARTS = 3
_MAX_STEPS = 8
# A factor of more dimensions would add some to what it multiplies.
_MAX_FACTOR_RANK = 3
_SPLIT = (0, 2, 1, 3)
_BATCH_SECOND = (1, 0, 2)
_PARTED_HEADS_FIRST = (2, 0, 3, 1, 4)


@dataclass(frozen=True)
class Heads:
    """One of queries, keys and values.

    Attributes:
        source: The value before it is split, (B, S, count * size).
        dims: Its first two dimensions, (B, S); with a past, S is the length of both.
        count: Number of heads.
        size: Elements of one head.
        scale: What it is multiplied with on the way.
        is_split: The source is (B, count, S, size): nobody knows what it was split from.
        is_time_first: The source is (S, B, count * size).
        flat: The Reshape that splits the source, which is (B * S, count * size).
        part: Queries, keys and values are parts of the source, which is as wide as all of them, and
            this is its part of that number.
        past: What comes before the source along S, (B, count, P, size).
        joined: Past and source, (B, count, P + S, size).
    """

    source: ir.Value
    dims: Dims
    count: int
    size: int
    scale: float
    is_split: bool = False
    is_time_first: bool = False
    flat: ir.Node | None = None
    part: int | None = None
    past: ir.Value | None = None
    joined: ir.Value | None = None

    def without_past(self) -> Heads:
        """Return the same heads with the past in the source."""
        if self.joined is None:
            return self
        return replace(
            self, source=self.joined, is_split=True, flat=None, part=None, past=None, joined=None
        )


def unscaled(value: ir.Value) -> tuple[ir.Value, float]:
    """Step over a multiplication with, or division by, one number; return the factor too."""
    node = value.producer()
    if node is None or node.domain or node.op_type not in ("Mul", "Div", "Identity"):
        return value, 1.0
    if node.op_type == "Identity":
        return node.inputs[0] or value, 1.0
    for index in (1, 0) if node.op_type == "Mul" else (1,):
        number = constant_array(node.inputs[index], 1)
        other = node.inputs[1 - index]
        if number is None or number.size != 1 or other is None:
            continue
        factor = float(number.reshape(-1)[0])
        if factor and number.dtype.kind == "f" and number.ndim <= _MAX_FACTOR_RANK:
            return other, factor if node.op_type == "Mul" else 1.0 / factor
    return value, 1.0


def asked_dims(reshape: ir.Node, shapes: SymbolicTable) -> Dims | None:
    """Return the dimensions that a Reshape makes, given that they are not 0.

    A computed dimension of 0 would copy one of the input, so that nobody can tell what it becomes;
    but then there is no element that could be in the wrong place.
    """
    known = shapes.of(reshape.outputs[0])
    asked = shapes.elements_of(operand(reshape, 1))
    if known is None or known.dims is None or asked is None or len(asked) != len(known.dims):
        return None if known is None else known.dims
    return tuple(
        name if isinstance(name, str) else dim for name, dim in zip(asked, known.dims, strict=True)
    )


@dataclass(frozen=True)
class _Path:
    """The way from one side of a MatMul upwards: that side is ``value`` transposed by ``order``."""

    value: ir.Value
    order: tuple[int, ...]
    scale: float = 1.0

    @property
    def is_plain(self) -> bool:
        return self.order == tuple(range(len(self.order)))

    def above(self, value: ir.Value, order: Sequence[int] | None = None) -> _Path:
        """Go on to ``value``; ``order`` permutes it into the value of now."""
        if order is None:
            return replace(self, value=value)
        return replace(self, value=value, order=tuple(order[axis] for axis in self.order))


def split_heads(
    value: ir.Value | None, shapes: SymbolicTable, *, is_transposed: bool = False
) -> Heads | str:
    """Return how ``value``, (B, H, S, d) or (B * H, S, d), came to be, or why that is not known.

    Args:
        value: One side of a MatMul.
        shapes: Shapes of the values.
        is_transposed: Its last two axes are exchanged, as those of keys are.
    """
    known = shapes.of(value)
    if value is None or known is None or known.dims is None:
        return "shapes are not known"
    order = tuple(range(len(known.dims)))
    if is_transposed:
        order = (*order[:-2], *reversed(order[-2:]))
    if not _MATRICES <= len(order) <= _RANK:
        return f"it has {len(order)} dimensions, not three or four"
    return _follow(_Path(value, order), shapes, _MAX_STEPS)


def _follow(path: _Path, shapes: SymbolicTable, steps: int) -> Heads | str:
    """Go upwards as far as the way is known; heads that are split already will do."""
    split: Heads | None = None
    reason = "too many steps"
    for _ in range(steps):
        if path.is_plain and len(path.order) == _RANK:
            split = _already_split(path, shapes) or split
        found = _step(path, shapes, steps)
        if isinstance(found, _Path):
            path = found
            continue
        if isinstance(found, Heads):
            return found
        reason = found
        break
    return split or reason


def _already_split(path: _Path, shapes: SymbolicTable) -> Heads | None:
    known = shapes.of(path.value)
    dims = known.dims if known is not None else None
    if dims is None or len(dims) != _RANK:
        return None
    _, count, length, size = dims
    if not isinstance(count, int) or not isinstance(size, int) or not count or not size:
        return None
    return Heads(path.value, (dims[0], length), count, size, path.scale, is_split=True)


def _step(path: _Path, shapes: SymbolicTable, steps: int) -> _Path | Heads | str:
    node = path.value.producer()
    if node is None or node.domain:
        return f"`{path.value.name}` is not computed by Reshape and Transpose"
    inner, factor = unscaled(path.value)
    if inner is not path.value:
        return replace(path, value=inner, scale=path.scale * factor)
    found: _Path | Heads | str | None = None
    if node.op_type == "Transpose":
        found = _above_transpose(node, path)
    elif node.op_type == "Reshape":
        found = _above_reshape(node, path, shapes)
    elif path.is_plain and len(path.order) == _RANK:
        if node.op_type == "Concat":
            found = _with_past(node, path, shapes, steps)
        elif node.op_type in ("Gather", "Squeeze"):
            found = _parted(node, path, shapes)
    return found or f"{node.op_type} `{node.name}` is in between"


def _above_transpose(node: ir.Node, path: _Path) -> _Path | str:
    order, source = transpose_permutation(node, len(path.order)), operand(node, 0)
    if order is None or len(order) != len(path.order) or source is None:
        return f"Transpose `{node.name}` is not of {len(path.order)} axes"
    return path.above(source, order)


def _above_reshape(node: ir.Node, path: _Path, shapes: SymbolicTable) -> _Path | Heads | str:
    source = operand(node, 0)
    known, after = shapes.of(source), asked_dims(node, shapes)
    before = known.dims if known is not None else None
    if source is None or not before or not after:
        return f"the shapes at Reshape `{node.name}` are not known"
    turned = _turned_before(source, before, after, path)
    if turned is not None:
        return turned
    if len(path.order) == _MATRICES:
        return _above_matrices(source, before, after, path, node)
    folded = _swapped_in_three_dimensions(node, shapes)
    if folded is not None:
        return path.above(folded, (0, 1, 3, 2))
    split = _split_rows if len(before) == _MATRIX else _split_by
    if path.order != _SPLIT:
        return f"Reshape `{node.name}` does not split heads that are transposed after it"
    return split(node, before, after, path.scale, shapes)


def _turned_before(source: ir.Value, before: Dims, after: Dims, path: _Path) -> Heads | None:
    """Return heads split from (B, H * d, T): rows are turned to columns before, not after that."""
    rank = len(path.order)
    transpose = _producer(source, "Transpose")
    if transpose is None or path.order != (*range(rank - 2), rank - 1, rank - 2):
        return None
    rows, (size, length) = operand(transpose, 0), after[-2:]
    is_turned = transpose_permutation(transpose, _MATRICES) == (0, 2, 1)
    if rows is None or not is_turned or len(before) != _MATRICES or before[2] != length:
        return None
    width = before[1]
    if not isinstance(width, int) or not isinstance(size, int) or not size or width % size:
        return None
    if length is None or (rank == _RANK and after[1] != width // size):
        return None
    return _at_source(rows, (before[0], length), width // size, size, path.scale)


def _above_matrices(
    source: ir.Value, before: Dims, after: Dims, path: _Path, node: ir.Node
) -> _Path | Heads | str:
    """Go on above a Reshape to (B * H, S, d), or to (S, B * H, d)."""
    if len(before) == _RANK and path.order[0] == 0 and _ends_alike(before, after, 2):
        order = (0, 1, *(axis + 1 for axis in path.order[1:]))
        return replace(path, value=source, order=order)
    size = after[2]
    if len(before) == _MATRICES and path.order == _BATCH_SECOND and before[0] == after[0]:
        width = before[2]
        if isinstance(width, int) and isinstance(size, int) and size and width % size == 0:
            heads = _at_source(source, (before[1], before[0]), width // size, size, path.scale)
            return replace(heads, is_time_first=True)
    return f"Reshape `{node.name}` from {_shown(before)} to {_shown(after)} joins no heads"


def _ends_alike(one: Dims, other: Dims, count: int) -> bool:
    return None not in one[-count:] and one[-count:] == other[-count:]


def _split_rows(
    node: ir.Node, before: Dims, after: Dims, scale: float, shapes: SymbolicTable
) -> Heads | str:
    """Return the heads that a Reshape makes of a matrix with a row for each token."""
    asked, source = shapes.elements_of(operand(node, 1)), operand(node, 0)
    if source is None or asked is None or 0 in asked:
        return f"Reshape `{node.name}` copies sizes of a matrix"
    count, size = after[2:]
    if not isinstance(count, int) or not isinstance(size, int) or before[1] != count * size:
        return f"Reshape from {_shown(before)} to {_shown(after)} splits no last axis"
    return replace(_at_source(source, after[:2], count, size, scale), flat=node)


def _split_by(
    node: ir.Node,
    before: Dims,
    after: Dims,
    scale: float,
    shapes: SymbolicTable,  # noqa: ARG001 - the same parameters as `_split_rows`
) -> Heads | str:
    """Return the heads that a Reshape makes of three dimensions."""
    change, source = f"Reshape from {_shown(before)} to {_shown(after)}", operand(node, 0)
    if source is None or (len(before), len(after)) != (_RANK - 1, _RANK):
        return f"{change} splits no last axis"
    count, size, width = after[2], after[3], before[2]
    if not isinstance(count, int) or not isinstance(size, int) or width != count * size:
        return f"{change} splits no last axis"
    # One of the first two axes is kept, so that the other is too: the elements are as many.
    if not any(one is not None and one == after[axis] for axis, one in enumerate(before[:2])):
        return f"{change} may move elements between axes"
    return _at_source(source, before[:2], count, size, scale)


def _shown(dims: Dims) -> str:
    return "(" + ", ".join("?" if dim is None else str(dim) for dim in dims) + ")"


def _at_source(source: ir.Value, dims: Dims, count: int, size: int, scale: float) -> Heads:
    """Step over factors before the split."""
    inner, factor = unscaled(source)
    while inner is not source:
        source, scale = inner, scale * factor
        inner, factor = unscaled(source)
    return Heads(source, dims, count, size, scale)


def _with_past(node: ir.Node, path: _Path, shapes: SymbolicTable, steps: int) -> Heads | None:
    """Return the heads that are joined to those of earlier runs."""
    if len(node.inputs) != 2 or int_attribute(node, "axis", 0) not in (2, -2):  # noqa: PLR2004
        return None
    past, new = node.inputs
    split, earlier = _already_split(path, shapes), shapes.of(past)
    if past is None or new is None or split is None or earlier is None or not earlier.dims:
        return None
    heads = _follow(replace(path, value=new, scale=1.0), shapes, steps - 1)
    # A factor of what is new alone has not been applied to the past.
    if isinstance(heads, str) or heads.past is not None or heads.scale != 1.0:
        return None
    if heads.is_time_first or (heads.count, heads.size) != (split.count, split.size):
        return None
    return replace(heads, dims=split.dims, scale=path.scale, past=past, joined=node.outputs[0])


def _parted(node: ir.Node, path: _Path, shapes: SymbolicTable) -> Heads | None:
    """Return a part of what is split into (B, S, 3, H, d) and transposed to (3, B, H, S, d)."""
    whole, part = _picked(node) or (None, 0)
    transpose = _producer(whole, "Transpose")
    reshape = _producer(operand(transpose, 0), "Reshape") if transpose is not None else None
    if transpose is None or reshape is None:
        return None
    source, after = operand(reshape, 0), asked_dims(reshape, shapes)
    known = shapes.of(source)
    before = known.dims if known is not None else None
    is_first = transpose_permutation(transpose, _PARTED) == _PARTED_HEADS_FIRST
    if source is None or not before or not after or len(after) != _PARTED or not is_first:
        return None
    count, size = after[3:]
    if not isinstance(count, int) or not isinstance(size, int) or after[2] != _PARTS:
        return None
    if len(before) != _MATRICES or before[2] != _PARTS * count * size:
        return None
    if not any(one is not None and one == after[axis] for axis, one in enumerate(before[:2])):
        return None
    return Heads(source, before[:2], count, size, path.scale, part=part)


def _picked(node: ir.Node) -> tuple[ir.Value | None, int] | None:
    """Return what is indexed along its first axis, and where."""
    if node.op_type == "Gather":
        index = constant_array(operand(node, 1), 1)
        if int_attribute(node, "axis", 0) != 0 or index is None or index.ndim:
            return None
        return operand(node, 0), int(index) % _PARTS
    split = _producer(operand(node, 0), "Split")
    if split is None or int_attribute(split, "axis", 0) != 0 or len(split.outputs) != _PARTS:
        return None
    if squeeze_axes(node) not in ((0,), (-_PARTED,)):
        return None
    names = [value.name for value in split.outputs]
    return operand(split, 0), names.index(node.inputs[0].name if node.inputs[0] else None)


def _swapped_in_three_dimensions(reshape: ir.Node, shapes: SymbolicTable) -> ir.Value | None:
    """Return K where ``reshape`` ends (B,H,T,d) to (BH,T,d) to (BH,d,T) to (B,H,d,T).

    What the two ask for is compared, not what they get: nobody knows that of sequences of length 0,
    for which such a chain fails.
    """
    transpose = _producer(operand(reshape, 0), "Transpose")
    first = _producer(operand(transpose, 0), "Reshape") if transpose is not None else None
    if transpose is None or first is None:
        return None
    if transpose_permutation(transpose, _RANK - 1) != (0, 2, 1):
        return None
    keys = operand(first, 0)
    known = shapes.of(keys)
    joined = shapes.elements_of(operand(first, 1))
    parted = shapes.elements_of(operand(reshape, 1))
    before = known.dims if known is not None else None
    if not before or not joined or not parted or not len(before) == len(parted) == _RANK:
        return None
    is_joined = len(joined) == _RANK - 1 and None not in before and before[2:] == joined[1:]
    is_parted = parted[1:] == (before[1], before[3], before[2])
    return keys if is_joined and is_parted else None


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type and not node.domain else None
