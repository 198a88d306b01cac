"""One frame of a slider: where the spectrum is cut, and what the cut leaves uncertain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from hesslab.plots._arrays import Array, ArrayLike, ascending, interval, positive, vector
from hesslab.plots.look import DOUBLE, INK, PALETTE, legend_above, log_axis, panels, style
from hesslab.plots.regression import INPUT, OUTPUT
from hesslab.plots.spectra import HEIGHT, INDEX, LOG_INDEX_FROM, index_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Twenty frames of this many marks, inputs and data points stay below 1 MB of SVG.
_MARKS, _INPUTS, _DATA = 60, 80, 80


def threshold(
    values: ArrayLike,
    rtol: float,
    kept: ArrayLike,
    *,
    x: ArrayLike,
    mean: ArrayLike,
    deviation: ArrayLike,
    x_train: ArrayLike,
    y_train: ArrayLike,
    limits: tuple[float, float] | None = None,
    floor: float | None = None,
) -> Figure:
    r"""Eigenvalues cut at a relative tolerance, and the spread of the functions that remain free.

    Left: the eigenvalues by index, the cut-off :math:`\text{rtol} \cdot \max_j |\lambda_j|`,
    and on which side of it each direction was put. Right: mean and two standard deviations of the
    sampled functions. So that many frames fit a page, about 60 eigenvalues, evenly spaced on the
    axis and with those next to the cut, 80 inputs and 80 points of the data are drawn at most; the
    numbers in the title count all. The index is logarithmic where there are more than 300.

    Args:
        values: all eigenvalues, [P], in loss per squared parameter.
        rtol: the tolerance relative to the largest magnitude, no unit.
        kept: True where a direction is in the null space and stays free, [P] of bool.
        x: inputs in ascending order, [n] or [n, 1].
        mean: mean of the functions at ``x``, [n] or [n, 1].
        deviation: standard deviation of the functions at ``x``, [n] or [n, 1].
        x_train: inputs of the data, [N] or [N, 1].
        y_train: outputs of the data, [N] or [N, 1].
        limits: ends of the output axis; give the same to every frame of a slider.
        floor: eigenvalues of this magnitude or less are drawn at it; without it, 1e-17 of the
            largest.

    Returns:
        Two panels, 7.2 inches wide.

    Raises:
        ValueError: lengths differ, ``kept`` is not a mask, ``rtol`` or ``floor`` is not positive,
            a deviation is negative, or ``x`` does not ascend.
        NotFinite: a value is NaN or infinite.
        MissingExtra: matplotlib is not installed.
    """
    spectrum = vector("values", values)
    free = _mask(kept, len(spectrum))
    positive("rtol", rtol)
    positive("floor", floor)
    interval("limits", limits)
    band = _band(x, mean, deviation)
    inputs = vector("x_train", x_train)
    points = inputs, vector("y_train", y_train, match=("x_train", len(inputs)))
    with style():
        figure, ((left, right),) = panels(DOUBLE, 3.5, columns=2)
        _draw_cut(left, spectrum, free, rtol, floor)
        _draw_band(right, band, points)
        if limits is not None:
            right.set_ylim(limits)
        legend_above(figure, [left, right])
    return figure


def _mask(kept: ArrayLike, length: int) -> Array:
    """The null mask, checked: integers would be taken for indices elsewhere."""
    array = kept.detach().cpu().numpy() if isinstance(kept, Tensor) else np.asarray(kept)
    if array.dtype != bool or array.shape != (length,):
        raise ValueError(
            f"kept is {array.dtype} of shape {list(array.shape)}, but a bool for each of the "
            f"{length} eigenvalues is needed; build it as values.abs() <= rtol * values.abs().max()"
        )
    return array


def _band(x: ArrayLike, mean: ArrayLike, deviation: ArrayLike) -> tuple[Array, Array, Array]:
    """Inputs, mean and standard deviation, checked and thinned."""
    at = vector("x", x)
    ascending("x", at)
    centre = vector("mean", mean, match=("x", len(at)))
    spread = vector("deviation", deviation, match=("x", len(at)))
    if (spread < 0).any():
        raise ValueError(
            f"deviation holds {spread.min():.3g}, but a standard deviation is 0 or more; "
            "pass the root of the variance"
        )
    some = _evenly(len(at), _INPUTS)
    return at[some], centre[some], spread[some]


def _evenly(length: int, count: int, *, logarithmic: bool = False) -> Array:
    """At most ``count`` indices from the first to the last."""
    space = np.geomspace if logarithmic else np.linspace
    return np.unique(space(1, length, min(length, count)).round().astype(int)) - 1


def _draw_cut(axes: Axes, values: Array, free: Array, rtol: float, floor: float | None) -> None:
    """The spectrum in two colours and shapes, and the line between them."""
    magnitude = np.abs(values)
    largest = float(magnitude.max()) or 1.0
    level = 1e-17 * largest if floor is None else floor
    height = np.maximum(magnitude, level)
    beside = np.flatnonzero(np.diff(free.astype(int)))[:20]
    spread = _evenly(len(values), _MARKS, logarithmic=len(values) > LOG_INDEX_FROM)
    some = np.unique(np.concatenate([spread, beside, beside + 1]))
    look: dict[str, Any] = {"linestyle": "none", "markeredgewidth": 0}
    for mask, marker, size, colour, label in (
        (~free, "o", 4, PALETTE[0], "constrained"),
        (free, "D", 3.5, PALETTE[1], "free (null space)"),
    ):
        chosen = some[mask[some]]
        axes.plot(chosen + 1, height[chosen], marker=marker, markersize=size, color=colour,
                  label=label, **look)  # fmt: skip
    axes.axhline(rtol * largest, color=INK, linestyle="--", linewidth=1.2, label="cut-off")
    log_axis(axes, "y")
    index_axis(axes, len(values))
    axes.minorticks_off()
    # The same in every frame, so that only the line and the colours move.
    axes.set_ylim(min(level, rtol * largest) / 5, max(largest, rtol * largest) * 5)
    axes.set_title(f"{int(free.sum()):,} of {len(free):,} directions free")
    axes.set(xlabel=INDEX, ylabel=HEIGHT)


def _draw_band(axes: Axes, band: tuple[Array, Array, Array], points: tuple[Array, Array]) -> None:
    """Mean, two standard deviations around it, and the data."""
    x, mean, deviation = band
    some = _evenly(len(points[0]), _DATA)
    low, high = mean - 2 * deviation, mean + 2 * deviation
    axes.fill_between(
        x,
        low,
        high,
        facecolor=(PALETTE[5], 0.3),
        edgecolor=PALETTE[5],
        linewidth=0.8,
        label="±2 sd",
    )
    axes.plot(x, mean, color=PALETTE[1], linestyle="--", label="mean")
    axes.plot(
        points[0][some], points[1][some], linestyle="none", marker="o", markersize=2.5, color=INK,
        markeredgewidth=0, label="data",
    )  # fmt: skip
    axes.set(xlabel=INPUT, ylabel=OUTPUT)
