"""What an encoder of fewer heads and narrower layers takes: which ratios a target should name.

Usage:
    python benchmarks/prune/widths.py dynamo=a/model.onnx torchscript=b/model.onnx --out widths.json
    python benchmarks/prune/widths.py --out widths.json --table benchmarks/prune/results_widths.md

Each export is cut by every pair of ratios of heads and neurons, quantized as candidate `dynamic` of
`cpu-int8` is, and timed in turns with the original at batch 1 and 128 tokens: CPU time over the
original's. Which units go makes no difference to time, so that these are those of the least weights
and nothing is fitted; what is left of quality, `minilm.py` and `similarity_task.py` tell. The pair
`0/0` cuts nothing, and `peer` in place of a pair is what ONNX Runtime's `quantize_dynamic` makes of
the export, by channel. Results are written as they come; `--again` measures what is there already
once more; `--build` makes the models of `--work` and times nothing.

A process that starts on one core alone (`taskset`) gets no AMX kernels from ONNX Runtime: products
of integers then take 2.8 times as long, those of floats do not. Leave it both cores.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import graphopt
from graphopt.calibration import load_samples
from graphopt.ir import external_files, load
from graphopt.runtime import SessionOptions, cpu_name, measure_latency, runtime_version

TOKENS = 128
PEER = "peer"
PAIRS = (PEER, "0/0", "0.25/0.25", "0.25/0.5", "0.33/0.5", "0.33/0.58", "0.42/0.5")
DYNAMIC = "quantize-dynamic,clear-value-info"


def made(original: Path, pair: str, folder: Path) -> Path:
    """Return the file of one export cut by one pair of ratios, or by the peer, in integers."""
    path = folder / f"{pair.replace('/', '_')}.onnx"
    if path.exists():
        return path
    if pair == PEER:
        from onnxruntime.quantization import quantize_dynamic

        quantize_dynamic(original, path, per_channel=True)
        return path
    cuts = ""
    if pair != "0/0":
        heads, neurons = pair.split("/")
        rest = "score=l2 compensation=off}"
        cuts = f"prune-heads{{ratio={heads} {rest},prune-neurons{{ratio={neurons} {rest},"
    graphopt.run_pipeline(
        original, f"@exact,{cuts}{DYNAMIC}", path, target="cpu-int8", verify="structure"
    )
    return path


def size_of(path: Path) -> int:
    """Return the bytes of a model, of files that hold its weights too."""
    return sum(one.stat().st_size for one in {path, *external_files(load(path))})


def feed() -> dict[str, Any]:
    """Return the input that is timed."""
    ids = np.random.default_rng(0).integers(1000, 30000, (1, TOKENS))
    return {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
    }


def main() -> None:
    """Measure what is missing, then write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="*", help="EXPORT=FILE")
    parser.add_argument("--pairs", nargs="+", default=PAIRS, help="HEADS/NEURONS, what goes")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each comparison")
    parser.add_argument("--again", action="store_true", help="measure everything once more")
    parser.add_argument("--build", action="store_true", help="make the models, and time none")
    parser.add_argument("--work", type=Path, help="keeps the models; a temporary folder else")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of all figures")
    parser.add_argument("--table", type=Path, help="Markdown file to write")
    given = parser.parse_args()
    results = json.loads(given.out.read_text()) if given.out.exists() else fresh()
    with tempfile.TemporaryDirectory() as temporary:
        for export, source in (item.split("=", 1) for item in given.model):
            folder = (given.work or Path(temporary)) / export
            folder.mkdir(parents=True, exist_ok=True)
            for pair in given.pairs:
                key = f"{export} {pair}"
                if key in results["rows"] and not given.again:
                    continue
                path = made(Path(source), pair, folder)
                if given.build:
                    continue
                (sample,) = load_samples([feed()])
                compared = measure_latency(
                    Path(source), path, sample, options=SessionOptions(), budget_s=given.seconds
                )
                row = results["rows"].setdefault(key, {"latency": []})
                row["latency"].append(float(compared.cpu_ratio))
                row["size"] = size_of(path) / size_of(Path(source))
                print(key, row, flush=True)
                given.out.write_text(json.dumps(results, indent=1) + "\n")
    if given.table is not None:
        given.table.write_text(page(results), encoding="utf-8")


def fresh() -> dict[str, Any]:
    """Return results without rows."""
    about = f"ONNX Runtime {runtime_version()}, {cpu_name()}, Python {platform.python_version()}."
    return {"about": about, "rows": {}}


def page(results: dict[str, Any]) -> str:
    """Return the table as Markdown."""
    lines = ["# Time of an encoder by its widths", "", results["about"]]
    lines += ["`python benchmarks/prune/widths.py --help` explains.", ""]
    lines += ["| export | heads gone | neurons gone | CPU time | size |", "|---|---|---|---|---:|"]
    for key, row in sorted(results["rows"].items()):
        export, pair = key.split()
        widths = "`quantize_dynamic` | by channel" if pair == PEER else pair.replace("/", " | ")
        times = " / ".join(f"{value:.3f}" for value in row["latency"])
        lines.append(f"| {export} | {widths} | {times} | {row['size']:.3f} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
