"""The networks on which products are measured, and what a product multiplies there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

import hesslab as hl

CHARACTERS, LENGTH, WIDTH, HEADS = 64, 64, 128, 4


class CharacterBlock(nn.Module):
    """One causal transformer block on characters ``[B, T]``, logits ``[B, T, C]``."""

    def __init__(self) -> None:
        super().__init__()
        self.characters = nn.Embedding(CHARACTERS, WIDTH)
        self.positions = nn.Parameter(0.02 * torch.randn(LENGTH, WIDTH))
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(WIDTH) for _ in range(3))
        self.queries_keys_values = nn.Linear(WIDTH, 3 * WIDTH)
        self.mixed = nn.Linear(WIDTH, WIDTH)
        self.inner, self.outer = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CHARACTERS)

    def forward(self, x: Tensor) -> Tensor:
        h = self.characters(x) + self.positions
        h = h + self._attention(self.norm1(h))
        h = h + self.outer(functional.gelu(self.inner(self.norm2(h))))
        logits: Tensor = self.head(self.norm3(h))
        return logits

    def _attention(self, h: Tensor) -> Tensor:
        heads = self.queries_keys_values(h).unflatten(-1, (3, HEADS, -1))  # [B, T, 3, heads, d]
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        joined: Tensor = self.mixed(mixed.transpose(1, 2).flatten(-2))
        return joined


class CrossEntropyOfPositions(nn.CrossEntropyLoss):
    """torch's cross-entropy on outputs ``[B, ..., C]``: each position is a term of the mean."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return super().forward(input.flatten(0, -2), target.flatten())


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet20": (lambda: hl.models.resnet(20), (3, 32, 32)),
    "resnet32": (lambda: hl.models.resnet(32), (3, 32, 32)),
    "resnet18": (lambda: hl.models.resnet(18), (3, 32, 32)),
    "vgg11": (lambda: hl.models.vgg(11), (3, 32, 32)),
    "gpt": (CharacterBlock, (LENGTH,)),
    "mlp": (lambda: hl.models.mlp(784, 10, hidden=(512, 512), activation="relu"), (784,)),
}
TINY = "tiny"  # takes what a process pays only once: the first trace, the first kernel


@dataclass
class Setting:
    """One network at one point with one batch, and what is multiplied."""

    model: nn.Module
    loss: nn.CrossEntropyLoss
    our_loss: hl.losses.CrossEntropy
    x: Tensor
    y: Tensor
    v: Tensor  # [P]
    V: Tensor  # [P, K]
    mix: Tensor  # [K]: a block is compared by one combination of its columns
    u: Tensor  # [B T C], in the order of the outputs

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    def split(self, v: Tensor) -> list[Tensor]:
        """A vector ``[P]`` as tensors of the parameters' shapes."""
        pieces = v.split([p.numel() for p in self.parameters])
        return [piece.view_as(p) for piece, p in zip(pieces, self.parameters, strict=True)]


def setting(network: str, batch: int, *, device: str, columns: int) -> Setting:
    """The same numbers in every process and on every device."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        build, shape = NETWORKS.get(network, (lambda: hl.models.mlp(4, 3, hidden=(5,)), (4,)))
        model = build()
        x, y = _examples(model, shape, batch)
        _settle_norms(model, x)
        outputs = model(x)
        size = sum(p.numel() for p in model.parameters())
        v, V = torch.randn(size), torch.randn(size, columns)
        mix, u = torch.randn(columns), torch.randn(outputs.numel())
    moved = [tensor.to(device) for tensor in (x, y, v, V, mix, u)]
    loss = CrossEntropyOfPositions() if outputs.ndim > 2 else nn.CrossEntropyLoss()
    return Setting(model.to(device), loss, hl.losses.CrossEntropy(), *moved)


def _examples(model: nn.Module, shape: tuple[int, ...], batch: int) -> tuple[Tensor, Tensor]:
    if isinstance(model, CharacterBlock):
        text = torch.randint(0, CHARACTERS, (batch, LENGTH + 1))
        return text[:, :-1].contiguous(), text[:, 1:].contiguous()
    classes = 3 if shape == (4,) else 10
    return torch.randn(batch, *shape), torch.randint(0, classes, (batch,))


def _settle_norms(model: nn.Module, x: Tensor) -> None:
    """Running statistics as training leaves them: those of the data. Then eval mode."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()
    with torch.no_grad():
        model(x)
    for norm in norms:
        norm.momentum = 0.1
    model.eval()
