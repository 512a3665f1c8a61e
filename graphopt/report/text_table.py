"""Plain tables that stay readable on a terminal, in a pipe and in a bug report."""

from __future__ import annotations

import io
from collections.abc import Sequence

__all__ = ["format_fields", "format_table"]

_NO_WRAPPING = 10_000
"""Columns; a table is as wide as what it holds, and a terminal may wrap it as it likes."""


def format_table(
    headers: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[int] = ()
) -> str:
    """Return aligned columns, two spaces apart; columns in ``right`` are right-aligned."""
    # Here, not above: most commands that import reports print none, and this is slow to import.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Cells are `Text`, never strings: names of nodes hold brackets, which would be taken for
    # markup.
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=bool(headers))
    for column, header in enumerate(headers or rows[0]):
        justify = "right" if column in right else "left"
        table.add_column(Text(str(header)), justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    sheet = io.StringIO()
    Console(file=sheet, width=_NO_WRAPPING, no_color=True, color_system=None).print(table)
    # Padding at the ends of lines shows as noise in diffs and in issues.
    return "\n".join(line.rstrip() for line in sheet.getvalue().rstrip().splitlines())


def format_fields(fields: Sequence[tuple[str, object]]) -> str:
    """Return one ``name  value`` line per field, the values aligned."""
    return format_table((), fields) if fields else ""
