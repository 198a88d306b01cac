"""Figures of how much curvature there is, and of which sign."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hesslab.plots._arrays import Array, finite
from hesslab.plots.look import DOUBLE, PALETTE, SINGLE, legend_above, log_axis, panels, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIGNS = {"positive": (PALETTE[0], "o", -0.12), "negative": (PALETTE[1], "s", 0.12)}


def energies(parts: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Figure:
    """Energies of positive and of negative eigenvalues with their intervals, on a log axis.

    Args:
        parts: by energy ("L1", a panel each), then by name (a row each), then "positive" and
            "negative": (value, low, high), in the unit of the energy. An interval that reaches
            zero or less is drawn to a thousandth of the value; a part of zero is left out.

    Returns:
        A row of panels, 5.2 inches wide for one and 7.2 for more.

    Raises:
        ValueError: there is nothing to draw, or a value lies outside its interval.
        NotFinite: a number is NaN or infinite.
        MissingExtra: matplotlib is not installed.
    """
    names = list(dict.fromkeys(name for rows in parts.values() for name in rows))
    if not names:
        raise ValueError("parts holds no energy of any name; at least one is drawn")
    checked = {
        (energy, name, sign): _part(f"{energy} of {name}, {sign}", row[sign])
        for energy, rows in parts.items()
        for name, row in rows.items()
        for sign in _SIGNS
        if sign in row
    }
    with style():
        width = SINGLE if len(parts) == 1 else DOUBLE
        figure, axes = panels(width, 1.2 + 0.36 * len(names), columns=len(parts), sharey=True)
        for one, energy in zip(axes.flat, parts, strict=True):
            log_axis(one, "x")
            one.set_xlabel(energy)
            for sign, (colour, marker, shift) in _SIGNS.items():
                rows = [(i, checked.get((energy, name, sign))) for i, name in enumerate(names)]
                shown = [(i + shift, *part) for i, part in rows if part is not None and part[0] > 0]
                if shown:
                    at, value, low, high = np.array(shown).T
                    below = value - np.maximum(low, 1e-3 * value)
                    one.errorbar(
                        value, at, xerr=[below, high - value], linestyle="none", marker=marker,
                        markersize=5, color=colour, elinewidth=1.4, capsize=2.5, label=sign,
                    )  # fmt: skip
        axes[0, 0].set_yticks(range(len(names)), names)
        axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
        legend_above(figure, axes.flat)
    return figure


def _part(what: str, numbers: Any) -> Array:
    """[3]: a value inside its interval."""
    found = np.asarray([float(number) for number in numbers])
    finite(what, found)
    if len(found) != 3 or not found[1] <= found[0] <= found[2] or found[0] < 0:
        raise ValueError(
            f"{what}, is {found.tolist()}; expected (value, low, high) with a value of 0 or more "
            "inside its interval"
        )
    return found
