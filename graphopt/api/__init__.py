"""The functions behind the public names and the commands.

Names are imported when they are first used: a room is large, and who asks needs a part of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt._lazy_names import attach

if TYPE_CHECKING:
    from graphopt.api.comparing import bench as bench
    from graphopt.api.comparing import verify as verify
    from graphopt.api.exporting import export as export
    from graphopt.api.inspecting import inspect as inspect
    from graphopt.api.inspecting import inspect_layers as inspect_layers
    from graphopt.api.inspecting import inspect_samples as inspect_samples
    from graphopt.api.inspecting import inspect_saturation as inspect_saturation
    from graphopt.api.inspecting import inspect_structure as inspect_structure
    from graphopt.api.optimizing import Optimization as Optimization
    from graphopt.api.optimizing import default_output as default_output
    from graphopt.api.optimizing import optimize as optimize
    from graphopt.api.optimizing import plan as plan
    from graphopt.api.placing import inspect_placement as inspect_placement
    from graphopt.api.racing import race as race
    from graphopt.api.running import explain as explain
    from graphopt.api.running import run_pipeline as run_pipeline
    from graphopt.api.sensitivities import inspect_sensitivities as inspect_sensitivities
    from graphopt.api.variants import Variants as Variants
    from graphopt.api.variants import optimize_variants as optimize_variants

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "comparing": (
            "bench",
            "verify",
        ),
        "exporting": ("export",),
        "inspecting": (
            "inspect",
            "inspect_layers",
            "inspect_samples",
            "inspect_saturation",
            "inspect_structure",
        ),
        "optimizing": (
            "Optimization",
            "default_output",
            "optimize",
            "plan",
        ),
        "placing": ("inspect_placement",),
        "racing": ("race",),
        "running": (
            "explain",
            "run_pipeline",
        ),
        "sensitivities": ("inspect_sensitivities",),
        "variants": (
            "Variants",
            "optimize_variants",
        ),
    },
)
