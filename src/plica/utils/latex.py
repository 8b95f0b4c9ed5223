"""LaTeX for papers: text escaped, names of distances as mathematics, tables with the package booktabs."""

from __future__ import annotations

from collections.abc import Sequence

SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
SPECIAL |= {character: "\\" + character for character in "&%$#_{}"}


def escape(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(SPECIAL.get(character, character) for character in text)


def distance_symbol(name: str) -> str:
    """A distance in mathematics mode: l2 as \\ell_{2}, linf as \\ell_{\\infty}, other names upright."""
    power = name[1:]
    if name.startswith("l") and (power == "inf" or power.replace(".", "", 1).isdigit()):
        return r"\ell_{%s}" % (r"\infty" if power == "inf" else power)
    return rf"\mathrm{{{escape(name)}}}"


def tabular(align: str, head: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> str:
    """A table whose cells are LaTeX already.

    Args:
        align: a letter for each column, such as "lrr".
        head: the columns' titles.
        rows: the cells of each line.
        note: a sentence below the table, as wide as all columns; none if empty.
    """
    below = [rf"\multicolumn{{{len(align)}}}{{l}}{{\footnotesize {note}}} \\"] if note else []
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            rf"\begin{{tabular}}{{{align}}}",
            r"\toprule",
            " & ".join(head) + r" \\",
            r"\midrule",
            *(" & ".join(cells) + r" \\" for cells in rows),
            r"\bottomrule",
            *below,
            r"\end{tabular}",
            "",
        ]
    )
