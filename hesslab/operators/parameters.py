"""Which parameters of a model to differentiate by, and whether it has a derivative by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from hesslab.errors import NotDeterministic, NotFinite
from hesslab.operators.space import matching


def choose(named: Mapping[str, Tensor], patterns: str | Sequence[str] | None) -> list[str]:
    """The names that patterns choose of a model's parameters; None means those to be trained.

    Args:
        named: all parameters of the model.
        patterns: names or shell patterns.

    Returns:
        Names, in the model's order.

    Raises:
        ValueError: a pattern matches nothing, or nothing is left.
    """
    if patterns is None:
        chosen = [name for name, tensor in named.items() if tensor.requires_grad]
        if not chosen:
            raise ValueError(
                f"none of the model's {len(named)} parameters requires a gradient; "
                "name the wanted ones with parameters=[...]"
            )
        return chosen
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    if not patterns:
        raise ValueError("parameters=[] names none; leave it out for all that require a gradient")
    found, idle = matching(named, patterns)
    if idle:
        raise ValueError(
            f"parameters={idle[0]!r} matches no parameter; the model has {', '.join(named)}"
        )
    return found


def first_names(model: nn.Module) -> dict[str, str]:
    """Each place of a parameter or buffer, with the name under which ``model`` lists it."""
    names: dict[str, str] = {}
    for listed in ("named_parameters", "named_buffers"):
        first = {id(tensor): name for name, tensor in getattr(model, listed)()}
        for prefix, module in model.named_modules():
            for local, tensor in getattr(module, listed)(recurse=False, remove_duplicate=False):
                names[f"{prefix}.{local}".lstrip(".")] = first[id(tensor)]
    return names


def check_parameters(chosen: Mapping[str, Tensor], named: Mapping[str, Tensor]) -> None:
    """Refuse parameters by which products cannot be taken.

    Args:
        chosen: those to differentiate by.
        named: all of the model.

    Raises:
        ValueError: they mix dtypes or devices, or are of one that is not supported.
        NotFinite: one of the model holds NaN or infinite values.
    """
    for what in ("dtype", "device"):
        kinds: dict[str, str] = {}
        for name, tensor in named.items():
            kinds.setdefault(str(getattr(tensor, what)), name)
        if len(kinds) > 1:
            found = " and ".join(f"{kind} ({name})" for kind, name in kinds.items())
            raise ValueError(
                f"the model mixes parameters of {what} {found}; products need one {what}: "
                "convert the whole model with model.to(...)"
            )
    first = next(iter(chosen.values()))
    if first.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"the parameters are {first.dtype}; products are taken in float32 or float64: "
            "convert the model with model.float()"
        )
    if first.device.type == "mps":
        raise ValueError(
            "the model is on mps, which has no float64 for the sums; move it to the CPU"
        )
    for name, tensor in named.items():
        if not bool(tensor.isfinite().all()):
            raise NotFinite(
                f"the parameter {name} holds NaN or infinite values; the training diverged, or "
                "the file that it was loaded from is damaged"
            )


def refuse_random_layers(model: nn.Module) -> None:
    """Refuse a model whose forward draws random numbers, or moves statistics.

    Raises:
        NotDeterministic: dropout is active.
        ValueError: an instance norm would update its statistics.
    """
    for name, module in model.named_modules():
        kind = f"{name or 'the model'} ({type(module).__name__})"
        if isinstance(module, _DropoutNd) and module.training and module.p > 0:
            raise NotDeterministic(
                f"dropout is active: {kind} is in training mode, so that each product would be "
                "taken of another function; call model.eval() first"
            )
        if isinstance(module, nn.RNNBase) and module.training and module.dropout > 0:
            raise NotDeterministic(
                f"dropout is active between the layers of {kind}; call model.eval() first"
            )
        in_training = isinstance(module, _InstanceNorm) and module.training
        if in_training and module.running_mean is not None:
            raise ValueError(f"{kind} is in training mode and would update its statistics")
