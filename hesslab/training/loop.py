"""The training loop."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from hesslab.data.batches import DataLike, as_batches
from hesslab.errors import NotFinite
from hesslab.losses import LossLike, as_loss
from hesslab.training.feed import data_fingerprint, make_feed
from hesslab.training.history import History
from hesslab.training.optimizers import (
    OptimizerLike,
    ScheduleLike,
    describe_optimizer,
    describe_schedule,
    make_optimizer,
    make_schedule,
)
from hesslab.training.run import Run


# More lines than a function should have: two thirds are the docstring of thirteen arguments.
def fit(
    model: nn.Module,
    loss: LossLike,
    train: DataLike,
    *,
    test: DataLike | None = None,
    optimizer: OptimizerLike = "adam",
    lr: float | None = None,
    schedule: ScheduleLike = None,
    epochs: int,
    batch_size: int = 128,
    seed: int = 0,
    early_stop: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    tracker: Callable[[nn.Module, int], None] | None = None,
    progress: bool | None = None,
) -> History:
    r"""Train a model in place: one step of the optimizer per batch.

    The model stays on its device, where the batches are moved to; it is trained in training mode
    and gets the modes of its modules back. The same seed gives the same weights on the same
    device. torch's global random state is left as it was. A caller's ``torch.no_grad`` or
    ``torch.inference_mode`` does not reach into the training.

    Args:
        model: any module; only parameters that require a gradient are trained.
        loss: one of ``hesslab.losses``, ``torch.nn.CrossEntropyLoss()``, ``torch.nn.MSELoss()``
            or a callable ``(outputs, targets) -> scalar mean``.
        train: a Dataset or a pair of tensors, shuffled anew in each epoch, or a re-iterable of
            batches such as a ``DataLoader``, which keeps its own order and batch size.
        test: evaluated after each epoch; same kinds, in a fixed order.
        optimizer: a name, a callable from parameters to an optimizer, or an optimizer of the
            model's parameters. It is called with a closure, so that L-BFGS works too.
        lr: learning rate of a named optimizer, None means 1e-3; the others bring their own.
        schedule: None for a constant rate, "cosine" down to 0 at the last step, or a callable
            from the optimizer to a scheduler, which is stepped once per batch.
        epochs: passes over the training data.
        batch_size: examples per batch; the last one of an epoch is ragged.
        seed: of the order of the examples and of what the model draws itself (dropout).
        early_stop: stop when the test loss has not fallen for so many epochs, and return the
            weights of the best one; this makes the test data a part of the training.
        checkpoint: a file written after each epoch. If it exists, the run is resumed from it and
            the model's weights are replaced. The result has the same bits as without the
            interruption, a shuffling loader's included, unless the batches or the model draw
            from a generator of their own (``DataLoader(generator=...)``, persistent workers,
            NumPy), whose state is not kept. The content of a loader is not compared.
        tracker: called with the model and the number of steps made, before the first step and
            after each: a `CurvatureTracker`, or a function that leaves the model as it is.
        progress: show a progress bar; None means on a terminal only.

    Returns:
        The history, one entry per epoch.

    Raises:
        ValueError: an option is out of range, the data does not fit the model, or the checkpoint
            is of other settings.
        TypeError: an argument is of the wrong kind.
        NotFinite: a loss is NaN or infinite, and training stops before the step, or a parameter
            is, which is looked at after each epoch, before its checkpoint is written. The message
            names epoch and learning rate, and the batch of a loss.

    Cost: ``epochs`` passes of a forward and a backward, and a forward of the test data after each.

    Example:
        >>> x = torch.linspace(-1, 1, 20).unsqueeze(1)
        >>> model = torch.nn.Linear(1, 1)
        >>> history = fit(model, torch.nn.MSELoss(), (x, 2 * x), lr=0.1, epochs=200)
        >>> round(model.weight.item(), 2)
        2.0
    """
    _check_counts(epochs=epochs, batch_size=batch_size, early_stop=early_stop)
    if early_stop is not None and test is None:
        raise ValueError(f"early_stop={early_stop} needs test data to watch; pass test=")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed is a {type(seed).__name__}; expected an int")
    device, dtype = _place(model)
    with left_as_found(model, device):  # to begin to iterate over a loader draws a number, too
        feed = make_feed(train, batch_size=batch_size, device=device, dtype=dtype, seed=seed)
        run = Run(model, as_loss(loss), feed, device, seed)
        run.tracker = tracker
        if test is not None:
            run.test = as_batches(test, batch_size=batch_size, device=device, dtype=dtype)
        run.optimizer = make_optimizer(optimizer, model, lr)
        run.schedule = make_schedule(schedule, run.optimizer, lambda: epochs * len(feed))
        if checkpoint is not None:
            run.path = Path(checkpoint)
            run.settings = {
                "model": _describe_model(model),
                "loss": repr(run.loss),
                "train": feed.fingerprint(),
                "test": data_fingerprint(test),
                "optimizer": describe_optimizer(run.optimizer),
                "schedule": describe_schedule(run.schedule, epochs),
                "batch_size": str(batch_size),
                "seed": str(seed),
                "early_stop": str(early_stop),
            }
        return run.go(epochs, early_stop, progress)


def _check_counts(**counts: int | None) -> None:
    for name, count in counts.items():
        if count is None:
            continue
        if isinstance(count, bool) or not isinstance(count, int):
            raise TypeError(f"{name} is a {type(count).__name__} ({count}); expected an int")
        if count < 1:
            raise ValueError(f"{name}={count} is out of range: expected {name} >= 1")


def _place(model: nn.Module) -> tuple[torch.device, torch.dtype | None]:
    """Device and dtype of the parameters, refusing what cannot be trained."""
    parameters = dict(model.named_parameters())
    if not any(p.requires_grad for p in parameters.values()):
        raise ValueError("the model has no parameter that requires a gradient; nothing to train")
    devices = {p.device for p in parameters.values()}
    if len(devices) > 1:
        raise ValueError(
            f"the model is on several devices ({', '.join(sorted(map(str, devices)))}); move it "
            "to one with model.to(device)"
        )
    for name, parameter in parameters.items():
        if parameter.is_inference():
            raise ValueError(
                f"the parameter {name} was made under torch.inference_mode and can have no "
                "gradient; build the model outside of it"
            )
        if not bool(parameter.isfinite().all()):
            raise NotFinite(f"the parameter {name} holds NaN or infinite values before training")
    dtypes = {p.dtype for p in parameters.values()}
    return devices.pop(), dtypes.pop() if len(dtypes) == 1 else None


def _describe_model(model: nn.Module) -> str:
    """Class, size and a digest of names, shapes and dtypes; not the weights."""
    shapes = [f"{name} {tuple(p.shape)} {p.dtype}" for name, p in model.state_dict().items()]
    digest = hashlib.blake2b("\n".join(shapes).encode(), digest_size=8).hexdigest()
    count = sum(p.numel() for p in model.parameters())
    return f"{type(model).__name__} of {count} parameters (shapes {digest})"


@contextmanager
def left_as_found(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Record gradients; then give modules their modes back, and global generators their states."""
    modes = {module: module.training for module in model.modules()}
    devices = [device] if device.type == "cuda" else []
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.random.fork_rng(devices=devices),
        ):
            yield
    finally:
        for module, training in modes.items():
            module.training = training
