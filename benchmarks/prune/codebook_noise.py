"""Signal to noise of weights in codebooks of 16 and 256 values, by how values are scaled.

Usage:
    python benchmarks/prune/codebook_noise.py MODEL.onnx

Over the matrices of at least 100,000 elements that a model multiplies by, the mean in decibel, with
the bits that each weight takes. Prints a table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from graphopt.compression.codebooks import cluster_weight, optimal_codebook
from graphopt.compression.packed_weight import WeightView
from graphopt.ir import load

LEAST_ELEMENTS = 100_000
GROUP = 4096
FloatArray = npt.NDArray[np.float32]


def matrices(path: Path) -> list[FloatArray]:
    """Return the weights, ``(inputs, outputs)`` each."""
    found = {}
    for node in load(path).graph:
        value = node.inputs[1] if node.op_type in ("MatMul", "Gemm") else None
        if value is None or value.const_value is None:
            continue
        array = value.const_value.numpy()
        if array.ndim == 2 and array.size >= LEAST_ELEMENTS:
            found[value.name] = array.T if node.attributes.get_int("transB", 0) else array
    return list(found.values())


def decibel(weight: FloatArray, restored: FloatArray) -> float:
    """Return how far the error lies below the weight."""
    noise = np.square(weight - restored, dtype=np.float64).sum()
    return float(10 * np.log10(np.square(weight, dtype=np.float64).sum() / noise))


def in_groups(weight: FloatArray, levels: int) -> float:
    """Return the noise of a codebook for each group of outputs' weights, without scales."""
    groups = np.ascontiguousarray(weight.T).reshape(-1, GROUP)
    restored = np.empty_like(groups)
    for number, group in enumerate(groups):
        book = optimal_codebook(group, np.ones(GROUP), levels).astype(np.float32)
        restored[number] = book[np.searchsorted((book[1:] + book[:-1]) / 2, group)]
    return decibel(groups, restored)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    weights = matrices(parser.parse_args().model)
    print("| | 4 bits | 8 bits |\n|---|---:|---:|")
    for size in (None, 128, 64, 32):
        cells = []
        for bits in (4, 8):
            noise, held, elements = [], 0, 0
            for weight in weights:
                view = WeightView(1, *weight.shape)
                found = cluster_weight(weight, view, bits=bits, block_size=size)
                noise.append(decibel(weight, found.restored().reshape(weight.shape)))
                held, elements = held + found.nbytes, elements + weight.size
            cells.append(f"{np.mean(noise):.1f} dB, {8 * held / elements:.2f}")
        label = f"one codebook, a scale for each {size}" if size else "one codebook, no scales"
        print(f"| {label} | {' | '.join(cells)} |")
    noise = [in_groups(weight, 16) for weight in weights]
    books = 4 + 16 * 32 / GROUP
    print(f"| a codebook for each {GROUP} weights | {np.mean(noise):.1f} dB, {books:.2f} | |")


if __name__ == "__main__":
    main()
