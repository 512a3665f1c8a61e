"""Telling a caller how far long work has come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["ProgressCallback", "ProgressEvent", "Reporter"]


@dataclass(frozen=True, kw_only=True)
class ProgressEvent:
    """One step of long work.

    Attributes:
        stage: What is going on: ``load``, ``exact``, ``candidate static``, ``measure static``...
        message: The step within it.
        done: Steps finished, where they can be counted.
        total: Steps in all, where that is known.
    """

    stage: str
    message: str
    done: int | None = None
    total: int | None = None


ProgressCallback = Callable[[ProgressEvent], None]


@dataclass(frozen=True)
class Reporter:
    """Sends events of one stage to a callback, if there is one."""

    callback: ProgressCallback | None = None
    stage: str = ""

    def at(self, stage: str) -> Reporter:
        """Return a reporter for another stage."""
        return Reporter(self.callback, stage)

    def __call__(self, message: str, done: int | None = None, total: int | None = None) -> None:
        """Report one step."""
        if self.callback is not None:
            event = ProgressEvent(stage=self.stage, message=message, done=done, total=total)
            self.callback(event)
