"""The backend test suite that comes with the `onnx` package, as models with inputs and outputs."""

from __future__ import annotations

import functools
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from onnx import numpy_helper

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
STORED = ("simple", "pytorch-converted", "pytorch-operator")


@dataclass(frozen=True)
class Case:
    """A model with inputs and the outputs that the suite expects.

    Attributes:
        name: Kind and name in the suite.
        model: The model.
        data: Pairs of inputs by name and expected outputs by name.
        rtol, atol: What the suite tolerates between the expected and the computed outputs.
    """

    name: str
    model: onnx.ModelProto
    data: tuple[tuple[dict[str, object], dict[str, object]], ...]
    rtol: float = 1e-3
    atol: float = 1e-7


@functools.cache
def node_cases() -> tuple[Case, ...]:
    """Return the cases that the package computes: at least one for every operator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite overflows and divides by zero on purpose
        from onnx.backend.test.loader import load_node_model_tests

        found = load_node_model_tests()
    return tuple(
        Case(f"node/{case.name}", case.model, _named(case), case.rtol, case.atol)
        for case in sorted(found, key=lambda case: case.name)
    )


def _named(case):
    inputs = [value.name for value in case.model.graph.input]
    outputs = [value.name for value in case.model.graph.output]
    return tuple(
        (
            dict(zip(inputs, map(as_array, given), strict=False)),
            dict(zip(outputs, map(as_array, expected), strict=False)),
        )
        for given, expected in case.data_sets
    )


def as_array(value):
    """Return a value of the suite as an array, a list of arrays, or None."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, (list, tuple)):
        return [as_array(item) for item in value]
    return value if value is None else np.asarray(value)


def stored_cases(kind: str) -> tuple[Case, ...]:
    """Return the cases of one of `STORED`, read from the package's files."""
    return tuple(map(_stored, sorted(path.parent for path in DATA.glob(f"{kind}/*/model.onnx"))))


def _stored(folder: Path) -> Case:
    model = onnx.load(folder / "model.onnx")
    overridable = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in overridable]
    data = tuple(
        (
            _values(part, "input", inputs or model.graph.input),
            _values(part, "output", model.graph.output),
        )
        for part in sorted(folder.glob("test_data_set_*"))
    )
    settings = folder / "data.json"
    tolerances = json.loads(settings.read_text()) if settings.exists() else {}
    kept = {key: tolerances[key] for key in ("rtol", "atol") if key in tolerances}
    return Case(f"{folder.parent.name}/{folder.name}", model, data, **kept)


def _values(folder: Path, kind: str, infos) -> dict[str, object]:
    files = sorted(folder.glob(f"{kind}_*.pb"), key=lambda path: int(path.stem.split("_")[1]))
    if len(files) > len(infos):
        raise AssertionError(f"{folder} has {len(files)} files of {kind}s")
    return {info.name: _read(path, info.type) for path, info in zip(files, infos, strict=False)}


def _read(path: Path, kind: onnx.TypeProto):
    data = path.read_bytes()
    if kind.HasField("sequence_type"):
        return list(numpy_helper.to_list(onnx.SequenceProto.FromString(data)))
    if kind.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(data))
    return numpy_helper.to_array(onnx.TensorProto.FromString(data))


def light_cases() -> tuple[Case, ...]:
    """Return whole networks whose weights are computed from small constants."""
    return tuple(map(_light, sorted((DATA / "light").glob("light_*.onnx"))))


def _light(path: Path) -> Case:
    model = onnx.load(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    (info,) = (value for value in model.graph.input if value.name not in weights)
    dims = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
    size = int(np.prod(dims))
    # What the suite feeds these models with.
    fed = np.arange(size).reshape(dims).astype(np.float32) / np.float32(size)
    expected = _read(path.with_name(f"{path.stem}_output_0.pb"), onnx.TypeProto())
    data = ({info.name: fed}, {model.graph.output[0].name: expected})
    return Case(f"light/{path.stem}", model, (data,))


# -- comparing --------------------------------------------------------------------------------------


def bit_difference(expected, found) -> str | None:
    """Return how two outputs differ, or None where every bit agrees; any NaN equals any other."""
    if isinstance(expected, list) or isinstance(found, list):
        return _sequence_difference(expected, found, bit_difference)
    if expected is None or found is None:
        return None if expected is found else "one is an empty optional, the other is not"
    return _array_difference(expected, found)


def _sequence_difference(expected, found, difference) -> str | None:
    if not (isinstance(expected, list) and isinstance(found, list)):
        return "one is a sequence, the other is not"
    if len(expected) != len(found):
        return f"sequences of {len(expected)} and {len(found)}"
    pairs = (difference(a, b) for a, b in zip(expected, found, strict=True))
    return next((text for text in pairs if text), None)


def _array_difference(expected, found) -> str | None:
    if (expected.dtype, expected.shape) != (found.dtype, found.shape):
        return f"{expected.dtype}{expected.shape} and {found.dtype}{found.shape}"
    if expected.dtype == object:
        return None if (expected == found).all() else "texts differ"
    bits = [np.ascontiguousarray(side).reshape(-1).view(np.uint8) for side in (expected, found)]
    same = (bits[0] == bits[1]).reshape(expected.size, expected.dtype.itemsize).all(axis=1)
    different = ~(same | (_is_nan(expected) & _is_nan(found)))
    if not different.any():
        return None
    index = int(different.argmax())
    values = expected.reshape(-1)[index], found.reshape(-1)[index]
    return f"{int(different.sum())} of {expected.size} elements, the first {values[0]!r} and {values[1]!r}"


def _is_nan(array):
    flat = array.reshape(-1)
    if flat.dtype.kind in "fc":
        return np.isnan(flat)
    if flat.dtype.kind == "V" and "float" in flat.dtype.name:
        return np.isnan(flat.astype(np.float32))
    return np.zeros(flat.shape, bool)


def tolerated_difference(expected, found, rtol: float, atol: float) -> str | None:
    """Return how an output differs from what the suite expects by more than it tolerates."""
    if isinstance(expected, list) or isinstance(found, list):
        within = functools.partial(tolerated_difference, rtol=rtol, atol=atol)
        return _sequence_difference(expected, found, within)
    if expected is None or found is None:
        return None if expected is found else "one is an empty optional, the other is not"
    if expected.dtype.kind in "OUST" or found.dtype.kind in "OUST":
        same = np.asarray(expected, object).tolist() == np.asarray(found, object).tolist()
        return None if same else "texts differ"
    if (expected.dtype, expected.shape) != (found.dtype, found.shape):
        return f"{expected.dtype}{expected.shape} and {found.dtype}{found.shape}"
    wide = [_wide(side) for side in (expected, found)]
    with np.errstate(invalid="ignore", over="ignore"):
        close = np.allclose(wide[0], wide[1], rtol=rtol, atol=atol, equal_nan=True)
    return None if close else "beyond the tolerance"


def _wide(array):
    return array.astype(np.float64) if array.dtype.kind not in "iubfc" else array


assert ml_dtypes  # registers the types that numpy lacks
