"""Networks, losses and data that every operator is compared on, with independent references.

Dense references are double backward over the flat parameter vector, all examples at once, in
float64: no batches, no ``torch.func`` transform, no closed form of the loss.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import hesslab as hl

N = 11  # a prime: every batch size leaves a ragged last batch


class Attention(nn.Module):
    """A small attention block with LayerNorm and GroupNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.group = nn.GroupNorm(2, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)  # [B, T, 4]
        n = self.norm(h)
        h = h + self.attention(n, n, n, need_weights=False)[0]
        h = self.group(h.movedim(1, 2)).movedim(1, 2)
        return self.head(torch.nn.functional.gelu(h).mean(1))


class TiedFrozenUnused(nn.Module):
    """Weights used twice, a frozen layer, and a parameter that plays no part."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.ones(2))
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.second(torch.tanh(self.first(x))))
        return self.head(torch.tanh(self.frozen(h)))


class Residual(nn.Module):
    """Two convolutions with frozen batch norm around which the signal may pass."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3, stride=2)
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(3))
        self.inner = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.outer = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.head = nn.Linear(3, 3)
        for norm in self.norms:
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 2)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norms[0](self.stem(x)))
        inner = torch.relu(self.norms[1](self.inner(h)))
        h = torch.relu(h + self.norms[2](self.outer(inner)))
        return self.head(h.mean((2, 3)))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: hl.models.mlp(4, 3, hidden=(5, 4), seed=0), (4,)),
    "cnn": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 3)
        ),
        (1, 8, 8),
    ),
    "residual": (Residual, (1, 8, 8)),
    "attention": (Attention, (5, 3)),
    "tied": (TiedFrozenUnused, (4,)),
}
LOSSES: dict[str, Callable[[], object]] = {
    "cross-entropy": hl.losses.CrossEntropy,
    "torch-cross-entropy": nn.CrossEntropyLoss,
    "gaussian": lambda: hl.losses.GaussianLikelihood(noise_variance=0.3),
    "torch-mse": nn.MSELoss,
    "callable": lambda: lambda f, y: nn.functional.smooth_l1_loss(f, y, beta=3.0),
}


@dataclass(frozen=True, eq=False)
class Case:
    """A network, a loss, data, and its dense reference."""

    model: nn.Module
    loss: object
    x: Tensor
    y: Tensor

    def names(self) -> list[str]:
        return [n for n, p in self.model.named_parameters() if p.requires_grad]

    def flat(self) -> Tensor:
        named = dict(self.model.named_parameters())
        return torch.cat([named[n].detach().flatten() for n in self.names()])

    def outputs(self, flat: Tensor) -> Tensor:
        """Outputs of all examples as a function of the flat vector of trainable parameters."""
        named = dict(self.model.named_parameters())
        pieces = flat.split([named[n].numel() for n in self.names()])
        state = {n: piece.view_as(named[n]) for n, piece in zip(self.names(), pieces, strict=True)}
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return torch.func.functional_call(self.model, state, (self.x,))

    def mean_loss(self, outputs: Tensor) -> Tensor:
        """The mean loss by torch alone."""
        if isinstance(self.loss, hl.losses.CrossEntropy | nn.CrossEntropyLoss):
            return nn.functional.cross_entropy(outputs, self.y)
        if isinstance(self.loss, hl.losses.GaussianLikelihood):
            variance = torch.full_like(outputs, self.loss.noise_variance)
            summed = nn.functional.gaussian_nll_loss(outputs, self.y, variance, reduction="sum")
            return summed / len(self.y)
        return self.loss(outputs, self.y)

    @functools.cached_property
    def hessian(self) -> Tensor:
        return torch.autograd.functional.hessian(
            lambda flat: self.mean_loss(self.outputs(flat)), self.flat()
        )

    @functools.cached_property
    def gradient(self) -> Tensor:
        flat = self.flat().requires_grad_()
        return torch.autograd.grad(self.mean_loss(self.outputs(flat)), flat)[0]

    @functools.cached_property
    def jacobian(self) -> Tensor:
        """``[N C, P]``."""
        J = torch.autograd.functional.jacobian(self.outputs, self.flat())
        return J.flatten(0, 1)

    @functools.cached_property
    def ggn(self) -> Tensor:
        """The explicit sum over examples and outputs, the loss Hessian by autograd."""
        outputs = self.outputs(self.flat()).detach()
        H = torch.autograd.functional.hessian(self.mean_loss, outputs)
        size = outputs.numel()
        return self.jacobian.T @ H.reshape(size, size) @ self.jacobian


@functools.cache
def case(model: str, loss: str) -> Case:
    """One of MODELS with one of LOSSES, in float64, on N random examples."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        build, shape = MODELS[model]
        network = build().double()
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(N, *shape, generator=generator, dtype=torch.float64)
    if "entropy" in loss:
        y = torch.randint(0, 3, (N,), generator=generator)
    else:
        y = torch.randn(N, 3, generator=generator, dtype=torch.float64)
    return Case(network, LOSSES[loss](), x, y)


def lap_times(A: hl.operators.Hessian, v: Tensor, times: int) -> list[float]:
    """Wall seconds of each of so many products."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        A @ v
        seconds.append(time.perf_counter() - start)
    return seconds
