"""Reading and writing models: what is refused, what is kept, what is atomic."""

import os
import shutil
import sys

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt import ir as gir
from graphopt.errors import (
    ExternalDataError,
    InvalidModelError,
    ModelLoadError,
    OutputError,
    UnsupportedModelError,
)
from graphopt.ir.file_tensor import SourceFile

TEXT = '<ir_version: 10, opset_import: ["" : 20]> g (float[N] x) => (float[N] z) { z = Relu(x) }'


def model_with_weights(size=2048):
    """A model with two weights above the threshold for external data."""
    model = gir.from_text(f"(float[N,{size}] x) => (float[N,{size}] z) {{ z = Relu(x) }}")
    for name in ("first", "second"):
        tensor = ir.tensor(np.arange(size, dtype=np.float32), name=name)
        value = ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor
        )
        model.graph.register_initializer(value)
    add = ir.Node("", "Add", [model.graph.inputs[0], model.graph.initializers["first"]])
    sub = ir.Node("", "Sub", [add.outputs[0], model.graph.initializers["second"]])
    relu = model.graph[0]
    model.graph.insert_before(relu, [add, sub])
    relu.replace_input_with(0, sub.outputs[0])
    return model


@pytest.fixture
def external(tmp_path):
    """A saved model with external data, and its data file."""
    return gir.save(model_with_weights(), tmp_path / "m.onnx", external_data="m.data")


def edit_external_entry(path, key, value, tensor=0):
    proto = onnx.load(path, load_external_data=False)
    for entry in proto.graph.initializer[tensor].external_data:
        if entry.key == key:
            entry.value = value
    onnx.save(proto, path)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("empty.onnx", b"", "0 bytes"),
        ("image.onnx", b"\x89PNG\r\n\x1a\n" + bytes(64), "PNG image"),
        ("pointer.onnx", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        ("noise.onnx", bytes(range(256)), "cannot be parsed"),
        ("torch.onnx", b"PK\x03\x04" + bytes(64), "zip archive"),
    ],
)
def test_what_is_not_a_model_is_refused(tmp_path, name, content, why):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ModelLoadError) as caught:
        gir.load(path)
    assert why in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(ModelLoadError, match="does not exist"):
        gir.load(tmp_path / "nothing.onnx")
    with pytest.raises(ModelLoadError, match="is a folder"):
        gir.load(tmp_path)


def test_a_truncated_model_is_refused_at_every_length(tmp_path):
    whole = gir.model_bytes(model_with_weights(16))
    path = tmp_path / "cut.onnx"
    outcomes = set()
    for length in range(1, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        with pytest.raises((ModelLoadError, InvalidModelError)) as caught:
            gir.load(path)
        outcomes.add(type(caught.value))
    assert ModelLoadError in outcomes


def sparse_tensor():
    values = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [1], [1.0])
    indices = onnx.helper.make_tensor("w_indices", onnx.TensorProto.INT64, [1], [0])
    return onnx.helper.make_sparse_tensor(values, indices, [2])


def lose_sparse_initializer(proto):
    proto.graph.sparse_initializer.append(sparse_tensor())


def lose_sparse_initializer_in_a_function(proto):
    branch = onnx.helper.make_graph([], "b", [], [], sparse_initializer=[sparse_tensor()])
    call = onnx.helper.make_node("If", ["c"], ["d"], then_branch=branch, else_branch=branch)
    opsets = [onnx.helper.make_opsetid("", 20)]
    function = onnx.helper.make_function("local", "f", ["c"], ["d"], [call], opsets)
    proto.functions.append(function)


def lose_sparse_constant(proto):
    proto.graph.node.append(
        onnx.helper.make_node("Constant", [], ["s"], sparse_value=sparse_tensor())
    )


def lose_map_in_a_sequence(proto):
    kind = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [])
    maps = onnx.helper.make_map_type_proto(onnx.TensorProto.STRING, kind)
    info = onnx.helper.make_value_info("m", onnx.helper.make_sequence_type_proto(maps))
    proto.graph.output.append(info)


def lose_training_information(proto):
    proto.training_info.add()


@pytest.mark.parametrize(
    ("add", "what"),
    [
        (lose_sparse_initializer, "sparse initializer"),
        (lose_sparse_initializer_in_a_function, "sparse initializer"),
        (lose_sparse_constant, "sparse constant"),
        (lose_map_in_a_sequence, "map type"),
        (lose_training_information, "training information"),
    ],
)
def test_what_the_ir_would_lose_is_refused(tmp_path, add, what):
    proto = onnx.parser.parse_model(TEXT)
    add(proto)
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(UnsupportedModelError, match=what):
        gir.load(tmp_path / "model.onnx")


def test_two_values_of_one_name_are_refused(tmp_path):
    proto = onnx.parser.parse_model(TEXT)
    proto.graph.node.append(proto.graph.node[0])
    onnx.save(proto, tmp_path / "twice.onnx")
    with pytest.raises(InvalidModelError, match="redeclared"):
        gir.load(tmp_path / "twice.onnx")


def test_two_initializers_of_one_name_are_refused(tmp_path):
    proto = onnx.load_from_string(gir.model_bytes(model_with_weights(4)))
    proto.graph.initializer[1].name = "first"
    onnx.save(proto, tmp_path / "twice.onnx")
    with pytest.raises(InvalidModelError, match="2 initializers called `first`"):
        gir.load(tmp_path / "twice.onnx")


@pytest.mark.parametrize("suffix", [".onnx", ".textproto", ".onnxtxt"])
def test_every_form_of_file_loads_the_same_model(tmp_path, suffix):
    proto = onnx.parser.parse_model(TEXT)
    path = tmp_path / f"m{suffix}"
    if suffix == ".onnxtxt":
        path.write_text(TEXT)
    else:
        onnx.save(proto, path, format="textproto" if suffix == ".textproto" else "protobuf")
    assert gir.model_digest(gir.load(path)) == gir.model_digest(gir.from_text(TEXT))


@pytest.mark.parametrize("form", [False, True, "weights.bin"])
def test_saving_keeps_the_model_and_is_reproducible(tmp_path, form):
    model = model_with_weights()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = gir.save(model, tmp_path / "a" / "m.onnx", external_data=form)
    second = gir.save(gir.load(first[0]), tmp_path / "b" / "m.onnx", external_data=form)
    assert [p.name for p in first] == [p.name for p in second]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert gir.model_digest(gir.load(second[0])) == gir.model_digest(model)
    onnx.checker.check_model(str(second[0]))


def test_saving_over_the_model_that_is_being_read_keeps_its_weights(tmp_path):
    path = tmp_path / "m.onnx"
    digest = gir.model_digest(model_with_weights())
    gir.save(model_with_weights(), path, external_data=True)
    model = gir.load(path)
    model.graph.doc_string = "changed"
    files = gir.save(model, path, external_data=True)
    model.graph.doc_string = None
    assert gir.model_digest(model) == digest
    assert sorted(tmp_path.iterdir()) == sorted(files)


def test_data_of_a_model_of_the_same_name_but_for_the_suffix_stays(tmp_path):
    """Data is called after the model without its suffix; an older one goes with its model."""
    first = gir.save(model_with_weights(), tmp_path / "m.onnx", external_data=True)
    other = model_with_weights()
    tensor = other.graph.initializers["first"].const_value
    other.graph.initializers["first"].const_value = ir.tensor(tensor.numpy() + 1, name="first")
    second = gir.save(other, tmp_path / "m.pb", external_data=True)
    for (path, data), model in ((first, model_with_weights()), (second, other)):
        assert data.exists()
        assert gir.model_digest(gir.load(path)) == gir.model_digest(model)
    third = gir.save(other, tmp_path / "m.onnx", external_data=True)
    assert sorted(tmp_path.iterdir()) == sorted({*second, *third})


def test_weights_shared_by_two_initializers_are_written_once(tmp_path):
    model = model_with_weights()
    shared = model.graph.initializers["first"].const_value
    model.graph.initializers["second"].const_value = shared
    _, data = gir.save(model, tmp_path / "m.onnx", external_data=True)
    assert data.stat().st_size == shared.nbytes
    again = gir.load(tmp_path / "m.onnx")
    for value in again.graph.initializers.values():
        np.testing.assert_array_equal(value.const_value.numpy(), shared.numpy())


def test_files_of_tensors_in_attributes_count_among_those_beside(tmp_path):
    (tmp_path / "m.data").write_bytes(np.arange(8, dtype=np.float32).tobytes())
    held = onnx.TensorProto(data_type=1, dims=[8], name="held", data_location=1)
    held.external_data.add(key="location", value="m.data")
    proto = onnx.parser.parse_model(TEXT)
    proto.graph.node.append(onnx.helper.make_node("Constant", [], ["c"], value=held))
    onnx.save(proto, tmp_path / "m.onnx")
    assert {path.name for path in gir.external_files(gir.load(tmp_path / "m.onnx"))} == {"m.data"}


def test_a_folder_that_is_missing_or_closed_gives_one_clear_error(tmp_path):
    with pytest.raises(OutputError, match="cannot be written") as caught:
        gir.save(model_with_weights(), tmp_path / "no" / "m.onnx")
    assert "mkdir -p" in caught.value.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../m.data", "/m.data", "sub/m.data", "m.onnx", "..", ""])
def test_external_data_stays_in_the_folder_of_the_model(tmp_path, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(OutputError, match="cannot be written to"):
        gir.save(model_with_weights(), folder / "m.onnx", external_data=name)
    assert not list(folder.iterdir())
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_a_folder_whose_name_is_no_text_is_refused_with_what_to_do(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    gir.save(model_with_weights(), folder / "m.onnx", external_data="w.data")
    with pytest.raises(ExternalDataError, match="UTF-8") as caught:
        gir.load(folder / "m.onnx")
    assert "rename" in caught.value.hint


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), gir.atomic_file(path) as stream:
        stream.write(b"half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("location", "../m.data", "leaves the folder"),
        ("location", "a/../../m.data", "leaves the folder"),
        ("location", "..\\m.data", "leaves the folder"),
        ("location", "/etc/passwd", "absolute path"),
        ("location", "C:\\m.data", "absolute path"),
        ("location", "other.data", "does not exist"),
        ("offset", "-4", "negative"),
        ("offset", "many", "not a whole number"),
        ("length", "12", "need 8192"),
        ("offset", "999999", "which has"),
    ],
)
def test_unsafe_or_broken_external_data_is_refused(external, key, value, why):
    edit_external_entry(external[0], key, value)
    with pytest.raises(ExternalDataError) as caught:
        gir.load(external[0])
    assert why in caught.value.why
    assert "`first`" in caught.value.message


def test_overlapping_ranges_are_refused_and_equal_ones_are_not(external):
    edit_external_entry(external[0], "offset", "0", tensor=1)
    gir.load(external[0])
    edit_external_entry(external[0], "offset", "64", tensor=1)
    with pytest.raises(ExternalDataError, match="overlap"):
        gir.load(external[0])


def test_a_data_file_cut_short_is_refused(external):
    with external[1].open("r+b") as stream:
        stream.truncate(100)
    with pytest.raises(ExternalDataError, match="cannot be used") as caught:
        gir.load(external[0])
    assert "which has 100" in caught.value.why


def test_a_link_out_of_the_folder_is_refused(external, tmp_path):
    folder = tmp_path / "inner"
    folder.mkdir()
    shutil.move(external[0], folder / "m.onnx")
    (folder / "m.data").symlink_to(external[1])
    with pytest.raises(ExternalDataError) as caught:
        gir.load(folder / "m.onnx")
    assert "link out of the folder" in caught.value.why


def test_links_of_a_hugging_face_cache_are_followed_only_into_their_own_blobs(external, tmp_path):
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / "abc" / "onnx"
    blobs = repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    shutil.copy(external[0], blobs / "1")
    shutil.copy(external[1], blobs / "2")
    (snapshot / "m.onnx").symlink_to(blobs / "1")
    (snapshot / "m.data").symlink_to(blobs / "2")
    assert gir.weight_bytes(gir.load(snapshot / "m.onnx")) == 2 * 8192
    (snapshot / "m.data").unlink()
    (snapshot / "m.data").symlink_to(external[1])
    with pytest.raises(ExternalDataError):
        gir.load(snapshot / "m.onnx")


def test_a_bare_file_name_is_as_safe_as_a_path(external, monkeypatch):
    monkeypatch.chdir(external[0].parent)
    edit_external_entry(external[0], "location", "../secret")
    with pytest.raises(ExternalDataError):
        gir.load("m.onnx")


def test_external_weights_are_copied_in_parts(external, tmp_path, monkeypatch):
    model = gir.load(external[0])
    expected = gir.model_digest(gir.load(external[0]))
    (tmp_path / "copy").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(gir.FileTensor, "tobytes", None)
        patch.setattr(gir.FileTensor, "numpy", None)
        gir.save(model, tmp_path / "copy" / "model.onnx", external_data=True)
    assert gir.model_digest(gir.load(tmp_path / "copy" / "model.onnx")) == expected


def test_a_data_file_cut_after_loading_is_noticed(external, tmp_path):
    path, data = external
    model = gir.load(path)
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(ExternalDataError, match="cut since the model was loaded"):
        gir.save(model, tmp_path / "copy.onnx", external_data=True)
    assert not list(tmp_path.glob("*copy*"))


@pytest.mark.parametrize("form", [False, True])
def test_weights_are_not_read_by_loading_or_checkpoints(tmp_path, monkeypatch, form):
    gir.save(model_with_weights(), tmp_path / "m.onnx", external_data=form)
    for reading in ("array", "read_into"):
        monkeypatch.setattr(SourceFile, reading, None)
    model = gir.load(tmp_path / "m.onnx")
    gir.Checkpoint.take(model).restore(model)
    gir.structure_digest(model)
    values = model.graph.initializers.values()
    assert all(isinstance(value.const_value, gir.FileTensor) for value in values)
    assert gir.weight_bytes(model) == 2 * 8192
