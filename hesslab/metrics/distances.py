"""How far two spectra are apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import scipy.special
import scipy.stats

from hesslab.metrics.score import ArrayLike
from hesslab.metrics.spectral import Array, Quantity, jackknife, rows_of

Transform = Literal["none", "asinh", "log"]
FLOOR = 1e-12  # of a density on the grid, relative to its mean, so that no logarithm is infinite


def wasserstein(
    values: ArrayLike,
    other: ArrayLike,
    weights: ArrayLike | None = None,
    other_weights: ArrayLike | None = None,
    *,
    bulk: float | None = None,
    transform: Transform = "none",
    scale: float | None = None,
) -> Quantity:
    r"""The Wasserstein-1 distance: how far the mass of one spectrum must be moved, on average.

    Exact for eigenvalues or nodes as they are, without a grid. A few outliers can dominate it, so
    it can be restricted to the bulk, or taken of transformed eigenvalues. Noise only adds to it:
    compare with the distance of two spectra that should be equal, such as two seeds.

    Args:
        values: ``[n]`` eigenvalues, or ``[q, n]`` nodes.
        other: ``[m]`` or ``[r, m]``, of the other spectrum.
        weights: of the values' shape; None counts all alike.
        other_weights: of the others' shape.
        bulk: leave out eigenvalues of larger modulus, in units of the matrix.
        transform: "asinh" takes :math:`\mathrm{asinh}(\lambda / s)`, "log"
            :math:`\log_{10}(|\lambda| + s)`.
        scale: s of the transform; None takes the median modulus of both.

    Returns:
        The distance, in units of the (transformed) eigenvalues; its error is the jackknife's over
        the rows of both.

    Raises:
        ValueError: shapes do not fit, or nothing is left of a spectrum.
        NotFinite: a number is NaN or infinite.

    Source: `scipy.stats.wasserstein_distance`.
    """
    x, u = rows_of(values, weights)
    y, v = rows_of(other, other_weights)
    if bulk is not None:
        u, v = u * (np.abs(x) <= bulk), v * (np.abs(y) <= bulk)
        if not (u.sum(1).all() and v.sum(1).all()):
            raise ValueError(f"bulk={bulk} leaves nothing of a spectrum, or of one of its rows")
    if transform not in ("none", "asinh", "log"):
        raise ValueError(f'transform={transform!r}; expected "none", "asinh" or "log"')
    if transform != "none":
        s = _scale(x, u, y, v) if scale is None else scale
        if not s > 0:
            raise ValueError(f"scale={s} is out of range: expected a positive number")
        x, y = (np.arcsinh(z / s) if transform == "asinh" else np.log10(np.abs(z) + s)
                for z in (x, y))  # fmt: skip
    return _of_both(
        lambda a, b, c, d: scipy.stats.wasserstein_distance(
            a.ravel(), c.ravel(), b.ravel(), d.ravel()
        ),
        x,
        u,
        y,
        v,
    )


def divergence(
    values: ArrayLike,
    other: ArrayLike,
    weights: ArrayLike | None = None,
    other_weights: ArrayLike | None = None,
    *,
    kind: Literal["jensen-shannon", "kullback-leibler"] = "jensen-shannon",
    width: float | None = None,
    points: int = 2000,
) -> Quantity:
    r"""A divergence of two spectra, smoothed by the same kernel on the same grid.

    Args:
        values: ``[n]`` eigenvalues, or ``[q, n]`` nodes.
        other: ``[m]`` or ``[r, m]``, of the other spectrum.
        weights: of the values' shape; None counts all alike.
        other_weights: of the others' shape.
        kind: "jensen-shannon" is symmetric and at most log 2; "kullback-leibler", of the values
            from the others, grows without bound where they do not overlap, up to what the floor of
            1e-12 of the mean density allows.
        width: deviation of the normal kernel, in units of the matrix; None takes a hundredth of
            the range of both. The result depends on it.
        points: of the grid.

    Returns:
        The divergence in nats; its error is the jackknife's over the rows of both.

    Raises:
        ValueError: shapes do not fit, or a number is out of range.
        NotFinite: a number is NaN or infinite.

    Source: Lin (1991), Divergence measures based on the Shannon entropy.
    """
    x, u = rows_of(values, weights)
    y, v = rows_of(other, other_weights)
    low = min(x[u > 0].min(), y[v > 0].min())
    high = max(x[u > 0].max(), y[v > 0].max())
    if width is None:
        width = (high - low) / 100 or 1.0
    if not width > 0 or points < 10:
        raise ValueError(f"width={width}, points={points}: expected a positive width, 10 points")
    grid = np.linspace(low - 5 * width, high + 5 * width, points)
    if width < grid[1] - grid[0]:
        raise ValueError(
            f"width={width:.3g} is below the grid's spacing, {grid[1] - grid[0]:.3g}, and would "
            "lose eigenvalues; take a wider kernel or more points"
        )

    def distance(a: Array, b: Array, c: Array, d: Array) -> float:
        p, q = _smooth(a, b, grid, width), _smooth(c, d, grid, width)
        if kind == "kullback-leibler":
            return float(scipy.special.rel_entr(p, q).sum())
        m = (p + q) / 2
        both = scipy.special.rel_entr(p, m).sum() + scipy.special.rel_entr(q, m).sum()
        return max(float(both) / 2, 0.0)

    if kind not in ("jensen-shannon", "kullback-leibler"):
        raise ValueError(f'kind={kind!r}; expected "jensen-shannon" or "kullback-leibler"')
    return _of_both(distance, x, u, y, v)


def _smooth(x: Array, w: Array, grid: Array, width: float) -> Array:
    """Shares of the mass at the points of a grid."""
    density = np.zeros_like(grid)
    for values, weights in zip(x, w, strict=True):
        chosen = weights > 0
        kernel = np.exp(-0.5 * np.square((grid[:, None] - values[chosen]) / width))
        density += kernel @ weights[chosen]
    density += FLOOR * density.mean()
    shares: Array = density / density.sum()
    return shares


def _scale(x: Array, u: Array, y: Array, v: Array) -> float:
    """The median modulus of both spectra."""
    sizes = np.abs(np.concatenate([x.ravel(), y.ravel()]))
    weights = np.concatenate([u.ravel() / u.sum(), v.ravel() / v.sum()])
    order = np.argsort(sizes)
    middle = np.searchsorted(np.cumsum(weights[order]), 0.5 * weights.sum())
    return float(sizes[order][middle]) or float(sizes.max()) or 1.0


def _of_both(
    statistic: Callable[[Array, Array, Array, Array], float], x: Array, u: Array, y: Array, v: Array
) -> Quantity:
    """A distance, with the errors that both spectra give it."""
    first = jackknife(lambda a, b: statistic(a, b, y, v), x, u)
    second = jackknife(lambda c, d: statistic(x, u, c, d), y, v)
    known = [error for error in (first.error, second.error) if not math.isnan(error)]
    return Quantity(first.value, math.hypot(*known) if known else math.nan)
