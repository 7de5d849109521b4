"""What runs look like to a reader: a table in the terminal, a page with charts in a browser."""

from harness.report.page import write_report
from harness.report.terminal import text_summary

__all__ = ["text_summary", "write_report"]
