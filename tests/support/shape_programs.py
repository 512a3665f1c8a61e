"""Random models that compute shapes and use them, with the sizes at which to run them."""

import math

import numpy as np
import onnx_ir as ir
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from graphopt.ir import normalise

TYPICAL = {"A": 2, "B": 3}
"""Sizes at which every program runs; at others it may fail."""

SIZES = [(2, 3), (0, 3), (2, 0), (0, 0), (1, 1), (3, 2), (1, 4), (6, 1)]
OPSETS = [12, 13, 18]


class Program:
    """A model in the making: nodes, and what its values are at the typical sizes."""

    def __init__(self, draw):
        self.draw = draw
        self.opset = draw(st.sampled_from(OPSETS))
        self.nodes, self.initializers, self.count = [], [], 0
        self.tensors, self.vectors, self.scalars = {}, {}, {}  # name -> shape, items, item

    def fresh(self):
        self.count += 1
        return f"v{self.count}"

    def pick(self, values):
        return self.draw(st.sampled_from(sorted(values)))

    def integer(self, low, high):
        return self.draw(st.integers(low, high))

    def constant(self, items, dtype=np.int64):
        name = self.fresh()
        self.initializers.append(numpy_helper.from_array(np.array(items, dtype), name))
        return name

    def node(self, operator, inputs, **attributes):
        name = self.fresh()
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def vector(self, name, items):
        if 0 < len(items) <= 8 and all(abs(item) < 1000 for item in items):
            self.vectors[name] = tuple(items)

    def tensor(self, name, shape):
        if len(shape) <= 5 and math.prod(shape) <= 500:
            self.tensors[name] = tuple(shape)

    # -- sizes ---------------------------------------------------------------------------------

    def shape(self):
        x = self.pick(self.tensors)
        rank = len(self.tensors[x])
        if self.opset < 15 or self.draw(st.booleans()):
            return self.vector(self.node("Shape", [x]), self.tensors[x])
        start, end = self.integer(-rank, rank), self.integer(-rank, rank + 1)
        name = self.node("Shape", [x], start=start, end=end)
        return self.vector(name, self.tensors[x][start:end])

    def gather(self):
        v = self.pick(self.vectors)
        items = self.vectors[v]
        if self.draw(st.booleans()):
            index = self.integer(-len(items), len(items) - 1)
            self.scalars[self.node("Gather", [v, self.constant(index)], axis=0)] = items[index]
        else:
            indices = [self.integer(-len(items), len(items) - 1) for _ in range(self.integer(1, 3))]
            name = self.node("Gather", [v, self.constant(indices)], axis=0)
            self.vector(name, [items[index] for index in indices])

    def cut(self):
        v = self.pick(self.vectors)
        start, end = self.integer(-3, 3), self.draw(st.sampled_from([-2, -1, 1, 2, 3, 2**63 - 1]))
        bounds = [self.constant([number]) for number in (start, end, 0)]
        self.vector(self.node("Slice", [v, *bounds]), self.vectors[v][start:end])

    def concat(self):
        parts = [self.pick(self.vectors) for _ in range(self.integer(1, 2))]
        items = [item for part in parts for item in self.vectors[part]]
        if self.draw(st.booleans()):
            number = self.draw(st.sampled_from([-1, 0, 1, 2, 3]))
            parts.append(self.constant([number]))
            items.append(number)
        self.vector(self.node("Concat", parts, axis=0), items)

    def turn(self):
        """A scalar into a vector or the other way."""
        if self.scalars and self.draw(st.booleans()):
            s = self.pick(self.scalars)
            self.vector(self.unsqueezed(s), [self.scalars[s]])
            return
        v = self.pick(self.vectors)
        if len(self.vectors[v]) == 1:
            name = self.with_axes("Squeeze", v, [0])
            self.scalars[name] = self.vectors[v][0]

    def unsqueezed(self, scalar):
        return self.with_axes("Unsqueeze", scalar, [0])

    def with_axes(self, operator, value, axes):
        if self.opset < 13:
            return self.node(operator, [value], axes=axes)
        return self.node(operator, [value, self.constant(axes)])

    def arithmetic(self):
        operator = self.draw(st.sampled_from(["Add", "Sub", "Mul", "Div", "Min", "Max"]))
        compute = {
            "Add": lambda a, b: a + b,
            "Sub": lambda a, b: a - b,
            "Mul": lambda a, b: a * b,
            "Div": lambda a, b: int(a / b),
            "Min": min,
            "Max": max,
        }[operator]
        if self.scalars and self.draw(st.booleans()):
            a = self.pick(self.scalars)
            b, number = self.other_scalar(operator)
            self.scalars[self.node(operator, [a, b])] = compute(self.scalars[a], number)
            return
        v = self.pick(self.vectors)
        b, number = self.other_scalar(operator)
        self.vector(self.node(operator, [v, b]), [compute(i, number) for i in self.vectors[v]])

    def other_scalar(self, operator):
        if operator == "Div" or not self.scalars or self.draw(st.booleans()):
            number = self.draw(st.sampled_from([1, 2, 3] if operator == "Div" else [0, 1, 2, 3]))
            return self.constant(number), number
        b = self.pick(self.scalars)
        return b, self.scalars[b]

    def where(self):
        """What exporters write to let -1 in an Expand mean 1."""
        v = self.pick(self.vectors)
        items, number = self.vectors[v], self.draw(st.sampled_from([-1, 0, 2]))
        equal = self.node("Equal", [v, self.constant([number])])
        name = self.node("Where", [equal, self.constant([1] * len(items)), v])
        self.vector(name, [1 if item == number else item for item in items])

    def product(self):
        v = self.pick(self.vectors)
        name = self.node("ReduceProd", [v], keepdims=1)
        self.vector(name, [math.prod(self.vectors[v])])

    def size(self):
        x = self.pick(self.tensors)
        self.scalars[self.node("Size", [x])] = math.prod(self.tensors[x])

    def narrow(self):
        """Through int32 and back."""
        v = self.pick(self.vectors)
        name = self.node("Cast", [v], to=TensorProto.INT32)
        name = self.node("Cast", [name], to=TensorProto.INT64)
        self.vector(name, self.vectors[v])

    # -- what uses them ------------------------------------------------------------------------

    def item(self, number):
        """A vector of one element that is ``number`` at the typical sizes."""
        vectors = [name for name, items in self.vectors.items() if items == (number,)]
        scalars = [name for name, item in self.scalars.items() if item == number]
        if (vectors or scalars) and self.integer(0, 3):
            name = self.draw(st.sampled_from(sorted(vectors + scalars)))
            return name if name in self.vectors else self.unsqueezed(name)
        return self.constant([number])

    def reshape(self):
        x = self.pick(self.tensors)
        shape = self.regrouped(list(self.tensors[x]))
        wanted = list(shape)
        allow_zero = self.opset >= 14 and self.draw(st.booleans())
        if not allow_zero and wanted and self.draw(st.booleans()):
            wanted[self.integer(0, len(wanted) - 1)] = -1
        if not allow_zero:
            for axis in range(min(len(wanted), len(self.tensors[x]))):
                if wanted[axis] == self.tensors[x][axis] and not self.integer(0, 3):
                    wanted[axis] = 0
        parts = [self.item(number) for number in wanted]
        whole = [name for name, items in self.vectors.items() if items == tuple(wanted)]
        if whole and self.draw(st.booleans()):
            target = self.draw(st.sampled_from(whole))
        elif parts:
            target = self.node("Concat", parts, axis=0)
        else:
            target = self.constant([])
        attributes = {"allowzero": 1} if allow_zero else {}
        self.tensor(self.node("Reshape", [x, target], **attributes), shape)

    def regrouped(self, shape):
        for _ in range(self.integer(0, 2)):
            kind = self.integer(0, 3)
            place = self.integer(0, len(shape))
            if kind == 0:
                shape.insert(place, 1)
            elif kind == 1 and place + 1 < len(shape):
                shape[place : place + 2] = [shape[place] * shape[place + 1]]
            elif kind == 2 and place < len(shape) and shape[place] % 2 == 0:
                shape[place : place + 1] = self.draw(
                    st.sampled_from([[shape[place] // 2, 2], [2, shape[place] // 2]])
                )
            elif kind == 3 and 1 in shape:
                shape.remove(1)
        return shape

    def expand(self):
        x = self.pick(self.tensors)
        shape = [1 if not self.integer(0, 3) else size for size in self.tensors[x]]
        wanted = [self.integer(1, 3) if size == 1 else size for size in self.tensors[x]]
        parts = [
            self.item(new if size == 1 else old)
            for size, new, old in zip(self.tensors[x], wanted, shape, strict=True)
        ]
        if self.draw(st.booleans()):
            parts.insert(0, self.item(2))
            wanted.insert(0, 2)
        if parts:
            target = self.node("Concat", parts, axis=0)
            self.tensor(self.node("Expand", [x, target]), wanted)

    def slice_tensor(self):
        x = self.pick(self.tensors)
        shape = list(self.tensors[x])
        if not shape:
            return
        axis = self.integer(0, len(shape) - 1)
        start = self.draw(st.sampled_from([0, 1, shape[axis] - 1]))
        end = self.draw(st.sampled_from([shape[axis], shape[axis] - 1, 2]))
        if not 0 <= start < end <= shape[axis]:
            return
        bounds = [self.item(start), self.item(end), self.constant([axis - len(shape)])]
        shape[axis] = end - start
        self.tensor(self.node("Slice", [x, *bounds]), shape)

    def tile(self):
        x = self.pick(self.tensors)
        repeats = [self.integer(1, 2) for _ in self.tensors[x]]
        if repeats:
            target = self.node("Concat", [self.item(number) for number in repeats], axis=0)
            shape = [size * count for size, count in zip(self.tensors[x], repeats, strict=True)]
            self.tensor(self.node("Tile", [x, target]), shape)

    def filled(self):
        v = self.pick(self.vectors)
        if min(self.vectors[v]) >= 0:
            self.tensor(self.node("ConstantOfShape", [v]), self.vectors[v])

    def counted(self):
        if self.scalars:
            s = self.pick(self.scalars)
            name = self.node("Range", [self.constant(0), s, self.constant(1)])
            name = self.node("Cast", [name], to=TensorProto.FLOAT)
            if 0 < self.scalars[s] < 100:
                self.tensor(name, [self.scalars[s]])

    def transpose(self):
        x = self.pick(self.tensors)
        if not self.tensors[x]:
            return
        order = self.draw(st.permutations(range(len(self.tensors[x]))))
        shape = [self.tensors[x][axis] for axis in order]
        self.tensor(self.node("Transpose", [x], perm=order), shape)

    def join(self):
        """One tensor twice: of empty ones that do not fit the runtime makes uninitialized memory."""
        x = self.pick(self.tensors)
        if shape := list(self.tensors[x]):
            axis = self.integer(0, len(shape) - 1)
            shape[axis] *= 2
            self.tensor(self.node("Concat", [x, x], axis=axis), shape)

    def add(self):
        x, y = self.pick(self.tensors), self.pick(self.tensors)
        try:
            shape = np.broadcast_shapes(self.tensors[x], self.tensors[y])
        except ValueError:
            return
        self.tensor(self.node("Add", [x, y]), shape)

    def take(self):
        x = self.pick(self.tensors)
        if shape := list(self.tensors[x]):
            axis = self.integer(0, len(shape) - 1)
            name = self.node("Gather", [x, self.constant(0)], axis=axis)
            self.tensor(name, shape[:axis] + shape[axis + 1 :])

    def flatten(self):
        x = self.pick(self.tensors)
        axis = self.integer(0, len(self.tensors[x]))
        shape = self.tensors[x]
        name = self.node("Flatten", [x], axis=axis)
        self.tensor(name, (math.prod(shape[:axis]), math.prod(shape[axis:])))


SIZES_OF = ["shape", "shape", "gather", "gather", "cut", "concat", "turn", "arithmetic"]
SIZES_OF += ["where", "product", "size", "narrow", "arithmetic", "turn"]
USES = ["reshape", "reshape", "reshape", "expand", "slice_tensor", "tile", "filled", "counted"]
USES += ["transpose", "join", "add", "take", "flatten", "reshape"]


@st.composite
def shape_programs(draw, steps=24):
    """Draw a model; its inputs are ``x (A, B, 4)`` and ``y (B, A)``, its outputs all that it makes."""
    program = Program(draw)
    program.tensors = {"x": (2, 3, 4), "y": (3, 2)}
    program.shape()
    while not program.vectors:
        program.shape()
    program.gather()
    for _ in range(draw(st.integers(4, steps))):
        getattr(program, draw(st.sampled_from(SIZES_OF + USES)))()
    made = [name for name in program.tensors if name not in ("x", "y")]
    if not made:
        program.reshape()
        made = [name for name in program.tensors if name not in ("x", "y")]
    made = made or [program.node("Identity", ["x"])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in made[-4:]]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["A", "B", 4]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", "A"]),
    ]
    graph = helper.make_graph(program.nodes, "g", inputs, outputs, program.initializers)
    imports = [helper.make_opsetid("", program.opset)]
    return normalise(ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=8)))


def feeds(a, b):
    """Return inputs of the given sizes whose elements are all different."""
    return {
        "x": np.arange(a * b * 4, dtype=np.float32).reshape(a, b, 4),
        "y": -1 - np.arange(b * a, dtype=np.float32).reshape(b, a),
    }
