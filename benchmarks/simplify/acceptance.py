"""The promises that the benchmark holds us to, each with what was measured and where it fails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cases import PEERS, PORTABLE
from outcomes import EXACT, FUSED, Row, geometric_mean, outcome, ratios, spread, verified

FASTER_PEERS = ("onnxsim", "onnxslim")
MOST_TIME = 0.5  # of the faster of these two, on every graph
MOST_RUNTIME_TIME = 1.0  # of ONNX Runtime's offline pass, in the geometric mean
MEMORY_SHARE, MEMORY_BASE_MB = 0.5, 150.0  # of the model's bytes, and beside them
FASTER_GRAPHS = 3  # graphs that must run clearly faster after `@exact`


def acceptance(rows: Iterable[Row]) -> str:
    """Return one line for each promise: kept or not, and the graphs where it is not."""
    known = list(rows)
    lines = ["| promise | kept | measured |", "|---|---|---|"]
    for points in (_nodes, _results, _time, _memory, _latency):
        lines += [f"| {' | '.join(point)} |" for point in points(known)]
    return "\n".join(lines)


def _point(promise: str, faults: list[str], measured: str = "") -> tuple[str, str, str]:
    said = "; ".join(filter(None, [measured, ", ".join(faults)]))
    return promise, "no" if faults else "yes", said


def _nodes(rows: list[Row]) -> Iterator[tuple[str, str, str]]:
    for tool, peers, who in ((EXACT, PORTABLE, "portable"), (FUSED, PEERS, "of all")):
        found = {row["name"]: outcome(row, tool, peers) for row in rows}
        lost = [f"{name} {said}" for name, said in found.items() if said not in ("win", "tie", "-")]
        wins = sum(said == "win" for said in found.values())
        promise = f"{tool} has no more nodes than the best {who} on any of {len(found)} graphs"
        yield _point(promise, lost, f"{wins} with fewer")


def _results(rows: list[Row]) -> Iterator[tuple[str, str, str]]:
    for tool in (EXACT, FUSED):
        wrong = [row["name"] for row in rows if tool in row["tools"] and not verified(row, [tool])]
        yield _point(f"{tool} fails nowhere and computes the same at every input", wrong)
        grown = [
            row["name"]
            for row in rows
            if row["tools"].get(tool, {}).get("bytes", 0) > row["original"]["bytes"]
        ]
        yield _point(f"{tool} writes no file larger than its input", grown)


def _time(rows: list[Row]) -> Iterator[tuple[str, str, str]]:
    for measure in ("seconds", "cpu_s"):
        found = ratios(rows, EXACT, FASTER_PEERS, measure)
        if not found:
            continue
        slow = [f"{name} {ratio:.2f}" for name, ratio in found.items() if ratio > MOST_TIME]
        promise = f"{measure} <= {MOST_TIME} of the faster of {' and '.join(FASTER_PEERS)}"
        yield _point(promise, slow, spread(found))
        runtime = ratios(rows, EXACT, ("ort-basic",), measure)
        if not runtime:
            continue
        is_slow = geometric_mean(runtime.values()) > MOST_RUNTIME_TIME
        promise = f"{measure} <= {MOST_RUNTIME_TIME} of ONNX Runtime offline in the geometric mean"
        yield _point(promise, ["too slow"] if is_slow else [], spread(runtime))


def _memory(rows: list[Row]) -> Iterator[tuple[str, str, str]]:
    over = []
    for row in rows:
        used = row["tools"].get(EXACT, {}).get("tree_mb")
        limit = MEMORY_SHARE * row["original"]["bytes"] / 1e6 + MEMORY_BASE_MB
        if used is not None and used > limit:
            over.append(f"{row['name']} {used:.0f} of {limit:.0f} MB")
    yield _point("peak resident memory <= half the model's bytes + 150 MB", over)


def _latency(rows: list[Row]) -> Iterator[tuple[str, str, str]]:
    timed = {
        row["name"]: row["tools"][EXACT]["latency"]
        for row in rows
        if "latency" in row["tools"].get(EXACT, {})
    }
    if not timed:
        return
    slower = [name for name, found in timed.items() if found["verdict"] == "slower"]
    mean = geometric_mean(found["ratio"] for found in timed.values())
    promise = "never slower than the original under the runtime's default settings"
    yield _point(promise, slower, f"geometric mean {mean:.3f} of {len(timed)} graphs")
    faster = [
        f"{name} {found['ratio']:.2f}"
        for name, found in timed.items()
        if found["verdict"] == "faster"
    ]
    few = [] if len(faster) >= FASTER_GRAPHS else ["too few"]
    yield _point(f"at least {FASTER_GRAPHS} graphs clearly faster", few, ", ".join(faster))
