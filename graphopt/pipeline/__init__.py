"""Pipelines of passes: text, registry, manager and ledger.

Names are imported when they are first used, so that listing passes loads no heavy library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt._lazy_names import attach

if TYPE_CHECKING:
    from graphopt.pipeline.ledger import Ledger as Ledger
    from graphopt.pipeline.ledger import PassEntry as PassEntry
    from graphopt.pipeline.ledger import Timing as Timing
    from graphopt.pipeline.manager import PassManager as PassManager
    from graphopt.pipeline.manager import PipelineResult as PipelineResult
    from graphopt.pipeline.named import NamedPipeline as NamedPipeline
    from graphopt.pipeline.named import find_named_pipeline as find_named_pipeline
    from graphopt.pipeline.named import named_pipelines as named_pipelines
    from graphopt.pipeline.pipeline import Element as Element
    from graphopt.pipeline.pipeline import Fixpoint as Fixpoint
    from graphopt.pipeline.pipeline import Pipeline as Pipeline
    from graphopt.pipeline.registry import find_pass as find_pass
    from graphopt.pipeline.registry import pass_names as pass_names
    from graphopt.pipeline.registry import pass_owner as pass_owner
    from graphopt.pipeline.registry import pass_summary as pass_summary
    from graphopt.pipeline.reproducer import Reproduction as Reproduction
    from graphopt.pipeline.reproducer import reproduce as reproduce
    from graphopt.pipeline.watch import PassEvent as PassEvent
    from graphopt.pipeline.watch import PrintAfter as PrintAfter

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "ledger": (
            "Ledger",
            "PassEntry",
            "Timing",
        ),
        "manager": (
            "PassManager",
            "PipelineResult",
        ),
        "named": (
            "NamedPipeline",
            "find_named_pipeline",
            "named_pipelines",
        ),
        "pipeline": (
            "Element",
            "Fixpoint",
            "Pipeline",
        ),
        "registry": (
            "find_pass",
            "pass_names",
            "pass_owner",
            "pass_summary",
        ),
        "reproducer": (
            "Reproduction",
            "reproduce",
        ),
        "watch": (
            "PassEvent",
            "PrintAfter",
        ),
    },
)
