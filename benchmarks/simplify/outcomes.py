"""What a results file says of our pipelines beside the peers, graph by graph."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

Row = Mapping[str, Any]
EXACT, FUSED = "graphopt:@exact", "graphopt:@fused"


def verified(row: Row, tools: Iterable[str]) -> dict[str, Row]:
    """Return the results of tools whose output verifies."""
    results = row["tools"]
    return {name: results[name] for name in tools if results.get(name, {}).get("verifies")}


def best(row: Row, tools: Iterable[str]) -> tuple[str, Row] | None:
    """Return the tool with the fewest nodes among those that verify."""
    found = verified(row, tools)
    return min(found.items(), key=lambda item: item[1]["nodes"], default=None)


def outcome(row: Row, tool: str, peers: Iterable[str]) -> str:
    """Return `win`, `tie`, `loss N` (N nodes too many), or `-` where nothing can be compared."""
    ours, theirs = verified(row, [tool]).get(tool), best(row, peers)
    if tool not in row["tools"] or theirs is None:
        return "-"
    if ours is None:
        return "failed"
    difference = ours["nodes"] - theirs[1]["nodes"]
    return f"loss {difference}" if difference > 0 else ("win" if difference else "tie")


def ratios(rows: Iterable[Row], tool: str, peers: Iterable[str], measure: str) -> dict[str, float]:
    """Return, by graph, a measure of ours over that of the better of some peers."""
    found = {}
    for row in rows:
        ours = row["tools"].get(tool, {}).get(measure)
        theirs = [item[measure] for item in verified(row, peers).values() if measure in item]
        if ours and theirs:
            found[row["name"]] = ours / min(theirs)
    return found


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean of at least one positive number."""
    logarithms = [math.log(value) for value in values]
    return math.exp(sum(logarithms) / len(logarithms))


def spread(found: Mapping[str, float]) -> str:
    """Return geometric mean and worst of ratios by graph."""
    if not found:
        return "nothing to compare"
    worst = max(found, key=lambda name: found[name])
    return (
        f"geometric mean {geometric_mean(found.values()):.2f}, worst {found[worst]:.2f} ({worst})"
    )
