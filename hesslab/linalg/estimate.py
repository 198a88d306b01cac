"""A number with its error: what stochastic estimators return."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import scipy.stats
import torch
from torch import Tensor

LEVEL = 0.95
Per = Literal["dimension", "total"]
PREDICTED = 8  # degrees of freedom of a variance from the nodes: so 1,000 spectra are covered best


@dataclass(frozen=True, repr=False)
class Estimate:
    """An estimate from random probes.

    Attributes:
        estimate: the mean over probes.
        standard_error: of that mean, from the spread between probes and what theory says of it.
        half_width: of the 95 % interval around it: Student's t for the probes, plus a bound for
            what is no matter of chance, such as the error of a quadrature.
        probes: how many there were.
        products: with the matrix, of all that the estimate is made from.
        seed: of the probes.
    """

    estimate: float
    standard_error: float
    half_width: float
    probes: int
    products: int
    seed: int

    @property
    def low(self) -> float:
        """The lower end of the 95 % interval."""
        return self.estimate - self.half_width

    @property
    def high(self) -> float:
        """The upper end."""
        return self.estimate + self.half_width

    def __float__(self) -> float:
        return self.estimate

    def __mul__(self, factor: float) -> Estimate:
        """In other units."""
        return replace(
            self,
            estimate=self.estimate * factor,
            standard_error=self.standard_error * abs(factor),
            half_width=self.half_width * abs(factor),
        )

    __rmul__ = __mul__

    def __repr__(self) -> str:
        digits = _digits(self.estimate, self.standard_error)
        return (
            f"{self.estimate:.{digits}g} +- {self.standard_error:.2g} "
            f"(95 %: {self.low:.{digits}g} to {self.high:.{digits}g}; {self.probes} probes, "
            f"{self.products} products)"
        )


def _digits(value: float, error: float) -> int:
    """As many digits of a value as its error leaves, and one more; 6 where it has none."""
    if value == 0 or not (error > 0 and math.isfinite(value) and math.isfinite(error)):
        return 6
    places = math.floor(math.log10(abs(value))) - math.floor(math.log10(error))
    return min(max(places + 2, 2), 10)


def per_unit(found: Estimate, per: Per, size: int) -> Estimate:
    """The estimate of a sum over eigenvalues, or its share of one of them.

    Args:
        found: of the sum.
        per: "total" leaves it as it is, "dimension" divides by the size.
        size: how many eigenvalues there are.

    Returns:
        The estimate in these units.

    Raises:
        ValueError: another word.
    """
    check_per(per)
    return found if per == "total" else found * (1 / size)


def check_per(per: str) -> None:
    """Refuse another word."""
    if per not in get_args(Per):
        raise ValueError(f'per={per!r}; expected "dimension" or "total"')


def mean_of(
    samples: Tensor,
    *,
    products: int,
    seed: int,
    bias: float = 0.0,
    predicted: float | None = None,
    counts: int = PREDICTED,
) -> Estimate:
    """The mean of one number a probe.

    Args:
        samples: ``[q]`` float64.
        products: what they took.
        seed: of the probes.
        bias: a bound on the error that all samples share.
        predicted: the variance of one of them that theory gives; None where there is none.
        counts: degrees of freedom that it counts for.

    Returns:
        The estimate with its interval.
    """
    q, variance, known = len(samples), 0.0, len(samples) - 1
    if q > 1:
        variance = float(samples.var())
    if predicted is not None:
        variance = (known * variance + counts * predicted) / (known + counts)
        known += counts
    error = math.sqrt(variance / q) if known else math.nan
    quantile = float(scipy.stats.t.ppf((1 + LEVEL) / 2, known)) if known else math.nan
    return Estimate(float(samples.mean()), error, quantile * error + bias, q, products, seed)


def probe_directions(
    size: int, probes: int, generator: torch.Generator, kind: str = "sphere"
) -> Tensor:
    """Random vectors z with E z z^T = I, ``[P, q]`` float64, the same for every device.

    Args:
        size: P.
        probes: q.
        generator: draws them.
        kind: "rademacher" has entries of -1 and 1; "sphere" is uniform on the sphere of radius
            sqrt(P); "gaussian" has independent normal entries.

    Returns:
        The vectors as columns.

    Raises:
        ValueError: another kind.
    """
    if kind == "rademacher":
        signs: Tensor = 2.0 * torch.randint(0, 2, (size, probes), generator=generator).double() - 1
        return signs
    z = torch.randn(size, probes, generator=generator, dtype=torch.float64)
    if kind == "gaussian":
        return z
    if kind != "sphere":
        raise ValueError(f'distribution={kind!r}; expected "rademacher", "sphere" or "gaussian"')
    z *= math.sqrt(size) / z.norm(dim=0)
    return z
