"""Scores of predicted classes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hesslab.errors import NotFinite
from hesslab.metrics.score import ArrayLike, Score, as_tensor, mean_score

# float32 rows of 1000 classes sum to 1 within 1e-5; half precision within 1e-3
_SUM_TOLERANCE = 1e-3


def accuracy(predictions: ArrayLike, targets: ArrayLike) -> Score:
    r"""The share of examples whose most probable class is the right one.

    :math:`\frac1N \sum_n [\arg\max_c \bar p_{nc} = y_n]` with :math:`\bar p = \frac1S \sum_s p_s`:
    samples are averaged first, then the class is chosen.

    Args:
        predictions: probabilities or logits ``[N, C]``, or sampled probabilities ``[S, N, C]``.
        targets: class numbers ``[N]``, integers in 0..C-1.

    Returns:
        The share, in 0..1, with its standard error over examples.

    Raises:
        ValueError: shapes, dtypes or ranges do not fit.
        NotFinite: a prediction is NaN or infinite.

    Example:
        >>> accuracy(torch.tensor([[0.9, 0.1], [0.4, 0.6]]), torch.tensor([0, 0]))
        0.5000 +- 0.5000 (n = 2)
    """
    scores, y = _checked(predictions, targets)
    if scores.ndim == 3:
        _check_probabilities(scores)
        scores = scores.mean(0)
    return mean_score((scores.argmax(-1) == y).double())


def nll(predictions: ArrayLike, targets: ArrayLike, *, logits: bool = False) -> Score:
    r"""The negative log-likelihood of the right classes, in nats per example.

    :math:`-\frac1N \sum_n \log \bar p_{n y_n}` with :math:`\bar p = \frac1S \sum_s p_s`, computed
    as :math:`\log S - \mathrm{logsumexp}_s \log p_{s n y_n}`. (The mean over samples of their own
    NLL is another, larger number.)

    Args:
        predictions: probabilities ``[N, C]``, or sampled ones ``[S, N, C]``.
        targets: class numbers ``[N]``, integers in 0..C-1.
        logits: the predictions are logits; this stays exact where a probability would round to 0.

    Returns:
        The mean, 0 or more, with its standard error over examples.

    Raises:
        ValueError: shapes, dtypes or ranges do not fit.
        NotFinite: a prediction is NaN or infinite, or a right class has probability 0, so that
            the score is infinite.

    Source: Gneiting & Raftery (2007), section 4.1 (the logarithmic score).
    """
    scores, y = _checked(predictions, targets)
    if logits:
        log_p = scores.log_softmax(-1)
    else:
        _check_probabilities(scores)
        log_p = scores.log()
    log_p = log_p if log_p.ndim == 3 else log_p.unsqueeze(0)
    right = log_p.gather(-1, y.expand(len(log_p), -1).unsqueeze(-1)).squeeze(-1)  # (S, N)
    values = math.log(len(right)) - right.logsumexp(0)
    if not bool(values.isfinite().all()):
        example = int((~values.isfinite()).nonzero()[0])
        raise NotFinite(
            f"example {example} gives its class {int(y[example])} the probability 0, which makes "
            "the negative log-likelihood infinite; most likely a softmax rounded to 0 in low "
            "precision: pass the logits and logits=True"
        )
    return mean_score(values)


def _checked(predictions: ArrayLike, targets: ArrayLike) -> tuple[Tensor, Tensor]:
    """Predictions in float64 and targets in int64, of shapes that fit."""
    scores, y = as_tensor(predictions, "predictions"), as_tensor(targets, "targets")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ValueError(f"targets are {y.dtype}; expected class numbers (integers)")
    if scores.ndim not in (2, 3) or y.ndim != 1 or scores.shape[-2] != len(y):
        raise ValueError(
            f"predictions have shape {tuple(scores.shape)} and targets {tuple(y.shape)}; "
            "expected [N, C] or [S, N, C], and [N]"
        )
    classes = scores.shape[-1]
    if int(y.min()) < 0 or int(y.max()) >= classes:
        raise ValueError(
            f"targets are in {int(y.min())}..{int(y.max())}, but the predictions have {classes} "
            f"classes: expected 0..{classes - 1}"
        )
    scores = scores.double()
    if not bool(scores.isfinite().all()):
        position = [int(i) for i in (~scores.isfinite()).nonzero()[0]]
        raise NotFinite(
            f"predictions hold NaN or infinite values, first at {position}; "
            "has the training diverged?"
        )
    return scores, y.long()


def _check_probabilities(p: Tensor) -> None:
    """Refuse logits and anything else that is no distribution over the classes."""
    worst = float((p.sum(-1) - 1).abs().max())
    if float(p.min()) < 0 or worst > _SUM_TOLERANCE:
        raise ValueError(
            f"predictions are no probabilities: the smallest is {float(p.min()):.3g} and a row's "
            f"sum is off 1 by {worst:.3g}; logits need .softmax(-1), or logits=True in nll"
        )
