"""`export`: from PyTorch, Hugging Face or scikit-learn to a verified ONNX file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from graphopt.api.running import refuse_existing
from graphopt.deploy.exporting import Exporter, ExportSource, export_model, parse_source
from graphopt.errors import InputError, OptionError, UsageError
from graphopt.ir import drop_traces, load, opset_version, save, scratch_folder
from graphopt.pipeline import PassManager, Pipeline
from graphopt.report import ExportReport
from graphopt.search import ProgressCallback, Reporter
from graphopt.targets import DeviceProfile, Target, load_target

__all__ = ["export", "exported_source"]

PARITY = 1e-4
"""Largest |difference| / max|framework's| of an output."""


def export(
    source: str,
    output: str | Path,
    *,
    exporter: Exporter = "auto",
    opset: int | None = None,
    target: str | Path | Target | None = None,
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
        opset: Version of the operators; ``None``: the exporter's choice, at most the newest that
            the target takes.
        target: Profile by name or file, or a loaded one, of the device that is to load the file;
            ``None``: any device will do.
        trust: Whether pickles may be loaded, which can run any code.
        interpreter: Python that has the framework; default: this one.
        timeout_s: Most seconds for the framework.
        max_rel: Largest |difference| / max|framework's| of an output.
        force: Overwrite ``output``.
        progress: Called with each step.

    Raises:
        UsageError: It is no such source, it is pickled and not trusted, the target is unknown or
            ends before `opset`, or the output exists.
        MissingExtraError: The framework is not installed.
        InputError: It cannot be exported, or not in a form that the target takes.
        NumericMismatch: The file computes something else; nothing is written.
    """
    named = parse_source(source)
    if named is None:
        raise UsageError(
            f"`{source}` names nothing to export",
            why="expected `torch:module:factory`, FILE.pt2, `hf:FOLDER[@task]` or `sklearn:FILE`",
        )
    place = Path(output)
    # Before minutes of exporting, not after them.
    refuse_existing(place / "model.onnx", force=force)
    device = _device_of(target, opset)
    Reporter(progress, "export")(f"exporting {named}")
    with scratch_folder() as scratch:
        found = export_model(
            named,
            scratch,
            exporter=exporter,
            opset=opset,
            newest_opset=device.opset_ceiling(),
            trust=trust,
            interpreter=interpreter,
            timeout_s=timeout_s,
            max_rel=max_rel,
        )
        model = load(found.path)
        _lower_ir_version(model, device.ir_version_ceiling())
        # Where in the source a node came from is written into the file by exporters: paths of this
        # machine among it.
        drop_traces(model)
        model.metadata_props.update(_remarks(named, found))
        place.mkdir(parents=True, exist_ok=True)
        # Only now, when what it computes was compared: nothing is written of an export that is
        # wrong.
        files = save(model, place / "model.onnx")
        found = replace(found, opset=opset_version(model), ir_version=model.ir_version)
    return found.at(files[0])


@contextmanager
def exported_source(
    source: str | Path,
    *,
    target: Target,
    interpreter: str = "",
    trust: bool = False,
    progress: ProgressCallback | None = None,
) -> Iterator[Path]:
    """Yield a file for a source: the path that it is, or an export that lasts for the block.

    Args:
        source: A path, or what `export` takes.
        target: Whose newest opset the export keeps to.
        interpreter: Python that has the framework; default: this one.
        trust: Whether pickles may be loaded.
        progress: Called with each step.

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
            target=target,
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
    return Path(named.path).absolute() if named.kind == "hf" else None


def name_of_source(source: str | Path) -> str:
    """Return a name for files made of a source: the stem, the folder or the function."""
    named = parse_source(str(source))
    if named is None:  # a file, whose name may hold a colon
        return Path(source).stem
    if named.kind in ("pt2", "sklearn"):
        return Path(named.place).stem
    if named.kind == "torch":
        return named.place.rpartition(":")[2]
    return Path(named.path).name


def _device_of(target: str | Path | Target | None, opset: int | None) -> DeviceProfile:
    """Return what the device takes; one without limits where no target is named."""
    if target is None:
        return DeviceProfile()
    profile = target if isinstance(target, Target) else load_target(target)
    newest = profile.device.opset_ceiling()
    if opset is not None and newest is not None and opset > newest:
        raise OptionError(
            f"opset {opset} is newer than `{profile.name}` takes", why=f"it ends at {newest}"
        )
    return profile.device


def _lower_ir_version(model: ir.Model, newest: int | None) -> None:
    """Write an older version of the file format where the device asks for it, or say why not."""
    if newest is None or model.ir_version <= newest:
        return
    step = Pipeline.parse(f"lower-opset{{ir_version={newest}}}")
    ledger = PassManager(verify="structure").run(model, step).ledger
    if model.ir_version > newest:
        raise InputError(
            f"the export is of IR version {model.ir_version}, and the target ends at {newest}",
            why="; ".join(refusal.why for refusal in ledger.journal.refusals) or None,
        )


def _remarks(source: ExportSource, found: ExportReport) -> dict[str, str]:
    """Return what the model says of where it came from; no path of this machine."""
    name = source.place if source.kind == "torch" else Path(source.path).name
    remarks = {"graphopt.source": f"{source.kind}:{name}", "graphopt.exporter": found.exporter}
    remarks |= {f"graphopt.source.{key}": value for key, value in found.origin.items()}
    return remarks | {f"graphopt.version.{key}": value for key, value in found.versions.items()}
