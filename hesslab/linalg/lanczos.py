"""Extreme eigenpairs by thick-restart Lanczos with full reorthogonalisation."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from hesslab.linalg.matrix import Counted, MatrixLike, asymmetry

End = Literal["largest", "smallest", "both"]


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    r"""Eigenvalues and -vectors of a symmetric matrix, with their errors and their price.

    Attributes:
        values: ``[k]`` float64, descending, in the units of the matrix.
        vectors: ``[P, k]`` orthonormal, in the matrix's dtype; the entry of largest modulus of
            each is positive.
        residuals: ``[k]`` float64, :math:`\|A v_i - \lambda_i v_i\|` from a real product; some
            eigenvalue of the matrix lies within that distance of ``values[i]``.
        converged: ``[k]`` bool, residual below ``rtol`` times the largest modulus.
        products: how many products with the matrix were taken, checks included.
        seconds: wall time.
        seed: of the start vector.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    converged: Tensor
    products: int
    seconds: float
    seed: int

    def __repr__(self) -> str:
        first = ", ".join(f"{v:.4g}" for v in self.values[:4].tolist())
        more = ", ..." if len(self.values) > 4 else ""
        done = int(self.converged.sum())
        return (
            f"Eigenpairs([{first}{more}], residuals <= {float(self.residuals.max()):.1e}, "
            f"{done} of {len(self.values)} converged, {self.products} products)"
        )


def eigsh(
    A: MatrixLike | np.ndarray[Any, Any],
    k: int,
    *,
    which: End = "largest",
    rtol: float = 1e-5,
    max_products: int | None = None,
    seed: int = 0,
) -> Eigenpairs:
    r"""The k extreme eigenpairs of a symmetric matrix that is known only by its products.

    Keeps a float64 basis of a Krylov space, orthogonal to rounding, and restarts it from the best
    Ritz vectors when it is full. Pairs that have not converged when the products run out are
    returned with ``converged`` False and their residual. Of an eigenvalue that occurs several
    times, one copy is found.

    Args:
        A: symmetric ``[P, P]``: an operator, a tensor, anything with shape, dtype, device, ``@``.
        k: number of pairs, 1 <= k <= P.
        which: end of the spectrum, by sign and not by modulus; "both" takes the upper half of the
            k (rounded up) from the top and the rest from the bottom.
        rtol: residual that counts as converged, relative to the largest modulus. In float32
            products are good to about 1e-6.
        max_products: limit, at least 2 k + 1; None means ``20 k + 200``.
        seed: of the start vector.

    Returns:
        `Eigenpairs`, values descending.

    Raises:
        ValueError: k, rtol or A is out of range, or A is not symmetric.
        NotFinite: a product is NaN or infinite.

    Cost: typically 2k + 30 products for isolated eigenvalues, k of them to verify;
    memory ``8 P (2 k + 21)`` bytes.
    Source: Wu and Simon (2000), Thick-restart Lanczos method for large symmetric eigenproblems.
    """
    if isinstance(A, np.ndarray):
        A = torch.from_numpy(A)
    start = time.perf_counter()
    multiply = Counted(A)
    P = multiply.size
    limit = 20 * k + 200 if max_products is None else max_products
    _check_request(k, P, which, rtol, limit)
    k = int(k)
    basis = _Basis(multiply, min(P, 2 * k + 20), A.dtype, torch.Generator().manual_seed(seed))
    with tqdm(unit=" products", desc="eigsh", disable=None, leave=False) as bar:
        while True:
            ritz, weights, residuals = basis.ritz()
            wanted = _wanted(len(ritz), k, which)
            done = len(ritz) >= k and bool(
                (residuals[wanted] <= 0.5 * rtol * ritz.abs().max()).all()
            )
            left = limit - k - multiply.products
            if done or basis.is_whole or left < 1:
                break
            basis.extend(
                min(4, left), keep=_wanted(len(ritz), min(len(ritz), (3 * k) // 2 + 4), which)
            )
            bar.set_postfix_str(f"residual {float(residuals[wanted].max()):.1e}")
            bar.update(multiply.products - bar.n)
    vectors = basis.vectors(weights[:, wanted])
    errors = (multiply(vectors) - vectors * ritz[wanted]).norm(dim=0)
    scale = float(ritz.abs().max())
    return Eigenpairs(
        values=ritz[wanted],
        vectors=_fix_signs(vectors).to(A.dtype),
        residuals=errors,
        converged=errors <= rtol * scale,
        products=multiply.products,
        seconds=time.perf_counter() - start,
        seed=seed,
    )


def _check_request(k: int, P: int, which: str, rtol: float, limit: int) -> None:
    """Refuse what cannot be computed, with the range that can."""
    if k != int(k) or not 1 <= k <= P:
        raise ValueError(f"k={k} is out of range: A has {P} eigenvalues, expected 1 <= k <= {P}")
    if which not in ("largest", "smallest", "both"):
        raise ValueError(f'which={which!r}; expected "largest", "smallest" or "both"')
    if not 0 < rtol < 1:
        raise ValueError(f"rtol={rtol} is out of range: expected 0 < rtol < 1")
    if limit < 2 * k + 1:
        raise ValueError(
            f"max_products={limit} is out of range: {k} pairs take {k} products, as many to verify "
            f"them and one to check the symmetry; expected at least {2 * k + 1}"
        )


class _Basis:
    """An orthonormal basis of a Krylov space and the matrix in it, restarted when full.

    Rows 0..n-1 of ``V`` span the space, row n is the next direction; ``T`` is the projection:
    tridiagonal, but for an arrow after a restart.
    """

    def __init__(
        self, multiply: Counted, capacity: int, dtype: torch.dtype, generator: torch.Generator
    ) -> None:
        self._multiply = multiply
        self._generator = generator
        v, u = multiply.random_unit(generator), multiply.random_unit(generator)
        self._first_product: Tensor | None = multiply(v)
        apart = asymmetry(u, multiply(u), v, self._first_product)
        if apart > torch.finfo(dtype).eps ** 0.5:
            raise ValueError(
                f"A is not symmetric: u.Av - v.Au is {apart:.1e} of the norms for random u, v; "
                "its eigenvalues may be complex. Symmetrise it, or use A.T @ A for singular values"
            )
        self._V = torch.zeros(capacity + 1, multiply.size, dtype=v.dtype, device=v.device)
        self._V[0] = v
        self._T = torch.zeros(capacity + 1, capacity + 1, dtype=v.dtype)
        self._n = 0
        self._step()

    @property
    def is_whole(self) -> bool:
        """The space is all of R^P: its Ritz values are the eigenvalues."""
        return self._n == self._multiply.size

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values ``[n]`` descending, weights ``[n, n]`` (columns), residual estimates."""
        n = self._n
        values, weights = torch.linalg.eigh(self._T[:n, :n])
        values, weights = values.flip(0), weights.flip(1)
        coupling = 0.0 if self.is_whole else float(self._T[n, n - 1])
        residuals = (coupling * weights[-1]).abs()
        device = self._V.device
        return values.to(device), weights.to(device), residuals.to(device)

    def vectors(self, weights: Tensor) -> Tensor:
        """Ritz vectors ``[P, k]`` of columns of weights ``[n, k]``."""
        return self._V[: self._n].T @ weights

    def extend(self, steps: int, keep: Tensor) -> None:
        """Take up to ``steps`` further products; restart from the Ritz vectors ``keep`` if full."""
        if self._n == len(self._V) - 1:
            self._restart(keep)
        for _ in range(steps):
            if self._n == len(self._V) - 1:
                return
            self._step()

    def _step(self) -> None:
        """One product with the newest vector, orthogonalised twice against all."""
        n, V = self._n, self._V
        if self._first_product is None:
            w = self._multiply(V[n])
        else:
            w, self._first_product = self._first_product, None
        self._T[n, n] = float(V[n] @ w)
        size = float(w.norm())
        w = self._orthogonal(w, n + 1)
        beta = float(w.norm())
        self._n = n + 1
        if self.is_whole:
            return
        if beta <= 1e-13 * size or size == 0.0:  # an invariant space: go on somewhere new
            beta = 0.0
            w = self._orthogonal(self._multiply.random_unit(self._generator), n + 1)
        V[n + 1] = w / w.norm()
        self._T[n, n + 1] = self._T[n + 1, n] = beta

    def _orthogonal(self, w: Tensor, n: int) -> Tensor:
        for _ in range(2):  # the second pass removes what the first leaves by rounding
            w = w - self._V[:n].T @ (self._V[:n] @ w)
        return w

    def _restart(self, keep: Tensor) -> None:
        """Wu and Simon: the kept Ritz vectors, the next direction, and the arrow between them."""
        n, kept = self._n, len(keep)
        values, weights, _ = self.ritz()
        arrow = self._T[n, n - 1] * weights[-1, keep].cpu()
        self._V[:kept] = (self.vectors(weights[:, keep])).T
        self._V[kept] = self._V[n]
        self._T.zero_()
        self._T[:kept, :kept] = torch.diag(values[keep].cpu())
        self._T[kept, :kept] = self._T[:kept, kept] = arrow
        self._n = kept


def _wanted(n: int, k: int, which: End) -> Tensor:
    """Indices of the k wanted of n descending values (all of them, where n < k)."""
    k = min(k, n)
    top = {"largest": k, "smallest": 0, "both": (k + 1) // 2}[which]
    return torch.cat([torch.arange(top), torch.arange(n - (k - top), n)])


def _fix_signs(vectors: Tensor) -> Tensor:
    largest = vectors.abs().argmax(0, keepdim=True)
    return vectors * vectors.gather(0, largest).sign()
