"""`graphopt validate`: the checks of a bundle's own `validate.py`, with sessions in a worker."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from graphopt.deploy.agreement import Validation
from graphopt.deploy.archives import archive_suffix, unpack
from graphopt.deploy.integrity import Broken
from graphopt.deploy.on_device import available_memory_bytes
from graphopt.deploy.publishing import recover
from graphopt.errors import RuntimeFailure
from graphopt.ir import scratch_folder
from graphopt.runtime import Session, SessionOptions, Worker, cpu_features

__all__ = ["ValidationReport", "validate"]

Answer = TypeVar("Answer")

REQUEST_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class ValidationReport:
    """What the checks of a bundle found.

    Attributes:
        document: The JSON form, the same that the bundle's `validate.py --json` prints.
    """

    document: dict[str, Any]

    @property
    def exit_code(self) -> int:
        """0 all is well, 1 wrong numbers or a missed goal, 2 damage or a broken contract."""
        return int(self.document["exit_code"])

    @property
    def checks(self) -> list[dict[str, str]]:
        """`name`, `status` and `detail` of each check that was made, in their order."""
        return list(self.document["checks"])

    @property
    def status(self) -> str:
        """`ok`, `wrong` or `broken`."""
        return str(self.document["status"])

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return self.document

    def __str__(self) -> str:
        """Return one line for each check, and the status."""
        lines = [
            f"{check['status']:<7} {check['name']:<9} {check['detail']}"
            for check in self.document["checks"]
        ]
        return "\n".join([*lines, self.status])


def validate(
    path: str | os.PathLike[str],
    *,
    latency: bool = False,
    public_key: str | None = None,
    reference: str | os.PathLike[str] | None = None,
    timeout_s: float | None = REQUEST_TIMEOUT_S,
) -> ValidationReport:
    """Check a bundle on this machine; nothing in it is executed, the model runs in a worker.

    Args:
        path: Its directory, `.zip` or `.tar.zst`.
        latency: Measure it too.
        public_key: Content of a `minisign.pub`: who must have signed it.
        reference: File of the original, to be timed beside the model where memory allows.
        timeout_s: Seconds that loading, or one run, may take.

    Raises:
        MissingExtraError: It is a `.tar.zst`, and `zstandard` is not installed.
    """
    with ExitStack() as stack:
        folder, opened = Path(path), []
        if archive_suffix(path):
            folder = stack.enter_context(scratch_folder()) / "bundle"
            opened = [_opened(Path(path), folder)]
            if opened[0]["status"] == "failed":
                return ValidationReport(_refused(opened))
        else:
            recover(path)
        backend = _WorkerRuntime(stack, timeout_s)
        original = Path(reference) if reference is not None else None
        wants_latency = latency or original is not None
        document = Validation(folder, backend, wants_latency, public_key, original).run()
        return ValidationReport({**document, "checks": [*opened, *document["checks"]]})


def _opened(path: Path, folder: Path) -> dict[str, str]:
    """Unpack an archive; the first check of those that there are of a folder."""
    try:
        return {"name": "archive", "status": "passed", "detail": unpack(path, folder)}
    except Broken as error:
        return {"name": "archive", "status": "failed", "detail": str(error)}


def _refused(checks: list[dict[str, str]]) -> dict[str, Any]:
    verdict = {"schema_version": 1, "status": "broken", "exit_code": 2}
    return {**verdict, "checks": checks, "outputs": {}, "latency": None}


class _WorkerRuntime:
    """What `Validation` asks of the device, answered by a worker that starts when it is needed."""

    def __init__(self, stack: ExitStack, timeout_s: float | None) -> None:
        self._stack = stack
        self._timeout_s = timeout_s

    @cached_property
    def _worker(self) -> Worker:
        # In a process of its own: a model of a stranger may crash the runtime.
        return self._stack.enter_context(Worker(timeout_s=self._timeout_s))

    def runtime_version(self) -> str:
        return str(self._ask(self._worker.info)["version"])

    def providers(self) -> list[str]:
        return list(self._ask(self._worker.info)["providers"])

    def cpu_features(self) -> set[str] | None:
        return set(cpu_features()) or None

    def open(self, path: Path, settings: dict[str, Any]) -> Session:
        options = SessionOptions(
            optimization=settings["optimization"],
            order=settings.get("order", "default"),
            threads=settings["threads"],
            providers=tuple((item["name"], item["options"]) for item in settings["providers"]),
            config=settings["config"],
        )
        return self._ask(lambda: self._worker.load(path, options))

    def run(self, session: Session, feeds: dict[str, Any]) -> dict[str, Any]:
        return self._ask(lambda: dict(session.run(feeds)))

    def stopwatch(
        self, session: Session, feeds: dict[str, Any]
    ) -> Callable[[], tuple[float, float]]:
        self._ask(lambda: session.prepare(feeds))

        def run_ms() -> tuple[float, float]:
            timing = self._ask(session.time)
            return timing.wall_ns / 1e6, timing.cpu_ns / 1e6

        return run_ms

    def available_bytes(self) -> int | None:
        return available_memory_bytes()

    def peak_bytes(self) -> int | None:
        return int(self._ask(self._worker.info)["peak_bytes"]) or None

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        try:
            return question()
        except RuntimeFailure as error:
            raise Broken(error.why or error.message) from error
