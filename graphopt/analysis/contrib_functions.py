"""What operators of ONNX Runtime make of types and shapes, told to ONNX as functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import onnx
import onnx_ir as ir

from graphopt.analysis.operands import int_attribute, ints_attribute, reshape_target

__all__ = ["contrib_functions", "stand_in_name"]

_DOMAIN = "com.microsoft"
_SPLIT_COUNT_SINCE = 18
_EINSUM_SINCE, _DYNAMIC_SINCE = 12, 11
_PAST = 6  # the first input that holds keys of earlier runs
_Node = tuple[str, Sequence[str], Sequence[str]]

_LIKE_INPUT: Sequence[_Node] = [("Identity", ["i0"], ["o0"])]
_LIKE_INPUT_AND_SUM: Sequence[_Node] = [*_LIKE_INPUT, ("Identity", ["i0"], ["o3"])]

# Attributes that the nodes of a body take over from the operator.
_ATTRIBUTES: Mapping[str, Mapping[str, onnx.AttributeProto.AttributeType]] = {
    "FusedConv": {
        "auto_pad": onnx.AttributeProto.STRING,
        "dilations": onnx.AttributeProto.INTS,
        "group": onnx.AttributeProto.INT,
        "kernel_shape": onnx.AttributeProto.INTS,
        "pads": onnx.AttributeProto.INTS,
        "strides": onnx.AttributeProto.INTS,
    },
    "FusedGemm": {"transA": onnx.AttributeProto.INT, "transB": onnx.AttributeProto.INT},
}

# Nodes with the shapes and types of the operator, not with its values.
_BODIES: Mapping[str, Sequence[_Node]] = {
    "Attention": [("MatMul", ["i0", "i1"], ["p"]), ("Split", ["p"], ["q", "k", "o0"])],
    "BiasGelu": _LIKE_INPUT,
    "DynamicQuantizeMatMul": [
        ("DynamicQuantizeLinear", ["i0"], ["q", "s", "z"]),
        ("MatMulInteger", ["q", "i1"], ["p"]),
        ("Cast", ["p"], ["o0"]),
    ],
    "EmbedLayerNormalization": [
        ("Gather", ["i2", "i0"], ["o0"]),
        ("Identity", ["o0"], ["o2"]),
    ],
    "FastGelu": _LIKE_INPUT,
    "FusedConv": [("Conv", ["i0", "i1"], ["o0"])],
    "FusedGemm": [("Gemm", ["i0", "i1"], ["o0"])],
    "Gelu": _LIKE_INPUT,
    "MatMulIntegerToFloat": [("MatMulInteger", ["i0", "i1"], ["p"]), ("Cast", ["p"], ["o0"])],
    "MultiHeadAttention": [
        ("Transpose", ["i1"], ["t"]),
        ("MatMul", ["i0", "t"], ["s"]),
        ("MatMul", ["s", "i2"], ["o0"]),
    ],
    "QuickGelu": _LIKE_INPUT,
    "RotaryEmbedding": _LIKE_INPUT,
    "SkipLayerNormalization": _LIKE_INPUT_AND_SUM,
    "SkipSimplifiedLayerNormalization": _LIKE_INPUT_AND_SUM,
}


def stand_in_name(node: ir.Node) -> str | None:
    """Return the name of the function that stands in for ``node``; ``None`` where there is none.

    Inference wants functions with as many inputs and outputs as the node has.
    """
    if node.domain != _DOMAIN or not _is_known(node):
        return None
    form = "like_first" if _body(node) is _LIKE_INPUT else "own"
    form += "".join(map(str, _turns(node)))
    return f"{node.op_type}_{form}_{len(node.inputs)}_{len(node.outputs)}"


def contrib_functions(nodes: Iterable[ir.Node], version: int) -> Iterator[onnx.FunctionProto]:
    """Yield a function for each `stand_in_name` of ``nodes``.

    Args:
        nodes: All nodes of a model.
        version: The opset version of standard operators to write in.
    """
    done: set[str] = set()
    for node in nodes:
        name = stand_in_name(node)
        if name is not None and name not in done:
            done.add(name)
            yield _function(node, name, version)


def _turns(node: ir.Node) -> tuple[int | None, ...]:
    """Return which operands of a FusedMatMul have their last two axes exchanged."""
    if node.op_type != "FusedMatMul":
        return ()
    return tuple(int_attribute(node, f"trans{side}", 0) for side in "AB")


def _turned_product(node: ir.Node) -> Sequence[_Node]:
    turned = ["t0" if _turns(node)[0] else "i0", "t1" if _turns(node)[1] else "i1"]
    # Of one operand Einsum tells the shape whatever the rank is; of two it does not.
    turns = [("Einsum", [f"i{name[1]}"], [name]) for name in turned if name.startswith("t")]
    return [*turns, ("MatMul", turned, ["o0"])]


def _is_known(node: ir.Node) -> bool:
    """Tell whether there is a body that holds for this node: some forms have other shapes."""
    if node.op_type == "Attention":
        return "qkv_hidden_sizes" not in node.attributes
    if node.op_type == "FusedMatMul":
        batch = [int_attribute(node, f"transBatch{side}", 0) for side in "AB"]
        return not any(batch) and None not in _turns(node)
    if node.op_type == "MultiHeadAttention":
        return None not in node.inputs[1:3] and len(node.inputs) > 2  # noqa: PLR2004
    return node.op_type in _BODIES


def _body(node: ir.Node) -> Sequence[_Node]:
    if node.op_type == "MultiHeadAttention":
        has_past = any(value is not None for value in node.inputs[_PAST : _PAST + 2])
        # Heads of keys and values are of one size then, so that the result is as wide as queries.
        if has_past or _rank_of(node.inputs[1]) == 4:  # noqa: PLR2004
            return _LIKE_INPUT
    if node.op_type == "FusedMatMul":
        return _turned_product(node)
    return _BODIES[node.op_type]


def _rank_of(value: ir.Value | None, steps: int = 4) -> int | None:
    """Return the number of dimensions where that is plain to see; ``None``: it is not."""
    if value is not None and value.shape is not None:
        return len(value.shape)
    node = value.producer() if value is not None else None
    if node is None or node.domain or not steps:
        return None
    if node.op_type in ("Reshape", "Transpose"):
        is_reshape = node.op_type == "Reshape"
        target = reshape_target(node) if is_reshape else (ints_attribute(node, "perm"), False)
        return None if target is None or target[0] is None else len(target[0])
    if node.op_type in ("Add", "Concat", "Div", "MatMul", "Mul"):
        ranks = [_rank_of(given, steps - 1) for given in node.inputs]
        return max((rank for rank in ranks if rank is not None), default=None)
    return None


def _function(node: ir.Node, name: str, version: int) -> onnx.FunctionProto:
    proto = onnx.FunctionProto(name=name, domain=_DOMAIN)
    newer = {"FusedMatMul": _EINSUM_SINCE, "DynamicQuantizeMatMul": _DYNAMIC_SINCE}
    since = newer.get(node.op_type, 1)
    # A body may need operators that are newer than the model.
    proto.opset_import.add(domain="", version=max(version, since))
    proto.input.extend(f"i{index}" for index in range(len(node.inputs)))
    proto.output.extend(f"o{index}" for index in range(len(node.outputs)))
    attributes = _ATTRIBUTES.get(node.op_type, {})
    proto.attribute.extend(attributes)
    for kind, inputs, outputs in _body(node):
        # An optional output that this node leaves out at the end.
        if outputs[0].startswith("o") and outputs[0] not in proto.output:
            continue
        written = proto.node.add(op_type=kind, input=inputs, output=outputs)
        for attribute, form in attributes.items():
            written.attribute.add(name=attribute, ref_attr_name=attribute, type=form)
        if kind == "Einsum":
            written.attribute.append(onnx.helper.make_attribute("equation", "...ij->...ji"))
        elif kind == "Transpose":
            written.attribute.append(onnx.helper.make_attribute("perm", [0, 2, 1]))
        elif kind == "Cast":
            written.attribute.append(onnx.helper.make_attribute("to", onnx.TensorProto.FLOAT))
        elif kind == "Split":
            written.attribute.append(onnx.helper.make_attribute("axis", -1))
            if version >= _SPLIT_COUNT_SINCE:
                written.attribute.append(onnx.helper.make_attribute("num_outputs", 3))
    return proto
