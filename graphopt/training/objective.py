"""What a student is to be like: losses between its values and those of its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphopt.training.operators.registry import Tensor
from graphopt.training.torch_extra import require_torch

__all__ = ["OUTPUT_LOSSES", "POOLINGS", "Objective"]

OUTPUT_LOSSES = ("mse", "cosine", "kl")
POOLINGS = ("off", "mean", "first")
_SEQUENCE_RANK = 3
_LEAST_ENERGY = 1e-12


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A loss that is 0 where a student computes what its teacher computes.

    Attributes:
        outputs: Names of outputs that are compared by `loss`.
        streams: Names of values inside that are compared by their relative squared error.
        mask: The input that is 0 where positions of (batch, sequence, ...) values do not count.
        loss: ``mse``: squared error over the energy of the target; ``cosine``: one less the cosine
            of rows; ``kl``: divergence of the distributions that rows are logits of
            (Hinton et al. 2015, section 2).
        pool: What becomes of the positions of an output first: their ``mean``, the ``first`` one,
            or nothing.
        hidden: Weight of the streams, whose mean is taken.
        similarity: Weight of the squared error of cosines between the samples of a batch.
        temperature: Of ``kl``.
    """

    outputs: tuple[str, ...]
    streams: tuple[str, ...] = ()
    mask: str | None = None
    loss: str = "mse"
    pool: str = "off"
    hidden: float = 0.0
    similarity: float = 0.0
    temperature: float = 1.0

    @property
    def values(self) -> tuple[str, ...]:
        """Names of all that is compared."""
        return tuple(dict.fromkeys([*self.outputs, *(self.streams if self.hidden else ())]))

    def __call__(
        self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], feeds: Mapping[str, Any]
    ) -> Tensor:
        """Return the loss of a batch, a scalar.

        Args:
            student: What it computes, by name, recording gradients.
            teacher: The same of the teacher, without.
            feeds: Inputs of the batch.
        """
        torch = require_torch("distillation")
        total = torch.zeros(())
        for name in self.outputs:
            pair = student[name].float(), teacher[name].float()
            weights = self._weights(pair[1], feeds, torch)
            if self.pool != "off" and pair[1].dim() == _SEQUENCE_RANK:
                pair = self._pooled(pair[0], weights), self._pooled(pair[1], weights)
                weights = None
            total = total + self._output_loss(*pair, weights, torch) / len(self.outputs)
            if self.similarity and pair[1].shape[0] > 1:
                total = total + self.similarity * _similarity(*pair, torch) / len(self.outputs)
        if self.hidden and self.streams:
            errors = [
                _relative(
                    student[name].float(), teacher[name], self._weights(teacher[name], feeds, torch)
                )
                for name in self.streams
            ]
            total = total + self.hidden * sum(errors) / len(errors)
        return total

    def _weights(self, value: Tensor, feeds: Mapping[str, Any], torch: Any) -> Tensor | None:
        """Return what each position counts, in a shape that broadcasts to ``value``."""
        mask = None if self.mask is None else feeds.get(self.mask)
        if mask is None or tuple(mask.shape) != tuple(value.shape[: mask.ndim]):
            return None
        found = torch.as_tensor(mask).to(torch.float32)
        return found.reshape(*found.shape, *[1] * (value.dim() - found.dim()))

    def _pooled(self, value: Tensor, weights: Tensor | None) -> Tensor:
        if self.pool == "first":
            return value[:, 0]
        if weights is None:
            return value.mean(dim=1)
        return (value * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)

    def _output_loss(
        self, student: Tensor, teacher: Tensor, weights: Tensor | None, torch: Any
    ) -> Tensor:
        if self.loss == "mse":
            return _relative(student, teacher, weights)
        rows = None if weights is None else weights.squeeze(-1)
        if self.loss == "cosine":
            errors = 1.0 - torch.cosine_similarity(student, teacher, dim=-1)
        else:
            heat = self.temperature
            goal = torch.log_softmax(teacher / heat, dim=-1)
            found = torch.log_softmax(student / heat, dim=-1)
            errors = (goal.exp() * (goal - found)).sum(dim=-1) * heat**2
        if rows is None:
            return errors.mean()
        rows = rows.expand_as(errors)
        return (errors * rows).sum() / rows.sum().clamp(min=1.0)


def _relative(student: Tensor, teacher: Tensor, weights: Tensor | None) -> Tensor:
    """Return the squared error over the energy of the target: no scale is better than another."""
    error, energy = (student - teacher).square(), teacher.square()
    if weights is not None:
        error, energy = error * weights, energy * weights
    return error.sum() / energy.sum().clamp(min=_LEAST_ENERGY)


def _similarity(student: Tensor, teacher: Tensor, torch: Any) -> Tensor:
    """Return the mean squared error of the cosines between all pairs of samples."""
    cosines = []
    for value in (student, teacher):
        rows = torch.nn.functional.normalize(value.flatten(1), dim=1)
        cosines.append(rows @ rows.T)
    count = len(cosines[0])
    error: Tensor = (cosines[0] - cosines[1]).square().sum()
    return error / (count * (count - 1))
