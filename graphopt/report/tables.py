"""A result as tables, which the terminal and the HTML page both show."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from graphopt.report.decision_tables import (
    DECISION_HEADERS,
    DECISION_RIGHT,
    EXIT_HEADERS,
    EXIT_RIGHT,
    comparison_headers,
    comparison_rows,
    decision_rows,
    exit_rows,
)
from graphopt.report.figures import format_bytes, format_change, format_number
from graphopt.report.result import CandidateResult, LatencyResult, OptimizeResult
from graphopt.targets import GATES, GateResult

__all__ = ["Table", "closing_line", "headline", "tables_of"]

Cell = str
Row = tuple[Cell, ...]

_OPERATORS_SHOWN = 12
_SHOWN_SHARE, _SHOWN_FINDING = 0.05, 0.01  # shares of a run that are worth a word


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        title: What it shows.
        headers: One per column.
        rows: Text of every cell.
        right: Columns that hold numbers and are aligned to the right.
    """

    title: str
    headers: Row
    rows: tuple[Row, ...]
    right: tuple[int, ...] = ()


def tables_of(result: OptimizeResult) -> list[Table]:
    """Return the tables of a result that have something to show, the summary last."""
    found = [
        *_decision_tables(result),
        Table(
            "Passes of the chosen recipe",
            ("pass", "status", "edits", "refusals", "nodes", "seconds"),
            tuple(_pass_rows(result)),
            (2, 3, 4, 5),
        ),
        Table(
            "Candidates",
            ("candidate", "status", "size", "latency", "cosine", "why"),
            tuple(_candidate_row(candidate) for candidate in result.candidates),
            (2, 3, 4),
        ),
        Table(
            "In the runtime",
            ("candidate", "int8 floor", "what costs time", "share", "remedy"),
            tuple(_loaded_rows(result)),
            (1, 3),
        ),
        Table(
            "Outputs against the original, the worst of all samples",
            ("output", "max abs", "max rel", "cosine", "SQNR dB", "agreement"),
            tuple(_error_rows(result)),
            (1, 2, 3, 4, 5),
        ),
        Table(
            "Gates",
            ("gate", "kind", "limit", "value", "result"),
            tuple(_gate_row(gate) for gate in result.gates),
            (2, 3),
        ),
        Table(
            "Before and after",
            ("", "before", "after", "change"),
            tuple(_summary_rows(result)),
            (1, 2, 3),
        ),
    ]
    return [table for table in found if table.rows]


def _decision_tables(result: OptimizeResult) -> list[Table]:
    compared = comparison_headers(result.decisions)
    return [
        Table(
            "Units removed",
            DECISION_HEADERS,
            tuple(decision_rows(result.decisions)),
            DECISION_RIGHT,
        ),
        Table(
            "Units removed, by other scores",
            compared,
            tuple(comparison_rows(result.decisions)),
            tuple(range(2, len(compared))),
        ),
        Table("Early exits", EXIT_HEADERS, tuple(exit_rows(result.exits)), EXIT_RIGHT),
    ]


def headline(result: OptimizeResult) -> str:
    """Return the outcome in one sentence."""
    if result.chosen is None:
        return f"no candidate for {result.target} passes the correctness gates"
    if not result.gates_met:
        missed = ", ".join(gate.name for gate in result.gates if gate.passed is False)
        return f"{result.chosen} is right and misses a goal for {result.target}: {missed}"
    return f"{result.chosen} meets every gate of {result.target}"


def closing_line(result: OptimizeResult) -> str:
    """Return the one line that a run ends with."""
    if result.chosen is None:
        return f"nothing written: {headline(result)}, {result.seconds:.1f} s"
    size, nodes = result.size_bytes, result.nodes
    parts = [
        f"{nodes.before} -> {nodes.after} nodes",
        f"{_bytes(size.before)} -> {_bytes(size.after)}",
        _latency_text(result.latency),
        _error_text(result),
        f"{result.seconds:.1f} s",
    ]
    outcome = "optimized" if result.gates_met else "written, gates not met"
    place = f" -> {result.output}" if result.output else ""
    return f"{outcome}: {', '.join(part for part in parts if part)}{place}"


def _pass_rows(result: OptimizeResult) -> Iterator[Row]:
    for entry in result.passes:
        # Passes without an anchor in the model are most of a preset, and say nothing about it.
        if entry.status != "skipped":
            nodes = f"{entry.nodes.before} -> {entry.nodes.after}"
            yield (
                entry.text,
                entry.status,
                str(entry.edits),
                str(entry.refusals),
                nodes,
                f"{entry.seconds:.2f}",
            )


def _candidate_row(candidate: CandidateResult) -> Row:
    # Outputs of whole numbers have no cosine; the worst of the rest stands for the candidate.
    cosines = [item.get("cosine") for item in candidate.error.values()]
    known = [float(cosine) for cosine in cosines if cosine is not None]
    return (
        candidate.name,
        candidate.status,
        _bytes(candidate.size_bytes),
        _ratio(candidate.latency),
        _cosine(min(known, default=None)),
        candidate.reason or "",
    )


def _loaded_rows(result: OptimizeResult) -> Iterator[Row]:
    """Yield where the time of each timed candidate goes, and what need not cost any."""
    for candidate in result.candidates:
        loaded = candidate.loaded
        if loaded is None:
            continue
        ratio = loaded.floor_ratio
        floor = "-" if ratio is None else f"{ratio:.1f}x"
        groups = [(name, share) for name, share in loaded.shares.items() if share >= _SHOWN_SHARE]
        told = ", ".join(f"{name} {share:.0%}" for name, share in groups)
        yield (candidate.name, floor, told, "", "")
        for finding in loaded.findings:
            if finding.share is None or finding.share >= _SHOWN_FINDING:
                count, share = len(finding.nodes), _number(finding.share, ".1%")
                where = finding.nodes[0] + (f" and {count - 1} more" if count > 1 else "")
                yield ("", "", f"{finding.message}: {where}", share, finding.remedy)


def _error_rows(result: OptimizeResult) -> Iterator[Row]:
    for name, item in result.error.items():
        if item.get("mismatch"):
            yield (name, str(item["mismatch"]), "", "", "", "")
            continue
        is_identical = bool(item.get("is_identical"))
        sqnr = _number(item.get("sqnr_db"), ".1f")
        yield (
            name,
            _number(item.get("max_abs")),
            _number(item.get("max_rel")),
            _cosine(item.get("cosine")),
            # JSON has no infinity, so that the ratio of equal outputs is missing in the result.
            "inf" if is_identical and sqnr == "-" else sqnr,
            _number(item.get("top1_agreement"), ".1%"),
        )


def _gate_row(gate: GateResult) -> Row:
    result = "not measured" if gate.passed is None else ("passes" if gate.passed else "FAILS")
    reason = f" ({gate.reason})" if gate.reason else ""
    # Of ratios the name says the unit; of decibels nobody would guess it.
    unit = GATES[gate.name].unit
    shown = f" {unit}" if unit == "dB" else ""
    value = format_number(gate.value, ".5g")
    return (gate.name, gate.kind, f"{gate.limit:g}{shown}", value, result + reason)


def _summary_rows(result: OptimizeResult) -> Iterator[Row]:
    size, nodes, macs, p10 = result.size_bytes, result.nodes, result.macs, result.latency.p10_ms
    yield ("size", _bytes(size.before), _bytes(size.after), _change(size.before, size.after))
    yield ("nodes", _count(nodes.before), _count(nodes.after), _change(nodes.before, nodes.after))
    if macs.before is not None and macs.after is not None:
        yield ("MACs", _count(macs.before), _count(macs.after), _change(macs.before, macs.after))
    if p10.before is not None and p10.after is not None:
        verdict = result.latency.verdict
        change = f"{_ratio(result.latency)}, {verdict}"
        yield ("latency p10", f"{p10.before:.3f} ms", f"{p10.after:.3f} ms", change)
    if result.metric is not None and result.metric.after is not None:
        metric = result.metric
        drop = "" if metric.drop is None else f"drop {metric.drop:.4g}"
        yield (metric.name, f"{metric.before:.4f}", f"{metric.after:.4f}", drop)
    yield from _operator_rows(result)


def _operator_rows(result: OptimizeResult) -> Iterator[Row]:
    """Yield the operators whose count changed, the largest change first."""
    before, after = result.operators.before, result.operators.after
    if not after:
        return
    changes = {
        name: after.get(name, 0) - before.get(name, 0)
        for name in before.keys() | after.keys()
        if after.get(name, 0) != before.get(name, 0)
    }
    names = sorted(changes, key=lambda name: (-abs(changes[name]), name))
    for name in names[:_OPERATORS_SHOWN]:
        yield (
            f"  {name}",
            str(before.get(name, 0)),
            str(after.get(name, 0)),
            f"{changes[name]:+d}",
        )
    if len(names) > _OPERATORS_SHOWN:
        yield (f"  and {len(names) - _OPERATORS_SHOWN} operators more", "", "", "")


def _latency_text(latency: LatencyResult) -> str:
    if latency.ratio is None:
        return "latency not measured"
    if latency.verdict == "faster":
        return f"{1 / latency.ratio:.2f}x faster"
    return f"latency {latency.verdict} ({latency.ratio:.3f}x)"


def _error_text(result: OptimizeResult) -> str:
    if result.verdict == "equal":
        return "outputs equal bit for bit"
    cosines = [item.get("cosine") for item in result.error.values()]
    known = [float(cosine) for cosine in cosines if cosine is not None]
    return f"cosine {_cosine(min(known))}" if known else ""


def _cosine(value: float | bool | str | None) -> str:
    """Return a cosine rounded down: only what is 1 may read as 1."""
    if value is None or isinstance(value, str):
        return "-"
    # Rounded to nearest, 0.9999997 would be printed as a perfect match.
    return f"{math.floor(value * 1e6) / 1e6:.6f}"


def _bytes(size: int | None) -> str:
    return "-" if size is None else format_bytes(size)


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _change(before: float | None, after: float | None) -> str:
    return "-" if before is None or after is None else format_change(before, after)


def _ratio(latency: LatencyResult) -> str:
    return "-" if latency.ratio is None else f"{latency.ratio:.3f}x"


def _number(item: float | bool | str | None, pattern: str = ".4g") -> str:
    return format_number(None if item is None or isinstance(item, str) else item, pattern)
