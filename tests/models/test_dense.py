import pytest
import torch

from hesslab import models


def test_mlp_equals_its_formula():
    model = models.mlp(3, 2, hidden=(5, 4), activation="tanh", seed=1).double()
    p = dict(model.named_parameters())
    x = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    h = torch.tanh(x @ p["hidden1.weight"].T + p["hidden1.bias"])
    h = torch.tanh(h @ p["hidden2.weight"].T + p["hidden2.bias"])
    expected = h @ p["output.weight"].T + p["output.bias"]
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)


def test_images_are_flattened():
    model = models.mlp(64, 10)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(model(x), model(x.reshape(3, 64)))


def test_no_hidden_layer_gives_a_linear_model():
    model = models.mlp(4, 3, hidden=())
    assert [tuple(p.shape) for p in model.parameters()] == [(3, 4), (3,)]


@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu", "silu"])
def test_the_activation_is_the_named_one(activation):
    model = models.mlp(2, 1, hidden=(6,), activation=activation)
    x = torch.randn(5, 2)
    function = getattr(torch.nn.functional, activation)
    expected = model.output(function(model.hidden1(x)))
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "sigmod"}, 'activation="sigmod" is unknown; expected one of "tanh"'),
        ({"hidden": (5, 0)}, r"hidden\[1\]=0 is out of range: expected hidden\[1\] >= 1"),
        ({"in_features": 0}, "in_features=0 is out of range"),
        ({"out_features": 2.0}, "out_features is a float"),
        ({"seed": 0.5}, "seed is a float; expected an int"),
    ],
)
def test_bad_sizes_and_names_are_refused(options, message):
    arguments = {"in_features": 2, "out_features": 1, **options}
    with pytest.raises((ValueError, TypeError), match=message):
        models.mlp(**arguments)
