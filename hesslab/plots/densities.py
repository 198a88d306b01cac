"""Figures of how eigenvalues are distributed, one or several side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from hesslab.plots._arrays import Array, ArrayLike, finite, plain, positive, vector
from hesslab.plots.look import (
    INK,
    PALETTE,
    SINGLE,
    legend_above,
    log_axis,
    panels,
    power_of_ten,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Atoms = tuple[ArrayLike, ArrayLike]
POINTS = 800  # of the grid on which curves are drawn, at least
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 1)))


def densities(
    spectra: Mapping[str, Atoms],
    *,
    size: int,
    outliers: Mapping[str, ArrayLike] | None = None,
    reference: ArrayLike | None = None,
    scale: float | None = None,
    width: float = 0.08,
) -> Figure:
    r"""Densities of eigenvalues on a logarithmic axis of height, outliers as marks.

    The horizontal axis is that of :math:`\mathrm{asinh}(\lambda / s)`: even near zero, logarithmic
    beyond s on both sides. There each value becomes a bell of deviation ``width``. A single
    eigenvalue has a bell of a known height; below it there is no information, and the figure is
    shaded: not zero, but less than one eigenvalue.

    Args:
        spectra: by name, values and weights ``[q, n]`` (one row a probe, each row of weights
            summing to 1), as ``SpectralDensity.atoms`` gives them, or ``[n]``. The curve is the
            mean of the rows; where there are several, a band holds their range.
        size: P, the number of eigenvalues.
        outliers: by name, eigenvalues ``[k]`` that are known one by one: a mark each, at the height
            of one eigenvalue.
        reference: all eigenvalues ``[P]``, drawn in ink.
        scale: s, in units of the eigenvalues; None takes their median modulus by weight.
        width: of the bells, in units of asinh: 0.08 is about 8 % of a large eigenvalue.

    Returns:
        One panel, 5.2 inches wide.

    Raises:
        ValueError: there is no spectrum or more than six, shapes differ, or a number is out of
            range.
        NotFinite: a number is NaN or infinite.
        MissingExtra: matplotlib is not installed.
    """
    found = atoms_of(spectra)
    outliers = outliers or {}
    marks = {name: vector(f"outliers of {name}", x) for name, x in outliers.items() if len(x)}
    unknown = [name for name in outliers if name not in found]
    if unknown:
        raise ValueError(f"outliers has {unknown}, which spectra has not; use its names")
    exact = None if reference is None else vector("reference", reference)
    s, grid = density_axis(found, [] if exact is None else [exact], scale, width, size)
    return density_panel(found, grid, marks=marks, exact=exact, size=size, s=s, width=width)


def density_panel(
    found: Mapping[str, tuple[Array, Array]],
    grid: Array,
    *,
    marks: Mapping[str, Array],
    exact: Array | None,
    size: int,
    s: float,
    width: float,
    top: float | None = None,
) -> Figure:
    """One figure of densities on a given grid, up to a given height."""
    one = 1 / (size * width * np.sqrt(2 * np.pi))
    with style():
        figure, ((axes,),) = panels(SINGLE, 3.8)
        if exact is not None:
            shown = bells(exact[None], np.full((1, len(exact)), 1 / len(exact)), grid, s, width)
            axes.plot(np.sinh(grid) * s, shown[0], color=INK, linewidth=1.1, linestyle="-",
                      label="all eigenvalues")  # fmt: skip
        for colour, dash, (name, (x, w)) in zip(PALETTE, _DASHES, found.items(), strict=False):
            rows = bells(x, w, grid, s, width)
            _draw(axes, np.sinh(grid) * s, rows, name, colour, dash)
            if name in marks:
                axes.plot(marks[name], np.full(len(marks[name]), one), linestyle="none",
                          marker="v", markersize=5, color=colour)  # fmt: skip
        log_axis(axes, "y")
        heights = [line.get_ydata().max() for line in axes.get_lines()]
        axes.set_ylim(one / 10, 3 * (max(heights) if top is None else top))
        axes.axhspan(one / 10, one, color=INK, alpha=0.08, linewidth=0,
                     label="less than one eigenvalue")  # fmt: skip
        asinh_axis(axes, "x", np.sinh(grid[[0, -1]]) * s, s)
        axes.set_xlabel(f"eigenvalue λ, even up to s = {s:.1g}, logarithmic beyond")
        axes.set_ylabel("density per unit of asinh(λ / s)")
        legend_above(figure, [axes])
    return figure


def atoms_of(spectra: Mapping[str, Atoms], *, many: bool = False) -> dict[str, tuple[Array, Array]]:
    """Values and weights ``[q, n]`` by name."""
    if not spectra or (len(spectra) > len(PALETTE) and not many):
        raise ValueError(
            f"spectra holds {len(spectra)} names, but 1 to {len(PALETTE)} can be told apart"
        )
    found = {}
    for name, (values, weights) in spectra.items():
        x, w = np.atleast_2d(plain(values)), np.atleast_2d(plain(weights))
        finite(f"values of {name}", x)
        finite(f"weights of {name}", w)
        if x.shape != w.shape or x.ndim != 2 or not x.size:
            raise ValueError(
                f"{name} has values {list(x.shape)} and weights {list(w.shape)}; expected the same "
                "[q, n] or [n]"
            )
        if (w < 0).any() or not np.allclose(w.sum(1), 1, atol=1e-6):
            raise ValueError(f"weights of {name} are negative or do not sum to 1 in each row")
        found[name] = (x, w)
    return found


def median_modulus(found: Mapping[str, tuple[Array, Array]]) -> float:
    """The median modulus by weight, or a thousandth of the largest where that is zero."""
    sizes = np.abs(np.concatenate([x.ravel() for x, _ in found.values()]))
    weights = np.concatenate([w.ravel() for _, w in found.values()])
    order = np.argsort(sizes)
    middle = np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2)
    return max(float(sizes[order][middle]), 1e-3 * float(sizes.max())) or 1.0


def density_axis(
    found: Mapping[str, tuple[Array, Array]],
    more: Sequence[Array],
    scale: float | None,
    width: float,
    size: int,
    *,
    points: int = POINTS,
) -> tuple[float, Array]:
    """Where the axis turns logarithmic, and its points, three a bell, four bells beyond all."""
    positive("width", width)
    positive("scale", scale)
    if size != int(size) or size < 1:
        raise ValueError(f"size={size} is out of range: expected the number of eigenvalues")
    s = median_modulus(found) if scale is None else scale
    values = [*(x for x, _ in found.values()), *more]
    low, high = min(x.min() for x in values), max(x.max() for x in values)
    ends = np.arcsinh(low / s) - 4 * width, np.arcsinh(high / s) + 4 * width
    return s, np.linspace(*ends, max(points, math.ceil(3 * (ends[1] - ends[0]) / width)))


def bells(x: Array, w: Array, grid: Array, s: float, width: float) -> Array:
    """Each row's density on the grid, ``[q, points]``, per unit of asinh."""
    at = np.arcsinh(x / s)
    rows = []
    for values, weights in zip(at, w, strict=True):
        bells = np.exp(-0.5 * np.square((grid[:, None] - values) / width))
        rows.append(bells @ weights / (width * np.sqrt(2 * np.pi)))
    return np.array(rows)


def _draw(axes: Axes, x: Array, rows: Array, name: str, colour: str, dash: object) -> None:
    axes.plot(x, rows.mean(0), color=colour, linestyle=dash, label=name)
    if len(rows) > 1:
        axes.fill_between(x, rows.min(0), rows.max(0), color=colour, alpha=0.2, linewidth=0)


def asinh_axis(axes: Axes, name: Literal["x", "y"], ends: Array, s: float) -> None:
    """An axis of asinh with ticks at zero and at powers of ten that stand apart."""
    from matplotlib.ticker import NullLocator

    axis = axes.xaxis if name == "x" else axes.yaxis
    getattr(axes, f"set_{name}scale")("asinh", linear_width=s)
    axes.set(**{f"{name}lim": tuple(ends)})
    span = float(np.diff(np.arcsinh(ends / s))[0])
    lowest = math.ceil(math.log10(s) + 0.1)
    every = max(1, round(span / np.log(10) / 7))
    ticks = {0.0: "0"}
    for exponent in range(lowest, lowest + 40, every):
        for sign, mark in ((1, ""), (-1, "−")):
            if ends[0] <= sign * 10.0**exponent <= ends[1]:
                ticks[sign * 10.0**exponent] = mark + power_of_ten(10.0**exponent)
    axis.set_ticks(list(ticks), list(ticks.values()))
    axis.set_minor_locator(NullLocator())
