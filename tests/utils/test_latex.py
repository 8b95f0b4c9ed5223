"""Text and tables as TeX reads them."""

from plica.utils.latex import distance_symbol, escape, tabular


def test_text_is_no_command():
    assert escape(r"a_b\input{x}%^~ & #1 $") == (
        r"a\_b\textbackslash{}input\{x\}\%\textasciicircum{}\textasciitilde{} \& \#1 \$"
    )


def test_distances_are_symbols_where_they_have_one():
    assert [distance_symbol(name) for name in ("l2", "l1.5", "linf", "lpips", "theta_x")] == [
        r"\ell_{2}", r"\ell_{1.5}", r"\ell_{\infty}", r"\mathrm{lpips}", r"\mathrm{theta\_x}"
    ]  # fmt: skip


def test_a_table_with_a_note():
    assert tabular("lr", ["a", "b"], [["1", "2"], ["3", "4"]], "so").splitlines() == [
        r"% needs \usepackage{booktabs}",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"a & b \\",
        r"\midrule",
        r"1 & 2 \\",
        r"3 & 4 \\",
        r"\bottomrule",
        r"\multicolumn{2}{l}{\footnotesize so} \\",
        r"\end{tabular}",
    ]
