"""The Lanczos factorisation of a symmetric matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hesslab.linalg.basis import KrylovBasis
from hesslab.linalg.matrix import Counted, MatrixLike
from hesslab.linalg.progress import OnCheckpoint, Progress, State
from hesslab.linalg.vectors import Storage, random_direction


@dataclass(frozen=True, eq=False)
class LanczosFactorization:
    r"""A matrix in a Krylov space: :math:`A V = V T + \beta_m v_m e_m^T`.

    Attributes:
        diagonal: ``[m]`` float64, of the tridiagonal T.
        off_diagonal: ``[m - 1]`` float64, not negative; a zero is where the space became invariant
            and went on with a random direction.
        coupling: :math:`\beta_m`, what the last product added to the space.
        vectors: ``[P, m]``, V: orthonormal columns, float64 where memory allowed, else float32.
        next_vector: ``[P]`` float64, :math:`v_m`.
        orthogonality: :math:`\|V^T V - I\|_2`, measured.
        products: how many products with the matrix were taken.
        seconds: wall time of this call.
        seed: of the start vector.
    """

    diagonal: Tensor
    off_diagonal: Tensor
    coupling: float
    vectors: Tensor
    next_vector: Tensor
    orthogonality: float
    products: int
    seconds: float
    seed: int

    def __repr__(self) -> str:
        P, m = self.vectors.shape
        return (
            f"LanczosFactorization({m} steps, P = {P}, orthogonal to {self.orthogonality:.1e}, "
            f"{self.products} products)"
        )

    def to_dense(self) -> Tensor:
        """T, ``[m, m]`` float64."""
        off = self.off_diagonal
        return torch.diag(self.diagonal) + torch.diag(off, 1) + torch.diag(off, -1)

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Ritz values ``[m]`` descending, and their residuals ``[m]``: distances to eigenvalues."""
        values, weights = torch.linalg.eigh(self.to_dense())
        return values.flip(0), (self.coupling * weights[-1]).abs().flip(0)


# More lines than a function should have: half are the docstring of its arguments.
def lanczos(
    A: MatrixLike | np.ndarray[Any, Any],
    steps: int,
    *,
    start: Tensor | None = None,
    seed: int = 0,
    memory_limit: int | None = None,
    state: State | None = None,
    on_checkpoint: OnCheckpoint | None = None,
    checkpoint_every: int = 10,
) -> LanczosFactorization:
    r"""The projection of a symmetric matrix on a Krylov space, with all basis vectors kept.

    Products are taken in the matrix's precision, all inner products in float64. Each new vector is
    made orthogonal to the whole basis, so no eigenvalue appears twice. The basis lives on the
    matrix's device, or on the host, in float64 or, if that is too much, in float32.

    Args:
        A: symmetric ``[P, P]``: an operator, a tensor, a matrix of numpy or scipy, a `MatrixLike`.
        steps: number of products, at most P.
        start: ``[P]``, the first direction; None draws one with `seed`.
        seed: of the start, and of directions in which it goes on from an invariant space.
        memory_limit: bytes for the basis; None means a quarter of the memory.
        state: what an interrupted call handed to `on_checkpoint`; the result is the same to the
            bit as without the interruption. ``steps`` may be another one.
        on_checkpoint: called with such a state every `checkpoint_every` steps and at Ctrl-C. It
            holds views: save it (``torch.save``) before returning.
        checkpoint_every: steps.

    Returns:
        `LanczosFactorization`.

    Raises:
        ValueError: an argument is out of range, A is not symmetric, or the state is another's.
        NotFinite: a product is NaN or infinite; the message has its number.
        MemoryError: the basis does not fit into memory_limit, not even in float32.

    Cost: ``steps`` products; memory ``8 P (steps + 1)`` bytes.
    Source: Lanczos (1950); Parlett, The Symmetric Eigenvalue Problem, chapter 13.
    """
    multiply = Counted(A)
    P = multiply.size
    if steps != int(steps) or not 1 <= steps <= P:
        raise ValueError(f"steps={steps} is out of range: expected 1 <= steps <= {P}, A's size")
    generator = torch.Generator().manual_seed(seed)
    basis = KrylovBasis(
        direction_of(start, multiply, generator),
        int(steps),
        Storage.of(int(steps) + 1, P, multiply.device, memory_limit),
        tolerance=multiply.rounding,
        generator=generator,
    )
    progress = Progress(
        "lanczos",
        multiply,
        basis,
        {"seed": seed},
        total=int(steps),
        on_checkpoint=on_checkpoint,
        every=checkpoint_every,
    )
    with progress:
        progress.resume(state)
        while basis.size < steps:
            basis.absorb(multiply(basis.direction))
            progress.step()
    n = basis.size
    T = basis.T[:n, :n]
    return LanczosFactorization(
        diagonal=T.diagonal().clone(),
        off_diagonal=T.diagonal(1).clone(),
        coupling=basis.coupling,
        vectors=basis.rows.first(n).T,
        next_vector=torch.zeros_like(basis.rows[0]) if basis.is_whole else basis.direction,
        orthogonality=basis.rows.orthogonality(n),
        products=multiply.products,
        seconds=progress.seconds,
        seed=seed,
    )


def direction_of(start: Tensor | None, multiply: Counted, generator: torch.Generator) -> Tensor:
    """Where to begin: at random, or with the sum of the columns of ``start``, normalised.

    Returns:
        ``[P]`` of length 1.

    Raises:
        ValueError: ``start`` does not fit the matrix, or is zero.
    """
    if start is None:
        return random_direction(multiply.size, generator)
    if start.ndim not in (1, 2) or len(start) != multiply.size:
        raise ValueError(
            f"start has shape {tuple(start.shape)}; expected [{multiply.size}] or "
            f"[{multiply.size}, j], vectors of A's size"
        )
    v = start.detach().double()
    total = v if v.ndim == 1 else v.sum(1)
    if not 0 < float(total.norm()) < float("inf"):
        raise ValueError("start is zero, or holds NaN or infinite values; it is to be a direction")
    return total.cpu() / float(total.norm())
