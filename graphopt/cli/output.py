"""The result of a command: text or one JSON document, on standard output."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from graphopt.cli.settings import Settings

__all__ = ["SCHEMA_VERSION", "print_result"]

SCHEMA_VERSION = 1


def print_result(settings: Settings, *, text: str, document: Mapping[str, Any]) -> None:
    """Print `document` as JSON with ``--json``, else `text`; what is not finite becomes null."""
    if not settings.json:
        print(text)
        return
    whole = {"schema_version": SCHEMA_VERSION, **document}
    print(json.dumps(_finite(whole), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
