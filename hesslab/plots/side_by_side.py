"""Figures of several sets of eigenvalues beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from hesslab.plots._arrays import Array, ArrayLike, vector
from hesslab.plots.look import INK, PALETTE, SINGLE, legend_above, log_axis, panels, style
from hesslab.plots.spectra import INDEX, index_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "osD^vX"
_SPREAD = 0.3  # of the distance between two indices, shared by all sets


def compare_eigenvalues(
    spectra: Mapping[str, ArrayLike],
    *,
    errors: Mapping[str, ArrayLike] | None = None,
    boundary: int | None = None,
) -> Figure:
    """Several sets of eigenvalues by index, with their errors.

    The axis is logarithmic where all eigenvalues are positive and the largest exceeds 10 times the
    smallest; error bars that reach below it are cut off there.

    Args:
        spectra: eigenvalues [k] by name, in loss per squared parameter, at most 6 sets; k may
            differ between sets.
        errors: lengths of the error bars [k] by the name of their set, in the unit of the
            eigenvalues; the name should say what they are.
        boundary: draw a line behind so many eigenvalues.

    Returns:
        One panel, 5.2 inches wide.

    Raises:
        ValueError: there is no set or more than 6, an array is not [k], an error is negative or
            belongs to no set, or ``boundary`` is below 1.
        NotFinite: a value is NaN or infinite.
        MissingExtra: matplotlib is not installed.
    """
    if not 1 <= len(spectra) <= len(PALETTE):
        raise ValueError(
            f"spectra holds {len(spectra)} sets, but 1 to {len(PALETTE)} can be told apart; "
            "draw fewer"
        )
    if boundary is not None and boundary < 1:
        raise ValueError(f"boundary is {boundary}, but it stands behind at least 1 eigenvalue")
    values = {name: vector(name, array) for name, array in spectra.items()}
    bars = _bars(values, errors or {})
    with style():
        figure, ((axes,),) = panels(SINGLE, 3.8)
        offsets = np.linspace(-_SPREAD / 2, _SPREAD / 2, len(values)) if len(values) > 1 else [0.0]
        for name, offset, colour, marker in zip(
            values, offsets, PALETTE, cycle(_MARKERS), strict=False
        ):
            axes.errorbar(
                np.arange(1, len(values[name]) + 1) + offset, values[name], yerr=bars.get(name),
                linestyle="none", marker=marker, markersize=4.5, color=colour, elinewidth=1.4,
                capsize=2.5, label=name,
            )  # fmt: skip
        longest = max(map(len, values.values()))
        if boundary is not None:
            axes.axvline(
                boundary + 0.5, color=INK, linestyle="--", linewidth=1.2, label=f"after {boundary}"
            )
        _scale(axes, np.concatenate(list(values.values())))
        index_axis(axes, max(longest, boundary or 1))
        axes.set(xlabel=INDEX, ylabel="eigenvalue λ [loss / parameter²]")
        legend_above(figure, [axes])
    return figure


def _bars(values: Mapping[str, Array], errors: Mapping[str, ArrayLike]) -> dict[str, Array]:
    """The error bars, checked."""
    unknown = [name for name in errors if name not in values]
    if unknown:
        raise ValueError(f"errors has {unknown}, but spectra has {list(values)}; use its names")
    bars = {
        name: vector(f"errors of {name}", array, match=(name, len(values[name])))
        for name, array in errors.items()
    }
    for name, bar in bars.items():
        if (bar < 0).any():
            raise ValueError(
                f"errors of {name} holds {bar.min():.3g}, but the length of a bar is 0 or more"
            )
    return bars


def _scale(axes: Axes, every: Array) -> None:
    """A log axis where the eigenvalues span a decade; else a line at zero."""
    low, high = float(every.min()), float(every.max())
    if low > 0 and high > 10 * low:
        log_axis(axes, "y")
        axes.set_ylim(bottom=low / 2)
    elif low < 0:
        axes.axhline(0.0, color=INK, linewidth=0.8)
