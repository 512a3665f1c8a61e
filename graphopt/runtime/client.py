"""Worker: the owner's side of a worker process."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

from graphopt.errors import (
    RunError,
    RuntimeFailure,
    SessionLoadError,
    WorkerCrash,
    WorkerOutOfMemory,
    WorkerTimeout,
)
from graphopt.runtime.framing import Buffer, FrameError, Header
from graphopt.runtime.options import SessionOptions
from graphopt.runtime.process import WorkerProcess, start_worker
from graphopt.runtime.session import Session
from graphopt.runtime.values import Feeds, Values

__all__ = ["Worker"]

Reply: TypeAlias = tuple[Header, list[Buffer]]

_START_TIMEOUT_S = 120.0
_BINARY_SUFFIXES = (".onnx", ".ort")


class Worker:
    """A process that holds ONNX Runtime sessions; a crash there is an error here.

    The process starts at once, is used by one request at a time, and is killed when the context
    ends, when a request times out, and when a request is interrupted. After that every request
    raises the error that says why.

    Args:
        timeout_s: Seconds that one request may take; None for no limit.
        memory_limit_bytes: Private memory that the process may use, its own base of about 100 MiB
            included; None for no limit.
    """

    def __init__(
        self, *, timeout_s: float | None = None, memory_limit_bytes: int | None = None
    ) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.RLock()
        self._process: WorkerProcess = start_worker(memory_limit_bytes=memory_limit_bytes)
        self._owner = os.getpid()
        self._greeting: Header | None = None
        self._failure: RuntimeFailure | None = None
        self._forgotten: deque[int] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_process") and self._owner == os.getpid():
            self.close()

    @property
    def is_alive(self) -> bool:
        """Whether requests can succeed; false in a fork of the process that started it."""
        running = self._process.process.poll() is None
        return running and self._failure is None and self._owner == os.getpid()

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self._process.process.pid

    def close(self) -> None:
        """Kill the process; sessions on it can no longer be used. May be called twice."""
        if self._failure is None:
            self._failure = WorkerCrash("the worker process was closed")
        self._process.close()

    def info(self) -> Header:
        """Return `version`, `providers`, `pid`, `resident_bytes` and `peak_bytes`."""
        return self.request({"command": "info"})[0]

    def load(self, model: str | Path | bytes, options: SessionOptions | None = None) -> Session:
        """Create a session.

        Args:
            model: Path of a model, as text too, or a serialized model without external data.
            options: Defaults to those of `SessionOptions`.

        Raises:
            SessionLoadError: The runtime refuses the model or the options.
            WorkerCrash, WorkerTimeout, WorkerOutOfMemory: The process ended.
        """
        if not isinstance(model, bytes) and Path(model).suffix not in _BINARY_SUFFIXES:
            model = _as_bytes_if_text(model)
        return Session.load(self, model, options or SessionOptions())

    def evaluate(
        self, model: str | Path | bytes, feeds: Feeds, outputs: Sequence[str] | None = None
    ) -> Values:
        """Load a model without optimizations, run it once and forget it.

        Raises:
            SessionLoadError: The runtime refuses the model.
            RunError: The runtime refuses to run it.
            WorkerCrash, WorkerTimeout, WorkerOutOfMemory: The process ended.
        """
        with self.load(model, SessionOptions(optimization="disabled")) as session:
            return session.run(feeds, outputs)

    def request(
        self,
        header: Header,
        buffers: Sequence[Buffer] = (),
        *,
        error: type[RuntimeFailure] = RunError,
        where: str | None = None,
    ) -> Reply:
        """Send one request and return the reply.

        Args:
            header: `command` and its arguments.
            buffers: What the header describes.
            error: Raised where the runtime refuses.
            where: For the error: what the request was about.

        Raises:
            RuntimeFailure: `error`, or what ended the process.
        """
        with self._lock:
            if self._failure is not None:
                raise _ended(self._failure) from self._failure
            reply, payload = self._exchange(header, list(buffers))
        if "error" in reply:
            raise _refusal(reply["error"], error, where)
        return reply, payload

    def forget(self, session: int) -> None:
        """Close a session with the next request. Safe at any moment, also in a destructor."""
        self._forgotten.append(session)

    def release(self) -> None:
        """Free what was closed now, and not with the next request; nothing where it has ended.

        For an owner that goes on to something large of its own.
        """
        if self.is_alive:
            self.request({"command": "release"})

    def _exchange(self, header: Header, buffers: list[Buffer]) -> Reply:
        is_complete = False
        try:
            if self._greeting is None:
                self._greeting = self._timed(_START_TIMEOUT_S, self._process.receive)[0]
            closing = [self._forgotten.popleft() for _ in range(len(self._forgotten))]
            request = {**header, "close": closing}
            reply = self._timed(self._timeout_s, lambda: self._process.exchange(request, buffers))
            is_complete = True
        except (EOFError, OSError) as lost:
            self._failure = self._process.failure()
            raise self._failure from lost
        except FrameError as garbled:
            self._failure = WorkerCrash("the worker process broke the protocol", why=str(garbled))
            raise self._failure from garbled
        finally:
            # Half an exchange cannot be resumed: also an interrupt ends the process.
            if not is_complete:
                self.close()
        return reply

    def _timed(self, limit_s: float | None, exchange: Callable[[], Reply]) -> Reply:
        """Do an exchange, with the process killed when it takes too long."""
        if limit_s is None:
            return exchange()
        expired = threading.Event()
        timer = threading.Timer(limit_s, self._expire, [expired])
        timer.daemon = True
        timer.start()
        try:
            reply = exchange()
        except (EOFError, OSError) as lost:
            if not expired.is_set():
                raise
            raise self._timeout(limit_s) from lost
        finally:
            timer.cancel()
        if expired.is_set():
            raise self._timeout(limit_s)
        return reply

    def _expire(self, expired: threading.Event) -> None:
        expired.set()
        self._process.kill()

    def _timeout(self, limit_s: float) -> WorkerTimeout:
        self._failure = WorkerTimeout(
            f"the worker process gave no answer in {limit_s:g} s and was killed"
        )
        return self._failure


def _ended(failure: RuntimeFailure) -> RuntimeFailure:
    return type(failure)("the worker process has ended", why=str(failure))


def _refusal(
    reply: dict[str, str], error: type[RuntimeFailure], where: str | None
) -> RuntimeFailure:
    why = reply["message"]
    if reply["kind"] == "memory":
        return WorkerOutOfMemory("the worker process ran out of memory", where=where, why=why)
    action = "load the model" if error is SessionLoadError else "run the model"
    return error(f"the runtime cannot {action}", where=where, why=why)


def _as_bytes_if_text(path: str | Path) -> str | Path | bytes:
    """Serialize a model that is stored as text, a form that the runtime does not read."""
    from graphopt.ir import is_text_file, load, model_bytes

    return model_bytes(load(path)) if is_text_file(path) else path
