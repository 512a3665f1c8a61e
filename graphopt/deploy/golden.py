"""Golden samples: inputs with what the original and this model gave for them, and tolerances.

The same runtime on the same kind of CPU gives the same numbers, so there the recorded outputs of
the model are met but for the floor of the type. Elsewhere other kernels round elsewhere, and what
that does to this model is measured, not guessed: where the bundle is made the model runs as
deployed, and once more with the runtime's optimizations disabled, that is with other kernels. A
device with other kernels is allowed `SPREAD_FACTOR` times what lies between the two.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from graphopt.deploy.agreement import difference
from graphopt.runtime import SessionOptions, Worker

__all__ = [
    "GOLDEN_LIMIT_BYTES",
    "Golden",
    "GoldenSample",
    "OutputRule",
    "npz_bytes",
    "record_golden",
]

Arrays: TypeAlias = Mapping[str, np.ndarray[Any, Any]]

GOLDEN_LIMIT_BYTES = 32 << 20
"""All golden files of a bundle together, before compression."""

SPREAD_FACTOR = 2.0
"""The kernels of one machine are a sample of one; other machines may lie somewhat farther apart."""

FLOORS = {"float16": 1e-2, "float32": 1e-4, "float64": 1e-4}
"""Allowed difference over the largest value: about a thousand roundings of a 32-bit float and ten
of a 16-bit one. Models that return 64-bit floats compute in 32 bits before. Integers, booleans and
text: no element may differ unless the two runs differ too."""


@dataclass(frozen=True, kw_only=True)
class OutputRule:
    """How one output is compared on the device.

    Attributes:
        compare: `values`, `shape` (it depends on random operators) or `nothing`.
        bound: Allowed distance from the recorded outputs of this model: for floats the largest
            difference as a fraction of the largest value, else the share of elements that differ.
        same_kernels_bound: The same for a device with the runtime and the CPU features that made
            the records.
        stride: Of the flat output every how many elements one is recorded.
        note: Why not everything is compared.
    """

    compare: Literal["values", "shape", "nothing"] = "values"
    bound: float = 0.0
    same_kernels_bound: float = 0.0
    stride: int = 1
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class GoldenSample:
    """Inputs, and outputs by name; `model` is None where the model could not run here."""

    inputs: Arrays
    original: Arrays
    model: Arrays | None


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Samples and the rules by which a device is compared with them.

    Attributes:
        samples: As recorded; outputs are flat and thinned out where their stride is above 1.
        outputs: One rule per output.
        note: Which samples were left out, and why.
    """

    samples: tuple[GoldenSample, ...] = ()
    outputs: Mapping[str, OutputRule]
    note: str | None = None

    def files(self) -> dict[str, bytes]:
        """Return the `.npz` files by their name in the bundle; the same arrays, the same bytes."""
        found = {}
        for index, sample in enumerate(self.samples):
            kinds = (("inputs", sample.inputs), ("original", sample.original))
            for kind, arrays in (*kinds, ("model", sample.model)):
                if arrays is not None:
                    found[f"golden/{kind}/{index}.npz"] = npz_bytes(arrays)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the form in which the manifest tells of them."""
        rules = {name: asdict(rule) for name, rule in self.outputs.items()}
        return {"samples": len(self.samples), "note": self.note, "outputs": rules}


def record_golden(
    original: Path,
    model: Path,
    feeds: Sequence[Arrays],
    *,
    options: SessionOptions,
    worker: Worker,
    random_outputs: frozenset[str] = frozenset(),
    is_verified: bool = True,
    limit_bytes: int = GOLDEN_LIMIT_BYTES,
) -> Golden:
    """Run the original and the model on `feeds` and record what a device needs for comparing.

    Args:
        original: The user's file; runs with the runtime's optimizations disabled.
        model: What is shipped.
        feeds: A few inputs, of those on which the gates were measured.
        options: Session options of the deployment.
        worker: Where the sessions run.
        random_outputs: Outputs that depend on random operators.
        is_verified: False where the deployment's provider is not here: `model` is not run.
        limit_bytes: Samples are left out, and large outputs thinned out, to stay below.

    Raises:
        RuntimeFailure: A model does not load or run.
    """
    # The original as its file says it: on the CPU, without rewrites and without the deployment's
    # settings.
    plain = replace(
        options, optimization="disabled", providers=SessionOptions().providers, config={}
    )
    reference = _outputs(original, feeds, plain, worker)
    if not is_verified:
        spread: list[dict[str, Any]] = [{} for _ in feeds]
        outputs: list[dict[str, Any] | None] = [None for _ in feeds]
    else:
        deployed = _outputs(model, feeds, options, worker)
        unfused = _outputs(model, feeds, replace(options, optimization="disabled"), worker)
        spread = [_spread(*pair) for pair in zip(deployed, unfused, strict=True)]
        outputs = [*deployed]
    rules = {
        name: _rule(name, [sample[name] for sample in reference], spread, random_outputs)
        for name in reference[0]
    }
    if reason := _unrecordable(feeds):
        return Golden(outputs=rules, note=reason)
    rules = _thinned(rules, reference[0], limit_bytes)
    samples = [
        GoldenSample(
            inputs=_storable(inputs),
            original=_recorded(expected, rules),
            model=None if found is None else _recorded(found, rules),
        )
        for inputs, expected, found in zip(feeds, reference, outputs, strict=True)
    ]
    kept = _within(samples, limit_bytes)
    left_out = len(samples) - len(kept)
    note = f"{left_out} of {len(samples)} samples left out for their size" if left_out else None
    return Golden(samples=tuple(kept), outputs=rules, note=note)


def _outputs(
    path: Path, feeds: Sequence[Arrays], options: SessionOptions, worker: Worker
) -> list[dict[str, Any]]:
    with worker.load(path, options) as session:
        return [dict(session.run(sample)) for sample in feeds]


def _spread(deployed: Mapping[str, Any], unfused: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(difference(value, unfused[name])["error"])
        for name, value in deployed.items()
        if isinstance(value, np.ndarray)
    }


def _rule(
    name: str, values: list[Any], spread: list[dict[str, Any]], random_outputs: frozenset[str]
) -> OutputRule:
    if not all(isinstance(value, np.ndarray) and value.dtype.kind != "V" for value in values):
        return OutputRule(compare="nothing", note="not a tensor of a type that numpy has")
    if name in random_outputs:
        return OutputRule(compare="shape", note="it depends on random operators")
    measured = max(sample.get(name, 0.0) for sample in spread)
    if not math.isfinite(measured):
        # Its shape, or where it is NaN, hangs on the last bit: no device could be held to it.
        return OutputRule(compare="nothing", note="kernels of this machine alone disagree on it")
    floor = FLOORS.get(values[0].dtype.name, 0.0)
    return OutputRule(bound=max(floor, SPREAD_FACTOR * measured), same_kernels_bound=floor)


def _thinned(
    rules: Mapping[str, OutputRule], values: Mapping[str, Any], limit_bytes: int
) -> dict[str, OutputRule]:
    """Choose strides so that one sample's outputs, recorded twice, take half of the limit."""
    share = limit_bytes / 4 / max(1, len(rules))
    found = dict(rules)
    for name, rule in rules.items():
        if rule.compare != "nothing" and values[name].nbytes > share:
            stride = int(np.ceil(values[name].nbytes / share))
            found[name] = replace(rule, stride=stride, note=f"one element of {stride} is recorded")
    return found


def _recorded(values: Mapping[str, Any], rules: Mapping[str, OutputRule]) -> Arrays:
    kept = {name: values[name] for name, rule in rules.items() if rule.compare != "nothing"}
    return _storable(
        {
            name: value if rules[name].stride == 1 else value.reshape(-1)[:: rules[name].stride]
            for name, value in kept.items()
        }
    )


def _unrecordable(feeds: Sequence[Mapping[str, Any]]) -> str | None:
    """Return why a device could not be fed what is recorded; ``None`` where it could."""
    for name, value in feeds[0].items() if feeds else ():
        # bfloat16 and the like come out of a `.npz` as bytes of no type.
        if not isinstance(value, np.ndarray) or value.dtype.kind == "V":
            return f"no samples: input `{name}` is no tensor of a type that numpy has"
    return None


def _storable(values: Arrays) -> Arrays:
    """Write text as fixed-width text: objects would need pickle."""
    return {
        name: value.astype(str) if value.dtype.kind == "O" else value
        for name, value in values.items()
    }


def _within(samples: list[GoldenSample], limit_bytes: int) -> list[GoldenSample]:
    kept: list[GoldenSample] = []
    total = 0
    for sample in samples:
        parts = (sample.inputs, sample.original, sample.model or {})
        # Before compression: a bound on what a device unpacks.
        total += sum(value.nbytes for part in parts for value in part.values())
        if kept and total > limit_bytes:
            break
        kept.append(sample)
    return kept


def npz_bytes(arrays: Arrays) -> bytes:
    """Return an `.npz` file. Unlike `np.savez` it takes every name and knows no time of day."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, array in arrays.items():
            with file.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asarray(array), allow_pickle=False)
    return buffer.getvalue()
