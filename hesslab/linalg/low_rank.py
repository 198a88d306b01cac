"""The best approximation of a symmetric matrix by one of low rank."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hesslab.linalg.basis import check_projection
from hesslab.linalg.eigsh import Eigenpairs, eigsh, fix_signs, wanted
from hesslab.linalg.estimate import probe_directions
from hesslab.linalg.matrix import Counted, MatrixLike
from hesslab.linalg.vectors import check_room

SPARE = 10  # random vectors beyond the rank


@dataclass(frozen=True, eq=False)
class LowRank:
    """A matrix of rank k that multiplies, by its eigenpairs of largest modulus.

    Attributes:
        pairs: values ``[k]`` and vectors ``[P, k]``, with residuals.
    """

    pairs: Eigenpairs

    def __repr__(self) -> str:
        P, k = self.pairs.vectors.shape
        return f"LowRank(P = {P}, rank {k}, {self.pairs!r})"

    @property
    def shape(self) -> tuple[int, int]:
        """``(P, P)``."""
        return len(self.pairs.vectors), len(self.pairs.vectors)

    @property
    def dtype(self) -> torch.dtype:
        """Of products."""
        return self.pairs.vectors.dtype

    @property
    def device(self) -> torch.device:
        """Where vectors live."""
        return self.pairs.vectors.device

    def __matmul__(self, v: Tensor) -> Tensor:
        """``[P] -> [P]``, ``[P, K] -> [P, K]``. Cost: 4 P k multiplications a column."""
        V, values = self.pairs.vectors, self.pairs.values.to(self.dtype)
        inner = V.T @ v
        product: Tensor = V @ (values * inner if v.ndim == 1 else values[:, None] * inner)
        return product


def low_rank(
    A: MatrixLike | np.ndarray[Any, Any],
    k: int,
    *,
    method: Literal["lanczos", "randomized"] = "lanczos",
    rtol: float = 1e-3,
    power_steps: int = 1,
    seed: int = 0,
    memory_limit: int | None = None,
) -> LowRank:
    r"""The k eigenpairs of largest modulus, as a matrix: the best of its rank in every norm.

    But for repeated eigenvalues: "lanczos" finds each of them once; see `eigsh`.

    Args:
        A: symmetric ``[P, P]``: an operator, a tensor, a matrix of numpy or scipy, a `MatrixLike`.
        k: the rank.
        method: "lanczos" finds the pairs to `rtol`; "randomized" projects A once on the range of
            :math:`A^{1 + s}` times k + 10 random vectors, s = `power_steps`: all products in
            blocks, and errors where eigenvalues decay slowly, which the residuals tell.
        rtol: residual for Lanczos, relative to the largest modulus.
        power_steps: further products with each random vector.
        seed: of random vectors.
        memory_limit: bytes for what is kept; None means a quarter of the memory.

    Returns:
        `LowRank`; its ``pairs`` have the residuals and the cost.

    Raises:
        ValueError: an argument is out of range, or A is not symmetric.
        NotFinite: a product is NaN or infinite.
        MemoryError: the basis does not fit.

    Cost: about 2k + 20 products, or ``(k + 10) (2 + power_steps)``.
    Source: Eckart and Young (1936); Halko, Martinsson and Tropp (2011), algorithms 4.4 and 5.3.
    """
    if method == "lanczos":
        options: dict[str, Any] = {"rtol": rtol, "seed": seed, "memory_limit": memory_limit}
        return LowRank(eigsh(A, k, which="magnitude", **options))
    if method != "randomized":
        raise ValueError(f'method={method!r}; expected "lanczos" or "randomized"')
    multiply = Counted(A)
    if k != int(k) or not 1 <= k <= multiply.size:
        raise ValueError(f"k={k} is out of range: expected 1 <= k <= {multiply.size}")
    if power_steps != int(power_steps) or power_steps < 0:
        raise ValueError(f"power_steps={power_steps} is out of range: expected at least 0")
    check_room(3 * (k + SPARE), multiply.size, multiply.device, memory_limit)
    return LowRank(_randomized(multiply, int(k), int(power_steps), rtol, seed))


def _randomized(multiply: Counted, k: int, power_steps: int, rtol: float, seed: int) -> Eigenpairs:
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    m = min(k + SPARE, multiply.size)
    Q = probe_directions(multiply.size, m, generator, "gaussian").to(multiply.device)
    for _ in range(1 + power_steps):
        Q = torch.linalg.qr(multiply(Q)).Q
    AQ = multiply(Q)
    T = Q.T @ AQ
    check_projection(T, multiply.rounding)
    values, weights = torch.linalg.eigh((T + T.T) / 2)
    values, weights = values.flip(0), weights.flip(1)
    chosen = wanted(values.cpu(), k, "magnitude").to(values.device)
    values, weights = values[chosen], weights[:, chosen]
    vectors = Q @ weights
    residuals = (AQ @ weights - vectors * values).norm(dim=0)
    return Eigenpairs(
        values=values,
        vectors=fix_signs(vectors).to(multiply.dtype),
        residuals=residuals,
        converged=residuals <= rtol * values.abs().max(),
        products=multiply.products,
        seconds=time.perf_counter() - start,
        seed=seed,
    )
