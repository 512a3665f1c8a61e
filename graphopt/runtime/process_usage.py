"""Memory and context switches of this process."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

__all__ = [
    "collect_memory",
    "involuntary_switches",
    "memory_usage",
    "reset_peak",
    "trim_memory",
]

_STATUS = Path("/proc/self/status")
_CLEAR_PEAK = "5"  # proc(5): resets VmHWM


def involuntary_switches() -> int:
    """Return how often this process was taken off a core; 0 where the system does not tell."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def memory_usage() -> tuple[int, int]:
    """Return the current and the peak resident memory of this process in bytes.

    Linux answers for this program alone. Elsewhere both numbers are the peak that `getrusage`
    reports, and 0 where there is none.
    """
    if _STATUS.exists():
        fields = dict(
            line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line
        )
        return _kibibytes(fields["VmRSS"]), _kibibytes(fields["VmHWM"])
    if sys.platform == "win32":
        return 0, 0
    import resource

    # `ru_maxrss` survives `exec` on Linux and so may be the parent's; on macOS it is in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak, peak


def reset_peak() -> None:
    """Let the peak start again from the current resident memory, where the system can."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text(_CLEAR_PEAK)


def collect_memory() -> None:
    """Return to the system what nothing refers to any more: before a long wait for a worker.

    Nodes and values of a graph refer to one another, so that a copy that is dropped stays until
    Python looks for such circles.
    """
    gc.collect()
    trim_memory()


def trim_memory() -> None:
    """Return memory that was freed to the system, where the C library keeps it otherwise."""
    if sys.platform == "linux":
        import ctypes

        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
        if trim is not None:
            trim(0)


def _kibibytes(field: str) -> int:
    return int(field.split(maxsplit=1)[0]) * 1024
