"""Random models: a graph with subgraphs, functions, inputs of many kinds, and traps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper
from operators import OPERATORS
from scopes import Runtime, Scope, Value, World, to_tensor, without_shape
from special_arrays import dims_of, random_array

IR_VERSIONS = {
    9: (3, 4, 8),
    11: (6, 8),
    12: (7, 8),
    13: (7, 8),
    15: (8,),
    17: (8,),
    18: (8, 9),
    20: (9, 10),
    21: (10,),
    22: (10,),
}
SYMBOLS = ("N", "M")


@dataclass(frozen=True)
class Sample:
    """A model, two sets of inputs, and what every value of the main graph holds for them."""

    model: onnx.ModelProto
    feeds: tuple[dict, dict]
    values: dict[str, Value]


def random_model(seed: int, runtime: Runtime, max_nodes: int = 24) -> Sample | None:
    """Return a model that the runtime runs, or None where none came out."""
    rng = np.random.default_rng(seed)
    opset = int(rng.choice(list(IR_VERSIONS)))
    world = World(rng, runtime, opset, int(rng.choice(IR_VERSIONS[opset])))
    if opset >= 15 and world.chance(0.3):
        world.functions = [
            function
            for function in (random_function(world, 0), random_function(world, 1))
            if function
        ]
    scope = Scope(world)
    inputs = [random_input(scope) for _ in range(int(rng.integers(1, 5)))]
    grow(scope, int(rng.integers(3, max_nodes)))
    return finish(scope, inputs)


def random_input(scope: Scope) -> tuple[Value, list]:
    """Add an input; its sizes differ between the two sets where the dimension is a symbol."""
    world = scope.world
    kind = world.choose(
        ["float32"] * 5 + ["float64", "float16", "int64", "int64", "int32", "uint8", "bool", "text"]
    )
    dims = [
        world.choose([dim, dim, *SYMBOLS]) if world.chance(0.5) else dim for dim in dims_of(world)
    ]
    sizes = [{"N": 2, "M": 3}, {"N": 3, "M": 1}]
    held = tuple(random_array(world, kind, tuple(size.get(d, d) for d in dims)) for size in sizes)
    tensor = to_tensor(held[0], "")
    proto = helper.make_tensor_type_proto(tensor.data_type, None)
    return scope.add(Value(world.fresh(), proto, held)), dims


def grow(scope: Scope, nodes: int) -> None:
    """Add nodes until there are so many, or nothing fits any more."""
    for _ in range(nodes * 3):
        if len(scope.nodes) >= nodes:
            return
        world = scope.world
        if scope.depth < 2 and world.chance(0.08):
            world.choose([branch, branch, loop, scan])(scope)
        else:
            world.choose(OPERATORS)(scope)


# -- subgraphs -----------------------------------------------------------------------------------


def branch(scope: Scope):
    world = scope.world
    condition = scope.pick("bool", where=lambda v: v.held[0].size == v.held[1].size == 1)
    if condition is None or world.chance(0.3):
        condition = scope.weight(np.array(bool(world.rng.integers(2))))
    first = scope.inner()
    grow(first, int(world.rng.integers(1, 5)))
    results = returned(first, None, int(world.rng.integers(1, 3)))
    if not results:
        return None
    second = scope.inner()
    grow(second, int(world.rng.integers(0, 4)))
    matching = returned(second, results, len(results))
    if matching is None:
        return None
    bodies = {
        "then_branch": first.graph("t", [], results),
        "else_branch": second.graph("e", [], matching),
    }
    captured = [*first.captured(scope), *second.captured(scope)]
    return scope.node("If", [condition], len(results), captured=captured, **bodies)


def returned(scope: Scope, like: list[Value] | None, count: int) -> list[Value] | None:
    """Return values that the graph of ``scope`` makes, of the types of ``like`` where given."""
    results: list[Value] = []
    for index in range(count):
        model = like[index] if like else None
        found = [
            value for value in scope.values if model is None or may_stand_for(scope, value, model)
        ]
        value = scope.world.choose([v for v in found if v not in results] or found or [None])
        if value is None:
            return None
        if not is_made_here(scope, value) or value in results or scope.world.chance(0.2):
            made = scope.node("Identity", [value])
            if made is None:
                return None
            value = made[0]
        results.append(value)
    return results


def may_stand_for(scope: Scope, value: Value, model: Value) -> bool:
    """Tell whether ``value`` may be returned by one branch where the other returns ``model``."""
    if without_shape(value.type) != without_shape(model.type):
        return False
    if scope.world.opset >= 11 or not value.is_tensor:
        return True
    return [held.shape for held in value.held] == [held.shape for held in model.held]


def is_made_here(scope: Scope, value: Value) -> bool:
    made = {name for node in scope.nodes for name in node.output}
    return value.name in made or value.name in {tensor.name for tensor in scope.initializers}


def formal(inner: Scope, value: Value, hidden: str | None = None) -> Value:
    """Add an input of a subgraph that holds what ``value`` holds."""
    return inner.add(Value(hidden or inner.world.fresh(), value.type, value.held))


def loop(scope: Scope):
    world = scope.world
    trips = int(world.rng.integers(0, 4))
    count = scope.weight(np.array(trips, np.int64)) if world.chance(0.8) else None
    go = (
        scope.weight(np.array(bool(world.chance(0.9))))
        if count is None or world.chance(0.5)
        else None
    )
    carried = [
        scope.pick("float32", "int64", "float64", "bool")
        for _ in range(int(world.rng.integers(1, 3)))
    ]
    if any(value is None for value in carried):
        return None
    hidden = world.choose([value.name for value in scope.values]) if world.chance(0.2) else None
    inner = scope.inner(hidden={hidden})
    step = Value(world.fresh(), helper.make_tensor_type_proto(7, None), (np.array(0), np.array(0)))
    keep = Value(world.fresh(), helper.make_tensor_type_proto(9, None), (np.array(True),) * 2)
    inputs = [inner.add(step), inner.add(keep)]
    inputs += [
        formal(inner, value, hidden if index == 0 else None) for index, value in enumerate(carried)
    ]
    grow(inner, int(world.rng.integers(1, 6)))
    results = returned(inner, carried, len(carried))
    extra = returned(inner, None, int(world.rng.integers(0, 2)))
    if results is None or extra is None or any(not v.is_tensor for v in extra):
        return None
    go_on = (
        inner.node("Identity", [keep])
        if count is not None
        else [inner.weight(np.array(False), as_node=True)]
    )
    if not go_on:
        return None
    outputs = [go_on[0], *results, *extra]
    if len({value.name for value in outputs}) < len(outputs):
        return None
    body = inner.graph("b", inputs, outputs)
    captured = inner.captured(scope)
    return scope.node("Loop", [count, go, *carried], len(outputs) - 1, captured=captured, body=body)


def scan(scope: Scope):
    world = scope.world
    state = scope.pick("float32", "int64")
    scanned = scope.pick("float32", where=lambda v: v.rank >= 1 and all(len(h) > 0 for h in v.held))
    if state is None or scanned is None:
        return None
    inner = scope.inner()
    inputs = [formal(inner, state)]
    inputs.append(inner.add(Value(world.fresh(), scanned.type, tuple(h[0] for h in scanned.held))))
    grow(inner, int(world.rng.integers(1, 5)))
    results, extra = returned(inner, [state], 1), returned(inner, None, 1)
    if results is None or extra is None or results[0].name == extra[0].name:
        return None
    body = inner.graph("s", inputs, [*results, *extra])
    captured = inner.captured(scope)
    return scope.node("Scan", [state, scanned], 2, captured=captured, body=body, num_scan_inputs=1)


def random_function(world: World, number: int) -> onnx.FunctionProto | None:
    """Return a function of floats, with a subgraph or an attribute of its caller at times."""
    scope = Scope(world, depth=1)
    kind = helper.make_tensor_type_proto(1, None)
    inputs = [
        scope.add(Value(world.fresh(), kind, (random_array(world, "float32", (2, 3)),) * 2))
        for _ in range(int(world.rng.integers(1, 3)))
    ]
    known = world.functions
    world.functions = []
    grow(scope, int(world.rng.integers(1, 6)))
    world.functions = known
    for tensor in scope.initializers:
        scope.nodes.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    made = [
        v
        for v in scope.values
        if any(v.name in node.output for node in scope.nodes) and v.is_tensor
    ]
    if not made:
        return None
    attributes = []
    for node in scope.nodes:
        if node.op_type == "Concat" and world.chance(0.7):
            node.attribute[0].CopyFrom(
                onnx.AttributeProto(name="axis", type=onnx.AttributeProto.INT, ref_attr_name="at")
            )
            attributes = ["at"]
    names = [value.name for value in inputs]
    opsets = [helper.make_opsetid("", world.opset)]
    return helper.make_function(
        "local", f"f{number}", names, [made[-1].name], scope.nodes, opsets, attributes
    )


# -- the model -----------------------------------------------------------------------------------


def finish(scope: Scope, inputs) -> Sample | None:
    """Choose outputs, make some weights overridable, and put the model together."""
    world = scope.world
    made = {name for node in scope.nodes for name in node.output}
    candidates = [
        v
        for v in scope.values
        if v.name in made and len({h.ndim for h in v.held if v.is_tensor}) < 2
    ]
    if not candidates:
        return None
    count = min(len(candidates), int(world.rng.integers(1, 5)))
    chosen = [candidates[index] for index in sorted(world.rng.permutation(len(candidates))[:count])]
    weights = [
        v
        for v in scope.values
        if v.name in {t.name for t in scope.initializers} and v.kind == "float32"
    ]
    given = [value for value, _ in inputs]
    model = helper.make_model(
        helper.make_graph(
            scope.nodes,
            "main",
            [declared(value, dims) for value, dims in inputs],
            [output_info(world, value) for value in chosen],
            initializer=scope.initializers,
        ),
        opset_imports=world.imports(),
        ir_version=world.ir_version,
        functions=world.functions,
    )
    feeds = tuple({value.name: value.held[index] for value in given} for index in (0, 1))
    if weights and world.chance(0.2) and world.ir_version >= 4:
        weight = world.choose(weights)
        model.graph.input.append(
            helper.make_tensor_value_info(weight.name, 1, weight.held[0].shape)
        )
        feeds[1][weight.name] = random_array(world, "float32", weight.held[0].shape)
    return Sample(model, feeds, {value.name: value for value in scope.values})


def declared(value: Value, dims) -> onnx.ValueInfoProto:
    kind = value.type.tensor_type.elem_type
    return helper.make_tensor_value_info(value.name, kind, dims)


def output_info(world: World, value: Value) -> onnx.ValueInfoProto:
    """Declare an output: its rank, and the sizes that both sets of inputs agree on."""
    if not value.is_tensor:
        return helper.make_value_info(value.name, value.type)
    pairs = zip(value.held[0].shape, value.held[1].shape, strict=True)
    knows = world.chance(0.5)
    dims = [a if knows and a == b else world.choose([None, "K"]) for a, b in pairs]
    return helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, dims)
