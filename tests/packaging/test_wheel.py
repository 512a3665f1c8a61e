"""What the installed distribution holds, and that the tests run against it."""

import os
import sys
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath

import pytest

import graphopt

SOURCE = Path(__file__).parents[2]
IS_WHEEL_EXPECTED = os.environ.get("GRAPHOPT_EXPECT_WHEEL") == "1"
ALLOWED_SUFFIXES = {
    ".py",
    ".toml",
    ".json",
    ".md",
    ".html",
    ".css",
    ".mjs",
    ".onnx",
    ".npz",
    ".txt",
}

needs_wheel = pytest.mark.skipif(
    not IS_WHEEL_EXPECTED, reason="runs with `make test`, which installs the wheel"
)


def source_files() -> set[str]:
    files = (path for path in (SOURCE / "graphopt").rglob("*") if path.is_file())
    return {
        path.relative_to(SOURCE).as_posix() for path in files if "__pycache__" not in path.parts
    }


def installed_files() -> set[str]:
    listed = {PurePosixPath(str(file)) for file in distribution("graphopt").files or ()}
    return {str(path) for path in listed if path.parts[0] == "graphopt" and path.suffix != ".pyc"}


def unpackaged(files: set[str]) -> set[str]:
    """Return the files of the source folder that are not fit for a wheel."""
    return {
        name
        for name in files
        if PurePosixPath(name).suffix not in ALLOWED_SUFFIXES and not name.endswith("/py.typed")
    }


def test_every_source_file_is_of_a_kind_that_the_wheel_takes():
    assert unpackaged(source_files()) == set()


def test_a_file_of_another_kind_is_noticed():
    assert unpackaged({"graphopt/passes/notes.rst", "graphopt/py.typed"}) == {
        "graphopt/passes/notes.rst"
    }


@needs_wheel
def test_the_tests_import_the_installed_package():
    assert SOURCE / "graphopt" not in Path(graphopt.__file__).resolve().parents
    assert str(SOURCE) not in sys.path
    assert "" not in sys.path


@needs_wheel
def test_the_wheel_holds_exactly_the_source_files():
    assert installed_files() == source_files()


@needs_wheel
def test_the_wheel_carries_the_licence_and_the_console_script():
    assert distribution("graphopt").metadata["License-Expression"] == "Apache-2.0"
    assert any(str(file).endswith("licenses/LICENSE") for file in distribution("graphopt").files)
    scripts = distribution("graphopt").entry_points.select(group="console_scripts")
    assert {script.name: script.value for script in scripts} == {
        "graphopt": "graphopt.cli.main:main"
    }


def test_root_links_lead_into_the_package():
    for name in ("passes", "targets"):
        assert os.readlink(SOURCE / name) == f"graphopt/{name}"  # noqa: PTH115 - the text matters
