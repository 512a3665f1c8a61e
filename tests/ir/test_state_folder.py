"""States of a model that the runtime loads: each weight is written once, or stays where it is."""

import gc
import os
import sys
import weakref
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt import ir as gir
from graphopt.errors import OutputError
from graphopt.ir import StateFolder
from graphopt.pipeline import numerics
from graphopt.pipeline.numerics import NumericJudge
from graphopt.rewrite import Exact
from graphopt.runtime import SessionOptions, shared_worker
from graphopt.runtime.hosted_session import HostedSession


def model_with_weights():
    model = gir.from_text("(float[N,64] x) => (float[N,64] z) { z = Relu(x) }")
    rng = np.random.default_rng(0)
    relu, source = model.graph[0], model.graph.inputs[0]
    for name in ("first", "second"):
        tensor = ir.tensor(rng.standard_normal((64, 64), dtype=np.float32), name=name)
        value = ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor
        )
        model.graph.register_initializer(value)
        node = ir.Node("", "MatMul", [source, value])
        model.graph.insert_before(relu, node)
        source = node.outputs[0]
    relu.replace_input_with(0, source)
    return model


@pytest.fixture(params=[False, True], ids=["inline", "external"])
def loaded(request, tmp_path):
    gir.save(model_with_weights(), tmp_path / "m.onnx", external_data=request.param)
    return gir.load(tmp_path / "m.onnx")


def outputs(path, **options):
    feed = {"x": np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64)}
    with shared_worker().load(path, SessionOptions(**options)) as session:
        return session.run(feed)["z"]


def state_outputs(path):
    return outputs(path, is_rooted=True)


def _copied_bytes(state):
    return sum(file.stat().st_size for file in state.parent.glob("weights-*"))


def test_states_compute_what_the_model_computes(loaded, tmp_path):
    expected = outputs(tmp_path / "m.onnx")
    folder = StateFolder()
    for _ in range(2):
        with folder.written(loaded) as path:
            np.testing.assert_array_equal(state_outputs(path), expected)
        assert not path.exists()


def test_only_new_weights_are_written_for_another_state(loaded, tmp_path):
    folder = StateFolder()
    sizes = []
    weights = loaded.graph.initializers
    for _ in range(3):
        with folder.written(loaded) as path:
            sizes.append(_copied_bytes(path))
        changed = ir.tensor(np.ones((64, 64), np.float32), name="first")
        weights["first"].const_value = changed
    is_linked = len(gir.external_files(gir.load(tmp_path / "m.onnx"))) > 0
    before = 0 if is_linked else 2 * 64 * 64 * 4
    assert sizes == [before, before + 64 * 64 * 4, before + 64 * 64 * 4]


def test_weights_of_states_that_are_gone_go_where_they_are_many(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr("graphopt.ir.state_folder._MOST_BYTES", 64)
    expected = outputs(tmp_path / "m.onnx")
    folder, weights = StateFolder(), loaded.graph.initializers
    with folder.written(loaded) as first:
        weights["second"].const_value = ir.tensor(np.zeros((64, 64), np.float32), name="second")
        with folder.written(loaded):
            pass
        # Of a state that is still there nothing went.
        np.testing.assert_array_equal(state_outputs(first), expected)
    with folder.written(loaded) as path:
        (kept,) = path.parent.glob("weights-*")
        assert kept.stat().st_size <= 2 * 64 * 64 * 4
        assert not np.array_equal(state_outputs(path), expected)


def test_a_file_that_another_has_replaced_is_not_read(tmp_path):
    gir.save(model_with_weights(), tmp_path / "m.onnx", external_data="w.data")
    model = gir.load(tmp_path / "m.onnx")
    expected = outputs(tmp_path / "m.onnx")
    (tmp_path / "w.data").rename(tmp_path / "old")
    (tmp_path / "w.data").write_bytes(bytes(2 * 64 * 64 * 4))
    folder = StateFolder()
    with folder.written(model) as path:
        np.testing.assert_array_equal(state_outputs(path), expected)


def test_files_of_the_model_have_no_second_name(tmp_path):
    """Of one that has, `onnx` says that it may be an attack: other programs could not load it."""
    path = tmp_path / "m.onnx"
    gir.save(model_with_weights(), path, external_data="w.data")
    model = gir.load(path)
    with StateFolder().written(model) as state:
        assert not _copied_bytes(state)
        assert (tmp_path / "w.data").stat().st_nlink == 1
        onnx.load(path)


def test_weights_are_found_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "real ü").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "real ü")
    (tmp_path / "here").mkdir()
    gir.save(model_with_weights(), tmp_path / "linked" / "m.onnx", external_data="w.data")
    expected = outputs(tmp_path / "linked" / "m.onnx")
    monkeypatch.chdir(tmp_path / "here")
    model = gir.load(Path("../linked/m.onnx"))
    with StateFolder().written(model) as path:
        np.testing.assert_array_equal(state_outputs(path), expected)
        assert not _copied_bytes(path)


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_weights_in_a_folder_whose_name_is_no_text_are_copied(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    model = model_with_weights()
    # In the model's own file, and where pages begin.
    for size in range(4096):
        model.doc_string = "-" * size
        gir.save(model, folder / "m.onnx")
        loaded = gir.load(folder / "m.onnx")
        weights = [value.const_value for value in loaded.graph.initializers.values()]
        if any(weight.offset % 4096 == 0 for weight in weights):
            break
    gir.save(model, tmp_path / "m.onnx")
    with StateFolder().written(loaded) as path:
        np.testing.assert_array_equal(state_outputs(path), outputs(tmp_path / "m.onnx"))
        assert _copied_bytes(path) == 2 * 64 * 64 * 4


def test_temporary_files_may_lie_in_the_current_folder(loaded, tmp_path, monkeypatch):
    expected = outputs(tmp_path / "m.onnx")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", "here")
    with StateFolder().written(loaded) as path:
        np.testing.assert_array_equal(state_outputs(path), expected)


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_a_temporary_folder_whose_name_is_no_text_is_refused(loaded, tmp_path, monkeypatch):
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with pytest.raises(OutputError, match="UTF-8"), StateFolder().written(loaded):
        pass
    gc.collect()
    assert not list(folder.iterdir())


@pytest.mark.parametrize("name", ["m.onnx", "m.rooted.onnx"])
def test_weights_of_no_other_file_are_looked_for_from_the_root(tmp_path, name):
    gir.save(model_with_weights(), tmp_path / "inline.onnx")
    gir.save(model_with_weights(), tmp_path / name, external_data="w.data")
    np.testing.assert_array_equal(outputs(tmp_path / name), outputs(tmp_path / "inline.onnx"))


def test_a_session_does_not_hold_the_file_of_a_state(loaded):
    options = {**SessionOptions(is_rooted=True).to_json(), "profile_prefix": None}
    with StateFolder().written(loaded) as path:
        session = HostedSession(str(path), options)
    held = vars(session._session).values()
    assert not [item for item in held if isinstance(item, bytes)]


def test_the_folder_goes_with_its_owner(loaded):
    folder = StateFolder()
    with folder.written(loaded) as path:
        parent = path.parent
    assert parent.exists()
    del folder
    gc.collect()
    assert not parent.exists()


def test_notes_of_exporters_are_left_out_and_the_model_is_not_held(tmp_path):
    model = gir.from_text(
        """(float[N] x, bool c) => (float[N] z) {
             y = If(c) <then_branch = g () => (float[N] a) { a = Relu(x) },
                        else_branch = g () => (float[N] b) { b = Neg(x) }>
             z = Abs(y)
           }"""
    )
    nodes = list(model.graph.all_nodes())
    assert len(nodes) == 4
    for node in nodes:
        node.metadata_props["stack"] = "a line of source"
        node.doc_string = "a note"
    copy = gir.clone(model)
    alive = weakref.ref(copy)
    folder = StateFolder()
    with folder.written(copy) as path:
        del copy
        gc.collect()
        assert alive() is None
        written = list(gir.load(path).graph.all_nodes())
        assert not any(node.metadata_props or node.doc_string for node in written)
        assert [node.op_type for node in written] == [node.op_type for node in nodes]
    assert all(node.metadata_props and node.doc_string for node in nodes)


def test_the_judge_finds_a_changed_weight_of_a_large_model(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(numerics, "SENT_WEIGHT_BYTES", 0)
    judge = NumericJudge(tmp_path / "m.onnx")
    judge.check(loaded, Exact())
    changed = loaded.graph.initializers["first"].const_value.numpy().copy()
    changed[3, 3] += 1
    loaded.graph.initializers["first"].const_value = ir.tensor(changed, name="first")
    with pytest.raises(numerics.NumericMismatch):
        judge.check(loaded, Exact())
