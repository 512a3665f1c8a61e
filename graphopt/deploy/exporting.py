"""From a framework to a verified ONNX file.

The framework runs in a process of its own, with a time limit: a factory is code of the user's. What
it computes for several sizes comes back with the file, and the file has to compute the same.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from graphopt.errors import InputError, MissingExtraError, UsageError
from graphopt.ir import load
from graphopt.report import ExportReport, SizesCompared
from graphopt.runtime import SessionOptions, shared_worker
from graphopt.runtime.limited_process import run_limited
from graphopt.verification import compare_outputs

__all__ = ["ExportSource", "Exporter", "export_model", "parse_source"]

Exporter = Literal["auto", "dynamo", "torchscript"]
Kind = Literal["torch", "pt2", "hf", "sklearn"]

_FOLDER = Path(__file__).parent
_NOT_INSTALLED, _NOT_EXPORTED = 3, 4  # of `exporters.worker`, which stands alone
_START = (
    "import sys; sys.path.append({folder!r}); from exporters import worker; "
    "sys.path.remove({folder!r}); sys.exit(worker.main(sys.argv[1:]))"
)
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
    trust: bool = False,
    interpreter: str = "",
    timeout_s: float = 1800.0,
) -> ExportReport:
    """Export to ``folder``, and compare the file with the framework on inputs of several sizes.

    Args:
        source: What.
        folder: An empty folder.
        exporter: Of PyTorch; ``auto``: the newer one, and the older one where that fails.
        opset: Version of the operators; ``None``: the exporter's choice.
        trust: Whether pickles may be loaded, which can run any code.
        interpreter: Python that has the framework; default: this one.
        timeout_s: Most seconds.

    Raises:
        UsageError: It is pickled, and `trust` is not set.
        MissingExtraError: The framework is not installed.
        InputError: It cannot be exported, or the file does not take the inputs.
    """
    place = _checked_place(source, trust=trust)
    out = folder / "model.onnx"
    options = {"exporter": exporter, "opset": opset, "trust": trust}
    words = [interpreter or sys.executable, "-c", _START.format(folder=str(_FOLDER))]
    # User code is imported from where the user stands, and runs where it can leave nothing.
    environment = {"GRAPHOPT_FOLDER": str(Path.cwd()), "HF_HUB_OFFLINE": "1"}
    try:
        ended = run_limited(
            [*words, source.kind, place, str(out), json.dumps(options)],
            folder=folder,
            timeout_s=timeout_s,
            environment=environment,
        )
    except TimeoutError as error:
        raise InputError(f"exporting `{source}` {error}", hint="allow more: `--timeout`") from error
    told = Path(f"{out}.failed")
    said = told.read_text(encoding="utf-8") if told.exists() else ended.reason()
    if ended.status == _NOT_INSTALLED:
        raise MissingExtraError(
            f"what exports `{source}` is not installed",
            why=said,
            hint="`pip install 'graphopt[export]'`, or name a Python that has it: `--interpreter`",
        )
    if ended.status or not out.exists():
        raise InputError(f"`{source}` cannot be exported", why=said)
    record = {"origin": {}, **json.loads(Path(f"{out}.json").read_text(encoding="utf-8"))}
    cases = tuple(_compared(out, case) for case in sorted(folder.glob(f"{out.name}.case*.npz")))
    for scrap in (*folder.glob(f"{out.name}.case*.npz"), Path(f"{out}.json")):
        scrap.unlink()
    if not cases:
        raise InputError(f"`{source}` was not compared", why="it left no results")
    record["doubts"] = tuple(dict.fromkeys(record["doubts"]))
    return ExportReport(source=str(source), path=out, cases=cases, **record)


def _checked_place(source: ExportSource, *, trust: bool) -> str:
    """Return what the process is told to load, with a path that holds wherever it runs."""
    if source.kind in _PICKLED and not trust:
        raise UsageError(
            f"`{source}` is pickled",
            why="loading it can run any code",
            hint="add `--trust` if you know where it comes from",
        )
    if source.kind == "torch":
        return source.place
    path, at, task = source.place.partition("@")
    if not Path(path).exists():
        raise InputError(f"`{path}` does not exist")
    return f"{Path(path).absolute()}{at}{task}"


def _compared(path: Path, case: Path) -> SizesCompared:
    """Return shapes of inputs, and how far each output is from the framework's."""
    model = load(path)
    with np.load(case) as held:
        arrays = {name: held[name] for name in held.files}
    names = [value.name or "" for value in model.graph.inputs]
    given = _numbered(arrays, "input")
    if len(names) != len(given):
        raise InputError(
            f"the exported model has {len(names)} inputs, the framework took {len(given)}",
            why="one is constant, or two are the same: " + ", ".join(f"`{name}`" for name in names),
        )
    feeds = dict(zip(names, given, strict=True))
    options = SessionOptions(optimization="disabled")
    with shared_worker().load(path, options) as session:
        found = session.run(feeds)
    wanted = dict(zip(found, _numbered(arrays, "output"), strict=False))
    shapes = {name: array.shape for name, array in feeds.items()}
    outputs = compare_outputs(wanted, {name: found[name] for name in wanted})
    return SizesCompared(shapes=shapes, outputs=outputs)


def _numbered(arrays: dict[str, npt.NDArray[Any]], kind: str) -> list[npt.NDArray[Any]]:
    count = sum(name.startswith(f"{kind}_") for name in arrays)
    return [arrays[f"{kind}_{number}"] for number in range(count)]
