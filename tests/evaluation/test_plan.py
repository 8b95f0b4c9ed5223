"""A plan is read from YAML, a dict or itself; what is wrong with it is one sentence with the nearest right word."""

import pytest

from plica.evaluation import Plan, PlanError, read_plan
from plica.evaluation.example import EXAMPLE
from plica.evaluation.method_sets import AUTOATTACK
from plica.evaluation.tasks import chains

SMALL = {"models": "net.py:make", "data": "d.npz", "questions": {"ask": "min-radius", "metric": "l2"}}
INSIDE = {"ask": "max-loss", "metric": "linf", "radius": "8/255"}


def tasks(**more):
    return [job.task for chain in chains(read_plan(SMALL | more)) for job in chain.jobs]


def test_short_forms_stand_for_long_ones():
    plan = read_plan(SMALL)
    assert plan == read_plan(plan)
    assert plan.models[0].name == "make"
    assert plan.data.path == "d.npz"
    assert [(t.name, t.kind, t.radius, t.loss) for t in tasks()] == [
        ("make--min-radius-l2--auto", "min-radius", None, None)
    ]


def test_the_example_is_a_plan(tmp_path):
    (tmp_path / "plan.yaml").write_text(EXAMPLE)
    plan = read_plan(tmp_path / "plan.yaml")
    assert set(Plan.model_fields) - {"draws", "precision", "batch_size", "threads", "certify"} <= set(
        plan.model_fields_set
    )
    assert [t.question for chain in chains(plan) for t in (job.task for job in chain.jobs)] == [
        "min-radius l2", "min-radius l2", "min-radius linf", "min-radius linf",
        "max-loss linf 0.00784", "max-loss linf 0.00784", "max-loss linf 0.0314", "max-loss linf 0.0314",
    ]  # fmt: skip
    commented = [line.strip()[2:] for line in EXAMPLE.splitlines() if line.strip().startswith("# n: ")]
    assert commented  # what is commented out can be used, too
    (tmp_path / "more.yaml").write_text(EXAMPLE.replace("# n:", "n:").replace("# sample:", "sample:"))
    assert read_plan(tmp_path / "more.yaml").data.sample == "balanced"
    (tmp_path / "draws.yaml").write_text(EXAMPLE.replace("# draws:", "draws:"))
    assert {job.task.draws for chain in chains(read_plan(tmp_path / "draws.yaml")) for job in chain.jobs} == {16}
    (tmp_path / "rows.yaml").write_text(EXAMPLE.replace("# indices:", "indices:"))
    assert read_plan(tmp_path / "rows.yaml").data.indices == [*range(100), 200, 5]


def test_autoattack_is_one_word():
    names = [*AUTOATTACK, "auto", "pwcf"]
    (chain,) = chains(read_plan(SMALL | {"questions": INSIDE, "methods": "autoattack+plica", "gradients": 70}))
    assert [(job.method, job.gradients) for job in chain.jobs] == [*AUTOATTACK.items(), ("auto", 70), ("pwcf", 70)]
    assert chain.ordered
    assert [t.method for t in tasks(questions=INSIDE, methods=["autoattack"])] == names[:4]
    assert [t.method for t in tasks(methods=["autoattack+plica"])] == ["fab-t", "auto", "pwcf"]
    (chain,) = chains(read_plan(SMALL | {"questions": INSIDE, "methods": {"name": "autoattack", "gradients": 9}}))
    assert {job.gradients for job in chain.jobs} == {9}


def test_lower_bounds_come_after_the_last_method_of_a_question():
    questions = [INSIDE, {"ask": "min-radius", "metric": "linf", "certify": {"nodes": 3}}]
    plan = read_plan(SMALL | {"questions": questions, "methods": ["auto", "pwcf"], "certify": {"seconds": 5}})
    jobs = [job for chain in chains(plan) for job in chain.jobs]
    assert [job.certify and (job.certify.seconds, job.certify.nodes) for job in jobs] == [
        None, (5, None), None, (10, 3),
    ]  # fmt: skip
    assert all(job.certify is None for chain in chains(read_plan(SMALL)) for job in chain.jobs)
    for wrong in ({"seconds": 0}, {"seconds": True}, {"nodes": 0}, {"second": 1}):
        with pytest.raises(PlanError, match="certify"):
            read_plan(SMALL | {"certify": wrong})


def test_autoattack_rand_is_two_attacks_of_a_mean():
    rand = {"questions": INSIDE, "methods": "autoattack-rand"}
    assert [(t.method, t.draws) for t in tasks(**rand)] == [("apgd-ce", 20), ("apgd-dlr", 20)]
    assert {t.draws for t in tasks(**rand, draws=7)} == {7}
    assert {t.draws for t in tasks(questions=INSIDE)} == {None}


@pytest.mark.parametrize("draws", [0, -1, 1.5, True, 10**9, "many"])
def test_a_number_of_draws_that_is_none(draws):
    with pytest.raises(PlanError, match="draws"):
        read_plan(SMALL | {"draws": draws})


def test_the_same_method_with_other_budgets_and_seeds_has_other_names():
    methods = ["auto", {"name": "auto", "gradients": 200}, {"name": "auto", "seed": 1}, "auto", "pwcf"]
    assert [t.method for t in tasks(methods=methods)] == ["auto-100-0", "auto-200", "auto-100-1", "pwcf"]


def test_radii_that_are_equal_to_three_digits_keep_apart():
    radii = [0.12345, 0.12346, 0.5]
    asked = INSIDE | {"radius": radii}
    assert [t.question for t in tasks(questions=asked)] == [f"max-loss linf {r}" for r in radii]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"certify": 10}, "certify: keys are needed, as in {key: value}, got 10"),
        ({"metods": ["auto"]}, "there is no key 'metods'; did you mean 'methods'?"),
        ({"models": {"model": "a:b", "wieghts": "w"}}, "models[0]: there is no key 'wieghts'; did you mean 'weights'?"),
        ({"models": []}, "should have at least 1 item after validation, not 0, got []"),
        ({"models": ["a:net", "b:net"]}, "models: two models are called 'net'"),
        ({"models": {"model": "a:b", "name": "../x"}}, "models[0].name: a name has letters"),
        ({"methods": "atuo"}, "methods[0].name: there is no method 'atuo'; did you mean 'auto'?"),
        ({"methods": "auto-attack"}, "did you mean 'autoattack'?"),
        ({"gradients": "many"}, "gradients: input should be a valid integer"),
        ({"gradients": 0}, "gradients: input should be greater than or equal to 1, got 0"),
        ({"questions": {"ask": "min-radios", "metric": "l2"}}, "no 'min-radios'; did you mean 'min-radius'?"),
        ({"questions": {"ask": "min-radius", "metric": "l-1"}}, "questions[0].metric: There is no metric 'l-1'"),
        ({"questions": {"ask": "min-radius", "metric": "far"}}, "questions[0].metric: There is no metric 'far'"),
        ({"questions": {"ask": "min-radius"}}, "questions[0].metric is missing"),
        ({"questions": {"ask": "min-radius", "metric": "theta"}}, "questions[0]: theta is the distance of a perturb"),
        ({"questions": INSIDE | {"through": "flo"}}, "questions[0].through: There is no perturbation 'flo'"),
        ({"questions": {"ask": "max-loss", "metric": "l2"}}, "questions[0]: max-loss needs a radius"),
        ({"questions": {"ask": "min-radius", "metric": "l2", "radius": 1}}, "min-radius takes no radius"),
        ({"questions": INSIDE | {"radius": "8/0"}}, "questions[0].radius: The radius '8/0' is not a distance"),
        ({"questions": INSIDE | {"loss": "cee"}}, "questions[0].loss: there is no loss 'cee'; did you mean 'ce'?"),
        ({"data": {"path": "d.npz", "n": 3, "indices": [1]}}, "data: indices exclude n and sample"),
        ({"data": {"n": 3}}, "data.path is missing"),
        ({"device": 3}, "device: input should be a valid string, got 3"),
    ],
)
def test_a_wrong_plan_is_one_sentence(change, said):
    with pytest.raises(PlanError) as refused:
        read_plan(SMALL | change)
    text = str(refused.value)
    assert said in text
    assert text.startswith("The plan: ")
    assert text[-1] in ".?"
    assert "\n" not in text


def test_indices_are_rows_ranges_or_a_file(tmp_path):
    def rows(indices):
        return read_plan(SMALL | {"data": {"path": "d.npz", "indices": indices}}).data.indices

    assert rows([4, 2]) == rows("4,2") == [4, 2]
    assert rows(7) == [7]
    assert rows("0-3, 200,5") == [0, 1, 2, 3, 200, 5]
    (tmp_path / "rows.txt").write_text("# the hard ones\n0-1\n\n 7,8 # and these\n12\n")
    assert rows(str(tmp_path / "rows.txt")) == [0, 1, 7, 8, 12]
    for text, said in (
        ("3-", "have '3-'"),
        ("5-2", "smaller row first"),
        ("none.txt", "nor an existing file"),
        ("", "have ''"),
    ):
        with pytest.raises(PlanError, match=said) as refused:
            rows(text)
        assert str(refused.value).startswith("The plan: data.indices: ")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanError, match="nor a text file"):
        rows(str(tmp_path / "bad.txt"))


def test_what_is_no_plan_at_all(tmp_path):
    for content, said in ((": [", "at line 1"), ("- a", "holds no keys"), ("\x00", "cannot be read as YAML")):
        (tmp_path / "p.yaml").write_text(content)
        with pytest.raises(PlanError, match=said):
            read_plan(tmp_path / "p.yaml")
    with pytest.raises(PlanError, match="There is no plan"):
        read_plan(tmp_path / "none.yaml")
    with pytest.raises(PlanError, match="contains make--min-radius-l2--auto twice"):
        chains(read_plan(SMALL | {"questions": [SMALL["questions"], SMALL["questions"]]}))


def test_changes_reach_inside():
    assert read_plan(SMALL, **{"data.n": 3, "device": "cuda"}).data.n == 3
    with pytest.raises(PlanError, match=r"data\.n"):
        read_plan(SMALL, **{"data.n": 0})


def test_what_the_answers_do_not_depend_on_is_no_part_of_the_identity():
    plan = read_plan(SMALL)
    same = {"models": {"model": "elsewhere.py:make"}, "data": "other.npz", "batch_size": 7, "threads": 2}
    assert read_plan(SMALL | same).identity() == plan.identity()
    for other in ({"seed": 1}, {"chunk": 64}, {"gradients": 99}, {"device": "cuda"}, {"methods": "pwcf"}):
        assert read_plan(SMALL | other).identity() != plan.identity()
