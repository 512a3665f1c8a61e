"""Targets that are not on this machine: why, and what stands in for them."""

from __future__ import annotations

from dataclasses import replace

from graphopt.runtime import SessionOptions, architecture, available_providers
from graphopt.targets import Target

__all__ = ["stand_in", "why_absent"]

_CPU = "CPUExecutionProvider"


def why_absent(target: Target) -> str | None:
    """Return why models for a target cannot be run here as they will be there.

    Args:
        target: The profile.

    Returns:
        One clause for a reader; ``None`` where the target's providers and processor are here.
    """
    known = available_providers()
    missing = [item.name for item in target.runtime.providers if item.name not in known]
    if missing:
        return f"this machine has no {' and no '.join(missing)}"
    wanted, here = target.device.architectures, architecture()
    if wanted and here not in wanted:
        return f"it is for {' or '.join(wanted)}, and this machine is {here}"
    return None


def stand_in(options: SessionOptions) -> SessionOptions:
    """Return options under which a model for an absent target computes what ONNX says it does.

    Without optimizations the CPU provider runs every operator as it is specified: quantizers
    round, floats between them stay floats. Nothing is learnt about speed.
    """
    # The configuration goes, too: its entries may be those of the provider that is not here.
    return replace(options, providers=((_CPU, {}),), optimization="disabled", config={})
