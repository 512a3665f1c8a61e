"""The models and samples, good and bad, that the snapshots name."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_inputs(folder):
    good = model()
    onnx.save(good, folder / "model.onnx")
    whole = good.SerializeToString()
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "truncated.onnx").write_bytes(whole[: len(whole) // 2])
    (folder / "picture.onnx").write_bytes(
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\6\0\0\0"
    )
    onnx.save(custom_operator(), folder / "custom.onnx")
    onnx.save(unloadable(), folder / "unloadable.onnx")
    (folder / "present.onnx").write_bytes(b"something that must stay")
    for name, addend in (("tiny", 0.0), ("other", 1.0)):
        onnx.save(tiny(addend), folder / f"{name}.onnx")
    (folder / "misspelt.toml").write_text(
        'name = "misspelt"\nsummary = "a pass and a pipeline that there are not"\n'
        'extends = "cpu-fp32"\n\n[pipeline]\nexact = "@exakt"\n\n[candidates.both]\n'
        'pipeline = "fuse-gemm,fuse-gemn"\nneeds_calibration = true\n',
        encoding="utf-8",
    )
    write_samples(folder)


def write_samples(folder):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((8, 16)).astype(np.float32)
    (folder / "samples").mkdir()
    for index in range(4):
        np.savez(folder / "samples" / f"{index}.npz", x=rows[index : index + 2])
    np.savez(folder / "far.npz", x=rows + 3)
    np.savez(folder / "wrong_name.npz", y=rows)
    np.savez(folder / "wrong_dtype.npz", x=rows.astype(np.float64))
    np.savez(folder / "wrong_shape.npz", x=rows[:, :15])
    bad = rows.copy()
    bad[3, 5] = np.nan
    np.savez(folder / "not_a_number.npz", x=bad)


def model():
    """Two linear layers, and a node that nobody reads."""
    rng = np.random.default_rng(7)
    weights = {
        "w1": rng.standard_normal((16, 32)).astype(np.float32),
        "b1": rng.standard_normal(32).astype(np.float32),
        "w2": rng.standard_normal((32, 4)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Identity", ["x"], ["same"], "identity"),
        helper.make_node("Gemm", ["same", "w1", "b1"], ["hidden"], "first"),
        helper.make_node("Relu", ["hidden"], ["active"], "relu"),
        helper.make_node("MatMul", ["active", "w2"], ["y"], "second"),
        helper.make_node("Exp", ["hidden"], ["unread"], "dead"),
    ]
    return made(nodes, weights, columns=4)


def tiny(addend):
    nodes = [
        helper.make_node("Identity", ["x"], ["same"], "identity"),
        helper.make_node("Add", ["same", "one"], ["y"], "add"),
    ]
    return made(nodes, {"one": np.array([addend], np.float32)})


def custom_operator():
    nodes = [helper.make_node("Magic", ["x"], ["y"], "magic", domain="com.example")]
    return made(nodes, {}, domains=[("com.example", 1)])


def unloadable():
    """Well formed, but no kernel of the runtime adds complex numbers."""
    nodes = [helper.make_node("Add", ["x", "x"], ["y"], "add")]
    return made(nodes, {}, kind=TensorProto.BFLOAT16)


def made(nodes, weights, *, domains=(), kind=TensorProto.FLOAT, columns=16):
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", kind, ["batch", 16])],
        [helper.make_tensor_value_info("y", kind, ["batch", columns])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(*item) for item in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)
