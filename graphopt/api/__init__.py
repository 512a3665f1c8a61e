"""The functions behind the public names and the commands."""

from graphopt.api.comparing import bench, verify
from graphopt.api.exporting import export
from graphopt.api.optimizing import Optimization, default_output, optimize, plan
from graphopt.api.placing import inspect_placement
from graphopt.api.racing import race
from graphopt.api.running import (
    explain,
    inspect,
    inspect_layers,
    inspect_samples,
    inspect_saturation,
    inspect_structure,
    run_pipeline,
)
from graphopt.api.variants import Variants, optimize_variants

__all__ = [
    "Optimization",
    "Variants",
    "bench",
    "default_output",
    "explain",
    "export",
    "inspect",
    "inspect_layers",
    "inspect_placement",
    "inspect_samples",
    "inspect_saturation",
    "inspect_structure",
    "optimize",
    "optimize_variants",
    "plan",
    "race",
    "run_pipeline",
    "verify",
]
