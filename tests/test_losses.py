"""Losses against autograd, closed forms and torch."""

import math

import pytest
import torch
from torch import nn

import hesslab as hl
from hesslab.losses import CrossEntropy, GaussianLikelihood, as_loss

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


@pytest.mark.parametrize(
    ("theirs", "shape"),
    [(nn.CrossEntropyLoss(), (7, 4)), (nn.MSELoss(), (7, 4)), (nn.HuberLoss(), (7, 4))],
    ids=["ce", "mse", "huber"],
)
def test_torch_losses_keep_their_mean(theirs, shape):
    ours = as_loss(theirs)
    outputs, targets = example(ours, shape)
    torch.testing.assert_close(ours.mean(outputs, targets), theirs(outputs, targets))
    total = ours.sum(outputs, targets) / ours.count(outputs)
    torch.testing.assert_close(total, theirs(outputs, targets))


def test_mse_of_flat_outputs():
    f, y = torch.randn(6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    loss = as_loss(nn.MSELoss())
    torch.testing.assert_close(loss.sum(f, y) / loss.count(f), nn.functional.mse_loss(f, y))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.CrossEntropyLoss(weight=torch.ones(3)), r"CrossEntropyLoss\(weight=...\) is not"),
        (nn.CrossEntropyLoss(label_smoothing=0.1), r"label_smoothing=...\) is not supported"),
        (nn.CrossEntropyLoss(reduction="sum"), 'has reduction="sum"; only the mean'),
        (nn.MSELoss(reduction="none"), 'has reduction="none"'),
        (nn.NLLLoss(weight=torch.ones(3)), r"NLLLoss\(weight=...\) is not"),
    ],
)
def test_options_with_another_mean_are_refused_by_name(loss, message):
    with pytest.raises(ValueError, match=message):
        as_loss(loss)


def test_something_that_is_no_loss():
    with pytest.raises(TypeError, match="loss is a str"):
        as_loss("mse")


def test_noise_variance_out_of_range():
    with pytest.raises(ValueError, match="noise_variance=0 is out of range: expected 0 < noise"):
        GaussianLikelihood(0)


def test_callable_that_returns_no_scalar():
    model = hl.models.mlp(2, 2, hidden=(3,), seed=0)
    with pytest.raises(ValueError, match=r"the loss returned \(4, 2\); expected a scalar"):
        hl.Hessian(model, lambda f, y: (f - y) ** 2, (torch.ones(4, 2), torch.ones(4, 2)))


def test_torch_cross_entropy_of_a_sequence_points_to_ours():
    with pytest.raises(ValueError, match="puts the classes in dimension 1"):
        as_loss(nn.CrossEntropyLoss()).mean(torch.ones(2, 3, 4), torch.zeros(2, 4).long())
