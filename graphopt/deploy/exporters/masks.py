"""Masks of attention in a form that the older exporter of PyTorch can trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

__all__ = ["traceable_masks"]


@contextmanager
def traceable_masks() -> Iterator[None]:
    """Let transformers build masks of attention by broadcasting instead of `torch.vmap`.

    A trace of `vmap` ends in `unordered_map::at`. The functions that are mapped compare positions
    element by element, so that they give the same for grids of positions that broadcast.
    Without transformers, or with a version that maps nothing, there is nothing to do.
    """
    import sys

    masks = sys.modules.get("transformers.masking_utils")
    replaced = {name: getattr(masks, name, None) for name in _REPLACEMENTS}
    if None in replaced.values():
        yield
        return
    for name, value in _REPLACEMENTS.items():
        setattr(masks, name, value)
    try:
        yield
    finally:
        for name, value in replaced.items():
            setattr(masks, name, value)


def _broadcast(mask_function: Callable[..., Any], bh_indices: bool = True) -> Callable[..., Any]:
    """Return a function of vectors of positions: (batch,), (heads,), (queries,), (keys,)."""

    def run(batch: Any, head: Any, query: Any, key: Any) -> Any:
        query, key = query[:, None], key[None, :]
        if not bh_indices:
            return mask_function(batch, head, query, key).expand(query.shape[0], key.shape[1])
        batch, head = batch[:, None, None, None], head[None, :, None, None]
        found = mask_function(batch, head, query[None, None], key[None, None])
        return found.expand(batch.shape[0], head.shape[1], query.shape[0], key.shape[1])

    return run


# The second lets `vmap` index by scalars, by a function that cannot be traced either.
_REPLACEMENTS = {"_vmap_for_bhqkv": _broadcast, "TransformGetItemToIndex": nullcontext}
