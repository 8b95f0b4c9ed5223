"""Sentences about foreign messages and values: cut with a mark, never of what to do, and over at once."""

import errno

import pytest

from plica.goals import parse_goal
from plica.metrics import parse_metric
from plica.perturbations import parse_through
from plica.utils.messages import CUT, MOST, did_you_mean, few, one_line, sentence, shown


def test_a_long_foreign_message_is_cut_with_a_mark():
    assert one_line(ValueError("word " * 100 + ".")) == ("word " * 100)[:MOST].rstrip() + CUT
    assert one_line(ValueError(f"{'x' * MOST}.")) == "x" * MOST


def test_a_sentence_of_ours_keeps_what_to_do_at_its_end():
    said = f"{'x' * 400} could not be loaded ({'y' * 400}); check the name."
    assert sentence(ValueError(said)) == said


def test_a_system_error_names_its_file():
    assert sentence(PermissionError(errno.EACCES, "Permission denied", "d.npz")) == "d.npz: Permission denied."
    assert sentence(OSError(errno.ENOSPC, "No space left on device")) == "No space left on device."


def test_a_value_that_contains_itself_many_times_is_shown_quickly():
    bomb = ["x"]
    for _ in range(60):
        bomb = [bomb] * 9
    assert len(shown(bomb)) < 500
    assert len(shown("y" * 10**6)) < 100
    assert shown("\x1b[31mred") == repr("\x1b[31mred")


def test_names_beyond_the_first_few_are_counted():
    assert few("abcde") == "a, b, c and 2 more"


def test_the_nearest_name_is_asked_for_whatever_the_case_of_its_letters():
    assert did_you_mean("pgdd", ("auto", "pgd")) == did_you_mean("PGD", ("auto", "pgd")) == "did you mean 'pgd'? "
    assert did_you_mean("xyz", ("auto", "pgd")) == did_you_mean(None, ("auto", "pgd")) == ""
    assert did_you_mean("fgsm", ("auto", "lbfgs")) == ""  # another method, not a slip


@pytest.mark.parametrize(
    ("parse", "text", "name"),
    [
        (parse_metric, "L2", "l2"), (parse_metric, "l_inf", "linf"), (parse_metric, "lpip", "lpips"),
        (parse_through, "flw", "flow"), (parse_goal, "Deviates", "deviates"), (parse_goal, "anylabel", "any-label"),
    ],
)  # fmt: skip
def test_misspelt_names_of_what_is_asked(parse, text, name):
    with pytest.raises(ValueError, match=f"{text}'; did you mean '{name}'\\? write"):
        parse(text)
