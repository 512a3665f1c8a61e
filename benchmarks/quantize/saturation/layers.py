"""Every layer of a real model without VNNI, number by number: `layers.py QEMU QUANTIZED SAMPLES`.

The dynamically quantized model runs once under `QEMU -cpu Haswell`, with the sums of every
`MatMulInteger` and what it multiplied as outputs. Each must be the exact product less what
`saturation_excess` says. One JSON line for each layer, and one with the totals.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir

from graphopt.analysis.integer_layers import find_integer_layers
from graphopt.calibration import load_samples
from graphopt.compression import saturation_excess
from graphopt.ir import load, save

RUN = """
import sys, numpy as np, onnxruntime as ort
options = ort.SessionOptions(); options.intra_op_num_threads = 1
options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
session = ort.InferenceSession(f"{sys.argv[1]}/m.onnx", options, providers=["CPUExecutionProvider"])
names = sys.argv[2].split(",")
results = session.run(names, dict(np.load(f"{sys.argv[1]}/in.npz")))
np.savez(f"{sys.argv[1]}/out.npz", **{str(index): array for index, array in enumerate(results)})
"""


def main() -> None:
    qemu, path, samples = sys.argv[1:4]
    model = load(path)
    layers = [
        layer
        for layer in find_integer_layers(model.graph)[0]
        if layer.node.op_type == "MatMulInteger" and layer.zero_point is not None
    ]
    wanted: dict[str, ir.Value] = {}
    for layer in layers:
        layer.node.outputs[0].type = ir.TensorType(ir.DataType.INT32)
        for value in (layer.activation, layer.zero_point, layer.node.outputs[0]):
            value.type = value.type or ir.TensorType(ir.DataType.UINT8)
            wanted[value.name] = value
    model.graph.outputs.extend(v for v in wanted.values() if not v.is_graph_output())
    feed = next(iter(load_samples(Path(samples))))
    values = run([qemu, "-cpu", "Haswell"], model, list(wanted), feed)
    total = {"layers": len(layers), "saturated": 0, "changed": 0, "wrong": 0, "elements": 0}
    for layer in layers:
        rows = values[layer.activation.name].reshape(-1, layer.weights.shape[1])
        zero_point = int(values[layer.zero_point.name].reshape(-1)[0])
        exact = (rows.astype(np.int64) - zero_point) @ layer.weights[0].astype(np.int64)
        found = values[layer.node.outputs[0].name].reshape(exact.shape)
        excess, count = saturation_excess(rows, layer.weights[0])
        told = {
            "saturated": count,
            "changed": int(np.count_nonzero(found != exact)),
            "wrong": int(np.count_nonzero(found != exact - excess)),
            "elements": exact.size,
        }
        print(json.dumps({"layer": layer.name, **told}))
        total = {**total, **{key: total[key] + number for key, number in told.items()}}
    print(json.dumps(total))


def run(launcher, model, names, feed):
    with tempfile.TemporaryDirectory() as folder:
        save(model, f"{folder}/m.onnx")
        np.savez(f"{folder}/in.npz", **feed)
        command = [*launcher, sys.executable, "-c", RUN, folder, ",".join(names)]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        held = np.load(f"{folder}/out.npz")
        return {name: held[str(index)] for index, name in enumerate(names)}


if __name__ == "__main__":
    main()
