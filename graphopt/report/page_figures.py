"""Figures of a bundle's page: how times are spread, what weights are held in, errors by layer.

Each is a drawing beside its numbers: nothing is told by colour alone, and nothing needs a script.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from graphopt.report.details import LayerError, ReportDetails
from graphopt.report.figures import format_bytes, format_change, format_number

__all__ = ["changes_by_pass", "details_figures"]

_WIDTH, _HEIGHT, _MARGIN = 640, 240, 64
_BEST_DB = 80.0  # a full bar; beyond it errors are those of 32-bit floats
_REASONS_SHOWN = 8


def details_figures(details: ReportDetails | None) -> str:
    """Return the figures that there are numbers for."""
    if details is None:
        return ""
    parts = [
        _latency(details.quantiles_before, details.quantiles_after),
        _weights(details.weights_before, details.weights_after),
        _layers(details.layers),
    ]
    return "\n".join(part for part in parts if part)


def _latency(before: Sequence[float], after: Sequence[float]) -> str:
    if not before or not after:
        return ""
    # One run in twenty may be ten times slower: it would leave no room for the others.
    widest = 1.05 * max(_at(before, 0.9), _at(after, 0.9))
    lines = [
        f'<polyline points="{_points(values, widest)}" fill="none" stroke="currentColor" '
        f'stroke-width="2"{dashes}/>'
        for values, dashes in ((before, ' stroke-dasharray="6 4"'), (after, ""))
    ]
    ticks = "".join(
        f'<text x="{_x(widest * step / 4, widest):.0f}" y="{_HEIGHT - 30}" text-anchor="middle">'
        f"{format_number(widest * step / 4, '.3g')}</text>"
        for step in range(5)
    )
    rows = [(f"{share:.0%}", _at(before, share), _at(after, share)) for share in (0.1, 0.5, 0.9)]
    rows.append(("longest", before[-1], after[-1]))
    body = "".join(
        f'<tr><th scope="row">{name}</th><td class="number">{one:.3f}</td>'
        f'<td class="number">{two:.3f}</td></tr>'
        for name, one, two in rows
    )
    return (
        "<h2>How times are spread</h2>\n<p>Share of runs that took at most so many milliseconds: "
        "dashed the original, solid what is shipped. Steeper and further left is better.</p>\n"
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        'aria-label="Share of runs by milliseconds; the numbers are in the table below">'
        f"{_axes()}{''.join(lines)}{ticks}"
        f'<text x="{_WIDTH / 2:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">milliseconds</text>'
        "</svg></figure>\n"
        '<div class="scroll" tabindex="0" role="region" aria-label="Times by quantile"><table>\n'
        '<thead><tr><th scope="col">runs</th><th scope="col" class="number">original, ms</th>'
        f'<th scope="col" class="number">shipped, ms</th></tr></thead>\n<tbody>{body}</tbody>'
        "</table></div>"
    )


def _axes() -> str:
    left, right, top, bottom = _MARGIN, _WIDTH - 30, 10, _HEIGHT - 52
    labels = "".join(
        f'<text x="{left - 6}" y="{bottom - share * (bottom - top) + 4:.0f}" text-anchor="end">'
        f"{share:.0%}</text>"
        for share in (0.0, 0.5, 1.0)
    )
    return (
        f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="currentColor" '
        f'stroke-opacity=".5"/>{labels}'
    )


def _points(values: Sequence[float], widest: float) -> str:
    top, bottom = 10, _HEIGHT - 52
    steps = len(values) - 1 or 1
    return " ".join(
        f"{_x(min(value, widest), widest):.1f},{bottom - (bottom - top) * place / steps:.1f}"
        for place, value in enumerate(values)
    )


def _x(value: float, widest: float) -> float:
    return _MARGIN + (_WIDTH - 30 - _MARGIN) * value / widest


def _at(values: Sequence[float], share: float) -> float:
    return values[round(share * (len(values) - 1))]


def _weights(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    names = list(dict.fromkeys([*before, *after]))
    if not names:
        return ""
    longest = max([*before.values(), *after.values()])
    rows = []
    for name in names:
        one, two = before.get(name, 0), after.get(name, 0)
        bars = "".join(
            f'<div class="bar {when}" style="width: {100 * value / longest:.1f}%"></div>'
            for when, value in (("before", one), ("after", two))
            if value
        )
        rows.append(
            f'<tr><th scope="row">{escape(name.lower())}</th>'
            f'<td class="number">{format_bytes(one)}</td>'
            f'<td class="number">{format_bytes(two)}</td>'
            f'<td class="number">{format_change(one, two)}</td><td class="wide">{bars}</td></tr>'
        )
    return _figure_table(
        "What the weights are held in",
        "Bytes of all weights by the type of their elements; the upper bar is the original.",
        ("type", "original", "shipped", "change", ""),
        rows,
        right=(1, 2, 3),
    )


def _layers(layers: Sequence[LayerError]) -> str:
    if not layers:
        return ""
    rows = []
    for layer in layers:
        exact = layer.sqnr_db is None
        share = 1.0 if layer.sqnr_db is None else max(0.0, min(1.0, layer.sqnr_db / _BEST_DB))
        shown = "equal" if exact else format_number(layer.sqnr_db, ".1f")
        rows.append(
            f'<tr><th scope="row">{escape(layer.name)}</th><td>{escape(layer.operator)}</td>'
            f'<td class="number">{shown}</td><td class="number">'
            f"{format_number(layer.cosine, '.6f')}</td>"
            f'<td class="wide"><div class="bar after" style="width: {100 * share:.0f}%"></div></td>'
            "</tr>"
        )
    return _figure_table(
        "Errors along the model",
        "Values inside what is shipped against those of the same name in the original, on one "
        f"sample: signal over noise, a full bar is {_BEST_DB:.0f} dB. Where it falls at once, an "
        "operator is sensitive.",
        ("value", "made by", "SQNR dB", "cosine", ""),
        rows,
        right=(2, 3),
    )


def _figure_table(
    title: str, text: str, headers: Sequence[str], rows: Sequence[str], *, right: Sequence[int]
) -> str:
    kinds = [' class="number"' if place in right else "" for place in range(len(headers))]
    head = "".join(
        f'<th scope="col"{kind}>{name}</th>' if name else "<td></td>"
        for name, kind in zip(headers, kinds, strict=True)
    )
    body = "\n".join(rows)
    return (
        f'<h2>{title}</h2>\n<p>{text}</p>\n<div class="scroll" tabindex="0" role="region" '
        f'aria-label="{title}"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>'
        "</table></div>"
    )


def changes_by_pass(journal: Mapping[str, Any] | None) -> str:
    """Return what each pass changed and why, in parts that open; empty without edits.

    Args:
        journal: `Journal.to_dict`: `edits` and `refusals`, each with `pass_name` and its reason.
    """
    if not journal:
        return ""
    by_pass: dict[str, dict[str, int]] = {}
    for edit in journal.get("edits", ()):
        reasons = by_pass.setdefault(str(edit["pass_name"]), {})
        reasons[str(edit["because"])] = reasons.get(str(edit["because"]), 0) + 1
    if not by_pass:
        return ""
    parts = "\n".join(
        f"<details><summary>{escape(name)}: {_count(sum(reasons.values()))}</summary>\n<ul>\n"
        + "\n".join(_reasons(reasons))
        + "\n</ul></details>"
        for name, reasons in by_pass.items()
    )
    return f"<h2>What each pass changed</h2>\n{parts}"


def _count(edits: int) -> str:
    return "1 edit" if edits == 1 else f"{edits} edits"


def _reasons(reasons: Mapping[str, int]) -> Iterator[str]:
    ordered = sorted(reasons.items(), key=lambda item: -item[1])
    for text, count in ordered[:_REASONS_SHOWN]:
        yield f"<li>{escape(text)}{f' ({count} times)' if count > 1 else ''}</li>"
    if len(ordered) > _REASONS_SHOWN:
        rest = sum(count for _, count in ordered[_REASONS_SHOWN:])
        yield f"<li>and {rest} more, in journal.json</li>"
