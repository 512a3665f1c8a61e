"""Our own rules for types and shapes, held against ONNX's inference and against what comes out.

Every case of the backend suite of the `onnx` package is taken three times: as it is; with small
integer inputs as constants, as models have them; and so that every size of the other inputs is a
symbol of its own, for what the rules say of an output to be computed from the sizes of the case.
"""

from __future__ import annotations

import functools
import math
from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from conformance_cases import STORED, light_cases, node_cases, stored_cases
from hypothesis import HealthCheck, Phase, given, settings
from random_models import models

from graphopt.analysis.shapes import infer_shapes
from graphopt.analysis.symbolic_dims import DIMS
from graphopt.analysis.symbolic_expressions import Expression
from graphopt.analysis.typed_shapes import TypedShapes, is_covered
from graphopt.ir import from_text, graphs
from graphopt.ir.normalise import normalise

SUITES = {
    "node": node_cases,
    **{kind: functools.partial(stored_cases, kind) for kind in STORED},
    "light": light_cases,
}
FOLLOWED = {"node": 1700, "simple": 1, "pytorch-converted": 1, "pytorch-operator": 1, "light": 1}
"""How many cases at least have neither subgraphs nor sequences nor an opset before 7."""

PAST = "with_past_and_present"
"""Keys of earlier runs may be empty, and what is empty a Concat skips, whatever its other sizes."""

FORMS = ("as it is", "integers as constants", "sizes as symbols, too")


def values(model):
    for graph in graphs(model):
        yield from graph.inputs
        for node in graph:
            yield from (value for value in node.outputs if value.name)


def contradictions(model, known, other, *, may_know_less=False):
    """Yield the values of which the rules know something else than inference, or less."""
    for value in values(model):
        ours, theirs = known.shape(value), other.of(value)
        if theirs is None or (theirs.dtype is None and theirs.dims is None):
            continue
        if (
            ours is None
            or ours.dtype != theirs.dtype
            or not fits(ours.dims, theirs.dims, may_know_less=may_know_less)
        ):
            yield value.name, ours, theirs


def fits(ours, theirs, *, may_know_less):
    if theirs is None:
        return True
    if ours is None or len(ours) != len(theirs):
        return False
    numbers = [(a, b) for a, b in zip(ours, theirs, strict=True) if isinstance(b, int)]
    return all(a == b or (may_know_less and isinstance(a, str)) for a, b in numbers)


def in_form(case, form):
    proto = onnx.ModelProto()
    proto.CopyFrom(case.model)
    given = case.data[0][0] if case.data else {}
    held = {tensor.name for tensor in proto.graph.initializer}
    for info in list(proto.graph.input):
        array = given.get(info.name)
        if not isinstance(array, np.ndarray) or info.name in held:
            continue
        if form != FORMS[0] and array.dtype.kind in "iub" and array.size <= 64 and array.ndim < 2:
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, info.name))
            proto.graph.input.remove(info)
        elif form == FORMS[2]:
            for axis, dim in enumerate(info.type.tensor_type.shape.dim):
                dim.dim_param = f"{info.name}@{axis}"
    return proto


def evaluated(dim, sizes):
    """Return the number that a dimension is for some sizes; ``None`` where other symbols are in it."""
    if not isinstance(dim, Expression):
        return dim
    total = 0
    for factors, coefficient in dim.terms.items():
        if any(symbol.key not in sizes for symbol in factors):
            return None
        total += coefficient * math.prod(sizes[symbol.key] for symbol in factors)
    return total


def wrong_sizes(model, known, case):
    """Yield outputs that have other sizes in the data of the case than the rules say."""
    for fed, expected in case.data:
        sizes = {
            f"{name}@{axis}": size
            for name, array in fed.items()
            if isinstance(array, np.ndarray)
            for axis, size in enumerate(array.shape)
        }
        for output in model.graph.outputs:
            dims, array = known.dims(output), expected.get(output.name)
            if dims is None or not isinstance(array, np.ndarray):
                continue
            numbers = [evaluated(dim, sizes) for dim in dims]
            if len(numbers) != array.ndim or any(
                number not in (None, size)
                for number, size in zip(numbers, array.shape, strict=True)
            ):
                yield output.name, dims, array.shape


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("form", FORMS)
def test_rules_agree_with_inference_and_with_what_comes_out(suite, form):
    counts, faults = Counter(), []
    for case in SUITES[suite]():
        model = normalise(ir.from_proto(in_form(case, form)))
        if not is_covered(model):
            counts["left to inference"] += 1
            continue
        counts["followed"] += 1
        known = TypedShapes(model)
        found = list(wrong_sizes(model, known, case))
        if form == FORMS[2]:
            found += contradictions(
                model, known, infer_shapes(model), may_know_less=PAST in case.name
            )
        else:
            found += contradictions(model, known, infer_shapes(model))
        faults += [f"{case.name}: {fault}" for fault in found]
    print(dict(counts))  # noqa: T201 - shown with `-rP`
    assert not faults, f"{len(faults)}\n" + "\n".join(faults)
    assert counts["followed"] >= FOLLOWED[suite]


@pytest.mark.parametrize("name", ["Transpose", "Concat", "Reshape"])
def test_a_wrong_rule_is_told(name, monkeypatch):
    monkeypatch.setitem(DIMS, name, lambda node, known: [known.dims(node.inputs[0])])
    cases = [case for case in node_cases() if f"test_{name.lower()}_" in case.name]
    told, wrong = 0, 0
    for case in cases:
        model = normalise(ir.from_proto(in_form(case, FORMS[1])))
        known = TypedShapes(model)
        told += any(contradictions(model, known, infer_shapes(model)))
        wrong += any(wrong_sizes(model, known, case))
    assert min(told, wrong) > len(cases) // 2


@settings(
    max_examples=60,
    phases=[Phase.explicit, Phase.generate],
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(models(max_nodes=24))
def test_rules_agree_with_inference_on_random_models(model):
    if is_covered(model):
        found = [*contradictions(model, TypedShapes(model), infer_shapes(model))]
        assert not found, found


@pytest.mark.parametrize(
    "node",
    [
        "Cast<to = 99>(x)",
        "Cast<to = 0>(x)",
        "EyeLike<dtype = 99>(x)",
        "QuantizeLinear<output_dtype = 99>(x, x)",
        "DequantizeLinear<output_dtype = 99>(x, x)",
    ],
)
def test_a_type_that_there_is_not_is_not_known(node):
    model = from_text(
        f'<ir_version: 10, opset_import: ["" : 23]> g (float[2,2] x) => (z) {{ z = {node} }}'
    )
    assert TypedShapes(model).dtype(model.graph.outputs[0]) is None
