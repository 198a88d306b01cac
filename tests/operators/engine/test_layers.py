"""Networks of torch's layers without convolutions of note, traced, against double backward."""

import pytest
import torch
from torch import nn

import hesslab as hl
from tests.operators.engine.graphs import randn
from tests.operators.engine.networks import (
    LOSS,
    TOLERANCE,
    Plain,
    built,
    check,
    examples,
    flat,
    products,
)

IMAGE = (2, 4, 4)
ACTIVATIONS = [
    nn.ReLU(),
    nn.ReLU(inplace=True),
    nn.GELU(),
    nn.GELU("tanh"),
    nn.SiLU(),
    nn.SiLU(inplace=True),
    nn.Softplus(),
    nn.ELU(),
    nn.CELU(0.7),
    nn.SELU(),
    nn.LeakyReLU(0.1),
    nn.Hardswish(),
    nn.Hardtanh(-0.3, 0.5),
    nn.ReLU6(),
    nn.Mish(),
    nn.PReLU(),
    nn.PReLU(6),
    nn.Tanh(),
    nn.Sigmoid(),
    nn.LogSigmoid(),
    nn.Softsign(),
    nn.Tanhshrink(),
    nn.Softshrink(0.1),
    nn.Softmax(-1),
    nn.LogSoftmax(-1),
    nn.Dropout(0.5).eval(),
]
OTHERS = {
    "GLU": lambda: nn.Sequential(nn.Linear(4, 6), nn.GLU(), nn.Linear(3, 3)),
    "Bilinear": lambda: Plain(lambda s, x: s.a(x, torch.tanh(x)), a=nn.Bilinear(4, 4, 3)),
    "LayerNorm": lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3)),
    "RMSNorm": lambda: nn.Sequential(nn.Linear(4, 5), nn.RMSNorm(5), nn.Linear(5, 3)),
}
IMAGE_LAYERS = {
    "GroupNorm": lambda: nn.GroupNorm(1, 2),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(2, affine=True),
    "InstanceNorm2d of running statistics": lambda: nn.InstanceNorm2d(
        2, track_running_stats=True
    ).eval(),
    "LocalResponseNorm": lambda: nn.LocalResponseNorm(2),
    "MaxPool2d": lambda: nn.MaxPool2d(2),
    "MaxPool2d overlapping": lambda: nn.MaxPool2d(3, 2, 1),
    "AvgPool2d": lambda: nn.AvgPool2d(2),
    "AvgPool2d of borders": lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "AdaptiveAvgPool2d": lambda: nn.AdaptiveAvgPool2d(3),
    "AdaptiveAvgPool2d of all": lambda: nn.AdaptiveAvgPool2d(1),
    "AdaptiveMaxPool2d": lambda: nn.AdaptiveMaxPool2d(2),
    "Upsample nearest": lambda: nn.Upsample(scale_factor=2),
    "Upsample bilinear": lambda: nn.Upsample(size=(3, 5), mode="bilinear", align_corners=True),
    "Upsample bicubic": lambda: nn.Upsample(scale_factor=1.5, mode="bicubic"),
    "PixelUnshuffle": lambda: nn.PixelUnshuffle(2),
    "ZeroPad2d": lambda: nn.ZeroPad2d((1, 0, -1, 2)),
    "Unfold": lambda: nn.Unfold(2, stride=2),
    "Dropout2d": lambda: nn.Dropout2d().eval(),
    "ChannelShuffle": lambda: nn.ChannelShuffle(2),
}
LINES = {
    "MaxPool1d": (lambda: nn.MaxPool1d(2), (2, 6)),
    "AvgPool1d": (lambda: nn.AvgPool1d(2), (2, 6)),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(2), (2, 6)),
    "MaxPool3d": (lambda: nn.MaxPool3d(2), (2, 2, 4, 4)),
    "AvgPool3d": (lambda: nn.AvgPool3d(2), (2, 2, 4, 4)),
    "Upsample linear": (lambda: nn.Upsample(scale_factor=2, mode="linear"), (2, 6)),
}


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=str)
def test_activations(layer):
    model = built(lambda: nn.Sequential(nn.Linear(4, 6), layer, nn.Linear(6, 3)))
    check(model, *examples((4,)))


@pytest.mark.parametrize("name", OTHERS)
def test_layers_of_vectors(name):
    check(built(OTHERS[name]), *examples((4,)))


@pytest.mark.parametrize("name", IMAGE_LAYERS)
def test_layers_of_images(name):
    layers = nn.Conv2d(2, 2, 1), IMAGE_LAYERS[name](), nn.Tanh()
    check(built(lambda: flat(*layers, shape=IMAGE)), *examples(IMAGE))


@pytest.mark.parametrize("name", LINES)
def test_layers_of_lines_and_volumes(name):
    make, shape = LINES[name]
    conv = nn.Conv1d if len(shape) == 2 else nn.Conv3d
    check(built(lambda: flat(conv(2, 2, 1), make(), nn.Tanh(), shape=shape)), *examples(shape))


def test_hardsigmoid_has_a_ggn_and_torch_refuses_its_hessian():
    def ramp(slope):
        layers = nn.Linear(4, 6), Ramp() if slope else nn.Hardsigmoid(), nn.Linear(6, 3)
        return built(lambda: nn.Sequential(*layers))

    model, same = ramp(False), ramp(True)
    same.load_state_dict(model.state_dict())
    x, y = examples((4,))
    G = hl.GGN(model, LOSS, (x, y))
    expected = hl.GGN(same, LOSS, (x, y)).to_dense()
    # torch has 1/6 in single precision in this derivative
    torch.testing.assert_close(G.to_dense(), expected, rtol=1e-6, atol=1e-8)
    assert G.plan.traced is not None
    with pytest.raises(RuntimeError, match="hardsigmoid_backward is not implemented"):
        hl.Hessian(model, LOSS, (x, y))


class Ramp(nn.Module):
    def forward(self, x):
        return torch.clamp(x / 6 + 0.5, 0, 1)


class PlainNorm(nn.Module):
    """Weight norm in operations whose second derivatives torch has right."""

    def __init__(self, dim):
        super().__init__()
        self.over = 1 - dim if dim in (0, 1) else (0, 1)

    def forward(self, g, v):
        return g * v / (v**2).sum(self.over, keepdim=True).sqrt()

    def right_inverse(self, w):
        return (w**2).sum(self.over, keepdim=True).sqrt(), w


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_weight_norm_by_hook():
    x, y = examples((4,))
    by_hook, by_parametrization = (built(lambda: nn.Linear(4, 3)) for _ in "ab")
    nn.utils.weight_norm(by_hook)
    nn.utils.parametrizations.weight_norm(by_parametrization)
    v = randn(18)
    products = [hl.Hessian(m, LOSS, (x, y)) @ v for m in (by_hook, by_parametrization)]
    torch.testing.assert_close(*products, **TOLERANCE)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_weight_norm_whose_second_derivative_torch_has_wrong(dim):
    x, y = examples((4,))
    ours, plain = (
        built(lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))) for _ in "ab"
    )
    nn.utils.parametrizations.weight_norm(ours[0], dim=dim)
    nn.utils.parametrize.register_parametrization(plain[0], "weight", PlainNorm(dim))
    if dim == -1:  # one number
        plain[0].parametrizations.weight.original0.data.squeeze_()
    state = {
        name: value.view_as(plain.state_dict()[name]) for name, value in ours.state_dict().items()
    }
    plain.load_state_dict(state)
    v = randn(sum(p.numel() for p in plain.parameters()))
    expected = products(plain, x, y, v)
    for name in ("Hessian", "GGN"):
        A = getattr(hl, name)(ours, LOSS, (x, y))
        assert A.plan.traced is not None, A.plan
        torch.testing.assert_close(A @ v, expected[name], **TOLERANCE)


def test_spectral_norm_in_eval_mode():
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
    check(built(lambda: nn.Sequential(layer, nn.Tanh(), nn.Linear(4, 3)).eval()), *examples((4,)))


def test_a_layer_that_draws_in_eval_mode_streams_by_autograd():
    model = built(lambda: nn.Sequential(nn.Linear(4, 6), nn.RReLU(), nn.Linear(6, 3)).eval())
    for A in check(model, *examples((4,)), traced=False):
        assert "draws random numbers" in repr(A.plan)
