"""The memory that a command takes with its children, at its highest.

Usage:
    python benchmarks/quantize/footprint.py COMMAND [ARGUMENT ...]

Where several processes work together, peaks of each added up say too much: they are not reached at
one time, and libraries and mapped weights count in every process that maps them. Here, every 10 ms
the proportional set sizes of all processes are added (Linux, `/proc/PID/smaps_rollup`): a page that
several share counts once. Prints bytes at the highest moment, what each process had then, and the
last line that the command printed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

EVERY_S = 0.01


def descendants(process: int) -> list[int]:
    """Return the numbers of a process and of all that it started, as far as they are alive."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii")
    except OSError:
        return [process]
    return [process, *(one for child in children.split() for one in descendants(int(child)))]


def proportional_bytes(process: int) -> int:
    """Return the memory of a process, shared pages divided among those that share them."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:  # it has ended
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def main() -> None:
    """Run the command and watch it."""
    if len(sys.argv) == 1 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return
    with subprocess.Popen(
        sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as command:
        highest: list[int] = []
        while command.poll() is None:
            now = [proportional_bytes(process) for process in descendants(command.pid)]
            highest = max(highest, now, key=sum)
            time.sleep(EVERY_S)
        said = command.stdout.read().splitlines() if command.stdout else []
    print(json.dumps({"bytes": sum(highest), "processes": highest, "said": said[-1:]}))
    sys.exit(command.returncode)


if __name__ == "__main__":
    main()
