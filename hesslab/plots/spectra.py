"""Figures of eigenvalues: by index, with their reference, with their errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hesslab.plots._arrays import Array, ArrayLike, plain, positive, vector
from hesslab.plots.look import (
    INK,
    PALETTE,
    SINGLE,
    count_label,
    legend_above,
    log_axis,
    panels,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INDEX, HEIGHT = "index i", "eigenvalue |λ| [loss / parameter²]"
# Above these numbers single marks cannot be told apart and only make a page heavy.
_RASTER_FROM, _LINE_FROM = 1000, 300
# Above this number the index is logarithmic too, or the few large ones share one pixel.
LOG_INDEX_FROM = 300


def eigenvalues(
    values: ArrayLike,
    *,
    reference: ArrayLike | None = None,
    cutoff: float | None = None,
    floor: float | None = None,
) -> Figure:
    """Eigenvalues by index on a log axis.

    Positive, negative and vanishing eigenvalues have marks of their own: negative ones stand at
    their magnitude, those of magnitude ``floor`` or less at ``floor``. The index is logarithmic too
    where there are more than 300.

    Args:
        values: eigenvalues, [k], in loss per squared parameter.
        reference: dense eigenvalues in the same order, [m], drawn as open marks, or as a thin line
            where there are more than 300.
        cutoff: height of a dashed line, in the unit of the eigenvalues.
        floor: magnitude up to which an eigenvalue is rounding error; shaded. Without it only exact
            zeros are marked so, a decade below everything else.

    Returns:
        One panel, 5.2 inches wide.

    Raises:
        ValueError: an array is not [k], or ``cutoff`` or ``floor`` is not positive.
        NotFinite: an eigenvalue is NaN or infinite.
        MissingExtra: matplotlib is not installed.
    """
    ours = vector("values", values)
    dense = None if reference is None else vector("reference", reference)
    positive("cutoff", cutoff)
    positive("floor", floor)
    with style():
        figure, ((axes,),) = panels(SINGLE, 3.8)
        level = smallest_magnitude(ours, dense, np.array([cutoff or 0.0])) / 10
        _draw_spectrum(axes, ours, dense, level, floor, "eigenvalue")
        if cutoff is not None:
            axes.axhline(cutoff, color=INK, linestyle="--", linewidth=1.2,
                         label=f"cut-off {cutoff:.2g}")  # fmt: skip
        axes.set(xlabel=INDEX, ylabel=HEIGHT)
        legend_above(figure, [axes])
    return figure


def agreement(
    values: ArrayLike, reference: ArrayLike, *, errors: ArrayLike | None = None
) -> Figure:
    r"""Eigenvalues over dense ones, and below them their relative errors.

    Without ``errors`` the lower panel shows
    :math:`|\lambda_i - \lambda_i^{\text{dense}}| / |\lambda_i^{\text{dense}}|`.

    Args:
        values: eigenvalues by products only, [k], in loss per squared parameter.
        reference: dense eigenvalues in the same order, [k].
        errors: relative errors to draw in place of these, [k], no unit.

    Returns:
        Two panels above each other, 5.2 inches wide.

    Raises:
        ValueError: lengths differ, an error is negative, or there are no ``errors`` and a
            reference is zero.
        NotFinite: a value is NaN or infinite.
        MissingExtra: matplotlib is not installed.
    """
    ours = vector("values", values)
    dense = vector("reference", reference, match=("values", len(ours)))
    relative = _errors(ours, dense, errors)
    with style():
        figure, axes = panels(SINGLE, 4.8, rows=2, sharex=True, height_ratios=[1.7, 1])
        top, bottom = axes[:, 0]
        _draw_spectrum(
            top, ours, dense, smallest_magnitude(ours, dense) / 10, None, "products only"
        )
        top.set_ylabel(HEIGHT.replace(" [", "\n["))
        _draw_errors(bottom, relative)
        bottom.set(xlabel=INDEX, ylabel="relative error")
        legend_above(figure, [top, bottom])
    return figure


def index_axis(axes: Axes, length: int) -> None:
    """An axis for the indices 1 to ``length``, logarithmic where there are many."""
    from matplotlib.ticker import MaxNLocator

    if length > LOG_INDEX_FROM:
        log_axis(axes, "x", counts=True)
        axes.set_xlim(0.8, 1.25 * length)
        return
    margin = max(0.6, 0.03 * length)
    axes.set_xlim(1 - margin, length + margin)
    ticks = MaxNLocator(nbins=8, integer=True, min_n_ticks=1).tick_values(1, length)
    axes.set_xticks([tick for tick in ticks if 1 <= tick <= length])


def split_by_sign(values: Array, floor: float) -> dict[str, Array]:
    """Masks of the eigenvalues above ``floor``, below its negative, and in between."""
    return {
        "positive": values > floor,
        "negative": values < -floor,
        "vanishing": np.abs(values) <= floor,
    }


def smallest_magnitude(*arrays: Array | None) -> float:
    """The smallest magnitude that is not zero; 1 if there is none."""
    every = np.abs(np.concatenate([a for a in arrays if a is not None]))
    return float(every[every > 0].min(initial=np.inf)) if every.any() else 1.0


def _draw_spectrum(
    axes: Axes,
    values: Array,
    reference: Array | None,
    zero_level: float,
    floor: float | None,
    label: str,
) -> None:
    """Both spectra on a log axis; dots of ours, open marks of the reference."""
    level = zero_level if floor is None else floor
    masks = split_by_sign(values, 0.0 if floor is None else floor)
    log_axis(axes, "y")
    if reference is not None:
        _draw_reference(axes, reference, level, 0.0 if floor is None else floor)
    low = "exactly zero" if floor is None else f"at most {floor:.2g}"
    marks: dict[str, tuple[str, str, str]] = {
        "positive": ("o", PALETTE[0], label),
        "negative": ("v", PALETTE[1], count_label("negative", int(masks["negative"].sum()))),
        "vanishing": ("x", PALETTE[4], count_label(low, int(masks["vanishing"].sum()))),
    }
    for kind, (marker, colour, name) in marks.items():
        if masks[kind].any():
            axes.plot(
                *_heights(values, masks[kind], level, kind), linestyle="none", marker=marker,
                color=colour, markersize=4.5, label=name, zorder=3,
                rasterized=len(values) > _RASTER_FROM,
            )  # fmt: skip
    if floor is not None:
        axes.set_ylim(bottom=floor / 5)
        axes.axhspan(floor / 5, floor, color=INK, alpha=0.1, linewidth=0, label="rounding error")
    index_axis(axes, max(len(values), 0 if reference is None else len(reference)))


def _draw_reference(axes: Axes, reference: Array, level: float, floor: float) -> None:
    """Open marks in ink; lines where marks would run together."""
    label: str | None = "dense"
    looks = {"positive": ("o", "-"), "negative": ("v", "--"), "vanishing": ("s", ":")}
    for kind, mask in split_by_sign(reference, floor).items():
        if not mask.any():
            continue
        marker, dash = looks[kind]
        look: dict[str, Any] = {"linestyle": "none", "marker": marker, "markersize": 8.5,
                                "markerfacecolor": "none", "markeredgewidth": 1}  # fmt: skip
        if len(reference) > _LINE_FROM:
            look = {"linestyle": dash, "linewidth": 1.2}
        axes.plot(*_heights(reference, mask, level, kind), color=INK, label=label, **look)
        label = None


def _heights(values: Array, mask: Array, level: float, kind: str) -> tuple[Array, Array]:
    """Index from 1 and height on the axis of the chosen values."""
    heights = np.abs(values[mask])
    if kind == "vanishing":
        heights = np.full_like(heights, level)
    return np.flatnonzero(mask) + 1, heights


def _errors(values: Array, reference: Array, errors: ArrayLike | None) -> Array:
    """Relative errors, checked."""
    if errors is not None:
        given = vector("errors", plain(errors), match=("values", len(values)))
        if (given < 0).any():
            raise ValueError(
                f"errors holds {given.min():.3g}, but a relative error is 0 or more; "
                "pass its magnitude"
            )
        return given
    if not reference.all():
        where = int(np.argmin(np.abs(reference)))
        raise ValueError(
            f"reference is zero at index {where}, where no relative error exists; leave it out, "
            "or pass errors= relative to the largest eigenvalue"
        )
    relative: Array = np.abs(values - reference) / np.abs(reference)
    return relative


def _draw_errors(axes: Axes, errors: Array) -> None:
    """Errors on a log axis; exact agreement has a mark of its own."""
    index, exact = np.arange(1, len(errors) + 1), errors == 0
    log_axis(axes, "y")
    look: dict[str, Any] = {"linestyle": "none", "markersize": 4.5}
    if not exact.all():
        axes.plot(index[~exact], errors[~exact], marker="o", color=PALETTE[0], **look)
    if exact.any():
        level = smallest_magnitude(errors) / 10
        look["label"] = count_label("exactly equal", int(exact.sum()))
        axes.plot(index[exact], exact[exact] * level, marker="x", color=PALETTE[4], **look)
    index_axis(axes, len(errors))
