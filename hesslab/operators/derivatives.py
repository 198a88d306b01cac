"""Where torch differentiates a forward in one mode otherwise than in another, or wrongly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]


class SameDerivatives(TorchFunctionMode):
    """Functions under this mode have the derivatives that backward mode takes, in every mode.

    - Regions under ``torch.no_grad`` and ``.data`` become detached tensors: forward mode would
      differentiate through both, and a trace writes neither down.
    - The padding row of an embedding is held fixed, which forward mode would let move.
    - ``torch._weight_norm`` becomes plain operations: its second derivative is wrong in torch 2.13.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func == DATA:
            return args[0].detach()
        func = _REPLACED.get(func, func)
        if not torch.is_grad_enabled() and func is not torch._C._set_grad_enabled:
            args, kwargs = tree_map_only(Tensor, torch.Tensor.detach, (args, kwargs))
        return func(*args, **kwargs)


def has_weight_norm(model: nn.Module) -> bool:
    """Whether a module is normed by one of torch's two functions of the name."""
    parts = (part for m in model.modules() for part in (m, *m._forward_pre_hooks.values()))
    return any(type(part).__name__.lstrip("_") == "WeightNorm" for part in parts)


def _embedding(
    input: Tensor, weight: Tensor, padding_idx: int | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    found = functional.embedding(input, weight, padding_idx, *args, **kwargs)
    if padding_idx is None:
        return found
    fixed = input == padding_idx % len(weight)
    return torch.where(fixed.unsqueeze(-1), found.detach(), found)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """``v`` with norm ``g``, one for each index of dimension ``dim``; with -1, one for all."""
    others = [i for i in range(v.ndim) if dim == -1 or i != dim % v.ndim]
    normed: Tensor = v * (g / torch.linalg.vector_norm(v, dim=others, keepdim=True))
    return normed


_REPLACED = {torch._weight_norm: _weight_norm, functional.embedding: _embedding}
