"""A directory that repeats the failure of one pass, and what runs it.

graphopt-repro-<digest>/
  model.onnx         the model just before the pass; weights as asked for
  reproducer.json    pass text, pipeline, settings, facts, versions, what went wrong
  traceback.txt
"""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir

from graphopt._version import __version__
from graphopt.errors import InputError, OutputError, PassError, PreconditionError, reason_of
from graphopt.ir import load, model_digest, save
from graphopt.ir.hashing import sha256
from graphopt.pipeline.failure import Failure
from graphopt.pipeline.pipeline import Pipeline
from graphopt.pipeline.stand_in_weights import Weights, replace_weights
from graphopt.rewrite import Facts, TargetFacts, ValueRange
from graphopt.runtime import runtime_version

__all__ = ["Reproduction", "Weights", "reproduce", "write_reproducer"]

SCHEMA_VERSION = 1
_PREFIX = "graphopt-repro-"
_PACKAGES = ("numpy", "onnx", "onnx-ir")


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """What came of running a reproducer.

    Attributes:
        reproduced: The pass failed again.
        recorded: What went wrong when the reproducer was written.
        found: What went wrong now; ``None`` where nothing did.
    """

    reproduced: bool
    recorded: str
    found: str | None


def write_reproducer(
    parent: Path,
    model: ir.Model,
    failure: Failure,
    *,
    settings: Mapping[str, int | str],
    pipeline: str,
    weights: Weights,
) -> Path:
    """Write the directory under ``parent``, and return it; one that is there already stays.

    Args:
        parent: Existing folder.
        model: The model just before the guilty pass; its weights are replaced as asked for.
        failure: What went wrong.
        settings: Those of the pass manager: ``seed`` and ``verify``.
        pipeline: Text of the whole pipeline.
        weights: What is kept of the weights.

    Raises:
        OutputError: The folder cannot be written.
    """
    # Before the digest: the name of the folder is that of what is in it.
    replace_weights(model, weights)
    record = _record(failure, settings, pipeline, weights)
    identity = json.dumps(record, sort_keys=True) + model_digest(model)
    folder = parent / (_PREFIX + sha256(identity.encode()).hexdigest()[:12])
    # Named by its content: the same failure, met again, is there already.
    if folder.exists():
        return folder
    try:
        _write(folder, model, record, failure.traceback())
    except OSError as error:
        raise OutputError(
            "the reproducer cannot be written",
            where=f"`{folder}`",
            why=reason_of(error),
            hint="choose another folder, or none, for reproducers",
        ) from error
    return folder


def reproduce(folder: str | Path) -> Reproduction:
    """Run the pass of a reproducer on its model again.

    Raises:
        InputError: The directory is no reproducer, or of another schema.
        PreconditionError: The pass needs facts that were not recorded.
    """
    from graphopt.pipeline.manager import PassManager  # which writes reproducers

    record = _read_record(Path(folder))
    try:
        facts, steps = record["facts"], Pipeline.parse(record["pass"])
        ranges = {name: ValueRange(*limits) for name, limits in facts["ranges"].items()}
        target = {**facts["target"], "features": frozenset(facts["target"]["features"])}
        manager = PassManager(
            on_error="raise",
            reproducer_dir=None,
            target=TargetFacts(**target),
            statistics_provider=lambda _model, _names, _method: ranges,
            **record["settings"],
        )
        recorded = str(record["reason"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _no_reproducer(Path(folder), f"{type(error).__name__}: {error}") from error
    model = load(Path(folder) / "model.onnx")
    try:
        manager.run(model, steps)
    except PreconditionError:
        raise  # the facts of the reproducer do not suffice; this says nothing about the pass
    except PassError as error:
        return Reproduction(reproduced=True, recorded=recorded, found=str(error))
    return Reproduction(reproduced=False, recorded=recorded, found=None)


def _record(
    failure: Failure, settings: Mapping[str, int | str], pipeline: str, weights: Weights
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "pass": str(failure.pass_),
        "pipeline": pipeline,
        "settings": dict(settings),
        "kind": failure.kind,
        "reason": failure.reason,
        "edit": failure.edit,
        "weights": weights,
        "facts": _facts_record(failure.facts),
        "versions": {
            "graphopt": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in _PACKAGES},
            # Builds with other providers are packages of other names.
            "onnxruntime": runtime_version(),
        },
    }


def _facts_record(facts: Facts) -> dict[str, Any]:
    target = asdict(facts.target)
    target["features"] = sorted(facts.target.features)
    ranges = {name: [span.minimum, span.maximum] for name, span in facts.ranges.items()}
    return {"ranges": ranges, "target": target}


def _write(folder: Path, model: ir.Model, record: dict[str, Any], trace: str) -> None:
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        save(model, building / "model.onnx")
        text = json.dumps(record, indent=2, sort_keys=True)
        (building / "reproducer.json").write_text(text + "\n", encoding="utf-8")
        (building / "traceback.txt").write_text(trace, encoding="utf-8")
        # In one step: half a reproducer would be taken for the whole one by its name.
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _no_reproducer(folder: Path, why: str) -> InputError:
    return InputError(
        f"`{folder}` is not a reproducer",
        where=f"`{folder / 'reproducer.json'}`",
        why=why,
        hint=f"name a directory called `{_PREFIX}...` that a failed run wrote",
    )


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / "reproducer.json"
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = record["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _no_reproducer(folder, reason_of(error)) from error
    if found != SCHEMA_VERSION:
        raise InputError(
            f"`{folder}` has an unknown schema",
            where=f"`{path}`",
            why=f"schema version {found}, expected {SCHEMA_VERSION}",
            hint="run it with the version of graphopt that wrote it",
        )
    return record
