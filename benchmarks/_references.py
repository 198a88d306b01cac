"""What products must be, in float64, and what they must cost, in multiplications."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from _networks import Setting
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

CHUNK = 64  # examples at a time, for memory


def flat(pieces: Tensor | Sequence[Tensor] | dict[str, Tensor]) -> Tensor:
    """What a candidate returned, as one vector or block of columns."""
    if isinstance(pieces, Tensor):
        return pieces
    tensors = pieces.values() if isinstance(pieces, dict) else pieces
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def references(s: Setting) -> dict[str, Tensor]:
    """Each product in float64, by reverse mode alone and torch's own loss."""
    model = copy.deepcopy(s.model).double()
    totals: dict[str, Tensor] = {}
    changes = []
    with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
        for start in range(0, len(s.x), CHUNK):
            x, y = s.x[start : start + CHUNK], s.y[start : start + CHUNK]
            outputs = model(x.double() if x.is_floating_point() else x)
            u = s.u.view(len(s.x), -1)[start : start + CHUNK].view_as(outputs).double()
            parts, change = _products(s, model, outputs, y, u)
            for name, part in parts.items():
                totals[name] = totals.get(name, 0) + part
            changes.append(change)
    return {**totals, "jvp": torch.cat(changes)}


def _products(
    s: Setting, model: torch.nn.Module, outputs: Tensor, y: Tensor, u: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    parameters = list(model.parameters())
    v, mixed = s.v.double(), s.V.double() @ s.mix.double()

    def grad(of: Any, by: Any, times: Any = None, keep: bool = True) -> tuple[Tensor, ...]:
        pieces: tuple[Tensor, ...] = torch.autograd.grad(
            of, by, times, create_graph=keep, retain_graph=True, materialize_grads=True
        )
        return pieces

    def ggn(direction: Tensor) -> tuple[Tensor, Tensor]:
        # J v is the derivative by w of (J^T w) . v
        w = torch.zeros_like(outputs, requires_grad=True)
        (change,) = grad(grad(outputs, parameters, w), w, s.split(direction), keep=False)
        (slope,) = grad(loss, outputs)
        (curved,) = grad(slope, outputs, change, keep=False)
        return flat(grad(outputs, parameters, curved, keep=False)), change.flatten()

    loss = s.loss(outputs, y) * len(y) / len(s.y)
    gradient = grad(loss, parameters)
    product, change = ggn(v)
    return {
        "gradient": flat(gradient).detach(),
        "hessian": flat(grad(gradient, parameters, s.split(v), keep=False)),
        "hessian block": flat(grad(gradient, parameters, s.split(mixed), keep=False)),
        "ggn": product,
        "ggn block": ggn(mixed)[0],
        "vjp": flat(grad(outputs, parameters, u, keep=False)),
    }, change


class _Multiplications(TorchFunctionMode):
    """Counts the multiplications of a forward pass, by what moves with the parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = {"first": 0, "inner": 0, "both": 0}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        counter = FlopCounterMode(display=False)
        with counter:
            result = func(*args, **(kwargs or {}))
        if macs := counter.get_total_flops() // 2:
            left, right = args[0], args[1]
            weights = isinstance(right, torch.nn.Parameter)
            kind = "both" if not weights else "inner" if left.requires_grad else "first"
            self.counts[kind] += macs
        return result


# Multiplications of a product in those of a forward pass. "inner": a layer whose input moves with
# the parameters, so that forward takes 1, a tangent 2 (of input and weight), a cotangent 2 and
# the tangent of a cotangent 4; a Hessian product needs no gradient of the weights themselves.
# "first": the input is data, without tangent or cotangent. "both": a product of two activations.
WORK = {
    "gradient": {"inner": 3, "first": 2, "both": 3},
    "hessian, first": {"inner": 8, "first": 3, "both": 9},
    "hessian": {"inner": 6, "first": 2, "both": 6},
    "ggn, first": {"inner": 5, "first": 3, "both": 5},
    "ggn": {"inner": 4, "first": 2, "both": 4},
    "jvp": {"inner": 2, "first": 1, "both": 2},
    "vjp": {"inner": 2, "first": 1, "both": 2},
}


def multiplications(s: Setting) -> dict[str, int]:
    """The fewest multiplications of each product on the setting's batch."""
    counter = _Multiplications()
    with sdpa_kernel(SDPBackend.MATH), counter:
        s.model(s.x)
    return {
        name: sum(times * counter.counts[kind] for kind, times in work.items())
        for name, work in WORK.items()
    }
