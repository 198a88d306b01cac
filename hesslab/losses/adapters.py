"""What a user calls a loss, as one of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from hesslab.losses.likelihoods import CrossEntropy, GaussianLikelihood, Loss, check_regression

LossLike: TypeAlias = Loss | nn.Module | Callable[[Tensor, Tensor], Tensor]
"""One of ours, ``torch.nn.CrossEntropyLoss``, ``MSELoss``, or any callable
``(outputs, targets) -> scalar mean over the batch``."""


def as_loss(loss: LossLike) -> Loss:
    """One of our losses for anything that a user calls a loss.

    Args:
        loss: one of this module, ``torch.nn.CrossEntropyLoss``, ``torch.nn.MSELoss``, or a plain
            callable ``(outputs [B, ...], targets) -> scalar``, the mean over the batch. torch's
            cross-entropy takes classes in dimension 1, ours in the last one: for outputs
            ``[B, C]`` they agree, others are refused. A subclass counts as a plain callable.

    Returns:
        An object with the methods of `Loss`.

    Raises:
        ValueError: an option of a torch loss that changes its mean: ``weight``, ``ignore_index``,
            or a ``reduction`` other than "mean".
        TypeError: it is not callable, or a class in place of an instance.
    """
    if isinstance(loss, type):
        raise TypeError(f"loss is the class {loss.__name__}; pass an instance, {loss.__name__}()")
    if isinstance(loss, Loss):
        return loss
    reduction = getattr(loss, "reduction", "mean")
    if reduction != "mean":
        raise ValueError(
            f'{type(loss).__name__} has reduction="{reduction}"; only the mean over examples has '
            'a defined curvature here: build it with reduction="mean"'
        )
    defaults: dict[str, int | None] = {"weight": None, "ignore_index": -100}
    for option, default in defaults.items() if isinstance(loss, nn.Module) else ():
        found = getattr(loss, option, default)
        if isinstance(found, Tensor) or found != default:
            raise ValueError(
                f"{type(loss).__name__}({option}=...) is not supported: it changes the mean over "
                f"examples; leave {option} at its default"
            )
    if type(loss) is nn.CrossEntropyLoss and not loss.label_smoothing:
        return _TorchCrossEntropy()
    if type(loss) is nn.MSELoss:
        return _MeanSquaredError()
    if not callable(loss):
        raise TypeError(
            f"loss is a {type(loss).__name__}; expected one of hesslab.losses, "
            "torch.nn.CrossEntropyLoss(), torch.nn.MSELoss() or a callable (outputs, targets)"
        )
    return _Callable(loss)


def is_plain(loss: Loss) -> bool:
    """Whether it stands for a plain callable of the user."""
    return isinstance(loss, _Callable)


class _MeanSquaredError(GaussianLikelihood):
    """``torch.nn.MSELoss()``: a noise variance of 1/2, and a mean over the D outputs as well."""

    def __init__(self) -> None:
        super().__init__(noise_variance=0.5)

    def __repr__(self) -> str:
        return "MSELoss()"

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        check_regression("MSELoss", outputs, targets)

    def count(self, outputs: Tensor) -> int:
        return outputs.numel()

    def value(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square()


class _TorchCrossEntropy(CrossEntropy):
    """``torch.nn.CrossEntropyLoss()`` on outputs ``[B, C]``."""

    def __repr__(self) -> str:
        return "CrossEntropyLoss()"

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        if outputs.ndim != 2:
            raise ValueError(
                f"the outputs have shape {tuple(outputs.shape)}; torch.nn.CrossEntropyLoss puts "
                "the classes in dimension 1 of such outputs: use hesslab.losses.CrossEntropy() "
                "with outputs [B, ..., C]"
            )
        super().check(outputs, targets)


class _Callable:
    """Any ``(outputs, targets) -> scalar mean over the batch``, differentiated by autograd."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._function = function

    def __repr__(self) -> str:
        name = getattr(self._function, "__name__", type(self._function).__name__)
        return f"{name} (differentiated by autograd)"

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        pass

    def count(self, outputs: Tensor) -> int:
        return len(outputs)

    def mean(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = self._function(outputs, targets)
        if not isinstance(loss, Tensor) or loss.ndim != 0:
            found = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(
                f"the loss returned {found}; expected a scalar tensor, the mean over the batch"
            )
        return loss

    def sum(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.mean(outputs, targets) * self.count(outputs)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._differentiated(outputs, targets, twice=False)[1]

    def hessian_product(self, outputs: Tensor, u: Tensor, targets: Tensor | None = None) -> Tensor:
        if targets is None:
            raise ValueError("the Hessian of a plain callable needs the targets")
        f, gradient = self._differentiated(outputs, targets, twice=True)
        if not gradient.requires_grad:  # the loss is linear in the outputs
            return torch.zeros_like(u)
        (product,) = torch.autograd.grad(gradient, f, u, materialize_grads=True)
        return product

    def _differentiated(
        self, outputs: Tensor, targets: Tensor, *, twice: bool
    ) -> tuple[Tensor, Tensor]:
        """The outputs as a leaf, and the gradient, as a function of it for a second derivative."""
        with torch.enable_grad():
            f = outputs.detach().requires_grad_()
            total = self.sum(f.clone(), targets)  # the function may work in place
            if not total.requires_grad:  # the outputs play no part
                return f, torch.zeros_like(f)
            (gradient,) = torch.autograd.grad(total, f, create_graph=twice, materialize_grads=True)
        return f, gradient
