"""The density of a matrix's eigenvalues, as far as it was resolved, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hesslab.linalg.estimate import Estimate, Per, mean_of, per_unit


@dataclass(frozen=True, eq=False)
class SpectralDensity:
    r"""Eigenvalues as far as they were resolved, and nodes with weights for the others.

    The density is that of an eigenvalue drawn at random:
    :math:`\rho(\lambda) = \frac1P \sum_i \delta(\lambda - \lambda_i)`. Nothing is smoothed.

    Attributes:
        eigenvalues: ``[k]`` float64, descending: the pairs that were taken out.
        residuals: ``[k]``, of those pairs: distances to true eigenvalues.
        vectors: ``[P, k]`` float64, theirs.
        nodes: ``[q, m]`` float64: Ritz values of each probe in the space that is left. Where a
            probe came to an end before m steps, the last one is repeated with weight 0.
        weights: ``[q, m]``: shares of the P - k remaining eigenvalues; each row sums to 1.
        half_nodes: ``[q, m/2]``: the same after half the steps, which tells the quadrature's error.
        half_weights: ``[q, m/2]``.
        size: P.
        products: with the matrix, of both parts.
        seconds: wall time.
        seed: of all random vectors.
    """

    eigenvalues: Tensor
    residuals: Tensor
    vectors: Tensor
    nodes: Tensor
    weights: Tensor
    half_nodes: Tensor
    half_weights: Tensor
    size: int
    products: int
    seconds: float
    seed: int

    def __repr__(self) -> str:
        q, m = self.nodes.shape
        k = len(self.eigenvalues)
        ends = ""
        if k:
            ends = f" from {float(self.eigenvalues[-1]):.4g} to {float(self.eigenvalues[0]):.4g}"
        return (
            f"SpectralDensity({k} eigenvalues{ends} taken out of P = {self.size}, "
            f"{q} probes of {m} steps for the others, {self.products} products)"
        )

    def atoms(self) -> tuple[Tensor, Tensor]:
        """All of it as values with weights, one row a probe: what `hesslab.metrics` takes.

        Returns:
            ``[q, k + m]`` values, the eigenvalues that were taken out first, and their weights,
            which sum to 1 in each row.
        """
        q, k = len(self.nodes), len(self.eigenvalues)
        exact = torch.full((q, k), 1 / self.size, dtype=torch.float64)
        rest = self.weights * (1 - k / self.size)
        values = torch.cat([self.eigenvalues.expand(q, k), self.nodes], dim=1)
        return values, torch.cat([exact, rest], dim=1)

    def integral(self, function: Callable[[Tensor], Tensor], *, per: Per = "total") -> Estimate:
        r"""The trace of a function of the matrix, :math:`\sum_i f(\lambda_i)`, or its share.

        A probe z of length 1, uniform in n dimensions, sees :math:`n z^T f(A) z` with variance
        :math:`2 \frac{n}{n+2} (\mathrm{tr} f^2 - (\mathrm{tr} f)^2 / n)`, and the nodes tell these
        traces too. The standard error is from that and from the spread between probes. The interval
        adds to Student's t what the estimate still changes between half of the steps and all of
        them, which is rounding for polynomials below degree m.

        Args:
            function: of a float64 tensor of eigenvalues, entry by entry.
            per: "total" sums over eigenvalues, "dimension" divides by P.

        Returns:
            The estimate. Cost: none.

        Raises:
            ValueError: the function is NaN or infinite at an eigenvalue or a node, or does not give
                a number for each of them.
        """
        exact = float(_applied(function, self.eigenvalues).sum())
        n = self.size - len(self.eigenvalues)
        mean = _quadrature(function, self.nodes, self.weights)
        half = _quadrature(function, self.half_nodes, self.half_weights)
        square = _quadrature(lambda x: function(x) ** 2, self.nodes, self.weights)
        variance = float(square.mean() - mean.mean() ** 2)
        found = mean_of(
            exact + n * mean,
            products=self.products,
            seed=self.seed,
            bias=n * abs(float(mean.mean() - half.mean())),
            predicted=2 * n * n / (n + 2) * max(variance, 0.0),
        )
        return per_unit(found, per, self.size)

    def count(self, low: float, high: float, *, per: Per = "total") -> Estimate:
        """The number of eigenvalues in ``[low, high]``, or their share.

        Args:
            low: lower end, in units of the matrix.
            high: upper end.
            per: "total" or "dimension".

        Returns:
            The estimate; wide intervals within the bulk, which the nodes do not resolve.

        Raises:
            ValueError: `low` is above `high`, or one of them NaN.
        """
        if not low <= high:
            raise ValueError(f"low={low} and high={high}; expected low <= high")
        return self.integral(lambda x: ((x >= low) & (x <= high)).double(), per=per)

    def energies(self, *, per: Per = "dimension") -> Energies:
        r"""L1, :math:`\int |\lambda| \rho`, and L2, :math:`\int \lambda^2 \rho`, split by sign.

        Args:
            per: "dimension" gives the integrals; "total" P times that: the nuclear norm and the
                squared Frobenius norm.

        Returns:
            Six estimates, from nodes and weights. Cost: none.
        """

        def part(power: int, sign: int) -> Estimate:
            clamped = (lambda x: (sign * x).clamp(min=0)) if sign else torch.abs
            return self.integral(lambda x: clamped(x) ** power, per=per)

        return Energies(*(part(power, sign) for power in (1, 2) for sign in (0, -1, 1)))


@dataclass(frozen=True)
class Energies:
    """How much there is of curvature, and of which sign; each an `Estimate`.

    Attributes:
        L1: mean modulus of an eigenvalue.
        L1_negative: of negative eigenvalues alone, the others counted as zero.
        L1_positive: of positive ones.
        L2: mean square.
        L2_negative: of negative ones.
        L2_positive: of positive ones.
    """

    L1: Estimate
    L1_negative: Estimate
    L1_positive: Estimate
    L2: Estimate
    L2_negative: Estimate
    L2_positive: Estimate


def _quadrature(function: Callable[[Tensor], Tensor], nodes: Tensor, weights: Tensor) -> Tensor:
    """The mean of a function under each row of weights, ``[q]``."""
    return (weights * _applied(function, nodes)).sum(1)


def _applied(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The function's values, refused if one is not finite."""
    values = torch.as_tensor(function(x), dtype=torch.float64)
    if values.shape != x.shape:
        raise ValueError(
            f"the function gave the shape {tuple(values.shape)} for {tuple(x.shape)} eigenvalues; "
            "expected a number for each, as torch.log gives"
        )
    if not bool(values.isfinite().all()):
        bad = x[~values.isfinite()]
        shift = -float(x.min())
        cure = "it must be finite on the whole spectrum"
        if shift >= 0:
            cure += f"; those of A + s I that were found are positive for s above {shift:.3g}"
            cure += " (an operator's A.shift(s))"
        raise ValueError(
            f"the function is NaN or infinite at {float(bad[0]):.6g}, an eigenvalue or node of the "
            f"density: {cure}"
        )
    return values
