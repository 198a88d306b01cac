r"""Quadratic traces: exact in a Krylov space, by random probes in the space orthogonal to it.

With orthonormal V, :math:`\mathrm{tr} B = \mathrm{tr}(V^T B V) + \mathrm{tr}((I - VV^T) B
(I - VV^T))` for any B. After Lanczos, :math:`A V = V T + \beta v e^T` is known, so that the product
of A with a probe's part outside V follows from that with the probe itself, for every number of
steps: one product a probe in all.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hesslab.linalg.basis import KrylovBasis
from hesslab.linalg.estimate import probe_directions
from hesslab.linalg.matrix import Counted
from hesslab.linalg.vectors import Storage, random_direction


class Complement:
    """Probes and their products, as seen from outside a growing Krylov space.

    Args:
        multiply: the matrix.
        capacity: the largest number of Lanczos steps.
        probes: number of random vectors.
        distribution: theirs; see `probe_directions`.
        seed: of all random vectors.
        memory_limit: bytes for the basis.
    """

    def __init__(
        self,
        multiply: Counted,
        capacity: int,
        probes: int,
        distribution: str,
        seed: int,
        memory_limit: int | None,
    ) -> None:
        P = multiply.size
        first, second = np.random.SeedSequence(seed).generate_state(2).tolist()
        generator = torch.Generator().manual_seed(first)
        self._multiply, self._distribution = multiply, distribution
        self._generator = torch.Generator().manual_seed(second)
        self.basis = KrylovBasis(
            random_direction(P, generator),
            capacity,
            Storage.of(capacity + 1 + 2 * probes, P, multiply.device, memory_limit),
            tolerance=multiply.rounding,
            generator=generator,
        )
        self._Z = self._AZ = torch.zeros(P, 0, dtype=torch.float64)
        self.draw(probes)

    def draw(self, probes: int) -> None:
        """So many further probes: a product each."""
        P, multiply = self._multiply.size, self._multiply
        Z = probe_directions(P, probes, self._generator, self._distribution)
        AZ = multiply(Z)
        place = self.basis.rows.storage.device
        self._Z = torch.cat([self._Z.to(place), Z.to(place)], dim=1)
        self._AZ = torch.cat([self._AZ.to(place), AZ.to(place)], dim=1)

    def extend(self) -> None:
        """One more Lanczos step: one product."""
        self.basis.absorb(self._multiply(self.basis.direction))

    def fill(self) -> Complement:
        """All the steps that there is room for; returns itself."""
        while not (self.basis.is_full or self.basis.is_whole):
            self.extend()
        return self

    def captured(self) -> float:
        """What the last step added to the squared norm of A in the Krylov space."""
        n = self.basis.size
        return float(self.basis.T[n - 1, n - 1]) ** 2 + 2 * self.basis.coupling**2

    def outside(self) -> tuple[Tensor, Tensor]:
        """The probes' parts orthogonal to the Krylov space, and A times those: ``[P, q]`` each."""
        basis, n = self.basis, self.basis.size
        if n == 0:
            return self._Z, self._AZ
        X = basis.rows.coefficients(self._Z, n)
        T = basis.T[:n, :n].to(X.device)
        AZ = self._AZ - basis.rows.combine(T @ X, n)
        if basis.coupling:
            AZ = AZ - torch.outer(basis.direction, basis.coupling * X[-1])
        return self._Z - basis.rows.combine(X, n), AZ

    def traces(self) -> Tensor:
        """The trace of A, one estimate a probe, ``[q]``."""
        Z, AZ = self.outside()
        return float(self.basis.T.diagonal()[: self.basis.size].sum()) + (Z * AZ).sum(0).cpu()

    def squares(self) -> tuple[Tensor, float]:
        r"""The trace of A squared.

        Returns:
            An estimate from each probe, ``[q]``; and their variance as theory gives it. With B the
            part of A squared that probes see, that is at most :math:`2 \|B\|_F^2`, and
            :math:`(y^T B z)^2` of two probes has the mean :math:`\|B\|_F^2`. Of few probes this
            tells more than their spread.
        """
        n = self.basis.size
        inside = float((self.basis.T[:n, :n] ** 2).sum()) + self.basis.coupling**2
        outside = self.outside()[1]
        products = (outside.T @ outside).cpu()
        q = len(products)
        between = float(products.triu(1).square().sum()) / max(q * (q - 1) / 2, 1)
        return inside + products.diagonal(), 2 * between

    def diagonals(self) -> tuple[Tensor, Tensor]:
        """Of ``V V^T A``, ``[P]``; and of the rest of A, ``[P, q]``, one column a probe."""
        basis, n = self.basis, self.basis.size
        inside = torch.zeros_like(self._Z[:, 0])
        for j in range(n):
            v = basis.rows[j]
            inside += float(basis.T[j, j]) * v * v
            if beta := float(basis.T[j + 1, j]) if j + 1 < n else basis.coupling:
                inside += (2 if j + 1 < n else 1) * beta * v * basis.rows[j + 1]
        AZ = self._AZ
        return inside, self._Z * (AZ - basis.rows.combine(basis.rows.coefficients(AZ, n), n))
