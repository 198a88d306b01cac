"""Scores of predicted numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hesslab.errors import NotFinite
from hesslab.metrics.score import ArrayLike, Score, as_tensor, mean_score


def rmse(predictions: ArrayLike, targets: ArrayLike) -> Score:
    r"""The root of the mean squared error, in the units of the targets.

    :math:`\sqrt{\frac1{ND} \sum_{nd} (\bar f_{nd} - y_{nd})^2}` with
    :math:`\bar f = \frac1S \sum_s f_s`. Its standard error is that of the mean square divided by
    twice the root (the delta method). Targets that were standardised give standardised units;
    bring both back to their units first.

    Args:
        predictions: of the targets' shape, or sampled ones ``[S, *targets.shape]``.
        targets: ``[N]`` or ``[N, D]``.

    Returns:
        The root, 0 or more, with its standard error over examples.

    Raises:
        ValueError: shapes do not fit.
        NotFinite: a number is NaN or infinite.

    Example:
        >>> float(rmse(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))) ** 2
        2.0000
    """
    f, y = _finite(predictions, "predictions"), _finite(targets, "targets")
    if y.ndim not in (1, 2) or (f.shape != y.shape and f.shape[1:] != y.shape):
        raise ValueError(
            f"predictions have shape {tuple(f.shape)} and targets {tuple(y.shape)}; expected "
            "targets [N] or [N, D], and predictions of that shape or [S, *targets.shape]"
        )
    if f.shape != y.shape:
        f = f.mean(0)
    squares = mean_score((f - y).square().reshape(len(y), -1).mean(1))
    value = math.sqrt(squares.value)
    error = squares.standard_error / (2 * value) if value > 0 else squares.standard_error
    return Score(value, error, len(y))


def _finite(array: ArrayLike, name: str) -> Tensor:
    tensor = as_tensor(array, name).to(torch.float64)
    if not bool(tensor.isfinite().all()):
        position = [int(i) for i in (~tensor.isfinite()).nonzero()[0]]
        raise NotFinite(
            f"{name} hold NaN or infinite values, first at {position}; is the data clean, and "
            "has the training converged?"
        )
    return tensor
