"""What pruning can cut of every architecture, and what it refuses: no attention passed over.

Usage:
    python benchmarks/prune/surgery.py --zoo zoo --work work --out results.json
        [--models bert_base.ts,gpt2.dyn] [--again] [--no-integers] [--table results_surgery.md]

`zoo/` holds NAME.EXPORTER/model.onnx (`dyn`, `ts`: torch.onnx.export with and without dynamo;
`optimum`: optimum's exporter). Of each graph, as it was exported: the groups found; 25 % of heads,
of neurons and of channels cut by themselves, one layer, and all three kinds together; then that
file quantized, dynamically and statically, and run. Every attention must be one of a group of heads
or refused with a reason, and there must be as many as the architecture has. Results are written
after each graph; what was measured is not measured again, unless `--again`.

The exit status is 1 where an attention is missing or a group was neither pruned nor refused.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
Record = dict[str, Any]
KINDS = ("heads", "neurons", "channels")
COLUMNS = (
    "graph",
    "attentions: free, refused",
    "heads",
    "neurons",
    "channels",
    "a layer",
    "self-test",
    "parameters",
    "in integers",
    "seconds",
)

ATTENTIONS = {
    "bert_base": 12,
    "clip": 24,
    "convnext_tiny": 0,
    "detr": 18,
    "distilbert": 6,
    "efficientnet_b0": 0,
    "gpt2": 12,
    "gpt2_past": 12,
    "llama4": 4,
    "llama4_past": 4,
    "minilm": 6,
    "mobilenetv2": 0,
    "resnet50": 0,
    "segformer_b0": 8,
    "swin_tiny": 12,
    "t5s_dec": 12,
    "t5s_enc": 6,
    "t5s_merged": 24,
    "vit_base": 12,
    "whisper_dec": 8,
    "whisper_enc": 4,
}
"""How many attentions each architecture has: layers, twice where they attend to another model, and
twice in a file that holds the decoder with a cache and without one."""


def examine(model: Path, work: Path, arguments: argparse.Namespace) -> Record:
    """Examine one graph in a process of its own."""
    command = [sys.executable, str(HERE / "surgery_case.py"), str(model), str(work)]
    command += ["--no-integers"] if arguments.no_integers else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment,
            timeout=arguments.timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {arguments.timeout} s"}
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return dict(json.loads(line.removeprefix("RESULT ")))
    return {"failed": (done.stderr.strip().splitlines() or ["no answer"])[-1]}


def holes(name: str, record: Record) -> list[str]:
    """Return what was passed over in silence in one graph."""
    if "failed" in record:
        return [record["failed"]]
    found = []
    expected = ATTENTIONS.get(name.partition(".")[0])
    if expected is not None and record["attentions"] != expected:
        found.append(f"{record['attentions']} attentions of {expected}")
    free = record["attentions_free"] + sum(record["attentions_refused"].values())
    if free != record["attentions"]:
        found.append("an attention is neither free nor refused")
    for kind in KINDS:
        done = _done(record, kind)
        told = done.get("pruned", 0) + sum(done.get("refused", {}).values())
        if "failed" in done or told < record["groups"].get(kind, 0):
            found.append(done.get("failed", f"a group of {kind} was neither cut nor refused"))
    return found


def _done(record: Record, kind: str) -> Record:
    """Return what the pass for one kind did; one that had nothing to look at did nothing."""
    run = record["layers" if kind == "layers" else "all"]
    if "failed" in run:
        return dict(run)
    none = {"pruned": 0, "refused": {}, "why": {}, "self_test": None}
    return dict(run["passes"].get(f"prune-{kind}", none))


def report(records: Mapping[str, Record]) -> str:
    """Return the table, in Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += [_row(name, record) for name, record in sorted(records.items())]
    reasons: dict[str, str] = {}
    for name, record in sorted(records.items()):
        for kind in () if "failed" in record else (*KINDS, "layers"):
            for slug, why in _done(record, kind).get("why", {}).items():
                reasons.setdefault(slug, f"{name}: {why}")
    cached = {name: record["caches"] for name, record in records.items() if "caches" in record}
    if cached:
        lines += ["", "Heads of caches, cut with `caches=true`:", ""]
    for name, run in sorted(cached.items()):
        done = run.get("passes", {}).get("prune-heads", run)
        lines.append(f"- {name}: {_cut(done)}; self-test {done.get('self_test')}")
    lines += ["", "One example of every refusal:", ""]
    lines += [f"- `{slug}`: {why}" for slug, why in sorted(reasons.items())]
    missing = [
        (name, hole) for name, record in sorted(records.items()) for hole in holes(name, record)
    ]
    lines += ["", f"Holes: {len(missing)}", *(f"- {name}: {hole}" for name, hole in missing)]
    return "\n".join(lines) + "\n"


def _row(name: str, record: Record) -> str:
    if "failed" in record:
        return f"| {name} | {record['failed']} |||||||||"
    kinds = [_cut(_done(record, kind)) for kind in (*KINDS, "layers")]
    every = record["all"]
    tested = [_done(record, kind).get("self_test") for kind in KINDS]
    worst = max((value for value in tested if value is not None), default=None)
    refused = sum(record["attentions_refused"].values())
    cells = (
        name,
        f"{record['attentions_free']}, {refused}",
        *kinds,
        "" if not worst else f"{worst:.1g}",
        f"{every['parameters']:.2f}" if "parameters" in every else every.get("failed", ""),
        _integers(record.get("integers", {})),
        f"{every.get('seconds', 0):.0f}",
    )
    return "| " + " | ".join(cells) + " |"


def _cut(record: Record) -> str:
    """Return how many were cut, and how many were not for which reason."""
    if "failed" in record:
        return str(record["failed"])[:120]
    reasons = ", ".join(f"{count} {slug}" for slug, count in sorted(record["refused"].items()))
    return f"{record['pruned']} cut" + (f"; {reasons}" if reasons else "")


def _integers(record: Mapping[str, str]) -> str:
    return ", ".join(f"{name.removeprefix('quantize-')}: {found}" for name, found in record.items())


def versions() -> str:
    """Return what the figures were taken with."""
    import onnx

    from graphopt.runtime import cpu_name, runtime_version

    return (
        f"graphopt at work, onnx {onnx.__version__}, onnxruntime {runtime_version()}, "
        f"Python {platform.python_version()}, {cpu_name()}"
    )


def main() -> int:
    """Examine graphs, write results and the table; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for pruned files")
    parser.add_argument("--out", type=Path, required=True, help="JSON; kept between runs")
    parser.add_argument("--models", default="", help="names, comma-separated; default: all")
    parser.add_argument("--again", action="store_true", help="measure what is known, too")
    parser.add_argument("--no-integers", action="store_true", help="do not quantize and run")
    parser.add_argument("--timeout", type=int, default=1200, help="seconds for one graph")
    parser.add_argument("--table", type=Path, help="Markdown to write")
    arguments = parser.parse_args()
    known = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    names = arguments.models.split(",") if arguments.models else None
    paths = sorted(arguments.zoo.glob("*/model.onnx"))
    for path in paths:
        name = path.parent.name
        is_known = name in known and "failed" not in known[name] and not arguments.again
        if is_known or (names is not None and name not in names):
            continue
        known[name] = examine(path, arguments.work / name, arguments)
        print(_row(name, known[name]), *holes(name, known[name]), flush=True)
        arguments.out.write_text(json.dumps(known, indent=1))
    if arguments.table:
        command = "python benchmarks/prune/surgery.py --zoo zoo --work work --out results.json"
        head = f"# Surgery on every architecture\n\n`{command}`; {versions()}.\n\n"
        arguments.table.write_text(head + report(known))
    return 1 if any(holes(name, record) for name, record in known.items()) else 0


if __name__ == "__main__":
    sys.exit(main())
