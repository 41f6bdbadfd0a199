"""What is told about a network and a run."""

from attar.report.compare import Comparison, Outcome, compare, comparison_json, comparison_markdown
from attar.report.compare_plot import comparison_plot
from attar.report.html import report_html
from attar.report.markdown import table, teacher_name
from attar.report.mistakes import confusion_facts, mistake_facts
from attar.report.plot import frontier_plot
from attar.report.statistics import McNemar, mcnemar, mean_sd, wilson_interval
from attar.report.summary import Summary, summary
from attar.report.write import report_json, report_markdown, verdict_line

__all__ = [
    "Comparison",
    "McNemar",
    "Outcome",
    "Summary",
    "compare",
    "comparison_json",
    "comparison_markdown",
    "comparison_plot",
    "confusion_facts",
    "frontier_plot",
    "mcnemar",
    "mean_sd",
    "mistake_facts",
    "report_html",
    "report_json",
    "report_markdown",
    "summary",
    "table",
    "teacher_name",
    "verdict_line",
    "wilson_interval",
]
