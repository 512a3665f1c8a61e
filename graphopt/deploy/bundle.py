"""The bundle: the directory that is shipped."""

from __future__ import annotations

import json
import os
import shutil
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import onnx_ir as ir

from graphopt.deploy.archives import archive_suffix, pack, unpack
from graphopt.deploy.integrity import (
    MANIFEST,
    SCHEMA,
    SIGNATURE,
    Broken,
    check_files,
    is_safe_name,
    read_manifest,
)
from graphopt.deploy.manifest import BundleParts, build_manifest, manifest_text
from graphopt.deploy.ort_format import REQUIRED_OPERATORS, graph_of_ort, required_operators
from graphopt.deploy.publishing import check_destination, publish, recover
from graphopt.deploy.shipped_validator import schema_text, validator_text, web_files
from graphopt.deploy.signing import sign
from graphopt.errors import BudgetExceeded, BundleError, TargetError
from graphopt.ir import (
    INLINE_LIMIT_BYTES,
    external_files,
    load,
    save,
    scratch_folder,
    weight_bytes,
)
from graphopt.targets import Target

__all__ = ["Bundle", "check_included", "check_output", "fill_bundle", "is_bundle"]

MODEL, ORT_MODEL = "model.onnx", "model.ort"
VALIDATOR = "validate.py"


class Bundle:
    """A bundle on disk, whole when it was made or loaded.

    Attributes:
        path: Its directory; of an archive a temporary one, which lives as long as this value.
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
            path: The directory to make (see `publish` for how it appears at once), or a file
                that ends in `.zip` or `.tar.zst`.
            force: Replace an older bundle.

        Raises:
            OutputError: `path` exists or cannot be written.
            TargetError: The target wants files in it that cannot be put there.
        """
        _put(path, force, lambda folder: _fill(folder, parts))
        return cls.load(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Open a bundle and check its manifest and every file; nothing in it is executed.

        A replacement that was killed half-way, where the system cannot exchange directories, is
        undone first (see `recover`). An archive is unpacked.

        Raises:
            BundleError: It is missing, damaged, changed, or of an unknown schema.
            MissingExtraError: It is a `.tar.zst`, and `zstandard` is not installed.
        """
        given = Path(path).absolute()
        if archive_suffix(given) is None:
            recover(given)
            return cls(given, _check(given))
        with ExitStack() as stack:
            folder = stack.enter_context(scratch_folder()) / "bundle"
            with _explaining(given):
                unpack(given, folder)
            loaded = cls(folder, _check(folder))
            # Only now, when it is whole: on any error above, the `with` removes what was unpacked.
            weakref.finalize(loaded, stack.pop_all().close)
        return loaded

    def save(
        self,
        path: str | os.PathLike[str],
        force: bool = False,
        *,
        allow_missed_goals: bool = False,
        secret_key: str | os.PathLike[str] | None = None,
        comment: str = "",
    ) -> Self:
        """Copy the bundle to where it is shipped from; it appears there at once or not at all.

        Args:
            path: The directory to make, or a file that ends in `.zip` or `.tar.zst`; its parent
                must exist.
            force: Replace an older bundle.
            allow_missed_goals: Copy it although a goal gate fails.
            secret_key: Sign the copy with this key of minisign (see `sign`); a signature that is
                there is copied where it is None.
            comment: What the signature says, one line.

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

        def copy(folder: Path) -> None:
            # What the manifest names and nothing else: what somebody put beside it is not shipped.
            for name in (*self.manifest["files"], MANIFEST):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.path / name, folder / name)
            if secret_key is not None:
                sign(folder, Path(secret_key), comment)
            elif (self.path / SIGNATURE).is_file():
                shutil.copyfile(self.path / SIGNATURE, folder / SIGNATURE)

        _put(path, force, copy)
        return self.load(path)

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


def check_output(path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Refuse where no bundle could be written, before any work is done.

    Raises:
        OutputError: `path` exists and may not be replaced, or cannot be written.
    """
    file = Path(path)
    if archive_suffix(file) and force and file.is_file() and not file.is_symlink():
        return
    check_destination(file, force=force and not archive_suffix(file), is_replaceable=is_bundle)


def fill_bundle(
    path: str | os.PathLike[str], fill: Callable[[Path], None], *, force: bool = False
) -> Bundle:
    """Write a bundle whose files, the manifest too, `fill` makes in the folder that it is given.

    Raises:
        OutputError: `path` exists or cannot be written.
        BundleError: What was made is no whole bundle.
    """
    _put(path, force, fill)
    return Bundle.load(path)


def _put(path: str | os.PathLike[str], force: bool, fill: Callable[[Path], None]) -> None:
    """Write a bundle as the directory or the file that `path` names; `fill` makes its content."""
    if archive_suffix(path) is None:
        with publish(path, force=force, is_replaceable=is_bundle) as folder:
            fill(folder)
            _check(folder)
        return
    check_output(path, force=force)
    with scratch_folder() as work:
        folder = work / "bundle"
        folder.mkdir()
        fill(folder)
        _check(folder)
        pack(folder, Path(path))


def _fill(folder: Path, parts: BundleParts) -> None:
    model, file = _write_model(parts, folder)
    _write_texts(parts, folder)
    _copy_included(parts, folder)
    raw = () if parts.raw is None else parts.raw.files()
    for name, content in (*parts.golden.files().items(), *raw):
        _write(folder / name, content)
    # Last: it holds the hashes of all the others.
    manifest = build_manifest(parts, model, file, folder)
    _write(folder / MANIFEST, manifest_text(manifest).encode())


def _check(folder: Path) -> dict[str, Any]:
    with _explaining(folder):
        manifest = read_manifest(folder)
        check_files(folder, manifest)
    return manifest


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    try:
        yield
    except Broken as error:
        if not path.exists():
            raise BundleError(f"`{path}` does not exist", why="no such file or folder") from error
        if path.is_file() and archive_suffix(path) is None:
            why = "it is a file, and does not end in `.zip` or `.tar.zst`"
            raise BundleError(f"`{path}` is not a bundle", why=why) from error
        raise BundleError(
            f"`{path}` is not a whole bundle",
            why=str(error),
            hint=f"look closer with `graphopt validate {path}`, or make it again",
        ) from error


def _write_model(parts: BundleParts, folder: Path) -> tuple[ir.Model, str]:
    if parts.target.package.format == "ort":
        return _write_ort(parts, folder)
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


def _write_ort(parts: BundleParts, folder: Path) -> tuple[ir.Model, str]:
    if not isinstance(parts.model, Path) or parts.model.suffix != ".ort":
        raise TargetError(
            "the package format `ort` needs a model that was converted",
            where=f"target `{parts.target.name}`",
            hint="`graphopt optimize` converts it; in Python `convert_to_ort` does",
        )
    shutil.copyfile(parts.model, folder / ORT_MODEL)
    model = graph_of_ort(parts.model)
    _write(folder / REQUIRED_OPERATORS, required_operators(model).encode())
    return model, ORT_MODEL


def _write_texts(parts: BundleParts, folder: Path) -> None:
    for name, document in (("report.json", parts.report), ("journal.json", parts.journal)):
        # Strict readers refuse NaN, and the device's own validator is one.
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
        _write(folder / name, f"{text}\n".encode())
    _write(folder / "report.html", parts.report_html.encode())
    _write(folder / VALIDATOR, validator_text().encode())
    _write(folder / SCHEMA, schema_text().encode())
    for name, text in web_files().items():
        _write(folder / name, text.encode())


def check_included(target: Target) -> None:
    """Refuse files that a target names for its bundles and that cannot be had: before any work.

    Raises:
        TargetError: A path is none within the folder of the target's file, or there is no file.
    """
    base = (target.path or Path()).parent
    for name in target.package.include:
        if not is_safe_name(name):
            raise _not_includable(name, target)
        if not (base / name).is_file():
            raise TargetError(f"`{base / name}` is not a file", where="`package.include`")


def _copy_included(parts: BundleParts, folder: Path) -> None:
    """Copy the files that the target names, relative to the target's file."""
    check_included(parts.target)
    base = (parts.target.path or Path()).parent
    for name in parts.target.package.include:
        if (folder / name).exists():
            raise _not_includable(name, parts.target)
        _write(folder / name, (base / name).read_bytes())


def _not_includable(name: str, target: Target) -> TargetError:
    return TargetError(
        f"`{name}` cannot be included in the bundle",
        where=f"target `{target.name}`",
        why="expected a plain relative path that the bundle does not use itself",
    )


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
