"""The bundle: the directory that is shipped."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Self

import onnx_ir as ir

from graphopt.deploy.integrity import (
    MANIFEST,
    SCHEMA,
    Broken,
    check_files,
    is_safe_name,
    read_manifest,
)
from graphopt.deploy.manifest import BundleParts, build_manifest, manifest_text
from graphopt.deploy.publishing import publish, recover
from graphopt.deploy.shipped_validator import schema_text, validator_text
from graphopt.errors import BudgetExceeded, BundleError, TargetError
from graphopt.ir import INLINE_LIMIT_BYTES, external_files, load, save, weight_bytes

__all__ = ["Bundle", "is_bundle"]

MODEL = "model.onnx"
VALIDATOR = "validate.py"


class Bundle:
    """A bundle on disk, whole when it was made or loaded.

    Attributes:
        path: Its directory.
        manifest: The content of its `manifest.json`; `docs/bundle.md` describes the keys.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def build(
        cls, parts: BundleParts, path: str | os.PathLike[str], *, force: bool = False
    ) -> Self:
        """Write a bundle from its parts.

        Args:
            parts: What it is made of.
            path: The directory to make; see `publish` for how it appears at once.
            force: Replace an older bundle.

        Raises:
            OutputError: `path` exists or cannot be written.
            TargetError: The target wants files in it that cannot be put there.
        """
        with publish(path, force=force, is_replaceable=is_bundle) as folder:
            model, file = _write_model(parts, folder)
            _write_texts(parts, folder)
            _copy_included(parts, folder)
            for name, content in parts.golden.files().items():
                _write(folder / name, content)
            manifest = build_manifest(parts, model, file, folder)
            _write(folder / MANIFEST, manifest_text(manifest).encode())
            _check(folder)
        return cls(Path(path).absolute(), manifest)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Open a bundle and check its manifest and every file; nothing in it is executed.

        A replacement that was killed half-way, where the system cannot exchange directories, is
        undone first (see `recover`).

        Raises:
            BundleError: It is missing, damaged, changed, or of an unknown schema.
        """
        folder = Path(path).absolute()
        recover(folder)
        return cls(folder, _check(folder))

    def save(
        self, path: str | os.PathLike[str], force: bool = False, *, allow_missed_goals: bool = False
    ) -> Self:
        """Copy the bundle to where it is shipped from; it appears there at once or not at all.

        Args:
            path: The directory to make; its parent must exist.
            force: Replace an older bundle.
            allow_missed_goals: Copy it although a goal gate fails.

        Returns:
            The bundle at its new place.

        Raises:
            BudgetExceeded: A gate fails, and that was not allowed.
            BundleError: A file was changed since the bundle was made.
            OutputError: `path` exists or cannot be written.
        """
        if not self.gates_met and not allow_missed_goals:
            missed = [gate for gate in self.manifest["gates"] if gate["passed"] is False]
            raise BudgetExceeded(
                "the bundle misses a goal",
                where=", ".join(f"`{gate['name']}`" for gate in missed),
                why="; ".join(f"{gate['value']}, limit {gate['limit']}" for gate in missed),
                hint="`save(..., allow_missed_goals=True)` writes it all the same",
            )
        with publish(path, force=force, is_replaceable=is_bundle) as folder:
            for name in (*self.manifest["files"], MANIFEST):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.path / name, folder / name)
            manifest = _check(folder)
        return type(self)(Path(path).absolute(), manifest)

    @property
    def model_path(self) -> Path:
        """The model to load."""
        return self.path / str(self.manifest["model"]["file"])

    @property
    def gates_met(self) -> bool:
        """Whether every gate that was judged was met."""
        return bool(self.manifest["gates_met"])

    def __repr__(self) -> str:
        """Name the directory."""
        return f"Bundle({str(self.path)!r})"


def is_bundle(path: Path) -> bool:
    """Tell whether a directory looks like a bundle, so that it may be replaced by one."""
    return (path / MANIFEST).is_file()


def _check(folder: Path) -> dict[str, Any]:
    try:
        manifest = read_manifest(folder)
        check_files(folder, manifest)
    except Broken as error:
        raise BundleError(
            f"`{folder}` is not a whole bundle",
            why=str(error),
            hint=f"look closer with `graphopt validate {folder}`, or make it again",
        ) from error
    return manifest


def _write_model(parts: BundleParts, folder: Path) -> tuple[ir.Model, str]:
    if parts.target.package.format != "onnx":
        raise TargetError(
            f"the package format `{parts.target.package.format}` cannot be written",
            where=f"target `{parts.target.name}`",
            hint='set `format = "onnx"` under `[package]`',
        )
    if isinstance(parts.model, Path):
        model = load(parts.model)
        shutil.copyfile(parts.model, folder / MODEL)
        for file in sorted(external_files(model)):
            shutil.copyfile(file, folder / file.name)
        return model, MODEL
    limit = parts.target.package.external_data_threshold_bytes or INLINE_LIMIT_BYTES
    is_large = weight_bytes(parts.model) > limit
    save(parts.model, folder / MODEL, external_data=f"{MODEL}.data" if is_large else False)
    return parts.model, MODEL


def _write_texts(parts: BundleParts, folder: Path) -> None:
    for name, document in (("report.json", parts.report), ("journal.json", parts.journal)):
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
        _write(folder / name, f"{text}\n".encode())
    _write(folder / "report.html", parts.report_html.encode())
    _write(folder / VALIDATOR, validator_text().encode())
    _write(folder / SCHEMA, schema_text().encode())


def _copy_included(parts: BundleParts, folder: Path) -> None:
    """Copy the files that the target names, relative to the target's file."""
    base = (parts.target.path or Path()).parent
    for name in parts.target.package.include:
        if not is_safe_name(name) or (folder / name).exists():
            raise TargetError(
                f"`{name}` cannot be included in the bundle",
                where=f"target `{parts.target.name}`",
                why="expected a plain relative path that the bundle does not use itself",
            )
        if not (base / name).is_file():
            raise TargetError(f"`{base / name}` is not a file", where="`package.include`")
        _write(folder / name, (base / name).read_bytes())


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
