"""Operators on text, sequences and optionals; see `operators`."""

from __future__ import annotations

from scopes import ints
from special_arrays import random_array


def text(scope):
    world = scope.world
    x = scope.pick("text")
    if x is None:
        return None
    if world.chance(0.4):
        return scope.node("Equal", [x, scope.pick("text")])
    if world.chance(0.4):
        return scope.node(
            "StringConcat",
            [x, scope.weight(random_array(world, "text", world.choose([(), x.dims])))],
        )
    return scope.node("Identity", [x])


def sequence(scope):
    world = scope.world
    existing = scope.pick("sequence")
    if existing is not None and world.chance(0.7):
        return sequence_reader(scope, existing)
    x = scope.pick("float32", "int64")
    if x is None:
        return None
    if world.chance(0.3):
        return scope.node("SplitToSequence", [x], axis=0)
    return scope.node("SequenceConstruct", [x, scope.pick(x.kind)])


def sequence_reader(scope, existing):
    plain = ["SequenceLength", "Identity", "SequenceErase"]
    op = scope.world.choose([*plain, "SequenceAt", "ConcatFromSequence", "SequenceInsert"])
    if op == "SequenceAt":
        return scope.node(op, [existing, ints(scope, scope.world.choose([0, -1]))])
    if op == "SequenceInsert":
        return scope.node(op, [existing, scope.pick("float32", "int64")])
    return scope.node(op, [existing], **({"axis": 0} if op == "ConcatFromSequence" else {}))


def optional(scope):
    existing = scope.pick("optional")
    if existing is not None:
        return scope.node(
            scope.world.choose(["OptionalHasElement", "OptionalGetElement", "Identity"]), [existing]
        )
    x = scope.pick("float32", "int64", "sequence")
    return x and scope.node("Optional", [x])
