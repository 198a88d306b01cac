"""A whole network through the operators, against double backward in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import hesslab as hl
from hesslab.operators.engine import forward, reverse
from hesslab.operators.engine.operations import UNARY, aten
from tests.operators.engine.graphs import randn

N, CLASSES = 5, 3
LOSS = nn.CrossEntropyLoss()
TOLERANCE = {"rtol": 1e-10, "atol": 1e-12}


class Plain(nn.Module):
    """``function(self, x)`` with layers ``a``, ``b``, ... and parameters."""

    def __init__(self, function: Callable[..., Tensor], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            tensor = isinstance(part, Tensor)
            setattr(self, name, nn.Parameter(part) if tensor else part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def flat(*layers: nn.Module, shape: tuple[int, ...]) -> nn.Sequential:
    """Layers, and a last one from all their outputs to the classes."""
    body = nn.Sequential(*layers, nn.Flatten())
    modes = [module.training for module in body.modules()]
    with torch.no_grad():
        size = body.eval()(torch.zeros(2, *shape)).shape[1]
    for module, mode in zip(body.modules(), modes, strict=True):
        module.training = mode
    return nn.Sequential(body, nn.Linear(size, CLASSES))


def built(make: Callable[[], nn.Module]) -> nn.Module:
    """In float64, the same at each call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().double()


def examples(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Inputs and classes."""
    y = torch.randint(0, CLASSES, (N,), generator=torch.Generator().manual_seed(1))
    return randn(N, *shape), y


def products(model: nn.Module, x: Tensor, y: Tensor, v: Tensor) -> dict[str, Tensor]:
    """The Hessian and the GGN times a vector by double backward alone."""
    leaves = [p for p in model.parameters() if p.requires_grad]
    pieces = v.split([p.numel() for p in leaves])
    direction = [piece.view_as(p) for piece, p in zip(pieces, leaves, strict=True)]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        outputs = model(x)
    gradient = _by(LOSS(outputs, y), leaves)
    hessian = _by(_dot(gradient, direction), leaves)
    u = torch.zeros_like(outputs, requires_grad=True)
    change = _by(_dot(_by(_dot([outputs], [u]), leaves), direction), [u])[0].detach()
    by_outputs = torch.autograd.functional.hvp(lambda f: LOSS(f, y), outputs.detach(), change)[1]
    ggn = _by(_dot([outputs], [by_outputs]), leaves)
    return {name: torch.cat([piece.detach().flatten() for piece in found]) for name, found in (
        ("Hessian", hessian), ("GGN", ggn))}  # fmt: skip


def _by(total: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    if not total.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return list(
        torch.autograd.grad(
            total, leaves, create_graph=True, allow_unused=True, materialize_grads=True
        )
    )


def _dot(values: list[Tensor], weights: list[Tensor]) -> Tensor:
    return sum(((a * b).sum() for a, b in zip(values, weights, strict=True)), torch.zeros(()))


def check(model: nn.Module, x: Tensor, y: Tensor, *, traced: bool = True) -> list[Any]:
    """Products of every route equal the reference; the operators."""
    found = []
    for name in ("Hessian", "GGN"):
        A = getattr(hl, name)(model, LOSS, (x, y))
        V = randn(A.shape[1], 2)
        expected = torch.stack([products(model, x, y, v)[name] for v in V.T], 1)
        # One vector while streaming, a block that keeps its residuals, and one that reads them.
        for _ in range(2):
            torch.testing.assert_close(A @ V[:, 0].contiguous(), expected[:, 0], **TOLERANCE)
            torch.testing.assert_close(A @ V, expected, **TOLERANCE)
        assert (A.plan.traced is not None) is traced, A.plan
        assert "one by one" not in repr(A.plan)
        found.append(A)
    return found


def without_rule(A: Any) -> set[str]:
    """The operations of a traced network, on the way of a derivative, that have no rule."""
    ruled = (set(forward.RULES) | set(forward.MULTILINEAR)) & {*reverse.RULES, aten.cat.default}
    names = set()
    for point in A.plan.traced._points.values():
        nodes = [node for node in point.program._head.nodes if node.op == "call_function"]
        for node in nodes:
            value = node.meta["val"]
            parts = value if isinstance(value, tuple | list) else [value]
            real = any(part is not None and part.is_floating_point() for part in parts)
            plain = node.target in ruled or node.target in UNARY or not node.all_input_nodes
            if real and not plain and "getitem" not in str(node.target):
                names.add(str(node.target))
    return names
