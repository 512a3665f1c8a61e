"""Tiny models, written by the environment that `make test-export` sets up."""

import os
import subprocess
from pathlib import Path

import pytest
from export_interpreter import export_interpreter

from graphopt import api


@pytest.fixture(scope="session")
def interpreter():
    if not os.environ.get("GRAPHOPT_EXPORT"):
        pytest.skip("`make test-export` sets the environment of exporters up")
    return export_interpreter()


@pytest.fixture(scope="session")
def sources(interpreter, tmp_path_factory):
    """A folder of models that no test may change."""
    folder = tmp_path_factory.mktemp("sources")
    script = Path(__file__).with_name("tiny_sources.py")
    subprocess.run([interpreter, script, folder], check=True, capture_output=True, text=True)
    return folder


@pytest.fixture
def export(interpreter, tmp_path):
    """Export to `tmp_path / "out"`."""

    def run(source, **options):
        return api.export(source, tmp_path / "out", interpreter=interpreter, **options)

    return run
