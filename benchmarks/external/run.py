"""Every other optimizer that is installed, over every graph of a zoo, behind the gate.

Usage:
    python benchmarks/external/run.py --zoo zoo --out results.json
        [--tools onnxsim,onnxslim] [--models minilm.ts,gpt2.dyn] [--timeout 300] [--again]
        [--interpreter ort-transformers=PYTHON] [--table results.md]

`zoo/` holds NAME.EXPORTER/model.onnx (`dyn`, `ts`: torch.onnx.export with and without dynamo;
`optimum`: optimum's exporter). Each tool is one command, `graphopt run MODEL --pipeline
'external-TOOL{timeout_s=300}' --check --json`, as its users give it; what it leaves is judged like
the result of any pass: structure, inputs and outputs, numbers within 1e-4 of the largest on
generated inputs of two sizes, random draws. Smaller models come first. Results are written after
each run; what was run is not run again, unless `--again`. `--table` alone writes the table anew.

The exit status is 1 where graphopt itself failed, or a tool was neither accepted nor rolled back
with a reason.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "simplify"))

from cases import peer_options

Record = dict[str, Any]
TOOLS = {
    "onnxsim": ("onnxsim", {}),
    "onnxslim": ("onnxslim", {}),
    "onnxscript": ("onnxscript", {}),
    "onnxruntime-basic": ("onnxruntime", {"level": "basic"}),
    "onnxruntime-extended": ("onnxruntime", {"level": "extended"}),
    "ort-transformers": ("ort-transformers", {}),
}
"""By column of the table: the pass without `external-`, and its options."""

PACKAGES = ("onnxsim", "onnxslim", "onnxscript", "onnxruntime", "onnx", "onnx-ir")
OVERHEAD_S = 600.0
"""Beyond the limit of the tool: loading, writing, running original and result."""


def main() -> int:
    """Run what is missing, write the records and the table."""
    given = arguments()
    records: Record = json.loads(given.out.read_text()) if given.out.exists() else {}
    if given.zoo is not None:
        for model in models(given.zoo, given.models):
            for tool in given.tools:
                key = f"{model.parent.name} {tool}"
                if given.again or key not in records:
                    records[key] = one_run(model, tool, given)
                    sys.stderr.write(f"{key}: {cell(records[key])}\n")
                    given.out.write_text(json.dumps(records, indent=1, sort_keys=True) + "\n")
    if given.table is not None:
        given.table.write_text(table(records, given.tools), encoding="utf-8")
    return int(any(record["verdict"] == "error" for record in records.values()))


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog=(__doc__ or "").partition("\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--zoo", type=Path, help="without it nothing is run")
    parser.add_argument("--out", type=Path, required=True, help="records, JSON")
    parser.add_argument("--table", type=Path, help="the same for people, Markdown")
    parser.add_argument("--tools", type=lambda text: text.split(","), default=list(TOOLS))
    parser.add_argument("--models", type=lambda text: text.split(","), default=[])
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one tool")
    parser.add_argument(
        "--interpreter", action="append", default=[], metavar="TOOL=PYTHON", help="that has it"
    )
    parser.add_argument("--again", action="store_true", help="run everything again")
    return parser.parse_args()


def models(zoo: Path, only: Sequence[str]) -> list[Path]:
    """Return the models of a zoo, small ones first."""
    found = [path for path in zoo.glob("*/model.onnx") if not only or path.parent.name in only]
    size = {path: sum(file.stat().st_size for file in path.parent.iterdir()) for path in found}
    return sorted(found, key=lambda path: (size[path], path))


def one_run(model: Path, tool: str, given: argparse.Namespace) -> Record:
    """Run one tool on one model; return what graphopt said of it."""
    words = [sys.executable, "-m", "graphopt", "run", str(model.absolute()), "--check", "--json"]
    words += ["--no-progress", "--pipeline", pass_text(model.parent.name, tool, given)]
    # Reproducers are written to the current folder: here they go with it.
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        try:
            ended = subprocess.run(
                words,
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=given.timeout + OVERHEAD_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"verdict": "error", "reason": "graphopt took too long"}
        took = time.monotonic() - start
    try:
        said = json.loads(ended.stdout)
    except ValueError:
        said = {}
    if "passes" not in said:
        error = said.get("error") or {}
        why = error.get("message") or ended.stderr.strip()[-300:]
        return {"verdict": "error", "reason": f"{why} {error.get('why') or ''}".strip()}
    entry = said["passes"][0]
    return {
        "verdict": entry["status"],
        "reason": entry["reason"],
        "nodes_before": entry["nodes_before"],
        "nodes": entry["nodes_after"],
        "bytes_before": entry["bytes_before"],
        "bytes": entry["bytes_after"],
        "tool_s": round(entry["seconds"], 2),
        "whole_s": round(took, 2),
    }


def pass_text(name: str, tool: str, given: argparse.Namespace) -> str:
    """Return the pass as pipeline text, for the architecture in the name of a graph."""
    pass_name, options = TOOLS[tool]
    told: dict[str, Any] = {**options, "timeout_s": given.timeout}
    if tool == "ort-transformers":
        told |= peer_options("ort-transformers", name)
    pythons = dict(text.split("=", 1) for text in given.interpreter)
    if tool in pythons:
        told["interpreter"] = json.dumps(pythons[tool])
    return f"external-{pass_name}{{{' '.join(f'{key}={value}' for key, value in told.items())}}}"


def cell(record: Mapping[str, Any]) -> str:
    """Return one run in a few words."""
    verdict = record["verdict"]
    if verdict in ("applied", "unchanged"):
        nodes = f"{record['nodes']}" if verdict == "applied" else "="
        return f"{nodes} ({record['tool_s']:.1f} s)"
    return f"{verdict}: {record['reason']}"


def table(records: Mapping[str, Record], tools: Sequence[str]) -> str:
    """Return the records as Markdown: one table, then every reason."""
    names = sorted({key.split(" ")[0] for key in records})
    shown = [tool for tool in tools if any(key.endswith(f" {tool}") for key in records)]
    reasons: dict[str, str] = {}
    rows = []
    for name in names:
        cells = [_marked(records.get(f"{name} {tool}"), reasons) for tool in shown]
        before = next(
            (
                records[f"{name} {tool}"]["nodes_before"]
                for tool in shown
                if "nodes_before" in records.get(f"{name} {tool}", {})
            ),
            "",
        )
        rows.append([f"`{name}`", str(before), *cells])
    lines = [
        _HEAD.format(
            versions=", ".join(f"{name} {_version(name)}" for name in PACKAGES),
            machine=f"{platform.machine()}, {os.cpu_count()} cores, Python "
            f"{platform.python_version()}",
        ),
        _row(["graph", "nodes", *shown]),
        _row(["---", "---:", *("---:" for _ in shown)]),
        *map(_row, rows),
        "",
        *(f"- **{mark}** {reason}" for reason, mark in reasons.items()),
        "",
        "| tool | accepted | nothing to do | rolled back |",
        "|---|---:|---:|---:|",
    ]
    for tool in shown:
        found = Counter(
            record["verdict"] for key, record in records.items() if key.endswith(f" {tool}")
        )
        counts = [str(found[verdict]) for verdict in ("applied", "unchanged", "rolled-back")]
        lines.append(_row([f"`external-{tool}`", *counts]))
    return "\n".join(lines) + "\n"


_HEAD = """# Other optimizers over the zoo, behind the gate

`python benchmarks/external/run.py --zoo zoo --out results.json --table results.md`

{versions}. Machine: {machine}.
A number is the nodes that the tool left, all graphs counted, and the seconds that it took, its
start included (wall time on a busy machine: good for the order of things only); `=`: it changed
nothing. A letter: **rolled back**, for the reason below; the model stays as it was and the
pipeline goes on. `not run`, and graphs of the zoo that are not here: they were not run yet.
"""


def _marked(record: Record | None, reasons: dict[str, str]) -> str:
    if record is None:
        return "not run"
    if record["verdict"] in ("applied", "unchanged"):
        return cell(record)
    mark = reasons.setdefault(_general(record["reason"] or ""), _letter(len(reasons)))
    return f"**{mark}** ({record['tool_s']:.1f} s)" if "tool_s" in record else f"**{mark}**"


def _general(reason: str) -> str:
    """Return a reason without names of nodes and counts, so that graphs share it."""
    said = re.sub(r"node `[^`]*` \(", "a node (", " ".join(reason.split()))
    said = re.sub(r"opset \d+( \(and \d+ more\))?$", "its opset", said)
    return said.replace("|", "\\|")


def _letter(number: int) -> str:
    head, last = divmod(number, 26)
    return ("" if head == 0 else chr(ord("a") + head - 1)) + chr(ord("a") + last)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    sys.exit(main())
