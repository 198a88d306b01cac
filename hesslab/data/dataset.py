"""What every data function returns: two tensors and what they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normalisation:
    """The affine map from raw inputs to what a model sees: ``(x - mean) / std`` per channel.

    Args:
        mean: one number per channel (images ``[N, C, H, W]``) or per column (``[N, D]``), in the
            units of the raw inputs (pixels are in 0..1).
        std: as many numbers, all positive, same units.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean or min(self.std) <= 0:
            raise ValueError(
                f"normalisation has mean {self.mean} and std {self.std}, but needs as many "
                "positive deviations as means, one per channel"
            )

    def apply(self, x: Tensor) -> Tensor:
        """Raw inputs ``[N, C, ...]`` to normalised ones of the same shape."""
        mean, std = self._shaped(x)
        return (x - mean) / std

    def invert(self, x: Tensor) -> Tensor:
        """Normalised inputs ``[N, C, ...]`` back to raw ones of the same shape."""
        mean, std = self._shaped(x)
        return x * std + mean

    def _shaped(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.ndim < 2 or x.shape[1] != len(self.mean):
            raise ValueError(
                f"x has shape {tuple(x.shape)}, but the normalisation has {len(self.mean)} "
                "channels, expected in dimension 1"
            )
        shape = (1, -1) + (1,) * (x.ndim - 2)
        mean = torch.tensor(self.mean, dtype=x.dtype, device=x.device).view(shape)
        std = torch.tensor(self.std, dtype=x.dtype, device=x.device).view(shape)
        return mean, std


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Examples in a fixed order.

    Args:
        x: inputs, ``[N, ...]``, floating point.
        y: class numbers ``[N]`` (int64) or regression targets ``[N, D]`` (floating point).
        name: what it is called, such as "digits, training".
        classes: names of the classes in the order of their numbers; None for regression.
        normalisation: what was applied to the raw inputs; None if nothing was.
        info: anything else worth knowing, such as the units of the targets.
    """

    x: Tensor
    y: Tensor
    name: str
    classes: tuple[str, ...] | None = None
    normalisation: Normalisation | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(
                f"{self.name} has {len(self.x)} inputs and {len(self.y)} targets; "
                "each input needs one target"
            )

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        kind = f"{len(self.classes)} classes" if self.classes else f"targets {list(self.y.shape)}"
        return f"Dataset({self.name}: x {list(self.x.shape)} {self.x.dtype}, {kind})"

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Dataset:
        """The same examples on a device; ``dtype`` changes floating-point tensors only."""
        x, y = (
            tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
            for tensor in (self.x, self.y)
        )
        return replace(self, x=x, y=y)

    def take(self, indices: Tensor) -> Dataset:
        """The examples at ``indices`` ``[n]`` (int64), in that order."""
        return replace(self, x=self.x[indices], y=self.y[indices])

    def subset(self, n: int, *, seed: int = 0) -> Dataset:
        """A random subset of ``n`` examples in their old order.

        Where ``y`` holds class numbers the subset is balanced: the counts of two classes that
        occur differ by at most one, as long as each class has enough examples.

        Args:
            n: how many, 1 <= n <= N.
            seed: of the choice.

        Returns:
            A new Dataset of ``n`` examples; the same seed gives the same ones.

        Raises:
            ValueError: ``n`` is out of range.
        """
        if not 1 <= n <= len(self):
            raise ValueError(f"subset={n} is out of range: {self.name} has {len(self)} examples")
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self), generator=generator)
        if not self.y.is_floating_point() and self.y.ndim == 1:
            order = order[_round_robin(self.y.cpu()[order])]
        return self.take(order[:n].sort().values.to(self.x.device))


def _round_robin(labels: Tensor) -> Tensor:
    """Indices that visit the classes in turn: first one of each, then the second of each."""
    turn = torch.empty_like(labels)
    for label in labels.unique():
        members = labels == label
        turn[members] = torch.arange(int(members.sum()), dtype=labels.dtype)
    return torch.argsort(turn, stable=True)
