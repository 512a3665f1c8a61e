"""What share of a model's time another one takes: measured here, by turns, on one thread.

A share of operations is not one of time: normalizations and softmaxes stay, and kernels like some
widths better than others.
"""

from __future__ import annotations

import math
from itertools import islice

import onnx_ir as ir

from graphopt.ir import clone, save, scratch_folder
from graphopt.rewrite import Measure
from graphopt.runtime import Feeds, SessionOptions, measure_latency, representative_feed

__all__ = ["latency_share", "timed_feed"]

_LOOKS, _SECONDS = 2, 3.0
"""How often each copy is compared, and for how long: eight copies find a ratio."""


def timed_feed(model: ir.Model, measure: Measure | None) -> Feeds:
    """Return what a model is timed on: the middle sample by size, or inputs of usual sizes.

    Args:
        model: The model.
        measure: Has the samples; ``None``: there are none.

    Raises:
        UnsupportedModelError: There are no samples, and the model runs at no size that was tried.
    """
    if measure is None:
        return representative_feed(model)
    sizes = [sum(array.size for array in feed.values()) for feed in measure.feeds()]
    middle = sorted(range(len(sizes)), key=sizes.__getitem__)[len(sizes) // 2]
    return next(islice(measure.feeds(), middle, None))


def latency_share(model: ir.Model, cut: ir.Model, feed: Feeds) -> float:
    """Return the CPU time of a run of ``cut`` over that of ``model``: the larger of two figures.

    Of many copies that are compared with a limit, the one that meets it is likely one whose time
    came out too short: one that has to meet it twice is less so. Both are run as they are: in
    floats, where integers come later.

    Args:
        model: The model.
        cut: What is left of it.
        feed: What both are run on.

    Raises:
        SessionLoadError, RunError: The runtime refuses one of them.
        WorkerCrash, WorkerTimeout, WorkerOutOfMemory: The worker ended.
    """
    with scratch_folder() as folder:
        paths = folder / "whole.onnx", folder / "cut.onnx"
        for one, path in zip((model, cut), paths, strict=True):
            save(clone(one), path)
        options = SessionOptions(threads=1)
        looks = [
            measure_latency(*paths, feed, options=options, budget_s=_SECONDS, seed=seed)
            for seed in range(_LOOKS)
        ]
    return max(one.cpu_ratio if math.isfinite(one.cpu_ratio) else one.ratio for one in looks)
