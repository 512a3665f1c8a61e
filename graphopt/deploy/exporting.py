"""From a framework to a verified ONNX file.

The framework runs in a process of its own, with a time limit: a factory is code of the user's. What
it computes for several sizes comes back with the file, and the file has to compute the same.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from graphopt.errors import (
    GraphoptError,
    InputError,
    MissingExtraError,
    NumericMismatch,
    UsageError,
    reason_of,
)
from graphopt.ir import load, opset_version
from graphopt.report import ExportReport, SizesCompared
from graphopt.runtime import SessionOptions, shared_worker
from graphopt.runtime.limited_process import LimitExceeded, most_memory, run_limited
from graphopt.verification import compare_outputs

__all__ = ["ExportSource", "Exporter", "export_model", "parse_source"]

Exporter = Literal["auto", "optimum", "dynamo", "torchscript"]
Array = npt.NDArray[Any]
Kind = Literal["torch", "pt2", "hf", "sklearn"]

_FOLDER = Path(__file__).parent
_NOT_INSTALLED, _NOT_EXPORTED = 3, 4  # of `exporters.worker`, which stands alone
# What it is done with is on the disk: threads and exit functions of others are not waited for.
_START = (
    "import os, sys; sys.path.append({folder!r}); from exporters import worker; "
    "sys.path.remove({folder!r}); os._exit(worker.main(sys.argv[1:]))"
)
_NO_EXPORT = "cannot be exported"
_RECORD = {"exporter", "file", "failures", "doubts", "names", "origin", "versions"}
_LARGEST_RECORD, _LONGEST_REASON = 1 << 24, 2000
_PICKLED: tuple[Kind, ...] = ("pt2", "sklearn")


@dataclass(frozen=True, kw_only=True)
class ExportSource:
    """What is exported.

    Attributes:
        kind: ``torch`` (a factory), ``pt2`` (a saved program), ``hf`` (a folder) or ``sklearn``.
        place: Module and function, or the file or folder, with ``@task`` where one is given.
    """

    kind: Kind
    place: str

    def __str__(self) -> str:
        return self.place if self.kind == "pt2" else f"{self.kind}:{self.place}"

    @property
    def path(self) -> str:
        """The file or folder alone; names may hold an ``@``, so that only the last one ends it."""
        if self.kind != "hf" or "@" not in self.place or Path(self.place).is_dir():
            return self.place
        return self.place.rpartition("@")[0]


def parse_source(text: str) -> ExportSource | None:
    """Return what a text like ``torch:module:factory`` names; ``None``: an ordinary path."""
    kind, _, place = text.partition(":")
    if kind in ("torch", "hf", "sklearn") and place:
        return ExportSource(kind=kind, place=place)  # type: ignore[arg-type]
    return ExportSource(kind="pt2", place=text) if text.endswith(".pt2") else None


def export_model(
    source: ExportSource,
    folder: Path,
    *,
    exporter: Exporter = "auto",
    opset: int | None = None,
    newest_opset: int | None = None,
    trust: bool = False,
    interpreter: str = "",
    timeout_s: float = 1800.0,
    max_rel: float = 1e-4,
) -> ExportReport:
    """Export to ``folder``, and compare the file with the framework on inputs of several sizes.

    Args:
        source: What.
        folder: An empty folder.
        exporter: Which one; ``auto``: optimum's for models of Hugging Face where it is installed,
            PyTorch's newer one, its older one. Where one fails, or its file computes something
            else or has another opset, the next is tried.
        opset: Version of the operators; ``None``: the exporter's choice.
        newest_opset: That choice is at most this one; ``None``: any.
        trust: Whether pickles may be loaded, which can run any code.
        interpreter: Python that has the framework; default: this one.
        timeout_s: Most seconds, for each try.
        max_rel: Largest |difference| / max|framework's| of an output.

    Raises:
        UsageError: It is pickled, and `trust` is not set.
        MissingExtraError: The framework is not installed.
        InputError: It cannot be exported.
        NumericMismatch: No file computes what the framework computes.
    """
    place = _checked_place(source, trust=trust)
    options = {
        "exporter": exporter,
        "opset": opset,
        "newest_opset": newest_opset,
        "trust": trust,
    }
    is_last = exporter != "auto" or source.kind == "sklearn"
    wrong: dict[str, GraphoptError] = {}
    while True:
        # A folder for each try: what one exporter left must not be taken for another's.
        out = folder / str(len(wrong)) / "model.onnx"
        out.parent.mkdir()
        words = [source.kind, place, str(out), json.dumps({**options, "without": [*wrong]})]
        try:
            _run_framework(source, out, words, interpreter or sys.executable, timeout_s)
        except InputError as error:
            if not wrong:
                raise
            raise _none_right(source, {**wrong, "the others": error}) from error
        name, found = _judged(source, out, max_rel, opset, newest_opset)
        if isinstance(found, ExportReport):
            told = {name: _told(name, error) for name, error in wrong.items()}
            return replace(found, failures={**told, **found.failures})
        if is_last:
            raise found
        wrong[name] = found


def _judged(
    source: ExportSource, out: Path, max_rel: float, opset: int | None, newest: int | None
) -> tuple[str, ExportReport | GraphoptError]:
    """Return which exporter wrote the file, and the report, or what is wrong with the file."""
    record = _record(source, out)
    name: str = record["exporter"]
    try:
        # An exporter that cannot write an older version may leave a newer one, with a warning.
        _check_opset(source, Path(record["file"]), opset, newest)
        report = _report(source, out, record)
    except GraphoptError as error:  # it does not load, or asks for something else
        return name, error
    if faults := report.faults(max_rel):
        return name, _mismatch({name: "; ".join(faults[:3])})
    return name, report


def _check_opset(source: ExportSource, path: Path, opset: int | None, newest: int | None) -> None:
    found = opset_version(load(path))
    if opset is not None and found != opset:
        why = f"the file has opset {found}, and {opset} was asked for"
        raise InputError(f"`{source}` {_NO_EXPORT}", why=why)
    if newest is not None and found > newest:
        why = f"the file has opset {found}, and the target ends at {newest}"
        raise InputError(f"`{source}` {_NO_EXPORT}", why=why)


def _told(name: str, error: GraphoptError) -> str:
    if isinstance(error, NumericMismatch):
        return (error.why or "").removeprefix(f"{name}: ")
    if error.message.endswith(_NO_EXPORT):  # who reads it knows that
        return error.why or error.message
    return f"{error.message}: {error.why}" if error.why else error.message


def _none_right(source: ExportSource, wrong: Mapping[str, GraphoptError]) -> GraphoptError:
    told = {name: _told(name, error) for name, error in wrong.items()}
    if any(isinstance(error, NumericMismatch) for error in wrong.values()):
        return _mismatch(told)
    why = "; ".join(f"{name}: {said}" for name, said in told.items())
    return InputError(f"`{source}` {_NO_EXPORT}", why=why)


def _mismatch(wrong: Mapping[str, str]) -> NumericMismatch:
    return NumericMismatch(
        "the exported model does not compute what the framework computes",
        why="; ".join(f"{name}: {said}" for name, said in wrong.items()),
    )


def _run_framework(
    source: ExportSource, out: Path, words: Sequence[str], interpreter: str, timeout_s: float
) -> None:
    # User code is imported from where the user stands, and runs where it can leave nothing.
    environment = {"GRAPHOPT_FOLDER": str(Path.cwd()), "HF_HUB_OFFLINE": "1"}
    try:
        ended = run_limited(
            [interpreter, "-c", _START.format(folder=str(_FOLDER)), *words],
            folder=out.parent,
            timeout_s=timeout_s,
            memory_bytes=most_memory(),
            environment=environment,
        )
    except LimitExceeded as error:
        hint = "allow more: `--timeout`" if "more than" in str(error) else None
        raise InputError(f"exporting `{source}` {error}", hint=hint) from error
    except OSError as error:
        raise InputError(
            f"`{interpreter}` cannot be started", why=reason_of(error), hint="name a Python"
        ) from error
    told = Path(f"{out}.failed")
    said = _start_of(told) if told.exists() else ended.reason()
    if ended.status == _NOT_INSTALLED and told.exists():
        raise MissingExtraError(
            f"what exports `{source}` is not installed",
            why=said,
            hint="`pip install 'graphopt[export]'`, or name a Python that has it: `--interpreter`",
        )
    if ended.status:
        raise InputError(f"`{source}` {_NO_EXPORT}", why=said)
    if not Path(f"{out}.json").exists():
        raise InputError(f"`{source}` {_NO_EXPORT}", why="it ended and left no record")


def _start_of(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(_LONGEST_REASON)


def _record(source: ExportSource, out: Path) -> dict[str, Any]:
    """Return what the process said of its file; user code ran there and may have written it."""
    try:
        with Path(f"{out}.json").open(encoding="utf-8") as file:
            record = json.loads(file.read(_LARGEST_RECORD))  # cut off, it is no JSON
        is_whole = set(record) >= _RECORD
        is_inside = Path(record["file"]).resolve().is_relative_to(out.parent.resolve())
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"`{source}` {_NO_EXPORT}", why=f"its record: {error}") from error
    if not (is_whole and is_inside):
        raise InputError(
            f"`{source}` {_NO_EXPORT}",
            why="its record lacks keys, or names a file elsewhere",
        )
    found: dict[str, Any] = record
    return found


def _report(source: ExportSource, out: Path, record: Mapping[str, Any]) -> ExportReport:
    path = Path(record["file"])
    cases, spare = [], dict[str, None]()
    for place in sorted(out.parent.glob(f"{out.name}.case*.npz")):
        compared, more = _compared(path, place, record["names"])
        cases.append(compared)
        spare |= dict.fromkeys(more)
    if not cases:
        raise InputError(f"`{source}` was not compared", why="it left no results")
    doubts = [*record["doubts"], *(f"output `{name}` was not compared" for name in spare)]
    return ExportReport(
        source=str(source),
        path=path,
        exporter=record["exporter"],
        failures=record["failures"],
        doubts=tuple(dict.fromkeys(doubts)),
        origin=record["origin"],
        versions=record["versions"],
        cases=tuple(cases),
    )


def _checked_place(source: ExportSource, *, trust: bool) -> str:
    """Return what the process is told to load, with a path that holds wherever it runs."""
    is_plain = source.kind == "sklearn" and source.place.endswith(".skops")
    if source.kind in _PICKLED and not is_plain and not trust:
        raise UsageError(
            f"`{source}` is pickled",
            why="loading it can run any code",
            hint="add `--trust` if you know where it comes from",
        )
    if source.kind == "torch":
        return source.place
    path = source.path
    if not Path(path).exists():
        raise InputError(f"`{path}` does not exist")
    return f"{Path(path).absolute()}{source.place.removeprefix(path)}"


def _compared(
    path: Path, case: Path, names: Mapping[str, Sequence[str]]
) -> tuple[SizesCompared, list[str]]:
    """Return shapes of inputs with how far each output is from the framework's, and other outputs.

    Args:
        path: The exported model.
        case: What the framework took and gave.
        names: Of inputs, outputs, and of what another exporter may ask for; empty: by position.
    """
    # Without pickles, which is numpy's default: code of the user's wrote this file.
    with np.load(case) as held:
        arrays = {name: held[name] for name in held.files}
    given, wanted = _numbered(arrays, "input"), _numbered(arrays, "output")
    # What is compared is the file, not what the runtime would make of it.
    options = SessionOptions(optimization="disabled")
    with shared_worker().load(path, options) as session:
        inputs = [value.name for value in session.inputs]
        outputs = [value.name for value in session.outputs]
        if names:
            implied = zip(names["implied"], _numbered(arrays, "implied"), strict=True)
            by_name = dict(zip(names["input"], given, strict=True))
            feeds = _fed(inputs, by_name, dict(implied))
            results = dict(zip(names["output"], wanted, strict=True))
        else:
            if len(inputs) != len(given):
                raise _other_inputs(inputs, len(given))
            feeds = dict(zip(inputs, given, strict=True))
            if len(outputs) < len(wanted):  # by position nothing else would tell that one is gone
                raise InputError(
                    f"the exported model has {len(outputs)} outputs, the framework gave"
                    f" {len(wanted)}",
                    why="one was left out: " + ", ".join(f"`{name}`" for name in outputs),
                )
            results = dict(zip(outputs, wanted, strict=False))
        found = session.run(feeds)
    shapes = {name: array.shape for name, array in feeds.items()}
    spare = [name for name in outputs if name not in results]
    differences = compare_outputs(results, {name: found[name] for name in found if name in results})
    return SizesCompared(shapes=shapes, outputs=differences), spare


def _fed(
    inputs: Sequence[str], given: Mapping[str, Array], implied: Mapping[str, Array]
) -> dict[str, Array]:
    known = {**implied, **given}
    if not set(given) <= set(inputs) <= set(known):
        raise _other_inputs(inputs, len(given))
    return {name: known[name] for name in inputs}


def _other_inputs(inputs: Sequence[str], count: int) -> InputError:
    return InputError(
        f"the exported model has {len(inputs)} inputs, the framework took {count}",
        why="one is constant, or two are the same: " + ", ".join(f"`{name}`" for name in inputs),
    )


def _numbered(arrays: Mapping[str, Array], kind: str) -> list[Array]:
    count = sum(name.startswith(f"{kind}_") for name in arrays)
    return [arrays[f"{kind}_{number}"] for number in range(count)]
