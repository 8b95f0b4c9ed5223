"""The findings of all checks, the most severe first, and the names of the checks that were made."""

from markupsafe import Markup

from plica.report.collect import ReportData
from plica.report.templates import fragment


def section(report: ReportData) -> Markup:
    checks = [
        {
            "directory": str(run.directory),
            "findings": [finding for finding in verdict.get("findings", []) if isinstance(finding, dict)],
            "made": [str(name) for name in verdict.get("checks", [])],
        }
        for run, verdict in report.verdicts
    ]
    return fragment("checks.html", checks=checks)
