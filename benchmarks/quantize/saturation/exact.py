"""Hold the predictor against the runtime without VNNI, number by number: `exact.py QEMU`.

QEMU is `qemu-x86_64-static` (Debian `qemu-user-static`, 7.2 or newer: it emulates AVX2). Layers of
random integers run natively, on a machine with VNNI, and under `-cpu Haswell`. The difference must
be what `saturation_excess` says, in every element.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphopt.analysis.integer_layers import find_integer_layers
from graphopt.compression import saturation_excess
from graphopt.ir import load
from graphopt.search.saturation import windows_of

RUN = """
import sys, numpy as np, onnxruntime as ort
options = ort.SessionOptions(); options.intra_op_num_threads = 1
feeds = dict(np.load(sys.argv[2]))
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
np.save(sys.argv[3], session.run(None, feeds)[0])
"""


def products(rows, depth, columns, random):
    weights = random.integers(-127, 128, (depth, columns)).astype(np.int8)
    node = helper.make_node("MatMulInteger", ["x", "w", "z"], ["y"])
    return model([node], TensorProto.INT32, {"w": weights, "z": np.uint8(120)}), (rows, depth)


def convolution(channels, kernels, size, width, stride, group, random):  # noqa: PLR0917
    weights = random.integers(-127, 128, (kernels, channels // group, width, width)).astype(np.int8)
    constants = {
        "xs": np.float32(1.0),
        "xz": np.uint8(7),
        "w": weights,
        "ws": np.ones(kernels, np.float32),
        "wz": np.zeros(kernels, np.int8),
        "ys": np.float32(3000.0),
        "yz": np.uint8(128),
    }
    names = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    pads = [width // 2] * 4
    node = helper.make_node(
        "QLinearConv", names, ["y"], pads=pads, strides=[stride] * 2, group=group
    )
    return model([node], TensorProto.UINT8, constants), (1, channels, size, size)


def model(nodes, kind, constants):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, None)],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    imports = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def run(launcher, path, feeds, folder):
    out = folder / "out.npy"
    command = [*launcher, sys.executable, "-c", RUN, str(path), str(feeds), str(out)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return np.load(out)


def expected(path, x, native):
    """Return what the runtime must say without VNNI."""
    (layer,), _ = find_integer_layers(load(path).graph)
    if layer.windows is None:
        excess, count = saturation_excess(x, layer.weights[0])
        return native - excess, count
    groups, depth, _ = layer.weights.shape
    rows = windows_of(x, layer.windows, 7, groups, at_most=None)
    sums, count = [], 0
    for group in range(groups):
        flat = rows[group].reshape(-1, depth)
        exact = (flat.astype(np.int64) - 7) @ layer.weights[group].astype(np.int64)
        excess, found = (0, 0) if depth == layer.windows.sizes[0] ** 2 else (None, None)
        if excess is None:
            excess, found = saturation_excess(flat, layer.weights[group])
        sums.append(exact - excess)
        count += found
    total = np.concatenate(sums, axis=1).astype(np.float32) / np.float32(3000.0)
    image = np.clip(np.rint(total) + 128, 0, 255).astype(np.uint8)
    size = native.shape[2]
    return image.reshape(1, size, size, -1).transpose(0, 3, 1, 2), count


def main() -> None:
    qemu = [sys.argv[1], "-cpu", sys.argv[2] if len(sys.argv) > 2 else "Haswell"]
    random = np.random.default_rng(0)
    cases = {
        "product 8x64x32": products(8, 64, 32, random),
        "product 5x67x19 (odd depth)": products(5, 67, 19, random),
        "vector 1x64x40": products(1, 64, 40, random),
        "vector 1x63x33 (odd depth)": products(1, 63, 33, random),
        "product 3x1200x24 (several blocks)": products(3, 1200, 24, random),
        "convolution 16->16, 3x3": convolution(16, 16, 9, 3, 1, 1, random),
        "convolution 3->16, 3x3, stride 2 (odd depth)": convolution(3, 16, 9, 3, 2, 1, random),
        "convolution 6->10, 3x3": convolution(6, 10, 8, 3, 1, 1, random),
        "convolution 32->24, 1x1": convolution(32, 24, 7, 1, 1, 1, random),
        "convolution 8->8, 3x3, 2 groups": convolution(8, 8, 8, 3, 1, 2, random),
        "convolution 16->16, 3x3, depthwise": convolution(16, 16, 8, 3, 1, 16, random),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, (proto, shape) in cases.items():
            onnx.save(proto, folder / "layer.onnx")
            x = random.integers(0, 256, shape).astype(np.uint8)
            np.savez(folder / "feeds.npz", x=x)
            native = run([], folder / "layer.onnx", folder / "feeds.npz", folder)
            emulated = run(qemu, folder / "layer.onnx", folder / "feeds.npz", folder)
            wanted, count = expected(folder / "layer.onnx", x, native)
            found = {
                "layer": title,
                "saturated_pairs": int(count),
                "changed_elements": int(np.count_nonzero(native != emulated)),
                "wrong_predictions": int(np.count_nonzero(wanted != emulated)),
                "elements": int(native.size),
            }
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
