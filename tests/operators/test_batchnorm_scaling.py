"""What scaling the weights before a norm may not do: L(a w; a^2 eps) = L(w; eps) in batch mode.

So g.w = -2 eps dL/deps and H w = -g - 2 eps dg/deps, eps that of the norm, to rounding at any eps.
"""

import copy

import pytest
import torch
from torch import nn

import hesslab as hl
from tests.batchnorms import BATCH, CE, NETS, build

EXACT = {"rtol": 1e-9, "atol": 1e-13}


def with_eps(model, x, y, flat, eps):
    """The mean loss over the batches as a function of all parameters and of eps of the first norm.

    For a copy of `dense_net` in plain operations, so that eps can be differentiated by.
    """
    shapes = [p.shape for p in model.parameters()]
    pieces = flat.split([shape.numel() for shape in shapes])
    w1, gain1, bias1, w2, b2, gain2, bias2, w3, b3 = (
        piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)
    )
    total = 0.0
    for part, target in zip(x.split(BATCH), y.split(BATCH), strict=True):
        h = part @ w1.T
        h = torch.tanh((h - h.mean(0)) / (h.var(0, correction=0) + eps).sqrt() * gain1 + bias1)
        h = h @ w2.T + b2
        h = torch.tanh((h - h.mean(0)) / (h.var(0, correction=0) + 1e-5).sqrt() * gain2 + bias2)
        total = total + nn.functional.cross_entropy(h @ w3.T + b3, target, reduction="sum")
    return total / len(x)


@pytest.fixture
def eps_derivatives():
    """The net and data, its weights w (the other entries zero), dL/deps and dg/deps."""
    model, x, y = build(*NETS["dense"])
    flat = torch.cat([p.detach().flatten() for p in model.parameters()]).requires_grad_()
    eps = torch.tensor(1e-5, dtype=torch.float64, requires_grad=True)
    loss = with_eps(model, x, y, flat, eps)
    (slope,) = torch.autograd.grad(loss, eps, create_graph=True)
    (mixed,) = torch.autograd.grad(slope, flat)
    w = torch.zeros_like(mixed)
    w[:20] = flat.detach()[:20]
    return model, x, y, w, slope.detach(), mixed


def test_the_gradient_along_the_weights_before_a_norm(eps_derivatives):
    model, x, y, w, slope, _ = eps_derivatives
    H = hl.Hessian(model, CE, (x, y), batchnorm="batch", batch_size=BATCH)
    assert slope.abs() > 1e-3
    torch.testing.assert_close(H.gradient() @ w, -2e-5 * slope, rtol=1e-9, atol=0)


def test_the_product_with_the_weights_before_a_norm(eps_derivatives):
    model, x, y, w, _, mixed = eps_derivatives
    H = hl.Hessian(model, CE, (x, y), batchnorm="batch", batch_size=BATCH)
    expected = -2e-5 * mixed
    expected[:20] -= H.gradient()[:20]  # in the other rows only the term of eps is left
    torch.testing.assert_close(H @ w, expected, rtol=1e-9, atol=1e-15)
    assert expected[20:].abs().max() > 1e-7


@pytest.mark.parametrize("operator", ["Hessian", "GGN"])
@pytest.mark.parametrize("net", NETS)
def test_scaling_the_weights_and_eps_before_a_norm(net, operator):
    model, x, y = build(*NETS[net])
    a, inside = 3.0, model[0].weight.numel()
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        scaled[0].weight *= a
    scaled[1].eps = a**2 * scaled[1].eps
    H, scaled_H = (
        getattr(hl, operator)(m, CE, (x, y), batchnorm="batch", batch_size=BATCH).to_dense()
        for m in (model, scaled)
    )
    factor = torch.ones(len(H), dtype=torch.float64)
    factor[:inside] = 1 / a
    torch.testing.assert_close(scaled_H, factor.unsqueeze(1) * H * factor, **EXACT)
    assert H[:inside, :inside].norm() > 1e-2
