"""Whole models without VNNI: what was predicted, and what happens: `models.py QEMU ORIGINAL ...`.

`models.py QEMU ORIGINAL SAMPLES QUANTIZED...` runs every quantized model natively and under
`QEMU -cpu Haswell`, with the runtime's optimizations, and prints one JSON line each: the
signal-to-noise ratio of the worst output against the original on either, and the damage alone, as
signal-to-noise ratio: what the predictor sums up over layers, and the outputs without VNNI against
those with. `--samples-run N` samples are run (QEMU is slow).
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from graphopt.calibration import load_samples
from graphopt.ir import load
from graphopt.runtime import SessionOptions, Worker
from graphopt.search.saturation import predict_saturation
from graphopt.verification import ErrorSummary

RUN = """
import sys, numpy as np, onnxruntime as ort
options = ort.SessionOptions(); options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
for index in range(int(sys.argv[3])):
    feeds = dict(np.load(f"{sys.argv[2]}/in{index}.npz"))
    np.savez(f"{sys.argv[2]}/out{index}.npz", **dict(zip(names, session.run(None, feeds))))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("qemu")
    parser.add_argument("original", type=Path)
    parser.add_argument("samples", type=Path)
    parser.add_argument("quantized", nargs="+", type=Path)
    parser.add_argument("--samples-run", type=int, default=4)
    parser.add_argument("--cpu", default="Haswell")
    arguments = parser.parse_args()
    feeds = list(itertools.islice(load_samples(arguments.samples), arguments.samples_run))
    with Worker() as worker:
        options = SessionOptions(optimization="disabled")
        with worker.load(arguments.original, options) as session:
            wanted = [session.run(feed) for feed in feeds]
        for path in arguments.quantized:
            layers = predict_saturation(load(path), feeds[:2], worker=worker)
            native = run([], path, feeds)
            emulated = run([arguments.qemu, "-cpu", arguments.cpu], path, feeds)
            found = told(path, layers)
            found["native_sqnr_db"] = worst_sqnr(wanted, native)
            found["without_vnni_sqnr_db"] = worst_sqnr(wanted, emulated)
            found["measured_damage_db"] = worst_sqnr(native, emulated)
            print(json.dumps(found), flush=True)


def told(path, layers):
    replayed = [layer.saturation for layer in layers if layer.saturation is not None]
    # The noise of layers adds up on its way to the output: what each loses, relative to its signal.
    lost = sum(item.lost / item.signal for item in replayed if item.signal)
    return {
        "model": path.stem,
        "layers": len(replayed),
        "named": sum(item.is_worse_than_seven_bits for item in replayed),
        "saturating_share": sum(i.saturated for i in replayed) / sum(i.pairs for i in replayed),
        "predicted_damage_db": -10 * np.log10(lost) if lost else None,
    }


def run(launcher, path, feeds):
    with tempfile.TemporaryDirectory() as folder:
        for index, feed in enumerate(feeds):
            np.savez(f"{folder}/in{index}.npz", **feed)
        command = [*launcher, sys.executable, "-c", RUN, str(path), folder, str(len(feeds))]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        return [dict(np.load(f"{folder}/out{index}.npz")) for index in range(len(feeds))]


def worst_sqnr(wanted, found):
    summary = ErrorSummary()
    for reference, candidate in zip(wanted, found, strict=True):
        summary.update(reference, candidate)
    return summary.worst_sqnr_db()


if __name__ == "__main__":
    main()
