"""Inputs of a zoo model from its `spec.json`, at two shapes.

A spec holds `dims` (sizes by symbol), `inputs` (`[name, {dtype, dims, gen}]` with `gen.kind` one of
randint, ones, zeros, randn, image, arange), and optionally `static` (one shape only) and `feeds`:
a list of `{"dims": {...}, "values": {name: scalar}}` in place of the two shapes made here.
Unlike benchmarks of speed, these inputs mask some positions: a fusion that forgets the mask fails.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SECOND_SHAPE = {"batch": 2, "ibatch": 3, "seq": 7, "past": 5, "total": 12, "enc": 9}
PADDING = 2

Feed = dict[str, NDArray[Any]]


def make_feeds(folder: Path) -> list[Feed]:
    """Return the inputs to verify a model with: the spec's own shape and a second one."""
    spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    usual = spec["dims"]
    variants = spec.get("feeds")
    if variants is None:
        second = {} if spec.get("static") else {k: SECOND_SHAPE.get(k, v) for k, v in usual.items()}
        variants = [{}, {"dims": second}]
    return [make_feed(spec, variant, seed) for seed, variant in enumerate(variants)]


def make_feed(spec: Mapping[str, Any], variant: Mapping[str, Any], seed: int) -> Feed:
    """Return one seeded feed at the spec's sizes, or the variant's where it names them."""
    rng = np.random.default_rng(seed)
    sizes = {**spec["dims"], **variant.get("dims", {})}
    values = variant.get("values", {})
    feed = {}
    for name, entry in spec["inputs"]:
        shape = [sizes[dim] if isinstance(dim, str) else dim for dim in entry["dims"]]
        array = _array(entry["gen"], shape, rng)
        if name in values:
            array = np.full(shape, values[name])
        elif "mask" in name and entry["gen"]["kind"] == "ones":
            _pad(array, at_start="past" in sizes)
        feed[name] = np.ascontiguousarray(array.astype(entry["dtype"]))
    return feed


def _pad(mask: NDArray[Any], *, at_start: bool) -> None:
    """Mask positions of the last row: the first ones where a cache precedes, else the last."""
    if mask.shape[-1] > PADDING + 1:
        mask[-1, slice(0, PADDING) if at_start else slice(-PADDING, None)] = 0


def _array(gen: Mapping[str, Any], shape: list[int], rng: np.random.Generator) -> NDArray[Any]:
    match gen["kind"]:
        case "randint":
            return rng.integers(1, gen["high"], shape)
        case "ones":
            return np.ones(shape)
        case "zeros":
            return np.zeros(shape)
        case "randn":
            return rng.standard_normal(shape) * gen.get("scale", 1.0)
        case "arange":
            return np.broadcast_to(np.arange(shape[-1]) + gen.get("start", 0), shape)
        case "image":
            return _image(shape, rng)
        case kind:
            raise ValueError(f"unknown generator {kind!r}")


def _image(shape: list[int], rng: np.random.Generator) -> NDArray[Any]:
    """Return soft patches under fine noise, about unit variance."""
    batch, channels, height, width = shape
    coarse = rng.standard_normal((batch, channels, 8, 8))
    patches = np.kron(coarse, np.ones((1, 1, -(-height // 8), -(-width // 8))))
    return 0.8 * patches[:, :, :height, :width] + 0.6 * rng.standard_normal(shape)
