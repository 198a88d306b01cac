"""Figures of how a density of eigenvalues changes through time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hesslab.plots._arrays import ArrayLike, vector
from hesslab.plots.densities import (
    POINTS,
    Atoms,
    asinh_axis,
    atoms_of,
    bells,
    density_axis,
    density_panel,
)
from hesslab.plots.look import PALETTE, SINGLE, log_axis, panels, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def densities_over_time(
    steps: Sequence[int] | ArrayLike,
    spectra: Sequence[Atoms],
    *,
    size: int,
    scale: float | None = None,
    width: float = 0.1,
    log_steps: bool = False,
    xlabel: str = "step",
) -> Figure:
    """How a density changes: time to the right, eigenvalues upwards, its height as colour.

    Args:
        steps: ``[T]``, ascending.
        spectra: for each, values and weights as in `densities`.
        size: P; where there is less than half an eigenvalue the figure stays empty.
        scale: as in `densities`.
        width: as in `densities`.
        log_steps: space the horizontal axis as the logarithm of 1 + step.
        xlabel: of the horizontal axis.

    Returns:
        One panel with a scale of colours, 5.2 inches wide.

    Raises:
        ValueError: lengths differ, there are fewer than two steps, they do not grow, one is
            negative on a logarithmic axis, or a number is out of range.
        NotFinite: a number is NaN or infinite.
        MissingExtra: matplotlib is not installed.
    """
    times = vector("steps", steps)
    if len(times) != len(spectra) or len(times) < 2 or (np.diff(times) <= 0).any():
        raise ValueError(
            f"there are {len(times)} steps and {len(spectra)} spectra; expected two or more of "
            "both, with steps that grow"
        )
    if log_steps and times[0] < 0:
        raise ValueError(f"step {times[0]:g} has no place on an axis of log(1 + step)")
    found = atoms_of(
        {f"step {t:g}": pair for t, pair in zip(times, spectra, strict=True)}, many=True
    )
    s, grid = density_axis(found, [], scale, width, size)
    one = 1 / (size * width * np.sqrt(2 * np.pi))
    heights = np.array([bells(x, w, grid, s, width).mean(0) for x, w in found.values()]).T
    with style():
        from matplotlib.colors import LinearSegmentedColormap, LogNorm

        colours = LinearSegmentedColormap.from_list("few to many", [PALETTE[5], PALETTE[1]])
        figure, ((axes,),) = panels(SINGLE, 3.8)
        edges = np.sinh(np.append(grid, 2 * grid[-1] - grid[-2]) - (grid[1] - grid[0]) / 2) * s
        at = np.log1p(times) if log_steps else times
        sides = np.concatenate(
            [[1.5 * at[0] - at[1] / 2], (at[1:] + at[:-1]) / 2, [1.5 * at[-1] - at[-2] / 2]]
        )
        sides = np.expm1(sides) if log_steps else sides
        mesh = axes.pcolormesh(
            sides, edges, np.ma.masked_less(heights, one / 2), cmap=colours,
            norm=LogNorm(one / 2, float(heights.max())), rasterized=True,
        )  # fmt: skip
        asinh_axis(axes, "y", np.sinh(grid[[0, -1]]) * s, s)
        if log_steps:
            axes.set_xscale("function", functions=(np.log1p, np.expm1))
            ticks = [0, *(10**i for i in range(12))]
            within = [tick for tick in ticks if times[0] <= tick <= times[-1]]
            axes.set_xticks(within if len(within) > 1 else times[[0, -1]].tolist())
        axes.set(xlabel=xlabel, ylabel="eigenvalue")
        bar = figure.colorbar(mesh, ax=axes, label="density per unit of asinh")
        bar.outline.set_visible(False)
        log_axis(bar.ax, "y")
    return figure


def density_frames(
    labels: Sequence[object],
    spectra: Sequence[Atoms],
    *,
    size: int,
    outliers: Sequence[ArrayLike] | None = None,
    scale: float | None = None,
    width: float = 0.08,
) -> list[Figure]:
    """One figure as of `densities` for each spectrum, all with the same axes: for a slider.

    Args:
        labels: ``[T]``: what each is called in its legend.
        spectra: for each, values and weights as in `densities`.
        size: P.
        outliers: for each, eigenvalues that are known one by one.
        scale: as in `densities`, for all of them.
        width: as in `densities`.

    Returns:
        T figures; `hesslab.report.slider` takes 1 to 30.

    Raises:
        ValueError: lengths differ, there is no spectrum, or a number is out of range.
        NotFinite: a number is NaN or infinite.
        MissingExtra: matplotlib is not installed.
    """
    names = [str(label) for label in labels]
    marks = [()] * len(spectra) if outliers is None else outliers
    if not len(names) == len(set(names)) == len(spectra) == len(marks):
        raise ValueError(
            f"there are {len(set(names))} different labels, {len(spectra)} spectra and "
            f"{len(marks)} lists of outliers; expected as many of each"
        )
    found = atoms_of(dict(zip(names, spectra, strict=True)), many=True)
    s, grid = density_axis(found, [], scale, width, size, points=POINTS // 2)
    top = max(bells(x, w, grid, s, width).max() for x, w in found.values())
    return [
        density_panel(
            {name: atoms},
            grid,
            marks={name: vector(f"outliers of {name}", known)} if len(known) else {},
            exact=None,
            size=size,
            s=s,
            width=width,
            top=top,
        )
        for (name, atoms), known in zip(found.items(), marks, strict=True)
    ]
