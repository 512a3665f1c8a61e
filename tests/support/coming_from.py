"""The commands of `docs/coming-from.md`."""

import re
import shlex
from pathlib import Path

from graphopt.cli.main import main
from graphopt.targets import load_target

PAGE = (Path(__file__).parents[2] / "docs" / "coming-from.md").read_text(encoding="utf-8")
LINES = [line for line in PAGE.splitlines() if line.startswith("| ") and " | ours" not in line]
SOURCES = ("torch:", "hf:", "sklearn:")
TRIED = {"static", "dynamic", "gentle", "exact", "float"}


def command(line):
    """Return the words of the command that a line of a table ends in; nothing: it has none."""
    found = re.search(r"\| `graphopt ([^`]*)` \|$", line)
    return shlex.split(found[1]) if found else []


def needs_a_framework(words):
    return any(word.startswith(SOURCES) or word.endswith(".pt2") for word in words)


def run(words, capfd):
    """Run a command line; return what went wrong, or nothing."""
    if words[0] == "optimize" and "--dry-run" not in words:
        target = load_target(words[words.index("--target") + 1])
        names = {candidate.name for candidate in target.enabled_candidates()} - TRIED
        # What each candidate comes to is tested elsewhere, and nobody waits for times here.
        words = [*words, "--latency", "off", *(f"--stage={name}=off" for name in sorted(names))]
    status = main(words)
    said = capfd.readouterr()
    return f"$ graphopt {shlex.join(words)}\nexit status {status}\n{said.err}" if status else ""
