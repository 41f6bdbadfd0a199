"""What is told about a network and a run."""

from attar.report.plot import frontier_plot
from attar.report.statistics import wilson_interval
from attar.report.summary import Summary, summary
from attar.report.write import report_json, report_markdown, table, verdict_line

__all__ = [
    "Summary",
    "frontier_plot",
    "report_json",
    "report_markdown",
    "summary",
    "table",
    "verdict_line",
    "wilson_interval",
]
