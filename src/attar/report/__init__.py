"""What is told about a network and a run."""

from attar.report.summary import Summary, summary

__all__ = ["Summary", "summary"]
