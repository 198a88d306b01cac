"""Gaussian posteriors around the trained parameters: isotropic, and isotropic in the null space."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from hesslab.losses import LossLike, as_loss
from hesslab.operators.network import Network
from hesslab.posteriors.projector import NullSpaceProjector
from hesslab.posteriors.samples import Samples


class NullSpacePosterior:
    r"""The Gaussian :math:`N(\theta, \alpha^{-1} P_{null})`: free where no training output looks.

    Args:
        projector: onto the null space.
        prior_precision: :math:`\alpha`, 1 / parameter^2; or "evidence" for
            :math:`\alpha = R / \|\theta\|^2`, which maximises the Laplace evidence when every
            constrained direction is well determined by the data.

    Raises:
        ValueError: the precision is not positive, or an unknown word.

    Source: Miani, Roy and Hauberg (2025), Bayes without underfitting; the evidence optimum is
    MacKay's (1992) fixed point with R well-determined parameters.
    """

    def __init__(
        self, projector: NullSpaceProjector, *, prior_precision: float | Literal["evidence"]
    ) -> None:
        self.projector = projector
        size = _norm(projector.network)
        if prior_precision == "evidence":
            if projector.rank == 0 or size == 0:
                raise ValueError(
                    f"the evidence has no maximum here: {projector.rank} directions are "
                    f"constrained and the parameters have norm {size:g}; give a number"
                )
            prior_precision = projector.rank / size**2
        self.prior_precision = _checked(prior_precision)

    def __repr__(self) -> str:
        return f"NullSpacePosterior({self.projector!r}, prior_precision={self.prior_precision:.4g})"

    def sample(self, count: int, *, seed: int = 0) -> Samples:
        """Draw parameter vectors.

        Args:
            count: how many, S >= 1.
            seed: of the draws.

        Returns:
            `Samples` with directions ``[P, S]``.
        """
        network, loss = self.projector.network, self.projector.loss
        return _sample(network, loss, self.projector.project, self.prior_precision, count, seed)


class IsotropicPosterior:
    r"""The Gaussian :math:`N(\theta, \alpha^{-1} I)`: what the null space is compared with.

    Args:
        model: the trained network.
        loss: says how outputs become predictions.
        prior_precision: :math:`\alpha`, 1 / parameter^2.
        parameters: names or patterns of those that may move; None means those that require a
            gradient.

    Raises:
        ValueError: the precision is not positive.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: LossLike,
        *,
        prior_precision: float,
        parameters: str | Sequence[str] | None = None,
    ) -> None:
        self.network = Network(model, parameters)
        self.loss = as_loss(loss)
        self.prior_precision = _checked(prior_precision)

    def sample(self, count: int, *, seed: int = 0) -> Samples:
        """Draw parameter vectors.

        Args:
            count: how many, S >= 1.
            seed: of the draws; the same seed draws the noise that `NullSpacePosterior` projects.

        Returns:
            `Samples` with directions ``[P, S]``.
        """
        return _sample(self.network, self.loss, lambda v: v, self.prior_precision, count, seed)


def _sample(
    network: Network,
    loss: LossLike,
    project: Callable[[Tensor], Tensor],
    prior_precision: float,
    count: int,
    seed: int,
) -> Samples:
    if count < 1:
        raise ValueError(f"count={count} is out of range: expected at least 1 sample")
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, network.size, generator=generator, dtype=torch.float64)
    directions = project(noise.T.to(network.device)) / math.sqrt(prior_precision)
    step, theta = float(directions.square().sum(0).mean().sqrt()), _norm(network)
    return Samples(
        directions=directions.to(network.dtype),
        prior_precision=prior_precision,
        relative_size=step / theta if theta else math.inf,
        seed=seed,
        network=network,
        loss=as_loss(loss),
    )


def _norm(network: Network) -> float:
    squares = [float(value.double().square().sum()) for value in network.point.values()]
    return math.sqrt(sum(squares))


def _checked(prior_precision: float | str) -> float:
    if isinstance(prior_precision, str):
        raise ValueError(f'prior_precision={prior_precision!r}; expected a number or "evidence"')
    if not 0 < prior_precision < math.inf:
        raise ValueError(
            f"prior_precision={prior_precision} is out of range: expected 0 < prior_precision"
        )
    return float(prior_precision)
