"""Exports one source to a file, and writes what the framework computes for several sizes."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

from .loaded import ExportError, Loaded, Opset, varied

__all__ = ["NOT_EXPORTED", "NOT_INSTALLED", "main"]

NOT_INSTALLED, NOT_EXPORTED = 3, 4
_LONGEST = 2000
_TAKING_PART = {
    "hf": ("torch", "onnxscript", "transformers"),
    "torch": ("torch", "onnxscript"),
    "pt2": ("torch", "onnxscript"),
}


def main(arguments: list[str]) -> int:
    """Run for KIND SOURCE OUT OPTIONS; return the exit status."""
    kind, source, place = arguments[:3]
    options, out = json.loads(arguments[3]), Path(place)
    try:
        record = _export(kind, source, out, options)
    except ModuleNotFoundError as error:
        sys.stderr.write(f"\n{error}\n")
        traceback.print_exc()
        Path(f"{out}.failed").write_text(str(error), encoding="utf-8")
        return NOT_INSTALLED
    except ExportError as error:
        Path(f"{out}.failed").write_text(str(error), encoding="utf-8")
        return NOT_EXPORTED
    except BaseException as error:  # noqa: BLE001 - user code raises what it likes, SystemExit too
        # To a file: what it did to standard error is its own affair.
        said = traceback.format_exception_only(error)[-1].strip()[:_LONGEST]
        Path(f"{out}.failed").write_text(f"failed: {said}", encoding="utf-8", errors="replace")
        return NOT_EXPORTED
    Path(f"{out}.json").write_text(json.dumps(record), encoding="utf-8")
    return 0


def _export(kind: str, source: str, out: Path, options: dict[str, Any]) -> dict[str, Any]:
    opset = Opset(options["opset"], options["newest_opset"])
    if kind == "sklearn":
        from .sklearn_models import export_sklearn

        record, cases = export_sklearn(source, out, opset=opset, trust=options["trust"])
        for number, (inputs, outputs) in enumerate(cases):
            _write_case(out, number, input=inputs, output=outputs)
        return {**record, "versions": _versions("scikit-learn", "skl2onnx")}
    loaded = _load(kind, source, options)
    import torch

    from .torch_exporters import export_torch

    # A loaded program is what it was saved as, and says so when asked for another mode.
    if kind != "pt2":
        loaded.module.eval()
    # What draws in `forward` draws the same each time: the same source gives the same file.
    torch.manual_seed(0)
    with torch.no_grad():
        for number, args in enumerate(varied(loaded)):
            _compute_case(loaded, out, number, args)
        record = export_torch(
            loaded,
            out,
            exporter=options["exporter"],
            opset=opset,
            without=options["without"],
        )
    versions = _versions(*_TAKING_PART[kind])
    if record["exporter"] == "optimum":
        versions |= _versions("optimum", "optimum-onnx")
    # By name where the names are ours: another exporter may order them otherwise, or ask for more.
    names = {"input": loaded.input_names, "output": loaded.output_names}
    named = {key: list(held) for key, held in names.items()} if loaded.cases else {}
    named |= {"implied": list(loaded.implied)} if named else {}
    return {**record, "names": named, "origin": loaded.origin, "versions": versions}


def _compute_case(loaded: Loaded, out: Path, number: int, args: tuple[Any, ...]) -> None:
    from .torch_models import flat_tensors

    inputs, results = flat_tensors(args), flat_tensors(loaded.module(*args))
    given = dict(zip(loaded.input_names, args, strict=False))
    implied = [make(given) for make in loaded.implied.values()]
    _write_case(
        out, number, input=_arrays(inputs), output=_arrays(results), implied=_arrays(implied)
    )


def _load(kind: str, source: str, options: dict[str, Any]) -> Loaded:
    if kind == "hf":
        from .huggingface import load_huggingface

        return load_huggingface(source, trust=options["trust"])
    from .torch_models import load_factory, load_program

    return load_program(source) if kind == "pt2" else load_factory(source)


def _arrays(tensors: list[Any]) -> list[Any]:
    import torch

    # numpy has no bfloat16; single precision holds all of it.
    return [
        (one.float() if one.dtype == torch.bfloat16 else one).detach().cpu().numpy()
        for one in tensors
    ]


def _write_case(out: Path, number: int, **kinds: list[Any]) -> None:
    import numpy as np

    named = {
        f"{kind}_{index}": array
        for kind, arrays in kinds.items()
        for index, array in enumerate(arrays)
    }
    np.savez(f"{out}.case{number}.npz", **named)


def _versions(*names: str) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
