"""The two everyday likelihoods, per example, with closed forms of their derivatives."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class Loss(Protocol):
    """What an operator asks of a loss. Sums are over examples (and positions), never means."""

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise ValueError where targets do not fit the outputs."""

    def count(self, outputs: Tensor) -> int:
        """How many terms the mean over these outputs has."""

    def sum(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum of the terms, a scalar, differentiable in the outputs."""

    def mean(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean of the terms, a scalar, differentiable in the outputs."""

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The gradient of `sum` with respect to the outputs, of their shape."""

    def hessian_product(self, outputs: Tensor, u: Tensor, targets: Tensor | None = None) -> Tensor:
        """The Hessian of `sum` with respect to the outputs, times ``u`` of their shape."""


class _PerExample:
    """The sums and means of a loss that has a value per example."""

    def value(self, outputs: Tensor, targets: Tensor) -> Tensor:
        raise NotImplementedError

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        raise NotImplementedError

    def count(self, outputs: Tensor) -> int:
        """How many terms the mean over outputs ``[B, ..., C]`` has: examples times positions."""
        return math.prod(outputs.shape[:-1])

    def sum(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum of `value` over examples and positions, a scalar."""
        return self.value(outputs, targets).sum()

    def mean(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean of `value` over examples and positions, a scalar."""
        self.check(outputs, targets)
        return self.value(outputs, targets).mean()


class CrossEntropy(_PerExample):
    r"""The negative log-likelihood of a softmax classifier, in nats.

    :math:`\ell(f, y) = \log \sum_c e^{f_c} - f_y`. Outputs ``[B, ..., C]`` are logits, targets
    ``[B, ...]`` are class numbers (int64) in 0..C-1.
    """

    def __repr__(self) -> str:
        return "CrossEntropy()"

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Check that targets are class numbers that fit the outputs.

        Raises:
            ValueError: shapes disagree, targets are no int64 or out of range.
        """
        if targets.dtype != torch.int64:
            raise ValueError(
                f"the targets are {targets.dtype}, but CrossEntropy takes class numbers (int64); "
                "convert them with y.long(), or use GaussianLikelihood for regression"
            )
        if outputs.ndim < 2 or targets.shape != outputs.shape[:-1]:
            raise ValueError(
                f"the targets have shape {tuple(targets.shape)} and the outputs "
                f"{tuple(outputs.shape)}; CrossEntropy expects outputs [B, ..., C] and targets "
                "[B, ...]"
            )
        classes = outputs.shape[-1]
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= classes:
            raise ValueError(
                f"the targets are in {low}..{high}, but the model has {classes} outputs, so they "
                f"must be in 0..{classes - 1}; is the last layer wide enough?"
            )

    def value(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Nats per example ``[B, ...]``."""
        logits = outputs.movedim(-1, 1)
        return nn.functional.cross_entropy(logits, targets, reduction="none")

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        r""":math:`p - e_y`, of the outputs' shape."""
        others = outputs.softmax(-1).scatter(-1, targets.unsqueeze(-1), 0.0)
        # p - 1 as a sum, or a sure prediction would leave rounding alone
        return others.scatter(-1, targets.unsqueeze(-1), -others.sum(-1, keepdim=True))

    def hessian_product(self, outputs: Tensor, u: Tensor, targets: Tensor | None = None) -> Tensor:
        r""":math:`(\mathrm{diag}(p) - p p^T) u`, never forming the matrix; targets play no part."""
        p = outputs.softmax(-1)
        # Relative to the likeliest class, or the largest terms of a sure prediction would cancel.
        u = u - u.gather(-1, outputs.argmax(-1, keepdim=True))
        return p * (u - (p * u).sum(-1, keepdim=True))

    def hessian_sqrt_product(self, outputs: Tensor, u: Tensor) -> Tensor:
        r""":math:`S u` with :math:`S = \mathrm{diag}(\sqrt p) - p \sqrt p^T`."""
        p = outputs.softmax(-1)
        root = p.sqrt() * u
        return root - p * root.sum(-1, keepdim=True)

    def hessian_sqrt_transpose_product(self, outputs: Tensor, u: Tensor) -> Tensor:
        r""":math:`S^T u`, the transpose of `hessian_sqrt_product`."""
        p = outputs.softmax(-1)
        return p.sqrt() * (u - (p * u).sum(-1, keepdim=True))

    def hessian(self, outputs: Tensor) -> Tensor:
        r""":math:`\mathrm{diag}(p) - p p^T` as ``[B, ..., C, C]``, for small C."""
        p = outputs.softmax(-1)
        return torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)

    def sample_targets(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Class numbers ``[B, ...]`` drawn from the model's own predictions."""
        p = outputs.softmax(-1)
        drawn = torch.multinomial(p.flatten(0, -2), 1, generator=generator)
        return drawn.view(p.shape[:-1])


class GaussianLikelihood(_PerExample):
    r"""The negative log-likelihood of regression with Gaussian noise of known variance, in nats.

    :math:`\ell(f, y) = \|f - y\|^2 / (2 s^2) + D/2 \log(2 \pi s^2)`, :math:`s^2` the noise
    variance. Outputs and targets ``[B, ..., D]``.

    Args:
        noise_variance: variance of each target around its mean, in squared units of the targets.
    """

    def __init__(self, noise_variance: float) -> None:
        if not (0 < noise_variance < math.inf):
            raise ValueError(
                f"noise_variance={noise_variance} is out of range: expected 0 < noise_variance"
            )
        self.noise_variance = float(noise_variance)

    def __repr__(self) -> str:
        return f"GaussianLikelihood(noise_variance={self.noise_variance:g})"

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Check that targets have the outputs' shape and dtype.

        Raises:
            ValueError: they have not.
        """
        check_regression("GaussianLikelihood", outputs, targets)
        if outputs.ndim < 2:
            raise ValueError(
                f"the outputs have shape {tuple(outputs.shape)}; GaussianLikelihood expects "
                "[B, ..., D], also for D = 1: let the model keep its last dimension"
            )

    def value(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Nats per example ``[B, ...]``."""
        squares = (outputs - targets).square().sum(-1)
        constant = outputs.shape[-1] / 2 * math.log(2 * math.pi * self.noise_variance)
        return squares / (2 * self.noise_variance) + constant

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        r""":math:`(f - y) / s^2`, of the outputs' shape."""
        return (outputs - targets) / self.noise_variance

    def hessian_product(self, outputs: Tensor, u: Tensor, targets: Tensor | None = None) -> Tensor:
        r""":math:`u / s^2`; outputs and targets play no part."""
        return u / self.noise_variance

    def hessian_sqrt_product(self, outputs: Tensor, u: Tensor) -> Tensor:
        """:math:`S u = u / s`."""
        return u / math.sqrt(self.noise_variance)

    def hessian_sqrt_transpose_product(self, outputs: Tensor, u: Tensor) -> Tensor:
        """:math:`S^T u = u / s`."""
        return u / math.sqrt(self.noise_variance)

    def hessian(self, outputs: Tensor) -> Tensor:
        """:math:`I / s^2` as ``[B, ..., D, D]``."""
        eye = torch.eye(outputs.shape[-1], dtype=outputs.dtype, device=outputs.device)
        return (eye / self.noise_variance).expand(*outputs.shape, outputs.shape[-1])

    def sample_targets(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Targets of the outputs' shape drawn from the model's own predictions."""
        noise = torch.randn(
            outputs.shape, dtype=outputs.dtype, device=outputs.device, generator=generator
        )
        return outputs + math.sqrt(self.noise_variance) * noise


def check_regression(name: str, outputs: Tensor, targets: Tensor) -> None:
    """Refuse regression targets that have not the shape and dtype of the outputs."""
    if targets.shape != outputs.shape:
        raise ValueError(
            f"the targets have shape {tuple(targets.shape)} and the outputs "
            f"{tuple(outputs.shape)}; {name} expects equal shapes [B, ..., D] "
            "(a missing last dimension is added by y.unsqueeze(-1))"
        )
    if targets.dtype != outputs.dtype:
        raise ValueError(
            f"the targets are {targets.dtype} and the outputs {outputs.dtype}; {name} expects "
            f"equal dtypes: convert with y.to({outputs.dtype})"
        )
