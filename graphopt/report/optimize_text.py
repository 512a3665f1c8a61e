"""A result for the terminal."""

from __future__ import annotations

from graphopt.report.result import OptimizeResult
from graphopt.report.samples_report import warning_lines
from graphopt.report.tables import closing_line, headline, tables_of
from graphopt.report.text_table import format_table

__all__ = ["to_text"]


def to_text(result: OptimizeResult) -> str:
    """Return the tables of a result, doubts about samples, notes, and one closing line."""
    parts = [
        format_table(table.headers, table.rows, right=table.right) for table in tables_of(result)
    ]
    if result.sample_warnings:
        parts.append("\n".join(warning_lines(result.sample_warnings)))
    if result.notes:
        parts.append("\n".join(f"note: {note}" for note in result.notes))
    if result.chosen is not None and not result.gates_met:
        parts.append(headline(result))
    return "\n\n".join([*parts, closing_line(result)])
