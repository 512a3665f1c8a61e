"""Limits that a candidate must meet, and the judgement of measured values against them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self, TypeAlias

from graphopt.errors import OptionError, UnknownNameError

__all__ = [
    "GATES",
    "Gate",
    "GateKind",
    "GateResult",
    "GateStatus",
    "Measured",
    "check_gate",
    "gates_met",
    "is_correct",
    "judge",
    "parse_gates",
]

GateKind: TypeAlias = Literal["correctness", "goal"]
GateStatus: TypeAlias = Literal["passed", "failed", "not-measured", "too-noisy"]


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One kind of limit.

    Attributes:
        name: The name that the command line, target files and Python share; ``max_`` and ``min_``
            say in which direction the limit holds.
        kind: A candidate that misses a `correctness` gate is never written; one that misses a
            `goal` may be, and is marked so.
        help: What is limited, in one line.
        unit: Unit of limit and value.
        minimum: Smallest sensible limit.
        maximum: Largest sensible limit.
        waiver: Why the gate may go unmeasured; ``None`` where it never may.
        example: A sensible limit, for hints.
    """

    name: str
    kind: GateKind
    help: str
    unit: str
    minimum: float = 0.0
    maximum: float = math.inf
    waiver: str | None = None
    example: float

    def is_met(self, value: float, limit: float) -> bool:
        """Tell whether a value is within a limit; NaN never is."""
        return value >= limit if self.name.startswith("min_") else value <= limit


_NO_METRIC = "no labelled samples (`--eval`) were given"
_NO_LATENCY = "measuring was switched off (`--latency off`)"
_NO_PLACEMENT = "the target's provider is not on this machine"

GATES: Mapping[str, Gate] = {
    gate.name: gate
    for gate in (
        Gate(
            name="max_rel_error",
            kind="correctness",
            help="largest difference of an output, as a fraction of its largest value",
            unit="fraction",
            example=1e-4,
        ),
        Gate(
            name="min_cosine",
            kind="correctness",
            help="smallest cosine between an output and the original's, over all samples",
            unit="cosine",
            minimum=-1.0,
            maximum=1.0,
            example=0.99,
        ),
        Gate(
            name="min_sqnr_db",
            kind="correctness",
            help="smallest signal-to-noise ratio of an output, over all samples",
            unit="dB",
            minimum=-math.inf,
            example=20.0,
        ),
        Gate(
            name="max_metric_drop",
            kind="correctness",
            help="how much worse the task metric may get",
            unit="of the metric",
            waiver=_NO_METRIC,
            example=0.01,
        ),
        Gate(
            name="max_latency_ratio",
            kind="goal",
            help="time of one run, relative to the original file under default settings",
            unit="fraction",
            waiver=_NO_LATENCY,
            example=0.5,
        ),
        Gate(
            name="max_size_ratio",
            kind="goal",
            help="bytes of the model's files, relative to the original",
            unit="fraction",
            example=0.3,
        ),
        Gate(
            name="max_peak_memory_ratio",
            kind="goal",
            help="peak resident memory of load and first run, relative to the original",
            unit="fraction",
            waiver=_NO_LATENCY,
            example=0.8,
        ),
        Gate(
            name="max_partitions",
            kind="goal",
            help="pieces into which the execution providers cut the graph",
            unit="pieces",
            minimum=1.0,
            waiver=_NO_PLACEMENT,
            example=1,
        ),
        Gate(
            name="max_share_off_accelerator",
            kind="goal",
            help="share of the work that the first provider of the target does not do",
            unit="fraction",
            maximum=1.0,
            waiver=_NO_PLACEMENT,
            example=0.1,
        ),
    )
}
"""Every gate by name, in the order in which results are listed."""


@dataclass(frozen=True)
class Measured:
    """What was measured for a gate.

    Attributes:
        value: The measured value in the gate's unit; ``None`` where there is none.
        status: ``measured``; ``not-requested``, where the user did not ask for the measurement;
            ``failed``, where it was tried; ``too-noisy``, where the value cannot be trusted.
        judged_as: The value that counts where it is not `value` itself.
        reason: Why there is no value, or why it counts differently.
    """

    value: float | None
    status: Literal["measured", "not-requested", "failed", "too-noisy"] = "measured"
    judged_as: float | None = None
    reason: str | None = None

    @classmethod
    def latency(cls, ratio: float, verdict: str) -> Self:
        """Return a latency ratio with its verdict.

        ``same`` counts as a ratio of 1 where noise put it above: no difference was found.
        ``too-noisy`` passes no gate.
        """
        if verdict == "too-noisy":
            return cls(ratio, "too-noisy", reason="the machine was too busy to tell")
        if verdict == "same" and ratio > 1.0:
            return cls(ratio, judged_as=1.0, reason="no difference could be measured")
        return cls(ratio)


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """The judgement of one gate.

    Attributes:
        name: Name of the gate.
        kind: `correctness` or `goal`.
        limit: The limit that was set.
        value: What was measured; ``None`` where nothing was.
        passed: ``None`` where nothing was measured and the gate allows that.
        status: `passed`, `failed`, `not-measured` or `too-noisy`.
        reason: Why, where numbers alone do not say it.
    """

    name: str
    kind: GateKind
    limit: float
    value: float | None
    passed: bool | None
    status: GateStatus
    reason: str | None = None

    @property
    def is_blind(self) -> bool:
        """Whether it asks for what is right, and fails because nothing could be measured."""
        return self.kind == "correctness" and self.passed is False and self.value is None

    def to_dict(self) -> dict[str, float | bool | str | None]:
        """Return the JSON form; an infinite value becomes ``None``."""
        has_number = self.value is not None and math.isfinite(self.value)
        return {
            "name": self.name,
            "kind": self.kind,
            "limit": self.limit,
            "value": self.value if has_number else None,
            "passed": self.passed,
            "status": self.status,
            "reason": self.reason,
        }


def judge(
    gates: Mapping[str, float],
    measured: Mapping[str, Measured | float | None],
    *,
    demanded: Iterable[str] = (),
) -> list[GateResult]:
    """Judge measured values against limits.

    A gate without a value fails, with one exception: where its measurement was not requested
    (`Measured.status`), the gate has a waiver, and the user did not demand the gate by name, it is
    reported as `not-measured` and neither passes nor fails.

    Args:
        gates: Limits by name of gate.
        measured: Values by name of gate; a missing name is a value of ``None``.
        demanded: Gates that the user set for this run, which no waiver excuses.

    Returns:
        One result per gate, in the order of `GATES`.

    Raises:
        UnknownNameError: A name is not a gate.
    """
    for name in gates:
        _gate(name)
    required = frozenset(demanded)
    return [
        _judge_one(gate, gates[name], measured.get(name), is_demanded=name in required)
        for name, gate in GATES.items()
        if name in gates
    ]


def gates_met(results: Sequence[GateResult]) -> bool:
    """Tell whether no gate failed."""
    return all(result.passed is not False for result in results)


def is_correct(results: Sequence[GateResult]) -> bool:
    """Tell whether no correctness gate failed: the candidate may be written."""
    return gates_met([result for result in results if result.kind == "correctness"])


def parse_gates(settings: Iterable[str]) -> dict[str, float | None]:
    """Read limits in the form ``NAME=VALUE``; the value ``off`` takes a gate away (``None``).

    Raises:
        UnknownNameError: A name is not a gate.
        OptionError: The text has another form, or the value is no sensible limit.
    """
    found: dict[str, float | None] = {}
    for setting in settings:
        name, separator, text = (part.strip() for part in setting.partition("="))
        if not separator:
            raise _gate_error(setting, "expected `NAME=VALUE`", GATES["max_metric_drop"])
        gate = _gate(name)
        found[name] = None if text == "off" else check_gate(name, _number(text, setting, gate))
    return found


def check_gate(name: str, limit: float) -> float:
    """Return `limit` as a float where it is one that the gate can have.

    Raises:
        UnknownNameError: The name is not a gate.
        OptionError: The limit is not a number, or out of the range of the gate.
    """
    gate = _gate(name)
    setting = f"{name}={limit}"
    # NaN would be met by nothing, and the reports would not say why.
    if isinstance(limit, bool) or not isinstance(limit, int | float) or math.isnan(limit):
        raise _gate_error(setting, f"`{limit}` is not a number", gate)
    if math.isinf(limit) or not gate.minimum <= limit <= gate.maximum:
        upper = "" if gate.maximum == math.inf else f" and at most {gate.maximum:g}"
        raise _gate_error(setting, f"expected a number of at least {gate.minimum:g}{upper}", gate)
    return float(limit)


def _gate(name: str) -> Gate:
    try:
        return GATES[name]
    except KeyError:
        raise UnknownNameError("gate", name, GATES) from None


def _number(text: str, setting: str, gate: Gate) -> float:
    try:
        return float(text)
    except ValueError:
        pass
    why = f"`{text}` is neither a number nor `off`"
    if text.endswith("%"):
        why = f"`{text}` is a percentage; {gate.name} is a plain number ({gate.unit})"
    raise _gate_error(setting, why, gate)


def _gate_error(setting: str, why: str, gate: Gate) -> OptionError:
    return OptionError(
        f"gate `{setting}` cannot be used",
        why=why,
        hint=f"for example `--gate {gate.name}={gate.example:g}` ({gate.help})",
    )


def _judge_one(
    gate: Gate, limit: float, given: Measured | float | None, *, is_demanded: bool
) -> GateResult:
    if not isinstance(given, Measured):
        given = Measured(given, "failed" if given is None else "measured")
    passed, status, reason = _verdict(gate, limit, given, is_demanded=is_demanded)
    return GateResult(
        name=gate.name,
        kind=gate.kind,
        limit=limit,
        value=given.value,
        passed=passed,
        status=status,
        reason=reason,
    )


def _verdict(
    gate: Gate, limit: float, given: Measured, *, is_demanded: bool
) -> tuple[bool | None, GateStatus, str | None]:
    if given.status == "too-noisy":
        # A gate that noise could pass would be no gate: who measured on a busy machine measures
        # again.
        return False, "too-noisy", given.reason or "the value cannot be trusted"
    if given.status == "not-requested" and gate.waiver:
        reason = given.reason or gate.waiver
        # The target's own gates hold for machines and runs that nobody foresaw; who names one for
        # this run wants its answer.
        if is_demanded:
            return False, "not-measured", f"demanded, and {reason}"
        return None, "not-measured", reason
    counted = given.value if given.judged_as is None else given.judged_as
    if counted is None:
        return False, "not-measured", given.reason or "there is no value"
    is_met = gate.is_met(counted, limit)
    return is_met, "passed" if is_met else "failed", given.reason
