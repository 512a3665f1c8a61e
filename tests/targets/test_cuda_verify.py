"""What `benchmarks/cuda/verify.py` does on a GPU, with the CPU's provider in its place."""

import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from graphopt.ir import from_text, load, save
from graphopt.runtime import SessionOptions

FOLDER = Path(__file__).parents[2] / "benchmarks/cuda"

TARGET = """
name = "%(name)s"
summary = "the CPU in the place of a GPU"
extends = "%(name)s"

[[runtime.providers]]
name = "CPUExecutionProvider"

[gates]
max_latency_ratio = false
max_partitions = false
max_share_off_accelerator = false
"""

TEXT = """
<ir_version: 9, opset_import: ["" : 20]>
net (float[batch, 64] x) => (float[batch, 64] y) <float[64, 64] w = {%s}>
{ product = MatMul(x, w) z = Relu(product) p = MatMul(z, w) y = Relu(p) }
"""


@pytest.fixture(scope="module")
def benchmark():
    if not FOLDER.is_dir():
        pytest.skip("the benchmarks are not here")
    before = list(sys.path)
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("verify"), importlib.import_module("points")
    finally:
        sys.path[:] = before
        for name in ("verify", "points", "static", "feeds"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A model with its spec, and the targets as files that run on the CPU."""
    folder = tmp_path_factory.mktemp("cuda")
    weights = np.random.default_rng(0).standard_normal(64 * 64) / 8
    (folder / "zoo/net").mkdir(parents=True)
    text = TEXT % ", ".join(f"{one:.4f}" for one in weights)
    save(from_text(text), folder / "zoo/net/model.onnx")
    entry = ["x", {"dtype": "float32", "dims": ["batch", 64], "gen": {"kind": "randn"}}]
    spec = {"dims": {"batch": 1}, "inputs": [entry], "outputs": ["y"]}
    (folder / "zoo/net/spec.json").write_text(json.dumps(spec))
    for name in ("cuda-fp16", "cuda-fp32"):
        (folder / f"{name}.toml").write_text(TARGET % {"name": name})
    return folder


@pytest.fixture
def run(benchmark, here, monkeypatch, capsys, tmp_path):
    """Run the command; return its status, what it printed, its records and its page."""
    verify, _ = benchmark

    def call(*words, rounds=3):
        page, out = tmp_path / "page.md", tmp_path / "out.json"
        page.write_text(f"before\n{verify.BEGIN}\nold\n{verify.END}\nafter\n")
        given = ["verify.py", "--work", tmp_path, "--zoo", here / "zoo", "--models", "net"]
        given += ["--out", out, "--table", page, "--latency", 0.2, "--rounds", rounds, *words]
        monkeypatch.setattr(sys, "argv", list(map(str, given)))
        status = verify.main()
        records = json.loads(out.read_text()) if out.is_file() else []
        return status, capsys.readouterr().out, records, page.read_text()

    return call


def as_if(here):
    """The options that put the CPU in the place of the GPU."""
    return ["--target", here / "cuda-fp16.toml", "--reference", here / "cuda-fp32.toml"]


def verdicts(printed):
    return {line.split(": ")[1]: line.split()[0] for line in printed.splitlines()}


def test_without_the_provider_what_takes_a_gpu_is_open(run):
    status, printed, records, page = run()
    assert status == 4
    assert set(verdicts(printed).values()) == {"OPEN"}
    assert not records[0]["verified"]
    assert "loaded" not in records[0]
    assert "old" not in page
    assert page.count("| OPEN |") == len(verdicts(printed)) == 5


def test_with_it_all_of_it_runs_and_32_bits_in_the_loaded_graph_are_found(
    run, here, benchmark, monkeypatch
):
    """The CPU has no 16-bit product: the runtime puts an island in, which must be found."""
    monkeypatch.setattr(benchmark[0], "latency", lambda *_: {"float16": 1, "float32": 2, "tf32": 2})
    status, printed, records, _ = run(*as_if(here))
    assert status == 1
    found = verdicts(printed)
    assert found.pop("no islands in 32-bit floats") == "FAIL"
    assert set(found.values()) == {"PASS"}
    assert "as loaded: " in printed
    assert "products in 32-bit floats" in printed
    assert records[0]["placement"]["provider"] == "CPUExecutionProvider"
    assert not records[0]["placement"]["is_estimate"]


def test_times_are_taken_by_turns_of_both_references_at_both_batches(run, here):
    _, printed, records, _ = run(*as_if(here), "--batch", 2)
    times = records[0]["milliseconds_by_batch"]
    assert {batch: set(found) for batch, found in times.items()} == {
        batch: {"float16", "float32", "tf32"} for batch in ("2", "8")
    }
    assert all(value > 0 for found in times.values() for value in found.values())
    assert records[0]["latency_ratio"] == times["2"]["float16"] / times["2"]["float32"]
    assert "batch 2: " in printed


def test_only_the_reference_of_the_gpu_loses_bits(benchmark):
    options = SessionOptions(
        providers=(("CUDAExecutionProvider", {"a": "1"}), ("CPUExecutionProvider", {}))
    )
    made = benchmark[0].strict_and_fast(options)
    assert {name: one.providers[0][1] for name, one in made.items()} == {
        "float32": {"a": "1", "use_tf32": "0"},
        "tf32": {"a": "1", "use_tf32": "1"},
    }
    assert all(one.providers[1] == ("CPUExecutionProvider", {}) for one in made.values())


def test_copies_that_the_runtime_inserted_are_counted(benchmark, tmp_path):
    """The form in which the runtime writes them, between the nodes of a loaded graph."""
    text = """
        <ir_version: 9, opset_import: ["" : 20]>
        net (float16[batch, 4] x) => (float16[batch, 4] y)
        { a = Relu(x) b = MemcpyToHost(a) c = Relu(b) d = MemcpyFromHost(c) y = Relu(d) }
    """
    save(from_text(text), tmp_path / "loaded.onnx")
    assert len(load(tmp_path / "loaded.onnx").graph) == 5
    assert benchmark[0].look_at(tmp_path / "loaded.onnx")[0].copies == 2


@pytest.fixture
def good(benchmark):
    """A record as of a GPU on which everything holds."""
    nothing = asdict(benchmark[0].Findings())
    gate = {"name": "min_cosine", "kind": "correctness", "limit": 0.999, "value": 0.9999,
            "passed": True, "status": "passed", "reason": None}  # fmt: skip
    times = {"float16": 0.5, "float32": 1.0, "tf32": 0.8}
    return {
        "model": "net", "machine": "a GPU", "versions": {"onnxruntime": "1.32.0"}, "nodes": 3,
        "verified": True, "not_verified": None, "chosen": "half", "size_ratio": 0.5, "batch": 1,
        "gates": [gate, gate | {"name": "max_partitions", "kind": "goal", "value": 1, "limit": 3}],
        "placement": {"copies": 0, "is_estimate": False, "operators_off": {"Shape": 1}},
        "static": nothing, "loaded": nothing, "latency_ratio": 0.5,
        "milliseconds_by_batch": {"1": times, "8": times},
    }  # fmt: skip


def test_a_record_on_which_everything_holds(benchmark, good):
    verify, points = benchmark
    assert {point.verdict for point in points.points_of(good)} == {"PASS"}
    assert verify.status_of([good]) == 0
    assert points.table_text([good]).count("| PASS |") == 5


def gate_failed(record, kind):
    for gate in record["gates"]:
        gate["passed"] = gate["passed"] and gate["kind"] != kind


BREAK = {
    "correctness": (0, lambda record: gate_failed(record, "correctness")),
    "island": (1, lambda record: record["loaded"].update(islands=[["Relu"]])),
    "product": (1, lambda record: record["static"].update(products=["MatMul"])),
    "inserted": (2, lambda record: record["loaded"].update(copies=1)),
    "placed": (2, lambda record: record["placement"].update(copies=2)),
    "data": (2, lambda record: record["static"].update(crossings=["mask"])),
    "slow": (3, lambda record: record.update(latency_ratio=0.551)),
    "no time": (3, lambda record: record.update(latency_ratio=float("nan"))),
    "goal": (4, lambda record: gate_failed(record, "goal")),
}


@pytest.mark.parametrize("kind", BREAK)
def test_each_broken_promise_fails_its_point_alone(benchmark, good, kind):
    verify, points = benchmark
    place, change = BREAK[kind]
    record = json.loads(json.dumps(good))
    change(record)
    found = [point.verdict for point in points.points_of(record)]
    assert found == ["FAIL" if at == place else "PASS" for at in range(5)]
    assert verify.status_of([good, record]) == 1


def test_a_model_that_cannot_be_had_ends_with_2(benchmark, monkeypatch, tmp_path, capsys):
    words = ["--work", tmp_path, "--models", "nothing", "--torch", sys.executable]
    monkeypatch.setattr(sys, "argv", list(map(str, ["verify.py", *words])))
    assert benchmark[0].main() == 2
    assert "models.py" in capsys.readouterr().err
