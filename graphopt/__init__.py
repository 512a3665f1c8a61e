"""Optimize ONNX models for a deployment target, with measured evidence.

Names are imported on first use, so that ``import graphopt`` and ``graphopt --help`` load neither
onnx nor onnxruntime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt._lazy_names import attach
from graphopt._without_sympy import defer_sympy

if TYPE_CHECKING:
    from graphopt._version import __version__ as __version__
    from graphopt.api import Optimization as Optimization
    from graphopt.api import bench as bench
    from graphopt.api import inspect as inspect
    from graphopt.api import optimize as optimize
    from graphopt.api import plan as plan
    from graphopt.api import run_pipeline as run_pipeline
    from graphopt.api import verify as verify
    from graphopt.deploy import Bundle as Bundle
    from graphopt.deploy import validate as validate
    from graphopt.errors import GraphoptError as GraphoptError
    from graphopt.ir import load as load
    from graphopt.ir import save as save
    from graphopt.pipeline import Pipeline as Pipeline
    from graphopt.rewrite import Pass as Pass
    from graphopt.targets import Target as Target
    from graphopt.targets import load_target as load_target

defer_sympy()

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "_version": ("__version__",),
        "api": ("Optimization", "bench", "inspect", "optimize", "plan", "run_pipeline", "verify"),
        "deploy": ("Bundle", "validate"),
        "errors": ("GraphoptError",),
        "ir": ("load", "save"),
        "pipeline": ("Pipeline",),
        "rewrite": ("Pass",),
        "targets": ("Target", "load_target"),
    },
)
