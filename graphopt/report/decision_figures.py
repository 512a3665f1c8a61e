"""What became of heads, and what groups cost, as figures in a page: no script, no image.

Nothing is told by colour alone: a head that went is struck out and says its rank in words that a
screen reader reads, and every curve has its numbers in a table below.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from graphopt.report.figures import format_number
from graphopt.rewrite import GroupDecision

__all__ = ["heat_map", "sensitivity_curves"]

_WIDTH, _HEIGHT, _MARGIN = 640, 260, 40
# More columns than this fit no screen, and groups of channels come by the hundred.
_MOST_HEADS = 64
# Lines differ by their dashes and by a number at their end: colours are lost in print, and to some
# eyes everywhere.
_DASHES = ("", "6 3", "2 3", "8 3 2 3")


def heat_map(decisions: Sequence[GroupDecision]) -> str:
    """Return a table of layers by heads: rank of each, shaded by score, struck out where it went.

    Empty where no heads were removed. Ranks count from 1, the head that is missed least.
    """
    rows = [one for one in decisions if one.kind == "heads" and len(one.scores) <= _MOST_HEADS]
    if not rows:
        return ""
    widest = max(len(one.scores) for one in rows)
    numbers = "".join(f'<th scope="col" class="number">{head}</th>' for head in range(widest))
    body = "\n".join(_heat_row(one, widest) for one in rows)
    return (
        "<h2>Heads by layer</h2>\n<p>Each cell is the rank of a head in its layer: 1 is missed "
        "least. Darker cells have higher scores; heads that went are struck out.</p>\n"
        '<div class="scroll" tabindex="0" role="region" aria-label="Heads by layer">'
        f'<table class="heat">\n<thead><tr><th scope="col">layer</th>{numbers}'
        f"</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _heat_row(decision: GroupDecision, widest: int) -> str:
    removed, highest = set(decision.removed), max(decision.scores, default=0.0) or 1.0
    cells = []
    for head, (score, rank) in enumerate(zip(decision.scores, decision.ranks, strict=True)):
        shade = round(60 * max(0.0, min(1.0, score / highest)))
        title = escape(f"head {head}: score {format_number(score)}, rank {rank}")
        text = f"<s>{rank}</s><span> gone</span>" if head in removed else str(rank)
        style = f"background: color-mix(in srgb, var(--bar) {shade}%, transparent)"
        cells.append(f'<td class="number" title="{title}" style="{style}">{text}</td>')
    # Layers may have fewer heads than others; a short row would end in the middle of the table.
    cells += ["<td></td>"] * (widest - len(cells))
    return f'<tr><th scope="row">{escape(decision.group)}</th>{"".join(cells)}</tr>'


def sensitivity_curves(decisions: Sequence[GroupDecision]) -> str:
    """Return what the outputs are off by with each group alone cut, as lines and in numbers.

    Empty where no curves were measured.
    """
    drawn = [one for one in decisions if any(error is not None for _, error in one.curve)]
    if not drawn:
        return ""
    most = max(error for one in drawn for _, error in one.curve if error is not None) or 1.0
    lines = "\n".join(_line(one, number, most) for number, one in enumerate(drawn))
    ratios = sorted({ratio for one in drawn for ratio, _ in one.curve})
    heads = "".join(f'<th scope="col" class="number">{ratio:.0%}</th>' for ratio in ratios)
    rows = "\n".join(_numbers(one, number, ratios) for number, one in enumerate(drawn))
    return (
        "<h2>Sensitivity of groups</h2>\n<p>What the outputs are off by, relative to their "
        "magnitude, with one group alone cut by a ratio.</p>\n"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="error of the outputs against the ratio, for each group">\n'
        f"{_axes(ratios, most)}\n{lines}\n</svg>\n"
        '<div class="scroll" tabindex="0" role="region" aria-label="Sensitivity in numbers">'
        '<table>\n<thead><tr><th scope="col">line</th><th scope="col">group'
        f"</th>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


def _place(ratio: float, error: float, most: float) -> tuple[float, float]:
    x = _MARGIN + (_WIDTH - 2 * _MARGIN) * ratio
    return x, _HEIGHT - _MARGIN - (_HEIGHT - 2 * _MARGIN) * error / most


def _line(decision: GroupDecision, number: int, most: float) -> str:
    # Nothing cut is no error: that point was not measured, and is known.
    points = [_place(0.0, 0.0, most)]
    points += [_place(ratio, error, most) for ratio, error in decision.curve if error is not None]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x, y = points[-1]
    dash = _DASHES[number % len(_DASHES)]
    return (
        f'<polyline points="{path}" fill="none" stroke="currentColor" stroke-dasharray="{dash}">'
        f"<title>{escape(decision.group)}</title></polyline>"
        f'<text x="{x + 4:.1f}" y="{y + 4:.1f}" font-size="11">{number + 1}</text>'
    )


def _axes(ratios: Sequence[float], most: float) -> str:
    left, bottom = _place(0.0, 0.0, most)
    right, top = _place(1.0, most, most)
    parts = [
        f'<path d="M{left} {top} V{bottom} H{right}" fill="none" stroke="currentColor"/>',
        f'<text x="4" y="{top + 4}" font-size="11">{format_number(most, ".2g")}</text>',
    ]
    for ratio in ratios:
        x, _ = _place(ratio, 0.0, most)
        parts.append(f'<text x="{x - 10:.1f}" y="{bottom + 16}" font-size="11">{ratio:.0%}</text>')
    return "\n".join(parts)


def _numbers(decision: GroupDecision, number: int, ratios: Sequence[float]) -> str:
    errors = dict(decision.curve)
    cells = "".join(
        f'<td class="number">{format_number(errors.get(ratio), ".3g")}</td>' for ratio in ratios
    )
    return f'<tr><td>{number + 1}</td><th scope="row">{escape(decision.group)}</th>{cells}</tr>'
