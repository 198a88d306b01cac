"""The state of one training, and its steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from hesslab.data.batches import Batches
from hesslab.errors import NotFinite
from hesslab.losses import Loss
from hesslab.training.checkpoint import compare_settings, read_checkpoint, write_checkpoint
from hesslab.training.feed import Loaded, Shuffled, stream_seed
from hesslab.training.history import History, Record


class Run:
    """One training, from its first epoch or from a checkpoint; built and started by `fit`."""

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        feed: Shuffled | Loaded,
        device: torch.device,
        seed: int,
    ) -> None:
        self.model, self.loss, self.feed, self.device, self.seed = model, loss, feed, device, seed
        self.test: Batches | None = None
        self.optimizer: Optimizer
        self.schedule: LRScheduler | None = None
        self.tracker: Callable[[nn.Module, int], None] | None = None
        self.path: Path | None = None
        self.settings: dict[str, str] = {}
        self.record = Record()
        self.best: dict[str, Tensor] | None = None
        self.stopped = False

    def go(self, epochs: int, early_stop: int | None, progress: bool | None) -> History:
        """Train what is left to train."""
        if self.path is not None and self.path.exists():
            self._resume(self.path, epochs)
        if self.test is not None:
            self._look(*self.test.first())
        left = range(len(self.record) + 1, 1 if self.stopped else epochs + 1)
        disable = None if progress is None else not progress
        with tqdm(total=len(left), desc="training", unit="epoch", disable=disable) as bar:
            for epoch in left:
                self._epoch(epoch)
                if early_stop is not None:
                    self._watch(epoch, early_stop)
                if self.path is not None:
                    self._save(self.path)
                bar.set_postfix_str(f"loss {self.record.columns['train_loss'][-1]:.4g}")
                bar.update()
                if self.stopped:
                    break
        if self.best is not None:
            self.model.load_state_dict(self.best)
        return self.record.history(self.stopped)

    def _epoch(self, epoch: int) -> None:
        """One pass: a step per batch, then the test."""
        start = time.perf_counter()
        done = (epoch - 1) * len(self.feed) if self.tracker is not None else 0
        if epoch == 1:
            self._visit(0)
        _seed_global(stream_seed(self.seed, epoch, "model"), self.device)
        rate = float(self.optimizer.param_groups[0]["lr"])
        totals = _Totals()
        self.model.train()
        for number, (x, y) in enumerate(self.feed.epoch(epoch), start=1):
            totals.add(*self._step(x, y, f"epoch {epoch}, batch {number}"), y)
            if self.schedule is not None:
                self.schedule.step()
            self._visit(done + number)
        self._check_parameters(epoch, rate)
        self.optimizer.zero_grad(set_to_none=True)
        test_loss, test_accuracy = self._evaluate(epoch)
        self.record.append(
            train_loss=totals.loss(),
            train_accuracy=totals.accuracy(),
            test_loss=test_loss,
            test_accuracy=test_accuracy,
            lr=rate,
            seconds=time.perf_counter() - start,
        )

    def _visit(self, step: int) -> None:
        """Show the tracker the model after so many steps."""
        if self.tracker is not None:
            self.tracker(self.model, step)

    def _step(self, x: Tensor, y: Tensor, where: str) -> tuple[float, Tensor]:
        """One step; the loss and the outputs before it."""
        seen: list[tuple[float, Tensor]] = []

        def closure() -> Tensor:
            self.optimizer.zero_grad(set_to_none=True)
            outputs = self._forward(x, where)
            value = self.loss.mean(outputs, y)
            self._check_finite(value.item(), x, where)
            value.backward()
            seen.append((value.item(), outputs.detach()))
            return value

        self.optimizer.step(closure)  # type: ignore[arg-type]
        return seen[0]

    def _forward(self, x: Tensor, where: str) -> Tensor:
        try:
            outputs = self.model(x)
        except (RuntimeError, IndexError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise ValueError(
                f"the model cannot take inputs of shape {tuple(x.shape)}, {x.dtype} on {x.device} "
                f"({where}): {error}"
            ) from error
        if not isinstance(outputs, Tensor):
            raise TypeError(f"the model returns a {type(outputs).__name__}; expected a tensor")
        return outputs

    def _check_finite(self, value: float, x: Tensor, where: str) -> None:
        if math.isfinite(value):
            return
        rate = float(self.optimizer.param_groups[0]["lr"])
        if not all(bool(p.isfinite().all()) for p in self.model.parameters()):
            cause = "the parameters are not finite, most likely since the learning rate is too high"
        elif x.is_floating_point() and not bool(x.isfinite().all()):
            cause = "the inputs are not finite; clean the data"
        else:
            cause = "the outputs or targets give no finite loss; try a lower learning rate"
        raise NotFinite(f"the loss is {value} in {where}, at learning rate {rate:g}: {cause}")

    def _check_parameters(self, epoch: int, rate: float) -> None:
        """Refuse what the last step did: no later loss of this epoch would show it."""
        for name, parameter in self.model.named_parameters():
            if not bool(parameter.isfinite().all()):
                raise NotFinite(
                    f"the parameter {name} is not finite after epoch {epoch}, at learning rate "
                    f"{rate:g}, most likely since the learning rate is too high; lower it"
                )

    def _look(self, x: Tensor, y: Tensor) -> None:
        """Refuse test data that does not fit before an epoch is spent."""
        self.model.eval()
        with torch.no_grad():
            self.loss.mean(self._forward(x, "test data"), y)

    @torch.no_grad()
    def _evaluate(self, epoch: int) -> tuple[float | None, float | None]:
        """Loss and accuracy on the test data, in evaluation mode."""
        if self.test is None:
            return None, None
        self.model.eval()
        totals = _Totals()
        for x, y in self.test:
            outputs = self._forward(x, "test data")
            value = self.loss.mean(outputs, y).item()
            self._check_finite(value, x, f"epoch {epoch}, test data")
            totals.add(value, outputs, y)
        return totals.loss(), totals.accuracy()

    def _watch(self, epoch: int, patience: int) -> None:
        """Keep the best weights; stop where they have not improved for long enough."""
        best = self.record.best_epoch()
        if best == epoch:
            state = self.model.state_dict()
            self.best = {name: tensor.detach().clone() for name, tensor in state.items()}
        self.stopped = best is not None and epoch - best >= patience

    def _save(self, path: Path) -> None:
        write_checkpoint(
            path,
            settings=self.settings,
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            schedule=None if self.schedule is None else self.schedule.state_dict(),
            record=self.record.columns,
            best=self.best,
            stopped=self.stopped,
        )

    def _resume(self, path: Path, epochs: int) -> None:
        content = read_checkpoint(path)
        compare_settings(path, content["settings"], self.settings)
        done = len(Record(content["record"]))
        if done > epochs:
            raise ValueError(
                f"the checkpoint {path} has {done} epochs already, more than epochs={epochs}; "
                "load its weights with load_checkpoint, or give another path"
            )
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(content["schedule"])
        self.record = Record(content["record"])
        self.best, self.stopped = content["best"], content["stopped"]


class _Totals:
    """Sums over batches, weighted by example, in double precision."""

    def __init__(self) -> None:
        self._examples = self._answers = 0
        self._loss = self._right = 0.0
        self._classes = True

    def add(self, loss: float, outputs: Tensor, y: Tensor) -> None:
        self._examples += len(y)
        self._loss += loss * len(y)
        # One output is no choice of a class: integer targets are counts then.
        if y.is_floating_point() or outputs.shape[:-1] != y.shape or outputs.shape[-1] == 1:
            self._classes = False
            return
        self._answers += y.numel()
        self._right += float((outputs.argmax(-1) == y).sum())

    def loss(self) -> float:
        return self._loss / self._examples

    def accuracy(self) -> float | None:
        return self._right / self._answers if self._classes else None


def _seed_global(seed: int, device: torch.device) -> None:
    """Seed what dropout and loaders draw from; torch.manual_seed would touch other devices too."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
