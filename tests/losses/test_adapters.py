"""torch's losses and plain callables keep their own mean, or are refused by name."""

import pytest
import torch
from torch import nn

import hesslab as hl
from hesslab.losses import as_loss

G = torch.Generator().manual_seed(0)


def example(theirs):
    outputs = torch.randn(7, 4, generator=G, dtype=torch.float64)
    if isinstance(theirs, nn.CrossEntropyLoss):
        return outputs, torch.randint(0, 4, (7,), generator=G)
    return outputs, torch.randn(7, 4, generator=G, dtype=torch.float64)


@pytest.mark.parametrize(
    "theirs",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.MSELoss(),
        nn.HuberLoss(),
    ],
    ids=["cross entropy", "smoothed", "squared", "Huber"],
)
def test_torch_losses_keep_their_mean(theirs):
    ours = as_loss(theirs)
    outputs, targets = example(theirs)
    torch.testing.assert_close(ours.mean(outputs, targets), theirs(outputs, targets))
    total = ours.sum(outputs, targets) / ours.count(outputs)
    torch.testing.assert_close(total, theirs(outputs, targets))
    H = torch.autograd.functional.hessian(lambda f: ours.count(f) * theirs(f, targets), outputs)
    u = torch.randn(7, 4, generator=G, dtype=torch.float64)
    expected = torch.einsum("ncmd,md->nc", H, u)
    torch.testing.assert_close(ours.hessian_product(outputs, u, targets), expected)


def test_mse_of_flat_outputs():
    f, y = torch.randn(6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    loss = as_loss(nn.MSELoss())
    torch.testing.assert_close(loss.sum(f, y) / loss.count(f), nn.functional.mse_loss(f, y))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.CrossEntropyLoss(weight=torch.ones(3)), r"CrossEntropyLoss\(weight=...\) is not"),
        (nn.CrossEntropyLoss(reduction="sum"), 'has reduction="sum"; only the mean'),
        (nn.MSELoss(reduction="none"), 'has reduction="none"'),
        (nn.NLLLoss(weight=torch.ones(3)), r"NLLLoss\(weight=...\) is not"),
        (nn.CrossEntropyLoss(ignore_index=1), r"CrossEntropyLoss\(ignore_index=...\) is not"),
        (nn.NLLLoss(ignore_index=0), r"NLLLoss\(ignore_index=...\) is not"),
    ],
)
def test_options_with_another_mean_are_refused_by_name(loss, message):
    with pytest.raises(ValueError, match=message):
        as_loss(loss)


def test_something_that_is_no_loss():
    with pytest.raises(TypeError, match="loss is a str"):
        as_loss("mse")


def test_callable_that_returns_no_scalar():
    model = hl.models.mlp(2, 2, hidden=(3,), seed=0)
    with pytest.raises(ValueError, match=r"the loss returned \(4, 2\); expected a scalar"):
        hl.Hessian(model, lambda f, y: (f - y) ** 2, (torch.ones(4, 2), torch.ones(4, 2)))


def test_torch_cross_entropy_of_a_sequence_points_to_ours():
    with pytest.raises(ValueError, match="puts the classes in dimension 1"):
        as_loss(nn.CrossEntropyLoss()).mean(torch.ones(2, 3, 4), torch.zeros(2, 4).long())


def test_a_subclass_keeps_its_own_forward():
    class Focal(nn.CrossEntropyLoss):
        def forward(self, outputs, targets):
            each = nn.functional.cross_entropy(outputs, targets, reduction="none")
            return ((1 - (-each).exp()) ** 2 * each).mean()

    outputs, targets = example(nn.CrossEntropyLoss())
    ours = as_loss(Focal())
    assert ours.mean(outputs, targets) == Focal()(outputs, targets)
    H = torch.autograd.functional.hessian(lambda f: 7 * Focal()(f, targets), outputs)
    u = torch.randn(7, 4, generator=G, dtype=torch.float64)
    expected = torch.einsum("ncmd,md->nc", H, u)
    torch.testing.assert_close(ours.hessian_product(outputs, u, targets), expected)


def test_all_methods_of_mse_belong_together():
    loss = as_loss(nn.MSELoss())
    outputs, targets = example(nn.MSELoss())
    u = torch.randn(7, 4, generator=G, dtype=torch.float64)
    gradient = torch.autograd.functional.jacobian(lambda f: loss.sum(f, targets), outputs)
    torch.testing.assert_close(loss.gradient(outputs, targets), gradient)
    torch.testing.assert_close(loss.hessian_product(outputs, u), 2 * u)
    torch.testing.assert_close(
        loss.hessian(outputs), 2 * torch.eye(4, dtype=torch.float64).expand(7, 4, 4)
    )
    root = loss.hessian_sqrt_product(outputs, loss.hessian_sqrt_transpose_product(outputs, u))
    torch.testing.assert_close(root, 2 * u)
