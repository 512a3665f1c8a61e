"""Bundles side by side: what each weighs, how fast and how right it is, where it was verified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from string import Template
from typing import Any

from graphopt.deploy.bundle import Bundle
from graphopt.report import format_bytes, format_number, format_table

__all__ = ["BundleComparison"]

_NOT_MODEL = ("golden/", "report.", "journal.", "manifest.", "validate.")


@dataclass(frozen=True)
class BundleComparison:
    """Bundles, one column each.

    Attributes:
        bundles: Whole ones, as they were loaded.
        names: What the columns are called.
    """

    bundles: Sequence[Bundle]
    names: Sequence[str]

    def rows(self) -> list[tuple[str, ...]]:
        """Return one row for each figure: its name, then one text for each bundle."""
        columns = [_column(bundle.manifest) for bundle in self.bundles]
        keys = dict.fromkeys(key for column in columns for key in column)
        return [(key, *(column.get(key, "-") for column in columns)) for key in keys]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: the figures by name, not as text."""
        return {
            "bundles": [
                {
                    "name": name,
                    "target": bundle.manifest["target"],
                    "source": bundle.manifest["source"],
                    "recipe": bundle.manifest["recipe"],
                    "model_bytes": _model_bytes(bundle.manifest),
                    "gates_met": bundle.manifest["gates_met"],
                    "gates": bundle.manifest["gates"],
                    "measured": bundle.manifest["measured"],
                    "verified_on": bundle.manifest["verified_on"],
                    "device": bundle.manifest["device"],
                }
                for name, bundle in zip(self.names, self.bundles, strict=True)
            ]
        }

    def warnings(self) -> list[str]:
        """Return why columns cannot be held against each other."""
        found = []
        if len({bundle.manifest["source"]["sha256"] for bundle in self.bundles}) > 1:
            found.append("they come from different originals")
        places = [bundle.manifest["verified_on"] for bundle in self.bundles]
        if len({str(place) for place in places}) > 1:
            found.append(
                "they were measured on different machines or runtimes: times do not compare"
            )
        return found

    def to_html(self) -> str:
        """Return one page that needs nothing else."""
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in self.names)
        body = "\n".join(
            f'<tr><th scope="row">{escape(row[0])}</th>'
            + "".join(f"<td>{escape(text)}</td>" for text in row[1:])
            + "</tr>"
            for row in self.rows()
        )
        page = resources.files("graphopt.deploy") / "comparison.html"
        warnings = "".join(
            f"<p><strong>Note:</strong> {escape(text)}.</p>" for text in self.warnings()
        )
        return Template(page.read_text(encoding="utf-8")).substitute(
            title=escape(f"{len(self.names)} bundles"), warnings=warnings, head=head, body=body
        )

    def __str__(self) -> str:
        table = format_table(("", *self.names), self.rows())
        return "\n".join([table, *(f"note: {text}" for text in self.warnings())])


def _column(manifest: dict[str, Any]) -> dict[str, str]:
    verified, device, measured = manifest["verified_on"], manifest["device"], manifest["measured"]
    found = {
        "verdict": "meets every gate" if manifest["gates_met"] else "MISSES A GOAL",
        "target": manifest["target"],
        "made from": manifest["source"]["name"],
        "candidate": manifest["recipe"]["candidate"],
        "model": format_bytes(_model_bytes(manifest)),
        "bundle": format_bytes(sum(facts["size_bytes"] for facts in manifest["files"].values())),
    }
    for gate in manifest["gates"]:
        # Words, too: a gate that fails must be seen without colour.
        result = {True: "", False: " FAILS", None: " not measured"}[gate["passed"]]
        value = format_number(gate["value"], ".5g")
        found[gate["name"]] = f"{value}, limit {gate['limit']:g}{result}"
    for name, value in measured.items():
        shown = value if isinstance(value, str) else format_number(value, ".5g")
        if name.endswith("_bytes") and isinstance(value, int | float):
            shown = format_bytes(value)
        found[name.replace("_", " ")] = shown
    found |= {
        "verified on": f"{verified['platform']}, {verified['provider']}" if verified else "nowhere",
        "with onnxruntime": verified["onnxruntime"] if verified else "-",
        "needs onnxruntime": device["minimum_onnxruntime"],
        "needs of the CPU": ", ".join(device["cpu_features"]) or "nothing",
        "operators": str(sum(len(names) for names in device["operators"].values())),
        "recipe": manifest["recipe"]["pipeline"] or "(none)",
    }
    return found


def _model_bytes(manifest: dict[str, Any]) -> int:
    """Return the bytes of the model and of its data, without what only checks and tells."""
    return sum(
        int(facts["size_bytes"])
        for name, facts in manifest["files"].items()
        if not name.startswith(_NOT_MODEL)
    )
