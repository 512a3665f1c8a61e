"""The manifest: what a bundle says about itself."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx_ir as ir

from graphopt._version import __version__
from graphopt.deploy.agreement import kernel_features, platform_name
from graphopt.deploy.contract import device_contract
from graphopt.deploy.golden import Golden
from graphopt.deploy.integrity import SCHEMA_VERSION, file_sha256
from graphopt.deploy.raw_golden import RawGolden
from graphopt.runtime import SessionOptions, cpu_features, runtime_version
from graphopt.targets import GateResult, Target

__all__ = ["BundleParts", "build_manifest", "manifest_text"]

_LIBRARIES = ("numpy", "onnx", "onnx-ir")


@dataclass(frozen=True, kw_only=True)
class BundleParts:
    """What a bundle is made of.

    Attributes:
        model: File of the chosen candidate, copied byte for byte with its external data; or a
            model, which is written.
        source: File of the original; only its name goes into the bundle.
        source_sha256: Digest of the original, as the report says it.
        source_bytes: Bytes of the original's files.
        target: The profile, with every override of the run.
        candidate: Name of the chosen candidate.
        pipeline: Its whole recipe as pipeline text.
        gates: Limits with what was measured.
        golden: Samples for the device.
        raw: What they were made of, and how; ``None`` where they came as arrays.
        is_verified: False where the deployment's provider is not here, and nothing was measured.
        seed: Seed of everything random.
        calibration_sha256: Digest of the calibration samples.
        measured: Further figures by name, the unit in the name.
        report: Content of `report.json`.
        report_html: Content of `report.html`.
        journal: Every edit and refusal, `Journal.to_dict`.
    """

    model: Path | ir.Model
    source: Path
    source_sha256: str
    source_bytes: int
    target: Target
    candidate: str
    pipeline: str
    gates: Sequence[GateResult]
    golden: Golden
    raw: RawGolden | None = None
    is_verified: bool = True
    seed: int = 0
    calibration_sha256: str | None = None
    measured: Mapping[str, float | str | None] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    report_html: str = ""
    journal: Mapping[str, Any] = field(default_factory=dict)

    @property
    def gates_met(self) -> bool:
        """Whether no gate failed."""
        return all(gate.passed is not False for gate in self.gates)


def build_manifest(parts: BundleParts, model: ir.Model, file: str, folder: Path) -> dict[str, Any]:
    """Return the manifest of a bundle whose other files are all in `folder`.

    Args:
        parts: What it is made of.
        model: The model as shipped.
        file: Its file, relative to `folder`.
        folder: The bundle.
    """
    runtime = runtime_version()
    options = parts.target.session_options()
    return {
        "schema_version": SCHEMA_VERSION,
        "target": parts.target.name,
        "source": {
            "name": parts.source.name,
            "sha256": parts.source_sha256,
            "size_bytes": parts.source_bytes,
        },
        "model": {
            "file": file,
            "format": parts.target.package.format,
            "inputs": [_tensor(value) for value in model.graph.inputs],
            "outputs": [_tensor(value) for value in model.graph.outputs],
        },
        "recipe": {
            "candidate": parts.candidate,
            "pipeline": parts.pipeline,
            "seed": parts.seed,
            "calibration_sha256": parts.calibration_sha256,
        },
        "created_by": {
            "graphopt": __version__,
            "python": platform.python_version(),
            "onnxruntime": runtime,
            **{name: metadata.version(name) for name in _LIBRARIES},
        },
        "device": device_contract(model, parts.target.device, verified_runtime=runtime),
        "session": _session(options),
        "gates": [gate.to_dict() for gate in parts.gates],
        "gates_met": parts.gates_met,
        "measured": dict(parts.measured),
        "verified_on": _verified_on(runtime, options) if parts.is_verified else None,
        "golden": parts.golden.to_dict(),
        **({} if parts.raw is None else {"preprocessing": parts.raw.to_dict()}),
        "files": _files(folder),
    }


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """Return the JSON text of a manifest; NaN and infinity raise `ValueError`."""
    return json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _tensor(value: ir.Value) -> dict[str, Any]:
    dims = None if value.shape is None else [_dim(dim) for dim in value.shape]
    return {
        "name": value.name,
        "dtype": _dtype(value.dtype),
        "dims": dims,
    }


def _dtype(dtype: ir.DataType | None) -> str:
    if dtype is None:
        return "unknown"
    return "string" if dtype == ir.DataType.STRING else str(dtype.numpy().name)


def _dim(dim: int | ir.SymbolicDim) -> int | str | None:
    return dim if isinstance(dim, int) else dim.value


def _session(options: SessionOptions) -> dict[str, Any]:
    return {
        "optimization": options.optimization,
        **({} if options.order == "default" else {"order": options.order}),
        "threads": options.threads,
        "providers": [
            {"name": name, "options": dict(settings)} for name, settings in options.providers
        ],
        "config": dict(options.config),
    }


def _verified_on(runtime: str, options: SessionOptions) -> dict[str, Any]:
    return {
        "onnxruntime": runtime,
        "provider": options.providers[0][0],
        "platform": platform_name(),
        "cpu_features": kernel_features(cpu_features()),
    }


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        path.relative_to(folder).as_posix(): {
            "sha256": file_sha256(path),
            "size_bytes": path.stat().st_size,
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
