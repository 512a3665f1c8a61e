"""Results as a person, a script or a page reads them."""

from graphopt.report.comparison_report import ComparisonReport
from graphopt.report.figures import format_bytes, format_change, format_number
from graphopt.report.latency_report import LatencyReport
from graphopt.report.run_report import RunReport
from graphopt.report.text_table import format_fields, format_table

__all__ = [
    "ComparisonReport",
    "LatencyReport",
    "RunReport",
    "format_bytes",
    "format_change",
    "format_fields",
    "format_number",
    "format_table",
]
