"""The one worker that most of the program shares, and what it can tell about the runtime."""

from __future__ import annotations

import atexit
import functools
import threading

from graphopt.runtime.client import Worker

__all__ = ["available_providers", "runtime_version", "shared_worker"]

_lock = threading.Lock()
_workers: list[Worker] = []


def shared_worker() -> Worker:
    """Return the worker of this process: started at first use, replaced after it has ended."""
    with _lock:
        if not _workers or not _workers[-1].is_alive:
            _workers[:] = [Worker()]
        return _workers[-1]


@functools.cache
def runtime_version() -> str:
    """Return the version of ONNX Runtime as its worker reports it.

    Raises:
        WorkerCrash: ONNX Runtime cannot be imported.
    """
    return str(shared_worker().info()["version"])


@functools.cache
def available_providers() -> tuple[str, ...]:
    """Return the execution providers that ONNX Runtime was built with, the preferred one first.

    Raises:
        WorkerCrash: ONNX Runtime cannot be imported.
    """
    return tuple(shared_worker().info()["providers"])


@atexit.register
def _close() -> None:
    for worker in _workers:
        worker.close()
