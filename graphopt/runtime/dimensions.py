"""Values for the dimensions that a model leaves open.

A symbol gets its role from its name (`batch`, `past_sequence_length`), or from where it stands
(axis 0; the last axes of an image). Symbols of one name have one value. `proposals` orders whole
assignments from the most telling to the most forgiving; a session says which of them run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from itertools import product
from typing import Any

from graphopt.runtime.options import TensorSpec

__all__ = [
    "Role",
    "assign",
    "dimension_roles",
    "fallbacks",
    "proposals",
    "shape_of",
    "with_totals",
]


class Role(Enum):
    """What a dimension counts. The value is the size that a benchmark would take."""

    BATCH = 1
    CHANNEL = 3
    PAST = 16
    SEQUENCE = 128
    IMAGE = 224
    TOTAL = 0  # past and present together: never chosen, always a sum


# Small, so that checks are quick; each role takes at least two, one of them odd.
_SMALL = {
    Role.BATCH: (2, 1, 3),
    Role.CHANNEL: (3, 1, 4),
    Role.PAST: (8, 5, 13),
    Role.SEQUENCE: (16, 11, 24),
    Role.IMAGE: (64, 96, 160),
}
# Sizes at which models are often exported with a dimension that is open in name only.
_FIXED_SEQUENCES = (1, 2, 8, 32, 64, 128, 256, 384, 512, 576)
_FIXED_IMAGES = (224, 256, 320, 384, 416, 512, 640, 32, 28)

_NAMES = (
    (Role.TOTAL, re.compile(r"total|kv_len|kv_seq|key_len")),
    (Role.PAST, re.compile(r"past|cache")),
    (Role.BATCH, re.compile(r"batch|bsz|^bs?$|^n$")),
    (Role.IMAGE, re.compile(r"height|width|^[hw]$")),
    (Role.CHANNEL, re.compile(r"channel|^c$")),
    (Role.SEQUENCE, re.compile(r"seq|len|time|token|frame|step|^[tls]$")),
)
_STATE_NAMES = re.compile(r"past|cache|key_values")
_IMAGE_RANK = 4


def dimension_roles(specs: Sequence[TensorSpec]) -> dict[str, Role]:
    """Return the symbols of all inputs with their roles; expressions give their own symbols."""
    roles: dict[str, Role] = {}
    for spec in specs:
        for axis, dim in enumerate(spec.dims):
            for symbol in _symbols_in(_symbol(dim, axis)):
                role = _role_by_name(symbol) or _role_by_place(spec, axis)
                # Named by nothing, a symbol that leads any input is a batch.
                if symbol not in roles or (role is Role.BATCH and not _role_by_name(symbol)):
                    roles[symbol] = role
    return roles


def proposals(roles: Mapping[str, Role]) -> Iterator[dict[str, int]]:
    """Yield small assignments: all symbols apart first, then symbols of one role alike."""
    proposed: list[dict[str, int]] = []
    for is_distinct, turn in product((True, False), range(3)):
        for candidate in with_totals(roles, assign(roles, turn, is_distinct=is_distinct)):
            if candidate not in proposed:
                proposed.append(candidate)
                yield candidate


def fallbacks(roles: Mapping[str, Role]) -> Iterator[dict[str, int]]:
    """Yield assignments for models whose open dimensions are in truth fixed; batch is 1."""
    used = set(roles.values())
    sequences = _FIXED_SEQUENCES if used & {Role.SEQUENCE, Role.PAST} else (1,)
    images = _FIXED_IMAGES if Role.IMAGE in used else (1,)
    for image, sequence in product(images, sequences):
        sizes = {Role.BATCH: 1, Role.CHANNEL: 3, Role.PAST: sequence}
        sizes |= {Role.SEQUENCE: sequence, Role.IMAGE: image}
        fixed = {symbol: sizes[role] for symbol, role in roles.items() if role in sizes}
        yield from with_totals(roles, fixed)


def assign(
    roles: Mapping[str, Role],
    turn: int | None,
    *,
    is_distinct: bool = True,
) -> dict[str, int]:
    """Return a value for every symbol.

    Args:
        roles: From `dimension_roles`.
        turn: Which of the small sizes; None for the sizes of a benchmark.
        is_distinct: Give different sizes to different symbols of a role, so that a mix-up shows.
    """
    sizes: dict[str, int] = {}
    seen: dict[Role, int] = {}
    for symbol, role in roles.items():
        if role is Role.TOTAL:
            continue
        if turn is None:
            sizes[symbol] = role.value
            continue
        choices = _SMALL[role]
        place = seen.setdefault(role, 0) if is_distinct else 0
        sizes[symbol] = choices[(turn + place) % len(choices)]
        # Two batches of one model are one batch nearly always.
        seen[role] = 0 if role is Role.BATCH else place + 1
    return with_totals(roles, sizes)[0]


def with_totals(roles: Mapping[str, Role], sizes: Mapping[str, int]) -> list[dict[str, int]]:
    """Return `sizes` with each total as past and present together; then as the present alone."""

    def first(role: Role) -> int:
        return next((sizes[symbol] for symbol, own in roles.items() if own is role), 0)

    totals = [symbol for symbol, role in roles.items() if role is Role.TOTAL]
    present = first(Role.SEQUENCE)
    counts = dict.fromkeys([present + first(Role.PAST), present] if totals else [present])
    return [{**sizes, **dict.fromkeys(totals, max(1, count))} for count in counts]


def shape_of(spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape of `spec` under `sizes`.

    Raises:
        KeyError: A symbol has no size.
    """
    return tuple(_evaluated(_symbol(dim, axis), sizes) for axis, dim in enumerate(spec.dims))


def _role_by_name(symbol: str) -> Role | None:
    name = symbol.lower()
    return next((role for role, pattern in _NAMES if pattern.search(name)), None)


def _role_by_place(spec: TensorSpec, axis: int) -> Role:
    if axis == 0:
        return Role.BATCH
    if len(spec.dims) < _IMAGE_RANK or not spec.dtype.startswith(("float", "bfloat", "uint8")):
        return Role.SEQUENCE
    if _STATE_NAMES.search(spec.name.lower()):
        return Role.PAST
    return Role.CHANNEL if axis == 1 else Role.IMAGE


def _symbol(dim: int | str | None, axis: int) -> int | str:
    """Return a dimension as a number or a symbol; unnamed ones on one axis are one symbol."""
    return f"axis {axis}" if dim is None else dim


def _symbols_in(dim: int | str) -> tuple[str, ...]:
    if isinstance(dim, int):
        return ()
    return tuple(sorted(_expression(dim).free_symbols())) if _is_expression(dim) else (dim,)


def _evaluated(dim: int | str, sizes: Mapping[str, int]) -> int:
    if isinstance(dim, int):
        return dim
    if dim in sizes:
        return sizes[dim]
    if not _is_expression(dim):
        raise KeyError(dim)
    return max(0, int(_expression(dim).evaluate(sizes)))


def _is_expression(symbol: str) -> bool:
    """Tell whether a symbol is arithmetic, as in `past_length + 1`, and not just an odd name."""
    if not re.search(r"[-+*/(]", symbol):
        return False
    try:
        return bool(_expression(symbol).free_symbols())
    except ValueError:
        return False


def _expression(symbol: str) -> Any:
    import onnx_ir as ir

    return ir.SymbolicDim(symbol)
