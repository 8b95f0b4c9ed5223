"""What the table of attacks says of each: which answer perturbations other than x' = x + delta."""

import pytest
import torch

import plica
from linear import linear
from plica.attacks.base import AttackOutput, treats_perturbations
from plica.attacks.registry import ATTACKS, check_treats_perturbations
from plica.core.status import Status


def nothing(task):
    return AttackOutput(torch.full((len(task.x),), torch.nan), [Status.BUDGET] * len(task.x))


def test_an_added_attack_says_whether_it_treats_perturbations(monkeypatch):
    case, question = linear(), plica.MinRadius("theta", through=plica.HueSaturation())
    for name in ("plain", "parametric"):
        monkeypatch.setitem(
            ATTACKS, name, (lambda task: nothing(task)) if name == "plain" else treats_perturbations(nothing)
        )
    with pytest.raises(plica.Unsupported, match="use auto or pwcf or grid or parametric"):
        plica.attack(case.model, case.x, case.y, question, method="plain", gradients=10)
    found = plica.attack(case.model, case.x, case.y, question, method="parametric", gradients=10)
    assert not found.success.any()


def test_which_attacks_treat_perturbations():
    able = []
    for name in ATTACKS:
        try:
            check_treats_perturbations(name)
        except plica.Unsupported:
            continue
        able.append(name)
    assert able == ["auto", "pwcf", "grid"]
