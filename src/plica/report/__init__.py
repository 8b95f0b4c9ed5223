"""A report of runs as one HTML file: `write_report(runs, "report.html")`, `plica report RUN... -o report.html`."""

from plica.report.build import render, write_report

__all__ = ["render", "write_report"]
