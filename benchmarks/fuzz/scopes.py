"""Graphs that grow node by node; each node is run before it is taken.

A value knows what it holds for each of two sets of inputs, because every node is run by the runtime
on what its inputs hold, captured ones included. A node that the runtime refuses is thrown away. So
an operator needs no rule about shapes, and whatever the runtime can run may come out.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

from graphopt.errors import RuntimeFailure, WorkerCrash, WorkerTimeout
from graphopt.runtime import SessionOptions, Worker

PLAIN = SessionOptions(optimization="disabled", config={"session.disable_prepacking": "1"})
MAX_ELEMENTS = 512


class Runtime:
    """A worker that is replaced when a model crashes it."""

    def __init__(self):
        self.worker = None
        self.crashes = 0

    def run(self, model: bytes, feed_sets):
        """Return the outputs for each set of inputs.

        Raises:
            RuntimeFailure: The runtime refuses the model or the inputs.
        """
        if self.worker is None or not self.worker.is_alive:
            self.worker = Worker(timeout_s=20)
        try:
            # A session for each: BatchNormalization in training mode changes its weights.
            return [self._run_once(model, feeds) for feeds in feed_sets]
        except (WorkerCrash, WorkerTimeout):
            self.crashes += 1
            self.worker.close()
            raise

    def _run_once(self, model: bytes, feeds):
        with self.worker.load(model, PLAIN) as session:
            return session.run(feeds)


@dataclass
class Value:
    """A value of a graph.

    Attributes:
        name: Its name.
        type: Its type, without a shape.
        held: What it holds, for each set of inputs.
        is_constant: It is an initializer, or the output of a Constant.
    """

    name: str
    type: onnx.TypeProto
    held: tuple
    is_constant: bool = False

    @property
    def kind(self) -> str:
        """`float32` and the like, `text`, `sequence`, `optional`."""
        if not self.type.HasField("tensor_type"):
            return "sequence" if self.type.HasField("sequence_type") else "optional"
        if self.type.tensor_type.elem_type == TensorProto.STRING:
            return "text"
        return ir.DataType(self.type.tensor_type.elem_type).numpy().name

    @property
    def is_tensor(self) -> bool:
        """Whether it is a tensor, text included."""
        return self.type.HasField("tensor_type")

    @property
    def rank(self) -> int:
        """Number of dimensions; -1 for what is no tensor, or has more of them for one set."""
        ranks = {held.ndim for held in self.held} if self.is_tensor else {-1}
        return ranks.pop() if len(ranks) == 1 else -1

    @property
    def dims(self) -> tuple[int, ...]:
        """Sizes for the first set of inputs."""
        return self.held[0].shape if self.rank >= 0 else ()


@dataclass
class World:
    """What all graphs of one model share."""

    rng: np.random.Generator
    runtime: Runtime
    opset: int
    ir_version: int
    functions: list = field(default_factory=list)
    names: set = field(default_factory=set)
    counter: itertools.count = field(default_factory=itertools.count)
    tried: int = 0

    def fresh(self) -> str:
        """Return a name that nothing has."""
        return f"v{next(self.counter)}"

    def chance(self, probability: float) -> bool:
        """Return true with a probability."""
        return bool(self.rng.random() < probability)

    def choose(self, items):
        """Return one of ``items``."""
        return items[int(self.rng.integers(len(items)))]

    def imports(self):
        """Return what models and functions import."""
        domains = {"": self.opset, **dict.fromkeys({f.domain for f in self.functions}, 1)}
        return [helper.make_opsetid(domain, version) for domain, version in domains.items()]

    def evaluate(self, node, inputs, weights=()) -> list[tuple[onnx.TypeProto, tuple]] | None:
        """Run one node; return type and contents of its outputs, None where it is refused."""
        self.tried += 1
        proto = onnx.ModelProto(ir_version=max(self.ir_version, 8))
        proto.opset_import.extend(self.imports())
        proto.functions.extend(self.functions)
        proto.graph.name = "one"
        proto.graph.node.append(node)
        proto.graph.initializer.extend(weights)
        for value in inputs:
            proto.graph.input.add(name=value.name).type.CopyFrom(value.type)
        names = [name for name in node.output if name]
        for name in names:
            proto.graph.output.add(name=name)
        try:
            proto = onnx.shape_inference.infer_shapes(proto)
        except onnx.shape_inference.InferenceError:
            return None
        types = [output.type for output in proto.graph.output]
        if any(kind.WhichOneof("value") is None for kind in types):
            return None
        types = [without_shape(kind) for kind in types]
        feeds = [{value.name: value.held[index] for value in inputs} for index in (0, 1)]
        try:
            found = self.runtime.run(proto.SerializeToString(), feeds)
        except RuntimeFailure:
            return None
        held = [tuple(outputs[name] for outputs in found) for name in names]
        if any(not is_small(content) for contents in held for content in contents):
            return None
        return list(zip(types, held, strict=True))


def is_small(content) -> bool:
    if isinstance(content, list):
        return len(content) <= 8 and all(map(is_small, content))
    return content is None or content.size <= MAX_ELEMENTS


def without_shape(kind: onnx.TypeProto) -> onnx.TypeProto:
    plain = onnx.TypeProto()
    plain.CopyFrom(kind)
    inner = plain
    while not inner.HasField("tensor_type"):
        which = inner.WhichOneof("value")
        if which not in ("sequence_type", "optional_type"):
            return plain
        inner = getattr(inner, which).elem_type
    inner.tensor_type.ClearField("shape")
    return plain


@dataclass
class Scope:
    """A graph that grows, and what it can read."""

    world: World
    values: list[Value] = field(default_factory=list)
    own: set = field(default_factory=set)
    nodes: list = field(default_factory=list)
    initializers: list = field(default_factory=list)
    depth: int = 0

    def pick(self, *kinds, where=lambda _value: True) -> Value | None:
        """Return a value of one of these kinds; new ones are preferred."""
        found = [v for v in self.values if (not kinds or v.kind in kinds) and where(v)]
        if not found:
            return None
        newest = found[-3:] if self.world.chance(0.6) else found
        return self.world.choose(newest)

    def weight(self, array, *, as_node=None) -> Value:
        """Store a constant, as an initializer or as a node."""
        world = self.world
        name = world.fresh()
        array = np.asarray(array)
        tensor = to_tensor(array, name)
        as_node = world.chance(0.4) if as_node is None else as_node
        if as_node or world.ir_version < 4:
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.initializers.append(tensor)
        kind = helper.make_tensor_type_proto(tensor.data_type, None)
        value = Value(name, kind, (array, array), is_constant=True)
        return self.add(value)

    def add(self, value: Value) -> Value:
        """Add a value that this graph defines."""
        self.values.append(value)
        self.own.add(value.name)
        return value

    def node(self, op, inputs, outputs=1, *, domain="", captured=(), **attributes):
        """Add a node; return its outputs, or None where the runtime refuses it.

        Args:
            op: Operator.
            inputs: Values; None for one left out.
            outputs: How many, or a list that tells which are named.
            domain: Operator domain.
            captured: Values that its subgraphs read.
            attributes: Attributes.
        """
        named = [True] * outputs if isinstance(outputs, int) else outputs
        names = [self.world.fresh() if is_named else "" for is_named in named]
        given = [value.name if value is not None else "" for value in inputs]
        while given and not given[-1]:
            given.pop()
        node = helper.make_node(op, given, names, domain=domain, **attributes)
        if self.world.chance(0.3):
            name = self.world.choose(["n", "node", f"{op}_{names[0]}", "x", "v1"])
            node.name = "" if name in {other.name for other in self.nodes} else name
        read = {value.name: value for value in (*inputs, *captured) if value is not None}
        found = self.world.evaluate(node, list(read.values()))
        if found is None:
            return None
        self.nodes.append(node)
        present = [name for name in names if name]
        return [self.add(Value(name, *made)) for name, made in zip(present, found, strict=True)]

    def inner(self, hidden=()) -> Scope:
        """Return the scope of a subgraph; names in ``hidden`` are taken there."""
        visible = [value for value in self.values if value.name not in hidden]
        return Scope(self.world, visible, depth=self.depth + 1)

    def graph(self, name, inputs, outputs) -> onnx.GraphProto:
        """Return the graph as protobuf."""
        return helper.make_graph(
            self.nodes,
            name,
            [helper.make_value_info(value.name, value.type) for value in inputs],
            [helper.make_value_info(value.name, value.type) for value in outputs],
            initializer=self.initializers,
        )

    def captured(self, outer: Scope) -> list[Value]:
        """Return the values of ``outer`` that this graph and its subgraphs read."""
        read = set(names_read(self.nodes))
        return [
            value for value in outer.values if value.name in read and value.name not in self.own
        ]


def names_read(nodes):
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from names_read(attribute.g.node)


def to_tensor(array: np.ndarray, name: str) -> TensorProto:
    if array.dtype.kind in "OU":
        texts = [text.encode() for text in array.reshape(-1).tolist()]
        return helper.make_tensor(name, TensorProto.STRING, array.shape, texts)
    return ir.to_proto(ir.tensor(array, name=name))


def ints(scope: Scope, numbers) -> Value:
    """Store whole numbers as a weight."""
    return scope.weight(np.array(numbers, np.int64))
