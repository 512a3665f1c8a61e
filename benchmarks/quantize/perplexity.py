"""Bits per byte of a small trained language model under quantizers of weights, and their peers.

Usage:
    python benchmarks/prune/train.py --out trained --only byte_lm
    python benchmarks/quantize/perplexity.py --model trained/byte_lm --out perplexity.json
    python benchmarks/quantize/perplexity.py --out perplexity.json --table

The rows are held out: 128 of 128 bytes, which no quantizer sees. Calibration is on those that lie
beside the model. Nothing is timed. What is in `--out` already is not made again.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from quantizers import QUANTIZERS, graphopt_pipeline

LOG_2 = float(np.log(2.0))
Quantizer = Callable[[Path, Path, Path], object]


def blocks(options: str, before: str = "") -> Quantizer:
    """Return graphopt's quantizer of weights in blocks, with options."""
    return graphopt_pipeline(f"@exact,{before}quantize-weights{{{options}}},clear-value-info")


TOOLS: dict[str, Quantizer] = {
    "8 bits, ort-dynamic": QUANTIZERS["ort-dynamic"],
    "8 bits, ort-dynamic-channel": QUANTIZERS["ort-dynamic-channel"],
    "8 bits, ort-static-u8s8": QUANTIZERS["ort-static-u8s8"],
    "8 bits, graphopt outliers": QUANTIZERS["graphopt-outliers"],
    "8 bits, graphopt weights alone": blocks("bits=8 block_size=128"),
    "4 bits, ort, blocks of 128": QUANTIZERS["ort-4bit-long"],
    "4 bits, ort, blocks of 32": QUANTIZERS["ort-4bit-accurate"],
    "4 bits, ort, blocks of 128, zero points": QUANTIZERS["ort-4bit"],
    "4 bits, graphopt rtn, blocks of 128": blocks("block_size=128"),
    "4 bits, graphopt rtn, blocks of 64": blocks("block_size=64"),
    "4 bits, graphopt rtn, blocks of 32": blocks("block_size=32"),
    "4 bits, graphopt awq, blocks of 32": blocks(
        "block_size=32", "smooth-activations{aim=weights},"
    ),
    "4 bits, graphopt gptq, blocks of 128": blocks("block_size=128 method=gptq"),
    "4 bits, graphopt gptq, blocks of 64": blocks("block_size=64 method=gptq"),
    "4 bits, graphopt gptq, blocks of 32": blocks("block_size=32 method=gptq"),
    "4 bits, graphopt gptq in order, blocks of 32": blocks(
        "block_size=32 method=gptq act_order=false"
    ),
    "4 bits, graphopt awq and gptq, blocks of 32": blocks(
        "block_size=32 method=gptq", "smooth-activations{aim=weights},"
    ),
}


def logits_of(model: Path, tokens: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return what a model says of each row, (rows, length, symbols)."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: rows})[0] for rows in np.array_split(tokens, 16)]
    return np.concatenate(parts).astype(np.float64)


def bits_per_byte(logits: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> float:
    """Return the mean cross entropy of the labels, in bits."""
    top = logits.max(axis=-1, keepdims=True)
    whole = np.log(np.exp(logits - top).sum(axis=-1)) + top[..., 0]
    found = np.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return float((whole - found).mean() / LOG_2)


def measure(model: Path, reference: np.ndarray[Any, Any], folder: Path) -> dict[str, float]:
    """Return bits per byte, SQNR of the logits in dB, and the size of a model in bytes."""
    rows = np.load(folder / "evaluation" / "rows.npz")
    logits = logits_of(model, rows["tokens"])
    noise = float(np.square(logits - reference).sum())
    signal = float(np.square(reference).sum())
    return {
        "bits_per_byte": bits_per_byte(logits, rows["__labels__"]),
        "sqnr_db": 10 * float(np.log10(signal / noise)) if noise else float("inf"),
        "bytes": sum(path.stat().st_size for path in model.parent.glob(f"{model.name}*")),
    }


def fill(folder: Path, out: Path) -> None:
    """Run every tool that is not in ``out`` yet."""
    found = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    source = folder / "model.onnx"
    rows = np.load(folder / "evaluation" / "rows.npz")
    reference = logits_of(source, rows["tokens"])
    found["float32"] = measure(source, reference, folder)
    for name, tool in TOOLS.items():
        if name in found:
            continue
        with tempfile.TemporaryDirectory() as work:
            made = Path(work) / "made.onnx"
            tool(source, made, folder / "calibration")
            found[name] = measure(made, reference, folder)
        print(name, found[name], flush=True)
        out.write_text(json.dumps(found, indent=1), encoding="utf-8")


def table(out: Path) -> str:
    """Return the results as a table, with what made them."""
    found = json.loads(out.read_text(encoding="utf-8"))
    whole = found["float32"]["bytes"]
    lines = ["| | bits per byte | more than float32 | SQNR of logits, dB | size |"]
    lines.append("|---|---:|---:|---:|---:|")
    for name, row in found.items():
        more = row["bits_per_byte"] - found["float32"]["bits_per_byte"]
        lines.append(
            f"| {name} | {row['bits_per_byte']:.4f} | {more:+.4f} | {row['sqnr_db']:.1f} "
            f"| {row['bytes'] / whole:.3f} |"
        )
    versions = f"onnxruntime {ort.__version__}, numpy {np.__version__}, {platform.machine()}"
    return "\n".join([*lines, "", versions])


def main() -> None:
    """Fill the results, or print them."""
    parser = argparse.ArgumentParser(description="Bits per byte under quantizers of weights.")
    parser.add_argument("--model", type=Path, help="folder that `train.py` wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="print what is there")
    arguments = parser.parse_args()
    if arguments.model:
        fill(arguments.model, arguments.out)
    if arguments.table:
        print(table(arguments.out))


if __name__ == "__main__":
    main()
