"""State that a model hands on: inputs that are fed from outputs of the run before."""

from __future__ import annotations

import re

import onnx_ir as ir

__all__ = ["state_pairs"]

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
# Said of what comes in and of what goes out; without them, the two have one name.
_BEFORE = frozenset({"past", "in", "input", "prev", "previous", "old", "init", "initial"})
_AFTER = frozenset({"present", "out", "output", "next", "new", "n", "cur", "current", "updated"})
# What hands on no state has no such word: an image that comes in and an image that goes out.
_STATE = frozenset(
    {"state", "states", "hidden", "cell", "cache", "past", "present", "memory", "mem", "kv"}
    | {"h", "c", "rnn", "lstm", "gru", "context"}
)


def state_pairs(model: ir.Model) -> dict[str, str]:
    """Return inputs that are state, each with the output that is fed to it in the next run.

    They are recognised by name, as ``state`` and ``stateN``, ``h0`` and ``hn``, ``cache_in`` and
    ``cache_out``, ``past_key_values.0.key`` and ``present.0.key``; type, rank and known sizes must
    agree. What fits several is left out.

    Args:
        model: The model; only its inputs and outputs are looked at.
    """
    outputs: dict[tuple[str, ...] | None, ir.Value] = {}
    for value in model.graph.outputs:
        outputs.setdefault(_stem(value.name or "", _AFTER), value)
    found: dict[str, str] = {}
    for value in model.graph.inputs:
        stem = _stem(value.name or "", _BEFORE)
        output = outputs.get(stem) if stem is not None else None
        if output is None or value.is_initializer() or not _agree(value, output):
            continue
        found[value.name or ""] = output.name or ""
    fed = list(found.values())
    return {name: output for name, output in found.items() if fed.count(output) == 1}


def _stem(name: str, affixes: frozenset[str]) -> tuple[str, ...] | None:
    """Return the words of a name without those that say when; ``None`` where it is no state."""
    words = [word.lower() for word in _WORDS.findall(name)]
    if _is_step(words):
        words = [words[0][0]]
    elif not _STATE & set(words):
        return None
    if words[:3] == ["past", "key", "values"]:
        words = words[3:]
    return tuple(word for word in words if word not in affixes)


def _is_step(words: list[str]) -> bool:
    """Tell whether this is ``h``, ``c``, ``h0``, ``cn`` and the like: what an LSTM carries."""
    joined = "".join(words)
    return re.fullmatch(r"[hc](0|n|t|in|out)?", joined) is not None


def _agree(value: ir.Value, output: ir.Value) -> bool:
    if value.dtype is None or value.dtype != output.dtype:
        return False
    if value.shape is None or output.shape is None:
        return True
    return len(value.shape) == len(output.shape) and all(
        left == right or not (isinstance(left, int) and isinstance(right, int))
        for left, right in zip(value.shape, output.shape, strict=True)
    )
