"""Layers scaled on every run in their other form: not a bit of what they compute changes."""

import itertools

import numpy as np
import onnxruntime
import pytest
from onnxruntime.quantization import quantize_dynamic

from graphopt.analysis.quantized_forms import quantized_forms
from graphopt.demo import demo_files
from graphopt.ir import from_text, load, model_bytes, save
from graphopt.pipeline import PassManager, Pipeline

SIZES = [(1, 3, 1), (7, 64, 33), (5, 200, 16)]
FORMS = list(itertools.product(["DynamicQuantizeMatMul", "MatMulIntegerToFloat"], *[(0, 1)] * 4))


def text(operator, size, kind, form):
    """Return a layer in one of its forms, with its parameters as inputs."""
    (rows, depth, columns), (channels, has_zero_point, has_bias) = size, form
    along = f"[{columns}]" if channels else ""
    inputs = [f"float[{rows},{depth}] x", f"{kind}[{depth},{columns}] w", f"float{along} s"]
    inputs += [f"{kind}{along} z"] if has_zero_point else []
    inputs += [f"float[{columns}] b"] if has_bias else []
    point, bias = "z" if has_zero_point else "", "b" if has_bias else ""
    tail = ", ".join(["", point, bias] if has_bias else ["", point] if point else [""])
    body = f"y = com.microsoft.DynamicQuantizeMatMul(x, w, s{tail})"
    if operator == "MatMulIntegerToFloat":
        body = (
            f"q, a, o = DynamicQuantizeLinear(x)  y = com.microsoft.{operator}(q, w, a, s, o{tail})"
        )
    outputs = f"float[{rows},{columns}] y"
    head = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>'
    return f"{head}\ng ({', '.join(inputs)}) => ({outputs}) {{ {body} }}"


def feeds(size, kind, form):
    (rows, depth, columns), (channels, has_zero_point, has_bias) = size, form
    draw = np.random.default_rng(sum(size))
    along = (columns,) if channels else ()
    given = {
        "x": (draw.standard_normal((rows, depth)) * 3).astype(np.float32),
        "w": draw.integers(0, 256, (depth, columns)).astype(np.uint8).view(kind),
        "s": np.asarray(draw.uniform(0.001, 0.02, along), np.float32),
    }
    if has_zero_point:
        given["z"] = np.asarray(draw.integers(1, 20, along), kind)
    if has_bias:
        given["b"] = draw.standard_normal(columns).astype(np.float32)
    return given


def run(model, given, level="ORT_DISABLE_ALL"):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model_bytes(model), options)
    return session.run(None, given)[0]


def converted(model, to):
    result = PassManager(verify="off").run(
        model, Pipeline.parse(f"convert-dynamic-layers{{to={to}}}")
    )
    return result.model, result.ledger.journal


@pytest.mark.parametrize("form", FORMS)
def test_both_forms_return_the_same_bits(form):
    operator, is_signed, *form = form
    kind = "int8" if is_signed else "uint8"
    for size in SIZES:
        given = feeds(size, kind, form)
        model = from_text(text(operator, size, kind, form))
        before = run(model, given)
        model, journal = converted(model, "onnx")
        assert (len(journal.edits), journal.refusals) == (1, [])
        assert {node.domain for node in model.graph} == {""}
        assert run(model, given).tobytes() == before.tobytes()
        # The runtime fuses it by itself: as deployed it is the same, too.
        assert run(model, given, "ORT_ENABLE_ALL").tobytes() == before.tobytes()
        model, journal = converted(model, "onnxruntime")
        assert [node.op_type for node in model.graph if node.domain] == ["DynamicQuantizeMatMul"]
        assert run(model, given).tobytes() == before.tobytes()


def test_what_the_runtime_fused_and_wrote_becomes_operators_of_onnx_and_back(tmp_path):
    quantize_dynamic(demo_files().model, tmp_path / "dynamic.onnx", extra_options={})
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    onnxruntime.InferenceSession(str(tmp_path / "dynamic.onnx"), options)
    model = load(tmp_path / "fused.onnx")
    count = quantized_forms(model)["dynamic"]
    with np.load(demo_files().calibration) as held:
        given = {"image": held["image"][:4]}
    before = run(model, given)
    # The manager holds it against the contract, which allows no bit, on inputs of its own.
    for to in ("onnx", "onnxruntime", "onnx"):
        result = PassManager().run(model, Pipeline.parse(f"convert-dynamic-layers{{to={to}}}"))
        assert not result.ledger.rolled_back()
        assert quantized_forms(model) == {"dynamic": count}
        save(model, tmp_path / f"{to}.onnx")
        assert run(load(tmp_path / f"{to}.onnx"), given).tobytes() == before.tobytes()
    assert not {node.op_type for node in model.graph} & {
        "DynamicQuantizeMatMul",
        "MatMulIntegerToFloat",
    }


REFUSED = {
    "no-other-form": "h = com.microsoft.DynamicQuantizeLSTM<hidden_size = 2>(r, v, v, , , , , t, p, t, p)"
    "  y = Identity(x)",
    "other-axis": "y = com.microsoft.MatMulIntegerToFloat(q, w, many, s, o)",
    "other-type": "h = com.microsoft.MatMulIntegerToFloat(q, w, a16, s16, o)  y = Identity(x)",
}


@pytest.mark.parametrize("slug", REFUSED)
def test_what_has_no_other_form_is_told(slug):
    model = from_text(
        '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>\n'
        "g (float[2,2] x, float[1,1,2] r, int8[1,2,8] v, float[2] many, float16 s16) => (float[2,2] y)"
        "<int8[2,2] w = {1,2,3,4}, float s = {0.5}, float[1] t = {0.5}, int8[1] p = {0}>"
        f"{{ q, a, o = DynamicQuantizeLinear(x)  a16 = Cast<to = 10>(a)  {REFUSED[slug]} }}"
    )
    before = [node.op_type for node in model.graph]
    model, journal = converted(model, "onnx")
    assert [refusal.slug for refusal in journal.refusals] == [slug]
    assert [node.op_type for node in model.graph] == before
    assert quantized_forms(model) == {"dynamic": 1}


def test_a_layer_in_a_function_and_one_in_a_branch():
    body = "y = If(c) <then_branch = t () => (float[2,2] o1) {{ {} }}, else_branch = e () => (float[2,2] o2) {{ o2 = Relu(x) }}>"
    inner = "o1 = com.microsoft.DynamicQuantizeMatMul(x, w, s)"
    model = from_text(
        '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1, "local" : 1]>\n'
        "g (float[2,2] x, bool c) => (float[2,2] y, float[2,2] z)"
        "<int8[2,2] w = {1,2,3,4}, float s = {0.5}>"
        f"{{ {body.format(inner)}  z = local.Layer(x, w, s) }}\n"
        '<domain: "local", opset_import: ["" : 17, "com.microsoft" : 1]>'
        " Layer (a, b, d) => (e) { e = com.microsoft.DynamicQuantizeMatMul(a, b, d) }"
    )
    given = {"x": np.float32([[1, -2], [3, 4]]), "c": np.array(True)}
    before = run(model, given)
    model, journal = converted(model, "onnx")
    assert [refusal.slug for refusal in journal.refusals] == ["inside-function"]
    assert len(journal.edits) == 1
    assert run(model, given).tobytes() == before.tobytes()
