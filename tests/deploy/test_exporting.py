"""From a framework to a verified file; what needs torch is skipped where it is not installed."""

import json
import os
import pickle
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from export_interpreter import export_interpreter

from graphopt import api
from graphopt.api.exporting import name_of_source
from graphopt.deploy.exporting import parse_source
from graphopt.errors import InputError, NumericMismatch, OptionError, OutputError, UsageError
from graphopt.report import ExportReport, SizesCompared
from graphopt.verification import compare_outputs

FACTORIES = """
import os
import signal
import sys
import time
import torch

class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.layer = torch.nn.Embedding(50, 8), torch.nn.Linear(8, 4)
        self.noise = torch.nn.Dropout(0.5)  # off once the module is told to evaluate

    def forward(self, ids, mask):
        rows = self.noise(self.table(ids)) * mask[..., None]
        return torch.softmax(self.layer(rows), -1), rows.sum(1)

class Branch(torch.nn.Module):
    def forward(self, x):
        return x + 1 if x.sum() > 0 else x - 1

class Wrong(torch.nn.Module):
    def forward(self, x):  # what a trace cannot see
        return x * len(x.tolist())

def encoder():
    axes = {0: "batch", 1: "sequence"}
    return Encoder(), (torch.randint(0, 50, (2, 5)), torch.ones(2, 5)), {"ids": axes, "mask": axes}

def branch():
    return Branch(), (torch.ones(3),), {"x": {0: "n"}}

def wrong():
    return Wrong(), (torch.ones(3),), {"x": {0: "n"}}

def named():
    found = dict(zip(("module", "args", "dynamic_shapes"), encoder()))
    return found | {"input_names": ["a", "b"], "output_names": ["p", "q"]}

def raises():
    raise ValueError("no weights here")

def loud():
    sys.stdout.write("x" * 20_000_000)
    sys.stderr.write("y" * 20_000_000)
    return 3

def loud_and_wrong():
    sys.stderr.write("y" * 20_000_000)
    raise ValueError("no weights here")

def dies():
    os.kill(os.getpid(), signal.SIGKILL)

def leaves():
    os._exit(0)

def never():
    time.sleep(1000)

def forks():
    if os.fork() == 0:  # a child that outlives it, in a session of its own, and holds standard error
        os.setsid()
        time.sleep(1000)
    raise ValueError("after a fork")

def closes():
    os.close(1), os.close(2)
    raise ValueError("all is closed")

def lingers():
    import atexit, tempfile, threading
    open(os.path.join(tempfile.gettempdir(), "left-behind"), "w").close()
    open("left-here", "w").close()
    atexit.register(time.sleep, 1000)
    threading.Thread(target=time.sleep, args=(1000,)).start()
    return encoder()

def forges():
    out = sys.argv[3] if len(sys.argv) > 3 else sys.argv[-2]
    with open(out + ".json", "w") as file:
        file.write('{"exporter": "dynamo", "file": "/etc/hostname", "failures": {}, "doubts": [],'
                   '"names": {}, "origin": {}, "versions": {}}')
    os._exit(0)
"""


def export(source, output, **options):
    """Export by the Python of `make test-export`, or by this one."""
    return api.export(source, output, interpreter=export_interpreter(), **options)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "factories.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_a_factory_is_exported_and_compared_at_three_sizes(folder, exporter):
    report = export("torch:factories:encoder", folder / "out", exporter=exporter)
    assert report.exporter == exporter
    assert [case.shapes["ids"] for case in report.cases] == [(2, 5), (3, 6), (5, 8)]
    assert report.largest_difference() <= 1e-6
    proto = onnx.load(folder / "out" / "model.onnx")
    said = {item.key: item.value for item in proto.metadata_props}
    assert said["graphopt.source"] == "torch:factories:encoder"
    assert said["graphopt.exporter"] == exporter
    assert str(folder) not in str(said)
    assert {item.name for item in (folder / "out").iterdir()} == {"model.onnx"}
    assert json.loads(json.dumps(report.to_dict()))["exporter"] == exporter


def test_names_are_those_that_the_factory_gives(folder):
    export("torch:factories:named", folder / "out")
    graph = onnx.load(folder / "out" / "model.onnx").graph
    assert [value.name for value in graph.input] == ["a", "b"]
    assert [value.name for value in graph.output] == ["p", "q"]


def test_where_one_exporter_fails_the_other_is_tried_and_what_it_doubts_is_told(folder):
    report = export("torch:factories:branch", folder / "out")
    assert report.exporter == "torchscript"
    assert "data-dependent" in report.failures["dynamo"]
    assert any("Python boolean" in said for said in report.doubts)
    assert "dynamo failed" in str(report)


def test_a_file_that_computes_something_else_is_not_written(folder):
    with pytest.raises(NumericMismatch, match="does not compute"):
        export("torch:factories:wrong", folder / "out", exporter="torchscript")
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("target", "versions"),
    [("edge-arm64", (19, 9)), ("web-wasm-int8", (20, 10)), ("cpu-int8", (20, 10))],
)
def test_the_opset_is_one_that_the_target_loads(folder, target, versions):
    report = export("torch:factories:encoder", folder / "out", target=target)
    assert (report.exporter, report.opset, report.ir_version) == ("dynamo", *versions)
    proto = onnx.load(folder / "out" / "model.onnx")
    assert (
        {one.domain: one.version for one in proto.opset_import}[""],
        proto.ir_version,
    ) == versions
    assert f"opset {versions[0]}" in str(report)


def test_an_exporter_that_writes_another_opset_than_asked_for_gives_way(folder):
    with pytest.raises(InputError) as caught:  # with PyTorch 2.13 it leaves 18, and says no word
        export("torch:factories:encoder", folder / "out", opset=9, exporter="dynamo")
    assert "the file has opset 18, and 9 was asked for" in caught.value.why
    assert not (folder / "out").exists()
    report = export("torch:factories:encoder", folder / "out", opset=9)
    assert (report.exporter, report.opset) == ("torchscript", 9)
    assert "9 was asked for" in report.failures["dynamo"]


def test_optimize_exports_at_the_opset_of_its_target(folder):
    settings = {"target": "edge-arm64", "interpreter": export_interpreter()}
    made = api.optimize("torch:factories:encoder", latency_budget_s=None, **settings)
    proto = onnx.load(made.bundle.model_path)
    assert {one.domain: one.version for one in proto.opset_import}[""] == 19
    assert proto.ir_version <= 9
    names = [entry.name for entry in made.report.passes if entry.edits]
    assert "lower-opset" not in names  # nothing was left to lower
    plan = api.plan("torch:factories:encoder", **settings)
    assert plan.source == "torch:factories:encoder"


@pytest.mark.parametrize(
    ("factory", "why"),
    [
        ("raises", "ValueError: no weights here"),
        ("loud", "the factory returned `int`"),
        ("loud_and_wrong", "ValueError: no weights here"),
        ("dies", "ended by SIGKILL"),
        ("leaves", "left no record"),
        ("forks", "ValueError: after a fork"),
        ("closes", "ValueError: all is closed"),
        ("forges", "names a file elsewhere"),
        ("nothing", "no function `nothing`"),
    ],
)
def test_a_factory_that_fails_is_told_and_leaves_nothing(folder, factory, why):
    with pytest.raises(InputError) as caught:
        export(f"torch:factories:{factory}", folder / "out")
    assert why in caught.value.why
    assert {item.name for item in folder.iterdir()} - {"__pycache__"} == {"factories.py"}


def test_threads_and_exit_functions_are_not_waited_for_and_what_it_leaves_is_removed(folder):
    before = set(Path(tempfile.gettempdir()).iterdir())
    report = export("torch:factories:lingers", folder / "out", exporter="torchscript")
    assert report.largest_difference() <= 1e-6
    assert {item.name for item in folder.iterdir()} - {"__pycache__"} == {"factories.py", "out"}
    new = {item.name for item in set(Path(tempfile.gettempdir()).iterdir()) - before}
    assert "left-behind" not in new


def test_a_factory_that_never_returns_is_ended(folder):
    export("torch:factories:encoder", folder / "out")  # skips where torch is not installed
    with pytest.raises(InputError, match="took more than 9 s"):
        export("torch:factories:never", folder / "never", timeout_s=9.0)


def test_optimize_takes_what_export_takes(folder):
    made = api.optimize(
        "torch:factories:encoder",
        target="cpu-fp32",
        interpreter=export_interpreter(),
        latency_budget_s=None,
    )
    assert made.report.gates_met
    feeds = {"ids": np.zeros((1, 3), np.int64), "mask": np.ones((1, 3), np.float32)}
    assert set(feeds) == {value.name for value in onnx.load(made.bundle.model_path).graph.input}


# -- without torch -------------------------------------------------------------------------------


def test_sources_are_told_from_paths():
    assert parse_source("model.onnx") is None
    assert parse_source("torch:") is None
    assert str(parse_source("torch:a.b:c")) == "torch:a.b:c"
    assert parse_source("hf:/models/mini@fill-mask").kind == "hf"
    assert parse_source("program.pt2").kind == "pt2"
    names = ["torch:a.b:make", "hf:/m/mini@fill-mask", "sklearn:x/forest.pkl", "x/a.pt2", "b.onnx"]
    assert [name_of_source(name) for name in names] == ["make", "mini", "forest", "a", "b"]
    # Else two files would be one bundle: en:model.onnx and de:model.onnx.
    names = ["en:model.onnx", "x:1/model.onnx", "en:program.pt2"]
    assert [name_of_source(name) for name in names] == ["en:model", "model", "en:program"]


def test_a_folder_may_have_an_at_sign_in_its_name(folder):
    (folder / "mini@2").mkdir()
    for task in ("", "@fill-mask"):
        text = f"hf:{folder}/mini@2{task}"
        assert name_of_source(text) == "mini@2"
        assert parse_source(text).path == f"{folder}/mini@2"
    with pytest.raises(InputError) as caught:  # the process that loads it finds the same folder
        export(f"hf:{folder}/mini@2@fill-mask", folder / "out")
    assert "holds no `config.json`" in caught.value.why


def test_pickles_are_not_loaded_untrusted(folder):
    bomb = folder / "bomb.pkl"
    bomb.write_bytes(pickle.dumps(Bomb(str(folder / "exploded"))))
    for source in (f"sklearn:{bomb}", str(bomb.rename(folder / "bomb.pt2"))):
        with pytest.raises(UsageError, match="is pickled"):
            export(source, folder / "out")
    assert not (folder / "exploded").exists()


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_folder_of_hugging_face_that_is_not_what_it_should_be_is_told(folder):
    def told(name):
        with pytest.raises(InputError) as caught:
            export(f"hf:{folder / name}", folder / "out")
        return caught.value.why

    for name in ("empty", "pickled", "linked", "unknown", "deep", "piped"):
        (folder / name).mkdir()
    (folder / "deep" / "config.json").write_text("[" * 200_000)
    os.mkfifo(folder / "piped" / "config.json")
    assert "RecursionError" in told("deep")
    assert "holds no `config.json`" in told("piped")
    for name in ("pickled", "linked", "unknown"):
        (folder / name / "config.json").write_text("{}")
    (folder / "pickled" / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb("exploded")))
    (folder / "linked" / "vocab.txt").symlink_to("/etc/hostname")
    assert "holds no `config.json`" in told("empty")
    assert "pickled" in told("pickled")
    assert "leads out of the folder" in told("linked")
    assert "unknown task" in told("unknown@guess-my-mind")
    assert not list(folder.rglob("exploded"))


def test_an_opset_that_the_target_does_not_take_is_told_before_any_work(folder):
    with pytest.raises(OptionError, match="opset 20 is newer than `edge-arm64` takes"):
        export("torch:factories:encoder", folder / "out", opset=20, target="edge-arm64")


def test_what_is_no_source_or_not_there_is_told(folder):
    with pytest.raises(UsageError, match="names nothing to export"):
        export("model.onnx", folder / "out")
    with pytest.raises(InputError, match="does not exist"):
        export("hf:nowhere", folder / "out")
    (folder / "out").mkdir()
    (folder / "out" / "model.onnx").touch()
    with pytest.raises(OutputError, match="exists"):
        export("torch:factories:encoder", folder / "out")


def test_of_many_outputs_the_first_and_the_worst_are_told(tmp_path):
    wanted = {name: np.ones(2) for name in ("logits", *map(str, range(9)))}
    outputs = compare_outputs(wanted, {**wanted, "7": np.float64([1.0, 1.5])})
    case = SizesCompared(shapes={f"past.{number}": (2, 3) for number in range(9)}, outputs=outputs)
    nothing = {"failures": {}, "origin": {}, "versions": {}, "doubts": ()}
    report = ExportReport(source="a", path=tmp_path, exporter="dynamo", cases=(case,), **nothing)
    rows = [line for line in str(report).splitlines() if line.startswith("past")]
    assert ["past.3[2,3], 5 more  logits" in rows[0], "7, worst of 9" in rows[1]] == [True, True]
    assert len(rows) == 2
    assert len(report.to_dict()["cases"][0]["outputs"]) == 10
    assert len(report.faults(1e-4)) == 1
