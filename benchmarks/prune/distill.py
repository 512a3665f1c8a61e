"""What distillation gives back to a real sentence encoder that was pruned, for how much CPU time.

Usage:
    python benchmarks/prune/sentences.py --tokenizer FOLDER --out samples --calibration 12000
    python benchmarks/prune/distill.py --model model.onnx --samples samples --work models \
        --out distill.json --table benchmarks/prune/results_distill.md

`model.onnx` is all-MiniLM-L6-v2; torch must be installed (`pip install 'graphopt[torch]'`). A
quarter of the heads and of the neurons, or as much as `--heads` and `--neurons` say, is cut and
compensated, on as many feeds as `--few` says; then `distill` trains what is left on all passages.
Both are quantized as well, as the target cpu-int8-pruned does. Judged as by minilm.py: by 800
passages of subjects that were not calibrated on. CPU time is that of the process and its workers.

Models that are in `--work` already are not made again, nor figures that are in `--out`.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from minilm import Judge, size_of

import graphopt
from graphopt.runtime import cpu_name, shared_worker

CUT = (
    "prune-heads{{ratio={heads} score={score} compensation=off}},"
    "prune-neurons{{ratio={neurons} score={score} compensation={compensation}}}"
)
INTEGERS = "quantize-dynamic,clear-value-info"
FIGURES = ("pairs", "all", "cosine")


def cpu_minutes() -> float:
    """Return the CPU time spent so far, by the worker too: it is ended, so that it counts."""
    shared_worker().close()
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages) / 60.0


def made(base: Path, pipeline: str, samples: Path | None, path: Path) -> dict[str, Any]:
    """Run a pipeline, unless its result is there; return what it took and what it said."""
    if path.exists():
        return {}
    began = cpu_minutes()
    report = graphopt.run_pipeline(
        base,
        pipeline,
        path,
        calibration=None if samples is None else str(samples),
        verify="structure",
        progress=lambda event: print(f"  {event.message}  ", end="\r", flush=True),
    )
    return {"pipeline": pipeline, "minutes": cpu_minutes() - began, "notes": report.ledger.notes}


def part_of(samples: Path, count: int, folder: Path) -> Path:
    """Return a folder with the first feeds."""
    if not folder.exists():
        folder.mkdir()
        for path in sorted((samples / "calibration").glob("*.npz"))[:count]:
            shutil.copy(path, folder)
    return folder


def page(results: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    lines = [
        "# A pruned sentence encoder, distilled",
        "",
        f"{results['machine']}; {versions}. `python benchmarks/prune/distill.py --help` explains.",
        "Pruned by {} feeds of at most 16 passages, distilled by {}.".format(*results["feeds"]),
        "",
        "| model | pairs | all | cosine | size | CPU minutes |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in results["rows"].items():
        figures = " | ".join(f"{found[key]:.4f}" for key in FIGURES)
        minutes = f"{found['minutes']:.1f}" if "minutes" in found else "-"
        lines.append(f"| {name} | {figures} | {found['size_ratio']:.3f} | {minutes} |")
    lines.append("")
    for name, found in results["rows"].items():
        said = [note for note in found.get("notes", ()) if note.startswith("distill")]
        lines.append(f"- {name}: `{found.get('pipeline', '')}`{''.join(f'; {n}' for n in said)}")
    return "\n".join([*lines, ""])


def main() -> None:
    """Prune, distil and judge; write figures after each step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="all-MiniLM-L6-v2")
    parser.add_argument("--samples", type=Path, required=True, help="what sentences.py wrote")
    parser.add_argument("--work", type=Path, required=True, help="keeps the models")
    parser.add_argument("--few", type=int, default=100, help="feeds to prune by")
    parser.add_argument("--taught", type=int, default=10**6, help="feeds to distil by")
    parser.add_argument("--heads", type=float, default=0.25, help="share of heads that goes")
    parser.add_argument("--neurons", type=float, default=0.25, help="share of neurons that goes")
    parser.add_argument("--score", default="obs", help="of units")
    parser.add_argument("--compensation", default="least-squares", help="before distillation")
    parser.add_argument(
        "--options",
        default="steps=1200 batch=48 pool=mean loss=cosine similarity=1.0 minutes=9.5",
        help="of distill",
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file of all figures")
    parser.add_argument("--table", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    work = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    packages = ("onnxruntime", "torch", "numpy")
    results: dict[str, Any] = {
        "versions": {name: version(name) for name in packages},
        "machine": f"{cpu_name()}, Python {platform.python_version()}",
        "feeds": [arguments.few, arguments.taught],
        "rows": {},
    }
    if arguments.out.exists():
        results["rows"] = json.loads(arguments.out.read_text())["rows"]
    judge = Judge(arguments.model, arguments.samples)
    few = part_of(arguments.samples, arguments.few, work / "few")
    cut = CUT.format(**vars(arguments))
    names = ("exact", "pruned", "pruned_integers", "distilled", "distilled_integers")
    exact, pruned, small, taught, both = (work / f"{name}.onnx" for name in names)
    distill = f'distill{{teacher="{exact}" {arguments.options}}}'
    lessons = part_of(arguments.samples, arguments.taught, work / f"taught_{arguments.taught}")
    steps = (
        ("after @exact", arguments.model, "@exact", None, exact),
        ("pruned", exact, cut, few, pruned),
        ("pruned, in integers", pruned, INTEGERS, None, small),
        ("distilled", pruned, distill, lessons, taught),
        ("distilled, in integers", taught, INTEGERS, None, both),
    )
    for name, base, pipeline, samples, path in steps:
        found = made(base, pipeline, samples, path)
        row = results["rows"].setdefault(name, {})
        if found or not set(FIGURES) <= set(row):
            row |= found | judge.of(path)
            row["size_ratio"] = size_of(path) / size_of(arguments.model)
        print(name, {key: row[key] for key in FIGURES}, row.get("minutes"), flush=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    if arguments.table is not None:
        arguments.table.write_text(page(results))


if __name__ == "__main__":
    main()
