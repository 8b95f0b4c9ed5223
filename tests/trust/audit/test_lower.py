"""Stored proofs of lower bounds: right ones are found right, changed ones are refused."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import plica
from certify.zoo import BUILDERS, FLAT, dense, images, network
from plica import runs
from plica.evaluation import evaluate
from plica.runs.encode import leaf_table
from plica.runs.schema import leaves_file
from plica.trust import audit
from plica.trust.audit import certificates
from plica.trust.audit.activations import Relu
from plica.trust.audit.balls import Ball
from plica.trust.audit.certificates import RefusedError, check
from plica.trust.audit.layers import UnknownStepError, trace
from plica.trust.audit.load import metrics_of

MODEL = "from certify.zoo import network\ndef make():\n    return network('relu')\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with lower bounds, by branching, of four images; the first is misclassified."""
    folder = tmp_path_factory.mktemp("lower")
    (folder / "net.py").write_text(MODEL)
    x = images()
    y = network("relu")(x).argmax(1)
    y[0] = (y[0] + 1) % 3
    np.savez(folder / "data.npz", x=x.numpy(), y=y.numpy())
    plan = dict(
        models=f"{folder / 'net.py'}:make", data=str(folder / "data.npz"), gradients=20, certify=dict(nodes=200),
        questions=dict(ask="min-radius", metric="linf"),
    )  # fmt: skip
    return evaluate(plan, folder / "run")


def audited(run):
    return audit(runs.load(run.directory), {"make": network("relu")})[0]


def changed(run, tmp_path, leaves=None, samples=None):
    """A copy of the run with another table of leaves, or other columns of samples."""
    for file in run.directory.rglob("*.*"):
        if not file.name.startswith("."):
            target = tmp_path / file.relative_to(run.directory)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    (table,) = runs.load(tmp_path).tables[run.tasks[0].name]
    if leaves is not None:
        pq.write_table(pa.Table.from_pylist(leaves, schema=pq.read_schema(leaves_file(table))), leaves_file(table))
    for name, values in (samples or {}).items():
        rows = pq.read_table(table)
        field = rows.schema.field(name)
        pq.write_table(rows.set_column(rows.schema.get_field_index(name), field, pa.array(values, field.type)), table)
    return runs.load(tmp_path)


def rows_of(run):
    return next(iter(run.leaves(run.tasks[0]))).to_pylist()


def test_a_network_in_float64_is_taken_apart_at_images_in_float32(tmp_path):
    """An audit refused every proof of such a network."""
    (tmp_path / "net.py").write_text(
        "from certify.zoo import network\ndef make():\n    return network('relu').double()\n"
    )
    x = images(2)
    np.savez(tmp_path / "data.npz", x=x.numpy(), y=network("relu")(x).argmax(1))
    plan = dict(
        models=f"{tmp_path / 'net.py'}:make", data=str(tmp_path / "data.npz"), gradients=10, certify=dict(nodes=4),
        questions=dict(ask="min-radius", metric="linf"),
    )  # fmt: skip
    (found,) = audit(evaluate(plan, tmp_path / "run"), {"make": network("relu").double()})
    assert found.agrees
    assert found.proved == 2


def split_rows(rows):
    """The rows of the leaves of classes that have splits with multipliers above 0."""
    return [k for k, row in enumerate(rows) if row["rival"] >= 0 and any(beta > 0 for beta in row["multiplier"])]


def test_right_proofs_are_found_right(whole):
    found, rows = audited(whole), rows_of(whole)
    assert found.agrees
    assert found.certified == found.proved == 3
    assert found.record()["proved"] == 3
    assert len(split_rows(rows)) > 4  # there was branching
    lower = whole.samples["lower"].to_pylist()
    assert lower[0] == 0
    assert all(low <= up for low, up in zip(lower, whole.samples["distance"].to_pylist(), strict=True))
    assert whole.samples["closed"].to_pylist()[0]
    assert set(whole.samples["arithmetic"].to_pylist()) == {"real"}


def flip(rows):
    row = rows[split_rows(rows)[0]]
    row["multiplier"] = [-beta for beta in row["multiplier"]]


def not_a_number(rows):
    rows[split_rows(rows)[0]]["multiplier"][0] = float("nan")


def infinite(rows):
    rows[split_rows(rows)[0]]["multiplier"][0] = float("inf")


def remove(rows):
    del rows[split_rows(rows)[0]]


def other_half(rows):
    row = rows[split_rows(rows)[0]]
    row["sign"][-1] = -row["sign"][-1]


def other_neuron(rows):
    row = rows[split_rows(rows)[0]]
    row["neuron"][-1] = (row["neuron"][-1] + 1) % 10


def a_sign_of_0(rows):
    rows[split_rows(rows)[0]]["sign"][-1] = 0


def no_such_neuron(rows):
    rows[split_rows(rows)[0]]["neuron"][-1] = 10


def a_neuron_from_the_end(rows):
    rows[split_rows(rows)[0]]["neuron"][-1] = -1


def an_activation_from_the_end(rows):
    rows[split_rows(rows)[0]]["activation"][-1] = -1


def fewer_splits(rows):
    row = rows[split_rows(rows)[0]]
    row["neuron"] = row["neuron"][:-1]


def shorter_slopes(rows):
    rows[split_rows(rows)[0]]["slopes"] = b""


def other_slopes(rows):
    for row in rows:
        row["slopes"] = bytes(255 - byte for byte in row["slopes"])


def one_class_is_missing(rows):
    rival = rows[split_rows(rows)[0]]["rival"]
    rows[:] = [row for row in rows if row["rival"] != rival]


def inner_slopes_are_missing(rows):
    rows[:] = [row for row in rows if row["rival"] != -1]


def empty_neuron(rows):
    rows[split_rows(rows)[0]]["neuron"][-1] = None


def nothing(rows):
    rows.clear()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (flip, "a multiplier is not a number >= 0"),
        (not_a_number, "a multiplier is not a number >= 0"),
        (infinite, "a multiplier is not a number >= 0"),
        (remove, "do not make up the whole ball"),
        (other_half, "do not make up the whole ball"),
        (other_neuron, "do not make up the whole ball"),
        (a_sign_of_0, "a split names neuron"),
        (no_such_neuron, "a split names neuron 10"),
        (a_neuron_from_the_end, "a split names neuron -1"),
        (an_activation_from_the_end, "of activation -1"),
        (fewer_splits, "the splits of a leaf are not whole"),
        (shorter_slopes, "the slopes are not those of this network"),
        (other_slopes, "not a positive one"),
        (one_class_is_missing, "do not exclude every other class"),
        (inner_slopes_are_missing, "the slopes of the inner bounds are missing"),
        (empty_neuron, "a leaf has an empty field"),
        (nothing, "no proof is stored"),
    ],
)  # fmt: skip
def test_a_changed_proof_is_refused(whole, tmp_path, change, why):
    rows = rows_of(whole)
    change(rows)
    found = audited(changed(whole, tmp_path, rows))
    assert not found.agrees
    assert found.proved < found.certified
    assert why in found.differences["lower bound"][0]


def test_brackets_that_are_said_to_be_closed_or_open(whole, tmp_path):
    closed = whole.samples["closed"].to_pylist()
    found = audited(changed(whole, tmp_path, samples={"closed": [not one for one in closed]}))
    assert set(found.differences) == {"closed"}
    assert len(found.differences["closed"]) == len(closed)
    assert found.differences["closed"][0] == "image 0: from 0 to 0 is stored as open"
    assert found.proved == found.certified


@pytest.mark.parametrize(
    ("factor", "further", "why"),
    [(1.05, 2, "a leaf of class"), (3, 1, "exceeds the distance"), (np.nan, 1, "the radius is not positive")],
)
def test_a_larger_radius_is_refused(whole, tmp_path, factor, further, why):
    columns = {name: whole.samples[name].to_numpy() for name in ("lower", "distance")}
    columns = {"lower": columns["lower"] * factor, "distance": columns["distance"] * further}
    found = audited(changed(whole, tmp_path, samples=columns))
    assert found.proved < found.certified
    assert why in found.differences["lower bound"][0]


def test_a_bound_of_the_executed_network_is_checked_as_such(whole, tmp_path):
    """The plan's word reaches the search, the column and the audit."""
    folder = whole.directory.parent
    plan = dict(
        models=f"{folder / 'net.py'}:make", data={"path": str(folder / "data.npz"), "n": 2}, gradients=10,
        certify=dict(nodes=8, arithmetic="executed"), questions=dict(ask="min-radius", metric="linf"),
    )  # fmt: skip
    run = evaluate(plan, tmp_path / "run")
    assert set(run.samples["arithmetic"].to_pylist()) == {"executed"}
    found = audited(run)
    assert found.agrees
    assert found.certified == found.proved == 1
    found = audited(changed(run, tmp_path / "other", samples={"arithmetic": ["float16"] * 2}))
    assert "no proof in arithmetic 'float16' is known" in found.differences["lower bound"][0]


QUICK = (
    "relu",
    "sigmoid",
    "strides",
    "max pool",
    "pieces",
    "clamped",
    "copied",
    "smooth",
    "decoder",
    "wrapped",
    "mixer",
    "columns",
)
NORMS = dict(zip(BUILDERS, 9 * [2, 1, torch.inf], strict=False))


@pytest.mark.parametrize(("name", "p"), [(name, NORMS[name]) for name in QUICK])
def test_proofs_are_found_right(name, p):
    # without ReLUs there are no parts, and further nodes are further radii
    check_proofs(name, p, b=1, nodes=2 if name in ("sigmoid", "smooth") else 6)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "p"), [(name, p) for name in BUILDERS for p in (1, 2, torch.inf)])
def test_proofs_of_every_network_are_found_right(name, p):
    check_proofs(name, p, b=3, nodes=60)


def weights():
    """Of an image's entries, from a half to 2; the first entry is fixed."""
    w = 2 ** (2 * torch.rand(images(1)[0].shape, generator=torch.Generator().manual_seed(0)) - 1)
    w.view(-1)[0] = torch.inf
    return w


@pytest.mark.parametrize("name", ["relu", "strides"])
@pytest.mark.parametrize("p", [1, 2, float("inf")])
def test_proofs_of_weighted_norms_are_found_right(name, p):
    check_proofs(name, p, b=2, nodes=60, w=weights())


def test_proofs_of_a_weighted_norm_of_the_users_are_found_right(tmp_path):
    """An audit refused every proof for a distance of the user's."""
    (tmp_path / "net.py").write_text(MODEL)
    x = images(2)
    np.savez(tmp_path / "data.npz", x=x.numpy(), y=network("relu")(x).argmax(1))
    plan = dict(
        models=f"{tmp_path / 'net.py'}:make", data=str(tmp_path / "data.npz"), gradients=10, certify=dict(nodes=20),
        questions=dict(ask="min-radius", metric=f"{__name__}:WEIGHTED"),
    )  # fmt: skip
    run = evaluate(plan, tmp_path / "run")
    (found,) = audit(run, {"make": network("relu")}, metrics=metrics_of(run, trust=True))
    assert found.agrees
    assert found.certified == found.proved == 2


WEIGHTED = plica.WeightedLp(2, weights())


def check_proofs(name, p, b, nodes, w=None):
    net, x = network(name), images(b)
    y = net(x).argmax(1)
    metric = plica.Lp(p) if w is None else plica.WeightedLp(p, w)
    found = plica.certify(net, x, y, plica.MinRadius(metric), nodes=nodes)
    table = leaf_table(found.evidence, torch.arange(b)).to_pylist()
    steps = trace(net, x[:1])
    for row in range(b):
        leaves = [leaf for leaf in table if leaf["id"] == row]
        assert bool(leaves) == bool(found.radius[row] > 0)
        if not leaves:
            continue
        ball = Ball.around(x[row], torch.zeros_like(x[row]), torch.ones_like(x[row]), float(found.radius[row]), p, w)
        check(steps, ball, int(y[row]), None, leaves)
        if ball.radius < torch.inf:
            ball = Ball.around(x[row], torch.zeros_like(x[row]), torch.ones_like(x[row]), 2 * ball.radius, p, w)
            with pytest.raises(RefusedError, match="not a positive one"):
                check(steps, ball, int(y[row]), None, leaves)


@pytest.mark.filterwarnings("ignore:`torch.jit")  # deprecated, and used
@pytest.mark.parametrize(
    "make", [torch.jit.script, lambda net: torch.jit.trace(net, images(2))], ids=["script", "trace"]
)
def test_proofs_of_torchscript_are_found_right(make):
    net, x = make(network("strides")), images(1)
    y = net(x).argmax(1)
    found = plica.certify(net, x, y, plica.MinRadius(plica.Lp(2)), nodes=4)
    leaves = leaf_table(found.evidence, torch.arange(1)).to_pylist()
    ball = Ball.around(x[0], torch.zeros_like(x[0]), torch.ones_like(x[0]), float(found.radius[0]), 2)
    check(trace(net, x), ball, int(y[0]), None, leaves)


def test_a_bound_of_0_proves_nothing(whole, monkeypatch):
    assert audited(whole).agrees
    monkeypatch.setattr(certificates, "_bounds", lambda net, a, leaves, shapes, at: torch.zeros(len(leaves)))
    assert "has the bound 0, not a positive one" in audited(whole).differences["lower bound"][0]


def test_targets_and_one_logit():
    net, x = network("relu"), images(1)
    y = net(x).argmax(1)
    target = (y + 1) % 3
    found = plica.certify(net, x, y, plica.MinRadius(plica.Lp(2)), nodes=20, targets=target)
    leaves = leaf_table(found.evidence, torch.arange(1)).to_pylist()
    ball = Ball.around(x, torch.zeros_like(x), torch.ones_like(x), float(found.radius), 2)
    check(trace(net, x), ball, int(y), int(target), leaves)
    with pytest.raises(RefusedError, match="the radius is not positive"):
        check(trace(net, x), replace(ball, radius=0.0), int(y), int(target), leaves)
    with pytest.raises(RefusedError, match="there are no leaves"):
        check(trace(net, x), ball, int(y), int(target), [])
    with pytest.raises(RefusedError, match="every other class"):
        check(trace(net, x), ball, int(y), None, leaves)
    one = dense(nn.ReLU(), FLAT, 8, 1).eval().requires_grad_(False)
    y = (one(x) > 0).long()[:, 0]
    found = plica.certify(one, x, y, plica.MinRadius(plica.Lp(2)), nodes=20)
    ball = replace(ball, radius=float(found.radius))
    check(trace(one, x), ball, int(y), None, leaf_table(found.evidence, torch.arange(1)).to_pylist())


def test_a_network_with_other_operations_is_not_taken_apart():
    for function in (
        lambda x: x.flatten(1) * x.flatten(1),
        lambda x: torch.nn.functional.softshrink(x.flatten(1)),
        lambda x: 1 / x.flatten(1),
        lambda x: 2 * x.flatten(1).softmax(1),
        lambda x: torch.clamp(torch.ones(3), x.flatten(1)[:, :3]),
        lambda x: torch.nn.functional.adaptive_max_pool2d(x, 5).flatten(1),
        lambda x: x.amax((1, 2)),
    ):
        with pytest.raises(UnknownStepError):
            trace(function, images(1))


def test_a_last_softmax_is_left_out_and_its_roundings_are_not_known():
    net, x = network("relu"), images(1)
    ending = nn.Sequential(net, nn.LogSoftmax(1))
    y = net(x).argmax(1)
    found = plica.certify(ending, x, y, plica.MinRadius(plica.Lp(2)), nodes=12)
    leaves = leaf_table(found.evidence, torch.arange(1)).to_pylist()
    ball = Ball.around(x, torch.zeros_like(x), torch.ones_like(x), float(found.radius), 2)
    check(trace(ending, x), ball, int(y), None, leaves)
    with pytest.raises(RefusedError, match="ends with softmax or is compiled, with roundings that are not known"):
        check(trace(ending, x), ball, int(y), None, leaves, "executed")


@pytest.mark.parametrize("last", [nn.Flatten(0), nn.Flatten(1)], ids=["b", "b, 1"])
def test_one_logit_is_a_row_of_one(last):
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1), last).requires_grad_(False).double()
    x = torch.rand(1, 2, 2, dtype=torch.float64)
    steps = trace(net, x)
    assert steps[-1].shape == (1,)
    values = [x]
    for step in steps[1:]:
        values.append(step.op.value(*(values[parent] for parent in step.parents)))
    torch.testing.assert_close(values[-1], net(x).view(1, 1))


@pytest.mark.parametrize(
    "model",
    [
        lambda z: z.flatten(1) * torch.tensor([-1, 2]).repeat(FLAT // 2),
        lambda z: z.flatten(1) / torch.tensor([-128] * FLAT, dtype=torch.int8),
        lambda z: z.flatten(1) - torch.tensor([-1, 200]).repeat(FLAT // 2),
        lambda z: torch.addmm(torch.ones(3), z.flatten(1), torch.ones(FLAT, 3), alpha=-2, beta=-3),
        lambda z: torch.constant_pad_nd(z.flatten(1), [2, -1], -9),
    ],
)
def test_whole_numbers_below_0_count_by_their_absolute_values(model):
    """An operation in which they did not had an interval turned round, and a false bound could pass."""
    op = trace(model, images(1))[-1].op
    z = torch.randn(50, FLAT, dtype=torch.float64)
    assert (op.size(z.abs()) >= op.value(z).abs() * (1 - 1e-12)).all()
    middle, half = torch.full_like(z, 0.5), (z / 9).abs()
    spread = op.size(half) - op.size(torch.zeros_like(half))
    assert ((op.value(middle + z / 9) - op.value(middle)).abs() <= spread + 1e-12).all()


def test_parts_that_leave_out_a_piece_do_not_cover():
    a, b = (0, 1), (0, 2)
    tree = [((*a, 1),), ((*a, -1), (*b, 1)), ((*a, -1), (*b, -1))]
    assert certificates._covers(tree)
    assert certificates._covers([()])
    for left_out in range(3):
        assert not certificates._covers(tree[:left_out] + tree[left_out + 1 :])
    assert not certificates._covers([((*a, 1),), ((*b, -1),)])
    assert not certificates._covers([])


@pytest.mark.parametrize("slope", [0.0, 0.1, -0.3])
def test_upper_lines_are_not_below_a_relu_by_a_rounding(slope):
    g = torch.Generator().manual_seed(0)
    l, u = (sign * 10 ** (6 * torch.rand(1, 300, generator=g).double() - 3) for sign in (-1, 1))
    lines = Relu(slope).lines(l, u, torch.full_like(l, 0.5))
    for z, factor in ((l, slope), (u, 1)):
        for end, up, more in zip(*(part[0].tolist() for part in (z, lines.up, lines.up_offset)), strict=True):
            assert Fraction(up) * Fraction(end) + Fraction(more) >= Fraction(factor) * Fraction(end)


@pytest.mark.parametrize("slope", [0.1, 0.2, -0.3])
def test_lines_of_a_known_sign_are_the_function_itself_in_float64(slope):
    """A slope that was rounded to float32 had an upper line below the function."""
    op = Relu(slope)
    l, u = torch.tensor([[-2.0, 0.5]]).double(), torch.tensor([[-1.0, 2.0]]).double()
    lines = op.lines(l, u, torch.full_like(l, 0.5))
    for z in (l, u):
        assert torch.equal(lines.low * z + lines.low_offset, op.value(z))
        assert torch.equal(lines.up * z + lines.up_offset, op.value(z))
