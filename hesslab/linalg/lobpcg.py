"""Extreme eigenpairs by locally optimal blocks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hesslab.linalg.basis import check_projection
from hesslab.linalg.lanczos import direction_of
from hesslab.linalg.matrix import Counted
from hesslab.linalg.progress import State
from hesslab.linalg.vectors import check_room

WARM = 6  # steps that a warm start takes at least
GUARD = 2  # vectors beyond those wanted; the last wanted one converges by the gap behind them


class Block:
    """LOBPCG without a preconditioner, on an orthonormal basis [X, P, W] throughout.

    W are the residuals of X, P the directions of the last step; the products with P follow from
    those with the basis before, so that a step multiplies the columns of W alone. Pairs that have
    converged stay in X and get no new directions (soft locking).

    Args:
        multiply: the matrix.
        k: pairs wanted.
        choose: places of the given number of pairs among descending values.
        start: ``[P, j]`` vectors to begin with; random ones fill up.
        generator: draws them.
        tolerance: residual that counts as converged, relative to the largest modulus.
        memory_limit: bytes for the basis; None means a quarter of the memory.

    Source: Knyazev (2001), Toward the optimal preconditioned eigensolver; Duersch, Shao, Yang and
    Gu (2018), A robust and efficient implementation of LOBPCG, section 4, for the basis.
    """

    def __init__(
        self,
        multiply: Counted,
        k: int,
        choose: Callable[[Tensor, int], Tensor],
        start: Tensor | None,
        generator: torch.Generator,
        *,
        tolerance: float,
        memory_limit: int | None,
    ) -> None:
        self._multiply, self._choose, self._k = multiply, choose, k
        self._tolerance = tolerance
        P, m = multiply.size, min(multiply.size, k + GUARD)
        # X, P and W, their products, and both again while the next ones are made of them
        check_room(12 * m, P, multiply.device, memory_limit)
        X = torch.randn(P, m, generator=generator, dtype=torch.float64).to(multiply.device)
        if start is not None:
            direction_of(start, multiply, generator)  # refuses what does not fit
            given = start.detach().double().reshape(P, -1)[:, :m].to(multiply.device)
            X[:, : given.shape[1]] = given
        self._X = torch.linalg.qr(X).Q
        self._AX = torch.zeros_like(self._X)
        self._P = self._AP = self._X[:, :0]
        self._values = torch.zeros(0, dtype=torch.float64)
        self._scale, self._stuck = 0.0, False
        # Known vectors converge before others have shown themselves.
        self._steps, self._least = 0, 1 if start is None else WARM

    @property
    def price(self) -> int:
        """Products of the next step."""
        return self._X.shape[1] if not len(self._values) else int(self._active().sum())

    @property
    def is_whole(self) -> bool:
        """Nothing is left to multiply: the values are those of the matrix, to rounding."""
        return self._stuck or (len(self._values) > 0 and self.price == 0)

    @property
    def may_end(self) -> bool:
        """There are pairs, and others have had their chance."""
        return self._steps >= self._least

    def estimates(self) -> tuple[Tensor, Tensor, float]:
        """The wanted Ritz values so far, their residuals, and the largest modulus."""
        if not len(self._values):
            return self._values, self._values, 0.0
        chosen = self._chosen()
        return self._values[chosen].cpu(), self._residuals()[chosen].cpu(), self._scale

    def vectors(self) -> Tensor:
        """``[P, k]`` of the last `estimates`."""
        chosen: Tensor = self._X[:, self._chosen()]
        return chosen

    def step(self, left: int) -> None:
        """Multiply the residuals that have not converged, and choose anew."""
        self._steps += 1
        if not len(self._values):
            self._AX = self._multiply(self._X)
            return self._project(self._X, self._AX)
        W = self._directions(self._AX - self._X * self._values)
        if not W.shape[1]:
            self._stuck = True
            return None
        AW = self._multiply(W)
        S = torch.cat([self._X, self._P, W], dim=1)
        return self._project(S, torch.cat([self._AX, self._AP, AW], dim=1))

    def state(self) -> State:
        """What `load` needs to go on."""
        names = ("X", "AX", "P", "AP", "values")
        found = {name: getattr(self, f"_{name}") for name in names}
        return found | {"scale": self._scale, "steps": self._steps}

    def load(self, state: State) -> None:
        """Go on from there."""
        for name in ("X", "AX", "P", "AP", "values"):
            setattr(self, f"_{name}", state[name].to(self._X.device))
        self._scale, self._steps = float(state["scale"]), int(state["steps"])

    def _project(self, S: Tensor, AS: Tensor) -> None:
        """Rayleigh and Ritz in the span of S; the directions in which X moved become P."""
        m = self._X.shape[1]
        T = S.T @ AS
        check_projection(T, self._multiply.rounding)
        values, weights = torch.linalg.eigh((T + T.T) / 2)
        values, weights = values.flip(0), weights.flip(1)
        chosen = self._choose(values.cpu(), m).to(S.device)
        C = weights[:, chosen]
        moved = C.clone()
        moved[:m] = 0
        moved = _new_directions(moved, C)
        self._X, self._AX, self._P, self._AP = S @ C, AS @ C, S @ moved, AS @ moved
        self._values = values[chosen]
        self._scale = float(values.abs().max())

    def _chosen(self) -> Tensor:
        return self._choose(self._values.cpu(), self._k).to(self._X.device)

    def _residuals(self) -> Tensor:
        residuals: Tensor = (self._AX - self._X * self._values).norm(dim=0)
        return residuals

    def _active(self) -> Tensor:
        """Which columns of X move on; none where the basis would be the whole space."""
        if self._X.shape[1] == self._multiply.size:
            return torch.zeros_like(self._values, dtype=torch.bool)
        return self._residuals() > self._tolerance * self._scale

    def _directions(self, R: Tensor) -> Tensor:
        """The residuals that are still large, orthonormal to X, P and each other."""
        old = torch.cat([self._X, self._P], dim=1)
        room = self._multiply.size - old.shape[1]
        return _new_directions(R[:, self._active()], old)[:, :room]


def _new_directions(V: Tensor, old: Tensor) -> Tensor:
    """An orthonormal basis of what columns V add to orthonormal columns ``old``."""
    sizes = V.norm(dim=0)
    V = V[:, sizes > 0] / sizes[sizes > 0]
    for _ in range(2):  # the second time for what rounding left
        V = V - old @ (old.T @ V)
        Q, R = torch.linalg.qr(V)
        V = Q[:, R.diagonal().abs() > 1e-10]
    return V
