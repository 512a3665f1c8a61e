"""Weights stay in the files they came from: what is read, what is written, what goes wrong."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from graphopt import ir as gir
from graphopt.errors import (
    ExternalDataError,
    GraphoptError,
    InvalidModelError,
    ModelLoadError,
    OutputError,
)
from graphopt.ir import inline_weights
from graphopt.ir.copying import TensorWriter
from graphopt.ir.wire import MalformedError, encode_field, encode_varint, fields, large_fields

LARGE = 2048  # float32 elements: twice the threshold
OPSET = [helper.make_opsetid("", 20)]


def weight(name, seed=0, shape=(LARGE,), dtype=np.float32):
    values = np.random.default_rng(seed).integers(-7, 8, shape).astype(dtype)
    return numpy_helper.from_array(values, name)


def constant(name, tensor):
    return helper.make_node("Constant", [], [name], value=tensor)


def graph_of(nodes, initializers, inputs=("x",), output="z", name="g"):
    kind = onnx.TensorProto.FLOAT
    return helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(item, kind, ["N"]) for item in inputs],
        [helper.make_tensor_value_info(output, kind, ["M"])],
        initializers,
    )


def model_with(**weights):
    """A model with weights that nobody reads."""
    model = gir.from_text("(float[N] x) => (float[N] z) { z = Relu(x) }")
    for name, array in weights.items():
        tensor = ir.Tensor(array, name=name)
        kind = ir.TensorType(tensor.dtype)
        value = ir.Value(name=name, type=kind, shape=tensor.shape, const_value=tensor)
        model.graph.register_initializer(value)
    return model


def everywhere():
    """Large weights wherever a model can hold them, and text and typed data between."""
    branches = [
        graph_of(
            [helper.make_node("Add", [f"w{seed}", f"c{seed}"], [f"b{seed}"])],
            [weight(f"w{seed}", seed)],
            inputs=(),
            output=f"b{seed}",
            name=f"branch{seed}",
        )
        for seed in (1, 2)
    ]
    for seed, branch in enumerate(branches, 1):
        branch.node.insert(0, constant(f"c{seed}", weight("", seed + 10)))
    nodes = [
        constant("k", weight("named", 3)),
        helper.make_node("If", ["flag"], ["s"], then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("f", ["s"], ["t"], domain="local"),
        helper.make_node("Sum", ["x", "k", "t", "w"], ["z"]),
    ]
    typed = helper.make_tensor("typed", onnx.TensorProto.FLOAT, [LARGE], [0.5] * LARGE)
    text = helper.make_tensor("text", onnx.TensorProto.STRING, [2], [b"a" * 9000, b"b"])
    flag = helper.make_tensor("flag", onnx.TensorProto.BOOL, [], [True])
    graph = graph_of(nodes, [weight("w", 4), typed, text, flag, weight("unused", 5)])
    body = [constant("inner", weight("", 6)), helper.make_node("Add", ["a", "inner"], ["b"])]
    function = helper.make_function("local", "f", ["a"], ["b"], body, OPSET)
    opsets = [*OPSET, helper.make_opsetid("local", 1)]
    model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)
    model.graph.initializer[0].doc_string = "kept"
    model.graph.initializer[0].metadata_props.add(key="kept", value="too")
    model.graph.initializer[0].data_location = onnx.TensorProto.DEFAULT
    return model


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "whole.onnx"
    onnx.save(everywhere(), path)
    return path


def tensors_of(model):
    """Every tensor of a protobuf model by a path of names, as an array."""
    found = {}

    def visit(nodes, initializers, place):
        for tensor in initializers:
            found[(*place, tensor.name)] = numpy_helper.to_array(tensor)
        for node in nodes:
            here = (*place, *node.output)
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.TENSOR:
                    found[here] = numpy_helper.to_array(attribute.t)
                elif attribute.type == onnx.AttributeProto.GRAPH:
                    visit(attribute.g.node, attribute.g.initializer, (*here, attribute.name))

    visit(model.graph.node, model.graph.initializer, ())
    for function in model.functions:
        visit(function.node, (), (function.name,))
    return found


def assert_same_tensors(first, second):
    left, right = tensors_of(first), tensors_of(second)
    assert left.keys() == right.keys()
    for place, array in left.items():
        np.testing.assert_array_equal(array, right[place], err_msg=str(place))


@pytest.mark.parametrize("form", [False, True])
def test_every_weight_comes_through_loading_and_saving(whole, tmp_path, form):
    (tmp_path / "out").mkdir()
    path, *_ = gir.save(gir.load(whole), tmp_path / "out" / "m.onnx", external_data=form)
    found = onnx.load(path)
    assert_same_tensors(found, everywhere())
    onnx.checker.check_model(str(path))
    first = found.graph.initializer[0]
    assert (first.doc_string, first.metadata_props[0].value) == ("kept", "too")


def test_no_large_weight_is_in_memory(whole):
    model = gir.load(whole)
    held = [tensor for _, tensor in gir.initializer_tensors(model)]
    held += [
        attr.value
        for node in gir.nodes(model)
        for attr in node.attributes.values()
        if attr.type == ir.AttributeType.TENSOR
    ]
    large = [tensor for tensor in held if tensor.nbytes > 4096 and tensor.name != "typed"]
    assert len(large) == 9
    assert {type(tensor) for tensor in large} == {gir.FileTensor, ir.StringTensor}


def test_what_is_written_in_pieces_is_what_protobuf_writes(whole, tmp_path):
    path = tmp_path / "m.onnx"
    gir.save(gir.load(whole), path)
    proto = onnx.load(path)
    assert proto.SerializeToString(deterministic=True) == path.read_bytes()
    assert gir.model_bytes(gir.load(whole)) == path.read_bytes()
    gir.save(gir.load(path), tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


def test_digests_do_not_depend_on_where_weights_lie(whole):
    parsed = ir.from_proto(everywhere())
    assert gir.model_digest(gir.normalise(parsed)) == gir.model_digest(gir.load(whole))


def test_checkpoints_hold_no_large_constant_and_bring_it_back(whole):
    model = gir.load(whole)
    structure = gir.take_structure(model)
    assert len(structure.proto.SerializeToString()) < 3 * 9000  # the text, and typed data by name
    digest = gir.model_digest(model)
    checkpoint = gir.Checkpoint.take(model)
    model.graph.remove([model.graph[-1]], safe=False)
    checkpoint.restore(model)
    assert gir.model_digest(model) == digest
    assert gir.model_digest(gir.clone(model)) == digest
    constants = [node for node in gir.nodes(model) if node.op_type == "Constant"]
    assert all(isinstance(node.attributes["value"].value, gir.FileTensor) for node in constants)


@pytest.mark.parametrize(
    ("dtype", "elements"),
    [
        (np.float16, 4096),
        (ml_dtypes.bfloat16, 4096),
        (ml_dtypes.float8_e4m3fn, 8192),
        (ml_dtypes.int4, 16385),
        (ml_dtypes.uint4, 16384),
        (ml_dtypes.float4_e2m1fn, 16384),
        (np.bool_, 8192),
        (np.complex64, 1024),
        (np.int64, 1024),
    ],
)
@pytest.mark.parametrize("form", [False, True])
def test_every_element_type_is_read_as_it_is(tmp_path, dtype, elements, form):
    values = np.random.default_rng(0).integers(0, 4, elements).astype(dtype)
    model = model_with(w=values)
    tensor = model.graph.initializers["w"].const_value
    gir.save(model, tmp_path / "m.onnx", external_data=form)
    read = gir.load(tmp_path / "m.onnx").graph.initializers["w"].const_value
    assert isinstance(read, gir.FileTensor)
    np.testing.assert_array_equal(read.numpy(), values)
    assert read.numpy().dtype == values.dtype
    assert (
        read.tobytes()
        == tensor.tobytes()
        == b"".join(bytes(part) for part in gir.blocks(read, 1000))
    )
    assert gir.tensor_digest(read) == gir.tensor_digest(tensor)
    assert np.asarray(read).shape == values.shape


def test_arrays_are_read_only_aligned_and_shared_while_somebody_holds_them(whole):
    tensor = gir.load(whole).graph.initializers["w"].const_value
    array = tensor.numpy()
    assert tensor.numpy() is array
    assert array.flags.aligned
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    kept = array[3:5]
    del array
    gc.collect()
    np.testing.assert_array_equal(kept, tensor.numpy()[3:5])


@pytest.mark.parametrize("form", [False, True, "w.data"])
def test_a_model_saved_over_its_own_file_still_reads_the_old_weights(tmp_path, form):
    path = tmp_path / "m.onnx"
    gir.save(ir.from_proto(everywhere()), path, external_data=form)
    model, digest = gir.load(path), gir.model_digest(gir.load(path))
    changed = np.ones(LARGE, np.float32)
    graph = model.graph
    before = graph.initializers["unused"].const_value
    graph.initializers["unused"].const_value = ir.tensor(changed, name="unused")
    files = gir.save(model, path, external_data=form)
    assert sorted(tmp_path.iterdir()) == sorted(files)
    again = gir.load(path)
    np.testing.assert_array_equal(again.graph.initializers["unused"].const_value.numpy(), changed)
    graph.initializers["unused"].const_value = before
    assert gir.model_digest(model) == digest


def test_two_versions_with_equal_samples_get_two_data_files(tmp_path):
    names = []
    for value in (0, 1):
        array = np.zeros(1 << 16, np.float32)
        array[5000] = value  # between the samples
        model = model_with(w=array)
        _, data = gir.save(model, tmp_path / "m.onnx", external_data=True)
        names.append(data.name)
        loaded = gir.load(tmp_path / "m.onnx").graph.initializers["w"].const_value
        np.testing.assert_array_equal(loaded.numpy(), array)
    assert names[0] != names[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["m.onnx", names[1]])


def test_an_inline_file_cut_while_it_is_read_is_an_error_and_no_crash(whole, tmp_path):
    model = gir.load(whole)
    os.truncate(whole, 100)
    for _, tensor in gir.initializer_tensors(model):
        if isinstance(tensor, gir.FileTensor):
            with pytest.raises(ModelLoadError, match="cannot be read"):
                tensor.numpy()
    with pytest.raises(ModelLoadError, match="cut since the model was loaded"):
        gir.save(model, tmp_path / "copy.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["whole.onnx"]


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_models_in_very_many_files_hold_none_of_them_open(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["graphopt.ir.load"], "_HELD_FILES", 1)
    proto = helper.make_model(
        graph_of([helper.make_node("Relu", ["x"], ["z"])], [weight("a", 1), weight("b", 2)]),
        opset_imports=OPSET,
        ir_version=10,
    )
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, all_tensors_to_one_file=False)
    opened = open_files()
    model = gir.load(tmp_path / "m.onnx")
    assert open_files() <= opened + 1  # the model's own
    first = model.graph.initializers["a"].const_value
    np.testing.assert_array_equal(first.numpy(), numpy_helper.to_array(weight("a", 1)))
    (tmp_path / "a").write_bytes((tmp_path / "b").read_bytes())
    with pytest.raises(ExternalDataError, match="another file has taken its place"):
        first.tobytes()


# What hostile or damaged files may hold.


def test_cut_and_damaged_files_give_an_error_or_the_model_that_protobuf_reads(whole, tmp_path):
    content, path = whole.read_bytes(), tmp_path / "m.onnx"
    rng = np.random.default_rng(0)
    tried = [content[:length] for length in rng.integers(1, len(content), 60)]
    for number in range(120):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 3):
            damaged[place] = rng.integers(0, 256)
        if number % 3 == 0:  # lengths are few bytes, and where damage tells most
            near = content.find(b"\x4a", int(rng.integers(0, len(content))))
            damaged[near + 1 : near + 3] = rng.integers(0, 256, 2).astype(np.uint8).tobytes()
        tried.append(bytes(damaged))
    outcomes = {"read": 0, "refused": 0}
    for data in tried:
        path.write_bytes(data)
        try:
            model = gir.load(path)
            for _, tensor in gir.initializer_tensors(model):
                if isinstance(tensor, gir.FileTensor):
                    tensor.numpy()
            expected = onnx.load_from_string(data)
        except GraphoptError:
            outcomes["refused"] += 1
            continue
        found = {value.name: t for value, t in gir.initializer_tensors(model) if t.nbytes > 4096}
        for tensor in expected.graph.initializer:
            if isinstance(found.get(tensor.name), gir.FileTensor):
                assert found[tensor.name].tobytes() == tensor.raw_data
        outcomes["read"] += 1
    assert min(outcomes.values()) > 10


def model_around(tensor_bytes):
    """A model whose one initializer is the given bytes."""
    proto = helper.make_model(
        graph_of([helper.make_node("Relu", ["x"], ["z"])], []), opset_imports=OPSET, ir_version=10
    )
    graph = proto.graph.SerializeToString() + encode_field(5, len(tensor_bytes)) + tensor_bytes
    proto.ClearField("graph")
    return proto.SerializeToString() + encode_field(7, len(graph)) + graph


def test_a_field_that_comes_twice_is_what_protobuf_makes_of_it(tmp_path):
    first, second = weight("w", 1), weight("w", 2)
    twice = first.SerializeToString() + encode_field(9, len(second.raw_data)) + second.raw_data
    path = tmp_path / "m.onnx"
    path.write_bytes(model_around(twice))
    found = gir.load(path).graph.initializers["w"].const_value
    assert found.tobytes() == second.raw_data  # the last one counts


def test_a_constant_in_two_parts_is_refused(tmp_path):
    node = helper.make_node("Constant", [], ["k"], value=weight("k", 1))
    part = weight("k", 2).SerializeToString()
    attribute = node.attribute[0].SerializeToString() + encode_field(5, len(part)) + part
    node.ClearField("attribute")
    data = node.SerializeToString() + encode_field(5, len(attribute)) + attribute
    graph = graph_of([helper.make_node("Relu", ["x"], ["z"])], []).SerializeToString()
    graph += encode_field(1, len(data)) + data
    model = helper.make_model(onnx.GraphProto(), opset_imports=OPSET, ir_version=10)
    model.ClearField("graph")
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString() + encode_field(7, len(graph)) + graph)
    with pytest.raises(InvalidModelError, match="given in several parts"):
        gir.load(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("dims", [-LARGE]), ("dims", [LARGE + 1]), ("data_type", 99), ("data_type", 0)],
)
def test_bytes_that_do_not_fit_their_tensor_are_not_taken_for_weights(tmp_path, field, value):
    tensor = weight("w")
    tensor.ClearField(field)
    if isinstance(value, list):
        tensor.dims.extend(value)
    else:
        tensor.data_type = value
    path = tmp_path / "m.onnx"
    path.write_bytes(model_around(tensor.SerializeToString()))
    try:
        found = gir.load(path).graph.initializers["w"].const_value
    except GraphoptError:
        return
    assert not isinstance(found, gir.FileTensor)


def test_no_file_can_name_a_place_in_itself(tmp_path, monkeypatch):
    """A tensor may not claim to be one whose bytes were left out."""
    hostile = weight("w")
    hostile.ClearField("raw_data")
    hostile.data_location = onnx.TensorProto.EXTERNAL
    for location in ("graphopt-", "graphopt-weight:0", f"graphopt-{'0' * 32}"):
        del hostile.external_data[:]
        hostile.external_data.add(key="location", value=location)
        path = tmp_path / "m.onnx"
        path.write_bytes(model_around(hostile.SerializeToString()))
        with pytest.raises(ExternalDataError, match="cannot be used"):
            gir.load(path)


def test_deep_nesting_is_left_to_protobuf(tmp_path):
    tensor = weight("w").SerializeToString()
    inner = graph_of([], []).SerializeToString() + encode_field(5, len(tensor)) + tensor
    for _ in range(60):
        attribute = b"\x0a\x01g" + encode_field(6, len(inner)) + inner + b"\xa0\x01\x05"
        node = b"\x22\x02If" + encode_field(5, len(attribute)) + attribute
        inner = encode_field(1, len(node)) + node + b"\x12\x01g"
    model = helper.make_model(onnx.GraphProto(), opset_imports=OPSET, ir_version=10)
    model.ClearField("graph")
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString() + encode_field(7, len(inner)) + inner)
    with pytest.raises(GraphoptError):
        gir.load(path)


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a\x05ab",  # a length behind the end
        b"\x0a" + b"\xff" * 9 + b"\x01ab",  # a length of 2**64 - 1
        b"\x0a" + b"\xff" * 11,  # a number that does not end
        b"\x08",  # a key without a value
        b"\x0b\x0c",  # a group
        b"\x09abc",  # eight bytes, of which three are there
        b"\x0f",  # a wire type that there is not
    ],
)
def test_malformed_messages_are_told(data):
    for read in (lambda: fields(data, 0, len(data)), lambda: large_fields(data, 0, len(data), 0)):
        with pytest.raises(MalformedError):
            list(read())


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**31, 2**35 + 5])
def test_numbers_are_written_as_they_are_read(number):
    encoded = b"\x08" + encode_varint(number)
    (field,) = fields(encoded, 0, len(encoded))
    assert (field.number, field.value) == (1, number)


# Writing.


def test_copying_by_the_system_and_by_blocks_give_the_same_file(tmp_path, monkeypatch):
    model = model_with(w=np.arange(300_000, dtype=np.float32))
    gir.save(model, tmp_path / "m.onnx")
    loaded = gir.load(tmp_path / "m.onnx")
    calls = []
    real = os.copy_file_range

    def once_then_refused(*arguments):
        calls.append(arguments)
        if len(calls) > 1:
            raise OSError(18, "Invalid cross-device link")
        return real(*arguments[:2], 70_001, *arguments[3:])

    gir.save(loaded, tmp_path / "whole.onnx")
    monkeypatch.setattr(os, "copy_file_range", once_then_refused)
    gir.save(loaded, tmp_path / "parts.onnx")
    monkeypatch.delattr(os, "copy_file_range")
    gir.save(loaded, tmp_path / "blocks.onnx")
    assert len(calls) == 2
    contents = {path.read_bytes() for path in tmp_path.iterdir()}
    assert len(contents) == 1


@pytest.mark.parametrize("form", [False, True])
def test_progress_counts_bytes_up_to_all_of_them(tmp_path, form):
    model = model_with(a=np.zeros(3 << 20, np.float32), b=np.ones(3 << 20, np.float32))
    gir.save(model, tmp_path / "m.onnx")
    seen = []
    files = gir.save(
        gir.load(tmp_path / "m.onnx"),
        tmp_path / "out.onnx",
        external_data=form,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert len(seen) > 1
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert {total for _, total in seen} == {files[-1].stat().st_size}
    assert seen[-1][0] > 0.99 * seen[-1][1]


@pytest.mark.parametrize("form", [False, True])
def test_an_interrupt_while_weights_are_written_leaves_the_old_model(tmp_path, form):
    model = model_with(a=np.zeros(1 << 20, np.float32))
    before = gir.save(model, tmp_path / "m.onnx", external_data=form)
    contents = [path.read_bytes() for path in before]
    loaded = gir.load(before[0])

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gir.save(loaded, tmp_path / "m.onnx", external_data=form, progress=interrupt)
    assert [path.read_bytes() for path in before] == contents
    assert sorted(tmp_path.iterdir()) == sorted(before)


FULL_DISK = """
import resource, sys
from graphopt import ir
from graphopt.errors import OutputError
model = ir.load(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    ir.save(model, sys.argv[2], external_data=sys.argv[3] == "True")
except OutputError as error:
    print(error, error.hint)
"""


@pytest.mark.parametrize("form", [False, True])
@pytest.mark.skipif(sys.platform == "win32", reason="no limits on the size of files")
def test_a_full_disk_is_one_clear_error_and_leaves_nothing(whole, tmp_path, form):
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-c", FULL_DISK, str(whole), str(out / "m.onnx"), str(form)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "cannot be written" in found.stdout, found.stderr
    assert "File too large" in found.stdout
    assert "ulimit" in found.stdout
    assert not list(out.iterdir())


KILLED = """
import os, signal, sys
from graphopt import ir
ir.save(ir.load(sys.argv[1]), sys.argv[2], progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL))
"""


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="no files without a name")
def test_a_killed_program_leaves_nothing(tmp_path):
    model = model_with(a=np.zeros(1 << 20, np.float32))
    gir.save(model, tmp_path / "m.onnx")
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-c", KILLED, str(tmp_path / "m.onnx"), str(out / "m.onnx")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -9
    assert not list(out.iterdir())


def test_where_files_need_a_name_they_are_hidden_and_removed(whole, tmp_path, monkeypatch):
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    out = tmp_path / "out"
    out.mkdir()
    files = gir.save(gir.load(whole), out / "m.onnx", external_data=True)
    assert sorted(out.iterdir()) == sorted(files)
    mask = os.umask(0)
    os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~mask}
    with pytest.raises(KeyboardInterrupt), gir.atomic_file(out / "other") as stream:
        stream.write(b"half")
        raise KeyboardInterrupt
    assert sorted(out.iterdir()) == sorted(files)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_folder_that_is_read_only_is_one_clear_error(whole, tmp_path):
    out = tmp_path / "out"
    out.mkdir(mode=0o555)
    with pytest.raises(OutputError, match="cannot be written"):
        gir.save(gir.load(whole), out / "m.onnx")


def test_a_model_too_large_for_protobuf_is_refused_before_anything_is_written(
    whole, tmp_path, monkeypatch
):
    monkeypatch.setattr(sys.modules["graphopt.ir.save"], "PROTOBUF_LIMIT_BYTES", 50_000)
    model = gir.load(whole)
    with pytest.raises(OutputError, match="cannot be written") as caught:
        gir.save(model, tmp_path / "m.onnx", external_data=False)
    assert "50000 at most" in caught.value.why
    with pytest.raises(OutputError):
        gir.model_bytes(model)
    assert [path.name for path in tmp_path.iterdir()] == ["whole.onnx"]


def test_a_stand_in_is_in_no_file(whole, tmp_path, monkeypatch):
    token = b"?" * 24
    monkeypatch.setattr(inline_weights.os, "urandom", lambda _: token)
    gir.save(gir.load(whole), tmp_path / "m.onnx")
    assert token not in (tmp_path / "m.onnx").read_bytes()


# Memory.

PEAK = """
import sys
from pathlib import Path
from graphopt import ir
from graphopt.analysis.equal_tensors import classes_of_equal_tensors

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

ir.save(ir.load(sys.argv[2]), sys.argv[3] + "0")  # what is imported on first use is no cost of weights
before = peak()
model = ir.load(sys.argv[1])
ir.Checkpoint.take(model).restore(model)
assert len(list(classes_of_equal_tensors(ir.initializer_tensors(model)))) == 1
ir.model_digest(model)
for _, tensor in ir.initializer_tensors(model):
    tensor.numpy()[::1000].sum()
ir.save(model, sys.argv[3])
ir.save(model, sys.argv[3], external_data=True)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells no peak")
def test_weights_of_48_mb_take_the_memory_of_a_few_blocks(whole, tmp_path):
    path = tmp_path / "m.onnx"
    values = np.zeros(2 << 20, np.float32)
    weights = [numpy_helper.from_array(values + (n > 1) * n, f"w{n}") for n in range(6)]
    relu = helper.make_node("Relu", ["x"], ["z"])
    onnx.save(
        helper.make_model(graph_of([relu], weights), opset_imports=OPSET, ir_version=10), path
    )
    assert path.stat().st_size > 48 << 20
    arguments = [str(path), str(whole), str(tmp_path / "out.onnx")]
    found = subprocess.run(
        [sys.executable, "-c", PEAK, *arguments], capture_output=True, text=True, check=False
    )
    assert float(found.stdout) < 20, found.stderr


def test_writing_a_tensor_counts_its_bytes(tmp_path):
    with (tmp_path / "f").open("wb") as stream:
        writer = TensorWriter(stream)
        writer.write(b"ab")
        writer.tensor(ir.tensor(np.arange(3, dtype=np.int16)))
        assert writer.position == 8
    assert (tmp_path / "f").read_bytes() == b"ab\0\0\1\0\2\0"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_was_read_of_weights_is_given_back_and_read_again(tmp_path):
    values = np.arange(1 << 20, dtype=np.float32)
    gir.save(model_with(w=values), tmp_path / "m.onnx", external_data="w.data")
    model = gir.load(tmp_path / "m.onnx")
    # A view that is alive: its pages stay until somebody releases them.
    view = model.graph.initializers["w"].const_value.numpy()
    assert view.sum() > 0

    def resident():
        text = Path("/proc/self/smaps").read_text(encoding="utf-8")
        (part,) = [part for part in text.split("VmFlags") if str(tmp_path / "w.data") in part]
        return int(part.rpartition("Rss:")[2].split()[0]) << 10

    assert resident() >= values.nbytes
    gir.release_files(model)
    assert resident() == 0
    np.testing.assert_array_equal(view, values)
