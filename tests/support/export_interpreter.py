"""The Python that has the frameworks: of `make test-export`, or this one."""

import os
from pathlib import Path

import pytest


def export_interpreter():
    """Return its path; empty: this Python, where what it lacks is skipped."""
    folder = os.environ.get("GRAPHOPT_EXPORT")
    if not folder:
        return ""
    reason = Path(folder, ".unavailable")
    if reason.is_file():
        pytest.skip(f"the environment of exporters cannot be had: {reason.read_text()}")
    return str(Path(folder, "bin", "python").absolute())
