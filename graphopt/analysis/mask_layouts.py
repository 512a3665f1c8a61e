"""How what is added to scores lies over them."""

from __future__ import annotations

from typing import NamedTuple

from graphopt.analysis.equal_sizes import EqualSizes
from graphopt.analysis.head_splits import Dims

__all__ = ["Layout", "is_view", "is_within", "layout_of"]

_MATRICES, _RANK, _WINDOWED = 3, 4, 5


class Layout(NamedTuple):
    """How a mask becomes (B or 1, H or 1, S or 1, T or 1).

    Attributes:
        form: `same`; `unsqueeze` where axes of size 1 come in front; `split` from (B * H, S, T);
            `squeeze` where there is one more; `tile` from (1, w, ...), repeated for each of the
            B / w; `join` from (B / w, w, ...).
        dims: The dimensions after that.
    """

    form: str
    dims: Dims


def is_view(view: Dims, scores: Dims, sizes: EqualSizes) -> bool:
    """Tell whether ``view`` is ``scores``, (B, H, S, T), reshaped without mixing the rest.

    That is (B, H, S, T), (B * H, S, T), or (B / w, w, H, S, T).
    """
    if len(view) == _WINDOWED and not isinstance(view[1], int):
        return False
    own = {_MATRICES: 1, _RANK: 1, _WINDOWED: 2}.get(len(view))
    if own is None:
        return False
    ends = view[own:]
    return all(sizes.are_equal(*pair) for pair in zip(ends, scores[-len(ends) :], strict=True))


def layout_of(dims: Dims, view: Dims, scores: Dims, sizes: EqualSizes) -> Layout | None:
    """Return how a mask of ``dims`` lies over scores that are seen as ``view`` when it is added."""
    if len(dims) > len(view):
        return None
    padded = (1,) * (len(view) - len(dims)) + dims
    if len(view) == _RANK:
        return Layout("same" if len(dims) == _RANK else "unsqueeze", padded)
    if len(view) == _MATRICES:
        if padded[0] == 1:
            return Layout("unsqueeze", (1, *padded))
        is_known = sizes.are_equal(padded[0], view[0])
        return Layout("split", (*scores[:2], *padded[1:])) if is_known else None
    if len(view) == _WINDOWED:
        return _windowed(padded, len(dims), view, scores, sizes)
    return None


def _windowed(
    padded: Dims, rank: int, view: Dims, scores: Dims, sizes: EqualSizes
) -> Layout | None:
    if padded[:2] == (1, 1):
        form = {_RANK: "same", _WINDOWED: "squeeze"}.get(rank, "unsqueeze")
        return Layout(form, padded[1:])
    if padded[1] != view[1]:
        return None
    dims = (scores[0], *padded[2:])
    if padded[0] == 1:
        return Layout("tile", dims)
    return Layout("join", dims) if sizes.are_equal(padded[0], view[0]) else None


def is_within(dims: Dims, scores: Dims, sizes: EqualSizes) -> bool:
    """Tell whether each of four dimensions is 1 or that of the scores."""
    return all(
        dim == 1 or sizes.are_equal(dim, other) for dim, other in zip(dims, scores, strict=True)
    )
