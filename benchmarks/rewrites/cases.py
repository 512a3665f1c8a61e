"""Small graphs, each with one rewrite: what `@exact` does, and what it leaves alone.

A case holds ONNX text before, and after: the text of a pipeline that makes it, or ONNX text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[np.float32]
RANDOM = np.random.default_rng(0)


@dataclass(frozen=True)
class Case:
    """One rewrite.

    Attributes:
        name: What is rewritten into what.
        before: ONNX text: a graph, without a header.
        pipeline: What makes the result, or "" where `after` is given.
        after: ONNX text of the result, for rewrites that graphopt does not do.
        weights: Initializers of both, by name.
        dims: Sizes of the symbols of the inputs.
        version: Opset version.
        done_by: The named pipeline that does it, "" where none does.
    """

    name: str
    before: str
    pipeline: str = ""
    after: str = ""
    weights: dict[str, Array] = field(default_factory=dict)
    dims: dict[str, int] = field(default_factory=dict)
    version: int = 20
    done_by: str = ""

    def model(self, text: str) -> onnx.ModelProto:
        """Return the model of `before` or `after`, with the weights in it."""
        header = f'<ir_version: 10, opset_import: ["" : {self.version}, "com.microsoft" : 1]> g '
        model = onnx.parser.parse_model(header + text)
        inputs = {value.name: value for value in model.graph.input}
        for name, array in self.weights.items():
            if name in inputs:
                model.graph.input.remove(inputs[name])
                model.graph.initializer.append(numpy_helper.from_array(array, name))
        return model

    def feeds(self) -> dict[str, Array]:
        """Return seeded inputs."""
        found = {}
        for value in self.model(self.before).graph.input:
            kind = value.type.tensor_type
            shape = [dim.dim_value or self.dims[dim.dim_param] for dim in kind.shape.dim]
            dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
            found[value.name] = RANDOM.standard_normal(shape).astype(dtype)
        return found


def weight(*shape: int) -> Array:
    """Return seeded numbers of the size that trained weights have."""
    return (RANDOM.standard_normal(shape) * shape[0] ** -0.5).astype(np.float32)


EINSUM = Case(
    "Einsum to MatMul (BERT's scores, 128 tokens)",
    "(float[B,S,12,64] q, float[B,S,12,64] k) => (float[B,12,S,T] z) "
    '{ z = Einsum<equation = "bshd,bthd->bhst">(q, k) }',
    "@exact",
    done_by="@exact",
    dims={"B": 1, "S": 128},
)


def expansions() -> Iterator[Case]:
    """Yield a bias that is expanded before it is added, over few and over many tokens."""
    for length in (8, 128):
        yield Case(
            f"Expand, Add to Add (a bias over {length} x 768)",
            "(float[B,S,768] x, float[1,1,768] w) => (float[B,S,768] z) "
            "{ s = Shape(x)  e = Expand(w, s)  z = Add(x, e) }",
            after="(float[B,S,768] x, float[1,1,768] w) => (float[B,S,768] z) { z = Add(x, w) }",
            weights={"w": weight(1, 1, 768)},
            dims={"B": 1, "S": length},
        )


SCALES = Case(
    "Mul, Mul, Add, Add of constants to Mul, Add (128 x 768)",
    "(float[B,S,768] x, float[768] a, float[768] b, float[768] c, float[768] d) "
    "=> (float[B,S,768] z) { e = Mul(x, a)  f = Mul(e, b)  g = Add(f, c)  z = Add(g, d) }",
    "@exact",
    done_by="@exact",
    weights={name: weight(768) for name in "abcd"},
    dims={"B": 1, "S": 128},
)

HARD_SWISH = Case(
    "x * clip(x + 3, 0, 6) / 6 to HardSwish (64 x 56 x 56)",
    "(float[B,64,56,56] x) => (float[B,64,56,56] z) "
    "<float three = {3}, float zero = {0}, float six = {6}> "
    "{ a = Add(x, three)  b = Clip(a, zero, six)  c = Mul(x, b)  z = Div(c, six) }",
    "@exact",
    done_by="@exact",
    dims={"B": 1},
)

LOOP = Case(
    "MatMul that a Loop repeats, hoisted (16 trips, 64 x 256 x 256)",
    "(float[64,256] x, float[256,256] w, int64 n) => (float[64,256] z) <bool yes = {1}> "
    "{ z = Loop(n, yes, x) <body = b (int64 i, bool c, float[64,256] s) => "
    "(bool d, float[64,256] t) { d = Identity(c)  m = MatMul(x, w)  t = Add(s, m) }> }",
    "@exact",
    done_by="@exact",
    weights={"w": weight(256, 256), "n": np.array(16, np.int64)},
)


def means() -> Iterator[Case]:
    """Yield means over images, small and large."""
    for channels, size in ((512, 7), (64, 56)):
        image = f"float[B,{channels},{size},{size}] x"
        mean = f"float[B,{channels},1,1] z"
        yield Case(
            f"ReduceMean to GlobalAveragePool ({channels} x {size} x {size})",
            f"({image}) => ({mean}) <int64[2] a = {{2, 3}}> {{ z = ReduceMean(x, a) }}",
            after=f"({image}) => ({mean}) {{ z = GlobalAveragePool(x) }}",
            dims={"B": 1},
        )


THREE = Case(
    "3 MatMul of one input to MatMul, Split (128 x 768 x 768)",
    "(float[B,S,768] x, float[768,768] a, float[768,768] b, float[768,768] c) "
    "=> (float[B,S,768] p, float[B,S,768] q, float[B,S,768] r) "
    "{ p = MatMul(x, a)  q = MatMul(x, b)  r = MatMul(x, c) }",
    after="(float[B,S,768] x, float[768,2304] w) "
    "=> (float[B,S,768] p, float[B,S,768] q, float[B,S,768] r) "
    "{ m = MatMul(x, w)  p, q, r = Split<axis = -1, num_outputs = 3>(m) }",
    weights={name: weight(768, 768) for name in "abc"},
    dims={"B": 1, "S": 128},
)
THREE.weights["w"] = np.concatenate([THREE.weights[name] for name in "abc"], axis=1)

_HEADS = (
    "<int64[4] h = {0, 0, 12, 64}, int64[3] j = {0, 0, 768}, float scale = {0.125}> "
    "{ a = Reshape(q, h)  qs = Transpose<perm = [0, 2, 1, 3]>(a) "
    "b = Reshape(k, h)  ks = Transpose<perm = [0, 2, 3, 1]>(b) "
    "c = Reshape(v, h)  vs = Transpose<perm = [0, 2, 1, 3]>(c) "
    "m = MatMul(qs, ks)  s = Mul(m, scale)  n = Softmax<axis = -1>(s)  o = MatMul(n, vs) "
    "t = Transpose<perm = [0, 2, 1, 3]>(o)  z = Reshape(t, j) }"
)
_READS = "(float[B,S,768] q, float[B,S,768] k, float[B,S,768] v) => (float[B,S,768] z) "


def attention() -> Iterator[Case]:
    """Yield attention of 12 heads of 64, at several lengths, in both forms of the operator."""
    for length in (128, 512, 1500):
        dims = {"B": 1, "S": length}
        yield Case(
            f"attention to MultiHeadAttention (com.microsoft), {length} tokens",
            _READS + _HEADS,
            "fuse-attention",
            done_by="@fused",
            dims=dims,
        )
        yield Case(
            f"attention to Attention (opset 23), {length} tokens",
            _READS + _HEADS,
            after=_READS + "{ z = Attention<q_num_heads = 12, kv_num_heads = 12>(q, k, v) }",
            dims=dims,
            version=23,
        )


CASES = (
    EINSUM,
    *expansions(),
    SCALES,
    HARD_SWISH,
    LOOP,
    *means(),
    THREE,
    *attention(),
)
