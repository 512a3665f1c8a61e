"""The worker process: ``python -m graphopt.runtime.worker [MEMORY_LIMIT_BYTES]``.

It reads requests from standard input and answers on standard output (see `framing`), one at a
time. The first frame it sends is a greeting. Native code may write to the standard streams at any
moment, so both are moved away before the runtime is imported. The process ends when its input
closes, also in the middle of a run: an owner that is killed leaves nothing behind.

What this module and those around it import is held beside the owner's own copy for as long as the
process lives, so that they do without what is seldom needed (`argparse`, `ml_dtypes`).
"""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from graphopt.errors import RunError
from graphopt.runtime.framing import Buffer, FrameError, Header, read_frame, write_frame
from graphopt.runtime.process_usage import memory_usage, trim_memory
from graphopt.runtime.values import decode_values, encode_values

__all__ = ["EXIT_OUT_OF_MEMORY", "main"]

EXIT_OUT_OF_MEMORY = 77
"""Exit status where memory ran out while a request was being read."""

_RUNTIME_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_OUT_OF_MEMORY_SIGNS = ("bad_alloc", "failed to allocate", "out of memory", "allocation failed")


class Host:
    """The sessions of one worker and the commands on them. One method, one command."""

    def __init__(self) -> None:
        self._sessions: dict[int, Any] = {}
        self._next = 0

    def handle(self, header: Header, buffers: list[Buffer]) -> tuple[Header, list[Buffer]]:
        """Carry out one request and return the reply."""
        for session in header.get("close", ()):
            self._close(session)
        command: Callable[..., tuple[Header, list[Buffer]]] = getattr(self, header["command"])
        return command(header, buffers)

    def _close(self, number: int) -> None:
        session = self._sessions.pop(number, None)
        if session is not None and session.has_exact_arena:
            from graphopt.runtime.hosted_session import renew_exact_arena

            del session  # the arena that is replaced goes with it
            renew_exact_arena()

    def info(self, header: Header, buffers: list[Buffer]) -> tuple[Header, list[Buffer]]:
        """Return version and providers of the runtime, and the memory in use."""
        del header, buffers
        import onnxruntime as ort

        resident, peak = memory_usage()
        return {
            "version": ort.__version__,
            "providers": ort.get_available_providers(),
            "pid": os.getpid(),
            "resident_bytes": resident,
            "peak_bytes": peak,
        }, []

    def load(self, header: Header, buffers: list[Buffer]) -> tuple[Header, list[Buffer]]:
        """Create a session from `path`, or from the one buffer."""
        from graphopt.runtime.hosted_session import HostedSession

        session = HostedSession(header.get("path") or bytes(buffers[0]), header["options"])
        self._next += 1
        self._sessions[self._next] = session
        return {
            "session": self._next,
            "load_ns": session.load_ns,
            "inputs": session.inputs,
            "outputs": session.outputs,
        }, []

    def release(self, header: Header, buffers: list[Buffer]) -> tuple[Header, list[Buffer]]:
        """Give memory that closed sessions left back to the system; they are closed already."""
        del header, buffers
        trim_memory()
        return {}, []

    def run(self, header: Header, buffers: list[Buffer]) -> tuple[Header, list[Buffer]]:
        """Run a session and return its outputs."""
        feeds = decode_values(header["values"], buffers)
        results = self._sessions[header["session"]].run(feeds, header["outputs"])
        specs, payload = encode_values(results)
        return {"values": specs}, payload

    def run_scalars(self, header: Header, buffers: list[Buffer]) -> tuple[Header, list[Buffer]]:
        """Run a session on several feeds, and return its outputs, of one number each."""
        remaining = iter(buffers)
        feeds = [decode_values(specs, remaining) for specs in header["feeds"]]
        found = self._sessions[header["session"]].run_scalars(feeds, header["outputs"])
        specs, payload = encode_values({"scalars": found})
        return {"values": specs}, payload

    def observe(self, header: Header, buffers: list[Buffer]) -> tuple[Header, list[Buffer]]:
        """Run a session and return what its outputs span."""
        feeds = decode_values(header["values"], buffers)
        session = self._sessions[header["session"]]
        return {"observed": session.observe(feeds, header["outputs"])}, []

    def collect(self, header: Header, buffers: list[Buffer]) -> tuple[Header, list[Buffer]]:
        """Run a session and count what it computes into its histograms."""
        feeds = decode_values(header["values"], buffers)
        self._sessions[header["session"]].collect(
            feeds,
            header["outputs"],
            header["inputs"],
            header["padding"],
            is_counted=header["is_counted"],
        )
        return {}, []

    def collected(self, header: Header, buffers: list[Buffer]) -> tuple[Header, list[Buffer]]:
        """Return the histograms of a session."""
        del buffers
        states, counts = self._sessions[header["session"]].collected()
        specs, payload = encode_values(dict(zip(states, counts, strict=True)))
        return {"states": states, "values": specs}, payload

    def plan_gathering(self, header: Header, buffers: list[Buffer]) -> tuple[Header, list[Buffer]]:
        """Begin to gather moments of one session or of two."""
        del buffers
        other = header["other"]
        session = self._sessions[header["session"]]
        session.plan_gathering(header["plan"], None if other is None else self._sessions[other])
        return {}, []

    def gather(self, header: Header, buffers: list[Buffer]) -> tuple[Header, list[Buffer]]:
        """Run what was planned once."""
        self._sessions[header["session"]].gather(decode_values(header["values"], buffers))
        return {}, []

    def gathered(self, header: Header, buffers: list[Buffer]) -> tuple[Header, list[Buffer]]:
        """Return the sums of what was gathered."""
        del buffers
        specs, payload = encode_values(self._sessions[header["session"]].gathered())
        return {"values": specs}, payload

    def prepare(self, header: Header, buffers: list[Buffer]) -> tuple[Header, list[Buffer]]:
        """Keep feeds for `time`."""
        self._sessions[header["session"]].prepare(decode_values(header["values"], buffers))
        return {}, []

    def time(self, header: Header, buffers: list[Buffer]) -> tuple[Header, list[Buffer]]:
        """Time sessions on their prepared feeds, in the order of `plan`."""
        del buffers
        import gc

        gc.collect()
        gc.disable()
        try:
            timings = [self._sessions[session].time(repeats) for session, repeats in header["plan"]]
        finally:
            gc.enable()
        return {"timings": timings}, []

    def profile(self, header: Header, buffers: list[Buffer]) -> tuple[Header, list[Buffer]]:
        """Stop profiling a session and return what its nodes took."""
        del buffers
        return {"nodes": self._sessions[header["session"]].end_profiling()}, []


def main() -> None:
    """Serve requests until the input closes."""
    memory_limit = int(sys.argv[1]) if len(sys.argv) > 1 else None
    if hasattr(signal, "SIGINT"):
        # The terminal sends Ctrl-C to the whole group; the owner decides what becomes of us.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, replies = _take_streams()
    threading.Thread(target=_end_with_owner, args=(requests.fileno(),), daemon=True).start()
    host = Host()
    greeting, _ = host.info({}, [])
    if memory_limit:
        _limit_memory(memory_limit)
    try:
        write_frame(replies, greeting)
        while True:
            _serve(host, requests, replies)
    except (EOFError, OSError, FrameError):
        status = 0
    except MemoryError:
        status = EXIT_OUT_OF_MEMORY
    sys.stderr.flush()
    # Ends at once: destructors of native sessions have crashed here, for nothing.
    os._exit(status)


def _serve(host: Host, requests: io.FileIO, replies: io.FileIO) -> None:
    header, buffers = read_frame(requests)
    try:
        reply, payload = host.handle(header, buffers)
    except _failures() as failure:
        reply, payload = {"error": _describe(failure)}, []
    write_frame(replies, reply, payload)


def _failures() -> tuple[type[BaseException], ...]:
    """Everything that ONNX Runtime or a conversion of arrays is known to raise."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    native = [
        value
        for value in vars(state).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ]
    python = (ArithmeticError, LookupError, MemoryError, OSError)
    return (*native, *python, RunError, RuntimeError, TypeError, ValueError)


def _describe(failure: BaseException) -> dict[str, str]:
    message = _RUNTIME_PREFIX.sub("", str(failure).strip()) or type(failure).__name__
    lowered = message.lower()
    is_memory = isinstance(failure, MemoryError) or any(
        sign in lowered for sign in _OUT_OF_MEMORY_SIGNS
    )
    return {"kind": "memory" if is_memory else "failure", "message": message}


def _take_streams() -> tuple[io.FileIO, io.FileIO]:
    """Move the pipes to descriptors of our own; what native code prints goes to the error log."""
    requests, replies = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)  # last: who sees it knows that the output is moved
    os.close(null)
    return io.FileIO(requests, "r"), io.FileIO(replies, "w")


def _end_with_owner(requests: int) -> None:
    """End the process as soon as the owner's end of the pipe is gone, whatever else runs."""
    import select

    if not hasattr(select, "poll"):
        return  # without it the end is noticed when the next request is read
    hangup = select.poll()
    hangup.register(requests, 0)
    hangup.poll()
    os._exit(0)


def _limit_memory(limit: int) -> None:
    """Let allocations fail beyond `limit` bytes of private memory."""
    import resource

    # On Linux RLIMIT_DATA leaves out files mapped for reading, as weights are; not so elsewhere.
    kind = resource.RLIMIT_DATA if sys.platform == "linux" else resource.RLIMIT_AS
    resource.setrlimit(kind, (limit, limit))


if __name__ == "__main__":
    main()
