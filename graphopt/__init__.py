"""Optimize ONNX models for a deployment target, with measured evidence."""

from graphopt._version import __version__

__all__ = ["__version__"]
