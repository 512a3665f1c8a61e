"""`graphopt doctor`."""

from __future__ import annotations

import importlib.util
import os
import platform
from importlib import metadata
from typing import Any

from graphopt._version import __version__
from graphopt.cli.options import cli_command
from graphopt.cli.output import print_result
from graphopt.cli.settings import Settings
from graphopt.errors import GraphoptError

__all__ = ["command"]

LIBRARIES = ("numpy", "onnx", "onnx-ir", "onnxruntime", "click", "rich", "jsonschema")
# What decides which kernels are fast; the JSON form holds every feature.
ARITHMETIC = ("amx", "avx", "f16c", "fma", "asimd", "bf16", "fphp", "i8mm", "neon", "sve")
EXTRAS = {
    "archives": (("zstandard",), "write and read bundles as .tar.zst"),
    "data": (("PIL", "tokenizers"), "take texts and images as samples"),
    "demo": (("sklearn", "torch"), "train the demo's model again"),
    "export": (("torch", "onnxscript", "transformers"), "export from PyTorch and Hugging Face"),
    "export-sklearn": (("skl2onnx", "sklearn"), "export from scikit-learn"),
    "signatures": (("cryptography",), "sign bundles and check signatures"),
    "test": (("pytest", "xdist", "hypothesis"), "run the tests"),
    "tools": (("onnxsim", "onnxslim", "onnxscript"), "run the passes external-*"),
    "torch": (("torch",), "distill and prune by gradients"),
}


@cli_command(
    "doctor",
    examples=(
        "graphopt doctor",
        "graphopt doctor --json   for a report of a bug",
    ),
)
def command(settings: Settings) -> int:
    """Show versions, providers and what is missing.

    Exit status 1 where the runtime does not start.
    """
    document = _examine()
    print_result(settings, text=_as_text(document), document=document)
    return 1 if document["fault"] else 0


def _examine() -> dict[str, Any]:
    from graphopt.runtime import available_providers, cpu_features, runtime_version, usable_cores

    found: dict[str, Any] = {
        "graphopt": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "extras": {name: _missing(modules) for name, (modules, _) in EXTRAS.items()},
        "cpu_features": sorted(cpu_features()),
        # Asked of a process below: where that fails, the rest is still told.
        "runtime_version": None,
        "providers": [],
        "fault": None,
    }
    try:
        found["runtime_version"] = runtime_version()
        found["providers"] = list(available_providers())
    except GraphoptError as error:
        found["fault"] = str(error)
    return found


def _cores(found: dict[str, Any]) -> str:
    usable, all_cores = found["usable_cores"], found["cores"]
    return f"{all_cores} cores" if usable == all_cores else f"{usable} of {all_cores} cores usable"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _missing(modules: tuple[str, ...]) -> list[str]:
    return [module for module in modules if importlib.util.find_spec(module) is None]


def _as_text(found: dict[str, Any]) -> str:
    from graphopt.report import format_fields

    fields: list[tuple[str, object]] = [
        ("graphopt", found["graphopt"]),
        ("python", found["python"]),
        ("system", f"{found['system']}, {_cores(found)}"),
    ]
    fields += [(name, version or "missing") for name, version in found["libraries"].items()]
    for name, missing in found["extras"].items():
        state = f"missing {', '.join(missing)}: to {EXTRAS[name][1]}" if missing else "complete"
        fields.append((f"extra {name}", state))
    features = [name for name in found["cpu_features"] if name.startswith(ARITHMETIC)]
    fields.append(("cpu features", ", ".join(features) or "none found"))
    if found["usable_cores"] == 1 and "amx_int8" in features:
        # Measured: docs/in_the_runtime.md.
        fields.append(
            ("", "held to one core, onnxruntime uses no AMX: int8 takes up to 3x as long")
        )
    if found["fault"]:
        fields.append(("runtime", f"does not start: {found['fault']}"))
    else:
        providers = ", ".join(found["providers"])
        fields.append(("runtime", f"starts; providers: {providers}"))
    return format_fields(fields)
