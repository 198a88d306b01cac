"""From what a user names or builds to a torch optimizer and its schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, ReduceLROnPlateau

OptimizerLike: TypeAlias = (
    Literal["adam", "adamw", "sgd"] | Optimizer | Callable[[Iterable[nn.Parameter]], Optimizer]
)
"""A name, an optimizer of the model's parameters, or a callable that makes one of them."""
ScheduleLike: TypeAlias = Literal["cosine"] | Callable[[Optimizer], LRScheduler] | None
"""A name, a callable that makes a scheduler of an optimizer, or None for a constant rate."""

_OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}
_DEFAULT_RATE = 1e-3


def make_optimizer(optimizer: OptimizerLike, model: nn.Module, lr: float | None) -> Optimizer:
    """An optimizer of the model's trainable parameters.

    Args:
        optimizer: see `OptimizerLike`.
        model: its parameters are trained where they require a gradient.
        lr: learning rate of a named optimizer; None means 1e-3.

    Returns:
        The optimizer, the given one where it is one.

    Raises:
        ValueError: the name is unknown, the rate out of range or given twice, or the optimizer
            holds other parameters than the model's.
        TypeError: it is none of the three kinds.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if lr is not None and not (0 < lr < math.inf):
        raise ValueError(f"lr={lr} is out of range: expected 0 < lr")
    if isinstance(optimizer, str):
        if optimizer not in _OPTIMIZERS:
            known = ", ".join(f'"{name}"' for name in _OPTIMIZERS)
            raise ValueError(
                f'optimizer="{optimizer}" is unknown; expected one of {known}, a torch optimizer, '
                "or a callable that makes one of the parameters"
            )
        return _OPTIMIZERS[optimizer](parameters, lr=_DEFAULT_RATE if lr is None else lr)
    if lr is not None:
        raise ValueError(
            f"lr={lr} is given beside an optimizer that has its own; set it there, "
            'or name the optimizer (optimizer="adam")'
        )
    made = optimizer if isinstance(optimizer, Optimizer) else _call(optimizer, parameters)
    ours = {id(p) for p in model.parameters()}
    theirs = {id(p) for group in made.param_groups for p in group["params"]}
    if not theirs <= ours:
        raise ValueError(
            f"the optimizer holds {len(theirs - ours)} parameters that are not the model's; was "
            "the model rebuilt or moved after the optimizer was made? Pass a callable instead, "
            "such as optimizer=lambda p: torch.optim.SGD(p, lr=0.1)"
        )
    return made


def _call(optimizer: Any, parameters: list[nn.Parameter]) -> Optimizer:
    made = optimizer(parameters) if callable(optimizer) else optimizer
    if not isinstance(made, Optimizer):
        raise TypeError(
            f"optimizer gives a {type(made).__name__}; expected a torch.optim.Optimizer, a name, "
            "or a callable that makes one of the parameters"
        )
    return made


def make_schedule(
    schedule: ScheduleLike, optimizer: Optimizer, steps: Callable[[], int]
) -> LRScheduler | None:
    """The schedule of the learning rate, stepped once per batch.

    Args:
        schedule: see `ScheduleLike`; "cosine" goes from the optimizer's rate to 0 along half a
            cosine.
        optimizer: whose rates it sets.
        steps: gives the batches of the whole training, called where they are needed.

    Returns:
        A scheduler, or None for a constant rate.

    Raises:
        ValueError: the name is unknown, or the schedule needs a measurement at each step.
        TypeError: it is neither a name nor makes a scheduler.
    """
    if schedule is None:
        return None
    if isinstance(schedule, str):
        if schedule != "cosine":
            raise ValueError(
                f'schedule="{schedule}" is unknown; expected "cosine", None, or a callable that '
                "makes a scheduler of the optimizer"
            )
        return CosineAnnealingLR(optimizer, T_max=steps())
    made: Any = schedule(optimizer) if callable(schedule) else schedule
    if isinstance(made, ReduceLROnPlateau):
        raise ValueError(
            "ReduceLROnPlateau asks for a measurement at each step, but schedules are stepped "
            'once per batch here; use a schedule of the step, such as "cosine"'
        )
    if not isinstance(made, LRScheduler):
        raise TypeError(
            f"schedule gives a {type(made).__name__}; expected a scheduler of "
            "torch.optim.lr_scheduler, such as schedule=lambda o: StepLR(o, step_size=100)"
        )
    return made


def describe_optimizer(optimizer: Optimizer) -> str:
    """Its class and settings, for a checkpoint; a rate is the one before any schedule."""
    groups = []
    for group in optimizer.param_groups:
        settings = {k: v for k, v in group.items() if k not in ("params", "initial_lr")}
        settings["lr"] = group.get("initial_lr", group["lr"])
        groups.append(", ".join(f"{name}={settings[name]}" for name in sorted(settings)))
    return f"{type(optimizer).__name__}({'; '.join(groups)})"


def describe_schedule(scheduler: LRScheduler | None, epochs: int) -> str:
    """Its class and settings, for a checkpoint; a schedule may depend on the number of epochs."""
    if scheduler is None:
        return "constant"
    settings = {
        name: value
        for name, value in vars(scheduler).items()
        if not name.startswith("_")
        and name not in ("last_epoch", "verbose")
        and isinstance(value, int | float | str)
    }
    text = ", ".join(f"{name}={settings[name]}" for name in sorted(settings))
    return f"{type(scheduler).__name__}({text}) over {epochs} epochs"
