"""Equations of Einsum, and the ways to compute them as one product."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Contraction", "Equation", "contractions", "parse_equation"]


@dataclass(frozen=True)
class Equation:
    """An equation without ellipsis.

    Attributes:
        inputs: Labels of each operand, in order.
        output: Labels of the result.
    """

    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Contraction:
    """One way to compute an equation of two operands as a product.

    Attributes:
        left: Index of the operand that stands on the left of the product.
        batch: Labels of both operands and of the result.
        rows: Labels of the left operand and of the result.
        columns: Labels of the right operand and of the result.
        summed: Labels of both operands that the result has not.
    """

    left: int
    batch: str
    rows: str
    columns: str
    summed: str

    @property
    def result(self) -> str:
        """Labels of the product as it comes."""
        return self.batch + self.rows + self.columns


def parse_equation(text: str) -> Equation | None:
    """Read an equation; ``None`` where it has an ellipsis, or a label twice in one place."""
    left, arrow, output = text.replace(" ", "").partition("->")
    inputs = tuple(left.split(","))
    if not arrow:  # every label that occurs once, in alphabetic order
        output = "".join(sorted(label for label in set(left) - {","} if left.count(label) == 1))
    places = (*inputs, output)
    if not all(_is_plain(labels) for labels in places) or set(output) - set(left):
        return None
    return Equation(inputs, output)


def _is_plain(labels: str) -> bool:
    return (not labels or labels.isalpha()) and len(set(labels)) == len(labels)


def contractions(equation: Equation) -> Iterator[Contraction]:
    """Yield the ways to compute an equation of two operands, those in the order asked for first.

    None where a label belongs to one operand alone and not to the result.
    """
    first, second = equation.inputs
    if (set(first) ^ set(second)) - set(equation.output):
        return
    found = [_contraction(equation, left) for left in (0, 1)]
    yield from sorted(found, key=lambda one: one.result != equation.output)


def _contraction(equation: Equation, left: int) -> Contraction:
    mine, other = equation.inputs[left], equation.inputs[1 - left]
    return Contraction(
        left=left,
        batch=_those(equation.output, mine, other),
        rows="".join(label for label in equation.output if label in mine and label not in other),
        columns="".join(label for label in equation.output if label in other and label not in mine),
        summed="".join(label for label in mine if label in other and label not in equation.output),
    )


def _those(labels: str, *within: Sequence[str]) -> str:
    return "".join(label for label in labels if all(label in one for one in within))
