"""Named pipelines, kept in ``pipelines.toml``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from graphopt.errors import UnknownNameError

__all__ = ["NamedPipeline", "find_named_pipeline", "named_pipelines"]


@dataclass(frozen=True)
class NamedPipeline:
    """A pipeline text with a name.

    Attributes:
        name: What follows the ``@``.
        summary: One line on what it is for.
        text: Pipeline text.
    """

    name: str
    summary: str
    text: str


@cache
def named_pipelines() -> tuple[NamedPipeline, ...]:
    """Return every named pipeline, sorted by name."""
    source = resources.files("graphopt.pipeline").joinpath("pipelines.toml")
    table = tomllib.loads(source.read_text(encoding="utf-8"))["pipelines"]
    return tuple(
        NamedPipeline(name, entry["summary"], entry["text"].strip())
        for name, entry in sorted(table.items())
    )


def find_named_pipeline(name: str) -> NamedPipeline:
    """Return one named pipeline.

    Raises:
        UnknownNameError: There is none of that name; the nearest names are the hint.
    """
    known = {pipeline.name: pipeline for pipeline in named_pipelines()}
    if name not in known:
        raise UnknownNameError("named pipeline", name, known, listing="graphopt passes")
    return known[name]
