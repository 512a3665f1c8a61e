"""A result as one HTML page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from html import escape
from importlib import resources
from pathlib import PurePath
from string import Template
from typing import Any

from graphopt.report.decision_figures import heat_map, sensitivity_curves
from graphopt.report.figures import format_bytes
from graphopt.report.page_figures import changes_by_pass, details_figures
from graphopt.report.result import OptimizeResult
from graphopt.report.samples_report import warning_lines
from graphopt.report.tables import Table, closing_line, headline, tables_of

__all__ = ["to_html"]


def to_html(result: OptimizeResult, journal: Mapping[str, Any] | None = None) -> str:
    """Return the page. Everything that comes from the model or the user is escaped.

    Args:
        result: What is told.
        journal: Every edit, `Journal.to_dict`: what each pass changed is told from it.
    """
    template = (resources.files("graphopt.report") / "page.html").read_text(encoding="utf-8")
    is_good = result.exit_code == 0
    return Template(template).substitute(
        title=escape(f"{PurePath(result.source).name} for {result.target}"),
        tone="good" if is_good else "bad",
        headline=escape(headline(result)),
        closing=escape(closing_line(result)),
        bars=_bars(result),
        tables="\n".join(_table(table) for table in reversed(tables_of(result))),
        figures=_figures(result),
        changes=changes_by_pass(journal),
        notes=_notes(result),
        facts="\n".join(
            f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in _facts(result)
        ),
    )


def _figures(result: OptimizeResult) -> str:
    parts = (
        details_figures(result.details),
        heat_map(result.decisions),
        sensitivity_curves(result.decisions),
    )
    return "\n".join(part for part in parts if part)


def _bars(result: OptimizeResult) -> str:
    """Return size and latency as bars; the longer of the two is full width."""
    size, p10 = result.size_bytes, result.latency.p10_ms
    lines: list[str] = []
    if size.before is not None and size.after is not None:
        lines += _pair("size", size.before, size.after, format_bytes)
    if p10.before is not None and p10.after is not None:
        lines += _pair("latency", p10.before, p10.after, lambda value: f"{value:.3f} ms")
    return f'<div class="bars">\n{chr(10).join(lines)}\n</div>' if lines else ""


def _pair(name: str, before: float, after: float, shown: Callable[[float], str]) -> Iterator[str]:
    longest = max(before, after) or 1.0
    for when, value in (("before", before), ("after", after)):
        yield (
            f'<span>{name} {when}</span><div class="bar {when}"'
            f' style="width: {100 * value / longest:.1f}%"></div>'
            f"<span>{escape(shown(value))}</span>"
        )


def _table(table: Table) -> str:
    head = "".join(_cell("th", text, table, index) for index, text in enumerate(table.headers))
    body = "\n".join(
        "<tr>"
        + "".join(_cell("td", text, table, index) for index, text in enumerate(row))
        + "</tr>"
        for row in table.rows
    )
    title = escape(table.title)
    # What scrolls must be reachable without a mouse.
    return (
        f'<h2>{title}</h2>\n<div class="scroll" tabindex="0" role="region" aria-label="{title}">'
        "<table>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _cell(tag: str, text: str, table: Table, index: int) -> str:
    classes = ["number"] if index in table.right else []
    if tag == "td" and text.startswith(("FAILS", "broken", "rejected")):
        classes.append("bad")
    if tag == "th" and not text:
        tag = "td"  # a header without words heads nothing
    scope = ' scope="col"' if tag == "th" else ""
    if text.startswith("  "):  # a line of a part, which a narrow page would break behind the spaces
        classes.append("part")
    style = f' class="{" ".join(classes)}"' if classes else ""
    return f"<{tag}{scope}{style}>{escape(text.lstrip())}</{tag}>"


def _notes(result: OptimizeResult) -> str:
    further = result.details.notes if result.details else ()
    notes = (*warning_lines(result.sample_warnings), *result.notes, *further)
    if not notes:
        return ""
    items = "\n".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<h2>Notes</h2>\n<ul>\n{items}\n</ul>"


def _facts(result: OptimizeResult) -> Iterator[tuple[str, str]]:
    yield "source", result.source
    if result.source_sha256:
        yield "source sha256", result.source_sha256
    yield "target", result.target
    if result.pipeline:
        yield "recipe", result.pipeline
    kind = "given" if result.samples_are_real else "generated"
    yield "compared on", f"{result.samples} {kind} samples, seed {result.seed}"
    for candidate in result.candidates:
        if candidate.name == result.chosen:
            where = candidate.placement
            yield "placement", where.summary() if where else "the CPU provider runs all of it"
    if result.latency.reason:
        yield "latency", result.latency.reason
    yield from result.versions.items()
