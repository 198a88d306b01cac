"""Convolutions of every kind and batch norm behind them, traced, against double backward."""

import pytest
import torch
from torch import nn
from torch.fx import Interpreter

import hesslab as hl
from hesslab.operators.engine.linear import Linear
from tests.batchnorms import BATCH, CE, NETS, build, mean_over, native
from tests.operators.engine.networks import built, check, examples, flat

SIZES = {1: (2, 7), 2: (2, 5, 5), 3: (1, 3, 3, 3)}


def convolution(dim, kernel, *, transposed=False, channels=2, **options):
    layer = getattr(nn, f"Conv{'Transpose' if transposed else ''}{dim}d")
    shape = (channels, *SIZES[dim][1:])
    return lambda: flat(layer(channels, 2, kernel, **options), nn.Tanh(), shape=shape), shape


CONVOLUTIONS = {
    "1d": convolution(1, 3, padding=1),
    "2d": convolution(2, 3, padding="same"),
    "3d": convolution(3, 2),
    "strided": convolution(2, 2, stride=(2, 1), bias=False),
    "dilated": convolution(2, 2, dilation=2),
    "grouped": convolution(2, 3, groups=2),
    "transposed 1d": convolution(1, 3, transposed=True, stride=2, output_padding=1),
    "transposed 2d": convolution(2, 2, transposed=True, padding=1, groups=2),
    "transposed 3d": convolution(3, 2, transposed=True, channels=1),
} | {
    f"{mode} {dim}d": convolution(dim, 3, padding=1, stride=2, padding_mode=mode)
    for mode in ("reflect", "replicate", "circular")
    for dim in (1, 2)
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name):
    make, shape = CONVOLUTIONS[name]
    check(built(make), *examples(shape))


@pytest.mark.parametrize("operator", ["Hessian", "GGN"])
@pytest.mark.parametrize(
    ("net", "mode"), [("conv", "running"), ("conv", "batch"), ("dense", "population")]
)
def test_batch_norm_in_every_mode(net, mode, operator):
    model, x, y = build(*NETS[net])
    A = getattr(hl, operator)(model, CE, (x, y), batchnorm=mode, batch_size=BATCH)
    expected = mean_over(native(model, x, y, mode), operator.lower())
    torch.testing.assert_close(A.to_dense(), expected, rtol=1e-10, atol=1e-12)
    assert A.plan.traced is not None, A.plan


@pytest.mark.parametrize("mode", ["running", "population"])
def test_frozen_batch_norm_leaves_nothing_behind_its_convolution(mode):
    model, x, y = build(*NETS["conv"])
    A = hl.Hessian(model, CE, (x, y), batchnorm=mode)
    A @ A.gradient()
    (point,) = A.plan.traced._points.values()
    kinds = [str(n.target) for n in point.program._head.nodes if n.meta["data"]]
    assert sum("mul" in kind or "sub" in kind for kind in kinds) == 0


class _Layouts(Interpreter):
    """Collects the results that are images and not laid out with their channels together."""

    def run_node(self, n):
        result = super().run_node(n)
        for t in result if isinstance(result, tuple) else [result]:
            if n.op == "call_function" and t is not None and t.ndim == 4 and len(t) == self.batch:
                last = t.is_contiguous(memory_format=torch.channels_last)
                if t.is_contiguous() and not last:
                    self.found.append(str(n))
        return result


def pooled():
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(8, 10)),
    )


@pytest.mark.parametrize("build_model", [lambda: hl.models.resnet(8), pooled])
@pytest.mark.parametrize("operator", ["Hessian", "GGN"])
def test_all_images_of_a_product_lie_with_their_channels_together(
    monkeypatch, build_model, operator
):
    # One that does not makes a product a fifth slower: so do all that are added to it.
    torch.manual_seed(0)
    x, y = torch.randn(7, 3, 32, 32), torch.arange(7)
    A = getattr(hl, operator)(build_model().eval(), hl.losses.CrossEntropy(), (x, y), mode="cache")
    v = torch.ones(A.shape[0])
    A @ v
    ran = []

    def run(self, block, kept, varying):
        interpreter = _Layouts(self._applied)
        interpreter.batch, interpreter.found = len(x), []
        ran.append(interpreter.found)
        return interpreter.run(*kept, *varying)

    monkeypatch.setattr(Linear, "run", run)
    A @ v
    assert len(ran) > 2
    assert not any(ran), ran


def test_where_weights_are_many_they_are_neither_scaled_nor_laid_out_anew():
    # 151,552 numbers of an image, 9.2 million weights; the first layer has few of them.
    torch.manual_seed(0)
    x, y = torch.randn(2, 3, 32, 32), torch.arange(2)
    H = hl.Hessian(hl.models.vgg(11).eval(), hl.losses.CrossEntropy(), (x, y))
    H @ torch.ones(H.shape[0])
    (point,) = H.plan.traced._points.values()
    weights = [q for q in point.q if q.ndim == 4]
    given = {p.data_ptr() for p in H._network.point.values()}
    assert [q.data_ptr() in given for q in weights] == [False] * 5 + [True] * 3
    assert all(q.is_contiguous() for q in weights)
