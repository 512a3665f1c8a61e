"""Which activations are worth two integers per element, measured at the outputs of the model.

Rounding an activation costs little at the outputs in most places, and much in few: in a seeded
DistilBERT the six that enter the feed-forward parts make four fifths of the noise of all 24. So
each is rounded alone and the model run on samples. Noise of independent sources adds up, so that
the sum tells what is gained by holding some more precisely, which takes twice the work of the
products that read them: those are chosen, the cheapest first, that are worth it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.macs import count_macs
from graphopt.compression.integer_products import LayerGroup, twofold
from graphopt.compression.output_noise import OutputNoise, Outputs
from graphopt.compression.static_layers import Layer
from graphopt.compression.worth import worth_twice
from graphopt.ir import clone, weight_bytes
from graphopt.rewrite import Asked, Change, ChannelMoments, Editor, Journal, Measure

__all__ = ["choose_twofold"]

_FEWEST_SAMPLES, _MOST_SAMPLES = 2, 8
# Multiplications for all runs together: tens of seconds. How many samples that allows depends on
# the model alone, so that the same call gives the same choice.
_WORK = 4e11
_USES = 100  # of a byte of weights, where shapes do not tell


def choose_twofold(
    model: ir.Model,
    measure: Measure,
    groups: Sequence[LayerGroup],
    weight: Callable[[Layer], npt.NDArray[np.float64]],
    moments: Mapping[Asked, ChannelMoments],
    *,
    price_db: float,
    share: float,
    kind: str,
) -> list[LayerGroup]:
    """Return the groups, those whose activation is to be held in two integers marked as such.

    Args:
        model: The model in float, which stays as it is.
        measure: Runs it on samples.
        groups: As they would be quantized in one integer per element.
        weight: Returns what a layer multiplies by when it is: `SpreadWeight.effective`.
        moments: Of the activations.
        price_db: By how much the error of the outputs must fall for a tenth of the work.
        share: Of the work, the most that may be done twice.
        kind: Integer type of activations, ``u8`` or ``s8``.

    Raises:
        SessionLoadError, RuntimeFailure: The runtime refuses the model, or fails on a sample.
    """
    work = [_work(group, moments) for group in groups]
    noise, rest = _measured(model, measure, groups, weight)
    found = list(groups)
    for number in worth_twice(noise, rest, work, price_db, most=share):
        name = groups[number].activation.name or ""
        found[number] = twofold(groups[number], moments[name], kind)
    return found


def _work(group: LayerGroup, moments: Mapping[Asked, ChannelMoments]) -> float:
    """Return the multiplications of a group, over all samples."""
    rows = moments[group.activation.name or ""].count
    return float(rows * sum(layer.weight.tensor.size for layer in group.layers))


def _measured(
    model: ir.Model,
    measure: Measure,
    groups: Sequence[LayerGroup],
    weight: Callable[[Layer], npt.NDArray[np.float64]],
) -> tuple[list[float], float]:
    """Return the noise of rounding each activation alone, and that of rounding all weights.

    It is summed over outputs, each relative to its own signal.
    """
    # Open sizes count as 1, which is far too little.
    work = max(count_macs(model) or 1, weight_bytes(model) * _USES) * (len(groups) + 1)
    samples = int(min(max(_WORK / work, _FEWEST_SAMPLES), _MOST_SAMPLES))
    with_switches, switches = _switchable(model, groups)
    settings = [_only(switches, on) for on in (None, *switches)]
    # One loaded model for all of them: loading takes longer than a few runs.
    found: list[list[Outputs]] = [[] for _ in settings]
    turns = measure.outputs(with_switches, settings=settings)
    for number, outputs in enumerate(itertools.islice(turns, samples * len(settings))):
        found[number % len(settings)].append(outputs)
    judge = OutputNoise(found[0])
    rounded = measure.outputs(_rounded_weights(model, groups, weight))
    rest = judge.of(list(itertools.islice(rounded, len(found[0]))))
    return [float(judge.of(one).sum()) for one in found[1:]], float(rest.sum())


def _only(switches: Sequence[str], on: str | None) -> dict[str, npt.NDArray[np.float32]]:
    return {name: np.asarray(name == on, np.float32) for name in switches}


def _switchable(model: ir.Model, groups: Sequence[LayerGroup]) -> tuple[ir.Model, list[str]]:
    """Return a copy in which the activation of each group is rounded where its switch is 1."""
    copy = clone(model)
    copied = dict(zip(model.graph, copy.graph, strict=True))
    editor = Editor(copy, pass_name="trial", journal=Journal())  # noqa: S106 - no secret
    switches = []
    for number, group in enumerate(groups):
        switch = ir.Value(
            name=f"graphopt_switch_{number}",
            type=ir.TensorType(ir.DataType.FLOAT),
            shape=ir.Shape([]),
        )
        copy.graph.inputs.append(switch)
        switches.append(switch.name or "")
        readers = [copied[layer.node] for layer in group.layers]
        with editor.rewrite(readers[0], because="trial") as change:
            _round_where(change, switch, group, readers)
    return copy, switches


def _round_where(
    change: Change, switch: ir.Value, group: LayerGroup, readers: Sequence[ir.Node]
) -> None:
    """Let layers read ``x + switch * (rounded(x) - x)``, but for channels set apart."""
    activation, parameters = readers[0].inputs[0], group.spread.parameters
    assert activation is not None
    source = activation
    if group.spread.columns:
        inside = np.ones(len(group.mean), np.float32)
        inside[group.spread.channels] = 0.0
        source = change.node("Mul", [activation, change.initializer(inside, name="trial")])
    scale = change.initializer(parameters.scale, name="trial_scale")
    zero_point = change.initializer(parameters.zero_point, name="trial_zero_point")
    integers = change.node("QuantizeLinear", [source, scale, zero_point])
    restored = change.node("DequantizeLinear", [integers, scale, zero_point])
    error = change.node("Sub", [restored, source])
    share = change.node("Mul", [error, switch])
    moved = change.node("Add", [activation, share])
    for reader in readers:
        change.set_input(reader, 0, moved)


def _rounded_weights(
    model: ir.Model,
    groups: Sequence[LayerGroup],
    weight: Callable[[Layer], npt.NDArray[np.float64]],
) -> ir.Model:
    """Return a copy whose layers multiply by other weights; biases make up for their means."""
    copy = clone(model)
    copied = dict(zip(model.graph, copy.graph, strict=True))
    editor = Editor(copy, pass_name="trial", journal=Journal())  # noqa: S106 - no secret
    for layer in (layer for group in groups for layer in group.layers):
        node = copied[layer.node]
        with editor.rewrite(node, because="trial") as change:
            stored = change.initializer(_restored(layer, weight), name="trial")
            change.set_input(node, 1, stored)
    return copy


def _restored(layer: Layer, weight: Callable[[Layer], npt.NDArray[np.float64]]) -> ir.LazyTensor:
    """Return the weight in floats, computed when it is written: all are as large as the model."""

    def compute() -> ir.TensorProtocol:
        array = weight(layer).astype(np.float32)
        return ir.Tensor(np.ascontiguousarray(array if layer.axis else array.T))

    return ir.LazyTensor(compute, dtype=ir.DataType.FLOAT, shape=ir.Shape(layer.weight.shape))
