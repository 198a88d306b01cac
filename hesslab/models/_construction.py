"""What all constructors share: a local seed, activations by name, checks of sizes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias, get_args

import torch
from torch import nn

Activation: TypeAlias = Literal["tanh", "relu", "gelu", "silu"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw initial weights from ``seed`` on the CPU and leave the global generators as they were.

    The same seed gives the same weights whatever device the caller works on; torch's own
    initialisers take no generator, so the global one is lent to them for the time of the block.

    Raises:
        TypeError: the seed is no integer.
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed is a {type(seed).__name__}; expected an int")
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # torch.manual_seed would also seed the accelerators, which are not restored here
        torch.default_generator.manual_seed(seed)
        yield


def activation_layer(name: str) -> nn.Module:
    """The module of an activation, refusing names that are unknown."""
    if name not in _ACTIVATIONS:
        known = ", ".join(f'"{choice}"' for choice in get_args(Activation))
        raise ValueError(f'activation="{name}" is unknown; expected one of {known}')
    return _ACTIVATIONS[name]()


def check_sizes(**sizes: int) -> None:
    """Refuse widths and counts that are no positive integers."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"{name} is a {type(size).__name__} ({size}); expected an int")
        if size < 1:
            raise ValueError(f"{name}={size} is out of range: expected {name} >= 1")


def check_image_shape(in_shape: tuple[int, int, int], smallest: int) -> None:
    """Refuse anything but (channels, height, width) with sides of at least ``smallest``."""
    if len(in_shape) != 3:
        raise ValueError(
            f"in_shape={in_shape} has {len(in_shape)} entries; expected "
            "(channels, height, width), such as (1, 28, 28)"
        )
    check_sizes(channels=in_shape[0], height=in_shape[1], width=in_shape[2])
    if min(in_shape[1:]) < smallest:
        raise ValueError(
            f"in_shape={in_shape} is too small: expected sides of at least {smallest} pixels"
        )
