import json

import numpy as np
import pytest

from graphopt.errors import InputError, OutputError, PassError
from graphopt.ir import from_text, load
from graphopt.pipeline import Pipeline, reproduce
from graphopt.pipeline.reproducer import write_reproducer
from graphopt.pipeline.stand_in_weights import replace_weights
from graphopt.rewrite import ValueRange

pytestmark = pytest.mark.usefixtures("toys")


def failing_run(text, model, folder, **settings):
    with pytest.raises(PassError) as caught:
        Pipeline.parse(text).run(model, reproducer_dir=folder, **settings)
    (found,) = folder.iterdir()
    assert str(found) in caught.value.hint
    return found


@pytest.mark.parametrize("text", ["raise-error", "break-structure"])
def test_failure_is_written_and_repeats(chain, tmp_path, text):
    folder = failing_run(
        f"relabel-operators{{old=Relu}},{text}", chain, tmp_path, verify="structure"
    )
    assert folder.name.startswith("graphopt-repro-")
    assert {path.name for path in folder.iterdir()} == {
        "model.onnx",
        "reproducer.json",
        "traceback.txt",
    }
    # The model is the one that the guilty pass was given: the first pass has run.
    assert "Relu" not in [node.op_type for node in load(folder / "model.onnx").graph]
    record = json.loads((folder / "reproducer.json").read_text())
    assert record["pass"] == text
    assert record["pipeline"] == f"relabel-operators{{old=Relu}},{text}"
    assert set(record["versions"]) >= {"graphopt", "onnxruntime", "onnx", "python"}
    assert "Error" in (folder / "traceback.txt").read_text()
    outcome = reproduce(folder)
    assert outcome.reproduced
    assert outcome.recorded == record["reason"]


def test_numeric_failure_repeats_with_generated_inputs(chain, tmp_path):
    folder = failing_run("relabel-operators", chain, tmp_path)
    assert json.loads((folder / "reproducer.json").read_text())["kind"] == "numerics"
    assert reproduce(folder).reproduced


def test_pass_that_has_been_repaired_is_said_not_to_fail(chain, tmp_path):
    folder = failing_run("raise-error", chain, tmp_path)
    record = json.loads((folder / "reproducer.json").read_text())
    record["pass"] = "relabel-operators{limit=0}"
    (folder / "reproducer.json").write_text(json.dumps(record))
    outcome = reproduce(folder)
    assert not outcome.reproduced
    assert outcome.found is None


def test_same_failure_is_written_once(chain, tmp_path):
    first = failing_run("raise-error", chain, tmp_path)
    assert failing_run("raise-error", chain, tmp_path) == first


def test_ranges_travel_with_the_reproducer(chain, tmp_path):
    text = "fixpoint(ask-for-facts{names=[a]},raise-error)"
    ranges = {"a": ValueRange(0.5, 2.0)}
    folder = failing_run(text, chain, tmp_path, statistics_provider=lambda *_: ranges)
    assert json.loads((folder / "reproducer.json").read_text())["facts"]["ranges"] == {}
    assert reproduce(folder).reproduced


def weighted():
    rng = np.random.default_rng(1)
    values = ",".join(str(value) for value in rng.normal(5.0, 2.0, 64).round(3))
    return from_text(
        f"""(float[1,64] x) => (float[1,64] y)
        <float[64] w = {{{values}}}, int64[2] s = {{1,64}}, float e = {{0.25}}>
        {{ a = Add(x, w)  b = Reshape(a, s)  y = Mul(b, e) }}"""
    )


def tensors(model):
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}


@pytest.mark.parametrize("weights", ["none", "random", "full"])
def test_weights_of_a_reproducer(tmp_path, weights):
    original = tensors(weighted())
    folder = failing_run("raise-error", weighted(), tmp_path, reproducer_weights=weights)
    kept = tensors(load(folder / "model.onnx"))
    assert np.array_equal(kept["s"], original["s"])
    assert np.array_equal(kept["e"], original["e"])
    assert (kept["w"].shape, kept["w"].dtype) == (original["w"].shape, original["w"].dtype)
    assert np.array_equal(kept["w"], original["w"]) == (weights == "full")
    assert (not kept["w"].any()) == (weights == "none")


def test_random_weights_are_the_same_twice_and_have_the_spread_of_the_original():
    one, two = weighted(), weighted()
    replace_weights(one, "random")
    replace_weights(two, "random")
    assert np.array_equal(tensors(one)["w"], tensors(two)["w"])
    assert 0.5 < tensors(one)["w"].std() / tensors(weighted())["w"].std() < 2.0


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", "[]", "{}", '{"schema_version": 99}', '{"schema_version": 1}'),
        '{"schema_version": 1, "facts": {"ranges": {}, "target": {"features": []}}, "pass": 3}',
    ],
)
def test_directory_that_is_no_reproducer(tmp_path, text):
    if text is not None:
        (tmp_path / "reproducer.json").write_text(text)
    with pytest.raises(InputError) as caught:
        reproduce(tmp_path)
    assert caught.value.hint


def test_folder_that_cannot_be_written(chain, tmp_path):
    missing = tmp_path / "missing"
    with pytest.raises(OutputError, match="reproducer cannot be written"):
        Pipeline.parse("raise-error").run(chain, reproducer_dir=missing)
    assert not missing.exists()
    assert write_reproducer


def test_folder_that_cannot_be_written_costs_none_of_the_other_passes(chain, tmp_path):
    text = "raise-error,relabel-operators{reverse=true limit=3}"
    result = Pipeline.parse(text).run(chain, reproducer_dir=tmp_path / "missing", on_error="drop")
    assert [entry.status for entry in result.ledger.entries] == ["applied", "rolled-back"]
    assert result.ledger.entries[1].reproducer is None
    assert any("no reproducer of `raise-error`" in note for note in result.ledger.notes)


@pytest.mark.parametrize("weights", ["none", "random", "full"])
def test_constants_of_nodes_are_weights_too(tmp_path, weights):
    values = ",".join(str(number) for number in range(64))
    model = from_text(
        f"""(float[1,64] x) => (float[1,64] y) {{
            w = Constant<value = float[64] {{{values}}}>()  y = Add(x, w)
        }}"""
    )
    folder = failing_run("raise-error", model, tmp_path, reproducer_weights=weights)
    (held,) = [node for node in load(folder / "model.onnx").graph if node.op_type == "Constant"]
    found = held.attributes["value"].as_tensor().numpy()
    assert np.array_equal(found, np.arange(64)) == (weights == "full")
    assert (not found.any()) == (weights == "none")
