"""The forms in which a model can lie on disk."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["ONNX_TEXT_SUFFIXES", "TEXTPROTO_SUFFIXES", "is_text_file"]

TEXTPROTO_SUFFIXES = frozenset({".textproto", ".pbtxt", ".prototxt"})
ONNX_TEXT_SUFFIXES = frozenset({".onnxtxt", ".onnxtext"})


def is_text_file(path: str | os.PathLike[str]) -> bool:
    """Tell by its name whether a file holds a model as text, which no runtime loads."""
    return Path(path).suffix in TEXTPROTO_SUFFIXES | ONNX_TEXT_SUFFIXES
