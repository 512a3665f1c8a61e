"""Time LSTM layers in float and as `quantize-dynamic` makes them, and compare their outputs.

Usage:
    python benchmarks/quantize/recurrent.py [--rounds 40]

One thread, in turns, CPU time, the low fifth of the rounds; the ratio is quantized over float.
Weights are random, as large as a trained layer's.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from graphopt.ir import as_tensor, from_text, model_bytes
from graphopt.pipeline import Pipeline

# Inputs, hidden units, directions, steps.
LAYERS = (
    (128, 128, 1, 1),
    (128, 128, 1, 50),
    (80, 256, 2, 100),
    (512, 512, 1, 1),
    (512, 512, 1, 100),
)


def layer(inputs: int, hidden: int, directions: int) -> ir.Model:
    """Return a model that is one LSTM."""
    name = "bidirectional" if directions > 1 else "forward"
    shapes = {"w": (directions, 4 * hidden, inputs), "r": (directions, 4 * hidden, hidden)}
    model = from_text(
        f"(float[S,N,{inputs}] x, float[1] w, float[1] r) => (float[S,D,N,{hidden}] y)"
        f'{{ y = LSTM<hidden_size = {hidden}, direction = "{name}">(x, w, r) }}'
    )
    rng = np.random.default_rng(0)
    for value in list(model.graph.inputs)[1:]:
        shape = shapes[str(value.name)]
        array = (rng.uniform(-1, 1, shape) / np.sqrt(hidden)).astype(np.float32)
        model.graph.inputs.remove(value)
        value.const_value = as_tensor(array, str(value.name))
        value.shape = ir.Shape(shape)
        model.graph.register_initializer(value)
    return model


def session(model: ir.Model) -> onnxruntime.InferenceSession:
    """Return a session with default settings, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model_bytes(model), options)


def main() -> None:
    """Print a line for each layer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    for inputs, hidden, directions, steps in LAYERS:
        model = layer(inputs, hidden, directions)
        before = session(model)
        # Small layers are refused by default: here they are what is measured.
        Pipeline.parse("quantize-dynamic{minimum_elements=1}").run(model, verify="structure")
        after = session(model)
        rng = np.random.default_rng(1)
        feed = {"x": rng.standard_normal((steps, 1, inputs)).astype(np.float32)}
        times: list[list[float]] = [[], []]
        for _ in range(rounds):
            for found, run in zip(times, (before, after), strict=True):
                found.append(timed(run, feed, 10 if steps == 1 else 1))
        low = [float(np.quantile(found, 0.2)) for found in times]
        expected, quantized = before.run(None, feed)[0], after.run(None, feed)[0]
        noise = np.square(expected - quantized).mean() / np.square(expected).mean()
        print(
            f"{inputs} -> {hidden} x {directions}, {steps} steps: "
            f"{low[1] / low[0]:.2f}, {-10 * np.log10(noise):.1f} dB"
        )


def timed(run: onnxruntime.InferenceSession, feed: dict[str, NDArray[Any]], repeats: int) -> float:
    """Return the CPU seconds of some runs."""
    start = time.process_time()
    for _ in range(repeats):
        run.run(None, feed)
    return time.process_time() - start


if __name__ == "__main__":
    main()
