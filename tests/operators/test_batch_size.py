"""How many examples go at once where the user does not say."""

import copy

import pytest
import torch
from torch import nn

import hesslab as hl

THREADS = torch.get_num_threads()
CE = hl.losses.CrossEntropy()


def images(n, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, 32, 32, generator=generator, dtype=dtype)
    return x, torch.arange(n) % 4


def network(*norms, width=16, outputs=4):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),  # activations of 1024 width numbers
        *norms,
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, outputs),
    ).eval()


def down(number):
    return 1 << (number.bit_length() - 1)


def thirds(n):
    return n // 3, 2 * n // 3 - n // 3, n - 2 * n // 3


@pytest.mark.parametrize(
    ("width", "dtype", "expected"),
    [
        (16, torch.float32, 32),  # 65,536 bytes of an activation, in 2 MiB a thread
        (16, torch.float64, 16),
        (13, torch.float32, 32),  # 39.4 fit
        (64, torch.float32, 8),
    ],
)
def test_activations_of_images_stay_in_the_caches(width, dtype, expected):
    wanted = down(expected * THREADS)
    model, data = network(width=width).to(dtype), images(2 * wanted + 3, dtype)
    for build in (hl.Hessian, hl.GGN, hl.Fisher, hl.GradientCovariance):
        A = build(model, CE, data)
        assert A.partition == thirds(2 * wanted + 3)
        whole = build(model, CE, data, batch_size=512)
        assert whole.partition == (2 * wanted + 3,)
        v = torch.ones(A.shape[1], dtype=dtype)
        apart = (A @ v - whole @ v).norm() / (whole @ v).norm()
        assert apart < (1e-4 if dtype == torch.float32 else 1e-12)
        assert copy.deepcopy(A).partition == A.partition


def test_no_batch_of_one_example():
    # A model that drops all dimensions of size one takes no single example.
    model = nn.Sequential(*network(width=64)[:3]).double()
    model.forward = lambda x, layers=model.forward: layers(x).squeeze()
    for n in (8 * THREADS + 1, 57 * THREADS):
        x, y = images(n, torch.float64)
        H = hl.Hessian(model, CE, (x, y))
        assert max(H.partition) <= down(8 * THREADS)
        assert max(H.partition) - min(H.partition) <= 1
        v = torch.ones(H.shape[0], dtype=torch.float64)
        torch.testing.assert_close(H @ v, hl.Hessian(model, CE, (x, y), batch_size=n) @ v)


def test_large_images_go_eight_at_once():
    x = torch.randn(17, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    H = hl.Hessian(network(width=16 * THREADS), CE, (x, torch.arange(17) % 4))
    assert H.partition == (5, 6, 6)


def test_the_jacobian_is_cut_as_well():
    model, (x, _) = network().double(), images(32 * THREADS + 5, torch.float64)
    J, whole = hl.Jacobian(model, x), hl.Jacobian(model, x, batch_size=512)
    V = torch.randn(J.shape[1], 2, generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(J @ V, whole @ V)
    torch.testing.assert_close(J.T @ (J @ V), whole.T @ (whole @ V))


def test_every_parameter_is_used_often_enough():
    # 119,448 parameters, and 1,024 positions x 432 weights multiplied for an example: to use each
    # parameter 2,048 times takes 553 examples.
    model = network(outputs=7000)
    n = 33 * THREADS
    H = hl.Hessian(model, CE, images(n))
    assert H.partition == (n,)
    assert H.plan.traced.images_at_once(images(8)[0]) == 1024


@pytest.mark.parametrize(
    ("build", "norms", "options"),
    [
        (hl.Fisher, (), {"kind": "mc"}),
        (hl.GradientCovariance, (), {"per": "batch"}),
        (hl.Hessian, (nn.BatchNorm2d(16),), {"batchnorm": "batch"}),
    ],
)
def test_a_matrix_that_depends_on_the_cut_is_cut_as_ever(build, norms, options):
    data = images(32 * THREADS + 5)
    A = build(network(*norms), CE, data, **options)
    A @ torch.ones(A.shape[0])
    assert A.partition == (len(data[0]),)


def test_what_the_user_cuts_stays_cut():
    x, y = images(40 * THREADS + 5)
    batches = [(x[:40], y[:40]), (x[40:], y[40:])]
    assert hl.Hessian(network(), CE, batches).partition == tuple(len(x) for x, _ in batches)
    assert hl.Hessian(network(), CE, (x, y), batch_size=len(x)).partition == (len(x),)


def test_a_network_without_convolutions_takes_512():
    model = hl.models.mlp(4, 3, hidden=(5,))
    x = torch.randn(600, 4, generator=torch.Generator().manual_seed(0))
    assert hl.Hessian(model, CE, (x, torch.arange(600) % 3)).partition == (512, 88)


@pytest.mark.parametrize("size", [0, -1, 2.5, "32"])
def test_batch_sizes_out_of_range(size):
    with pytest.raises(ValueError, match="expected a whole number of at least 1"):
        hl.Hessian(network(), CE, images(4), batch_size=size)


def test_predictions_without_doubt_are_traced():
    # The GGN is zero in float32, and underflows in float64 too: both routes agree on that.
    model = network()
    with torch.no_grad():
        model[-1].weight.zero_()
        model[-1].bias.copy_(torch.tensor([2000.0, 0.0, 0.0, 0.0]))
    G = hl.GGN(model, CE, images(8))
    assert "autograd" not in repr(G)
    assert not (G @ torch.ones(G.shape[0])).any()
