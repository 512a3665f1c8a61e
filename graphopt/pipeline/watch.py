"""What a caller may watch while a pipeline runs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.ir import to_text
from graphopt.pipeline.ledger import PassEntry, Status

__all__ = ["PassEvent", "PrintAfter", "ProgressCallback"]


@dataclass(frozen=True, kw_only=True)
class PassEvent:
    """One pass has run.

    Attributes:
        name: Name of the pass.
        text: Its pipeline text.
        status: What came of it; `rolled-back` follows when its group is verified.
        edits: Rewrites applied.
        seconds: Wall time.
        group: Number of its verification group.
        iteration: Round of the innermost fixpoint group.
    """

    name: str
    text: str
    status: Status
    edits: int
    seconds: float
    group: int
    iteration: int

    @classmethod
    def of(cls, entry: PassEntry) -> PassEvent:
        """Return the event that a line of the ledger stands for."""
        return cls(
            name=entry.pass_name,
            text=entry.pass_text,
            status=entry.status,
            edits=entry.edits,
            seconds=entry.seconds,
            group=entry.group,
            iteration=entry.iteration,
        )


ProgressCallback = Callable[[PassEvent], None]


@dataclass(frozen=True, kw_only=True)
class PrintAfter:
    """Hands out the model as ONNX text after passes.

    Attributes:
        when: Names of passes, or `all`, `changed`, `failure`.
        sink: Called with the event and the text; large weights are left out.
    """

    when: Collection[str]
    sink: Callable[[PassEvent, str], None]

    def __call__(self, event: PassEvent, model: ir.Model) -> None:
        """Print where the event is one of those asked for."""
        asked = {event.name, "all"}
        if event.status == "applied":
            asked.add("changed")
        if event.status == "rolled-back":
            asked.add("failure")
        if asked & set(self.when):
            self.sink(event, to_text(model))
