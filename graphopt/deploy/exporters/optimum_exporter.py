"""optimum's exporter, in an environment that has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .loaded import Opset

__all__ = ["export_optimum", "has_optimum"]

_TASKS = {"image-feature-extraction": "feature-extraction"}
_FILES = {"": "model.onnx", "encoder": "encoder_model.onnx", "decoder": "decoder_model.onnx"}


def has_optimum() -> bool:
    """Tell whether optimum's exporter is installed, whatever version of transformers is beside."""
    from importlib.util import find_spec

    try:
        return find_spec("optimum.exporters.onnx") is not None
    except ModuleNotFoundError:
        return False


def export_optimum(model: Any, task: str, part: str, folder: Path, opset: Opset) -> Path:
    """Export a loaded model of transformers, and return the file.

    optimum is handed the model, never the folder: what is loaded, and from what, is decided once.

    Args:
        model: A model of transformers; optimum may change its configuration.
        task: As in `TASKS`.
        part: `encoder` or `decoder`; empty: the whole, as one file.
        folder: Where files go.
        opset: Version of the operators; optimum's choice for the architecture, which is the oldest
            that it takes, so that a lower limit cannot be met.

    Raises:
        Exception: Whatever optimum raises; it does not take every architecture and task.
    """
    from optimum.exporters.onnx import onnx_export_from_model

    onnx_export_from_model(
        model,
        folder,
        task=_TASKS.get(task, task),
        opset=opset.exact,
        monolith=not part and model.config.is_encoder_decoder,  # else it leaves caches out
        do_validation=False,  # the file is compared here, like every other
    )
    return folder / _FILES[part]
