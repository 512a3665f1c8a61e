"""Pipelines for one target beside each other, by numbers alone: which would hold its gates?

Usage:
    python benchmarks/targets/candidates.py --zoo zoo --work work [--out results_candidates.json]
        [--table results_candidates.md] [--again] [--target edge-qnn-htp [PIPELINE ...]]

Each pipeline runs on MiniLM with a batch of 1 and sequences of 128, after `@exact`, calibrated on
eight padded sentences of `zoo/minilm_samples`. Results of six others come from ONNX Runtime's CPU
provider without optimizations, as for any target whose provider is not here. A row says the least
and the mean cosine between all outputs and the original's, the least one without the positions that
padding fills, and bytes over those of the same model after `@exact`.

Without `--target` all of `PIPELINES` run. Results are kept in `--out`; what is there is not run
again, unless `--again`. With `--table` the table between the two marks of that page is replaced.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from build_all import MODELS, _prepare_samples, machine

SMOOTHED = "bound-masks,smooth-activations,quantize-static"
SCORES, DENSE = "*self/MatMul*", "*output/dense/*"  # products of attention, behind it and the GELU
FLAT = "flatten-products,quantize-static{padding=true}"
FLAT_BUT_DENSE = f'flatten-products,quantize-static{{padding=true exclude=["{DENSE}"]}}'
TABLES = "quantize-dynamic{ops=[Gather]}"
PIPELINES = {
    "edge-qnn-htp": (
        "bound-masks,quantize-static",
        "bound-masks,quantize-static{padding=true}",
        "bound-masks,smooth-activations,quantize-static",
        "bound-masks,level-columns,quantize-static{padding=true}",
    ),
    "tensorrt-int8": (
        "bound-masks,quantize-static",
        SMOOTHED,
        f"{SMOOTHED}{{padding=true}}",
        f'{SMOOTHED}{{padding=true exclude=["{SCORES}"]}}',
        f'{SMOOTHED}{{padding=true exclude=["{DENSE}"]}}',
        f'{SMOOTHED}{{padding=true exclude=["{SCORES}","{DENSE}"]}}',
    ),
    "edge-nnapi": (
        f"bound-masks,{FLAT}",
        f"bound-masks,smooth-activations,{FLAT},{TABLES}",
        f"bound-masks,smooth-activations,level-columns,{FLAT},{TABLES}",
        f"bound-masks,smooth-activations,level-columns,{FLAT_BUT_DENSE},{TABLES}",
    ),
    "openvino-int8": (
        "bound-masks,quantize-static",
        "bound-masks,quantize-static{padding=true}",
        SMOOTHED,
        f"{SMOOTHED}{{padding=true}}",
        f'{SMOOTHED}{{padding=true exclude=["{DENSE}"]}}',
        "quantize-weights{bits=8}",
    ),
}
"""By target: what was tried."""

BEGIN = "<!-- made by benchmarks/targets/candidates.py: begin -->"
END = "<!-- made by benchmarks/targets/candidates.py: end -->"
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


def compare(
    expected: Sequence[Any], found: Sequence[Any], feeds: Sequence[Feed]
) -> dict[str, float]:
    """Return the three cosines."""
    whole = [cosine(*pair) for pair in zip(expected, found, strict=True)]
    kept = [feed[MASK].astype(bool) for feed in feeds]
    parts = [
        cosine(first[mask], second[mask])
        for first, second, mask in zip(expected, found, kept, strict=True)
    ]
    return {"least": min(whole), "mean": float(np.mean(whole)), "unpadded": min(parts)}


def build(
    text: str, target: str, arguments: argparse.Namespace, feeds: Sequence[Feed], path: Path
) -> None:
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
        target=load_target(target).to_facts(),
        statistics_provider=Calibrator(
            samples=load_samples(feeds[:CALIBRATED]), worker=shared_worker()
        ),
    )
    save(model, path)


def table_text(results: Mapping[str, Any]) -> str:
    """Return all results as a table in Markdown."""
    lines = [
        results["machine"],
        "",
        "| target | pipeline | least | mean | without padding | size |",
    ]
    lines.append("|---" * 6 + "|")
    for target, rows in results["targets"].items():
        for text, row in rows.items():
            numbers = " | ".join(f"{row[key]:.4f}" for key in ("least", "mean", "unpadded"))
            lines.append(f"| `{target}` | `{text}` | {numbers} | {row['size']:.3f} |")
    return "\n".join(lines)


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pipelines", nargs="*")
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--target", help="default: all of them")
    parser.add_argument("--again", action="store_true", help="run what was run before, too")
    here = Path(__file__).parent
    parser.add_argument("--out", type=Path, default=here / "results_candidates.json")
    parser.add_argument("--table", type=Path, help="page whose table is replaced")
    return parser.parse_args()


def run(
    wanted: Mapping[str, Sequence[str]], held: dict[str, Any], given: argparse.Namespace
) -> None:
    """Build and compare what is wanted, and keep it in `held` and in its file."""
    _, samples, dims = MODELS["minilm"]
    folder = given.work / "minilm_padded"
    _prepare_samples(given.zoo / samples, folder, dims)
    feeds = feeds_of(folder)
    seen = feeds[CALIBRATED : CALIBRATED + EVALUATED]
    exact, path = given.work / "exact.onnx", given.work / "candidate.onnx"
    for target, pipelines in wanted.items():
        rows = held["targets"].setdefault(target, {})
        left = [text for text in pipelines if text not in rows or given.again]
        if not left:
            continue
        build("", target, given, feeds, exact)
        expected = outputs_of(exact, seen)
        for text in left:
            build(text, target, given, feeds, path)
            size = path.stat().st_size / exact.stat().st_size
            rows[text] = {**compare(expected, outputs_of(path, seen), seen), "size": size}
            print(target, text, rows[text], flush=True)
            given.out.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Build, compare, and write the table."""
    given = parsed()
    given.work.mkdir(parents=True, exist_ok=True)
    held: dict[str, Any] = {"targets": {}}
    if given.out.exists():
        held = json.loads(given.out.read_text(encoding="utf-8"))
    held["machine"] = f"{machine()}; without the runtime's optimizations."
    wanted = PIPELINES if given.target is None else {given.target: PIPELINES.get(given.target, ())}
    if given.pipelines:
        wanted = {given.target: given.pipelines}
    run(wanted, held, given)
    if given.table is not None:
        page = given.table.read_text(encoding="utf-8")
        text = f"{BEGIN}\n{table_text(held)}\n{END}"
        pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
        given.table.write_text(
            re.sub(pattern, lambda _: text, page, flags=re.DOTALL), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
