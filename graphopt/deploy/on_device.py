"""Check a graphopt bundle on the device that will run it: ``python validate.py [BUNDLE] [--json]``.

Needs Python 3.8, numpy and onnxruntime 1.16 or newer, nothing else. In this order: the manifest has
the known schema, every file is unchanged and no other is there, the device keeps the contract, the
model loads with the recorded options, gives the recorded numbers, and met its goals. Where the
bundle says how texts or images become inputs, `tokenizers` or `Pillow` let that be checked, too;
``--text TEXT`` and ``--file FILE`` run the model on something of yours.

Exit status: 0 all is well; 1 wrong numbers or a missed goal; 2 a damaged bundle, an unknown schema
or a device that does not keep the contract, after which nothing more is checked, or a report that
cannot be written; 141 where its reader went away.

The hashes find damage and careless changes. Against a forger, who can write a manifest that fits,
compare the `manifest_sha256` of ``--json`` with the one known from where the bundle was made, or
have it signed: ``--public-key FILE`` checks the signature (minisign's) before anything else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graphopt.deploy.agreement import Validation
from graphopt.deploy.integrity import Broken

__all__ = ["OnnxRuntime", "available_memory_bytes", "key_text", "main"]

ERRORS_ONLY = 3
INTERRUPTED, READER_GONE, UNWRITTEN = 130, 141, 2
# Entry of the auxiliary vector and bit: `asm/hwcap.h` of Linux for arm64.
HARDWARE_BITS = {
    "asimd": (16, 1), "fphp": (16, 9), "asimdhp": (16, 10), "asimddp": (16, 20), "sve": (16, 22),
    "sve2": (26, 1), "i8mm": (26, 13), "bf16": (26, 14),
}  # fmt: skip


class OnnxRuntime:
    """What `Validation` asks of the device, answered by ONNX Runtime in this process."""

    def runtime_version(self) -> str:
        """Return the version of the runtime, `1.20.1`."""
        return str(self._runtime().__version__)

    def providers(self) -> list[str]:
        """Return the execution providers that this build of the runtime has."""
        return list(self._runtime().get_available_providers())

    def cpu_features(self) -> set[str] | None:
        """Return what Linux says that every core of this machine can do; None elsewhere."""
        try:
            text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        except OSError:
            return None
        # An emulator may show the processor that it runs on, which has another word for them.
        is_arm = platform.machine() in ("aarch64", "arm64")
        word = "Features" if is_arm else "flags"
        lines = re.findall(rf"^{word}\s*:(.*)$", text, re.MULTILINE)
        found = set.intersection(*(set(line.split()) for line in lines)) if lines else set()
        if is_arm and not found:
            found = _arm_features(Path("/proc/self/auxv"))
        found |= {new for old, new in (("pni", "sse3"), ("asimd", "neon")) if old in found}
        return found or None

    def open(self, path: Path, settings: dict[str, Any]) -> Any:
        """Create a session with the options of a manifest."""
        ort = self._runtime()
        options = ort.SessionOptions()
        level = settings["optimization"].upper()
        level = "ORT_DISABLE_ALL" if level == "DISABLED" else "ORT_ENABLE_" + level
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        if settings.get("order") == "priority":
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        options.intra_op_num_threads = settings["threads"]
        options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        providers = [(provider["name"], provider["options"]) for provider in settings["providers"]]
        try:
            for key, value in settings["config"].items():
                options.add_session_config_entry(key, value)
            session = ort.InferenceSession(
                str(path), options, providers=providers, enable_fallback=0
            )
        except Exception as error:  # noqa: BLE001 - the runtime's errors have no other base
            raise Broken(f"the runtime does not load the model: {error}") from None
        # The runtime falls back to the CPU and says so in a log alone.
        lost = [name for name, _ in providers if name not in session.get_providers()]
        if lost:
            raise Broken(f"{', '.join(lost)} did not start")
        return session

    def run(self, session: Any, feeds: dict[str, Any]) -> dict[str, Any]:
        """Return the outputs of a session by name."""
        names = [output.name for output in session.get_outputs()]
        try:
            return dict(zip(names, session.run(names, feeds)))  # noqa: B905 - 3.8 has no `strict`
        except Exception as error:  # noqa: BLE001 - as in `open`
            raise Broken(f"the runtime does not run the model: {error}") from None

    def stopwatch(self, session: Any, feeds: dict[str, Any]) -> Callable[[], tuple[float, float]]:
        """Return a function that runs once and returns milliseconds of wall and of CPU time."""

        def run_ms() -> tuple[float, float]:
            start, cpu = time.perf_counter(), time.process_time()
            session.run(None, feeds)
            return (time.perf_counter() - start) * 1e3, (time.process_time() - cpu) * 1e3

        return run_ms

    def peak_bytes(self) -> int | None:
        """Return the largest resident memory of this process so far; None where nobody knows."""
        try:
            text = Path("/proc/self/status").read_text(encoding="utf-8")
        except OSError:
            return None
        found = re.search(r"^VmHWM:\s*([0-9]+) kB", text, re.MULTILINE)
        return int(found.group(1)) * 1024 if found else None

    def available_bytes(self) -> int | None:
        """Return the memory that new programs may take; None where nobody knows."""
        return available_memory_bytes()

    def _runtime(self) -> Any:
        try:
            import onnxruntime
        except ImportError as error:
            raise Broken(f"onnxruntime cannot be imported: {error}") from None
        return onnxruntime


def available_memory_bytes() -> int | None:
    """Return the memory that Linux would give without swapping; None elsewhere."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^MemAvailable:\s*([0-9]+) kB", text, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def _arm_features(path: Path) -> set[str]:
    """Return what the kernel tells a 64-bit Arm process about the CPU, in its auxiliary vector."""
    try:
        words = struct.iter_unpack("=QQ", path.read_bytes())
        values = dict(words)
    except (OSError, struct.error):
        return set()
    return {name for name, (key, bit) in HARDWARE_BITS.items() if values.get(key, 0) >> bit & 1}


def key_text(given: str | None) -> str | None:
    """Return what a public key says that was given as a file or as its text."""
    if given is None:
        return None
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return given  # a key on the command line; where it is none, its check says so


def main(arguments: list[str] | None = None) -> int:
    """Check a bundle, print the report, and return the exit status."""
    parser = argparse.ArgumentParser(prog="validate.py", description=(__doc__ or "").split("\n")[0])
    here = Path(__file__).resolve().parent
    parser.add_argument("bundle", nargs="?", type=Path, default=here, help="default: %(default)s")
    parser.add_argument("--latency", action="store_true", help="measure it too")
    parser.add_argument("--reference", type=Path, metavar="ONNX", help="the original, timed beside")
    given_item = parser.add_mutually_exclusive_group()
    given_item.add_argument("--text", help="run it on a text, and print the vector")
    given_item.add_argument("--file", type=Path, help="run it on an image or a .wav file")
    parser.add_argument("--public-key", metavar="FILE|KEY", help="who must have signed it")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    given = parser.parse_args(arguments)
    try:
        key = key_text(given.public_key)
        wants_latency = given.latency or given.reference is not None
        backend = OnnxRuntime()
        item = None if given.text is None else {"text": given.text}
        item = item if given.file is None else {"file": str(given.file.absolute())}
        report = Validation(
            given.bundle, backend, wants_latency, key, given.reference, item=item
        ).run()
    except KeyboardInterrupt:
        return INTERRUPTED
    lines = [f"{item['status']:<7} {item['name']:<9} {item['detail']}" for item in report["checks"]]
    text = "\n".join(map(_plain, [*lines, report["status"]]))
    whole = json.dumps(report, indent=2, allow_nan=False) if given.json else text
    return _written(whole) or int(report["exit_code"])


def _written(text: str) -> int:
    """Print `text`, and return 0, or a status that says that nobody got it."""
    if not sys.stdout:  # None where the program was started without: nobody asks for the text
        return 0
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except OSError as error:
        # The interpreter flushes once more at exit, and would end with a status of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return READER_GONE
        sys.stderr.write(f"broken: the report cannot be written: {error.strerror}\n")
        return UNWRITTEN
    return 0


def _plain(text: str) -> str:
    """Spell out what a terminal could not show, or would obey."""
    return "".join(sign if " " <= sign <= "~" else ascii(sign)[1:-1] for sign in text)


if __name__ == "__main__":
    sys.exit(main())
