"""The table of variants in the report of a bundle that has several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["MARK", "page_with_variants"]

MARK = "<!-- variants, where there are several -->"
"""Where the template of the report has the table."""

_COLUMNS = ("variant", "inputs", "file", "candidate", "gates", "latency", "report")


def page_with_variants(page: str, variants: Sequence[Mapping[str, Any]]) -> str:
    """Return the report of the first variant with a table that leads to the others.

    Args:
        page: A page of `to_html`; one without the mark, of an older version, is returned as it is.
        variants: The entries of the manifest, the one that the page is about first.
    """
    head = "".join(f'<th scope="col">{name}</th>' for name in _COLUMNS)
    body = "\n".join(_row(entry, number) for number, entry in enumerate(variants))
    table = (
        "<h2>Variants</h2>\n<p>Take the first whose sizes are those at hand, or the smallest that "
        "they can be padded to. The rest of this page is about the first one.</p>\n"
        '<div class="scroll" tabindex="0" role="region" aria-label="Variants"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )
    return page.replace(MARK, table)


def _row(entry: Mapping[str, Any], number: int) -> str:
    sizes = (f"{one['name']} {_size(one['dims'])}" for one in entry["inputs"])
    missed = [gate["name"] for gate in entry["gates"] if gate["passed"] is False]
    ratio = entry["measured"].get("latency_ratio")  # it may have been made without
    cells = [entry["name"], "\n".join(sizes), entry["file"], entry["recipe"]["candidate"]]
    cells += [f"FAILS {', '.join(missed)}" if missed else "met"]
    cells += ["not measured" if ratio is None else f"{ratio:.3f}"]
    text = "".join(f"<td>{escape(str(cell))}</td>" for cell in cells)
    link = "this page"
    if number:
        link = f'<a href="variants/{escape(entry["name"])}/report.html">{escape(entry["name"])}</a>'
    return f"<tr>{text}<td>{link}</td></tr>"


def _size(dims: Sequence[int | str | None] | None) -> str:
    if dims is None:
        return "of any rank"
    return " x ".join("?" if dim is None else str(dim) for dim in dims)
