"""Tables in terminals of any width: no number is ever cut or broken."""

import io

import pytest
from rich.console import Console

from plica.cli import table

HEAD = ("method", "attacked", "only it", "robust accuracy, 95 %", "median", "75 %")
ROWS = [
    ("auto", "12345", "17", "75.0 % (53.1-88.8)", "0.004837", "0.009607"),
    ("module:a_method_with_a_long_name of its own", "12345", "-", "8.1 % (2.5-21.6)", "not found", "1.234e-05"),
]


def printed(width, monkeypatch=None, summary=None):
    console = Console(file=io.StringIO(), width=width)
    if summary is None:
        table.print_table(console, HEAD, ROWS)
    else:
        monkeypatch.setattr(table, "terminal", lambda: console)
        table.print_summary(summary)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120])
def test_every_number_is_whole_in_a_terminal_of_any_width(width):
    text = printed(width)
    assert all(len(line) <= width for line in text.splitlines())
    assert all(cell in text for row in ROWS for cell in row[1:])
    assert "…" not in text
    assert (text.count("method ") == 1) == (width >= 120)  # else columns follow below, beside the names again


def test_a_table_without_rows_is_its_head():
    console = Console(file=io.StringIO(), width=80)
    table.print_table(console, HEAD, [])
    assert isinstance(console.file, io.StringIO)
    assert "median" in console.file.getvalue()


def radii(low, high=0.3522):
    return {"0.25": low, "0.5": 0.1337, "0.75": high}


def test_the_table_of_an_evaluation_is_whole_in_80_columns(monkeypatch):
    """Digits were lost: 0.3…"""
    spent = dict(attacked=1000, broken=950, alone=20, missed=0)
    share = dict(value=0.75, low=0.531, high=0.888, images=1000)
    question = dict(model="adversarially_trained", images=1000, unanswered=0, wrong=50, accuracy=share)
    ball = question | dict(
        question="max-loss linf 0.00784",
        kind="max-loss",
        methods=[spent | dict(method="autoattack", robust_accuracy=None, standing=share)],
        union=dict(broken=950, robust_accuracy=share),
        certified=dict(proved=20, lower=radii(0.0), certified_accuracy=share | dict(value=0.5)),
    )
    nearest = question | dict(
        question="min-radius l2",
        kind="min-radius",
        metric="l2",
        methods=[spent | dict(method="autoattack", best=950, radius=radii(0.04837))],
        union=dict(broken=950, radius=radii(0.04837)),
        certified=dict(
            proved=20, lower=radii(0.04834, None), closed=63, widest=[dict(id=16, lower=0.5182, upper=None)]
        ),
    )  # fmt: skip
    text = printed(80, monkeypatch, dict(questions=[nearest, ball], notes=[]))
    assert "…" not in text
    lines = [line.split() for line in text.splitlines()]
    assert ["autoattack", "1000", "950", "20", "0", "950", "0.04837", "0.1337", "0.3522"] in lines
    assert ["certified", "0.04834", "0.1337", "inf"] in lines
    assert ["proved", "50.0", "%", "(53.1-88.8)"] in lines
    exact = "63 radii are exact to a thousandth, 50 of them 0; widest gaps: image 16 (0.5182 to not found)"
    assert exact in " ".join(text.split())
