"""Captured networks compute what the model does, for any number of rows; what has no bounds is refused by its path."""

import copy

import pytest
import torch
from torch import nn

import plica
from certify.zoo import BUILDERS, FLAT, IMAGE, images, network
from plica.certify import check_certifiable
from plica.certify.affine import Affine
from plica.certify.capture import capture
from plica.models import load_model
from plica.runs.encode import leaf_table
from plica.trust.audit.balls import Ball
from plica.trust.audit.certificates import check
from plica.trust.audit.layers import trace
from shared_data import SHARED

NETWORKS = pytest.mark.parametrize("name", list(BUILDERS))


@NETWORKS
def test_a_captured_network_computes_what_the_model_does(name):
    net, x = network(name), images(5)
    logits = capture(net, x).forward(x.double())[-1]
    torch.testing.assert_close(
        logits, net.double()(x.double()), rtol=1e-12, atol=1e-12
    )  # float64, other orders of sums


@NETWORKS
def test_transposes_and_absolute_values_are_those_of_the_matrix(name):
    """The matrix of every affine operation, column by column from L, against L^T, |L| and the offset."""
    graph = capture(network(name), images())
    for node in graph.nodes:
        if not isinstance(node.op, Affine):
            continue
        shapes = tuple(graph.nodes[parent].shape for parent in node.parents)
        sizes = [torch.Size(shape).numel() for shape in shapes]
        zeros = [torch.zeros(sum(sizes), *shape, dtype=torch.float64) for shape in shapes]
        for z, part in zip(zeros, torch.eye(sum(sizes), dtype=torch.float64).split(sizes, 1), strict=True):
            z += part.view_as(z)
        columns = node.op.linear(*zeros).flatten(1)
        a = torch.randn(3, *node.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        pulled = torch.cat([part.flatten(1) for part in node.op.transpose(a, shapes)], 1)
        torch.testing.assert_close(pulled, a.flatten(1) @ columns.T)
        z = [torch.rand(3, *shape, dtype=torch.float64) for shape in shapes]
        flat = torch.cat([part.flatten(1) for part in z], 1)
        torch.testing.assert_close(node.op.absolute(*z).flatten(1), flat @ columns.abs())
        offset = node.op.forward(*(torch.zeros(1, *shape, dtype=torch.float64) for shape in shapes))
        torch.testing.assert_close(node.op.forward(*z).flatten(1), flat @ columns + offset.flatten(1))
        torch.testing.assert_close(
            node.op.magnitude(*z).flatten(1), flat @ columns.abs() + offset.flatten(1).abs().expand(3, -1)
        )
        constant = node.op.constant(a)
        torch.testing.assert_close(
            torch.as_tensor(constant).expand(3).double(), (a * offset).flatten(1).sum(1), rtol=1e-9, atol=1e-12
        )


def test_a_layer_without_bounds_is_refused_by_its_path():
    net = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(FLAT, 4), nn.Softshrink()), nn.Linear(4, 3))
    with pytest.raises(plica.Unsupported, match=r"the module 1\.1: softshrink has no .*ask an attack alone"):
        plica.certify(net, images(), torch.zeros(4).long(), plica.MinRadius(plica.Lp(2)))


class Branches(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :3] * (2 if x.sum() > 1 else 1)


def assigned(x, value):
    x = x.clone()
    x[:, 0] = value
    return x.flatten(1)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Branches(), r"The model cannot be captured.*\(it reads the value of a tensor\)"),
        (nn.Sequential(nn.Identity(), nn.Sequential(nn.ReLU(), Branches())), r"The module 1\.1 cannot be captured"),
        (lambda x: x[:, [1, 0]].flatten(1), "indexing by tensors.*torch.index_select"),
        (lambda x: assigned(x, 0.0), "assigned to; multiply by a mask"),
        (lambda x: assigned(x, x[:, 1]), "assigned to; put it together by torch.cat"),
        (lambda x: nn.functional.scaled_dot_product_attention(x, x, x).flatten(1), "attention multiplies"),
        (lambda x: torch.einsum("bchw,cd->bd", x, torch.ones(2, 3)), "must remain the first, and torch.einsum"),
        (nn.GLU(1), "two values that depend on the image are multiplied"),
        (lambda x: x.flatten(1)[:, :3] * x.flatten(1)[:, 3:6], "multiplied"),
        (lambda x: x.flatten(1)[:, :3] - x.flatten(1)[:, :3].mean(0, keepdim=True), "keep images apart"),
        (lambda x: x.flatten(1)[:, :3] - x.flatten(1)[:, :3].mean(), "keep images apart"),
        (lambda x: x.flatten(1)[:, :3] - x.flatten(1)[:, :3].mean((0, 1), keepdim=True), "keep images apart"),
        (lambda x: nn.functional.avg_pool2d(x, 2, divisor_override=-4).flatten(1), "negative coefficients"),
        (lambda x: x[:, 0, 0, :3].bfloat16().float(), "rounds to torch.bfloat16; leave autocast"),
        (nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).bfloat16(), "in torch.bfloat16 differs.*write model.float"),
        (lambda x: x[:, :, :1, :3].mean((1, 2)).cumsum(1), "cumsum has no lower bounds"),
        (lambda x: x.flatten(1)[:, :3].softmax(1) * 2, "softmax has bounds only as the last operation"),
        (lambda x: x[:, 0, 0, :3].log_softmax(0), "softmax has bounds only as the last operation"),
        (lambda x: x.flatten(1)[:, :3].clamp(min=torch.tensor([0, 0, -torch.inf])), "limits must be finite"),
        (lambda x: torch.clamp(x[0, 0, 0, :3], x.flatten(1)[:, :3], x.flatten(1)[:, 3:6])[None], "keep images apart"),
        (lambda x: nn.functional.adaptive_max_pool2d(x, 5).flatten(1), "must divide an image of"),
        (lambda x: x.amax((1, 2)), "only the largest pixel"),
        (lambda x: nn.functional.interpolate(x, 9).flatten(1), "must be a multiple of"),
        (lambda x: x.flatten(1)[:, :3].flip(0), "keep images apart"),
        (lambda x: x.flatten(1)[:, :3].roll(1), "keep images apart"),
        (lambda x: x.flatten(1)[:, :3].repeat(2, 1)[: len(x)], "keep images apart"),
        (lambda x: nn.functional.leaky_relu(x, torch.inf).flatten(1), "slope must be finite"),
        (lambda x: x.flatten(1)[:, :3].expand(1, 1, 3).squeeze(1), "keep images apart"),
        (lambda x: x.flatten(1)[:, :3] * torch.ones(1, 1, 3), "keep images apart"),
        (lambda x: x.flatten(1)[:, :3] + x[:, :1, :1, :3], "keep images apart"),
        (lambda x: torch.ones(len(x), 3), "depend on the image"),
        (lambda x: x[:, 0], "returns logits"),
        (lambda x: x.flatten(1)[:, :3] * len(x), "differ from the model's by up to.*treats every image by itself"),
        (lambda x: x.flatten(1)[:, :3].float() + 1e6 - 1e6, r"Or roundings are that large.*model\.double\(\)"),
        (lambda x: x.flatten(1)[:, :3] / x.flatten(1)[:, 3:6], "divides by values that depend on the image"),
        (nn.Sequential(nn.Flatten(), nn.LayerNorm(FLAT)), "LayerNorm divides by statistics.*use BatchNorm"),
        (nn.GroupNorm(1, 2), "GroupNorm divides by statistics.*use BatchNorm"),
        (nn.InstanceNorm2d(2), "statistics of the images themselves, as InstanceNorm.*use BatchNorm"),
        (lambda x: nn.functional.rrelu(x, training=True).flatten(1), "draws random slopes; leave training=True out"),
        (nn.Softplus(2.0, 5.0), r"jump by up to 0\.0034 at its threshold, 5, .*leave threshold=\.\.\. out"),
        (lambda x: x.flatten(1)[:, :3] + torch.empty_like(x).flatten(1)[:, :3], "differ from the model's by up to nan"),
    ],
)  # fmt: skip
def test_what_cannot_be_captured_is_refused_before_any_work(model, reason):
    with pytest.raises(plica.Unsupported, match=reason):
        capture(model, images())


class CompiledInside(nn.Module):
    """The function is compiled for itself, which no look at the modules tells."""

    def __init__(self, net):
        super().__init__()
        self.net, self.function = net, torch.compile(torch.relu, backend="eager")

    def forward(self, x):
        return self.net(self.function(x))


def compiled_in_place(net):
    net.compile(backend="eager")
    return net


@pytest.mark.parametrize(
    "compiled",
    [
        lambda net: nn.Sequential(torch.compile(net, backend="eager")),
        lambda net: nn.Sequential(compiled_in_place(net)),
        compiled_in_place,
        CompiledInside,
    ],
)
def test_a_network_of_which_parts_are_compiled_is_traced_as_it_was_written(compiled):
    """It was refused, in the words of torch; and the audit refused every proof."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(FLAT, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x, model = images(), compiled(copy.deepcopy(net))
    graph = capture(model, x)
    torch.testing.assert_close(graph.forward(x.double())[-1].float(), net(x))
    steps = trace(model, x[:1])
    assert steps[0].rounds
    assert len(steps) == len(graph.nodes)
    with pytest.raises(plica.Unsupported, match="a compiled model fuses them"):
        check_certifiable(model, x, plica.MinRadius(plica.Lp(2)), arithmetic="executed")


def test_an_image_without_finite_logits_hides_no_other():
    """Where one image had such logits, none was compared with the captured network."""
    x = images()
    bound = x[:, 0, 0, 0].topk(2).values.mean()

    def model(z):
        largest = nn.functional.relu(z[:, :1, 0, 0].float() - bound) * 1e30 * 1e30  # inf in one image
        return z.flatten(1)[:, :3] * len(z) + largest

    assert (~model(x).isfinite().all(1)).sum() == 1
    with pytest.raises(plica.Unsupported, match="differ from the model's by up to"):
        capture(model, x)


@pytest.mark.parametrize("last", [nn.Softmax(-1), nn.LogSoftmax(1)])
def test_a_last_softmax_changes_no_bound(last):
    net, x = network("relu"), images(2)
    y, question, ending = net(x).argmax(1), plica.MinRadius(plica.Lp("inf")), nn.Sequential(net, last)
    bare, found = (plica.certify(model, x, y, question, nodes=8) for model in (net, ending))
    assert (bare.radius > 0).all()
    assert torch.equal(found.radius, bare.radius)
    with pytest.raises(plica.Unsupported, match="ends with softmax, whose roundings"):
        plica.certify(ending, x, y, question, nodes=8, arithmetic="executed")


def test_logits_that_cancel_are_those_of_the_model_in_float64():
    """In float32 they are a tenth off, and the network was refused."""

    class Cancelling(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.large = nn.Linear(FLAT, 3), nn.Parameter(torch.full((3,), 1e6))

        def forward(self, x):
            return self.layer(x.flatten(1)) + self.large - self.large

    torch.manual_seed(0)
    net, x = Cancelling().requires_grad_(False), images(3)
    logits = capture(net, x).forward(x.double())[-1]
    assert (logits - net(x)).abs().max() > 0.01
    torch.testing.assert_close(logits, net.double()(x.double()), rtol=0, atol=1e-8)  # float64, beside 1e6


def test_softsign_is_one_activation():
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(FLAT, 3), nn.Softsign()).requires_grad_(False).double(), images(1)
    graph = capture(net, x.double())
    assert [op.name for _, op in graph.activations()] == ["softsign"]
    torch.testing.assert_close(graph.forward(x.double())[-1], net(x.double()))
    y, question = net(x.double()).argmax(1), plica.MinRadius(plica.Lp(2))
    found = plica.certify(net, x.double(), y, question, nodes=2)
    assert 0 < found.radius <= plica.attack(net, x.double(), y, question, gradients=30).distance
    leaves = leaf_table(found.evidence, torch.arange(1)).to_pylist()
    ball = Ball.around(x, torch.zeros_like(x), torch.ones_like(x), float(found.radius), 2.0)
    check(trace(net, x.double()), ball, int(y), None, leaves)
    for other in (lambda z: z / (2 + z.abs()), lambda z: z / (1 + z.flip(1).abs()), lambda z: z / (1 + z.relu())):
        with pytest.raises(plica.Unsupported, match="divides by values"):
            capture(other, x.flatten(1)[:, :3])


def test_random_slopes_are_their_mean_in_eval_mode():
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(FLAT, 3), nn.RReLU(0.1, 0.5)).eval().requires_grad_(False), images(3)
    net = net.double()
    torch.testing.assert_close(capture(net, x.double()).forward(x.double())[-1], net(x.double()))
    value = x[:1].double()
    for step in trace(net, value)[1:]:
        value = step.op.value(value)
    torch.testing.assert_close(value, net(x[:1].double()))


def test_roundings_of_a_model_in_float64_are_not_blamed():
    with pytest.raises(plica.Unsupported, match=r"by itself and computes the same at every call\.$"):
        capture(lambda x: x.flatten(1)[:, :3] * len(x), images().double())


def test_an_operation_in_place_does_not_reach_back():
    """x += 1 changes what is computed from x later, not what was computed before."""

    def model(x):
        z = x.flatten(1)[:, :3] * 2
        before = z.relu()
        z += 1
        return before + z

    x = images(3, shape=IMAGE)
    torch.testing.assert_close(capture(model, x).forward(x.double())[-1], model(x.double()))


@pytest.mark.needs("onnx")
@pytest.mark.needs("onnx2torch")
@pytest.mark.skipif(not SHARED.is_dir(), reason="the networks are not here")
@pytest.mark.parametrize(
    ("name", "shape"), [("mnist-net_256x2", (1, 28, 28)), ("cifar_base_kw", (3, 32, 32)), ("resnet_2b", (3, 32, 32))]
)
def test_networks_from_onnx_are_captured(name, shape):
    net = load_model(str(SHARED / "models" / f"{name}.onnx") + "@0.5/0.5").eval()
    x = images(2, shape=shape)
    logits = capture(net, x).forward(x.double())[-1]
    torch.testing.assert_close(logits.float(), net(x), rtol=1e-4, atol=1e-4)
