"""The functions behind the public names and the commands.

Names are imported when they are first used: a room is large, and who asks needs a part of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.api.comparing import bench as bench
    from graphopt.api.comparing import verify as verify
    from graphopt.api.exporting import export as export
    from graphopt.api.optimizing import Optimization as Optimization
    from graphopt.api.optimizing import default_output as default_output
    from graphopt.api.optimizing import optimize as optimize
    from graphopt.api.optimizing import plan as plan
    from graphopt.api.placing import inspect_placement as inspect_placement
    from graphopt.api.racing import race as race
    from graphopt.api.running import explain as explain
    from graphopt.api.running import inspect as inspect
    from graphopt.api.running import inspect_layers as inspect_layers
    from graphopt.api.running import inspect_samples as inspect_samples
    from graphopt.api.running import inspect_saturation as inspect_saturation
    from graphopt.api.running import inspect_structure as inspect_structure
    from graphopt.api.running import run_pipeline as run_pipeline
    from graphopt.api.sensitivities import inspect_sensitivities as inspect_sensitivities
    from graphopt.api.variants import Variants as Variants
    from graphopt.api.variants import optimize_variants as optimize_variants

_HOMES = {
    "Optimization": "optimizing",
    "Variants": "variants",
    "bench": "comparing",
    "default_output": "optimizing",
    "explain": "running",
    "export": "exporting",
    "inspect": "running",
    "inspect_layers": "running",
    "inspect_placement": "placing",
    "inspect_samples": "running",
    "inspect_saturation": "running",
    "inspect_sensitivities": "sensitivities",
    "inspect_structure": "running",
    "optimize": "optimizing",
    "optimize_variants": "variants",
    "plan": "optimizing",
    "race": "racing",
    "run_pipeline": "running",
    "verify": "comparing",
}

__all__ = [  # noqa: PLE0604 - one list of names, kept in `_HOMES`
    *_HOMES
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
