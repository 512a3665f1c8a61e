"""Models that others call valid have no faults: the ones that onnx tests its backends with."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir

from graphopt.verification import structure_faults

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data"
LIMIT = 250


def test_models_of_the_onnx_package_are_sound():
    paths = sorted(FOLDER.glob("*/*/model.onnx"))
    paths = paths[:: len(paths) // LIMIT + 1]
    assert len(paths) > 50
    faults = {path.parent.name: structure_faults(ir.load(path)) for path in paths}
    assert {name: found for name, found in faults.items() if found} == {}
