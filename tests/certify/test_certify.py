"""plica.certify as a user calls it: what is checked, what comes back, and that it never exceeds an attack's radius."""

import math
from dataclasses import dataclass
from functools import cache
from itertools import cycle

import pytest
import torch
from torch import nn

import plica
from certify.zoo import BUILDERS, FLAT, dense, images, network
from linear import linear
from plica.certify import CertificateStatus, api
from plica.core.model.fitting import ModelError
from shared_data import SHARED


class Squeezed(nn.Module):
    def forward(self, x):
        return 1 - (1 - x.squeeze(1))


def labelled(name="relu", b=4):
    net, x = network(name), images(b)
    return net, x, net(x).argmax(1)


@pytest.mark.parametrize("p", [1, 2, "inf"])
def test_the_radius_of_a_linear_model_is_exact(p):
    problem = linear(b=4)
    exact = problem.radius(float(p))
    found = plica.certify(problem.model, problem.x, problem.y, plica.MinRadius(plica.Lp(p)), nodes=40)
    assert (found.radius <= exact).all()
    assert (found.radius >= 0.97 * exact).all()
    assert found.proved.all()
    assert found.arithmetic == ["real"] * 4
    closed = plica.certify(problem.model, problem.x, problem.y, plica.MinRadius(plica.Lp(p)), nodes=40, upper=exact)
    assert closed.status == [CertificateStatus.CLOSED] * 4
    assert (closed.radius >= 0.999 * exact).all()
    assert (closed.radius <= exact).all()


@pytest.mark.parametrize("p", [1, 2, "inf"])
def test_a_radius_is_proved_up_to_the_exact_one_and_not_beyond(p):
    problem = linear(b=4)
    for factor, proved in ((0.999, True), (1.001, False)):
        question = plica.MaxLoss(plica.Lp(p), factor * problem.radius(float(p)))
        found = plica.certify(problem.model, problem.x, problem.y, question, nodes=5)
        assert found.proved.tolist() == [proved] * 4
        assert torch.equal(found.radius, question.radius * proved)


@pytest.mark.parametrize(("name", "p"), list(zip(BUILDERS, cycle((1, 2, "inf")), strict=False)))
def test_no_radius_exceeds_the_one_that_an_attack_finds(name, p):
    net, x, y = labelled(name, b=1)
    question = plica.MinRadius(plica.Lp(p))
    attacked = plica.attack(net, x, y, question, gradients=20)
    found = plica.certify(net, x, y, question, nodes=3)  # it does not know the attack's
    assert (found.radius <= attacked.distance).all()
    clear = attacked.success & (attacked.distance > 0)
    assert (found.radius[clear] > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("p", [1, 2, "inf"])
def test_no_radius_of_many_images_exceeds_the_attacks(p):
    question = plica.MinRadius(plica.Lp(p))
    for name in BUILDERS:
        net, x = network(name, seed=1), images(250, seed=1)
        y = net(x).argmax(1)
        attacked = plica.attack(net, x, y, question, gradients=30)
        assert (plica.certify(net, x, y, question, nodes=1).radius <= attacked.distance).all()


def test_more_nodes_prove_more_and_the_same_nodes_the_same():
    net, x, y = labelled(b=2)
    question = plica.MinRadius(plica.Lp("inf"))
    upper = plica.attack(net, x, y, question, gradients=30).distance
    few, more, again = (plica.certify(net, x, y, question, upper=upper, nodes=n) for n in (1, 60, 60))
    assert (more.radius >= few.radius).all()
    assert more.radius.sum() > 1.05 * few.radius.sum()
    assert torch.equal(more.radius, again.radius)
    assert torch.equal(more.nodes, again.nodes)


def test_an_image_alone_equals_in_a_batch():
    net, x, y = labelled(b=3)
    question = plica.MinRadius(plica.Lp(2))
    together = plica.certify(net, x, y, question, nodes=4)
    alone = [plica.certify(net, x[i : i + 1], y[i : i + 1], question, nodes=4).radius for i in range(3)]
    torch.testing.assert_close(together.radius, torch.cat(alone), rtol=1e-3, atol=0)  # float32 in another order


def test_upper_is_never_exceeded_and_ends_a_hopeless_proof():
    net, x, y = labelled()
    free = plica.certify(net, x, y, plica.MinRadius(plica.Lp("inf")), nodes=10).radius
    capped = plica.certify(net, x, y, plica.MinRadius(plica.Lp("inf")), nodes=10, upper=free / 2)
    assert (capped.radius <= free / 2).all()
    assert capped.status == [CertificateStatus.CLOSED] * 4
    one = plica.certify(net, x, y, plica.MinRadius(plica.Lp("inf")), nodes=10, upper=float(free.min()) / 2)
    assert (one.radius <= free.min() / 2).all()
    assert one.status == [CertificateStatus.CLOSED] * 4
    found = plica.certify(net, x, y, plica.MaxLoss(plica.Lp("inf"), 0.1), upper=torch.full((4,), 0.05))
    assert found.status == [CertificateStatus.ATTACKED] * 4


def test_where_no_input_of_the_box_is_misclassified_the_radius_is_infinite():
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(FLAT, 2)), images(2)
    nn.init.constant_(net[1].weight, 0.001)
    with torch.no_grad():
        net[1].weight[1] *= -1
        net[1].bias.copy_(torch.tensor([1.0, 0.0]))
    for p in (1, 2, "inf"):
        found = plica.certify(net, x, torch.zeros(2).long(), plica.MinRadius(plica.Lp(p)), nodes=3)
        assert (found.radius == torch.inf).all()
        assert found.status == [CertificateStatus.PROVED] * 2


def test_misclassified_images_are_not_proved_and_a_model_that_is_not_finite_is_refused():
    net, x, y = labelled()
    y[0] = (y[0] + 1) % 3
    found = plica.certify(net, x, y, plica.MinRadius(plica.Lp(2)), nodes=1)
    assert found.status[0] == CertificateStatus.MISCLASSIFIED
    assert found.radius[0] == 0
    assert not found.proved[0]
    with torch.no_grad():
        net[1].weight[0] = torch.nan
    with pytest.raises(ValueError, match="nan or inf for every image"):
        plica.certify(net, x, y, plica.MinRadius(plica.Lp(2)), nodes=1)


def test_a_tie_is_misclassified():
    net = nn.Sequential(nn.Flatten(), nn.Linear(FLAT, 2))
    nn.init.zeros_(net[1].weight)
    nn.init.zeros_(net[1].bias)
    found = plica.certify(net, images(2), torch.zeros(2).long(), plica.MinRadius(plica.Lp(2)))
    assert found.status == [CertificateStatus.MISCLASSIFIED] * 2


def test_weights_that_overflow_prove_nothing():
    net, x, _ = labelled()
    with torch.no_grad():
        net[3].weight *= 1e30
        net[5].weight *= 1e30
    found = plica.certify(net, x, net(x).argmax(1), plica.MaxLoss(plica.Lp("inf"), 10.0), nodes=3)
    assert not found.proved.any()


def test_held_pixels_and_bounds_of_features_do_not_move():
    """Moving a third of the pixels alone, the radius is larger, and no larger than the attack's that moves the same."""
    net, x, y = labelled(b=2)
    pixels = torch.arange(FLAT).view(x.shape[1:]) % 3 > 0
    plain = plica.certify(net, x, y, plica.MinRadius(plica.Lp(2)), nodes=4).radius
    question = plica.MinRadius(plica.Held(plica.Lp(2), pixels))
    held = plica.certify(net, x, y, question, nodes=4).radius
    assert (held > plain).all()
    assert (held <= plica.attack(net, x, y, question).distance).all()
    low, high = (torch.where(pixels, x[0], wall) for wall in (0.0, 1.0))
    one = (x[:1], y[:1], plica.MinRadius(plica.Lp(2)))
    by_bounds = plica.certify(net, *one, nodes=4, bounds=(low, high)).radius
    torch.testing.assert_close(by_bounds, held[:1], rtol=1e-3, atol=0)
    assert (by_bounds <= plica.attack(net, *one, bounds=(low, high)).distance).all()


@pytest.mark.parametrize("question", [plica.MinRadius(plica.Lp(2)), plica.MaxLoss(plica.Lp(2), torch.rand(4) / 50)])
def test_boxes_of_each_image(question):
    """Each image has the answer that it has alone."""
    net, x, y = labelled()
    low, high = (x - 0.1).clamp(min=0), (x + 0.2).clamp(max=1)
    low[2], high[2] = low[0].clamp(max=x[2]), high[0].clamp(min=x[2])
    found = plica.certify(net, x, y, question, nodes=4, bounds=(low, high), targets=(y + 1) % 3)
    for i in range(4):
        one = question
        if isinstance(question, plica.MaxLoss):
            one = plica.MaxLoss(question.metric, float(question.radius[i]))
        part = slice(i, i + 1)
        alone = plica.certify(net, x[part], y[part], one, nodes=4, bounds=(low[i], high[i]), targets=(y[part] + 1) % 3)
        torch.testing.assert_close(alone.radius[0], found.radius[i], rtol=1e-3, atol=0)
        assert alone.proved[0] == found.proved[i]


def test_other_bounds_than_0_and_1():
    net, x, y = labelled(b=2)
    shifted = nn.Sequential(Shift(), net)
    question = plica.MinRadius(plica.Lp("inf"))
    plain = plica.certify(net, x, y, question, nodes=4).radius
    moved = plica.certify(shifted, 10 * x - 3, y, question, nodes=4, bounds=(-3, 7)).radius
    torch.testing.assert_close(moved, 10 * plain, rtol=1e-3, atol=0)


class Shift(nn.Module):
    def forward(self, x):
        return (x + 3) / 10


def test_one_logit_is_two_classes():
    torch.manual_seed(0)
    net, x = dense(nn.ReLU(), FLAT, 8, 1).eval().requires_grad_(False), images(2)
    with torch.no_grad():
        net[-1].bias -= net(x).median()
    two = nn.Sequential(net, nn.Linear(1, 2))
    with torch.no_grad():
        two[1].weight.copy_(torch.tensor([[0.0], [1.0]]))
        two[1].bias.zero_()
    y = two(x).argmax(1)
    expected = plica.certify(two, x, y, plica.MinRadius(plica.Lp(2)), nodes=3).radius
    for last in (nn.Identity(), nn.Flatten(0), Squeezed()):  # (b, 1), and (b,) in two ways
        found = plica.certify(nn.Sequential(net, last), x, y, plica.MinRadius(plica.Lp(2)), nodes=3).radius
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)


def test_targets_are_proved_where_any_class_is_not():
    net, x, y = labelled(b=2)
    question = plica.MinRadius(plica.Lp("inf"))
    to_any = plica.certify(net, x, y, question, nodes=6).radius
    to_one = torch.stack([plica.certify(net, x, y, question, nodes=6, targets=(y + k) % 3).radius for k in (1, 2)])
    assert (to_one.amin(0) >= 0.9 * to_any).all()
    attacked = plica.attack(net, x, y, question, targets=(y + 1) % 3)
    assert (to_one[0] <= attacked.distance).all()


@pytest.mark.parametrize(("name", "p"), [("strides", 2), ("max pool", 2), ("strides", 1), ("sigmoid", "inf")])
def test_a_first_radius_is_proved_whatever_the_time(name, p):
    net, x, y = labelled(name, b=4)
    question = plica.MinRadius(plica.Lp(p))
    found = plica.certify(net, x, y, question, seconds=1e-9)
    assert (found.radius > 0).all()
    assert (found.radius <= plica.certify(net, x, y, question, nodes=1).radius).all()


def test_the_whole_box_is_asked_for_by_an_infinite_radius():
    net = nn.Sequential(nn.Flatten(), nn.Linear(FLAT, 2))
    nn.init.zeros_(net[1].weight)
    net[1].bias = nn.Parameter(torch.tensor([1.0, 0.0]))
    found = plica.certify(net, images(2), torch.zeros(2).long(), plica.MaxLoss(plica.Lp(2), math.inf))
    assert found.proved.all()
    found = plica.certify(*labelled(b=1), plica.MaxLoss(plica.Lp(2), math.inf), nodes=1)
    assert found.status != [CertificateStatus.ATTACKED]  # nothing is known of an attack


def test_under_inference_mode_the_answer_is_the_same():
    net, x, y = labelled(b=1)
    question = plica.MinRadius(plica.Lp(2))
    expected = plica.certify(net, x, y, question, nodes=2)
    with torch.inference_mode():
        found = plica.certify(net, x.clone(), y.clone(), question, nodes=2)
    assert torch.equal(found.radius, expected.radius)


def test_noise_that_is_added_is_refused_however_small():
    net, x, y = labelled(b=1)
    with pytest.raises(plica.Unsupported, match="random numbers"):
        plica.certify(lambda z: net(z + 1e-6 * torch.rand(z.shape[1:])), x, y, plica.MinRadius(plica.Lp(2)), nodes=1)


@pytest.mark.parametrize("upper", ["abcd", [None] * 4, torch.ones(4) * 1j])
def test_radii_of_an_attack_are_numbers(upper):
    with pytest.raises(TypeError, match="upper must hold radii, one for each image, got"):
        api._upper(upper, images())


@pytest.mark.parametrize("upper", [0.1, [0.1] * 4])
def test_radii_of_an_attack_are_not_rounded(upper):
    """In float32 0.1 is larger, and a certified radius could be."""
    assert (api._upper(upper, images()).double() == 0.1).all()


def test_the_search_goes_on_where_the_box_has_no_end():
    torch.manual_seed(0)
    net, x = dense(nn.ReLU(), FLAT, 6, 3), images(1)
    y, question, endless = net(x).argmax(1), plica.MinRadius(plica.Lp("inf")), (-math.inf, math.inf)
    found = plica.certify(net, x, y, question, bounds=endless, nodes=200)
    attacked = plica.attack(net, x, y, question, bounds=endless, gradients=60)
    assert 0.98 * attacked.distance <= found.radius <= attacked.distance


def test_without_a_time_limit_the_search_goes_on_to_the_radius():
    torch.manual_seed(0)
    net, x = dense(nn.ReLU(), FLAT, 6, 3), images(1)
    assert plica.bracket(net, x, net(x).argmax(1), plica.MinRadius(plica.Lp("inf")), seconds=math.inf).closed.all()


def test_the_time_limit_is_respected():
    torch.manual_seed(0)
    net = dense(nn.ReLU(), FLAT, 60, 60, 60, 60, 3)
    x = images(2)
    found = plica.certify(net, x, net(x).argmax(1), plica.MinRadius(plica.Lp(2)), seconds=0.5)
    assert (found.seconds < 10).all()  # one batch of parts may overrun; the machine may be busy


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(question=plica.MinRadius(plica.Lp(3))), plica.Unsupported, "not for l3; ask for linf, under which no"),
        (dict(question=plica.MinRadius(plica.Lp(1.5))), plica.Unsupported, "not for l1.5; ask for l2, under which no"),
        (dict(question=plica.MinRadius(plica.WeightedLp(3, torch.ones(1)))), plica.Unsupported, "the same weights"),
        (dict(question=plica.MinRadius(lambda x, z: x)), plica.Unsupported, "function of your own; ask plica.attack"),
        (dict(seconds=3), ValueError, "nodes takes the place of seconds; give one of them"),
        (dict(question=plica.MinRadius("theta", through=plica.Flow())), plica.Unsupported, "through"),
        (dict(seconds=0, nodes=None), ValueError, "seconds must be positive"),
        (dict(nodes=0), ValueError, "nodes must be at least 1"),
        (dict(upper=torch.tensor([1.0, -1, 1, 1])), ValueError, "upper must hold radii >= 0"),
        (dict(y=torch.zeros(4).long(), targets=torch.tensor([1, 0, 1, 1])), ValueError, "targets must differ from y"),
        (dict(bounds=(0 * images(), 0.5 + 0 * images())), ValueError, "outside its bounds"),
        (dict(y=torch.full((4,), 7)), ValueError, "y must hold classes"),
        (dict(x=images() + 1), ValueError, "bounds"),
        (dict(model=nn.Linear), TypeError, "model must be a torch module or a function .* got the class Linear"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(change, error, message):
    net, x, y = labelled()
    arguments = dict(model=net, x=x, y=y, question=plica.MinRadius(plica.Lp(2)), nodes=1) | change
    with pytest.raises(error, match=message):
        plica.certify(**arguments)


def test_the_mode_of_the_model_is_restored():
    net, x, y = labelled("batch norm")
    net.train()
    plica.certify(net, x, y, plica.MaxLoss(plica.Lp(2), 0.01), nodes=1)
    assert all(module.training for module in net.modules())


NAMES = ("mnist-net_256x2", "Convnet_maxpool", "Convnet_avgpool", "ffnnSIGMOID__Point_6x200", "cifar_base_kw")


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the verification instances are not here")
@pytest.mark.parametrize("name", NAMES)
def test_no_violated_instance_of_the_competition_is_proved(name, monkeypatch):
    monkeypatch.syspath_prepend(SHARED)
    from load import load_net, vnncomp  # type: ignore[import-not-found]

    found = vnncomp(name)
    x, y, radius = torch.tensor(found["x"]).float() / 255, torch.tensor(found["label"]), torch.tensor(found["eps"])
    violated = torch.tensor(found["truth"] == 1)
    holds = torch.tensor(found["truth"] == 0)
    question = plica.MaxLoss(plica.Lp("inf"), radius)
    proved = plica.certify(load_net(name), x, y, question, nodes=40).proved
    assert not proved[violated].any()
    assert proved[holds].sum() >= math.floor(0.3 * holds.sum())


@pytest.mark.filterwarnings("ignore:`torch.jit")  # deprecated, and used
@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        lambda net: torch.compile(net, backend="eager"),
        lambda net: torch.compile(lambda x: net(x), backend="eager"),
        lambda net: net.forward,
        lambda net: lambda x, scale=1: net(x) * scale,
        torch.jit.script,
        lambda net: torch.jit.trace(net, images(2)),
    ],
    ids=["DataParallel", "compile", "compiled function", "forward", "default", "script", "trace"],
)
def test_a_network_inside_of_a_wrapper_is_that_network(wrap):
    """DataParallel was a traceback; the others were refused as none of a fixed list of operations."""
    net, x, y = labelled("strides", b=2)
    assert torch.equal(plain_radius(), plica.certify(wrap(net), x, y, plica.MinRadius(plica.Lp(2)), nodes=2).radius)


@cache
def plain_radius():
    return plica.certify(*labelled("strides", b=2), plica.MinRadius(plica.Lp(2)), nodes=2).radius


@pytest.mark.filterwarnings("ignore:`torch.jit")  # deprecated, and used
@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: torch.compile(net, backend="eager"),
        lambda net: torch.compile(lambda x: net(x), backend="eager"),
        torch.jit.script,
        lambda net: nn.DataParallel(torch.jit.trace(net, images(2))),
    ],
    ids=["compile", "compiled function", "script", "trace"],
)
def test_roundings_of_a_compiled_network_are_not_known(wrap):
    """It was taken for one whose operations run one by one."""
    net, x, y = labelled("strides", b=2)
    model, question = wrap(net), plica.MinRadius(plica.Lp(2))
    for ask in (plica.certify, plica.bracket):
        with pytest.raises(plica.Unsupported, match=r"before torch.compile or torch.jit.*arithmetic='real'"):
            ask(model, x, y, question, nodes=2, arithmetic="executed")


@pytest.mark.filterwarnings("ignore:`torch.jit")  # deprecated, and used
def test_a_script_for_inference_is_refused():
    """Tracing it ended the process with a segmentation fault."""
    net, x, y = labelled("strides", b=2)
    optimised = torch.jit.optimize_for_inference(torch.jit.script(net))
    with pytest.raises(plica.Unsupported, match=r"optimize_for_inference leaves it.*give it as it was before"):
        plica.certify(optimised, x, y, plica.MinRadius(plica.Lp(2)), nodes=2)


def test_images_of_another_precision_than_the_network_are_told_so():
    net, x, y = labelled(b=2)
    with pytest.raises(ValueError, match=r"parameters are torch.float32 and x is torch.float64; write x.to"):
        plica.certify(net, x.double(), y, plica.MinRadius(plica.Lp(2)), nodes=2)


@dataclass
class Output:
    logits: torch.Tensor


@pytest.mark.parametrize(
    ("returns", "said"),
    [
        (lambda z: {"logits": z}, r"got dict; .* such as lambda x: model\(x\)\['logits'\]"),
        (lambda z: (z, None), r"got tuple; .* such as lambda x: model\(x\)\[0\]"),
        (Output, r"got Output; .* such as lambda x: model\(x\)\.logits"),
        (lambda z: z.argmax(1), r"got torch.int64 of shape \(1,\)"),
        (lambda z: z + torch.zeros(2, 1), r"here b = 1, got torch.float32 of shape \(2, "),
    ],
)
@pytest.mark.parametrize("ask", [plica.certify, plica.bracket])
def test_a_model_must_return_logits(ask, returns, said):
    model, x, y = labelled()
    with pytest.raises(ValueError, match=said):
        ask(lambda z: returns(model(z)), x, y, plica.MinRadius(plica.Lp(2)), nodes=1)


def test_an_error_of_the_model_is_named():
    model, x, y = labelled()
    with pytest.raises(ModelError, match=r"The model raised RuntimeError: mat1"):
        plica.certify(model, x[:, :, :5], y, plica.MinRadius(plica.Lp(2)), nodes=1)
