import pytest
import torch
from torch.nn import functional

from hesslab import models
from hesslab._torchvision import load


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("depth", "parameters"),
    [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018)],
)
def test_cifar_networks_have_the_published_sizes(depth, parameters):
    assert count(models.resnet(depth)) == parameters


def test_depth_counts_layers_with_weights():
    for depth in (8, 14, 20):
        layers = [
            m
            for m in models.resnet(depth, width=2).modules()
            if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)
        ]
        assert len(layers) == depth


def test_names_are_those_of_published_weights():
    names = list(models.resnet(8).state_dict())
    assert names[:3] == ["conv1.weight", "bn1.weight", "bn1.bias"]
    assert "layer2.0.conv1.weight" in names
    assert "layer3.0.bn2.running_var" in names
    assert names[-2:] == ["linear.weight", "linear.bias"]
    assert not any("downsample" in name for name in names)


def transcription(state, x, blocks):
    """The forward pass of the paper, written out again in evaluation mode."""

    def convolution(h, name, stride=1):
        return functional.conv2d(h, state[f"{name}.weight"], stride=stride, padding=1)

    def norm(h, name):
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        scale = state[f"{name}.weight"] / (var + 1e-5).sqrt()
        h = (h - mean[:, None, None]) * scale[:, None, None]
        return h + state[f"{name}.bias"][:, None, None]

    h = norm(convolution(x, "conv1"), "bn1").clamp(min=0)
    for layer in (1, 2, 3):
        for block in range(blocks):
            name = f"layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            branch = norm(convolution(h, f"{name}.conv1", stride), f"{name}.bn1").clamp(min=0)
            branch = norm(convolution(branch, f"{name}.conv2"), f"{name}.bn2")
            if stride == 2:
                zeros = torch.zeros_like(h[:, : h.shape[1] // 2, ::2, ::2])
                h = torch.cat([zeros, h[:, :, ::2, ::2], zeros], dim=1)
            h = (h + branch).clamp(min=0)
    return h.mean((2, 3)) @ state["linear.weight"].T + state["linear.bias"]


def test_cifar_form_equals_a_transcription_of_the_paper():
    model = models.resnet(14, width=4, seed=3).double()
    x = torch.randn(5, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model(x)  # moves the running statistics away from 0 and 1
    model.eval()
    expected = transcription(model.state_dict(), x, blocks=2)
    torch.testing.assert_close(model(x), expected, rtol=1e-10, atol=1e-10)


def test_resnet18_equals_torchvision():
    reference = load("models").resnet18()
    model = models.resnet(18, classes=1000)
    assert list(model.state_dict()) == list(reference.state_dict())
    assert count(model) == 11_689_512
    model.load_state_dict(reference.state_dict())
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.eval()(x), reference.eval()(x), rtol=1e-5, atol=1e-5)


def test_options_do_what_they_say():
    def has(model, kind):
        return any(isinstance(m, kind) for m in model.modules())

    plain = models.resnet(8, width=2, residual=False)
    assert all(block.downsample is None for block in plain.layer2)
    assert has(plain, torch.nn.BatchNorm2d)
    normless = models.resnet(8, width=2, batchnorm=False)
    assert not has(normless, torch.nn.BatchNorm2d)
    assert all(m.bias is not None for m in normless.modules() if isinstance(m, torch.nn.Conv2d))


@pytest.mark.parametrize("residual", [True, False])
def test_shortcuts_keep_the_gradient_alive_without_batch_norm(residual):
    model = models.resnet(20, width=4, batchnorm=False, residual=residual, seed=0)
    for block in (*model.layer1, *model.layer2, *model.layer3):
        torch.nn.init.zeros_(block.conv2.weight)
    logits = model(torch.randn(2, 3, 8, 8))
    logits.square().sum().backward()
    assert (float(model.conv1.weight.grad.abs().max()) > 0) == residual


def test_outputs_do_not_grow_with_depth_without_batch_norm():
    x = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        sizes = [float(models.resnet(d, batchnorm=False)(x).std()) for d in (8, 20, 56)]
    assert max(sizes) < 4 * min(sizes)


@pytest.mark.parametrize("depth", [2, 10, 34, 50])
def test_other_depths_are_refused(depth):
    with pytest.raises(ValueError, match=f"depth={depth} is not .* 6n \\+ 2"):
        models.resnet(depth)


def test_odd_widths_work():
    assert models.resnet(8, width=3)(torch.randn(2, 3, 8, 8)).shape == (2, 10)
