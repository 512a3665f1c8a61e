"""Random models of layers whose units can go, with everything in between that may forbid it."""

from dataclasses import dataclass, field

import numpy as np

ACTIVATIONS = ("Relu", "Sigmoid", "Tanh", "Abs", "Neg")


@dataclass
class Draft:
    """A graph in ONNX text, drawn node by node."""

    rng: np.random.Generator
    weights: list = field(default_factory=list)
    nodes: list = field(default_factory=list)
    shapes: dict = field(default_factory=dict)

    def weight(self, *dims):
        name = f"w{len(self.weights)}"
        numbers = ",".join(f"{n:.3f}" for n in self.rng.normal(size=int(np.prod(dims))))
        sizes = ",".join(map(str, dims))
        self.weights.append(f"float[{sizes}] {name} = {{{numbers}}}")
        return name

    def integers(self, *numbers):
        name = f"i{len(self.weights)}"
        self.weights.append(f"int64[{len(numbers)}] {name} = {{{','.join(map(str, numbers))}}}")
        return name

    def node(self, op, inputs, dims, attributes="", outputs=1):
        names = [f"t{len(self.shapes) + n}" for n in range(outputs)]
        self.nodes.append(f"{', '.join(names)} = {op}{attributes}({', '.join(inputs)})")
        for name in names:
            self.shapes[name] = tuple(dims)
        return names[0] if outputs == 1 else names

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def text(self, inputs, result):
        """Return the model, with the last axis of ``result`` summed over."""
        dims = self.shapes[result]
        y = self.node("MatMul", [result, self.weight(dims[-1], 5)], (*dims[:-1], 5))
        sizes = ",".join(map(str, self.shapes[y]))
        weights, nodes = ", ".join(self.weights), "\n".join(self.nodes)
        return f"({inputs}) => (float[{sizes}] {y}) <{weights}> {{\n{nodes} }}"


def _axis(draft, x):
    return int(draft.rng.integers(1, len(draft.shapes[x])))


def linear(draft, x):
    dims = draft.shapes[x]
    count = draft.pick(4, 6, 8)
    return draft.node("MatMul", [x, draft.weight(dims[-1], count)], (*dims[:-1], count))


def activation(draft, x):
    return draft.node(draft.pick(*ACTIVATIONS), [x], draft.shapes[x])


def scaled(draft, x):
    dims = draft.shapes[x]
    sizes = [size if draft.rng.integers(2) else 1 for size in dims[1:]]
    return draft.node(draft.pick("Add", "Mul", "Max"), [x, draft.weight(*sizes)], dims)


def split(draft, x):
    dims = draft.shapes[x]
    if dims[-1] % 2:
        return x
    parts = draft.node("Split", [x], (*dims[:-1], dims[-1] // 2), "<axis = -1, num_outputs = 2>", 2)
    return draft.node(draft.pick("Mul", "Add"), parts, draft.shapes[parts[0]])


def concat(draft, x):
    dims = draft.shapes[x]
    other = linear(draft, x)
    total = dims[-1] + draft.shapes[other][-1]
    return draft.node("Concat", [x, other], (*dims[:-1], total), "<axis = -1>")


def cut(draft, x):
    dims, axis = draft.shapes[x], _axis(draft, x)
    start, step = draft.pick(0, 1, 2), draft.pick(1, 1, 2)
    if dims[axis] <= start + 1:
        return x
    bounds = [draft.integers(n) for n in (start, 2**63 - 1, axis, step)]
    size = len(range(start, dims[axis], step))
    return draft.node("Slice", [x, *bounds], (*dims[:axis], size, *dims[axis + 1 :]))


def regrouped(draft, x):
    """Parts of the last axis on an axis of their own, something done there, and back."""
    dims = draft.shapes[x]
    if len(dims) > 3 or dims[-1] % 2:
        return x
    parts = draft.pick((2, dims[-1] // 2), (dims[-1] // 2, 2))
    y = draft.node("Reshape", [x, draft.integers(0, 0, *parts)], (*dims[:2], *parts))
    y = draft.node("Transpose", [y], (dims[0], parts[0], dims[1], parts[1]), "<perm = [0,2,1,3]>")
    y = draft.pick(activation, softmax, normalized, reduced, scaled, cumulated)(draft, y)
    if draft.shapes[y] != (dims[0], parts[0], dims[1], parts[1]):
        return x
    y = draft.node("Transpose", [y], (*dims[:2], *parts), "<perm = [0,2,1,3]>")
    return draft.node("Reshape", [y, draft.integers(0, 0, -1)], dims)


def attention(draft, x):
    dims = draft.shapes[x]
    if len(dims) != 3:
        return x
    heads, size = draft.pick((2, 2), (3, 2), (4, 1))
    by_heads = (dims[0], heads, dims[1], size)
    sides = []
    for _ in range(3):
        y = draft.node(
            "MatMul", [x, draft.weight(dims[-1], heads * size)], (*dims[:2], heads * size)
        )
        y = draft.node("Reshape", [y, draft.integers(0, 0, heads, size)], (*dims[:2], heads, size))
        sides.append(draft.node("Transpose", [y], by_heads, "<perm = [0,2,1,3]>"))
    turned = draft.node(
        "Transpose", [sides[1]], (*by_heads[:2], size, dims[1]), "<perm = [0,1,3,2]>"
    )
    scores = draft.node("MatMul", [sides[0], turned], (*by_heads[:2], dims[1], dims[1]))
    if draft.rng.integers(2):
        scores = draft.node("Add", [scores, draft.weight(1, heads, 1, 1)], draft.shapes[scores])
    weights = draft.node("Softmax", [scores], draft.shapes[scores], "<axis = -1>")
    y = draft.node("MatMul", [weights, sides[2]], by_heads)
    y = draft.node("Transpose", [y], (*dims[:2], heads, size), "<perm = [0,2,1,3]>")
    return draft.node("Reshape", [y, draft.integers(0, 0, heads * size)], (*dims[:2], heads * size))


def softmax(draft, x):
    return draft.node("Softmax", [x], draft.shapes[x], f"<axis = {_axis(draft, x)}>")


def normalized(draft, x):
    dims = draft.shapes[x]
    return draft.node("LayerNormalization", [x, draft.weight(dims[-1])], dims, "<axis = -1>")


def reduced(draft, x):
    dims, axis = draft.shapes[x], _axis(draft, x)
    op = draft.pick("ReduceMean", "ReduceMax", "ReduceSum", "ReduceL2")
    one = (*dims[:axis], 1, *dims[axis + 1 :])
    statistic = draft.node(op, [x, draft.integers(axis)], one, "<keepdims = 1>")
    return draft.node(draft.pick("Sub", "Add"), [x, statistic], dims)


def extreme(draft, x):
    dims, axis = draft.shapes[x], _axis(draft, x)
    one = (*dims[:axis], 1, *dims[axis + 1 :])
    place = draft.node("ArgMax", [x], one, f"<axis = {axis}, keepdims = 1>")
    return draft.node("Add", [x, draft.node("Cast", [place], one, "<to = 1>")], dims)


def cumulated(draft, x):
    name = f"a{len(draft.weights)}"
    draft.weights.append(f"int64 {name} = {{{_axis(draft, x)}}}")
    return draft.node("CumSum", [x, name], draft.shapes[x])


def largest(draft, x):
    dims, axis = draft.shapes[x], _axis(draft, x)
    count = max(dims[axis] - 1, 1)
    names = draft.node(
        "TopK",
        [x, draft.integers(count)],
        (*dims[:axis], count, *dims[axis + 1 :]),
        f"<axis = {axis}>",
        2,
    )
    return names[0]


def padded(draft, x):
    dims, axis = draft.shapes[x], _axis(draft, x)
    amounts = [0] * (2 * len(dims))
    amounts[axis], amounts[len(dims) + axis] = 1, draft.pick(0, 2)
    size = dims[axis] + amounts[axis] + amounts[len(dims) + axis]
    out = (*dims[:axis], size, *dims[axis + 1 :])
    mode = draft.pick("constant", "reflect", "edge") if dims[axis] > 2 else "constant"
    return draft.node("Pad", [x, draft.integers(*amounts)], out, f'<mode = "{mode}">')


def gathered(draft, x):
    dims, axis = draft.shapes[x], _axis(draft, x)
    places = draft.rng.permutation(dims[axis])[: max(dims[axis] - 1, 1)]
    out = (*dims[:axis], len(places), *dims[axis + 1 :])
    return draft.node("Gather", [x, draft.integers(*places)], out, f"<axis = {axis}>")


def tiled(draft, x):
    dims, axis = draft.shapes[x], _axis(draft, x)
    times = [2 if place == axis else 1 for place in range(len(dims))]
    out = (*dims[:axis], 2 * dims[axis], *dims[axis + 1 :])
    return draft.node("Tile", [x, draft.integers(*times)], out)


def residual(draft, x):
    same = [name for name, dims in draft.shapes.items() if dims == draft.shapes[x] and name != x]
    known = {node.split(" = ")[0] for node in draft.nodes} | {"x"}
    same = [name for name in same if name in known]
    return draft.node("Add", [x, draft.pick(*same)], draft.shapes[x]) if same else x


BETWEEN = (
    *(linear, linear, linear, activation, activation, scaled, split, concat, cut, regrouped),
    *(attention, softmax, normalized, reduced, extreme, cumulated, largest, padded, gathered),
    *(tiled, residual, residual),
)


def sequence_model(seed):
    """Return a model of matrices, (2, 3, 6) to (2, .., 5)."""
    draft = Draft(np.random.default_rng(seed))
    draft.shapes["x"] = (2, 3, 6)
    x = linear(draft, "x")
    for _ in range(int(draft.rng.integers(2, 9))):
        x = draft.pick(*BETWEEN)(draft, x)
    return draft.text("float[2,3,6] x", x)


# -- images -----------------------------------------------------------------------------------------


def _convolved(draft, x):
    dims, count, groups = draft.shapes[x], draft.pick(4, 6, 12), draft.pick(1, 1, 2, 3)
    if dims[1] % groups or count % groups:
        groups = 1
    weight = draft.weight(count, dims[1] // groups, 1, 1)
    bias = [draft.weight(count)] if draft.rng.integers(2) else []
    return draft.node(
        "Conv", [x, weight, *bias], (dims[0], count, *dims[2:]), f"<group = {groups}>"
    )


def _deep(draft, x):
    dims, times = draft.shapes[x], draft.pick(1, 1, 2)
    weight = draft.weight(dims[1] * times, 1, 3, 3)
    attributes = f"<group = {dims[1]}, pads = [1,1,1,1]>"
    return draft.node("Conv", [x, weight], (dims[0], dims[1] * times, *dims[2:]), attributes)


def _turned(draft, x):
    dims, groups = draft.shapes[x], draft.pick(1, 2)
    groups = groups if dims[1] % groups == 0 else 1
    weight = draft.weight(dims[1], 4 // groups, 1, 1)
    return draft.node("ConvTranspose", [x, weight], (dims[0], 4, *dims[2:]), f"<group = {groups}>")


def _by_groups(draft, x):
    dims, groups = draft.shapes[x], draft.pick(1, 2, 3)
    if dims[1] % groups:
        return x
    y = draft.node(
        "Reshape",
        [x, draft.integers(0, groups, -1)],
        (dims[0], groups, dims[1] // groups * dims[2] * dims[3]),
    )
    scales = [draft.weight(groups), draft.weight(groups)]
    y = draft.node("InstanceNormalization", [y, *scales], draft.shapes[y])
    return draft.node("Reshape", [y, draft.integers(*dims)], dims)


def _shuffled(draft, x):
    dims, groups = draft.shapes[x], draft.pick(2, 3)
    if dims[1] % groups:
        return x
    parts = (dims[0], groups, dims[1] // groups, *dims[2:])
    y = draft.node("Reshape", [x, draft.integers(*parts)], parts)
    parts = (dims[0], parts[2], groups, *dims[2:])
    y = draft.node("Transpose", [y], parts, "<perm = [0,2,1,3,4]>")
    return draft.node("Reshape", [y, draft.integers(*dims)], dims)


def _squeezed(draft, x):
    dims = draft.shapes[x]
    y = draft.node("GlobalAveragePool", [x], (*dims[:2], 1, 1))
    y = draft.node("Conv", [y, draft.weight(dims[1], dims[1], 1, 1)], (*dims[:2], 1, 1))
    return draft.node("Mul", [x, draft.node("Sigmoid", [y], (*dims[:2], 1, 1))], dims)


def _batch_normalized(draft, x):
    dims = draft.shapes[x]
    scales = [draft.weight(dims[1]) for _ in range(3)]
    variance = draft.node("Abs", [draft.weight(dims[1])], (dims[1],))
    return draft.node("BatchNormalization", [x, *scales, variance], dims)


IMAGES = (
    *(_convolved, _convolved, _convolved, _deep, _turned, _by_groups, _shuffled, _squeezed),
    *(_batch_normalized, activation, scaled, residual, residual, padded, reduced, softmax),
    *(cumulated, gathered, tiled, cut),
)


def image_model(seed):
    """Return a model of convolutions, (2, 3, 4, 4) to (2, .., 5)."""
    draft = Draft(np.random.default_rng(seed))
    draft.shapes["x"] = (2, 3, 4, 4)
    x = _convolved(draft, "x")
    for _ in range(int(draft.rng.integers(2, 8))):
        x = draft.pick(*IMAGES)(draft, x)
    dims = draft.shapes[x]
    x = draft.node("Flatten", [x], (dims[0], int(np.prod(dims[1:]))), "<axis = 1>")
    return draft.text("float[2,3,4,4] x", x)
