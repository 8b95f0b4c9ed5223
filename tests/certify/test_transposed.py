"""Transposed convolutions of many shapes: their values, their transpose, their norm and the number of their terms."""

import pytest
import torch
from torch import nn

from plica.certify.capture import capture
from plica.certify.norms import operator_norm
from plica.certify.transposed import TransposedConvolution
from plica.trust.audit.layers import trace


def matrix_of(op, shape):
    """Column by column."""
    eye = torch.eye(torch.Size(shape).numel(), dtype=torch.float64)
    return op.linear(eye.view(-1, *shape)).flatten(1).T


@pytest.mark.parametrize(
    "settings",
    [
        dict(kernel_size=3),
        dict(kernel_size=(2, 3), stride=(3, 2), padding=(0, 1), output_padding=(2, 0)),
        dict(kernel_size=(1, 2), stride=2, output_padding=1, bias=False),
        dict(kernel_size=2, stride=2, padding=1, dilation=3, groups=2, output_padding=(2, 1)),
        dict(kernel_size=3, dilation=(1, 2), padding=(1, 2), output_padding=(0, 1), groups=4),
    ],
)  # fmt: skip
def test_transposed_convolutions_of_images(settings):
    torch.manual_seed(0)
    check(nn.ConvTranspose2d(4, 4, **settings), torch.rand(2, 4, 5, 6))


@pytest.mark.parametrize(
    "settings",
    [dict(kernel_size=4, stride=3, padding=1, output_padding=2), dict(kernel_size=2, dilation=3, output_padding=2)],
)
def test_transposed_convolutions_of_rows(settings):
    torch.manual_seed(0)
    check(nn.ConvTranspose1d(4, 6, groups=2, **settings), torch.rand(2, 4, 5))


def check(layer, x):
    layer.double().requires_grad_(False)
    net = nn.Sequential(layer, nn.Flatten())
    graph = capture(net, x.double())
    torch.testing.assert_close(graph.forward(x.double())[-1], net(x.double()), rtol=1e-12, atol=1e-12)
    (node,) = (node for node in graph.nodes if isinstance(node.op, TransposedConvolution))
    shape = graph.nodes[node.parents[0]].shape
    matrix = matrix_of(node.op, shape)
    a = torch.randn(3, *node.shape, dtype=torch.float64)
    (pulled,) = node.op.transpose(a, (shape,))
    torch.testing.assert_close(pulled.flatten(1), a.flatten(1) @ matrix)
    size = node.op.absolute(x.double().view(2, *shape)).flatten(1)
    torch.testing.assert_close(size, x.double().flatten(1) @ matrix.abs().T)
    largest = float(torch.linalg.svdvals(matrix)[0])
    assert largest <= operator_norm(node, [shape]) <= 1.5 * largest  # of a grid larger than the image
    assert int((matrix != 0).sum(1).max()) <= node.op.terms
    (step,) = (step for step in trace(net, x[:1].double()) if getattr(step.op, "dense", False))
    assert step.op.terms == node.op.terms
    torch.testing.assert_close(step.op.value(x.double()).flatten(1), layer(x.double()).flatten(1))
    pulled, _ = step.op.back(a.view(3, *step.shape), [tuple(x.shape[1:])])
    torch.testing.assert_close(pulled[0].flatten(1), a.flatten(1) @ matrix)
