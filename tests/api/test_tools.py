"""`run_pipeline`, `verify`, `bench`, `inspect`, `explain` and `plan` on small models."""

import math

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

import graphopt
from graphopt import api
from graphopt import ir as gir
from graphopt.demo import demo_files
from graphopt.errors import BudgetExceeded, OptionError, OutputError, PreconditionError

DEMO = demo_files()
TEXT = (
    "(float[N,4] x) => (float[N,4] z) { u = Identity(x)  v = Exp(u)  dead = Abs(x)  z = Relu(v) }"
)


@pytest.fixture
def model(tmp_path):
    gir.save(gir.from_text(TEXT), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_run_pipeline_writes_a_smaller_model_with_the_same_bits(model, tmp_path):
    result = graphopt.run_pipeline(model, "@exact", tmp_path / "clean.onnx")
    assert result.changed
    assert (result.before.nodes, result.after.nodes) == (4, 2)
    assert graphopt.verify(model, tmp_path / "clean.onnx").verdict == "equal"
    assert "4 -> 2 nodes" in str(result)


def test_run_pipeline_gives_the_same_bytes_twice(model, tmp_path):
    for name in ("a", "b"):
        graphopt.run_pipeline(model, "@exact", tmp_path / f"{name}.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize("name", ["quantize-dynamic", "quantize-static"])
def test_quantizers_give_the_same_bytes_twice(name, tmp_path):
    source = tmp_path / "m.onnx"
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 64)).astype(np.float32)
    model = gir.from_text("(float[N,64] x) => (float[N,64] z) { z = Relu(x) }")
    relu = model.graph[0]
    import onnx_ir as ir

    value = ir.Value(
        name="w",
        type=ir.TensorType(ir.DataType.FLOAT),
        shape=ir.Shape(weight.shape),
        const_value=ir.tensor(weight, name="w"),
    )
    model.graph.register_initializer(value)
    matmul = ir.Node("", "MatMul", [model.graph.inputs[0], value], name="matmul")
    model.graph.insert_before(relu, matmul)
    relu.replace_input_with(0, matmul.outputs[0])
    gir.save(model, source)
    samples = [{"x": rng.standard_normal((3, 64)).astype(np.float32)}]
    contents = set()
    for run in ("a", "b"):
        result = graphopt.run_pipeline(
            source, name, tmp_path / f"{run}.onnx", target="cpu-int8", calibration=samples
        )
        assert result.changed
        contents.add((tmp_path / f"{run}.onnx").read_bytes())
    assert len(contents) == 1


def test_run_pipeline_without_samples_says_what_is_missing(model, tmp_path):
    with pytest.raises(PreconditionError, match="samples"):
        graphopt.run_pipeline(DEMO.model, "quantize-static", tmp_path / "o.onnx", target="cpu-int8")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_run_pipeline_overwrites_only_when_told(model):
    before = model.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        graphopt.run_pipeline(model, "@exact", model)
    assert model.read_bytes() == before
    graphopt.run_pipeline(model, "@exact", model, force=True)
    assert model.read_bytes() != before


def test_only_files_are_replaced_and_only_when_asked_for(model, tmp_path):
    (tmp_path / "nowhere").symlink_to("missing")
    with pytest.raises(OutputError, match="exists"):
        graphopt.run_pipeline(model, "@exact", tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    steps = []  # it is refused before any work
    with pytest.raises(OutputError, match="is not replaced"):
        graphopt.run_pipeline(
            model, "@exact", tmp_path / "folder", force=True, progress=steps.append
        )
    assert steps == []
    with pytest.raises(OutputError, match="is not replaced"):
        api.race(model, keep=model, force=True)


def test_verify_tells_equal_from_different(model, tmp_path):
    other = tmp_path / "other.onnx"
    gir.save(gir.from_text(TEXT.replace("Exp", "Softplus")), other)
    assert graphopt.verify(model, model).verdict == "equal"
    broken = graphopt.verify(model, other)
    assert (broken.verdict, broken.exit_code) == ("broken", 1)
    with pytest.raises(BudgetExceeded):
        broken.raise_if_broken()
    assert graphopt.verify(model, other, max_abs=1e9).exit_code == 0
    assert graphopt.verify(model, other, min_cosine=1.0).exit_code == 1


@pytest.mark.parametrize(
    "limit", [{"min_cosine": 0.9}, {"min_sqnr_db": 20.0}, {"max_abs": 0.5}, {"max_rel": 0.1}]
)
def test_verify_holds_outputs_of_integers_to_every_limit(tmp_path, limit):
    text = "(float[N,4] x) => (int64[N] z) {{ y = {}(x)  z = ArgMax<axis = 1, keepdims = 0>(y) }}"
    for name, operator in (("one", "Exp"), ("other", "Neg")):
        gir.save(gir.from_text(text.format(operator)), tmp_path / f"{name}.onnx")
    one, other = tmp_path / "one.onnx", tmp_path / "other.onnx"
    assert graphopt.verify(one, one, **limit).exit_code == 0
    assert graphopt.verify(one, other, **limit).exit_code == 1


def test_verify_compares_all_samples_that_it_is_given(model, tmp_path):
    """Not only the first few: one that differs may be the last."""
    other = tmp_path / "other.onnx"
    text = TEXT.replace(
        "z = Relu(v)", "w = Relu(v)  c = Constant<value = float {3.0}>()  z = Min(w, c)"
    )
    gir.save(gir.from_text(text), other)
    feeds = [{"x": np.full((1, 4), value, np.float32)} for value in [0.0] * 20 + [9.0]]
    counts = []
    found = graphopt.verify(
        model, other, samples=feeds, progress=lambda event: counts.append(event.done)
    )
    assert (found.verdict, found.comparison.samples) == ("broken", 21)
    assert counts[-1] == 21


def test_verify_does_not_show_the_worst_noise_as_the_best(model, tmp_path):
    """An output that is missing has a ratio of -inf dB; inf dB would be no noise at all."""
    other = tmp_path / "other.onnx"
    gir.save(gir.from_text(TEXT.replace("z", "q")), other)
    shown = str(graphopt.verify(model, other, min_sqnr_db=20.0))
    assert "-inf" in shown


def test_a_limit_that_is_no_number_is_never_held(model):
    assert graphopt.verify(model, model, max_abs=math.nan).exit_code == 1
    assert graphopt.verify(model, model, min_cosine=math.nan).exit_code == 1


@pytest.mark.parametrize("compare", [graphopt.verify, graphopt.bench])
def test_fewer_than_no_threads(model, compare):
    with pytest.raises(OptionError, match="threads"):
        compare(model, model, threads=-1)


def test_bench_compares_a_model_with_itself(model):
    report = graphopt.bench(model, model, budget_s=0.5)
    assert report.latency.before.runs > 0
    assert set(report.to_dict()) >= {"verdict", "ratio", "before", "after", "threads"}


def test_inspect_counts(model):
    summary = graphopt.inspect(model)
    assert summary.nodes == 4
    assert summary.operators["Exp"] == 1


def test_explain_tells_edits_and_leaves_the_file(model):
    before = model.read_bytes()
    journal = api.explain(model, "eliminate-dead-nodes")
    assert [edit.where for edit in journal.edits] == ["Abs `dead_Abs`"]
    assert model.read_bytes() == before


NEURONS = (
    "(float[N,2] x) => (float[N,2] z) <float[2,4] a = {1,2,0.5,0.25, -1,1,0.5,2},"
    " float[4,2] b = {3,1, 2,2, 0.25,0.5, 1,0}> { h = MatMul(x, a)  r = Relu(h)  z = MatMul(r, b) }"
)


def test_explain_takes_options_and_samples(tmp_path):
    path = tmp_path / "m.onnx"
    gir.save(gir.from_text(NEURONS), path)
    rows = np.random.default_rng(0).normal(size=(32, 2)).astype(np.float32)
    plain = api.explain(path, "prune-neurons{score=l2 compensation=off count=1}")
    assert [one.removed for one in plain.decisions] == [(2,)]
    (structural,) = api.explain(path, "prune-neurons{count=1}").decisions
    assert (structural.score, structural.fits) == ("l2", ())  # nothing is measured without samples
    with pytest.raises(PreconditionError, match="calibration"):
        api.explain(path, "smooth-activations")
    measured = api.explain(path, "prune-neurons{count=1}", calibration=[{"x": rows}])
    (decision,) = measured.decisions
    assert decision.fits
    assert decision.fits[0].rows


def test_run_tells_why_units_went(tmp_path):
    path = tmp_path / "m.onnx"
    gir.save(gir.from_text(NEURONS), path)
    result = graphopt.run_pipeline(path, "prune-neurons{score=l2 compensation=off count=1}")
    assert "1 of 4" in str(result)
    (decision,) = result.to_dict()["journal"]["decisions"]
    assert decision["removed"] == [2]
    assert decision["ranks"][2] == 1


def test_plan_writes_nothing_and_names_what_would_not_be_built(model, tmp_path):
    plan = graphopt.plan(model, target="cpu-int8", arguments=("graphopt", "optimize", "my model"))
    document = plan.to_dict()
    built = {item["name"]: item["is_built"] for item in document["candidates"]}
    names = ("dynamic", "fused", "weights", "float")
    uncalibrated = dict.fromkeys(
        ("static", "outliers", "outliers-static", "outliers-fused", "tuned-weights"), False
    )
    assert built == uncalibrated | dict.fromkeys(names, True)
    assert document["command"] == "graphopt optimize 'my model'"
    assert {"pass": "eliminate-dead-nodes", "edits": 1} in document["expected"]
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("suffix", [".onnxtxt", ".textproto"])
def test_a_model_stored_as_text_goes_through_every_function(suffix, tmp_path):
    source = tmp_path / f"m{suffix}"
    header = '<ir_version: 10, opset_import: ["" : 20]> g '
    if suffix == ".onnxtxt":
        source.write_text(header + TEXT)
    else:
        onnx.save(onnx.parser.parse_model(header + TEXT), source, format="textproto")
    graphopt.run_pipeline(source, "@exact", tmp_path / "clean.onnx")
    assert graphopt.verify(source, tmp_path / "clean.onnx").verdict == "equal"
    assert graphopt.bench(source, tmp_path / "clean.onnx", budget_s=0.2).latency.rounds > 0
    result = graphopt.optimize(
        source, output=tmp_path / "b", latency_budget_s=None, gates={"max_size_ratio": None}
    )
    assert result.report.chosen == "float"
    assert graphopt.validate(tmp_path / "b").exit_code == 0


def test_verify_does_not_take_another_kernel_for_another_model(tmp_path):
    rng = np.random.default_rng(0)
    weight = onnx.numpy_helper.from_array(rng.standard_normal((37, 53)).astype(np.float32), "w")
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> '
        "g (float[N,53] x) => (float[N,37] z) { t = Transpose<perm=[1,0]>(w)  z = MatMul(x, t) }"
    )
    proto.graph.initializer.append(weight)
    onnx.save(proto, tmp_path / "m.onnx")
    result = graphopt.run_pipeline(tmp_path / "m.onnx", "fold-constants", tmp_path / "f.onnx")
    assert result.after.operators == {"MatMul": 1}
    assert graphopt.verify(tmp_path / "m.onnx", tmp_path / "f.onnx").verdict == "equal"
