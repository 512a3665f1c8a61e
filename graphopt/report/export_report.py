"""What was exported, and how near it is to the framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphopt.report.text_table import format_table
from graphopt.verification import OutputDifference

__all__ = ["ExportReport", "SizesCompared"]

_FEW = 5
"""Most inputs or outputs that are told one by one."""


@dataclass(frozen=True, kw_only=True)
class SizesCompared:
    """One run of the exported model beside the framework.

    Attributes:
        shapes: Of the inputs.
        outputs: How far each output is from the framework's.
    """

    shapes: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, OutputDifference]


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """An ONNX file beside what it was exported from.

    Attributes:
        source: What was exported, as it was named.
        path: The file; weights may lie beside it.
        exporter: Which one wrote it.
        failures: What the ones tried before said, by name.
        doubts: What it is not sure of: decisions that it took once for all inputs.
        origin: Where the model came from, as far as it says.
        versions: Of what took part.
        cases: Runs with inputs of several sizes.
        opset: Version of the operators of the default domain; 0: not known.
        ir_version: Version of the file format; 0: not known.
    """

    source: str
    path: Path
    exporter: str
    failures: Mapping[str, str]
    doubts: tuple[str, ...]
    origin: Mapping[str, str]
    versions: Mapping[str, str]
    cases: tuple[SizesCompared, ...]
    opset: int = 0
    ir_version: int = 0

    def at(self, path: Path) -> ExportReport:
        """Return the report of the same file in another place."""
        return replace(self, path=path)

    def largest_difference(self) -> float:
        """Return the largest |difference| / max|framework's| of all outputs of all cases."""
        found = [item.max_rel for case in self.cases for item in case.outputs.values()]
        return max(found, default=0.0)

    def faults(self, limit: float) -> list[str]:
        """Return in what outputs differ by more than ``limit``, or in NaN, type or shape."""
        return [
            f"output `{name}` at {_sizes(case.shapes)}: "
            + (item.mismatch or f"{item.max_rel:.2g} of its largest value")
            for case in self.cases
            for name, item in case.outputs.items()
            # Not `>`: a NaN is greater than no limit.
            if item.mismatch or not item.max_rel <= limit
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        cases = [
            {
                "shapes": {name: list(shape) for name, shape in case.shapes.items()},
                "outputs": {
                    name: {"max_abs": item.max_abs, "max_rel": item.max_rel}
                    for name, item in case.outputs.items()
                },
            }
            for case in self.cases
        ]
        return {
            "source": self.source,
            "path": str(self.path),
            "exporter": self.exporter,
            "opset": self.opset,
            "ir_version": self.ir_version,
            "failures": dict(self.failures),
            "doubts": list(self.doubts),
            "origin": dict(self.origin),
            "versions": dict(self.versions),
            "cases": cases,
            "largest_difference": self.largest_difference(),
        }

    def __str__(self) -> str:
        rows = [row for case in self.cases for row in _rows(case)]
        table = format_table(("inputs", "output", "max abs", "max rel"), rows, right=(2, 3))
        tried = [f"{name} failed: {said}" for name, said in self.failures.items()]
        tried += [f"warning: {said}" for said in self.doubts]
        closing = (
            f"exported by {self.exporter}{f', opset {self.opset}' if self.opset else ''}, "
            "the same as the framework within "
            f"{self.largest_difference():.2g} on {len(self.cases)} sizes -> {self.path}"
        )
        return "\n\n".join(filter(None, (table, "\n".join(tried), closing)))


def _rows(case: SizesCompared) -> list[tuple[str, str, str, str]]:
    """Return a row for each output; of many, those of a cache, the first and the worst."""
    names, rest = list(case.outputs), []
    if len(names) > _FEW:
        names, rest = names[:1], names[1:]
        names.append(max(rest, key=lambda name: case.outputs[name].max_rel))
    told = [(name, name) for name in names]
    if rest:
        told[1] = (f"{names[1]}, worst of {len(rest)}", names[1])
    found = ((label, case.outputs[name]) for label, name in told)
    sizes = _sizes(case.shapes)
    return [(sizes, label, f"{item.max_abs:.2g}", f"{item.max_rel:.2g}") for label, item in found]


def _sizes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    told = [f"{name}[{','.join(map(str, shape))}]" for name, shape in shapes.items()]
    if len(told) > _FEW:
        told[_FEW - 1 :] = [f"{len(told) - _FEW + 1} more"]
    return ", ".join(told)
