"""What every metric returns: a number, its error, and how many examples it is from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

ArrayLike = np.ndarray | Tensor


@dataclass(frozen=True, repr=False)
class Score:
    """A mean over examples with its standard error.

    Args:
        value: the score.
        standard_error: of ``value``, from the spread between examples (not between trainings);
            NaN for a single example.
        n: examples.
    """

    value: float
    standard_error: float
    n: int

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        return f"{self.value:.4f} +- {self.standard_error:.4f} (n = {self.n})"


def mean_score(values: Tensor) -> Score:
    """The mean of values ``[N]`` (float64) and its standard error, deviation / root of N."""
    n = len(values)
    error = float(values.std()) / math.sqrt(n) if n > 1 else math.nan
    return Score(float(values.mean()), error, n)


def as_tensor(array: ArrayLike, name: str) -> Tensor:
    """A detached tensor on the CPU, refusing what is no array, empty or not finite."""
    if not isinstance(array, np.ndarray | Tensor):
        raise TypeError(f"{name} is a {type(array).__name__}; expected an array or a tensor")
    tensor = torch.as_tensor(array).detach().cpu()
    if tensor.numel() == 0:
        raise ValueError(f"{name} is empty (shape {tuple(tensor.shape)}); expected some examples")
    return tensor
