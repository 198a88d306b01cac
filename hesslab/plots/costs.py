"""Figures of what products cost, in gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hesslab.plots._arrays import Array, ArrayLike, finite, plain, vector
from hesslab.plots.look import DOUBLE, INK, PALETTE, SINGLE, legend_above, log_axis, panels, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW, _AROUND = 0.22, 0.42  # inches: one route, and what stands above and below a panel
_LOOKS = tuple(
    zip(PALETTE, "osD^vX", ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 1))), strict=True)
)
_HALF = 0.36  # of the distance between two routes: half the height of a floor


def product_costs(
    costs: Mapping[str, Mapping[str, ArrayLike]],
    *,
    floors: Mapping[str, Mapping[str, float]] | None = None,
    highlight: str = "hesslab",
) -> Figure:
    """Costs of products by route, a panel for each network, each cost beside its floor.

    Args:
        costs: by network and route, in gradients: a cost [1], or a cost and the ends of its
            interval [3] (cost, low, high). A route may be missing for some networks.
        floors: by network and route, the fewest multiplications in those of a gradient; a line
            across the row. Networks and routes without one have no line.
        highlight: routes whose name begins so are drawn as dots, the others as squares.

    Returns:
        Panels in rows of two with one axis of costs, 5.2 inches wide.

    Raises:
        ValueError: there is no cost, a cost has neither 1 nor 3 numbers or is negative, an
            interval does not hold its cost, or a floor belongs to no cost.
        NotFinite: a number is NaN or infinite.
        MissingExtra: matplotlib is not installed.
    """
    checked = {
        network: {route: _cost(f"{route}, {network}", cost) for route, cost in routes.items()}
        for network, routes in costs.items()
    }
    names = list(dict.fromkeys(route for routes in checked.values() for route in routes))
    if not names:
        raise ValueError("costs holds no route of any network; at least one is drawn")
    lines = _floors(floors or {}, checked)
    columns = min(2, len(checked))
    rows = -(-len(checked) // columns)
    with style():
        figure, axes = panels(
            SINGLE, 0.5 + rows * (_AROUND + _ROW * len(names)), rows=rows, columns=columns,
            sharex=True, sharey=True,
        )  # fmt: skip
        for one, (network, routes) in zip(axes.flat, checked.items(), strict=False):
            _draw_routes(one, names, routes, lines.get(network, {}), highlight)
            one.set_title(network)
        _label_costs(axes, len(checked), names)
        legend_above(figure, axes.flat)
    return figure


def cost_curves(
    curves: Mapping[str, Mapping[str, tuple[ArrayLike, ArrayLike]]],
    *,
    ylabel: str = "cost of a product [gradients]",
    log: bool = False,
) -> Figure:
    """Costs against what they may depend on, a panel for each quantity.

    A name has one colour and mark in all panels.

    Args:
        curves: by the label of the horizontal axis, then by name: positions [n], positive and
            ascending, drawn on a log axis, and costs [n].
        ylabel: the label of the vertical axis, with its unit.
        log: make that axis logarithmic; otherwise it begins at zero.

    Returns:
        A row of panels, 5.2 inches wide for one and 7.2 for more.

    Raises:
        ValueError: there is no curve, more than 6 names, lengths differ, a position is not
            positive or out of order, or a cost on a log axis is not positive.
        NotFinite: a number is NaN or infinite.
        MissingExtra: matplotlib is not installed.
    """
    names = list(dict.fromkeys(name for series in curves.values() for name in series))
    if not 1 <= len(names) <= len(PALETTE):
        raise ValueError(
            f"curves holds {len(names)} names, but 1 to {len(PALETTE)} can be told apart; "
            "draw fewer"
        )
    checked = {
        label: {name: _curve(name, *pair) for name, pair in series.items()}
        for label, series in curves.items()
    }
    lowest = min(cost.min() for series in checked.values() for _, cost in series.values())
    if log and lowest <= 0:
        raise ValueError(f"a cost is {lowest:g}; expected positive ones on a log axis")
    looks = dict(zip(names, _LOOKS, strict=False))
    with style():
        width = SINGLE if len(curves) == 1 else DOUBLE
        figure, axes = panels(width, 3.2, columns=len(curves), sharey=True)
        for one, (label, series) in zip(axes.flat, checked.items(), strict=True):
            for name, (x, cost) in series.items():
                colour, marker, dash = looks[name]
                one.plot(x, cost, color=colour, marker=marker, linestyle=dash, markersize=4.5,
                         label=name)  # fmt: skip
            _count_axis(one, [x for x, _ in series.values()])
            one.set_xlabel(label)
        axes[0, 0].set_ylabel(ylabel)
        if log:
            log_axis(axes[0, 0], "y")
        else:
            axes[0, 0].set_ylim(bottom=0)
        legend_above(figure, axes.flat)
    return figure


def _cost(name: str, cost: ArrayLike) -> Array:
    """[3]: a cost and the ends of its interval, which are the cost itself where there is none."""
    found = np.atleast_1d(plain(cost))
    if found.shape not in ((1,), (3,)):
        raise ValueError(
            f"the cost of {name} has shape {list(found.shape)}; expected [1], or [3] for "
            "(cost, low, high)"
        )
    finite(f"the cost of {name}", found)
    value, low, high = found if len(found) == 3 else np.repeat(found, 3)
    if not low <= value <= high or value < 0:
        raise ValueError(
            f"the cost of {name} is {value:g} in [{low:g}, {high:g}]; expected a cost of 0 or "
            "more inside its interval"
        )
    return np.array([value, low, high])


def _floors(
    floors: Mapping[str, Mapping[str, float]], costs: Mapping[str, Mapping[str, Array]]
) -> dict[str, dict[str, float]]:
    """The floors, checked."""
    for network, routes in floors.items():
        unknown = [route for route in routes if route not in costs.get(network, {})]
        if unknown:
            raise ValueError(
                f"floors has {unknown} for {network!r}, which costs has not; use its names"
            )
        finite(f"the floors of {network}", plain(list(routes.values())))
    return {network: dict(routes) for network, routes in floors.items()}


def _draw_routes(
    axes: Axes,
    names: Sequence[str],
    routes: Mapping[str, Array],
    floors: Mapping[str, float],
    highlight: str,
) -> None:
    """One row for each route: its floor as a line in ink, its cost as a mark with a bar."""
    label: str | None = "floor"
    for name, floor in floors.items():
        row = names.index(name)
        axes.plot([floor, floor], [row - _HALF, row + _HALF], color=INK, linewidth=1.6,
                  linestyle="-", label=label)  # fmt: skip
        label = None
    for ours in (True, False):
        chosen = [name for name in routes if name.startswith(highlight) == ours]
        if not chosen:
            continue
        value, low, high = np.array([routes[name] for name in chosen]).T
        axes.errorbar(
            value, [names.index(name) for name in chosen], xerr=[value - low, high - value],
            linestyle="none", marker="o" if ours else "s", markersize=5.5,
            color=PALETTE[0 if ours else 1], elinewidth=1.4, capsize=2.5,
            label=highlight if ours else "others", zorder=3,
        )  # fmt: skip


def _label_costs(axes: Array, used: int, names: Sequence[str]) -> None:
    """Names on the left, the unit below the lowest panel of each column; no empty panels."""
    from matplotlib.ticker import MaxNLocator

    first = axes[0, 0]
    first.set_yticks(range(len(names)), names)
    first.set_ylim(len(names) - 0.4, -0.6)
    first.set_xlim(left=0)
    first.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    for index, one in enumerate(axes.flat):
        if index >= used:
            one.remove()
        elif index + axes.shape[1] >= used:
            one.set_xlabel("gradients")
            one.tick_params(labelbottom=True)


def _curve(name: str, x: ArrayLike, cost: ArrayLike) -> tuple[Array, Array]:
    """Positions and costs, checked."""
    where = vector(f"the positions of {name}", x)
    height = vector(f"the costs of {name}", cost, match=(f"the positions of {name}", len(where)))
    if (where <= 0).any() or (np.diff(where) <= 0).any():
        raise ValueError(
            f"the positions of {name} are {where.tolist()}, but the axis is logarithmic and a "
            "curve runs from left to right; expected positive numbers that grow"
        )
    return where, height


def _count_axis(axes: Axes, positions: Sequence[Array]) -> None:
    """A log axis with ticks at the positions where they are few."""
    from matplotlib.ticker import NullLocator

    log_axis(axes, "x", counts=True)
    axes.margins(x=0.1)
    ticks = sorted({float(x) for where in positions for x in where})
    if len(ticks) <= 5:
        axes.set_xticks(ticks, [_short(tick) for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())


def _short(count: float) -> str:
    """A count in at most four characters: 512, 12k, 1.2M."""
    if count < 1e4:
        return f"{count:g}"
    return f"{count / 1e3:.0f}k" if count < 1e6 else f"{count / 1e6:.1f}M"
