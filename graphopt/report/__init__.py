"""Results as a person, a script or a page reads them."""

from graphopt.report.comparison_report import ComparisonReport
from graphopt.report.decision_tables import decisions_text, exits_text
from graphopt.report.details import LayerError, ReportDetails
from graphopt.report.export_report import ExportReport, SizesCompared
from graphopt.report.figures import format_bytes, format_change, format_number
from graphopt.report.html import to_html
from graphopt.report.latency_report import LatencyReport
from graphopt.report.layers_report import LayersReport
from graphopt.report.optimize_text import to_text
from graphopt.report.plan_report import PlanReport
from graphopt.report.race_report import RaceEntry, RaceReport
from graphopt.report.result import (
    BeforeAfter,
    CandidateResult,
    CandidateStatus,
    LatencyResult,
    MetricResult,
    OptimizeResult,
    PassResult,
    result_schema,
    to_json,
)
from graphopt.report.run_report import RunReport
from graphopt.report.samples_report import SamplesReport
from graphopt.report.structure_report import StructureReport
from graphopt.report.tables import closing_line
from graphopt.report.text_table import format_fields, format_table

__all__ = [
    "BeforeAfter",
    "CandidateResult",
    "CandidateStatus",
    "ComparisonReport",
    "ExportReport",
    "LatencyReport",
    "LatencyResult",
    "LayerError",
    "LayersReport",
    "MetricResult",
    "OptimizeResult",
    "PassResult",
    "PlanReport",
    "RaceEntry",
    "RaceReport",
    "ReportDetails",
    "RunReport",
    "SamplesReport",
    "SizesCompared",
    "StructureReport",
    "closing_line",
    "decisions_text",
    "exits_text",
    "format_bytes",
    "format_change",
    "format_fields",
    "format_number",
    "format_table",
    "result_schema",
    "to_html",
    "to_json",
    "to_text",
]
