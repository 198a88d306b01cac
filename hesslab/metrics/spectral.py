"""What one spectrum says in a number: ratios, sharpness, outliers, signs, ranks.

Eigenvalues come as ``[n]``, or as rows ``[q, n]`` of nodes with weights of their shape, one row a
probe; the spread between rows then gives the error, by the jackknife.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hesslab.errors import NotFinite
from hesslab.metrics.score import ArrayLike, as_tensor

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Quantity:
    """A number, and its standard error where the input has one.

    Attributes:
        value: the number.
        error: its standard error; NaN where the input has none.
        chance: what a random direction or space would give, where there is such a level.
    """

    value: float
    error: float = math.nan
    chance: float | None = None

    def __float__(self) -> float:
        return float(self.value)

    def __repr__(self) -> str:
        error = "" if math.isnan(self.error) else f" +- {self.error:.2g}"
        chance = "" if self.chance is None else f" (chance {self.chance:.2g})"
        return f"{self.value:.4g}{error}{chance}"


def eigenvalue_ratio(
    values: ArrayLike, k: int, *, residuals: ArrayLike | None = None, rtol: float = 1e-6
) -> Quantity:
    r"""The largest eigenvalue divided by the k-th largest by sign, :math:`\lambda_1/\lambda_k`.

    Args:
        values: ``[n]`` eigenvalues in any order, n >= k.
        k: number of the divisor, at least 2.
        residuals: ``[n]``, of the values; their error follows from these to first order.
        rtol: a k-th eigenvalue of at most this share of the first counts as zero.

    Returns:
        The ratio; infinite where the k-th eigenvalue is zero or negative and the first positive,
        NaN where the first is not positive either.

    Raises:
        ValueError: shapes or k do not fit.
        NotFinite: a value is NaN or infinite.
    """
    x = vector_of(values, "values")
    if k != int(k) or not 2 <= k <= len(x):
        raise ValueError(f"k={k} is out of range: expected 2 <= k <= {len(x)}, the values given")
    order = np.argsort(-x, kind="stable")
    first, last = x[order[0]], x[order[k - 1]]
    if first <= 0:
        return Quantity(math.nan)
    if last <= rtol * first:
        return Quantity(math.inf)
    error = math.nan
    if residuals is not None:
        r = vector_of(residuals, "residuals", len(x))[order]
        error = first / last * math.hypot(r[0] / first, r[k - 1] / last)
    return Quantity(first / last, error)


@dataclass(frozen=True)
class Sharpness:
    """How sharp a minimum is, in ways that need a choice of what counts.

    Attributes:
        largest: the largest eigenvalue.
        mean: of all eigenvalues, the trace divided by P.
        mass_beyond: share of eigenvalues of modulus above the cut.
        mean_beyond: mean modulus of those; NaN where there are none.
        cut: what was asked for, in units of the matrix.
    """

    largest: Quantity
    mean: Quantity
    mass_beyond: Quantity
    mean_beyond: Quantity
    cut: float


def sharpness(values: ArrayLike, weights: ArrayLike | None = None, *, cut: float) -> Sharpness:
    """Largest and mean eigenvalue, and how many of which size lie beyond a cut.

    Args:
        values: ``[n]`` eigenvalues, or ``[q, n]`` nodes.
        weights: of their shape; None counts all alike.
        cut: modulus up to which an eigenvalue counts as flat, in units of the matrix.

    Returns:
        The four numbers.

    Raises:
        ValueError: shapes do not fit, or the cut is negative.
        NotFinite: a number is NaN or infinite.
    """
    if not cut >= 0:
        raise ValueError(f"cut={cut} is out of range: expected 0 or more")
    x, w = rows_of(values, weights)
    beyond = np.abs(x) > cut
    mass = jackknife(lambda x, w: _mean(np.abs(x) > cut, w), x, w)

    def mean_beyond(x: Array, w: Array) -> float:
        chosen = w * (np.abs(x) > cut)
        return float((chosen * np.abs(x)).sum() / chosen.sum()) if chosen.sum() else math.nan

    return Sharpness(
        Quantity(float(x[w > 0].max())),
        jackknife(_mean, x, w),
        mass,
        jackknife(mean_beyond, x, w) if beyond.any() else Quantity(math.nan),
        cut,
    )


def number_of_outliers(
    values: ArrayLike, *, residuals: ArrayLike | None = None, cut: float | None = None
) -> Quantity:
    r"""How many of the largest eigenvalues stand apart from the rest.

    Args:
        values: ``[n]`` eigenvalues in any order: the top of the spectrum, and some of what follows.
        residuals: ``[n]``, of the values; those within theirs of the cut are counted as error.
        cut: what an outlier must exceed; None cuts at the largest :math:`\lambda_i/\lambda_{i+1}`
            among the positive ones.

    Returns:
        The number; its error is how many residuals reach the cut.

    Raises:
        ValueError: shapes do not fit, or there are fewer than two positive values and no cut.
        NotFinite: a value is NaN or infinite.
    """
    x = vector_of(values, "values")
    if cut is None:
        positive = np.sort(x[x > 0])[::-1]
        if len(positive) < 2:
            raise ValueError(
                f"{len(positive)} of the {len(x)} values are positive; expected two or more to "
                "find a gap between, or a cut"
            )
        at = int(np.argmax(positive[:-1] / positive[1:]))
        cut = math.sqrt(positive[at] * positive[at + 1])
    near = math.nan
    if residuals is not None:
        near = float((np.abs(x - cut) <= vector_of(residuals, "residuals", len(x))).sum())
    return Quantity(float((x > cut).sum()), near)


def negative_mass(
    values: ArrayLike, weights: ArrayLike | None = None, *, power: int = 0, tolerance: float = 0.0
) -> Quantity:
    r"""The share of negative eigenvalues in :math:`\sum_i |\lambda_i|^p`.

    Args:
        values: ``[n]`` eigenvalues, or ``[q, n]`` nodes.
        weights: of their shape; None counts all alike.
        power: p: 0 counts eigenvalues, 1 takes their share of L1, 2 of L2.
        tolerance: values above minus this count as zero, not as negative.

    Returns:
        Between 0 and 1; NaN where all is zero.

    Raises:
        ValueError: shapes do not fit, or the power is another number.
        NotFinite: a number is NaN or infinite.
    """
    if power not in (0, 1, 2):
        raise ValueError(f"power={power}; expected 0, 1 or 2")
    x, w = rows_of(values, weights)

    def share(x: Array, w: Array) -> float:
        size = w * np.abs(x) ** power
        total = size.sum()
        return float(size[x < -tolerance].sum() / total) if total else math.nan

    return jackknife(share, x, w)


def effective_ranks(
    values: ArrayLike, weights: ArrayLike | None = None, *, size: int | None = None, k: int = 0
) -> tuple[Quantity, Quantity]:
    r"""Two ranks of a positive semidefinite matrix beyond its k largest eigenvalues.

    :math:`r_k = \sum_{i>k} \lambda_i / \lambda_{k+1}` and
    :math:`R_k = (\sum_{i>k} \lambda_i)^2 / \sum_{i>k} \lambda_i^2`.

    Args:
        values: ``[n]`` eigenvalues, or ``[q, n]`` nodes (then k must be 0).
        weights: of their shape; None counts all alike.
        size: P, where the values are nodes; None takes n.
        k: how many of the largest are left out.

    Returns:
        r_k and R_k; NaN where nothing is left.

    Raises:
        ValueError: a value is negative beyond rounding, or k does not fit.
        NotFinite: a number is NaN or infinite.

    Source: Bartlett, Long, Lugosi and Tsigler (2020), Benign overfitting, definition 3.
    """
    x, w = rows_of(values, weights)
    if x.min() < -1e-6 * np.abs(x).max():
        raise ValueError(
            f"the smallest value is {x.min():.3g}; these ranks are of positive semidefinite "
            "matrices, such as the GGN"
        )
    if k and (weights is not None or not 0 < k < x.shape[1]):
        raise ValueError(f"k={k} is out of range: expected 0, or less than n for values alone")
    if k:
        x = np.sort(x, axis=1)[:, : x.shape[1] - k]
        w = np.full_like(x, 1 / x.shape[1])
        size = x.shape[1]
    P = x.shape[1] if size is None else size
    top = float(x[w > 0].max())
    if top <= 0:
        return Quantity(math.nan), Quantity(math.nan)
    return (
        jackknife(lambda x, w: P * _mean(x, w) / top, x, w),
        jackknife(lambda x, w: P * _mean(x, w) ** 2 / _mean(x * x, w), x, w),
    )


def _mean(x: Array | npt.NDArray[np.bool_], w: Array) -> float:
    """The mean over rows of what the weights of each give."""
    return float((w * x).sum() / len(w))


def jackknife(statistic: Callable[[Array, Array], float], x: Array, w: Array) -> Quantity:
    """A statistic of all rows, with the jackknife's error from leaving each of them out."""
    q = len(x)
    value = float(statistic(x, w))
    if q < 2:
        return Quantity(value)
    each = np.array([statistic(np.delete(x, i, 0), np.delete(w, i, 0)) for i in range(q)])
    return Quantity(value, float(np.sqrt((q - 1) / q * np.square(each - each.mean()).sum())))


def rows_of(values: ArrayLike, weights: ArrayLike | None) -> tuple[Array, Array]:
    """Values and weights ``[q, n]``; each row of weights sums to 1."""
    x = finite(values, "values")
    if x.ndim not in (1, 2):
        raise ValueError(f"values have shape {x.shape}; expected [n], or [q, n] with weights")
    w = np.ones_like(x) if weights is None else finite(weights, "weights")
    if w.shape != x.shape:
        raise ValueError(f"weights have shape {w.shape}, and the values {x.shape}")
    if (w < 0).any() or not (w.sum(-1) > 0).all():
        raise ValueError("weights are negative, or all zero; expected shares of the eigenvalues")
    x, w = np.atleast_2d(x), np.atleast_2d(w)
    return x, w / w.sum(1, keepdims=True)


def finite(array: ArrayLike, name: str) -> Array:
    """Float64, refusing what is NaN or infinite."""
    found = as_tensor(array, name).double().numpy()
    if not np.isfinite(found).all():
        raise NotFinite(f"{name} hold NaN or infinite values")
    return found


def vector_of(array: ArrayLike, name: str, size: int | None = None) -> Array:
    """One that is ``[n]``, of this size."""
    found = finite(array, name)
    if found.ndim != 1 or (size is not None and len(found) != size):
        expected = "[n]" if size is None else f"[{size}]"
        raise ValueError(f"{name} has shape {found.shape}; expected {expected}")
    return found
