"""What `--stage prune=on` makes of small trained models, from file to bundle.

Usage:
    python benchmarks/prune/train.py --out trained
    python benchmarks/prune/stage.py trained/digits_cnn trained/byte_lm --out stage.json
    python benchmarks/prune/stage.py --out stage.json --table benchmarks/prune/results_stage.md

Each model is optimized for `cpu-int8` as it is and with the stage, on its `calibration/`, and
judged by its metric on the rows of `evaluation/`, which it has not seen. `--gate NAME=VALUE` sets
other limits than those of the target, such as one that nothing pruned can hold. `--latency SECONDS`
times every candidate so long; without it the smallest that holds the gates is taken. Results are
written as they come, and what is there already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import graphopt
from graphopt.runtime import cpu_name, runtime_version

METRICS = {"byte_lm": "perplexity"}
HEADER = (
    "| model | stage | gates | shipped | gone | size | metric | after | cosine | time |",
    "|---|---|---|---|---|---:|---:|---:|---:|---:|",
)


def measured(folder: Path, is_on: bool, given: argparse.Namespace) -> dict[str, Any]:
    """Optimize one model, and return what came of it."""
    gates = {name: float(value) for name, value in (item.split("=") for item in given.gate)}
    made = graphopt.optimize(
        folder / "model.onnx",
        target="cpu-int8",
        calibration=folder / "calibration",
        evaluation=folder / "evaluation",
        metric=METRICS.get(folder.name, "top1"),
        gates=gates,
        stages={"prune": is_on},
        latency_budget_s=given.latency,
    )
    result = made.report
    errors = [item["cosine"] for item in result.error.values() if item.get("cosine") is not None]
    latency = result.latency
    return {
        "shipped": result.chosen,
        "gone": {
            kind: [
                sum(len(one.removed) for one in result.decisions if one.kind == kind),
                sum(len(one.scores) for one in result.decisions if one.kind == kind),
            ]
            for kind in sorted({one.kind for one in result.decisions})
        },
        "size_ratio": result.size_bytes.after / result.size_bytes.before,
        "metric": [result.metric.before, result.metric.after],
        "cosine": min(errors, default=None),
        "latency": None if latency is None else latency.ratio,
        "notes": [note for note in result.notes if note.startswith("left out stage")],
    }


def main() -> None:
    """Measure what is missing, then write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="*", help="a model that train.py wrote")
    parser.add_argument("--gate", nargs="*", default=[], help="NAME=VALUE of other gates")
    parser.add_argument("--latency", type=float, help="seconds to time a candidate; not timed else")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of all figures")
    parser.add_argument("--table", type=Path, help="Markdown file to write")
    given = parser.parse_args()
    results = json.loads(given.out.read_text()) if given.out.exists() else fresh()
    for folder in given.folder:
        for is_on in (False, True):
            name = " | ".join((folder.name, "on" if is_on else "off", " ".join(given.gate) or "-"))
            if name not in results["rows"]:
                results["rows"][name] = measured(folder, is_on, given)
                print(name, results["rows"][name], flush=True)
                given.out.write_text(json.dumps(results, indent=1) + "\n")
    if given.table is not None:
        given.table.write_text(page(results), encoding="utf-8")


def fresh() -> dict[str, Any]:
    """Return results without rows."""
    about = f"ONNX Runtime {runtime_version()}, {cpu_name()}, Python {platform.python_version()}."
    return {"about": about, "rows": {}}


def page(results: dict[str, Any]) -> str:
    """Return the table as Markdown."""
    lines = ["# The stage `prune` on trained models", "", results["about"]]
    lines += ["`python benchmarks/prune/stage.py --help` explains.", "", *HEADER]
    notes = []
    for name, row in results["rows"].items():
        gone = [f"{some} of {whole} {kind}" for kind, (some, whole) in row["gone"].items()]
        cells = [name, row["shipped"] or "nothing", ", ".join(gone) or "-"]
        cells += [f"{row['size_ratio']:.3f}", *(f"{value:.4f}" for value in row["metric"])]
        cells += [f"{value:.3f}" if value is not None else "-" for value in (row["cosine"],)]
        cells += [f"{row['latency']:.3f}" if row["latency"] else "-"]
        lines.append(f"| {' | '.join(cells)} |")
        notes += [f"- {name.replace(' | ', ', ')}: {note}" for note in row["notes"]]
    return "\n".join([*lines, *([""] if notes else []), *notes, ""])


if __name__ == "__main__":
    main()
