"""The task by which `graphopt optimize` judges a sentence encoder that was pruned.

Usage:
    python benchmarks/prune/sentences.py --tokenizer FOLDER --out samples
    SENTENCES=samples ORIGINAL=model.onnx PYTHONPATH=benchmarks/prune graphopt optimize model.onnx \
        --target cpu-int8-pruned --calibration samples/calibration --eval similarity_task:pairs

`pairs` is the rank correlation of similarities with those of `ORIGINAL`, as minilm.py has it, on
the passages in `SENTENCES` that are not calibrated on: 1 for the original itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from minilm import Judge, pooled

Predict = Callable[[dict[str, Any]], dict[str, Any]]


def pairs(predict: Predict) -> float:
    """Return the rank correlation of similarities with the original's.

    Args:
        predict: Runs a model: arrays by name to arrays by name.
    """
    judge = _judge()
    found = pooled(lambda feed: next(iter(predict(feed).values())), judge.feeds)
    return judge.figures(found)["pairs"]


@cache
def _judge() -> Judge:
    return Judge(Path(os.environ["ORIGINAL"]), Path(os.environ["SENTENCES"]))
