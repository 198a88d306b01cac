"""An orthonormal basis of a Krylov space, and the projection of a symmetric matrix onto it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hesslab.linalg.vectors import Rows, Storage, random_direction

INVARIANT = 1e-13  # of the matrix's norm: what is left of a product in an invariant space


class KrylovBasis:
    r"""Lanczos vectors :math:`v_0 \ldots v_n` and the projection T of the matrix on the first n.

    The caller multiplies: ``basis.absorb(A @ basis.direction)`` adds one vector. The recurrence
    :math:`\beta_n v_{n+1} = A v_n - \alpha_n v_n - \beta_{n-1} v_{n-1}` is followed by one pass
    over the whole basis in float64, and by a second one where the first took much away.

    Args:
        start: ``[P]``, the first direction; it need not be of unit length.
        capacity: number of steps for which there is room.
        storage: of the vectors.
        tolerance: asymmetry that is taken for rounding, relative to the matrix's norm.
        generator: draws the direction in which it goes on once the space is invariant; without
            one it ends there.
        against: ``[P, k]`` orthonormal float64 columns on the storage's device; the matrix is seen
            in the space orthogonal to them.

    Attributes:
        size: number of steps made, n.
        T: ``[capacity + 1, capacity + 1]`` float64 on the host: tridiagonal, but for an arrow
            after a restart.
        asymmetry: the largest part of a product that a symmetric matrix would not have.
        ended: the space is invariant, and T holds all that there is to see from `start`.
        norm: of the longest product so far.
        beyond: steps made since the space was invariant but for rounding; 0 where it never was.
    """

    _PLAIN = ("size", "asymmetry", "ended", "beyond", "norm")

    def __init__(
        self,
        start: Tensor,
        capacity: int,
        storage: Storage,
        *,
        tolerance: float,
        generator: torch.Generator | None = None,
        against: Tensor | None = None,
    ) -> None:
        P = len(start)
        self.rows = Rows(capacity + 1, P, storage)
        self._generator, self._against = generator, against
        stored = torch.finfo(storage.dtype).eps
        self._tolerance = max(tolerance, 10 * stored)
        self._rounding = max(tolerance**2, INVARIANT, stored)
        v = self._outside(start.to(storage.device, torch.float64))
        self.rows[0] = v / v.norm()
        self.T = torch.zeros(capacity + 1, capacity + 1, dtype=torch.float64)
        self._slack = torch.zeros(capacity + 1, dtype=torch.float64)
        self.size, self.asymmetry, self.ended = 0, 0.0, False
        self.norm, self.beyond = 0.0, 0
        self._space = P - (0 if against is None else against.shape[1])

    @property
    def direction(self) -> Tensor:
        """What is to be multiplied next: float64 ``[P]``, of unit length."""
        return self.rows[self.size]

    @property
    def is_whole(self) -> bool:
        """The space is all that there is: the Ritz values are the eigenvalues."""
        return self.size == self._space

    @property
    def is_full(self) -> bool:
        """There is no room for another step."""
        return self.size == len(self.rows) - 1

    @property
    def coupling(self) -> float:
        """The length of what the last product added to the space."""
        n = self.size
        return 0.0 if self.is_whole or self.ended or n == 0 else float(self.T[n, n - 1])

    def absorb(self, product: Tensor) -> None:
        """Make a step.

        Args:
            product: ``[P]`` float64, the matrix times `direction`.

        Raises:
            ValueError: the matrix is not symmetric; the message has the measure.
        """
        n, rows = self.size, self.rows
        w = product.to(rows.storage.device, torch.float64)
        self.norm = max(self.norm, float(w.norm()))
        w = self._outside(w)
        v = rows[n]
        known = self.T[:n, n]
        for j in known.nonzero().flatten().tolist() if n else ():
            w = w - float(known[j]) * rows[j]
        alpha = float(v @ w)
        w = w - alpha * v
        before = float(w.norm())
        w, excess = self._orthogonal(w, n + 1)
        if self.norm > 0:
            self.asymmetry = max(self.asymmetry, float(excess[:n].norm()) / self.norm)
        check_symmetry(self.asymmetry, self._tolerance)
        beta = float(w.norm())
        if beta < 0.5 * before:
            w, _ = self._orthogonal(self._outside(w), n + 1)
            beta = float(w.norm())
        self.T[n, n] = alpha + float(excess[n])
        self._slack[n] = float(excess[:n].norm())
        if self.beyond or beta <= self._rounding * self.norm:
            self.beyond += 1
        if n + 1 < self._space:
            if beta <= INVARIANT * self.norm:
                beta, w = 0.0, self._elsewhere(n + 1)
            if not self.ended:
                rows[n + 1] = w / w.norm()
            self.T[n, n + 1] = self.T[n + 1, n] = beta
        self.size = n + 1  # last: an interrupted step has not happened

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """The eigenpairs of T, all float64 on the host.

        Returns:
            Ritz values ``[n]`` descending, their weights ``[n, n]`` (columns), and their residuals
            ``[n]``: what the last product adds to the space, and by how much the products were
            found to lack symmetry, by rounding.
        """
        n = self.size
        values, weights = torch.linalg.eigh(self.T[:n, :n])
        values, weights = values.flip(0), weights.flip(1)
        outside = (self.coupling * weights[-1:]).square().sum(0)
        within = self._slack[:n] ** 2 @ weights**2
        return values, weights, (outside + within).sqrt()

    def vectors(self, weights: Tensor) -> Tensor:
        """Ritz vectors ``[P, k]`` of columns of weights ``[n, k]``, where the basis is kept."""
        return self.rows.combine(weights.to(self.rows.storage.device), self.size)

    def restart(self, keep: Tensor) -> None:
        """Keep some Ritz vectors and the next direction alone.

        Args:
            keep: their places among the descending values.

        Source: Wu and Simon (2000), Thick-restart Lanczos method.
        """
        n, kept = self.size, len(keep)
        values, weights, _ = self.ritz()
        arrow = self.coupling * weights[-1, keep]
        within = (self._slack[:n] ** 2 @ weights[:, keep] ** 2).sqrt()
        self.rows[slice(0, kept)] = self.vectors(weights[:, keep]).T
        self.rows[kept] = self.rows[n]
        self.T.zero_()
        self.T[:kept, :kept] = torch.diag(values[keep])
        self.T[kept, :kept] = self.T[:kept, kept] = arrow
        self._slack.zero_()
        self._slack[:kept] = within
        self.size = kept

    def state(self) -> dict[str, Any]:
        """All that a resumed computation needs; views, to be written before the next step."""
        n = self.size
        found: dict[str, Any] = {name: getattr(self, name) for name in self._PLAIN}
        found |= {"V": self.rows.first(n + 1), "T": self.T[: n + 1, : n + 1]}
        if self._generator is not None:
            found["generator"] = self._generator.get_state()
        return found | {"slack": self._slack[:n]}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state` of a basis of the same kind, to the bit."""
        n, V = state["size"], state["V"]
        ours = self.rows
        if V.dtype != ours.storage.dtype or V.shape[1] != ours.size or n >= len(ours):
            raise ValueError(
                f"the state holds {len(V)} vectors of {V.shape[1]} numbers in {V.dtype}, but the "
                f"basis has room for {len(ours)} of {ours.size} in {ours.storage.dtype}; resume "
                "with the matrix and memory_limit that it was made with, and no fewer steps"
            )
        for name in self._PLAIN:
            setattr(self, name, state[name])
        self.rows[slice(0, n + 1)] = V
        self.T[: n + 1, : n + 1] = state["T"]
        self._slack[:n] = state["slack"]
        if self._generator is not None:
            self._generator.set_state(state["generator"])

    def _orthogonal(self, w: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """``w`` without what lies along the first n vectors, and how much that was."""
        c = self.rows.coefficients(w, n)
        return w - self.rows.combine(c, n), c.cpu()

    def _outside(self, w: Tensor) -> Tensor:
        """``w`` in the space orthogonal to `against`."""
        Q = self._against
        return w if Q is None else w - Q @ (Q.T @ w)

    def _elsewhere(self, n: int) -> Tensor:
        """A direction orthogonal to all so far; the space of `start` ends."""
        if self._generator is None:
            self.ended = True
            return self.rows[0]
        w = random_direction(self.rows.size, self._generator)
        w = self._outside(w.to(self.rows.storage.device))
        for _ in range(2):
            w, _ = self._orthogonal(w, n)
        return w


def check_projection(T: Tensor, allowed: float) -> None:
    """Refuse a matrix whose projection ``T`` on orthonormal vectors is not symmetric."""
    apart, size = float((T - T.T).norm()), float(T.norm())
    check_symmetry(apart / size if size else 0.0, allowed)


def check_symmetry(measured: float, allowed: float) -> None:
    """Refuse a matrix whose products are not those of a symmetric one.

    Args:
        measured: what they have too much, relative to the matrix's norm.
        allowed: what may be rounding.

    Raises:
        ValueError: it is more.
    """
    if measured > allowed:
        raise ValueError(
            f"A is not symmetric: u.Av - v.Au is {measured:.1e} of its norm for vectors of a "
            "Krylov space; its eigenvalues may be complex. Symmetrise it, or use A.T @ A for "
            "singular values"
        )
