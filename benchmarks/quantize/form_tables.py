"""What benchmarks of conversions between forms share: their command line, a conversion, a table."""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from graphopt.ir import load, save
from graphopt.pipeline import PassManager, Pipeline

Row = tuple[str, ...]
Measure = Callable[[str, Path, Path], Iterable[Row]]
_HEADERS = (
    "model",
    "to",
    "layers before",
    "after",
    "refused",
    "all optimizations",
    "none",
    "seconds",
)


class Converted(NamedTuple):
    """What a pass made of a file: the model, what it refused, and the CPU seconds, in words."""

    model: Any
    refused: str
    seconds: str


def converted(before: Path, after: Path, text: str) -> Converted:
    """Run the pipeline ``text`` on a file, and write what comes of it."""
    model = load(before)
    start = time.process_time()
    result = PassManager(verify="structure").run(model, Pipeline.parse(text))
    took = time.process_time() - start
    save(result.model, after)
    refusals = result.ledger.journal.refusals
    slugs = ", ".join(sorted({refusal.slug for refusal in refusals}))
    told = f"{len(refusals)} ({slugs})" if slugs else "0"
    return Converted(result.model, told, f"{took:.1f}")


def tabulate(
    measured: Measure, *, script: str, models: str, about: str, title: str, what: str
) -> list[Row]:
    """Measure each model that the command line names, print the table, and return its rows.

    Args:
        measured: Returns the rows of a model: its name, its path, a folder for files.
        script: Name of the benchmark.
        models: Names unless told.
        about: Docstring of the benchmark.
        title: Of the table.
        what: Sentences about its figures.
    """
    about, _, more = about.partition("\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--models", default=models, help="default: %(default)s")
    parser.add_argument("--work", type=Path, help="where files are written; default: temporary")
    parser.add_argument("--table", type=Path)
    given = parser.parse_args()
    rows: list[Row] = []
    for name in given.models.split(","):
        with tempfile.TemporaryDirectory(dir=given.work) as folder:
            rows += measured(name, given.zoo / name / "model.onnx", Path(folder))
    command = f"`python benchmarks/quantize/{script} --zoo zoo --table FILE`"
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("onnxruntime", "onnx"))
    machine = f"{versions}; {platform.machine()}, Python {platform.python_version()}."
    cells = [_HEADERS, ("---",) * len(_HEADERS), *rows]
    lines = [f"# {title}", "", command, "", f"{machine} {what}", ""]
    text = "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in cells)]) + "\n"
    sys.stdout.write(text)
    if given.table is not None:
        given.table.write_text(text, encoding="utf-8")
    return rows
