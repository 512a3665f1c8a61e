"""Masks of attention in a form that the older exporter of PyTorch can trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

__all__ = ["traceable_masks"]


@contextmanager
def traceable_masks() -> Iterator[None]:
    """Let transformers build masks of attention from operators that have a form in ONNX.

    They are built by `torch.vmap`, whose trace ends in `unordered_map::at`, and by `torch.diff`.
    What takes their place computes the same. Without transformers, or with a version that has
    none of it, there is nothing to do.
    """
    import sys

    masks = sys.modules.get("transformers.masking_utils")
    replaced = {name: getattr(masks, name) for name in _REPLACEMENTS if hasattr(masks, name)}
    for name in replaced:
        setattr(masks, name, _REPLACEMENTS[name])
    try:
        yield
    finally:
        for name, value in replaced.items():
            setattr(masks, name, value)


def _broadcast(mask_function: Callable[..., Any], bh_indices: bool = True) -> Callable[..., Any]:
    """Return a function of vectors of positions: (batch,), (heads,), (queries,), (keys,).

    What is mapped compares positions element by element, so that grids that broadcast will do.
    """

    def run(batch: Any, head: Any, query: Any, key: Any) -> Any:
        query, key = query[:, None], key[None, :]
        if not bh_indices:
            return mask_function(batch, head, query, key).expand(query.shape[0], key.shape[1])
        batch, head = batch[:, None, None, None], head[None, :, None, None]
        found = mask_function(batch, head, query[None, None], key[None, None])
        return found.expand(batch.shape[0], head.shape[1], query.shape[0], key.shape[1])

    return run


def _packed_sequences(position_ids: Any) -> Any:
    """Return which text of its row each token is of: positions (batch, length) count up in one."""
    import torch

    before = torch.cat((position_ids[:, :1] - 1, position_ids[:, :-1]), dim=1)
    # ONNX sums no booleans (CumSum), and the older exporter writes them into it.
    return (position_ids - before != 1).to(torch.int64).cumsum(-1)


_REPLACEMENTS = {
    "_vmap_for_bhqkv": _broadcast,
    # Lets `vmap` index by scalars, by a function that cannot be traced either.
    "TransformGetItemToIndex": nullcontext,
    "find_packed_sequence_indices": _packed_sequences,
}
