"""Plain tables that stay readable on a terminal, in a pipe and in a bug report."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["format_fields", "format_table"]


def format_table(
    headers: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[int] = ()
) -> str:
    """Return aligned columns, two spaces apart; columns in `right` are right-aligned."""
    cells = [[str(cell) for cell in row] for row in (headers, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    lines = []
    for row in cells:
        parts = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def format_fields(fields: Sequence[tuple[str, object]]) -> str:
    """Return one ``name  value`` line per field, the values aligned."""
    width = max((len(name) for name, _ in fields), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}".rstrip() for name, value in fields)
