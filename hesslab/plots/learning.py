"""Figures of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hesslab.plots._arrays import Array, ArrayLike, plain, vector
from hesslab.plots.look import DOUBLE, INK, PALETTE, SINGLE, legend_above, log_axis, panels, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOOKS: dict[str, dict[str, Any]] = {
    "train": {"color": PALETTE[0], "linestyle": "-", "marker": "o", "label": "training"},
    "test": {"color": PALETTE[1], "linestyle": "--", "marker": "s", "label": "test"},
}
_MARKS_UP_TO = 30


def history(history: Mapping[str, ArrayLike] | object) -> Figure:
    """Loss by epoch, and accuracy where there is one.

    The loss axis is logarithmic where all losses are positive and the largest exceeds 30 times the
    smallest. Values that are not finite are left out: in a test series they mean "not measured"; in
    the training loss the first one is marked, for there the training diverged.

    Args:
        history: arrays [E] by name, as items of a mapping or as attributes: ``train_loss``, and
            where there are any ``epoch`` (else 1, 2, ...), ``test_loss``, ``train_accuracy``,
            ``test_accuracy``.

    Returns:
        One panel, 5.2 inches wide; with accuracies two, 7.2 inches wide.

    Raises:
        ValueError: ``train_loss`` is missing, or lengths differ.
        MissingExtra: matplotlib is not installed.
    """
    series = {
        kind: {part: _series(history, f"{part}_{kind}") for part in _LOOKS}
        for kind in ("loss", "accuracy")
    }
    epoch = _epochs(history, series)
    with_accuracy = any(s is not None for s in series["accuracy"].values())
    with style():
        figure, axes = panels(DOUBLE if with_accuracy else SINGLE, 3.2, columns=1 + with_accuracy)
        _draw(axes[0, 0], epoch, series["loss"])
        _scale(axes[0, 0], [s for s in series["loss"].values() if s is not None])
        axes[0, 0].set(xlabel="epoch", ylabel="mean loss L per example")
        _mark_divergence(axes[0, 0], epoch, series["loss"]["train"])
        if with_accuracy:
            _draw(axes[0, 1], epoch, series["accuracy"])
            axes[0, 1].set(xlabel="epoch", ylabel="accuracy [fraction]")
        legend_above(figure, axes.flat)
    return figure


def _series(history: Mapping[str, ArrayLike] | object, name: str) -> Array | None:
    """One series by name, or None where it is missing or empty."""
    found = history.get(name) if isinstance(history, Mapping) else getattr(history, name, None)
    if found is None:
        return None
    array = plain([np.nan if value is None else value for value in found])
    return array if array.size else None


def _epochs(
    history: Mapping[str, ArrayLike] | object, series: dict[str, dict[str, Array | None]]
) -> Array:
    """The epochs; every series has one value for each of them."""
    loss = series["loss"]["train"]
    if loss is None:
        raise ValueError(
            f"no train_loss in this {type(history).__name__}, or an empty one; a history with one "
            "loss per epoch is drawn: pass what hesslab.training.fit returns, or a dict of arrays"
        )
    for kind, parts in series.items():
        for part, values in parts.items():
            if values is not None and values.shape != loss.shape:
                raise ValueError(
                    f"{part}_{kind} has shape {list(values.shape)}, but train_loss has "
                    f"{list(loss.shape)}; one value per epoch is drawn: fill epochs without a "
                    "measurement with NaN"
                )
    given = _series(history, "epoch")
    if given is None:
        return np.arange(1.0, len(loss) + 1)
    return vector("epoch", given, match=("train_loss", len(loss)))


def _draw(axes: Axes, epoch: Array, parts: dict[str, Array | None]) -> None:
    """Training and test series; only what is finite."""
    from matplotlib.ticker import MaxNLocator

    for part, values in parts.items():
        if values is None or not np.isfinite(values).any():
            continue
        there = np.isfinite(values)
        every = max(1, int(there.sum()) // _MARKS_UP_TO)
        axes.plot(epoch[there], values[there], markersize=4, markevery=every, **_LOOKS[part])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _scale(axes: Axes, losses: list[Array]) -> None:
    """A log axis where the losses span decades and have logarithms."""
    every = np.concatenate(losses)
    every = every[np.isfinite(every)]
    if every.size and every.min() > 0 and every.max() > 30 * every.min():
        log_axis(axes, "y")


def _mark_divergence(axes: Axes, epoch: Array, loss: Array | None) -> None:
    """A line at the first epoch whose training loss is not finite."""
    if loss is not None and not np.isfinite(loss).all():
        first = epoch[np.argmin(np.isfinite(loss))]
        axes.axvline(first, color=INK, linestyle=":", linewidth=1.4, label="loss not finite")
