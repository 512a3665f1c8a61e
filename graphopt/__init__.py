"""Optimize ONNX models for a deployment target, with measured evidence.

Names are imported on first use, so that ``import graphopt`` and ``graphopt --help`` load neither
onnx nor onnxruntime.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from graphopt._version import __version__
from graphopt._without_sympy import defer_sympy

if TYPE_CHECKING:
    from graphopt.api import Optimization, bench, inspect, optimize, plan, run_pipeline, verify
    from graphopt.deploy import Bundle, validate
    from graphopt.errors import GraphoptError
    from graphopt.ir import load, save
    from graphopt.pipeline import Pipeline
    from graphopt.rewrite import Pass
    from graphopt.targets import Target, load_target

__all__ = [
    "Bundle",
    "GraphoptError",
    "Optimization",
    "Pass",
    "Pipeline",
    "Target",
    "__version__",
    "bench",
    "inspect",
    "load",
    "load_target",
    "optimize",
    "plan",
    "run_pipeline",
    "save",
    "validate",
    "verify",
]

defer_sympy()

_HOMES = {
    "api": ("Optimization", "bench", "inspect", "optimize", "plan", "run_pipeline", "verify"),
    "deploy": ("Bundle", "validate"),
    "errors": ("GraphoptError",),
    "ir": ("load", "save"),
    "pipeline": ("Pipeline",),
    "rewrite": ("Pass",),
    "targets": ("Target", "load_target"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"graphopt.{home}"), name)
    raise AttributeError(f"module `graphopt` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted(__all__)
