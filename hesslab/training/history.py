"""What a training run returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, repr=False)
class History:
    """How a training went, one entry per epoch.

    Args:
        epoch: numbers of the epochs, from 1.
        train_loss: mean loss over the epoch's batches, each measured just before its step.
        train_accuracy: share of right classes over the same batches; None for regression.
        test_loss: mean loss on the test data after the epoch, in evaluation mode; None without.
        test_accuracy: share of right classes there; None without test data or for regression.
        lr: learning rate of the first parameter group at the epoch's first step.
        seconds: wall time of each epoch, its test included.
        stopped: whether training ended early.
        best_epoch: the epoch of the lowest test loss; None without test data.
    """

    epoch: tuple[int, ...]
    train_loss: tuple[float, ...]
    train_accuracy: tuple[float, ...] | None
    test_loss: tuple[float, ...] | None
    test_accuracy: tuple[float, ...] | None
    lr: tuple[float, ...]
    seconds: tuple[float, ...]
    stopped: bool = False
    best_epoch: int | None = None

    def __repr__(self) -> str:
        parts = [f"History: {len(self.epoch)} epochs in {sum(self.seconds):.1f} s"]
        for name, losses, accuracies in (
            ("train", self.train_loss, self.train_accuracy),
            ("test", self.test_loss, self.test_accuracy),
        ):
            if losses:
                accuracy = f", accuracy {accuracies[-1]:.4f}" if accuracies else ""
                parts.append(f"{name} loss {losses[-1]:.4g}{accuracy}")
        if self.stopped:
            parts.append(f"stopped early, best epoch {self.best_epoch}")
        return "; ".join(parts)


class Record:
    """The history while it grows: plain lists, which a checkpoint can hold."""

    def __init__(self, columns: dict[str, list[float]] | None = None) -> None:
        self.columns: dict[str, list[float]] = columns if columns is not None else {}

    def __len__(self) -> int:
        return len(self.columns.get("train_loss", ()))

    def append(self, **values: float | None) -> None:
        """Add one epoch; a quantity that does not exist is None, then and always."""
        for name, value in values.items():
            if value is not None:
                self.columns.setdefault(name, []).append(value)

    def best_epoch(self) -> int | None:
        """The number, from 1, of the first epoch with the lowest test loss."""
        losses = self.columns.get("test_loss")
        return 1 + losses.index(min(losses)) if losses else None

    def history(self, stopped: bool) -> History:
        """The frozen form."""
        columns = {name: tuple(values) for name, values in self.columns.items()}
        return History(
            epoch=tuple(range(1, len(self) + 1)),
            train_loss=columns["train_loss"],
            train_accuracy=columns.get("train_accuracy"),
            test_loss=columns.get("test_loss"),
            test_accuracy=columns.get("test_accuracy"),
            lr=columns["lr"],
            seconds=columns["seconds"],
            stopped=stopped,
            best_epoch=self.best_epoch(),
        )
