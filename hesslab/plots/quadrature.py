"""Figures of how random probes see a spectrum, and of how well their intervals hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from hesslab.plots._arrays import ArrayLike, vector
from hesslab.plots.densities import Atoms, asinh_axis, atoms_of, median_modulus
from hesslab.plots.look import DOUBLE, INK, PALETTE, SINGLE, legend_above, panels, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 1)))


def cumulative(
    spectra: Mapping[str, Atoms], *, reference: ArrayLike | None = None, scale: float | None = None
) -> Figure:
    """The share of eigenvalues below each value: stairs whose steps are nodes and their weights.

    Args:
        spectra: by name, values and weights ``[q, n]`` or ``[n]``, as in `densities`; the mean of
            the rows is drawn.
        reference: all eigenvalues ``[P]``, drawn in ink.
        scale: the axis is even up to it and logarithmic beyond, in units of the eigenvalues; None
            takes their median modulus by weight.

    Returns:
        One panel, 5.2 inches wide.

    Raises:
        ValueError: there is no spectrum or more than six, or shapes differ.
        NotFinite: a number is NaN or infinite.
        MissingExtra: matplotlib is not installed.
    """
    found = atoms_of(spectra)
    exact = None if reference is None else np.sort(vector("reference", reference))
    s = median_modulus(found) if scale is None else scale
    values = [x for x, _ in found.values()] + ([] if exact is None else [exact])
    ends = np.array([min(x.min() for x in values), max(x.max() for x in values)])
    room = 0.04 * float(np.diff(np.arcsinh(ends / s))[0]) or 1.0
    ends = np.sinh(np.arcsinh(ends / s) + np.array([-room, room])) * s
    with style():
        figure, ((axes,),) = panels(SINGLE, 3.4)
        if exact is not None:
            axes.plot([ends[0], *exact, ends[1]],
                      [0, *(np.arange(1, len(exact) + 1) / len(exact)), 1],
                      color=INK, linewidth=1.1, linestyle="-", label="all eigenvalues")  # fmt: skip
        for colour, dash, (name, (x, w)) in zip(PALETTE, _DASHES, found.items(), strict=False):
            order = np.argsort(x.ravel())
            height = np.cumsum(w.ravel()[order]) / len(x)
            axes.step([ends[0], *x.ravel()[order], ends[1]], [0, *height, 1], where="post",
                      color=colour, linestyle=dash, label=name)  # fmt: skip
        asinh_axis(axes, "x", ends, s)
        axes.set_xlabel(f"eigenvalue λ, even up to s = {s:.1g}, logarithmic beyond")
        axes.set_ylabel("share of eigenvalues below")
        legend_above(figure, [axes])
    return figure


def intervals(
    estimates: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]],
    truth: float,
    *,
    xlabel: str,
) -> Figure:
    """Repeated estimates with their intervals, those that miss the truth in another colour.

    Args:
        estimates: by name (a panel each), estimates, lower and upper ends, ``[R]`` each.
        truth: a line in ink.
        xlabel: what is estimated, with its unit.

    Returns:
        A row of panels with the share of intervals that hold the truth in each title, 5.2 inches
        wide for one and 7.2 for more.

    Raises:
        ValueError: there is none, or lengths differ.
        NotFinite: a number is NaN or infinite.
        MissingExtra: matplotlib is not installed.
    """
    if not estimates:
        raise ValueError("estimates is empty; at least one set of repetitions is drawn")
    checked = {}
    for name, (value, low, high) in estimates.items():
        middle = vector(f"estimates of {name}", value)
        match = (f"estimates of {name}", len(middle))
        sides = (vector(f"ends of {name}", end, match=match) for end in (low, high))
        checked[name] = (middle, *sides)
    with style():
        from matplotlib.ticker import MaxNLocator

        width = SINGLE if len(checked) == 1 else DOUBLE
        figure, axes = panels(width, 3.6, columns=len(checked), sharex=True, sharey=True)
        for one, (name, (middle, below, above)) in zip(axes.flat, checked.items(), strict=True):
            holds = (below <= truth) & (truth <= above)
            for chosen, colour, label in (
                (holds, PALETTE[0], "holds the truth"),
                (~holds, PALETTE[1], "misses it"),
            ):
                if chosen.any():
                    bars = [(middle - below)[chosen], (above - middle)[chosen]]
                    one.errorbar(
                        middle[chosen], np.flatnonzero(chosen) + 1, xerr=bars, linestyle="none",
                        marker="o", markersize=2.5, color=colour, elinewidth=1.1, label=label,
                    )  # fmt: skip
            one.axvline(truth, color=INK, linewidth=1.2, linestyle="-")
            one.set_title(f"{name}: {int(holds.sum())} of {len(holds)} hold it")
            one.set_xlabel(xlabel)
        axes[0, 0].xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes[0, 0].set_ylabel("repetition")
        legend_above(figure, axes.flat)
    return figure
