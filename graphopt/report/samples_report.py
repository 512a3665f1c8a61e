"""Samples as a person sees them: what each input holds, and what is doubtful."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.calibration import SampleWarning
from graphopt.calibration.survey import InputSurvey, Survey
from graphopt.report.text_table import format_table

__all__ = ["SamplesReport", "warning_lines"]

_SHAPES_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class SamplesReport:
    """What samples are like.

    Attributes:
        source: Where they come from.
        survey: What each input holds.
        warnings: What is doubtful.
    """

    source: str
    survey: Survey
    warnings: tuple[SampleWarning, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "source": self.source,
            "samples": self.survey.samples,
            "rows": self.survey.rows,
            "duplicates": self.survey.duplicates,
            "inputs": [_input(item) for item in self.survey.inputs.values()],
            "warnings": [warning.to_dict() for warning in self.warnings],
        }

    def __str__(self) -> str:
        rows = [
            (
                item.name,
                _shapes(item),
                f"{item.histogram.minimum:.6g}",
                f"{item.histogram.maximum:.6g}",
            )
            if item.histogram.elements
            else (item.name, _shapes(item), "", "")
            for item in self.survey.inputs.values()
        ]
        count = f"{self.survey.samples} samples, {self.survey.rows} rows"
        table = format_table((count, "shapes", "minimum", "maximum"), rows, right=(2, 3))
        return "\n\n".join(
            part for part in (table, "\n".join(warning_lines(self.warnings))) if part
        )


def warning_lines(warnings: Sequence[SampleWarning]) -> list[str]:
    """Return one line for each warning."""
    return [f"warning: samples: {warning}" for warning in warnings]


def _input(item: InputSurvey) -> dict[str, Any]:
    histogram = item.histogram
    shapes = [{"shape": list(shape), "samples": count} for shape, count in item.shapes.items()]
    return {
        "name": item.name,
        "minimum": histogram.minimum,
        "maximum": histogram.maximum,
        "shapes": sorted(shapes, key=lambda entry: (-entry["samples"], entry["shape"])),
    }


def _shapes(item: InputSurvey) -> str:
    common = item.shapes.most_common(_SHAPES_SHOWN)
    texts = ["(" + ", ".join(map(str, shape)) + ")" for shape, _ in common]
    more = len(item.shapes) - len(common)
    return ", ".join(texts) + (f" and {more} more" if more else "")
