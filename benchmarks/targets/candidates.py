"""Pipelines for one target beside each other, by numbers alone: which would hold its gates?

Usage:
    python benchmarks/targets/candidates.py --zoo zoo --work work --target edge-qnn-htp
        'bound-masks,quantize-static' 'bound-masks,level-columns,quantize-static{padding=true}'

Each pipeline runs on MiniLM with a batch of 1 and sequences of 128, after `@exact`, calibrated on
eight padded sentences of `zoo/minilm_samples`. Results of six others come from ONNX Runtime's CPU
provider without optimizations, as for any target whose provider is not here. A row says the least
and the mean cosine between all outputs and the original's, the least one without the positions that
padding fills, and bytes over those of the original.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from build_all import MODELS, _prepare_samples

CALIBRATED, EVALUATED = 8, 6
OUTPUT = "last_hidden_state"
MASK = "attention_mask"

Feed = dict[str, Any]


def feeds_of(folder: Path) -> list[Feed]:
    """Return the padded samples."""
    found = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as held:
            found.append(dict(held))
    return found


def outputs_of(path: Path, feeds: Sequence[Feed]) -> list[Any]:
    """Return the output for every feed, computed as the operators are specified."""
    from graphopt.runtime import SessionOptions, shared_worker

    with shared_worker().load(path, SessionOptions(optimization="disabled")) as session:
        return [session.run(feed, [OUTPUT])[OUTPUT].astype(np.float64) for feed in feeds]


def cosine(first: Any, second: Any) -> float:
    """Return the cosine of two arrays."""
    norms = np.linalg.norm(first) * np.linalg.norm(second)
    return float(first.ravel() @ second.ravel() / norms)


def compare(expected: Sequence[Any], found: Sequence[Any], feeds: Sequence[Feed]) -> str:
    """Return the three cosines as text."""
    whole = [cosine(*pair) for pair in zip(expected, found, strict=True)]
    kept = [feed[MASK].astype(bool) for feed in feeds]
    parts = [
        cosine(first[mask], second[mask])
        for first, second, mask in zip(expected, found, kept, strict=True)
    ]
    return f"{min(whole):.4f} | {np.mean(whole):.4f} | {min(parts):.4f}"


def build(text: str, arguments: argparse.Namespace, feeds: Sequence[Feed], path: Path) -> None:
    """Run one pipeline on the model of fixed sizes, and write what comes of it."""
    from graphopt.calibration import Calibrator, load_samples
    from graphopt.ir import load, save
    from graphopt.pipeline import Pipeline
    from graphopt.runtime import shared_worker
    from graphopt.targets import load_target

    model_path, _, dims = MODELS["minilm"]
    model = load(arguments.zoo / model_path)
    sizes = ",".join(f'"{one}"' for one in dims.split(","))
    Pipeline.parse(f"specialize-shapes{{dims=[{sizes}]}},@exact,{text}".rstrip(",")).run(
        model,
        target=load_target(arguments.target).to_facts(),
        statistics_provider=Calibrator(
            samples=load_samples(feeds[:CALIBRATED]), worker=shared_worker()
        ),
    )
    save(model, path)


def main() -> None:
    """Build, compare, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pipelines", nargs="+")
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--target", required=True)
    arguments = parser.parse_args()
    _, samples, dims = MODELS["minilm"]
    folder = arguments.work / "minilm_padded"
    _prepare_samples(arguments.zoo / samples, folder, dims)
    feeds = feeds_of(folder)
    seen = feeds[CALIBRATED : CALIBRATED + EVALUATED]
    build("", arguments, feeds, arguments.work / "exact.onnx")
    expected = outputs_of(arguments.work / "exact.onnx", seen)
    whole = (arguments.work / "exact.onnx").stat().st_size
    print(
        "| pipeline | least cosine | mean | least without padding | size |\n|---|---|---|---|---|"
    )
    for text in arguments.pipelines:
        path = arguments.work / "candidate.onnx"
        build(text, arguments, feeds, path)
        row = compare(expected, outputs_of(path, seen), seen)
        print(f"| `{text}` | {row} | {path.stat().st_size / whole:.3f} |", flush=True)


if __name__ == "__main__":
    main()
