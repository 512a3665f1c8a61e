"""Cold start and peak memory of a model, in a fresh process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from graphopt.runtime.client import Worker
from graphopt.runtime.options import SessionOptions
from graphopt.runtime.values import Feeds

__all__ = ["ColdStart", "measure_cold_start"]


@dataclass(frozen=True)
class ColdStart:
    """What a model costs before its second run.

    Attributes:
        load_ms: Milliseconds to create the session. The file may be in the system's cache.
        first_run_ms: Milliseconds of the first run.
        peak_rss_bytes: Peak resident memory of the process up to the end of that run.
        base_rss_bytes: Resident memory of the process before it loaded the model.
    """

    load_ms: float
    first_run_ms: float
    peak_rss_bytes: int
    base_rss_bytes: int


def measure_cold_start(
    path: str | Path,
    feeds: Feeds,
    options: SessionOptions | None = None,
    *,
    timeout_s: float | None = None,
) -> ColdStart:
    """Load a model and run it once in a process that has done nothing else.

    Args:
        path: The model.
        feeds: Input name to array.
        options: Of the session.
        timeout_s: Seconds that loading and running may take, each; None for no limit.

    Raises:
        SessionLoadError: The runtime refuses the model.
        RunError: The runtime refuses to run it.
        WorkerCrash, WorkerTimeout, WorkerOutOfMemory: The worker ended.
    """
    with Worker(timeout_s=timeout_s) as worker:
        base = worker.info()["resident_bytes"]
        session = worker.load(path, options)
        session.prepare(feeds)
        first = session.time()
        return ColdStart(
            load_ms=session.load_ms,
            first_run_ms=first.wall_ns / 1e6,
            peak_rss_bytes=worker.info()["peak_bytes"],
            base_rss_bytes=base,
        )
