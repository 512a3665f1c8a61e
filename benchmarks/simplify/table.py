"""Tables of a results file: nodes of ours beside the best peers, wins and losses, time, memory.

Usage:
    python benchmarks/simplify/table.py RESULTS... [--gap]

Of several files, a later one replaces what an earlier one says of a tool on a graph.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from acceptance import acceptance
from cases import PEERS, PORTABLE
from outcomes import EXACT, FUSED, Row, best, outcome, ratios, spread


def cell(result: tuple[str, Row] | None) -> str:
    """Return nodes and name of a tool."""
    return f"{result[1]['nodes']} {result[0]}" if result else "-"


def own(row: Row, tool: str) -> str:
    """Return the nodes of one of our pipelines, or why there are none."""
    result = row["tools"].get(tool)
    if result is None:
        return "-"
    if "nodes" not in result:
        return str(result["status"])
    return str(result["nodes"]) + ("" if result["verifies"] else " WRONG")


def nodes_table(rows: Iterable[Row]) -> str:
    """Return the table of node counts in Markdown."""
    lines = [
        "| graph | nodes | @exact | best portable peer | | @fused | best of all peers | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["name"], str(row["original"]["nodes"])]
        cells += [own(row, EXACT), cell(best(row, PORTABLE)), outcome(row, EXACT, PORTABLE)]
        cells += [own(row, FUSED), cell(best(row, PEERS)), outcome(row, FUSED, PEERS)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def cost_table(rows: Iterable[Row], measure: str) -> str:
    """Return seconds (`cpu_s`, `seconds`) or memory (`tree_mb`) of every tool in Markdown."""
    tools = [*PEERS, EXACT, FUSED]
    lines = [f"| {measure} | {' | '.join(tools)} |", "|---" * (len(tools) + 1) + "|"]
    for row in rows:
        results = [row["tools"].get(tool, {}) for tool in tools]
        cells = [
            f"{item[measure]:.2f}" if "nodes" in item else item.get("status", "-")
            for item in results
        ]
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def failures(rows: Iterable[Row]) -> str:
    """Return one line per output that is missing, wrong, or larger than the input."""
    lines = []
    for row in rows:
        for tool, result in row["tools"].items():
            if "nodes" not in result:
                lines.append(f"{row['name']} {tool}: {result['status']}: {result['error'][-160:]}")
            elif not result["verifies"]:
                why = result["fault"] or f"differs by {result['max_rel']:.2g}"
                lines.append(f"{row['name']} {tool}: WRONG: {why[:160]}")
            elif result["bytes"] > row["original"]["bytes"]:
                growth = result["bytes"] / row["original"]["bytes"]
                lines.append(f"{row['name']} {tool}: {growth:.3f} x the bytes")
    # Folders of the machine that measured say nothing to others.
    return "\n".join("- " + re.sub(r"/\S+/", "", line.replace("\n", " ")) for line in lines)


def summary(rows: list[Row]) -> str:
    """Return wins and losses, and what ours cost beside the peers."""
    lines = []
    for tool, peers in ((EXACT, PORTABLE), (FUSED, PEERS)):
        counts = Counter(outcome(row, tool, peers).split()[0] for row in rows)
        lines.append(f"{tool}: " + ", ".join(f"{n} {k}" for k, n in sorted(counts.items())))
    for measure in ("seconds", "cpu_s"):
        for peers in (("onnxsim", "onnxslim"), ("ort-basic",), ("ort-extended",)):
            found = spread(ratios(rows, EXACT, peers, measure))
            lines.append(f"{EXACT} {measure} over {' / '.join(peers)}: {found}")
    return "\n".join(lines)


def gap(row: Row, tool: str, peers: Iterable[str]) -> str | None:
    """Return which operators ours has too many and too few of beside the best peer."""
    ours, theirs = row["tools"].get(tool), best(row, peers)
    if ours is None or theirs is None or "operators" not in ours:
        return None
    surplus = Counter(ours["operators"])
    surplus.subtract(theirs[1]["operators"])
    more = [f"{name} +{n}" for name, n in surplus.most_common() if n > 0]
    fewer = [f"{name} {n}" for name, n in surplus.most_common()[::-1] if n < 0]
    head = f"{row['name']}: ours {ours['nodes']}, {cell(theirs)}"
    return f"{head}\n  more:  {', '.join(more)}\n  fewer: {', '.join(fewer)}"


def gaps(rows: Iterable[Row]) -> str:
    """Return the differences of every graph that is lost."""
    found = []
    for row in rows:
        for tool, peers in ((EXACT, PORTABLE), (FUSED, PEERS)):
            if outcome(row, tool, peers).startswith("loss"):
                found.append(f"[{tool}] {gap(row, tool, peers)}")
    return "\n".join(found)


def report(results: Mapping[str, Any]) -> str:
    """Return everything there is to say of a results file."""
    rows: list[Row] = results["graphs"]
    parts = [setting(results), acceptance(rows), nodes_table(rows), summary(rows)]
    parts += [cost_table(rows, measure) for measure in ("seconds", "cpu_s", "tree_mb")]
    return "\n\n".join([*parts, failures(rows)])


def setting(results: Mapping[str, Any]) -> str:
    """Return the machine and the versions of the tools that the figures belong to."""
    machine = ", ".join(f"{key} {value}" for key, value in results.get("machine", {}).items())
    versions = sorted(
        {
            f"{tool.partition(':')[0]} {found['version']}"
            for row in results["graphs"]
            for tool, found in row["tools"].items()
            if "version" in found
        }
    )
    return f"Machine: {machine}\n\nTools: {', '.join(versions)}"


def merged(files: Iterable[Path]) -> dict[str, Any]:
    """Return one set of results made of several."""
    graphs: dict[str, Any] = {}
    machine: dict[str, Any] = {}
    for file in files:
        results = json.loads(file.read_text(encoding="utf-8"))
        machine = results.get("machine", machine)
        for row in results["graphs"]:
            old = graphs.get(row["name"], {"tools": {}})
            graphs[row["name"]] = {**row, "tools": {**old["tools"], **row["tools"]}}
    return {"machine": machine, "graphs": [graphs[name] for name in sorted(graphs)]}


def main() -> None:
    """Print the tables of results files."""
    parser = argparse.ArgumentParser(description="Print tables of a results file.")
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--gap", action="store_true", help="operators where ours has more nodes")
    arguments = parser.parse_args()
    results = merged(arguments.results)
    print(gaps(results["graphs"]) if arguments.gap else report(results))


if __name__ == "__main__":
    main()
