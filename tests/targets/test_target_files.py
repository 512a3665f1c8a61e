from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from graphopt.errors import OptionError, TargetError, UnknownNameError
from graphopt.pipeline import Pipeline
from graphopt.targets import GATES, Target, load_target, target_names, target_schema

MINIMAL = """
name = "board"
summary = "a board"
[[runtime.providers]]
name = "CPUExecutionProvider"
[candidates.plain]
pipeline = ""
"""


def write(folder: Path, text: str, name: str = "board.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_targets_that_there_are():
    assert target_names() == (
        "cpu-arm64-int8",
        "cpu-fp32",
        "cpu-int4",
        "cpu-int8",
        "cpu-int8-portable",
        "cpu-int8-pruned",
        "cuda-fp16",
        "cuda-fp32",
        "directml-fp16",
        "edge-arm64",
        "edge-coreml",
        "edge-nnapi",
        "edge-qnn-htp",
        "edge-xnnpack",
        "openvino-int8",
        "tensorrt-fp16",
        "tensorrt-int8",
        "web-wasm-int8",
        "web-webgpu-fp16",
    )


@pytest.mark.parametrize("name", target_names())
def test_every_recipe_of_every_target_can_be_read(name):
    target = load_target(name)
    for candidate in target.candidates:
        Pipeline.parse(target.pipeline_text(candidate))


def test_the_targets_load():
    names = ("cpu-fp32", "cpu-int4", "cpu-int8", "cpu-int8-pruned")
    float_target, int4, int8, pruned = (load_target(name) for name in names)
    assert [item.name for item in pruned.enabled_candidates()] == [
        "dynamic",
        "float",
        "pruned-light",
        "pruned",
    ]
    assert [item.name for item in int4.enabled_candidates()] == [
        "mixed",
        "compensated",
        "blocks",
        "long-blocks",
        "fused",
        "eight-bits",
        "float",
    ]
    assert [item.name for item in float_target.enabled_candidates()] == ["exact", "fused"]
    assert [item.name for item in int8.enabled_candidates()] == [
        "static",
        "outliers",
        "outliers-static",
        "outliers-fused",
        "dynamic",
        "fused",
        "tuned-weights",
        "weights",
        "float",
    ]
    candidates = {item.name: item for item in int8.candidates}
    measured = [name for name, item in candidates.items() if item.needs_calibration]
    assert measured == ["static", "outliers", "outliers-static", "outliers-fused", "tuned-weights"]
    stages, dynamic = "freeze-initializers,@exact", candidates["dynamic"]
    assert int8.pipeline_text(dynamic) == f"{stages},quantize-dynamic,clear-value-info"
    assert int8.pipeline_text(candidates["float"]) == stages
    assert int8.runtime.threads == 1
    assert int8.gates == {
        "min_cosine": 0.99,
        "max_metric_drop": 0.01,
        "max_latency_ratio": 1.0,
        "max_size_ratio": 1.0,
    }


@pytest.mark.parametrize("name", ["cpu-int4", "cpu-int8"])
def test_there_always_is_a_float_way_out(name):
    candidates = load_target(name).candidates
    assert any(not item.pipeline and not item.needs_calibration for item in candidates)


def test_schema_is_a_schema_and_knows_every_gate():
    Draft202012Validator.check_schema(target_schema())
    assert set(target_schema()["properties"]["gates"]["properties"]) == set(GATES)


@pytest.mark.parametrize("name", target_names())
def test_target_of_the_package_obeys_the_schema(name, tmp_path):
    """Loading does not check it again, but does check whatever extends it."""
    text = f'name = "own"\nsummary = "as it is"\nextends = "{name}"\n'
    extended = load_target(write(tmp_path, text))
    assert replace(extended, name=name, summary="", path=None) == replace(
        load_target(name), summary="", path=None
    )


@pytest.mark.parametrize("name", target_names())
def test_resolved_form_loads_as_an_equal_target(name, tmp_path):
    target = load_target(name)
    assert load_target(write(tmp_path, str(target))) == target
    Draft202012Validator(target_schema()).validate(json.loads(json.dumps(target.to_dict())))


def test_everything_that_can_be_said_survives_the_round_trip(tmp_path):
    text = (
        MINIMAL
        + """
[runtime]
threads = 4
optimization = "extended"
config = { "session.x64quantprecision" = "1" }
[device]
features = ["avx2"]
minimum_onnxruntime = "1.21"
maximum_opset = 21
maximum_ir_version = 10
maximum_memory_bytes = 100000000
[precision]
activation = "s8"
[pipeline]
exact = "@exact"
prune = { passes = "prune-heads{ratio=0.5}", enabled = false }
[gates]
min_sqnr_db = 20
[package]
format = "ort"
golden_samples = 3
include = ["vocab.txt"]
"""
    )
    text = text.replace('[[runtime.providers]]\nname = "CPUExecutionProvider"\n', "", 1)
    text = text.replace(
        "[device]",
        '[[runtime.providers]]\nname = "XnnpackExecutionProvider"\noptions = { intra_op_num_threads = "4" }\n[device]',
    )
    target = load_target(write(tmp_path, text))
    assert load_target(write(tmp_path, str(target), "again.toml")) == target
    options = target.session_options()
    assert options.providers == (("XnnpackExecutionProvider", {"intra_op_num_threads": "4"}),)
    assert (options.threads, options.optimization) == (4, "extended")
    assert options.config == {"session.x64quantprecision": "1"}
    facts = target.to_facts()
    assert (facts.name, facts.activation_type, facts.weight_type) == ("board", "s8", "s8")
    assert (facts.provider, facts.maximum_opset) == ("XnnpackExecutionProvider", 21)
    assert facts.features == {"avx2"}
    assert target.stage_text() == "@exact"


def test_extends_merges_tables_and_replaces_arrays(tmp_path):
    write(
        tmp_path,
        """
name = "parent"
summary = "parent"
extends = "cpu-int8"
[device]
features = ["avx2"]
[gates]
max_latency_ratio = 0.5
""",
        "parent.toml",
    )
    child = write(
        tmp_path,
        """
name = "child"
summary = "child"
extends = "./parent.toml"
[device]
features = ["neon"]
[precision]
activation = "s8"
[candidates.static]
enabled = false
[gates]
max_size_ratio = false
""",
    )
    target = load_target(child)
    assert target.name == "child"
    assert target.device.features == ("neon",)
    assert target.device.minimum_onnxruntime == "1.20"
    assert target.precision.activation == "s8"
    assert target.precision.weight == "s8"
    enabled = [item.name for item in target.enabled_candidates()]
    assert enabled == [
        "outliers",
        "outliers-static",
        "outliers-fused",
        "dynamic",
        "fused",
        "tuned-weights",
        "weights",
        "float",
    ]
    assert target.gates == {"min_cosine": 0.99, "max_metric_drop": 0.01, "max_latency_ratio": 0.5}


def replaced(old: str, new: str) -> str:
    assert old in MINIMAL
    return MINIMAL.replace(old, new)


BROKEN = {
    "unknown key `gate`": (MINIMAL + "[gate]\n", "did you mean `gates`?"),
    "unknown key `gates.max_latncy_ratio`": (
        MINIMAL + "[gates]\nmax_latncy_ratio = 1.0\n",
        "did you mean `max_latency_ratio`?",
    ),
    "unknown key `runtime.thread`": (MINIMAL + "[runtime]\nthread = 1\n", None),
    "key `gates.min_cosine` has a wrong value": (MINIMAL + "[gates]\nmin_cosine = 2\n", None),
    "key `gates.max_size_ratio` has a wrong value": (
        MINIMAL + "[gates]\nmax_size_ratio = true\n",
        None,
    ),
    "key `gates.max_latency_ratio` has a wrong value": (
        MINIMAL + "[gates]\nmax_latency_ratio = 0\n",
        None,
    ),
    "key `candidates.plain.pipeline` has a wrong value": (replaced('""', "1"), None),
    "key `candidates.plain.pipeline` is missing": (replaced('pipeline = ""', ""), None),
    "`candidates.Plain` is not a usable name": (replaced(".plain", ".Plain"), None),
    "key `name` has a wrong value": (replaced('"board"', '"../escape"'), None),
    "key `package.format` has a wrong value": (MINIMAL + '[package]\nformat = "tflite"\n', None),
    "key `runtime.providers.0.name` has a wrong value": (
        replaced("CPUExecutionProvider", "cpu"),
        None,
    ),
    "key `enough_db` has a wrong value": ("enough_db = inf\n" + MINIMAL, None),
    "target has no `name`": (replaced('name = "board"', ""), None),
    "target file is not valid TOML": (MINIMAL + "gates [", None),
    "key `extends` has a wrong value": ("extends = 1\n" + MINIMAL, None),
    "key `runtime` is missing": (
        'name = "a"\nsummary = "b"\n[candidates.c]\npipeline = ""\n',
        None,
    ),
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_file_names_the_key(message, tmp_path):
    text, hint = BROKEN[message]
    if "[runtime]" in text:  # TOML: the table comes before its arrays
        text = (
            text.replace("[[runtime.providers]]", "", 1).replace(
                'name = "CPUExecutionProvider"', "", 1
            )
            + '[[runtime.providers]]\nname = "CPUExecutionProvider"\n'
        )
    path = write(tmp_path, text)
    with pytest.raises(TargetError) as caught:
        load_target(path)
    assert caught.value.message == message
    assert caught.value.where == str(path)
    if hint:
        assert caught.value.hint == hint


def test_wrong_values_say_what_is_expected(tmp_path):
    path = write(tmp_path, MINIMAL + '[package]\nformat = "tflite"\n')
    with pytest.raises(TargetError, match="found `tflite`, expected one of `onnx`, `ort`"):
        load_target(path)
    path = write(tmp_path, MINIMAL + "[gates]\nmin_cosine = 2\n")
    with pytest.raises(TargetError, match="found `2`, expected at most 1"):
        load_target(path)


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="unknown target `cpu-int`") as caught:
        load_target("cpu-int")
    assert "`cpu-int8`" in caught.value.hint


def test_missing_file_and_missing_parent(tmp_path):
    with pytest.raises(TargetError, match="does not exist"):
        load_target(tmp_path / "none.toml")
    path = write(tmp_path, 'extends = "./none.toml"\n' + MINIMAL)
    with pytest.raises(TargetError, match=r"`./none.toml` does not exist") as caught:
        load_target(path)
    assert caught.value.where == str(path)


def test_target_that_extends_itself(tmp_path):
    write(tmp_path, 'extends = "./b.toml"\n' + MINIMAL, "a.toml")
    path = write(tmp_path, 'extends = "./a.toml"\n' + MINIMAL, "b.toml")
    with pytest.raises(TargetError, match="extends itself") as caught:
        load_target(path)
    assert caught.value.why == "b.toml -> a.toml -> b.toml"


def test_relative_path_is_relative_to_the_working_directory(tmp_path, monkeypatch):
    write(tmp_path, MINIMAL)
    monkeypatch.chdir(tmp_path)
    assert load_target("board.toml").name == load_target("./board.toml").name == "board"


def int8() -> Target:
    return load_target("cpu-int8")


def test_with_gates_sets_and_takes_away():
    target = int8().with_gates({"max_metric_drop": 0.005, "max_size_ratio": None})
    assert target.gates["max_metric_drop"] == 0.005
    assert "max_size_ratio" not in target.gates
    assert target.demanded_gates == {"max_metric_drop"}
    assert "max_size_ratio" in int8().gates


@pytest.mark.parametrize("gates", [{"max_latncy_ratio": 1.0}, {"max_latncy_ratio": None}])
def test_with_gates_refuses_unknown_names(gates):
    with pytest.raises(UnknownNameError) as caught:
        int8().with_gates(gates)
    assert "`max_latency_ratio`" in caught.value.hint


def test_with_stages_switches_stages_and_candidates():
    target = int8().with_stages({"exact": False, "static": False})
    assert target.stage_text() == "freeze-initializers"
    enabled = [item.name for item in target.enabled_candidates()]
    assert enabled == [
        "outliers",
        "outliers-static",
        "outliers-fused",
        "dynamic",
        "fused",
        "tuned-weights",
        "weights",
        "float",
    ]
    with pytest.raises(UnknownNameError, match="unknown stage `prun`"):
        int8().with_stages({"prun": True})
    with pytest.raises(OptionError, match="`exact` is True or False, not 'off'"):
        int8().with_stages({"exact": "off"})
    with pytest.raises(OptionError, match="every candidate is switched off"):
        every = [candidate.name for candidate in int8().candidates]
        int8().with_stages(dict.fromkeys(every, False))


def test_a_name_of_a_stage_and_of_a_candidate_is_the_stage():
    target = load_target("cpu-fp32").with_stages({"exact": False})
    assert target.stage_text() == ""
    assert [item.name for item in target.enabled_candidates()] == ["exact", "fused"]


def test_with_threads():
    assert int8().with_threads(4).session_options().threads == 4
    with pytest.raises(OptionError):
        int8().with_threads(-1)
