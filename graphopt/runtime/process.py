"""Start a worker process, and say why one ended."""

from __future__ import annotations

import io
import os
import signal
import site
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from graphopt.errors import RuntimeFailure, WorkerCrash, WorkerOutOfMemory
from graphopt.runtime.framing import Buffer, Header, read_frame, write_frame

__all__ = ["WorkerProcess", "start_worker"]

_MODULE = "graphopt.runtime.worker"
_EXIT_OUT_OF_MEMORY = (
    77  # `worker.EXIT_OUT_OF_MEMORY`; importing it would load it as a module twice
)
_LOG_LIMIT_BYTES = 1 << 20
_LOG_TAIL_CHARACTERS = 1500
_PIPE_BYTES = 1 << 20
_MEMORY_SIGNS = ("bad_alloc", "Cannot allocate memory")


@dataclass(eq=False)
class WorkerProcess:
    """A running worker: its process, its pipes and its error log.

    Attributes:
        process: The process.
        log: What it wrote to its standard streams.
        kernel_kills: Out-of-memory kills that the kernel counted when it started.
    """

    process: subprocess.Popen[bytes]
    log: IO[bytes]
    kernel_kills: int

    def exchange(self, header: Header, buffers: list[Buffer]) -> tuple[Header, list[Buffer]]:
        """Send a request and wait for its reply.

        Raises:
            EOFError, OSError: The process has ended.
        """
        write_frame(cast("io.RawIOBase", self.process.stdin), header, buffers)
        reply = self.receive()
        self._shorten_log()
        return reply

    def receive(self) -> tuple[Header, list[Buffer]]:
        """Wait for a frame.

        Raises:
            EOFError, OSError: The process has ended.
        """
        return read_frame(cast("io.RawIOBase", self.process.stdout))

    def kill(self) -> None:
        """End the process now. Its pipes stay open, so that a pending read sees the end."""
        self.process.kill()

    def close(self) -> None:
        """End the process and free what it held; the log stays readable until then."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.log):
            if stream is not None:
                stream.close()

    def failure(self) -> RuntimeFailure:
        """Return why the process ended on its own; waits for it to be gone."""
        status = self.process.wait()
        tail = self._log_tail()
        aborted = status == -signal.SIGABRT and any(sign in tail for sign in _MEMORY_SIGNS)
        if status == _EXIT_OUT_OF_MEMORY or aborted:
            return WorkerOutOfMemory("the worker process ran out of memory", why=tail or None)
        if status == -signal.SIGKILL and _kernel_kills() > self.kernel_kills:
            return WorkerOutOfMemory("the system killed the worker process for want of memory")
        cause = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        return WorkerCrash(f"the worker process ended with {cause}", why=tail or None)

    def _log_tail(self) -> str:
        self.log.seek(0)
        return self.log.read().decode(errors="replace").strip()[-_LOG_TAIL_CHARACTERS:]

    def _shorten_log(self) -> None:
        # What came before an answered request explains no crash. The worker appends, so it goes on
        # at the new end.
        if os.fstat(self.log.fileno()).st_size > _LOG_LIMIT_BYTES:
            self.log.truncate(0)


def start_worker(*, memory_limit_bytes: int | None = None) -> WorkerProcess:
    """Start a worker process; its greeting is the first frame to receive.

    Args:
        memory_limit_bytes: Private memory it may use, runtime included; None for no limit.
    """
    # -P: nothing in the current folder can pose as a module.
    command = [sys.executable, "-P", "-m", _MODULE]
    if memory_limit_bytes is not None:
        command.append(str(memory_limit_bytes))
    log = tempfile.TemporaryFile(mode="a+b")  # noqa: SIM115 - lives as long as the process
    process = subprocess.Popen(
        command,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=_environment(),
    )
    _widen_pipes(process)
    return WorkerProcess(process, log, _kernel_kills())


def _environment() -> dict[str, str]:
    """The environment of this process, with graphopt importable wherever it was found."""
    environment = dict(os.environ)
    # Would keep the interpreter alive, or talk, after the end of the program.
    for name in ("PYTHONINSPECT", "PYTHONSTARTUP", "PYTHONPROFILEIMPORTTIME", "PYTHONVERBOSE"):
        environment.pop(name, None)
    # Else the runtime may report what it loads over the network, and leaves a file for that behind.
    environment.setdefault("ORT_DISABLE_TELEMETRY", "1")
    root = str(Path(__file__).resolve().parents[2])
    installed = {str(Path(folder).resolve()) for folder in site.getsitepackages()}
    if root not in installed | {str(Path(site.getusersitepackages()).resolve())}:
        paths = [root, environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return environment


def _widen_pipes(process: subprocess.Popen[bytes]) -> None:
    """Ask for pipes of 1 MiB: fewer switches between the two processes for big arrays."""
    if sys.platform != "linux":
        return
    import contextlib
    import fcntl

    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):  # a user's quota for pipe memory may be spent
                fcntl.fcntl(stream.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _kernel_kills() -> int:
    """How many processes this kernel has killed for want of memory; 0 where it does not tell."""
    path = Path("/proc/vmstat")
    if not path.exists():
        return 0
    counters = dict(line.split() for line in path.read_text().splitlines())
    return int(counters.get("oom_kill", 0))
