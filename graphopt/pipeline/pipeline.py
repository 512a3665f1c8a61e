"""A pipeline as a value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from graphopt.errors import OptionError, UnknownNameError, UsageError
from graphopt.pipeline.named import find_named_pipeline
from graphopt.pipeline.options import build_pass
from graphopt.pipeline.registry import find_pass
from graphopt.pipeline.syntax import ElementText, GroupText, NamedText, parse_text
from graphopt.rewrite import Pass, format_value

if TYPE_CHECKING:
    from graphopt.pipeline.manager import PipelineResult

__all__ = ["DEFAULT_MAXIMUM", "Element", "Fixpoint", "Pipeline"]

DEFAULT_MAXIMUM = 8
"""Rounds after which a fixpoint group stops though it still changes something."""


@dataclass(frozen=True)
class Fixpoint:
    """Passes repeated in order until a whole round edits nothing.

    Attributes:
        elements: What is repeated; groups may be nested.
        max: Most rounds, at least 1.
    """

    elements: tuple[Element, ...]
    max: int = DEFAULT_MAXIMUM

    def __post_init__(self) -> None:
        """Check the number of rounds.

        Raises:
            OptionError: `max` is not a whole number of at least 1.
        """
        # `True` is an `int` to Python: `max=true` would mean one round.
        if isinstance(self.max, bool) or not isinstance(self.max, int) or self.max < 1:
            raise OptionError(
                f"option `max` of `fixpoint` cannot be `{format_value(self.max)}`",
                why="expected a whole number of at least 1",
            )

    def __str__(self) -> str:
        options = "" if self.max == DEFAULT_MAXIMUM else f"{{max={self.max}}}"
        return f"fixpoint{options}({','.join(map(str, self.elements))})"


Element = Pass | Fixpoint


@dataclass(frozen=True)
class Pipeline:
    """Passes and groups in order; ``str()`` is its text, which parses back to an equal value.

    Attributes:
        elements: Passes and groups. Named pipelines have been replaced by what they stand for.
    """

    elements: tuple[Element, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Pipeline:
        """Return the pipeline that a text describes.

        Raises:
            PipelineSyntaxError: The text breaks the grammar; a caret shows where.
            UnknownNameError: A pass, option or named pipeline does not exist.
            OptionError: An option has a wrong value.
        """
        return cls(_built(parse_text(text), ()))

    @classmethod
    def of(cls, *passes: Element | ir.passes.PassBase) -> Pipeline:
        """Return a pipeline of these passes; any onnx-ir pass is taken and wrapped."""
        return cls(tuple(_wrapped(item) for item in passes))

    def __add__(self, other: Pipeline) -> Pipeline:
        return Pipeline(self.elements + other.elements)

    def __str__(self) -> str:
        return ",".join(map(str, self.elements))

    def __bool__(self) -> bool:
        return bool(self.elements)

    def passes(self) -> Iterator[Pass]:
        """Yield every pass in order, those of groups included once."""
        yield from _passes(self.elements)

    def run(self, model: ir.Model, **settings: Any) -> PipelineResult:
        """Run on ``model``, in place; ``settings`` are those of `PassManager`, and its ``source``.

        Raises:
            PassError: A pass failed or broke its contract; the model is as it was before the group.
        """
        from graphopt.pipeline.manager import PassManager

        source = settings.pop("source", None)
        return PassManager(**settings).run(model, self, source=source)


def _built(texts: tuple[ElementText, ...], inside: tuple[str, ...]) -> tuple[Element, ...]:
    elements: list[Element] = []
    for text in texts:
        if isinstance(text, NamedText):
            elements.extend(_named(text.name, inside))
        elif isinstance(text, GroupText):
            elements.append(_group(text, inside))
        else:
            elements.append(build_pass(find_pass(text.name), text.options))
    return tuple(elements)


def _group(text: GroupText, inside: tuple[str, ...]) -> Fixpoint:
    options: dict[str, Any] = dict(text.options)
    if unknown := [key for key in options if key != "max"]:
        raise UnknownNameError("option of `fixpoint`", unknown[0], ["max"])
    return Fixpoint(_built(text.elements, inside), **options)


def _named(name: str, inside: tuple[str, ...]) -> tuple[Element, ...]:
    if name in inside:
        chain = " -> ".join(f"@{step}" for step in (*inside, name))
        raise UsageError(f"named pipeline `@{name}` contains itself", why=chain)
    return _built(parse_text(find_named_pipeline(name).text), (*inside, name))


def _wrapped(item: Element | ir.passes.PassBase) -> Element:
    if isinstance(item, Pass | Fixpoint):
        return item
    from graphopt.passes.external_onnx_ir import ExternalOnnxIr

    return ExternalOnnxIr.of(item)


def _passes(elements: tuple[Element, ...]) -> Iterator[Pass]:
    for element in elements:
        if isinstance(element, Fixpoint):
            yield from _passes(element.elements)
        else:
            yield element
