"""What is slow in a model as the runtime runs it: kernels, conversions, work on constants."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.analysis.operands import operand
from graphopt.ir import constant_tensor

__all__ = ["Finding", "find_slow_parts", "is_integer_product"]

_PRODUCTS = frozenset(
    {"ConvInteger", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QGemm"}
    | {"QLinearConv", "QLinearMatMul"}
)
_QUANTIZERS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})
_FLOAT_LAYERS = frozenset({"Conv", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "MatMul"})
# Inputs that hold zero points: of activations and weights, by operator.
_ZERO_POINTS = {
    "MatMulInteger": (2, 3),
    "MatMulIntegerToFloat": (4, 5),
    "QGemm": (2, 5),
    "QLinearConv": (2, 5),
    "QLinearMatMul": (2, 5),
}


@dataclass(frozen=True)
class Finding:
    """Something in a loaded model that costs time and need not.

    Attributes:
        slug: Stable name of the kind.
        message: What it is.
        remedy: What to do about it.
        nodes: Names of the nodes in the runtime's own graph.
        share: What they take of a run, a fraction; ``None`` where it was not timed.
    """

    slug: str
    message: str
    remedy: str
    nodes: tuple[str, ...]
    share: float | None = None


_KINDS: dict[str, tuple[str, str]] = {
    "slow-convolution": (
        "`ConvInteger` adds in 32 bits and stores its sums: slower than a float convolution",
        "`quantize-static` for the convolution, or leave it in float (`exclude`)",
    ),
    "signed-activations": (
        "signed activations times signed weights have no fast kernel on x86",
        "unsigned activations: `activation_type=u8`",
    ),
    "unsigned-weights": (
        "unsigned weights are multiplied in 16 bits, or by a slower kernel, on x86",
        "signed weights: `weight_type=s8`",
    ),
    "unfused-product": (
        "`MatMulInteger` was not fused with the scaling behind it: its sums go through memory",
        "let nothing but `Cast` and `Mul` read them, or leave the product in float (`exclude`)",
    ),
    "unfused-pair": (
        "values are quantized and turned back into floats at once: no integer kernel reads them",
        "leave the layer behind them in float (`exclude`), or use `quantize-dynamic` for it",
    ),
    "float-island": (
        "integers are turned into floats, computed with and quantized again",
        "what computes there has no integer kernel: exclude the layers around it, or fuse it",
    ),
    "weights-dequantized": (
        "constants are dequantized on every run",
        "leave what reads them in float, or use `quantize-weights`, which the runtime folds",
    ),
    "weights-moved": (
        "a constant is transposed, converted or gathered into shape on every run",
        "store it as it is read: `fold-constants`",
    ),
    "float-layer": (
        "a layer with constant weights computes in floats among layers of integers",
        "see the ledger for why it was refused",
    ),
}

_MOVES = frozenset({"Cast", "Concat", "Expand", "Reshape", "Slice", "Transpose"})
_SMALL = 1024


def find_slow_parts(graph: ir.Graph, *, is_x86: bool) -> list[Finding]:
    """Look through a graph that the runtime wrote after optimizing it.

    Args:
        graph: The main graph of that file.
        is_x86: It will run on x86, where kernels of signed activations are slow.
    """
    found: dict[str, list[str]] = collections.defaultdict(list)
    nodes = list(graph)
    has_integers = any(is_integer_product(node) for node in nodes)
    for node in nodes:
        for slug in _slugs(node, is_x86=is_x86, has_integers=has_integers):
            found[slug].append(node.name or node.op_type)
    for island in _float_islands(nodes):
        found["float-island"] += [node.name or node.op_type for node in island]
    return [Finding(slug, *_KINDS[slug], tuple(found[slug])) for slug in _KINDS if slug in found]


def is_integer_product(node: ir.Node) -> bool:
    """Tell whether ``node`` multiplies 8-bit integers."""
    return node.op_type in _PRODUCTS


def _slugs(node: ir.Node, *, is_x86: bool, has_integers: bool) -> Iterator[str]:
    if node.op_type == "ConvInteger":
        yield "slow-convolution"
    elif node.op_type == "MatMulInteger":
        yield "unfused-product"
    if is_x86 and is_integer_product(node):
        yield from _slow_types(node)
    if node.op_type == "QuantizeLinear":
        readers = [user.op_type for user, _ in node.outputs[0].uses()]
        if readers and all(reader == "DequantizeLinear" for reader in readers):
            yield "unfused-pair"
    source = operand(node, 0)
    if node.op_type == "DequantizeLinear" and constant_tensor(source) is not None:
        yield "weights-dequantized"
    elif node.op_type in _MOVES and _is_large_constant(source):
        yield "weights-moved"
    if has_integers and node.op_type in _FLOAT_LAYERS and _is_large_constant(operand(node, 1)):
        yield "float-layer"


def _slow_types(node: ir.Node) -> Iterator[str]:
    types = [_dtype(operand(node, index)) for index in _ZERO_POINTS.get(node.op_type, ())]
    if types and types[0] == ir.DataType.INT8:
        yield "signed-activations"
    elif len(types) > 1 and types[1] == ir.DataType.UINT8:
        yield "unsigned-weights"


def _dtype(value: ir.Value | None) -> ir.DataType | None:
    tensor = constant_tensor(value)
    return tensor.dtype if tensor is not None else (value.dtype if value is not None else None)


def _is_large_constant(value: ir.Value | None) -> bool:
    tensor = constant_tensor(value)
    return tensor is not None and tensor.size >= _SMALL


def _float_islands(nodes: Iterable[ir.Node]) -> Iterator[list[ir.Node]]:
    """Yield connected parts that read dequantized values and compute what is quantized again."""
    inner = {node: None for node in nodes if _is_inner(node)}
    while inner:
        start = next(iter(inner))
        del inner[start]
        part, queue = [start], [start]
        while queue:
            for other in _around(queue.pop()):
                if other in inner:
                    del inner[other]
                    part.append(other)
                    queue.append(other)
        reads = any(_is_restored(value) for node in part for value in node.inputs)
        writes = any(
            user.op_type == "QuantizeLinear"
            for node in part
            for output in node.outputs
            for user, _ in output.uses()
        )
        if reads and writes:
            yield part


def _is_inner(node: ir.Node) -> bool:
    return not (
        node.op_type in _QUANTIZERS
        or node.op_type == "DequantizeLinear"
        or node.op_type.startswith("QLinear")
        or is_integer_product(node)
    )


def _around(node: ir.Node) -> Iterator[ir.Node]:
    for value in node.inputs:
        producer = value.producer() if value is not None else None
        if producer is not None:
            yield producer
    for output in node.outputs:
        yield from (user for user, _ in output.uses())


def _is_restored(value: ir.Value | None) -> bool:
    """Tell whether ``value`` was dequantized on this run: a constant bias does not count."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "DequantizeLinear":
        return False
    return constant_tensor(node.inputs[0]) is None
