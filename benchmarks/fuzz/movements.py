"""Operators that move data, and the arithmetic on shapes that goes with them; see `operators`."""

from __future__ import annotations

import numpy as np
from scopes import Value, ints
from special_arrays import NUMBERS


def transpose(scope):
    x = scope.pick(where=lambda v: v.rank >= 1)
    if x is None:
        return None
    return scope.node("Transpose", [x], perm=scope.world.rng.permutation(x.rank).tolist())


def reshape(scope):
    world = scope.world
    x = scope.pick(where=lambda v: v.rank >= 0)
    if x is None:
        return None
    dims = list(x.dims)
    size = int(np.prod(dims))
    choices = [
        dims,
        [0] * len(dims),
        [-1],
        [0, -1],
        [1, -1],
        [-1, 1],
        [0, 0, -1],
        [size],
        [2, -1],
        [-1, 2, 3],
    ]
    if dims:
        choices += [[*dims[:-1], -1], [-1, *dims[1:]], [0, *dims[1:]], [*dims, 1], dims[::-1]]
    target = world.choose(choices)
    attributes = (
        {"allowzero": int(world.rng.integers(2))} if world.opset >= 14 and world.chance(0.2) else {}
    )
    if world.chance(0.2):
        y = scope.pick("int64", where=lambda v: v.rank == 1 and 1 <= v.dims[0] <= 4)
        return y and scope.node("Reshape", [x, y], **attributes)
    return scope.node("Reshape", [x, ints(scope, target)], **attributes)


def axes_node(scope, op, x, axes):
    if scope.world.opset < 13:
        return scope.node(op, [x], axes=axes)
    return scope.node(op, [x, ints(scope, axes)])


def unsqueeze(scope):
    x = scope.pick(where=lambda v: 0 <= v.rank <= 3)
    if x is None:
        return None
    count = int(scope.world.rng.integers(1, 3))
    low = -x.rank - count
    axes = sorted({int(scope.world.rng.integers(low, x.rank + count)) for _ in range(count)})
    return axes_node(scope, "Unsqueeze", x, axes)


def squeeze(scope):
    x = scope.pick(where=lambda v: 1 in v.dims)
    if x is None:
        return None
    ones = [axis for axis, dim in enumerate(x.dims) if dim == 1]
    axes = [
        axis - (x.rank if scope.world.chance(0.3) else 0)
        for axis in ones
        if scope.world.chance(0.7)
    ]
    return axes_node(scope, "Squeeze", x, axes or ones)


def flatten(scope):
    x = scope.pick(where=lambda v: v.rank >= 0)
    return x and scope.node("Flatten", [x], axis=int(scope.world.rng.integers(-x.rank, x.rank + 1)))


def expand(scope):
    x = scope.pick(*NUMBERS, "bool", "text")
    if x is None:
        return None
    dims = [dim if scope.world.chance(0.5) else 1 for dim in x.dims]
    y = scope.pick("int64", where=lambda v: v.rank == 1 and v.dims[0] <= 3)
    if y is not None and scope.world.chance(0.3):
        return scope.node("Expand", [x, y])
    extra = [scope.world.choose([1, 2])] if scope.world.chance(0.3) else []
    return scope.node("Expand", [x, ints(scope, extra + dims)])


def tile(scope):
    x = scope.pick(where=lambda v: v.rank >= 0)
    return x and scope.node(
        "Tile", [x, ints(scope, [scope.world.choose([1, 1, 1, 2]) for _ in x.dims])]
    )


def concat(scope):
    world = scope.world
    x = scope.pick(where=lambda v: v.rank >= 1)
    if x is None:
        return None
    axis = int(world.rng.integers(-x.rank, x.rank))

    def fits(value: Value) -> bool:
        # The runtime skips what is empty, whatever its other sizes; the specification does not.
        pairs = zip(value.held, x.held, strict=True)
        return value.rank == x.rank and all(
            np.delete(a.shape, axis).tolist() == np.delete(b.shape, axis).tolist() for a, b in pairs
        )

    others = [scope.pick(x.kind, where=fits) for _ in range(int(world.rng.integers(0, 3)))]
    return scope.node("Concat", [x, *others], axis=axis)


def split(scope):
    world = scope.world
    x = scope.pick(where=lambda v: v.rank >= 1)
    if x is None:
        return None
    axis = int(world.rng.integers(-x.rank, x.rank))
    count = int(world.rng.integers(1, 4))
    attributes = {"num_outputs": count} if world.opset >= 18 else {}
    if world.chance(0.4) and world.opset >= 13:
        first = int(world.rng.integers(0, x.dims[axis] + 1))
        return scope.node("Split", [x, ints(scope, [first, x.dims[axis] - first])], 2, axis=axis)
    return scope.node("Split", [x], count, axis=axis, **attributes)


def cut(scope):
    world = scope.world
    x = scope.pick(where=lambda v: v.rank >= 1)
    if x is None:
        return None
    axis = int(world.rng.integers(-x.rank, x.rank))
    start = world.choose([0, 0, 0, 1, -1, -100])
    end = world.choose([x.dims[axis], 2**31 - 1, 2**63 - 1, 1, -1, 0, 100])
    step = world.choose([1, 1, 1, -1, 2])
    if world.opset < 10:
        return scope.node("Slice", [x], starts=[start], ends=[end], axes=[axis])
    inputs = [x, ints(scope, [start]), ints(scope, [end]), ints(scope, [axis])]
    return scope.node("Slice", inputs + ([ints(scope, [step])] if world.chance(0.6) else []))


def pad(scope):
    world = scope.world
    x = scope.pick(*NUMBERS, "bool", where=lambda v: v.rank >= 1)
    if x is None:
        return None
    amounts = [
        world.choose([0, 0, 0, 0, 1, -1]) if world.chance(0.4) else 0 for _ in range(2 * x.rank)
    ]
    mode = world.choose(["constant", "constant", "edge", "reflect"])
    if world.opset < 11:
        return scope.node("Pad", [x], pads=amounts, mode=mode)
    return scope.node("Pad", [x, ints(scope, amounts)], mode=mode)


def gather(scope):
    world = scope.world
    x = scope.pick(where=lambda v: v.rank >= 1)
    if x is None:
        return None
    axis = int(world.rng.integers(-x.rank, x.rank))
    size = max(1, x.dims[axis])
    dims = world.choose([(), (1,), (2,), (1, 2), (0,)])
    return scope.node("Gather", [x, ints(scope, world.rng.integers(-size, size, dims))], axis=axis)


def shape_arithmetic(scope):
    """What exporters write around Shape."""
    world = scope.world
    x = scope.pick(where=lambda v: v.rank >= 1)
    if x is None:
        return None
    attributes = {}
    if world.opset >= 15 and world.chance(0.4):
        attributes = {
            "start": int(world.rng.integers(-4, 4)),
            "end": int(world.rng.integers(-4, 4)),
        }
    results = scope.node("Shape", [x], **attributes)
    if results and world.chance(0.7) and results[0].dims[0]:
        index = int(world.rng.integers(-results[0].dims[0], results[0].dims[0]))
        results = scope.node("Gather", [results[0], ints(scope, world.choose([index, [index]]))])
        if results and world.chance(0.6):
            op = world.choose(["Mul", "Add", "Sub", "Div", "Concat"])
            other = ints(
                scope, world.choose([[2], [-1], 1, [0, 1]] if op != "Div" else [[2], 1, [-2]])
            )
            results = scope.node(op, [results[0], other], **({"axis": 0} if op == "Concat" else {}))
    return results
