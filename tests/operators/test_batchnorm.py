"""Batch norm in its three modes against the native modules, and what they leave alone."""

import pytest
import torch
from torch import nn

import hesslab as hl
from hesslab.operators.network import Network
from tests.batchnorms import BATCH, CE, KINDS, NETS, N, build, dense_net, mean_over, native

EXACT = {"rtol": 1e-9, "atol": 1e-13}
MODES = ["running", "batch", "population"]
PAIRS = [("Hessian", "hessian"), ("GGN", "ggn")]


def times_block(A):
    generator = torch.Generator().manual_seed(0)
    return A @ torch.randn(A.shape[1], 3, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("operator", "reference"), PAIRS)
def test_product_equals_the_native_module(operator, reference, mode, net):
    model, x, y = build(*NETS[net])
    A = getattr(hl, operator)(model, CE, (x, y), batchnorm=mode, batch_size=BATCH)
    cases = native(model, x, y, mode)
    torch.testing.assert_close(A.to_dense(), mean_over(cases, reference), **EXACT)
    torch.testing.assert_close(A.gradient(), mean_over(cases, "gradient"), **EXACT)


REFUSED = {("without running statistics", "running"), ("synchronised", "batch")}


@pytest.mark.parametrize(
    ("kind", "mode"), [(k, m) for k in KINDS for m in MODES if (k, m) not in REFUSED]
)
def test_every_kind_of_batch_norm(kind, mode):
    make, shape = KINDS[kind]
    size = torch.Size(shape).numel()
    model, x, y = build(
        lambda: nn.Sequential(
            nn.Linear(shape[-1], shape[-1]), make(), nn.Tanh(), nn.Flatten(), nn.Linear(size, 3)
        ),
        shape,
    )
    H = hl.Hessian(model, CE, (x, y), batchnorm=mode, batch_size=BATCH)
    expected = mean_over(native(model, x, y, mode), "hessian")
    torch.testing.assert_close(H.to_dense(), expected, **EXACT)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("training", [True, False])
def test_the_choice_goes_before_the_mode_and_changes_nothing(mode, training):
    model, x, y = build(*NETS["conv"])
    expected = times_block(hl.Hessian(model, CE, (x, y), batchnorm=mode, batch_size=BATCH))
    model.train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    H = hl.Hessian(model, CE, (x, y), batchnorm=mode, batch_size=BATCH)
    assert torch.equal(times_block(H), expected)
    H.gradient()
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert all(m.training == training and "forward" not in vars(m) for m in model.modules())


def test_a_norm_in_eval_mode_is_running():
    model, x, y = build(*NETS["conv"])
    chosen = times_block(hl.Hessian(model, CE, (x, y), batchnorm="running"))
    assert torch.equal(times_block(hl.Hessian(model, CE, (x, y))), chosen)


def test_a_failing_forward_gives_the_norms_back():
    class Fails(nn.Sequential):
        broken = False

        def forward(self, x):
            x = super().forward(x)
            if self.broken:
                raise RuntimeError("broken")
            return x

    model, x, y = build(lambda: Fails(*dense_net()), (4,))
    H = hl.Hessian(model, CE, (x, y), batchnorm="batch")
    model.broken = True
    with pytest.raises(RuntimeError, match="broken"):
        H.gradient()
    assert not any("forward" in vars(m) for m in model.modules())


@pytest.mark.parametrize("mode", MODES)
def test_hooks_of_a_norm_run(mode):
    model, x, y = build(*NETS["dense"])
    model[1].register_forward_hook(lambda module, args, output: 2 * output)
    H = hl.Hessian(model, CE, (x, y), batchnorm=mode, batch_size=BATCH)
    expected = mean_over(native(model, x, y, mode), "hessian")
    torch.testing.assert_close(H.to_dense(), expected, **EXACT)


def test_population_does_not_depend_on_the_partition():
    model, x, y = build(*NETS["conv"])
    products = [
        times_block(hl.Hessian(model, CE, (x, y), batchnorm="population", batch_size=size))
        for size in (1, 3, N)
    ]
    torch.testing.assert_close(products[0], products[2], **EXACT)
    torch.testing.assert_close(products[1], products[2], **EXACT)


@pytest.mark.parametrize(("size", "expected"), [(BATCH, 2 * 3 + 1), (N, 1)])
def test_what_population_statistics_cost(size, expected):
    model, x, y = build(*NETS["conv"])
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    network = Network(model, None, batchnorm="population")
    batches = hl.data.as_batches((x, y), batch_size=size)
    network.measure_population(batches, single=size == N)
    assert len(calls) == expected  # norms times batches and one, or one


def test_population_survives_a_large_mean():
    # float32 and a mean of a thousand deviations: a sum of squares would lose the variance.
    x = (torch.randn(N, 4, generator=torch.Generator().manual_seed(0)) + 1000).float()
    model = nn.Sequential(nn.BatchNorm1d(4, affine=False), nn.Linear(4, 3))
    network = Network(model, None, batchnorm="population")
    network.measure_population(hl.data.as_batches((x, x), batch_size=BATCH), single=False)
    z = network.outputs(network.point, x).double()
    weight, bias = (p.detach().double() for p in model[1].parameters())
    v = x.double()
    normalised = (v - v.mean(0)) / (v.var(0, correction=0) + 1e-5).sqrt()
    # x * scale + shift rounds at the size of the mean: 1000 * 2^-24
    torch.testing.assert_close(z, normalised @ weight.T + bias, rtol=0, atol=1e-3)


def test_the_partition_is_part_of_the_function():
    model, x, y = build(*NETS["dense"])
    A = hl.GGN(model, CE, (x, y), batchnorm="batch", batch_size=BATCH)
    assert A.partition == (4, 4, 3)
    assert "batchnorm='batch' over batches of 2 x 4 + 1 x 3," in repr(A)
    parts = [(x[:5], y[:5]), (x[5:], y[5:])]
    B = hl.GGN(model, CE, parts, batchnorm="batch")
    assert B.partition == (5, 6)
    assert not torch.allclose(times_block(A), times_block(B), rtol=1e-3)
    frozen = hl.GGN(model, CE, parts, batchnorm="population")
    assert frozen.partition == (5, 6)
    assert "batchnorm='population', streaming" in repr(frozen)
