"""Fully connected networks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from hesslab.models._construction import Activation, activation_layer, check_sizes, seeded


def mlp(
    in_features: int,
    out_features: int,
    *,
    hidden: Sequence[int] = (50, 50),
    activation: Activation = "tanh",
    seed: int = 0,
) -> nn.Sequential:
    r"""A multi-layer perceptron: affine maps with an activation between them.

    :math:`f(x) = W_L a(\dots a(W_1 x + b_1) \dots) + b_L`. Inputs ``[N, ...]`` are flattened to
    ``[N, in_features]`` first, so images need no preparation; outputs are ``[N, out_features]``.

    Args:
        in_features: numbers per example, after flattening.
        out_features: outputs per example.
        hidden: units of each hidden layer; ``()`` gives a linear model.
        activation: smooth ("tanh", "gelu", "silu") or piecewise linear ("relu").
        seed: of the initial weights, torch's default for linear layers.

    Returns:
        The network, in training mode, on the CPU, in torch's default dtype.

    Raises:
        ValueError: a size is not positive or the activation is unknown.
        TypeError: a size or the seed is no integer.

    Example:
        >>> model = mlp(1, 1, hidden=(3,))
        >>> [name for name, _ in model.named_parameters()]
        ['hidden1.weight', 'hidden1.bias', 'output.weight', 'output.bias']
    """
    check_sizes(in_features=in_features, out_features=out_features)
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    with seeded(seed):
        width = in_features
        for number, units in enumerate(hidden, start=1):
            check_sizes(**{f"hidden[{number - 1}]": units})
            layers[f"hidden{number}"] = nn.Linear(width, units)
            layers[f"{activation}{number}"] = activation_layer(activation)
            width = units
        layers["output"] = nn.Linear(width, out_features)
    return nn.Sequential(layers)
