"""The simplifier benchmark: `@exact` and `@fused` beside every peer, graph by graph.

Usage:
    python benchmarks/simplify/run.py --zoo zoo --peers peers/bin/python --out results.json
        [--models minilm.ts,gpt2.dyn] [--tools graphopt:@exact,onnxsim] [--repeats 3] [--latency]
        [--reuse earlier.json] [--keep FOLDER]

`zoo/` holds NAME.EXPORTER/model.onnx and spec.json. Every tool runs in a process of its own; every
output is verified against the original at two shapes with the runtime's optimizations disabled.
`--reuse` takes what is not asked for again from an earlier file. Results are written after each
graph, so a stopped run loses nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cases import PEERS, peer_options
from feeds import Feed, make_feeds
from graphs import describe, write_structure
from judge import Judge
from measured import run_measured
from outcomes import EXACT, FUSED
from table import report

HERE = Path(__file__).parent
Record = dict[str, Any]


def our_tools() -> tuple[str, ...]:
    """Return our pipelines that exist."""
    from graphopt.pipeline import named_pipelines

    names = {f"graphopt:@{pipeline.name}" for pipeline in named_pipelines()}
    return tuple(tool for tool in (EXACT, FUSED) if tool in names)


def run_once(tool: str, model: Path, out: Path, arguments: argparse.Namespace) -> Record:
    """Run one tool on one model, once."""
    python = sys.executable if tool.startswith("graphopt:") else arguments.peers
    options = json.dumps(peer_options(tool, model.parent.name))
    command = [python, str(HERE / "peers.py"), tool, str(model), str(out), "--options", options]
    clear(out)
    done = run_measured(command, timeout_s=arguments.timeout, memory_mb=arguments.memory)
    line = next((text for text in done.stdout.splitlines() if text.startswith("RESULT ")), None)
    if done.status != "done" or line is None or not out.exists():
        status = done.status if done.status != "done" else "failed"
        return {"status": status, "error": done.stderr, "wall_s": done.wall_s}
    record = json.loads(line.removeprefix("RESULT "))
    return {"status": "done", **record, "wall_s": done.wall_s, "tree_mb": done.tree_mb}


def run_by_turns(
    tools: Iterable[str], model: Path, work: Path, arguments: argparse.Namespace
) -> dict[str, Record]:
    """Run each tool once per repeat, by turns: load from outside falls on all of them alike.

    The least time and memory count; a tool that fails once has failed, and is not tried again.
    """
    found: dict[str, Record] = {}
    for _ in range(arguments.repeats):
        for tool in tools:
            best = found.get(tool)
            if best is not None and best["status"] != "done":
                continue
            run = run_once(tool, model, output_of(tool, work), arguments)
            if best is not None and run["status"] == "done":
                run |= {key: min(run[key], best[key]) for key in ("seconds", "cpu_s", "tree_mb")}
            found[tool] = run
    return found


def output_of(tool: str, work: Path) -> Path:
    """Return where a tool writes; a folder of its own, for its external data."""
    return work / tool.replace(":", "_").replace("@", "") / "model.onnx"


def clear(out: Path) -> None:
    """Empty the folder of an output."""
    shutil.rmtree(out.parent, ignore_errors=True)
    out.parent.mkdir(parents=True)


def latency(original: Path, candidate: Path, feed: Feed, budget_s: float) -> Record:
    """Time original and candidate by turns under the runtime's default settings."""
    from graphopt.runtime import SessionOptions, measure_latency

    found = measure_latency(original, candidate, feed, options=SessionOptions(), budget_s=budget_s)
    return {
        "verdict": found.verdict,
        "ratio": found.ratio,
        "ratio_low": found.ratio_low,
        "ratio_high": found.ratio_high,
        "cpu_ratio": found.cpu_ratio,
    }


def examine(
    result: Record, out: Path, judge: Judge, arguments: argparse.Namespace, *, name: str
) -> None:
    """Add to the record of a run what its output is worth."""
    result |= {**describe(out), **judge.verdict(out)}
    if arguments.keep:
        write_structure(out, arguments.keep / f"{name}.{out.parent.name}.onnx")


def run_graph(
    name: str, tools: Iterable[str], old: Record, arguments: argparse.Namespace
) -> Record:
    """Run the tools on one graph; return its row, which keeps what `old` knows of other tools."""
    model = arguments.zoo / name / "model.onnx"
    row: Record = {"name": name, "original": describe(model), "tools": dict(old.get("tools", {}))}
    missing = [
        tool
        for tool in tools
        if not (arguments.resume and row["tools"].get(tool, {}).get("status") == "done")
    ]
    if not missing:
        return old
    judge = Judge(model, make_feeds(model.parent))
    row["inputs_skipped"] = judge.skipped
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        for tool, result in run_by_turns(missing, model, Path(work), arguments).items():
            if result["status"] == "done":
                out = output_of(tool, Path(work))
                examine(result, out, judge, arguments, name=name)
                if arguments.latency and tool == EXACT and result["verifies"]:
                    result["latency"] = latency(model, out, judge.feeds[0], arguments.budget)
            row["tools"][tool] = result
            print(f"{name} {tool}: {told(result)}", flush=True)
    return row


def told(result: Record) -> str:
    """Return one line about a run."""
    said = result.get("nodes", result["status"])
    fault = "" if result.get("verifies", True) else f" WRONG {result['fault'] or ''}"
    return f"{said} in {result.get('seconds', result['wall_s']):.1f} s{fault}"


def machine() -> Record:
    """Return what the figures were measured on."""
    from graphopt.runtime import cpu_name, runtime_version

    return {"cpu": cpu_name(), "python": platform.python_version(), "verifier": runtime_version()}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Simplifiers beside each other.")
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--peers", default=sys.executable, help="Python with the extra `peers`")
    parser.add_argument("--models", help="comma-separated folders of the zoo; all by default")
    parser.add_argument("--tools", help="comma-separated; all peers and ours by default")
    parser.add_argument("--reuse", type=Path, help="results to take the other tools' rows from")
    parser.add_argument("--resume", action="store_true", help="run only what is missing")
    parser.add_argument("--repeats", type=int, default=1, help="keep the least time and memory")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds per tool and graph")
    parser.add_argument("--memory", type=float, default=12_000.0, help="MB per tool")
    parser.add_argument("--latency", action="store_true", help="time what @exact wrote, too")
    parser.add_argument("--budget", type=float, default=10.0, help="seconds per latency")
    parser.add_argument("--keep", type=Path, help="folder for the outputs without weights")
    parser.add_argument("--work", help="folder for temporary outputs")
    return parser.parse_args()


def main() -> None:
    """Run everything that is asked for."""
    arguments = parse()
    tools = arguments.tools.split(",") if arguments.tools else [*our_tools(), *PEERS]
    present = sorted(path.parent.name for path in arguments.zoo.glob("*/spec.json"))
    names = arguments.models.split(",") if arguments.models else present
    reuse = arguments.reuse or arguments.out
    earlier = json.loads(reuse.read_text(encoding="utf-8"))["graphs"] if reuse.exists() else []
    rows: dict[str, Record] = {row["name"]: row for row in earlier}
    for place, name in enumerate(names, 1):
        print(f"[{place}/{len(names)}] {name}", flush=True)
        rows[name] = run_graph(name, tools, rows.get(name, {}), arguments)
        results = {"machine": machine(), "graphs": [rows[key] for key in sorted(rows)]}
        arguments.out.write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(report(results))


if __name__ == "__main__":
    main()
