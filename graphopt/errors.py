"""Every error graphopt raises on purpose.

GraphoptError                       code   exit
├─ UsageError                       G1xx   2    the command or the configuration must change
│  ├─ UnknownNameError              G101        a name, with the nearest known ones
│  ├─ PipelineSyntaxError           G102        with a caret under the character
│  ├─ OptionError                   G103        an option of a pass has a wrong value
│  ├─ TargetError                   G104        a target file breaks the schema
│  ├─ OutputError                   G105        the output exists, or cannot be written
│  └─ MissingExtraError             G106        an optional dependency is not installed
├─ InputError                       G2xx   2    the model or the data must change
│  ├─ ModelLoadError                G201        not there, not readable, not a model
│  ├─ InvalidModelError             G202        a model, but a broken one
│  ├─ ExternalDataError             G203        weights outside the file are missing or unsafe
│  ├─ UnsupportedModelError         G204        the runtime or the IR cannot take it
│  ├─ CalibrationDataError          G205        samples do not fit the model
│  ├─ MetricError                   G206        the metric cannot be computed
│  └─ BundleError                   G207        a bundle is damaged, tampered with or unknown
├─ VerificationError                G3xx   1    the result is not acceptable
│  ├─ StructureMismatch             G301
│  ├─ NumericMismatch               G302
│  └─ BudgetExceeded                G303        a gate fails
├─ PassError                        G4xx   3    a pass failed: our bug until shown otherwise
│  ├─ PreconditionError             G401   2    a target or samples were not given
│  └─ PostconditionError            G402
└─ RuntimeFailure                   G5xx   1    the runtime failed on a candidate
   ├─ SessionLoadError              G501
   ├─ RunError                      G502
   ├─ WorkerCrash                   G503
   ├─ WorkerTimeout                 G504
   └─ WorkerOutOfMemory             G505
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

__all__ = [
    "BudgetExceeded",
    "BundleError",
    "CalibrationDataError",
    "ExternalDataError",
    "GraphoptError",
    "InputError",
    "InvalidModelError",
    "MetricError",
    "MissingExtraError",
    "ModelLoadError",
    "NumericMismatch",
    "OptionError",
    "OutputError",
    "PassError",
    "PipelineSyntaxError",
    "PostconditionError",
    "PreconditionError",
    "RunError",
    "RuntimeFailure",
    "SessionLoadError",
    "StructureMismatch",
    "TargetError",
    "UnknownNameError",
    "UnsupportedModelError",
    "UsageError",
    "VerificationError",
    "WorkerCrash",
    "WorkerOutOfMemory",
    "WorkerTimeout",
    "error_classes",
    "reason_of",
]


class GraphoptError(Exception):
    """Base of every error that graphopt raises on purpose.

    Args:
        message: One lower-case sentence without a final stop, literals in backticks.
        where: The node, tensor, file or option concerned.
        why: What was found and what was expected.
        hint: What to do, with a command where there is one.
    """

    code: ClassVar[str] = "G000"
    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        why: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        """Return the message, then where and why, one per line."""
        lines = [self.message]
        lines += [f"  {key}: {text}" for key, text in self._details() if text]
        return "\n".join(lines)

    def _details(self) -> tuple[tuple[str, str | None], ...]:
        return (("where", self.where), ("why", self.why))

    def to_dict(self) -> dict[str, str | int | None]:
        """Return the JSON form that every command prints with ``--json``."""
        return {
            "code": self.code,
            "exit_code": self.exit_code,
            "kind": type(self).__name__,
            "message": self.message,
            "where": self.where,
            "why": self.why,
            "hint": self.hint,
        }


class UsageError(GraphoptError):
    """The command or the configuration must change."""

    code = "G100"
    exit_code = 2


class UnknownNameError(UsageError):
    """A name is not known; the nearest known names are the hint.

    Args:
        kind: What the name should have been, for example ``pass``.
        name: The name as given.
        known: Every name that would have been accepted.
        listing: The command that lists them, used where nothing is near.
    """

    code = "G101"

    def __init__(
        self, kind: str, name: str, known: Iterable[str], *, listing: str | None = None
    ) -> None:
        import difflib  # for this alone: every worker process imports this module

        candidates = sorted(known)
        self.suggestions = difflib.get_close_matches(name, candidates, n=3, cutoff=0.5)
        if self.suggestions:
            hint = "did you mean " + " or ".join(f"`{near}`" for near in self.suggestions) + "?"
        elif listing:
            hint = f"list them with `{listing}`"
        else:
            hint = "known: " + ", ".join(f"`{known_name}`" for known_name in candidates)
        super().__init__(f"unknown {kind} `{name}`", hint=hint)


class PipelineSyntaxError(UsageError):
    """Pipeline text cannot be parsed.

    Args:
        text: The whole pipeline text.
        position: Index of the first character that does not fit.
        expected: What would have fitted there.
    """

    code = "G102"

    def __init__(self, text: str, position: int, expected: str, *, hint: str | None = None) -> None:
        self.text = text
        self.position = position
        why = f"expected {expected}\n    {text}\n    {' ' * position}^"
        super().__init__("pipeline text cannot be parsed", why=why, hint=hint)


class OptionError(UsageError):
    """An option of a pass has a wrong name, type or value."""

    code = "G103"


class TargetError(UsageError):
    """A target file breaks the published schema."""

    code = "G104"


class OutputError(UsageError):
    """The output exists already or cannot be written."""

    code = "G105"


class MissingExtraError(UsageError):
    """An optional dependency is needed and is not installed."""

    code = "G106"


class InputError(GraphoptError):
    """The model or the data must change."""

    code = "G200"
    exit_code = 2


class ModelLoadError(InputError):
    """The file is missing, unreadable or not an ONNX model."""

    code = "G201"


class InvalidModelError(InputError):
    """The file is an ONNX model, but breaks the specification."""

    code = "G202"


class ExternalDataError(InputError):
    """A tensor's external data is missing, too short, overlapping or unsafe to read."""

    code = "G203"


class UnsupportedModelError(InputError):
    """ONNX Runtime or the IR cannot take the model."""

    code = "G204"


class CalibrationDataError(InputError):
    """Samples are missing, malformed or do not fit the model's inputs."""

    code = "G205"


class MetricError(InputError):
    """A task metric cannot be found or computed on these samples."""

    code = "G206"


class BundleError(InputError):
    """A bundle is damaged, tampered with, or of an unknown schema."""

    code = "G207"


class VerificationError(GraphoptError):
    """The result is not acceptable."""

    code = "G300"
    exit_code = 1


class StructureMismatch(VerificationError):
    """A model's structure or interface is not what it must be."""

    code = "G301"


class NumericMismatch(VerificationError):
    """Two models disagree by more than the contract allows."""

    code = "G302"


class BudgetExceeded(VerificationError):
    """A gate of the target fails."""

    code = "G303"


class PassError(GraphoptError):
    """A pass failed; a reproducer directory is named in the hint where one was written."""

    code = "G400"
    exit_code = 3


class PreconditionError(PassError):
    """A pass was run without what it needs: the caller must give it, and no pass is at fault."""

    code = "G401"
    exit_code = 2


class PostconditionError(PassError):
    """A pass left a model that breaks the structural rules."""

    code = "G402"


class RuntimeFailure(GraphoptError):
    """ONNX Runtime failed on a model; a candidate that does so is rejected."""

    code = "G500"


class SessionLoadError(RuntimeFailure):
    """ONNX Runtime refused to create a session."""

    code = "G501"


class RunError(RuntimeFailure):
    """ONNX Runtime refused to run a session."""

    code = "G502"


class WorkerCrash(RuntimeFailure):
    """The worker process died: a segmentation fault, an abort, a kill."""

    code = "G503"


class WorkerTimeout(RuntimeFailure):
    """The worker process did not answer in time and was killed."""

    code = "G504"


class WorkerOutOfMemory(RuntimeFailure):
    """The worker process ran out of memory."""

    code = "G505"


def reason_of(error: Exception) -> str:
    """Return what went wrong in words: of the system's errors without number and path.

    The message that quotes them names the file already.
    """
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def error_classes() -> dict[str, type[GraphoptError]]:
    """Return every error class by its code, parents included."""
    found: dict[str, type[GraphoptError]] = {}
    queue: list[type[GraphoptError]] = [GraphoptError]
    while queue:
        cls = queue.pop()
        found[cls.code] = cls
        queue.extend(cls.__subclasses__())
    return dict(sorted(found.items()))
