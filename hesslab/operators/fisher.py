"""The Fisher information matrix of a network that predicts a distribution."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from hesslab.data import DataLike
from hesslab.losses import CrossEntropy, GaussianLikelihood, LossLike, as_loss
from hesslab.losses.likelihoods import Loss
from hesslab.operators.ggn import GaussNewton

Kind = Literal["exact", "mc", "empirical"]


class Fisher(GaussNewton):
    r"""The Fisher information, ``[P, P]``: the second moment of gradients of log-likelihoods.

    :math:`F = \frac1N \sum_n J_n^T\, \mathbb{E}_y[r_n r_n^T]\, J_n` with
    :math:`r_n = \nabla_f \ell(f(x_n), y)`. The kinds differ in where the labels y come from:

    - "exact": all labels, weighted by the model's own predictions. The outputs of `CrossEntropy`
      and `GaussianLikelihood` are natural parameters, in which the Hessian of
      :math:`-\log p(y \mid f)` is the same for every y; it therefore equals its own mean, which is
      :math:`\mathbb{E}_y[r r^T]`, and this Fisher is the `GGN`.
    - "mc": ``samples`` labels for each example, drawn from the model's predictions. Its mean over
      seeds is "exact". The draws depend on ``seed``, the number of the batch and the rank in
      ``process_group`` alone, so that the operator is one fixed matrix; another cut into batches or
      shards is another draw.
    - "empirical": the labels of the data. Far from the others unless the model is right.

    Every position of outputs ``[B, ..., C]`` is a term of its own. ``torch.nn.MSELoss()`` is a mean
    over the D outputs too: a Gaussian of noise variance D/2 for each term, so that the gradients of
    the empirical kind are those of an example's own mean over its outputs.

    Args:
        model: as for `Curvature`.
        loss: one of `hesslab.losses` or of torch; a plain callable predicts no distribution and has
            the empirical kind alone, with an example for a term.
        data: as for `Curvature`; its targets matter for the empirical kind and the gradient.
        kind: where the labels come from.
        samples: labels drawn for each term by "mc".
        seed: of the draws, a whole number from 0.
        **options: those of `Curvature`.

    Raises:
        ValueError: an unknown kind, a number out of range, or a loss without a distribution.

    Cost: as for the `GGN`; a further sample costs one more pass through the loss, not the network.
    Source: Kunstner, Balles and Hennig (2019), Limitations of the empirical Fisher approximation
    for natural gradient descent; Martens (2020), New insights and perspectives on the natural
    gradient method.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: LossLike,
        data: DataLike,
        *,
        kind: Kind = "exact",
        samples: int = 1,
        seed: int = 0,
        **options: Any,
    ) -> None:
        _check(as_loss(loss), kind, samples, seed)
        self.kind = kind
        self.samples = samples
        self.seed = seed
        super().__init__(model, loss, data, **options)

    def __repr__(self) -> str:
        kind = f'kind="{self.kind}"'
        if self.kind == "mc":
            kind += f", samples={self.samples}, seed={self.seed}"
        return super().__repr__().replace("Fisher(", f"Fisher({kind}, ", 1)

    def _depends_on_cut(self) -> bool:
        return self.kind == "mc" or super()._depends_on_cut()

    def _output_data(self, number: int, outputs: Tensor, y: Tensor) -> Tensor:
        """The gradients r of the terms, ``[S, B, ..., C]``, for the labels of the kind."""
        if self.kind == "exact":
            return y
        if self.kind == "empirical":
            # The sum of squares of MSELoss has D terms for each of ours, which is their mean.
            scale = 1 / math.sqrt(self._loss.count(outputs) / _terms(self._loss, outputs))
            return scale * self._loss.gradient(outputs, y).unsqueeze(0)
        key = [self.seed, number, self._ranks.rank]
        state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
        generator = torch.Generator(outputs.device).manual_seed(int(state))
        loss: Any = self._loss
        drawn = [loss.sample_targets(outputs, generator) for _ in range(self.samples)]
        return torch.stack([loss.gradient(outputs, labels) for labels in drawn])

    def _output_product(self, outputs: Tensor, u: Tensor, y: Tensor) -> Tensor:
        if self.kind == "exact":
            return self._loss.hessian_product(outputs, u, y)
        inner = y * u
        apart = 1 if _terms(self._loss, outputs) == len(outputs) else outputs.ndim - 1
        inner = inner.flatten(1 + apart).sum(-1) if outputs.ndim > apart else inner
        return (y * inner.view(*inner.shape, *[1] * (y.ndim - inner.ndim))).mean(0)


def _terms(loss: Loss, outputs: Tensor) -> int:
    """How many log-likelihoods these outputs hold: one a position, or one an example."""
    if loss.count(outputs) == len(outputs):
        return len(outputs)
    return math.prod(outputs.shape[:-1])


def _check(loss: Loss, kind: str, samples: int, seed: int) -> None:
    """Refuse what has no Fisher matrix of that kind."""
    if kind not in get_args(Kind):
        raise ValueError(f'kind={kind!r} is unknown; expected "exact", "mc" or "empirical"')
    for name, value, least in (("samples", samples, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}={value!r}; expected a whole number of at least {least}")
    cure = "use hesslab.losses.CrossEntropy() or GaussianLikelihood(...), or kind="
    if kind == "exact" and not isinstance(loss, CrossEntropy | GaussianLikelihood):
        drawn = hasattr(loss, "sample_targets")
        raise ValueError(
            f"the exact Fisher of {loss} is not known: it equals the GGN where the outputs are "
            f"natural parameters of a likelihood; {cure}" + ('"mc"' if drawn else '"empirical"')
        )
    if kind == "mc" and not hasattr(loss, "sample_targets"):
        raise ValueError(
            f"labels cannot be drawn from {loss}: it has no sample_targets, for it predicts no "
            f'distribution; {cure}"empirical"'
        )
