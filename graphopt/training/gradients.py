"""How much the outputs of a model hang on each unit that pruning may remove, by gradients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from graphopt.analysis.coupling import Group, Units
from graphopt.errors import CalibrationDataError
from graphopt.ir import constant_tensor
from graphopt.training.interpreter import Operand, TorchModel
from graphopt.training.operators.registry import Tensor
from graphopt.training.torch_extra import require_torch

__all__ = ["LOSSES", "UnitGradient", "unit_gradients"]

LOSSES = ("mse", "kl")


class UnitGradient(NamedTuple):
    """How a loss depends on the mask of a unit, which is 1 where the unit is there.

    Attributes:
        taylor: ``E |dL/dxi|`` over samples (Michel et al. 2019, equation 2).
        fisher: ``E (dL/dxi)^2`` over samples (Kwon et al. 2022, equation 6): twice what the loss
            is expected to grow by when the unit goes, to second order.
    """

    taylor: float
    fisher: float


@dataclass(frozen=True)
class _Gate:
    """One operand that sums run over, and the place in the masks of each of its indices."""

    operand: Operand
    axis: int
    places: Any


def unit_gradients(
    model: ir.Model,
    units: Units,
    groups: Iterable[Group],
    feeds: Iterable[Mapping[str, Any]],
    *,
    loss: str = "mse",
    draws: int = 1,
    most: int = 256,
    seed: int = 0,
) -> dict[int, UnitGradient]:
    """Return for each unit of groups how the loss against the model itself depends on it.

    Between a model and itself every loss is zero, and so is its gradient. What tells units apart
    is its curvature, ``J^T H J`` with ``J`` the derivative of the outputs: its diagonal is the mean
    square of the gradient of random projections of the outputs (``mse``: random signs, outputs
    scaled to a norm of 1) or of the log-probability of classes that are drawn from the outputs
    (``kl``: the last axis holds logits). No labels are needed.

    Args:
        model: The model; it is not changed.
        units: The units of its coupling.
        groups: Groups of units; those over which no constant weight sums are left out.
        feeds: Samples, one at a time.
        loss: One of `LOSSES`.
        draws: Random projections of each sample.
        most: Samples at most, the first ones.
        seed: Of what is drawn; the same seed gives the same numbers.

    Raises:
        MissingExtraError: torch is not installed.
        UnsupportedModelError: torch has no function for an operator of the model.
        CalibrationDataError: There are no samples, or gradients are not finite.
    """
    torch = require_torch("a score by gradients")
    numbers = list(dict.fromkeys(unit for group in groups for unit in group.units))
    mask = torch.ones(len(numbers), requires_grad=True)
    gates = _gates(units, groups, {unit: place for place, unit in enumerate(numbers)})
    computed = TorchModel(model, changed=_changes(gates, mask, torch))
    generator = torch.Generator().manual_seed(seed)
    absolute, squared = torch.zeros(len(numbers)).double(), torch.zeros(len(numbers)).double()
    count = 0
    for _, feed in zip(range(most), feeds, strict=False):
        outputs = [tensor for tensor in computed(feed).values() if tensor.requires_grad]
        for draw in range(draws if outputs else 0):
            scalar = sum(_LOSSES[loss](output, generator, torch) for output in outputs)
            (found,) = torch.autograd.grad(scalar, mask, retain_graph=draw + 1 < draws)
            absolute += found.double().abs()
            squared += found.double().square()
            count += 1
    if not count:
        raise CalibrationDataError("no sample tells how outputs depend on units")
    if not bool(torch.isfinite(squared).all()):
        raise CalibrationDataError("gradients of units are not finite on the samples")
    pairs = zip((absolute / count).tolist(), (squared / count).tolist(), strict=True)
    return {unit: UnitGradient(*pair) for unit, pair in zip(numbers, pairs, strict=True)}


def _gates(units: Units, groups: Iterable[Group], places: Mapping[int, int]) -> list[_Gate]:
    """Return where sums over units run through constant weights: zeros there remove a unit."""
    found: dict[tuple[Operand, int], _Gate] = {}
    for group in groups:
        for use in group.contractions:
            if constant_tensor(use.node.inputs[use.operand]) is None:
                continue  # the weight on the other side of the product is masked
            operand = use.node, use.operand
            indices = np.array([places[unit] for unit in units.of(use.factor).tolist()])
            found[operand, use.axis] = _Gate(operand, use.axis, indices)
    return list(found.values())


def _changes(
    gates: Sequence[_Gate], mask: Tensor, torch: Any
) -> dict[Operand, Callable[[Tensor], Tensor]]:
    by_operand: dict[Operand, list[_Gate]] = defaultdict(list)
    for gate in gates:
        by_operand[gate.operand].append(gate)

    def masked(its: Sequence[_Gate]) -> Callable[[Tensor], Tensor]:
        def change(weight: Tensor) -> Tensor:
            for gate in its:
                shape = [1] * weight.dim()
                shape[gate.axis] = -1
                weight = weight * mask[torch.as_tensor(gate.places)].reshape(shape)
            return weight

        return change

    return {operand: masked(its) for operand, its in by_operand.items()}


def _projection(output: Tensor, generator: Any, torch: Any) -> Tensor:
    """Return the sum of the elements with random signs, over their norm (Hutchinson 1990)."""
    signs = torch.randint(0, 2, output.shape, generator=generator) * 2 - 1
    norm = output.detach().norm().clamp(min=1e-12)
    return (signs.to(output.dtype) * output).sum() / norm


def _log_probability(output: Tensor, generator: Any, torch: Any) -> Tensor:
    """Return the mean log-probability of classes drawn from the output itself."""
    rows = torch.log_softmax(output.reshape(-1, output.shape[-1]).float(), dim=-1)
    chosen = torch.multinomial(rows.detach().exp(), 1, generator=generator)
    return rows.gather(1, chosen).sum() / max(len(rows), 1) ** 0.5


_LOSSES: dict[str, Callable[[Tensor, Any, Any], Tensor]] = {
    "mse": _projection,
    "kl": _log_probability,
}
