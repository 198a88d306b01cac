"""What holds for every constructor."""

import pytest
import torch

from hesslab import models

BUILDERS = {
    "mlp": lambda seed: models.mlp(64, 10, seed=seed),
    "lenet": lambda seed: models.lenet((1, 8, 8), seed=seed),
    "vgg": lambda seed: models.vgg(11, in_shape=(1, 8, 8), width=4, seed=seed),
    "vgg without batch norm": lambda seed: models.vgg(
        11, in_shape=(1, 8, 8), width=4, batchnorm=False, seed=seed
    ),
    "resnet": lambda seed: models.resnet(8, width=4, in_channels=1, seed=seed),
    "plain": lambda seed: models.resnet(
        8, width=4, in_channels=1, residual=False, batchnorm=False, seed=seed
    ),
    "resnet18": lambda seed: models.resnet(18, width=4, in_channels=1, seed=seed),
}
every_model = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)


@every_model
def test_the_seed_alone_decides_the_weights(build):
    torch.manual_seed(5)
    first = build(3).state_dict()
    torch.manual_seed(6)
    second, other = build(3).state_dict(), build(4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@every_model
def test_construction_leaves_the_global_generator_alone(build):
    before = torch.get_rng_state()
    build(0)
    assert torch.equal(torch.get_rng_state(), before)


@every_model
def test_the_default_dtype_is_followed(build):
    torch.set_default_dtype(torch.float64)
    try:
        assert {p.dtype for p in build(0).parameters()} == {torch.float64}
    finally:
        torch.set_default_dtype(torch.float32)


@every_model
def test_no_tensor_is_changed_in_place(build):
    """Each module's inputs have the version they came with, after the whole forward."""
    model, seen = build(0).eval(), []

    def remember(module, inputs):
        seen.extend((tensor, tensor._version) for tensor in inputs)

    for module in model.modules():
        module.register_forward_pre_hook(remember)
    model(torch.randn(2, 1, 8, 8))
    assert seen
    assert all(tensor._version == version for tensor, version in seen)
    assert not any(getattr(module, "inplace", False) for module in model.modules())


@every_model
def test_second_derivatives_agree_by_two_routes(build):
    """Reverse over reverse and forward over reverse, which in-place operations would break."""
    model = build(0).double().eval()
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(2)
    v = {
        name: torch.randn(p.shape, dtype=p.dtype, generator=generator)
        for name, p in parameters.items()
    }

    def loss(p):
        outputs = torch.func.functional_call(model, p, (x,))
        return torch.nn.functional.cross_entropy(outputs, torch.tensor([0, 3]))

    _, forward = torch.func.jvp(torch.func.grad(loss), (parameters,), (v,))
    live = {name: p.clone().requires_grad_() for name, p in parameters.items()}
    gradient = torch.autograd.grad(loss(live), list(live.values()), create_graph=True)
    inner = sum((g * v[name]).sum() for g, name in zip(gradient, live, strict=True))
    reverse = torch.autograd.grad(inner, list(live.values()), materialize_grads=True)
    for name, expected in zip(live, reverse, strict=True):
        torch.testing.assert_close(forward[name], expected, rtol=1e-8, atol=1e-10)
