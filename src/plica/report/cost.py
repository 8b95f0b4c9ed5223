"""The cost of the results: gradients, forward runs and time."""

import numpy as np
from markupsafe import Markup

from plica.report.collect import ReportData
from plica.report.templates import fragment
from plica.runs import Run, Task


def section(report: ReportData) -> Markup:
    costs = [_cost(run, task) for run in report.runs for task in run.tasks if len(run.rows(task, ["id"]))]
    return fragment("cost.html", costs=costs)


def _cost(run: Run, task: Task) -> dict[str, str]:
    """Gradients and forward runs per image, and seconds in all."""
    rows = run.rows(task, ["id", "gradients", "forwards", "seconds"])
    mean = {key: float(np.mean(rows[key].to_numpy())) for key in ("gradients", "forwards", "seconds")}
    return {
        "model": task.model,
        "question": task.question,
        "method": task.method,
        "images": str(len(rows)),
        "gradients": f"{mean['gradients']:.0f}",
        "forwards": f"{mean['forwards']:.0f}",
        "seconds": f"{mean['seconds'] * len(rows):.1f}",
    }
