"""Figures of functions of one variable: a fit, and samples of a posterior around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hesslab.plots._arrays import Array, ArrayLike, ascending, finite, interval, plain, vector
from hesslab.plots.look import DOUBLE, INK, PALETTE, SINGLE, legend_above, panels, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INPUT, OUTPUT = "input x", "output y"
_DATA: dict[str, Any] = {
    "linestyle": "none", "marker": "o", "markersize": 3.6, "color": INK, "alpha": 0.6,
    "markeredgewidth": 0, "label": "data",
}  # fmt: skip


def curve(
    x_train: ArrayLike,
    y_train: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    *,
    truth: ArrayLike | None = None,
    gap: tuple[float, float] | None = None,
) -> Figure:
    """A fitted curve over the noisy data that it was fitted to.

    Args:
        x_train: inputs of the data, [N] or [N, 1].
        y_train: outputs of the data, [N] or [N, 1].
        x: inputs of the curve in ascending order, [n] or [n, 1].
        mean: the fitted function at ``x``, [n] or [n, 1].
        truth: the function without noise at ``x``, [n] or [n, 1].
        gap: ends (low, high) of the interval of inputs without data.

    Returns:
        One panel, 5.2 inches wide.

    Raises:
        ValueError: lengths differ, ``x`` does not ascend, or ``gap`` is not (low, high).
        NotFinite: a value is NaN or infinite.
        MissingExtra: matplotlib is not installed.
    """
    points, at = _points(x_train, y_train), _grid(x)
    fitted = vector("mean", mean, match=("x", len(at)))
    true = None if truth is None else vector("truth", truth, match=("x", len(at)))
    interval("gap", gap)
    with style():
        figure, ((axes,),) = panels(SINGLE, 3.4)
        if gap is not None:
            axes.axvspan(*gap, color=INK, alpha=0.1, linewidth=0, label="no data")
        axes.plot(*points, **_DATA)
        if true is not None:
            axes.plot(at, true, color=INK, linestyle="--", linewidth=1.2, label="true function")
        axes.plot(at, fitted, color=PALETTE[0], linestyle="-", linewidth=2.2, label="fit")
        axes.set(xlabel=INPUT, ylabel=OUTPUT)
        legend_above(figure, [axes])
    return figure


def function_samples(
    x: ArrayLike,
    samples: ArrayLike,
    mean: ArrayLike,
    x_train: ArrayLike,
    y_train: ArrayLike,
    *,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Functions drawn from a posterior, around their mean and the data.

    Args:
        x: inputs in ascending order, [n] or [n, 1].
        samples: the sampled functions at ``x``, [S, n] or [S, n, 1].
        mean: the mean, or the fit, at ``x``, [n] or [n, 1].
        x_train: inputs of the data, [N] or [N, 1].
        y_train: outputs of the data, [N] or [N, 1].
        limits: ends of the output axis; the number of samples that leave it is then written above.

    Returns:
        One panel, 5.2 inches wide.

    Raises:
        ValueError: shapes differ, ``x`` does not ascend, or ``limits`` is not (low, high).
        NotFinite: a value is NaN or infinite.
        MissingExtra: matplotlib is not installed.
    """
    points, at = _points(x_train, y_train), _grid(x)
    centre = vector("mean", mean, match=("x", len(at)))
    drawn = _samples("samples", samples, len(at))
    interval("limits", limits)
    with style():
        figure, ((axes,),) = panels(SINGLE, 3.4)
        _draw_samples(axes, at, drawn, centre, points)
        axes.set(xlabel=INPUT, ylabel=OUTPUT)
        if limits is not None:
            axes.set_ylim(limits)
            axes.set_title(_leaving(drawn, limits), fontsize=10)
        legend_above(figure, [axes])
    return figure


def compare_samples(
    x: ArrayLike,
    samples: Mapping[str, ArrayLike],
    mean: ArrayLike,
    x_train: ArrayLike,
    y_train: ArrayLike,
    *,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Functions drawn from several posteriors, a panel each, on the same axes.

    Args:
        x: inputs in ascending order, [n] or [n, 1].
        samples: the sampled functions at ``x`` of each posterior, [S, n] or [S, n, 1], by the
            title of their panel.
        mean: the mean, or the fit, at ``x``, [n] or [n, 1].
        x_train: inputs of the data, [N] or [N, 1].
        y_train: outputs of the data, [N] or [N, 1].
        limits: ends of the output axis; the number of samples that leave it is then written above.

    Returns:
        Panels in rows of two, 7.2 inches wide.

    Raises:
        ValueError: there are no samples, shapes differ, ``x`` does not ascend, or ``limits`` is
            not (low, high).
        NotFinite: a value is NaN or infinite.
        MissingExtra: matplotlib is not installed.
    """
    if not samples:
        raise ValueError("samples is empty; pass at least one {title: array [S, n]}")
    points, at = _points(x_train, y_train), _grid(x)
    centre = vector("mean", mean, match=("x", len(at)))
    drawn = {t: _samples(f"samples[{t!r}]", s, len(at)) for t, s in samples.items()}
    interval("limits", limits)
    columns = min(2, len(drawn))
    rows = -(-len(drawn) // columns)
    with style():
        figure, grid = panels(
            DOUBLE if columns == 2 else SINGLE, 0.4 + 3.0 * rows,
            rows=rows, columns=columns, sharex=True, sharey=True,
        )  # fmt: skip
        for axes, (title, some) in zip(grid.flat, drawn.items(), strict=False):
            _draw_samples(axes, at, some, centre, points)
            note = "" if limits is None else _leaving(some, limits)
            axes.set_title(f"{title}\n{note}" if note else title)
            axes.set(xlabel=INPUT, ylabel=OUTPUT)
            axes.label_outer()
        for axes in grid[:-1].flat[len(drawn) - columns :]:  # nothing stands below these
            axes.tick_params(labelbottom=True)
            axes.set_xlabel(INPUT)
        if limits is not None:
            grid[0, 0].set_ylim(limits)
        for axes in grid.flat[len(drawn) :]:
            axes.remove()
        legend_above(figure, [grid[0, 0]])
    return figure


def _points(x_train: ArrayLike, y_train: ArrayLike) -> tuple[Array, Array]:
    """The data, checked."""
    inputs = vector("x_train", x_train)
    return inputs, vector("y_train", y_train, match=("x_train", len(inputs)))


def _grid(x: ArrayLike) -> Array:
    """The inputs of a curve, checked."""
    at = vector("x", x)
    ascending("x", at)
    return at


def _samples(name: str, samples: ArrayLike, n: int) -> Array:
    """Sampled functions [S, n], checked."""
    array = plain(samples)
    shape = list(array.shape)
    if array.ndim == 3 and shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 or array.shape[1] != n or not len(array):
        raise ValueError(
            f"{name} has shape {shape}, but x has {n} values, so [S, {n}] with one sampled "
            "function per row is needed; transpose it, or predict at the same x"
        )
    finite(name, array)
    return array


def _draw_samples(
    axes: Axes, x: Array, samples: Array, mean: Array, points: tuple[Array, Array]
) -> None:
    """Samples as thin lines, the data, and the mean as a thick line on top."""
    first, *_ = axes.plot(x, samples.T, color=PALETTE[5], linestyle="-", linewidth=0.8, alpha=0.7)
    first.set_label(f"{len(samples)} samples")
    axes.plot(*points, **_DATA)
    axes.plot(x, mean, color=PALETTE[1], linestyle="--", linewidth=2.2, label="mean")


def _leaving(samples: Array, limits: tuple[float, float]) -> str:
    """How many samples the panel does not show whole."""
    out = int(((samples < limits[0]) | (samples > limits[1])).any(axis=1).sum())
    return f"{out} of {len(samples)} samples leave the panel" if out else ""
