"""The memory that a command takes with its children, at its highest.

Usage:
    python benchmarks/quantize/footprint.py COMMAND [ARGUMENT ...]

Where several processes work together, peaks of each added up say too much: they are not reached at
one time, and libraries and mapped weights count in every process that maps them. Here, every 10 ms
all processes are looked at (Linux, `/proc/PID/smaps`), and two sums are kept at their highest:

    bytes   what they wrote, and each file that they map once: as much of it as the process has in
            memory that has most. Unlike a proportional set size it does not hang on what else runs.
    own     what they wrote alone. Pages of files are copies of what lies on the disk, which the
            system drops where it needs room.

Prints both in bytes, with what each process had then, and the last line that the command printed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

EVERY_S = 0.01


def descendants(process: int) -> list[int]:
    """Return the numbers of a process and of all that it started, as far as they are alive.

    A child that is about to become another program (`vfork`) has its parent's memory, not its own.
    """
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii")
        words = Path(f"/proc/{process}/cmdline").read_bytes()
        own = [
            int(child)
            for child in children.split()
            if Path(f"/proc/{child}/cmdline").read_bytes() != words
        ]
    except OSError:
        return [process]
    return [process, *(one for child in own for one in descendants(child))]


def totals(process: int) -> tuple[int, int]:
    """Return what a process has in memory, and what of it no file holds."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:  # it has ended
        return 0, 0
    fields = {line.split(":")[0]: line for line in lines[1:]}
    return _bytes(fields["Rss"]), _bytes(fields["Anonymous"])


def mapped_files(process: int) -> dict[str, int]:
    """Return how much a process has in memory of each file that it maps, its own changes left out.

    Keys are device and number of a file.
    """
    try:
        lines = Path(f"/proc/{process}/smaps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    found: dict[str, int] = {}
    place = ""
    for line in lines:
        first, *rest = line.split()
        if not first.endswith(":"):  # addresses, rights, offset, device, number, path
            place = f"{rest[2]} {rest[3]}" if rest[3] != "0" else ""
        elif place and first == "Rss:":
            found[place] = found.get(place, 0) + _bytes(line)
        elif place and first == "Anonymous:":
            found[place] -= _bytes(line)
    return found


def _bytes(line: str) -> int:
    return 1024 * int(line.split()[1])


class Highest:
    """The highest sums so far."""

    def __init__(self) -> None:
        self.bytes = self.files = self.own = 0
        self.own_of_each: list[int] = []

    def look(self, processes: list[int]) -> None:
        """Look at processes once."""
        held = [totals(process) for process in processes]
        own = [anonymous for _, anonymous in held]
        if sum(own) > self.own:
            self.own, self.own_of_each = sum(own), own
        # Files are listed only where the sum may be higher than before.
        if sum(resident for resident, _ in held) > self.bytes:
            most: dict[str, int] = {}
            for process in processes:
                for file, size in mapped_files(process).items():
                    most[file] = max(size, most.get(file, 0))
            if sum(own) + sum(most.values()) > self.bytes:
                self.files = sum(most.values())
                self.bytes = sum(own) + self.files


def main() -> None:
    """Run the command and watch it."""
    if len(sys.argv) == 1 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return
    highest = Highest()
    with subprocess.Popen(
        sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as command:
        while command.poll() is None:
            highest.look(descendants(command.pid))
            time.sleep(EVERY_S)
        said = command.stdout.read().splitlines() if command.stdout else []
    print(json.dumps({**vars(highest), "said": said[-1:]}))
    sys.exit(command.returncode)


if __name__ == "__main__":
    main()
