"""Fleets: the file that lists devices, and the table of what they say."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.deploy.remote import DeviceResult, FleetDevice
from graphopt.errors import OptionError, reason_of
from graphopt.report import format_number, format_table

__all__ = ["FleetReport", "load_fleet"]

_KEYS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "address": (str,),
    "timeout_s": (int, float),
}


def load_fleet(path: str | os.PathLike[str]) -> list[FleetDevice]:
    """Read a TOML file with one `[[device]]` for each device: `name`, `address`, `timeout_s`.

    Raises:
        OptionError: It is missing, or says something else.
    """
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"`{path}` is not a fleet", why=reason_of(error)) from error
    entries = document.pop("device", None)
    if document or not isinstance(entries, list) or not entries:
        raise OptionError(f"`{path}` is not a fleet", why="expected `[[device]]` and nothing else")
    devices = [_device(path, entry) for entry in entries]
    if len({device.name for device in devices}) != len(devices):
        raise OptionError(f"`{path}` is not a fleet", why="two devices have the same name")
    return devices


def _device(path: str | os.PathLike[str], entry: Any) -> FleetDevice:
    is_known = isinstance(entry, dict) and {"name", "address"} <= set(entry) <= set(_KEYS)
    if not is_known or not all(isinstance(entry[key], _KEYS[key]) for key in entry):
        raise OptionError(
            f"`{path}` is not a fleet",
            where=str(entry),
            why="expected the texts `name` and `address`, and perhaps the number `timeout_s`",
        )
    return FleetDevice(**entry)


@dataclass(frozen=True)
class FleetReport:
    """What devices say of a bundle, beside what this machine says.

    Attributes:
        host: The document of `validate` here; its bundle may be for another kind of machine.
        devices: One result for each device.
    """

    host: Mapping[str, Any]
    devices: Sequence[DeviceResult]

    @property
    def exit_code(self) -> int:
        """The worst of the devices; what this machine says is for comparison only."""
        return max(result.exit_code for result in self.devices)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        devices = [result.to_dict() for result in self.devices]
        return {"exit_code": self.exit_code, "host": dict(self.host), "devices": devices}

    def __str__(self) -> str:
        rows = [_row("this machine", str(self.host["status"]), self.host, None)]
        rows += [
            _row(result.name, result.status, result.report, result.reason)
            for result in self.devices
        ]
        text = format_table(
            ("device", "status", "median ms", "drift", "of original", "what failed"), rows
        )
        numbers = _numbers("this machine", self.host)
        for result in self.devices:
            numbers += _numbers(result.name, result.report or {})
        if not numbers:
            return text
        headers = ("output", "against", "device", "error", "cosine", "SQNR dB")
        # Outputs together, so that devices stand below each other; the order of devices stays.
        together = sorted(numbers, key=lambda row: (row[0], row[1]))
        return f"{text}\n\n{format_table(headers, together)}"


def _row(
    name: str, status: str, report: Mapping[str, Any] | None, reason: str | None
) -> tuple[str, ...]:
    checks = report["checks"] if report else []
    failed = [f"{item['name']}: {item['detail']}" for item in checks if item["status"] == "failed"]
    latency = (report or {}).get("latency") or {}
    beside = latency.get("reference") or {}
    return (
        name,
        status,
        _shown(latency.get("median_ms")) if latency else "-",
        _shown(latency.get("drift_ratio")) if latency.get("drift_ratio") else "-",
        f"{beside['ratio']:.3f} ({beside['verdict']})" if beside else "-",
        _plain("; ".join([*failed, *([reason] if reason else [])])) or "-",
    )


def _plain(text: str) -> str:
    """Spell out what a terminal would obey: a device may say anything."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def _numbers(name: str, report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            _plain(output),
            _plain(kind),
            name,
            *(_shown(found[key]) for key in ("error", "cosine", "sqnr_db")),
        )
        for output, kinds in report.get("outputs", {}).items()
        for kind, found in kinds.items()
    ]


def _shown(value: float | None) -> str:
    return "inf" if value is None else format_number(value)
