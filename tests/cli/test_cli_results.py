"""Results that no snapshot can hold: machine-readable ones, this machine's, and failures of a pass."""

import json

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt import api
from graphopt.cli import doctor_command
from graphopt.cli.main import main
from graphopt.errors import WorkerCrash
from graphopt.passes.eliminate_identities import EliminateIdentities
from graphopt.report import result_schema


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["x"], ["same"], "identity"),
            helper.make_node("Add", ["same", "zeros"], ["y"], "add"),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 256])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 256])],
        [numpy_helper.from_array(np.zeros(256, np.float32), "zeros")],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), "model.onnx")
    return "model.onnx"


def document(capfd, *words, status=0):
    assert main([*words, "--json"]) == status
    output = capfd.readouterr()
    assert output.err == ""
    found = json.loads(output.out, parse_constant=pytest.fail)
    assert found["schema_version"] == 1
    return found


def test_optimize_keeps_its_schema(model, capfd):
    words = ["optimize", model, "--target", "cpu-fp32", "--latency", "off"]
    found = document(capfd, *words)
    jsonschema.validate(found, result_schema())
    assert found["nodes"] == {"before": 2, "after": 1}
    assert main(["optimize", "--json-schema"]) == 0
    assert json.loads(capfd.readouterr().out) == result_schema()


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["inspect", "model.onnx"], "operators"),
        (["verify", "model.onnx", "model.onnx"], "verdict"),
        (["bench", "model.onnx", "model.onnx", "--budget", "0.2"], "verdict"),
        (["passes"], "passes"),
        (["targets"], "targets"),
        (["targets", "show", "cpu-int8"], "target"),
        (["explain", "fold-constants"], "pass"),
        (["explain", "G101"], "text"),
        (["explain", "model.onnx", "--pass", "fold-constants"], "refusals"),
        (["doctor"], "providers"),
        (["demo", "--files", "demo"], "files"),
        (["run", "model.onnx", "-p", "fold-constants", "-o", "out.onnx"], "journal"),
        (["optimize", "model.onnx", "--target", "cpu-int8", "--dry-run"], "candidates"),
    ],
)
def test_every_command_has_a_json_form(model, capfd, words, key):
    assert key in document(capfd, *words)


def test_a_dry_run_says_that_it_plans_one_variant_of_several(model, capfd):
    words = ["optimize", model, "--target", "cpu-fp32", "--dry-run", "--dims", "N=1"]
    assert document(capfd, *words)["notes"] == []
    (note,) = document(capfd, *words, "--dims", "N=4", "--dims", "N=8")["notes"]
    assert note == "this is the plan for `N=1`: `N=4` and `N=8` go through the same recipes"


def test_validate_as_json(model, tmp_path, capfd):
    assert main(["optimize", model, "--target", "cpu-fp32", "--latency", "off", "-o", "out"]) == 0
    capfd.readouterr()
    assert document(capfd, "validate", "out")["status"] == "ok"
    with (tmp_path / "out" / "model.onnx").open("ab") as file:
        file.write(b"\0")
    assert document(capfd, "validate", "out", status=2)["status"] == "broken"


def test_two_runs_write_the_same_bytes(model, tmp_path):
    for name in ("one.onnx", "two.onnx"):
        assert main(["run", model, "--pipeline", "@exact", "-o", name]) == 0
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


def test_output_is_replaced_only_with_force(model, tmp_path, capfd):
    (tmp_path / "out.onnx").write_bytes(b"old")
    words = ["run", model, "-p", "eliminate-identities", "-o", "out.onnx"]
    assert main(words) == 2
    assert (tmp_path / "out.onnx").read_bytes() == b"old"
    assert main([*words, "--force"]) == 0
    assert (tmp_path / "out.onnx").read_bytes() != b"old"


def test_failed_pass_exits_3_with_a_reproducer(model, tmp_path, monkeypatch, capfd):
    def fail(*_):
        raise ValueError("no idea")

    with monkeypatch.context() as patch:
        patch.setattr(EliminateIdentities, "run", fail)
        assert main(["run", model, "-p", "eliminate-identities", "-o", "out.onnx"]) == 3
        error = capfd.readouterr().err
        (folder,) = tmp_path.glob("graphopt-repro-*")
        assert error.startswith("error[G4")
        assert folder.name in error
        assert not (tmp_path / "out.onnx").exists()
        assert main(["reproduce", folder.name]) == 1
        assert "it fails again" in capfd.readouterr().out
    assert main(["reproduce", folder.name]) == 0
    assert "it does not fail any more" in capfd.readouterr().out


def test_samples_and_metric_come_from_a_function(model, tmp_path, monkeypatch, capfd):
    (tmp_path / "mine_7f3a.py").write_text(
        "import numpy as np\n"
        "def samples():\n    return [{'x': np.ones((2, 256), np.float32)}]\n"
        "def total(predict):\n    return float(predict(samples()[0])['y'].sum())\n"
    )
    words = ["optimize", model, "--target", "cpu-fp32", "--latency", "off"]
    found = document(
        capfd, *words, "--calibration", "mine_7f3a:samples", "--eval", "mine_7f3a:total"
    )
    assert found["samples_are_real"] is True
    assert found["metric"]["before"] == found["metric"]["after"] == 512.0


def test_doctor_warns_where_a_single_core_hides_the_fast_kernels(monkeypatch, capsys):
    monkeypatch.setattr("graphopt.runtime.usable_cores", lambda: 1, raising=False)
    monkeypatch.setattr("graphopt.runtime.cpu_features", lambda: {"amx_int8"}, raising=False)
    assert main(["doctor"]) == 0
    assert "held to one core, onnxruntime uses no AMX" in capsys.readouterr().out


def test_doctor_names_what_is_wrong(monkeypatch, capsys):
    def crash():
        raise WorkerCrash("the runtime crashed")

    monkeypatch.setattr("graphopt.runtime.runtime_version", crash)
    monkeypatch.setitem(doctor_command.EXTRAS, "demo", (("no_such_module",), "do a thing"))
    assert main(["doctor"]) == 1
    output = capsys.readouterr().out
    assert "does not start: the runtime crashed" in output
    assert "missing no_such_module: to do a thing" in output


def test_demo_copies_its_files(tmp_path, capsys):
    assert main(["demo", "--files", str(tmp_path / "digits")]) == 0
    names = [line.rsplit("/", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert sorted(names) == ["calibration.npz", "evaluation.npz", "model.onnx"]
    assert "__labels__" in np.load(tmp_path / "digits" / "evaluation.npz")


@pytest.mark.parametrize("is_kept", [False, True])
def test_demo_names_no_folder_that_is_gone(tmp_path, monkeypatch, capfd, is_kept):
    def quick(source, *, output, **_given):
        return optimize(source, target="cpu-fp32", output=output, latency_budget_s=None)

    optimize = api.optimize
    monkeypatch.setattr(api, "optimize", quick)
    kept = tmp_path / "kept"
    assert main(["demo", *(["-o", str(kept)] if is_kept else [])]) == 0
    text = capfd.readouterr().out
    assert ("Nothing was kept" in text) is not is_kept
    assert "graphopt-scratch" not in text
    assert (f"-> {kept}\n" in text) is is_kept
    assert kept.exists() is is_kept
    found = document(capfd, "demo", *(["-o", str(tmp_path / "again")] if is_kept else []))
    assert (found["optimize"]["output"] is None) is not is_kept


@pytest.mark.parametrize(
    "beside", [["--device", "adb://x"], ["--fleet", "f.toml"], ["--reference", "model.onnx"]]
)
def test_what_another_runtime_does_not_check_is_not_left_out_in_silence(model, capfd, beside):
    assert main(["validate", "bundle", "--runtime", "1.20.1", *beside]) == 2
    assert f"`--runtime` does not go with `{beside[0]}`" in capfd.readouterr().err
