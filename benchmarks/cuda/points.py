"""What `cuda-fp16` promises, judged point by point from what `verify.py` found.

A point has passed or failed where the model ran on its provider; where it did not, it has failed
if what can be told without running contradicts it, and is open otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from static import Findings

__all__ = ["FAIL", "MOST_OF_THE_TIME", "OPEN", "PASS", "Point", "points_of", "table_text"]

PASS, FAIL, OPEN = "PASS", "FAIL", "OPEN"
MOST_OF_THE_TIME = 0.55

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """One promise.

    Attributes:
        name: What is promised.
        verdict: `PASS`, `FAIL`, or `OPEN` where it takes a GPU that was not there.
        found: What was found.
    """

    name: str
    verdict: str
    found: str


def points_of(record: Record) -> list[Point]:
    """Judge the record of one model."""
    return [_outputs(record), _islands(record), _copies(record), _time(record), _goals(record)]


def _point(name: str, record: Record, faults: Iterable[str], found: str) -> Point:
    """Return the point: what is wrong comes before what was found."""
    told = list(faults)
    verdict = FAIL if told else PASS if record["verified"] else OPEN
    return Point(name, verdict, "; ".join([*told, found] if found else told))


def _outputs(record: Record) -> Point:
    gates = [gate for gate in record["gates"] if gate["kind"] == "correctness"]
    told = [
        f"{gate['name']} {gate['value']:.7g} (limit {gate['limit']:g})"
        for gate in gates
        if gate["value"] is not None
    ]
    where = "on the provider" if record["verified"] else "on the CPU, in 16 bits, unoptimized"
    faults = [gate["name"] for gate in gates if gate["passed"] is False]
    return _point("outputs within the budget", record, faults, f"{', '.join(told)}, {where}")


def _islands(record: Record) -> Point:
    file = Findings(**record["static"])
    faults = [f"in the file: {one}" for one in (*file.wide(), *file.untold())]
    found = f"file: {file.casts} casts between floats"
    if record["verified"]:
        loaded = Findings(**record["loaded"])
        faults += [f"as loaded: {one}" for one in loaded.wide()]
        found += f"; as loaded: {loaded.casts}, {len(loaded.unknown)} nodes of unknown type"
    return _point("no islands in 32-bit floats", record, faults, found)


def _copies(record: Record) -> Point:
    """Judge copies: those of inputs and outputs are made by the caller, and are no nodes."""
    file, placement = Findings(**record["static"]), record["placement"]
    faults = [f"in the file: {one}" for one in file.read_as_data()]
    if placement["copies"]:
        faults.append(f"{placement['copies']} values cross between host and GPU")
    if placement["is_estimate"] and placement["operators_off"]:
        faults.append(f"no kernels for {dict(placement['operators_off'])}")
    found = f"file: {file.shape_nodes} nodes compute sizes, none is read as data"
    if record["verified"]:
        inserted = record["loaded"]["copies"]
        faults += [f"the runtime inserted {inserted} copies"] if inserted else []
        off = ", ".join(f"{name} {count}" for name, count in placement["operators_off"].items())
        found += f"; run on the host: {off or 'nothing'}"
    return _point("no copies between host and GPU", record, faults, found)


def _time(record: Record) -> Point:
    name = f"at most {MOST_OF_THE_TIME} of the time"
    if not record["verified"]:
        return Point(name, OPEN, record["not_verified"])
    told = []
    for batch, times in record["milliseconds_by_batch"].items():
        beside = f"{times['float16']:.3f} of {times['float32']:.3f} ms"
        ratio, fast = (times["float16"] / times[one] for one in ("float32", "tf32"))
        told.append(f"batch {batch}: {ratio:.3f} ({beside}; of TF32 {fast:.3f})")
    ratio = record["latency_ratio"]
    # The comparison that a ratio which is no number fails, too.
    faults = [] if ratio <= MOST_OF_THE_TIME else [f"{ratio:.3f} at batch {record['batch']}"]
    return _point(name, record, faults, "; ".join(told))


def _goals(record: Record) -> Point:
    gates = [gate for gate in record["gates"] if gate["kind"] == "goal"]
    told = [
        f"{gate['name']} {gate['value']:.3g} (limit {gate['limit']:g})"
        for gate in gates
        if gate["value"] is not None
    ]
    faults = [gate["name"] for gate in gates if gate["passed"] is False]
    return _point("the other gates of the target", record, faults, ", ".join(told))


def table_text(records: Iterable[Record]) -> str:
    """Return the points of all models as a table in Markdown, with what they were found by."""
    found = list(records)
    versions = ", ".join(f"{name} {text}" for name, text in found[0]["versions"].items())
    lines = [f"{found[0]['machine']}; {versions}.", ""]
    lines += ["| model | candidate | nodes | size | point | verdict | found |", "|---" * 7 + "|"]
    for record in found:
        head = f"`{record['model']}` | `{record['chosen']}` | {record['nodes']}"
        head += f" | {record['size_ratio']:.3f}"
        for point in points_of(record):
            lines.append(f"| {head} | {point.name} | {point.verdict} | {_plain(point.found)} |")
            head = " | | |"
    return "\n".join(lines)


def _plain(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")
