"""The likelihoods against autograd and torch's own densities."""

import math

import pytest
import torch
from torch import nn

from hesslab.losses import CrossEntropy, GaussianLikelihood

G = torch.Generator().manual_seed(0)
SHAPES = [(7, 4), (5, 3, 4)]


def example(loss, shape):
    outputs = torch.randn(shape, generator=G, dtype=torch.float64)
    if isinstance(loss, CrossEntropy):
        return outputs, torch.randint(0, shape[-1], shape[:-1], generator=G)
    return outputs, torch.randn(shape, generator=G, dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("loss", [CrossEntropy(), GaussianLikelihood(0.3)], ids=str)
def test_derivatives_equal_autograd(loss, shape):
    outputs, targets = example(loss, shape)
    n = outputs.numel()
    gradient = torch.autograd.functional.jacobian(lambda f: loss.sum(f, targets), outputs)
    torch.testing.assert_close(loss.gradient(outputs, targets), gradient)
    H = torch.autograd.functional.hessian(lambda f: loss.sum(f, targets), outputs).reshape(n, n)
    u = torch.randn(shape, generator=G, dtype=torch.float64)
    torch.testing.assert_close(loss.hessian_product(outputs, u).flatten(), H @ u.flatten())
    blocks = loss.hessian(outputs).reshape(-1, shape[-1], shape[-1])
    torch.testing.assert_close(torch.block_diag(*blocks), H, rtol=1e-12, atol=1e-14)
    root = loss.hessian_sqrt_product(outputs, loss.hessian_sqrt_transpose_product(outputs, u))
    torch.testing.assert_close(root.flatten(), H @ u.flatten())
    v = torch.randn(shape, generator=G, dtype=torch.float64)
    left = (v * loss.hessian_sqrt_product(outputs, u)).sum()
    right = (loss.hessian_sqrt_transpose_product(outputs, v) * u).sum()
    torch.testing.assert_close(left, right)


def test_cross_entropy_value_is_torchs_and_its_hessian_ignores_a_common_shift():
    loss = CrossEntropy()
    outputs, targets = example(loss, (7, 4))
    expected = nn.functional.cross_entropy(outputs, targets)
    torch.testing.assert_close(loss.mean(outputs, targets), expected)
    ones = torch.ones_like(outputs)
    assert loss.hessian_product(outputs, ones).abs().max() < 1e-15


def test_gaussian_value_is_the_density_of_torch():
    loss = GaussianLikelihood(0.3)
    outputs, targets = example(loss, (7, 4))
    density = torch.distributions.Normal(outputs, math.sqrt(0.3)).log_prob(targets).sum(-1)
    torch.testing.assert_close(loss.value(outputs, targets), -density)


def test_sampled_targets_have_the_models_distribution():
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    drawn = CrossEntropy().sample_targets(p.log().expand(40_000, 3), torch.Generator())
    frequencies = torch.bincount(drawn, minlength=3) / 40_000
    assert (frequencies - p).abs().max() < 4 * 0.5 / 200  # four standard errors
    y = GaussianLikelihood(0.3).sample_targets(torch.full((40_000, 1), 2.0), torch.Generator())
    assert abs(float(y.mean()) - 2.0) < 4 * math.sqrt(0.3) / 200
    assert abs(float(y.var()) - 0.3) < 4 * 0.3 * math.sqrt(2) / 200


def test_noise_variance_out_of_range():
    with pytest.raises(ValueError, match="noise_variance=0 is out of range: expected 0 < noise"):
        GaussianLikelihood(0)


@pytest.mark.parametrize("margin", [0.0, 5.0, 12.0, 40.0])
def test_derivatives_of_sure_predictions_do_not_cancel(margin):
    loss = CrossEntropy()
    generator = torch.Generator().manual_seed(0)
    f, u = torch.randn(2, 50, 5, generator=generator)
    y = torch.arange(50) % 5
    f[torch.arange(50), y] += margin
    for wrong in (0, 1):  # and sure of what is wrong
        targets = (y + wrong) % 5
        found = loss.gradient(f, targets), loss.hessian_product(f, u)
        exact = loss.gradient(f.double(), targets), loss.hessian_product(f.double(), u.double())
        p = f.double().softmax(-1)
        plain = p - torch.nn.functional.one_hot(targets, 5), p * u - p * (p * u).sum(-1, True)
        for one, two, three in zip(found, exact, plain, strict=True):
            apart = (one.double() - two).norm(dim=-1) / two.norm(dim=-1)
            assert apart.max() < 1e-5  # the entries of each example, relative to it
            torch.testing.assert_close(two, three, rtol=1e-9, atol=1e-15)
