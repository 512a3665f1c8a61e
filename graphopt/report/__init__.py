"""Results as a person, a script or a page reads them.

Names are imported when they are first used: a room is large, and who asks needs a part of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt._lazy_names import attach

if TYPE_CHECKING:
    from graphopt.report.comparison_report import ComparisonReport as ComparisonReport
    from graphopt.report.decision_tables import decisions_text as decisions_text
    from graphopt.report.decision_tables import exits_text as exits_text
    from graphopt.report.details import LayerError as LayerError
    from graphopt.report.details import ReportDetails as ReportDetails
    from graphopt.report.export_report import ExportReport as ExportReport
    from graphopt.report.export_report import SizesCompared as SizesCompared
    from graphopt.report.figures import format_bytes as format_bytes
    from graphopt.report.figures import format_change as format_change
    from graphopt.report.figures import format_number as format_number
    from graphopt.report.html import to_html as to_html
    from graphopt.report.latency_report import LatencyReport as LatencyReport
    from graphopt.report.layers_report import LayersReport as LayersReport
    from graphopt.report.optimize_text import to_text as to_text
    from graphopt.report.plan_report import PlanReport as PlanReport
    from graphopt.report.race_report import RaceEntry as RaceEntry
    from graphopt.report.race_report import RaceReport as RaceReport
    from graphopt.report.result import BeforeAfter as BeforeAfter
    from graphopt.report.result import CandidateResult as CandidateResult
    from graphopt.report.result import CandidateStatus as CandidateStatus
    from graphopt.report.result import LatencyResult as LatencyResult
    from graphopt.report.result import MetricResult as MetricResult
    from graphopt.report.result import OptimizeResult as OptimizeResult
    from graphopt.report.result import PassResult as PassResult
    from graphopt.report.result import result_schema as result_schema
    from graphopt.report.result import to_json as to_json
    from graphopt.report.run_report import RunReport as RunReport
    from graphopt.report.samples_report import SamplesReport as SamplesReport
    from graphopt.report.structure_report import StructureReport as StructureReport
    from graphopt.report.tables import closing_line as closing_line
    from graphopt.report.text_table import format_fields as format_fields
    from graphopt.report.text_table import format_table as format_table

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "comparison_report": ("ComparisonReport",),
        "decision_tables": (
            "decisions_text",
            "exits_text",
        ),
        "details": (
            "LayerError",
            "ReportDetails",
        ),
        "export_report": (
            "ExportReport",
            "SizesCompared",
        ),
        "figures": (
            "format_bytes",
            "format_change",
            "format_number",
        ),
        "html": ("to_html",),
        "latency_report": ("LatencyReport",),
        "layers_report": ("LayersReport",),
        "optimize_text": ("to_text",),
        "plan_report": ("PlanReport",),
        "race_report": (
            "RaceEntry",
            "RaceReport",
        ),
        "result": (
            "BeforeAfter",
            "CandidateResult",
            "CandidateStatus",
            "LatencyResult",
            "MetricResult",
            "OptimizeResult",
            "PassResult",
            "result_schema",
            "to_json",
        ),
        "run_report": ("RunReport",),
        "samples_report": ("SamplesReport",),
        "structure_report": ("StructureReport",),
        "tables": ("closing_line",),
        "text_table": (
            "format_fields",
            "format_table",
        ),
    },
)
