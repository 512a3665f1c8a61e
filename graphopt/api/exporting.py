"""`export`: from PyTorch, Hugging Face or scikit-learn to a verified ONNX file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graphopt.api.running import refuse_existing
from graphopt.deploy.exporting import Exporter, ExportSource, export_model, parse_source
from graphopt.errors import UsageError
from graphopt.ir import drop_traces, load, save, scratch_folder
from graphopt.report import ExportReport
from graphopt.search import ProgressCallback, Reporter

__all__ = ["export", "exported_source"]

PARITY = 1e-4
"""Largest |difference| / max|framework's| of an output."""


def export(
    source: str,
    output: str | Path,
    *,
    exporter: Exporter = "auto",
    opset: int | None = None,
    trust: bool = False,
    interpreter: str = "",
    timeout_s: float = 1800.0,
    max_rel: float = PARITY,
    force: bool = False,
    progress: ProgressCallback | None = None,
) -> ExportReport:
    """Export a model, and write it where it computes what the framework computes.

    Args:
        source: ``torch:module:factory``, a ``.pt2`` program, ``hf:FOLDER[@task]`` or
            ``sklearn:FILE``.
        output: Folder to write ``model.onnx`` to.
        exporter: ``optimum`` (models of Hugging Face), ``dynamo`` or ``torchscript`` of PyTorch, or
            ``auto`` for all that there are in that order.
        opset: Version of the operators; ``None``: the exporter's choice.
        trust: Whether pickles may be loaded, which can run any code.
        interpreter: Python that has the framework; default: this one.
        timeout_s: Most seconds for the framework.
        max_rel: Largest |difference| / max|framework's| of an output.
        force: Overwrite ``output``.
        progress: Called with each step.

    Raises:
        UsageError: It is no such source, it is pickled and not trusted, or the output exists.
        MissingExtraError: The framework is not installed.
        InputError: It cannot be exported.
        NumericMismatch: The file computes something else; nothing is written.
    """
    named = parse_source(source)
    if named is None:
        raise UsageError(
            f"`{source}` names nothing to export",
            why="expected `torch:module:factory`, FILE.pt2, `hf:FOLDER[@task]` or `sklearn:FILE`",
        )
    place = Path(output)
    refuse_existing(place / "model.onnx", force=force)
    Reporter(progress, "export")(f"exporting {named}")
    with scratch_folder() as scratch:
        found = export_model(
            named,
            scratch,
            exporter=exporter,
            opset=opset,
            trust=trust,
            interpreter=interpreter,
            timeout_s=timeout_s,
            max_rel=max_rel,
        )
        model = load(found.path)
        drop_traces(model)
        model.metadata_props.update(_remarks(named, found))
        place.mkdir(parents=True, exist_ok=True)
        files = save(model, place / "model.onnx")
    return found.at(files[0])


@contextmanager
def exported_source(
    source: str | Path,
    *,
    interpreter: str = "",
    trust: bool = False,
    progress: ProgressCallback | None = None,
) -> Iterator[Path]:
    """Yield a file for a source: the path that it is, or an export that lasts for the block.

    Raises:
        GraphoptError: See `export`.
    """
    if parse_source(str(source)) is None:
        yield Path(source)
        return
    with scratch_folder() as folder:
        made = export(
            str(source),
            folder / "export",
            interpreter=interpreter,
            trust=trust,
            progress=progress,
        )
        yield made.path


def home_of_source(source: str | Path) -> Path | None:
    """Return the folder in which a tokenizer or a processor of the model may lie."""
    named = parse_source(str(source))
    if named is None:
        return Path(source).absolute().parent
    return Path(named.place.partition("@")[0]).absolute() if named.kind == "hf" else None


def name_of_source(source: str | Path) -> str:
    """Return a name for files made of a source: the stem, the folder or the function."""
    named = parse_source(str(source))
    if named is None or named.kind in ("pt2", "sklearn"):
        return Path(str(source).partition(":")[2] or source).stem
    if named.kind == "torch":
        return named.place.rpartition(":")[2]
    return Path(named.place.partition("@")[0]).name


def _remarks(source: ExportSource, found: ExportReport) -> dict[str, str]:
    """Return what the model says of where it came from; no path of this machine."""
    name = source.place if source.kind == "torch" else Path(source.place.partition("@")[0]).name
    remarks = {"graphopt.source": f"{source.kind}:{name}", "graphopt.exporter": found.exporter}
    remarks |= {f"graphopt.source.{key}": value for key, value in found.origin.items()}
    return remarks | {f"graphopt.version.{key}": value for key, value in found.versions.items()}
