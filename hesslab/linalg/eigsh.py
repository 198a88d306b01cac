"""Extreme eigenpairs of a symmetric matrix: thick-restart Lanczos, or LOBPCG."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from hesslab.linalg.basis import KrylovBasis
from hesslab.linalg.lanczos import direction_of
from hesslab.linalg.lobpcg import GUARD, Block
from hesslab.linalg.matrix import Counted, MatrixLike
from hesslab.linalg.progress import OnCheckpoint, Progress, State
from hesslab.linalg.vectors import Storage, random_direction, room

# Where eigenvalues lie closer together than rtol, Ritz pairs can converge to the neighbours of one
# that is still missing. Ended at rtol, 23 of 264 runs on chosen spectra had a value that was off by
# more than rtol; ended at a half or at a third of it none had, the worst by half of rtol.
SAFE = 1 / 3
WARM = 8  # steps beyond k that a warm start takes at least
End = Literal["largest", "smallest", "both", "magnitude"]
Method = Literal["lanczos", "lobpcg"]


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    r"""Eigenvalues and -vectors of a symmetric matrix, with their errors and their price.

    Attributes:
        values: ``[k]`` float64, descending, in the units of the matrix.
        vectors: ``[P, k]`` orthonormal, in the matrix's dtype; the entry of largest modulus of
            each is positive.
        residuals: ``[k]`` float64, :math:`\|A v_i - \lambda_i v_i\|` as the products give it, with
            their rounding; some eigenvalue lies within that distance of ``values[i]``.
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


# More lines than a function should have: two thirds are the docstring of its arguments.
def eigsh(
    A: MatrixLike | np.ndarray[Any, Any],
    k: int,
    *,
    which: End = "largest",
    rtol: float = 1e-5,
    method: Method = "lanczos",
    start: Tensor | None = None,
    max_products: int | None = None,
    seed: int = 0,
    memory_limit: int | None = None,
    state: State | None = None,
    on_checkpoint: OnCheckpoint | None = None,
    checkpoint_every: int = 10,
) -> Eigenpairs:
    r"""The k extreme eigenpairs of a symmetric matrix that is known only by its products.

    "lanczos" keeps a basis of a Krylov space, orthogonal to rounding, and restarts it from the best
    Ritz vectors when it is full: fewest products. "lobpcg" multiplies blocks of k vectors, which
    costs more products, and less time where a block is cheap. Pairs that have not converged when
    the products run out are returned with ``converged`` False and their residual, and a warning.

    A repeated eigenvalue is found once by "lanczos", whatever ``converged`` says, as by any method
    that starts from one vector: all its copies look alike from there. Chance gives no network such
    a one, but structure does: a linear layer of C outputs under a squared loss has each eigenvalue
    C times. "lobpcg" finds the copies.

    Args:
        A: symmetric ``[P, P]``: an operator, a tensor, a matrix of numpy or scipy, a `MatrixLike`.
        k: number of pairs, 1 <= k <= P.
        which: end of the spectrum, by sign; "both" takes the upper half of the k (rounded up) from
            the top and the rest from the bottom; "magnitude" goes by modulus.
        rtol: residual that counts as converged, relative to the largest modulus. In float32
            products are good to about 1e-6.
        method: see above.
        start: ``[P]`` or ``[P, j]``: earlier eigenvectors of a matrix like this one. Lanczos
            starts from their sum and a random vector of its length, without which it would not see
            that another eigenvalue has become larger; LOBPCG from them and random ones.
        max_products: limit, at least k + 1; None means ``20 k + 200``.
        seed: of the start vectors.
        memory_limit: bytes for the basis; None means a quarter of the memory. A larger basis
            needs fewer products.
        state: what an interrupted call handed to `on_checkpoint`; goes on to the same bits.
        on_checkpoint: called with such a state every `checkpoint_every` steps and at Ctrl-C. It
            holds views: save it (``torch.save``) before returning.
        checkpoint_every: steps.

    Returns:
        `Eigenpairs`, values descending.

    Raises:
        ValueError: an argument is out of range, A is not symmetric, or the state is another's.
        NotFinite: a product is NaN or infinite; the message has its number.
        MemoryError: memory_limit has no room for 2 k + 20 vectors.

    Cost: typically 2k + 20 products for isolated eigenvalues, one of them to verify all residuals;
    memory ``8 P`` bytes a product, up to memory_limit.
    Source: Wu and Simon (2000), Thick-restart Lanczos method for large symmetric eigenproblems;
    Knyazev (2001), Toward the optimal preconditioned eigensolver, without a preconditioner.
    """
    multiply = Counted(A)
    limit = 20 * k + 200 if max_products is None else max_products
    _check_request(k, multiply.size, which, method, rtol, limit)
    k = int(k)
    solver = _solver(multiply, k, which, method, rtol, limit, start, seed, memory_limit)
    progress = Progress(
        "eigsh",
        multiply,
        solver,
        {"seed": seed, "k": k, "which": which, "method": method},
        total=None,
        on_checkpoint=on_checkpoint,
        every=checkpoint_every,
    )
    with progress:
        progress.resume(state)
        values, residuals, scale = _search(solver, multiply, limit - 1, SAFE * rtol, progress)
    vectors = solver.vectors().to(multiply.device)
    residuals = _verified(multiply, vectors, values.to(multiply.device), residuals)
    return Eigenpairs(
        values=values.to(multiply.device),
        vectors=fix_signs(vectors).to(multiply.dtype),
        residuals=residuals,
        converged=_converged(residuals, rtol * scale, multiply.products),
        products=multiply.products,
        seconds=progress.seconds,
        seed=seed,
    )


def _solver(
    multiply: Counted,
    k: int,
    which: End,
    method: Method,
    rtol: float,
    limit: int,
    start: Tensor | None,
    seed: int,
    memory_limit: int | None,
) -> ThickRestart | Block:
    P, generator = multiply.size, torch.Generator().manual_seed(seed)
    if method == "lobpcg":
        return Block(
            multiply,
            k,
            lambda values, n: wanted(values, n, which),
            start,
            generator,
            tolerance=SAFE * rtol,
            memory_limit=memory_limit,
        )
    # Room for all products, if float64 vectors fit; else for 2 k + 20 of them.
    steps = min(P, limit, max(2 * k + 20, room(multiply.device, memory_limit) // (8 * P) - 1))
    first = direction_of(start, multiply, generator)
    if start is not None:
        first = first + random_direction(P, generator)
    basis = KrylovBasis(
        first,
        steps,
        Storage.of(steps + 1, P, multiply.device, memory_limit),
        tolerance=multiply.rounding,
        generator=generator,
    )
    return ThickRestart(multiply, basis, k, which, least=0 if start is None else k + WARM)


def _search(
    solver: ThickRestart | Block,
    multiply: Counted,
    limit: int,
    tolerance: float,
    progress: Progress,
) -> tuple[Tensor, Tensor, float]:
    """Go on until the wanted pairs have converged or the products are spent."""
    while True:
        values, residuals, scale = solver.estimates()
        done = solver.may_end and bool((residuals <= tolerance * scale).all())
        left = limit - multiply.products
        if done or solver.is_whole or left < solver.price:
            return values, residuals, scale
        solver.step(left)
        note = f"residual {float(residuals.max()):.1e}" if len(residuals) else ""
        progress.step(note)


def _verified(multiply: Counted, vectors: Tensor, values: Tensor, residuals: Tensor) -> Tensor:
    """The residuals, held to one more product: of all vectors, added up with random signs."""
    # The squared norm of what that leaves is on average the sum of the squared residuals. Where it
    # is far more, the matrix does not multiply sums as it multiplied their terms.
    generator = torch.Generator().manual_seed(0)
    signs = 2.0 * torch.randint(0, 2, (len(values),), generator=generator, dtype=torch.float64) - 1
    signs = signs.to(vectors.device)
    found = (multiply(vectors @ signs) - vectors @ (values * signs)).norm()
    residuals = residuals.to(vectors.device)
    return torch.where(found > 3 * residuals.norm(), residuals.clamp(min=float(found)), residuals)


def _converged(residuals: Tensor, allowed: float, products: int) -> Tensor:
    """Which residuals are as small as that; a warning, if not all of them."""
    converged = residuals <= allowed
    if not bool(converged.all()):
        warnings.warn(
            f"{int(converged.sum())} of {len(residuals)} eigenpairs have converged: after "
            f"{products} products the largest residual is {float(residuals.max()):.1e}, and rtol "
            f"allows {allowed:.1e}; raise max_products or rtol",
            RuntimeWarning,
            stacklevel=3,
        )
    return converged


def _check_request(k: int, P: int, which: str, method: str, rtol: float, limit: int) -> None:
    """Refuse what cannot be computed, with the range that can."""
    if k != int(k) or not 1 <= k <= P:
        raise ValueError(f"k={k} is out of range: A has {P} eigenvalues, expected 1 <= k <= {P}")
    for name, value, known in (("which", which, End), ("method", method, Method)):
        if value not in get_args(known):
            *most, last = (f'"{choice}"' for choice in get_args(known))
            raise ValueError(f"{name}={value!r}; expected {', '.join(most)} or {last}")
    if not 0 < rtol < 1:
        raise ValueError(f"rtol={rtol} is out of range: expected 0 < rtol < 1")
    first = k if method == "lanczos" else min(P, k + GUARD)
    if limit < first + 1:
        raise ValueError(
            f"max_products={limit} is out of range: {k} pairs take {first} products, and one "
            f"verifies them; expected at least {first + 1}"
        )


class ThickRestart:
    """Lanczos that keeps its best Ritz vectors when there is no more room."""

    price = 1

    def __init__(
        self, multiply: Counted, basis: KrylovBasis, k: int, which: End, *, least: int
    ) -> None:
        self._least = least  # steps; known vectors converge before others have shown themselves
        self._multiply, self._basis, self._k, self._which = multiply, basis, k, which
        self._weights = torch.zeros(0, 0, dtype=torch.float64)

    @property
    def is_whole(self) -> bool:
        """The values are those of the matrix, to rounding."""
        return self._basis.is_whole

    @property
    def may_end(self) -> bool:
        """There are enough pairs, and the wanted ones have had their chance to show themselves.

        All pairs of an invariant space have converged, be they wanted or not.
        """
        basis, k = self._basis, self._k
        enough = basis.size >= k and self._multiply.products >= self._least
        return enough and (not basis.beyond or basis.beyond > k + 2)

    def estimates(self) -> tuple[Tensor, Tensor, float]:
        """The wanted Ritz values so far, their residuals, and the largest modulus."""
        values, weights, residuals = self._basis.ritz()
        chosen = wanted(values, self._k, self._which)
        self._weights = weights[:, chosen]
        scale = float(values.abs().max()) if len(values) else 0.0
        return values[chosen], residuals[chosen], scale

    def vectors(self) -> Tensor:
        """``[P, k]`` of the last `estimates`."""
        return self._basis.vectors(self._weights)

    def step(self, left: int) -> None:
        """Take a product, or a few where the Ritz values are dear in comparison."""
        basis = self._basis
        for _ in range(min(left, 1 + basis.size // 64)):
            if basis.is_full:
                values, _, _ = basis.ritz()
                kept = min(len(values) - 1, (3 * self._k) // 2 + 4)
                basis.restart(wanted(values, kept, self._which))
            basis.absorb(self._multiply(basis.direction))
            if basis.is_whole:
                return

    def state(self) -> State:
        """What `load` needs to go on."""
        return self._basis.state()

    def load(self, state: State) -> None:
        """Go on from there."""
        self._basis.load(state)


def wanted(values: Tensor, k: int, which: End) -> Tensor:
    """Indices of the k wanted of n descending values (all of them, where n < k)."""
    n = len(values)
    k = min(k, n)
    if which == "magnitude":
        return values.abs().argsort(descending=True, stable=True)[:k].sort().values
    top = {"largest": k, "smallest": 0, "both": (k + 1) // 2}[which]
    return torch.cat([torch.arange(top), torch.arange(n - (k - top), n)])


def fix_signs(vectors: Tensor) -> Tensor:
    """The columns, or their negatives, with a positive entry of largest modulus."""
    largest = vectors.abs().argmax(0, keepdim=True)
    return vectors * vectors.gather(0, largest).sign()
