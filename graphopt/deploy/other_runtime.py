"""Checking a bundle with another release of ONNX Runtime than the one that is installed here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from graphopt.deploy.shipped_validator import schema_text, validator_text
from graphopt.deploy.validation import ValidationReport
from graphopt.errors import OptionError
from graphopt.ir import scratch_folder

__all__ = ["interpreter_for", "validate_with"]

TIMEOUT_S = 600.0
_LINES = 5
_RELEASE = re.compile(r"[0-9]+(\.[0-9]+){1,2}")
_NUMPY_2_SINCE = (1, 19)
"""Older wheels were built for numpy 1, and cannot be imported beside numpy 2."""


def validate_with(
    bundle: Path,
    runtime: str,
    *,
    latency: bool = False,
    public_key: str | None = None,
    cache: Path | None = None,
    timeout_s: float = TIMEOUT_S,
) -> ValidationReport:
    """Check a bundle in an environment of its own, with the program that every bundle holds.

    The program is graphopt's own copy: nothing that lies in the bundle is executed.

    Args:
        bundle: Its folder; an archive has to be unpacked before.
        runtime: A release of ONNX Runtime, which is installed from the package index into a folder
            that is kept; or the path of a Python interpreter that has one.
        latency: Measure it too.
        public_key: Content of a `minisign.pub`: who must have signed it.
        cache: Where environments are kept; by default the user's cache folder.
        timeout_s: Seconds that the check may take.

    Raises:
        OptionError: `runtime` is neither a release nor an interpreter, or the bundle no folder; the
            release cannot be installed, or the check ended without a verdict.
    """
    if not bundle.is_dir():
        raise OptionError(f"`{bundle}` is no folder", hint="unpack it, and check what came of that")
    interpreter = interpreter_for(runtime, cache)
    options = ["--latency"] if latency else []
    options += ["--public-key", public_key] if public_key is not None else []
    with scratch_folder() as folder:
        program = Path(folder) / "validate.py"
        program.write_text(validator_text(), encoding="utf-8")
        # The schema lies beside the program, in a bundle too.
        (Path(folder) / "manifest.schema.json").write_text(schema_text(), encoding="utf-8")
        # Isolated: neither the current folder nor the user's packages may stand in for those of the
        # environment.
        command = [str(interpreter), "-I", str(program), str(bundle.absolute()), "--json"]
        done = _run([*command, *options], timeout_s)
    try:
        document: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError as error:
        # Not a `RuntimeFailure`, whose status says of a bundle that its numbers are wrong.
        raise OptionError(
            f"the check with onnxruntime {runtime} ended without a verdict",
            why=_end_of(done.stderr or done.stdout) or f"status {done.returncode}",
            hint="the interpreter needs onnxruntime and numpy",
        ) from error
    return ValidationReport(document)


def interpreter_for(runtime: str, cache: Path | None = None) -> Path:
    """Return a Python interpreter that has a release of ONNX Runtime, which is made if need be.

    Args:
        runtime: A release such as ``1.20.1``, or the path of an interpreter.
        cache: Where environments are kept; by default the user's cache folder.

    Raises:
        OptionError: It is neither, or the release cannot be installed.
    """
    if not _RELEASE.fullmatch(runtime):
        path = Path(runtime).expanduser()
        if path.is_file() and os.access(path, os.X_OK):
            return path.absolute()  # never resolved: a virtual environment is known by its link
        raise OptionError(
            f"`{runtime}` is no runtime",
            why="expected a release of onnxruntime, or the path of a Python interpreter",
            hint="for example `--runtime 1.20.1`, or `--runtime venv/bin/python`",
        )
    folder = (cache or _user_cache()) / f"onnxruntime-{runtime}-py{sys.version_info.minor}"
    interpreter = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not (folder / "ready").is_file():
        _install(runtime, folder, interpreter)
        (folder / "ready").touch()  # what was interrupted is made again
    return interpreter


def _user_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "graphopt" / "runtimes"


def _install(release: str, folder: Path, interpreter: Path) -> None:
    parts = tuple(int(part) for part in release.split(".")[:2])
    numpy = "numpy" if parts >= _NUMPY_2_SINCE else "numpy<2"
    steps = (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(interpreter), "-m", "pip", "install", "--quiet", f"onnxruntime=={release}", numpy],
    )
    for step in steps:
        done = _run(step, TIMEOUT_S)
        if done.returncode:
            raise OptionError(
                f"onnxruntime {release} cannot be installed",
                where=str(folder),
                why=_end_of(done.stderr or done.stdout),
                hint="give the path of a Python interpreter that has it: `--runtime PYTHON`",
            )


def _end_of(text: str) -> str:
    """Return the last lines of what a program said, whole, as far as they are not many."""
    lines = text.strip().splitlines()
    return "\n".join(line.rstrip() for line in lines[-_LINES:])


def _run(command: list[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    # What points to packages of this environment must not reach the other one.
    ours = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {key: text for key, text in os.environ.items() if key not in ours}
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False, env=environment
        )
    except subprocess.TimeoutExpired as error:
        raise OptionError(
            f"`{Path(command[0]).name}` took more than {timeout_s:g} s",
            where=" ".join(command[1:3]),
        ) from error
