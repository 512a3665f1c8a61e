"""Training a student until it computes what its teacher computed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.training.array_store import ArrayStore, Record
from graphopt.training.interpreter import TorchModel
from graphopt.training.objective import Objective
from graphopt.training.operators.registry import Tensor
from graphopt.training.torch_extra import require_torch

__all__ = ["TEACHER", "Recipe", "Trained", "train"]

TEACHER = "teacher:"
"""What names of the teacher's values in a record begin with."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a student is trained.

    Attributes:
        steps: Updates of the weights, over which the rate falls to 0 along a cosine.
        batch: Rows of an update; samples of one shape are put together where they can be.
        rate: Of AdamW (Loshchilov and Hutter 2019), at its highest.
        decay: Weights lose so much of themselves, times the rate, in each step.
        warmup: Share of the steps over which the rate rises from 0.
        held_out: Share of the samples that are not trained on.
        checks: How often the loss on them is looked at.
        patience: Looks without a lower loss after which training ends.
        minutes: CPU time of this process after which it ends; 0: no limit.
        threads: Of torch.
        seed: Of the order of samples.
        precision: ``float32``, or ``bfloat16`` for products.
    """

    steps: int = 1000
    batch: int = 32
    rate: float = 5e-5
    decay: float = 0.0
    warmup: float = 0.05
    held_out: float = 0.1
    checks: int = 10
    patience: int = 3
    minutes: float = 10.0
    threads: int = 1
    seed: int = 0
    precision: str = "float32"


@dataclass(frozen=True)
class Trained:
    """What came of training.

    Attributes:
        weights: The best ones found, by name.
        before: Loss on the samples held out, of the student as it came.
        after: Of the best one.
        steps: Updates made.
        ended: Why it ended there: ``all steps``, ``no better``, ``time is up``, ``not finite``.
    """

    weights: dict[str, npt.NDArray[Any]]
    before: float
    after: float
    steps: int
    ended: str


def train(
    student: TorchModel,
    samples: ArrayStore,
    objective: Objective,
    recipe: Recipe,
    report: Callable[[str], None] | None = None,
) -> Trained:
    """Train the parameters of a student in place.

    Args:
        student: The model to train.
        samples: Records of inputs by name, and of the teacher's values by ``teacher:`` and name.
        objective: The loss.
        recipe: How.
        report: Told how far it has come.

    The same arguments give the same weights, unless the clock ends it: sums run in the same order
    on as many threads.
    """
    torch = require_torch("distillation")
    threads = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)
    try:
        tell = report or (lambda _: None)
        return _Training(student, samples, objective, recipe, tell).run()
    finally:
        torch.set_num_threads(threads)


@dataclass
class _Training:
    student: TorchModel
    samples: ArrayStore
    objective: Objective
    recipe: Recipe
    report: Callable[[str], None]
    _torch: Any = field(init=False)
    _began: float = field(init=False)
    _best: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    _least: float = math.inf

    def __post_init__(self) -> None:
        self._torch = require_torch("distillation")
        self._began = time.process_time()
        count = len(self.samples)
        held = min(max(round(count * self.recipe.held_out), 1), count - 1)
        # Evenly spread: samples may be sorted by length or by subject.
        places = np.linspace(0, count - 1, held).round().astype(int).tolist()
        self._held = sorted(set(places))
        self._used = [number for number in range(count) if number not in set(self._held)]

    def run(self) -> Trained:
        before = self._keep_if_better()
        if not before > 0.0:  # nothing to learn, or NaN
            return Trained(self._best, before, before, 0, "no better")
        optimizer = self._torch.optim.AdamW(
            self._groups(), lr=self.recipe.rate, betas=(0.9, 0.98), eps=1e-8
        )
        every = max(self.recipe.steps // self.recipe.checks, 1)
        worse, ended, step = 0, "all steps", 0
        for step, batches in zip(range(1, self.recipe.steps + 1), self._updates(), strict=False):
            loss = self._update(optimizer, step, batches)
            if not math.isfinite(loss):
                ended = "not finite"
                break
            is_over = 0.0 < self.recipe.minutes * 60.0 < time.process_time() - self._began
            if step % every == 0 or step == self.recipe.steps or is_over:
                least = self._least
                held = self._keep_if_better()
                self.report(self._line(step, loss, held))
                worse = 0 if self._least < least else worse + 1
                if is_over or worse >= self.recipe.patience:
                    ended = "time is up" if is_over else "no better"
                    break
            else:
                self.report(self._line(step, loss, self._least))
        return Trained(self._best, before, self._least, step, ended)

    def _line(self, step: int, loss: float, held: float) -> str:
        spent = time.process_time() - self._began
        left = spent / step * (self.recipe.steps - step)
        if self.recipe.minutes:
            left = min(left, max(self.recipe.minutes * 60.0 - spent, 0.0))
        return (
            f"step {step} of {self.recipe.steps}, loss {loss:.4g}, held out {held:.4g}, "
            f"{left / 60.0:.1f} min of CPU left"
        )

    def _groups(self) -> list[dict[str, Any]]:
        """Return parameters with decay and without: only matrices shrink."""
        tensors = list(self.student.parameters.values())
        wide = [tensor for tensor in tensors if tensor.dim() > 1]
        flat = [tensor for tensor in tensors if tensor.dim() <= 1]
        groups = [
            {"params": wide, "weight_decay": self.recipe.decay},
            {"params": flat, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def _rate(self, step: int) -> float:
        """Return the rate of a step, counted from 1: a rise, then half a cosine."""
        rise = max(round(self.recipe.steps * self.recipe.warmup), 1)
        if step <= rise:
            return self.recipe.rate * step / rise
        done = (step - rise) / max(self.recipe.steps - rise, 1)
        return self.recipe.rate * 0.5 * (1.0 + math.cos(math.pi * done))

    def _update(self, optimizer: Any, step: int, batches: Sequence[Record]) -> float:
        for group in optimizer.param_groups:
            group["lr"] = self._rate(step)
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for batch in batches:
            loss = self._loss(batch) / len(batches)
            if loss.requires_grad:
                loss.backward()
            total += float(loss.detach())
        if math.isfinite(total):
            self._torch.nn.utils.clip_grad_norm_(self.student.parameters.values(), 1.0)
            optimizer.step()
        return total

    def _loss(self, record: Record) -> Tensor:
        feeds = {name: array for name, array in record.items() if not name.startswith(TEACHER)}
        teacher = {
            name: self._torch.as_tensor(record[TEACHER + name]) for name in self.objective.values
        }
        is_half = self.recipe.precision == "bfloat16"
        with self._torch.autocast("cpu", dtype=self._torch.bfloat16, enabled=is_half):
            found = self.student(feeds, self.objective.values)
        return self.objective(found, teacher, feeds)

    def _keep_if_better(self) -> float:
        """Return the loss on the samples held out, and keep the weights where it is the least."""
        losses = []
        with self._torch.no_grad():
            losses = [float(self._loss(self.samples[number])) for number in self._held]
        loss = sum(losses) / len(losses)
        if loss < self._least:
            self._least = loss
            self._best = {name: self.student.array(name) for name in self.student.parameters}
        return loss

    def _updates(self) -> Iterator[list[Record]]:
        """Yield without end what each update is computed from."""
        generator = np.random.default_rng(self.recipe.seed)
        while True:
            for numbers in self._chunks(generator):
                records = [self.samples[number] for number in numbers]
                is_one = self.student.is_open and _can_join(records)
                yield [_joined(records)] if is_one else records

    def _chunks(self, generator: np.random.Generator) -> list[list[int]]:
        """Return the samples in groups of one shape, of about `batch` rows, in random order."""
        buckets: dict[tuple[Any, ...], list[int]] = {}
        for number in generator.permutation(self._used).tolist():
            shapes = self.samples.shapes(number)
            key = tuple(sorted((name, shape[1:]) for name, shape in shapes.items()))
            buckets.setdefault(key, []).append(number)
        chunks: list[list[int]] = []
        for bucket in buckets.values():
            rows = 0
            for number in bucket:
                if rows == 0:
                    chunks.append([])
                chunks[-1].append(number)
                rows += _rows(self.samples.shapes(number))
                rows = 0 if rows >= self.recipe.batch else rows
        return [chunks[place] for place in generator.permutation(len(chunks)).tolist()]


def _rows(shapes: dict[str, tuple[int, ...]]) -> int:
    """Return the size of the first axis of the first input."""
    first = next(iter(shapes.values()), ())
    return first[0] if first else 1


def _can_join(records: Sequence[Record]) -> bool:
    """Tell whether every array of every record has a first axis, of one length in a record."""
    for record in records:
        if not all(array.ndim for array in record.values()):
            return False
        if len({len(array) for array in record.values()}) > 1:
            return False
    return len(records) > 1


def _joined(records: Sequence[Record]) -> Record:
    return {name: np.concatenate([record[name] for record in records]) for name in records[0]}
