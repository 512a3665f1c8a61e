"""Several versions of a model for several sizes in one bundle, which keep their weights once."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from graphopt.deploy.bundle import Bundle, fill_bundle
from graphopt.deploy.integrity import MANIFEST, file_sha256
from graphopt.deploy.manifest import manifest_text
from graphopt.deploy.variants_page import page_with_variants
from graphopt.errors import OptionError
from graphopt.ir import blocks, load, save_referring

__all__ = ["combine", "variant_name"]

WEIGHTS = "model.onnx.data"
_ALIGNMENT_BYTES = 4096  # what lies at page borders can be mapped
_UNNAMEABLE = re.compile(r"[^a-z0-9]+")


def variant_name(dims: Sequence[str]) -> str:
    """Return the name of a variant of fixed sizes, which is also part of its file's name.

    >>> variant_name(["batch=1", "Sequence=128"])
    'batch-1-sequence-128'
    """
    return "-".join(_UNNAMEABLE.sub("-", text.lower()).strip("-") for text in dims)


def combine(
    bundles: Mapping[str, Bundle], path: str | os.PathLike[str], *, force: bool = False
) -> Bundle:
    """Put bundles of one model and one target into one, whose first variant is the one by default.

    Large weights that are the same bytes in several variants are stored once, in one file beside
    the models. The manifest has a table `variants`: a caller takes the first one whose inputs have
    the sizes at hand, or the smallest that they can be padded to.

    Args:
        bundles: By name of the variant, at least two.
        path: The directory to make, or a file that ends in `.zip` or `.tar.zst`.
        force: Replace an older bundle.

    Raises:
        OptionError: They are of other models or targets, or there are not two.
        OutputError: `path` exists or cannot be written.
    """
    manifests = {name: bundle.manifest for name, bundle in bundles.items()}
    first = next(iter(manifests.values()), None)
    alike = {(held["source"]["sha256"], held["target"]) for held in manifests.values()}
    if first is None or len(manifests) < 2 or len(alike) > 1:  # noqa: PLR2004 - two make several
        raise OptionError(
            "these bundles cannot be combined",
            why=f"expected two or more of one model and target, found {sorted(alike)}",
        )

    def fill(folder: Path) -> None:
        store = _Store(folder / WEIGHTS)
        entries = [
            _add(name, bundle, folder, store, is_first=bundle.manifest is first)
            for name, bundle in bundles.items()
        ]
        page = folder / "report.html"
        text = page_with_variants(page.read_text(encoding="utf-8"), entries)
        page.write_bytes(text.encode())
        manifest = {
            **first,
            "model": {**first["model"], "file": entries[0]["file"]},
            "gates_met": all(held["gates_met"] for held in manifests.values()),
            "variants": entries,
            "files": _files(folder),
        }
        (folder / MANIFEST).write_bytes(manifest_text(manifest).encode())

    return fill_bundle(path, fill, force=force)


def _add(
    name: str, bundle: Bundle, folder: Path, store: _Store, *, is_first: bool
) -> dict[str, Any]:
    """Put one variant into the folder; return its line of the table."""
    manifest = bundle.manifest
    own = {manifest["model"]["file"], *_data_files(bundle)}
    place = folder if is_first else folder / "variants" / name
    for file in manifest["files"]:
        # Programs and schema are the same for all; the records are each variant's own.
        if file not in own and (is_first or file.startswith(_OWN)):
            _copy(bundle.path / file, place / file)
    target = "model.onnx" if is_first else f"model.{name}.onnx"
    save_referring(load(bundle.model_path), folder / target, store.place)
    return {
        "name": name,
        "file": target,
        "inputs": manifest["model"]["inputs"],
        "outputs": manifest["model"]["outputs"],
        "recipe": manifest["recipe"],
        "gates": manifest["gates"],
        "gates_met": manifest["gates_met"],
        "measured": manifest["measured"],
        "golden": manifest["golden"],
    }


_OWN = ("golden/", "report.", "journal.")


def _data_files(bundle: Bundle) -> list[str]:
    model = load(bundle.model_path)
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sorted(
        {str(tensor.location) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
    )


def _copy(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, destination)


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        path.relative_to(folder).as_posix(): {
            "sha256": file_sha256(path),
            "size_bytes": path.stat().st_size,
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class _Store:
    """A file of weights, each of which is in it once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offsets: dict[str, int] = {}

    def place(self, tensor: ir.TensorProtocol) -> tuple[str, int]:
        """Return file and offset of a weight, which is appended where it is new."""
        digest = hashlib.sha256()
        for part in blocks(tensor):
            digest.update(part)
        # Equal bytes of another type would read the same, too: the type is in the model.
        key = digest.hexdigest()
        if key not in self._offsets:
            with self._path.open("ab") as stream:
                stream.write(bytes(-stream.tell() % _ALIGNMENT_BYTES))
                self._offsets[key] = stream.tell()
                for part in blocks(tensor):
                    stream.write(part)
        return self._path.name, self._offsets[key]
