"""Stochastic Lanczos quadrature with the outliers taken out."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hesslab.linalg.basis import KrylovBasis
from hesslab.linalg.density import SpectralDensity
from hesslab.linalg.eigsh import Eigenpairs, eigsh
from hesslab.linalg.estimate import probe_directions
from hesslab.linalg.matrix import Counted, MatrixLike
from hesslab.linalg.progress import OnCheckpoint, Progress, State
from hesslab.linalg.vectors import Storage, random_direction

# A Ritz pair counts as an eigenpair, and is taken out, if its residual is at most this share of the
# largest modulus, and at most that share of its own value.
OF_LARGEST, OF_ITSELF = 1e-3, 1e-2


def spectral_density(
    A: MatrixLike | np.ndarray[Any, Any],
    *,
    steps: int = 30,
    probes: int = 5,
    deflate: Literal["auto"] | int | Eigenpairs | None = "auto",
    seed: int = 0,
    memory_limit: int | None = None,
    state: State | None = None,
    on_checkpoint: OnCheckpoint | None = None,
    checkpoint_every: int = 10,
) -> SpectralDensity:
    r"""The density of a symmetric matrix's eigenvalues.

    A few large eigenvalues hold nearly all of a network's energy, and a random probe meets them by
    chance alone. So those that a Lanczos run resolves are taken out exactly, and quadrature
    estimates the rest, in the space orthogonal to them, from `probes` random directions.

    Args:
        A: symmetric ``[P, P]``: an operator, a tensor, a matrix of numpy or scipy, a `MatrixLike`.
        steps: of Lanczos for each probe; m steps are exact for polynomials of degree 2 m - 1.
        probes: random directions.
        deflate: "auto" takes twice `steps` products and takes out every Ritz pair whose residual
            is at most 1e-3 of the largest modulus and 1e-2 of its own value; all of them, where P
            products are no more than the whole would take; a number finds so many of the largest
            modulus to 1e-3; `Eigenpairs` are taken as they are; None or 0 takes
            out none.
        seed: of all random vectors.
        memory_limit: bytes for the bases; None means a quarter of the memory.
        state: what an interrupted call handed to `on_checkpoint`; goes on to the same bits.
        on_checkpoint: called with such a state every `checkpoint_every` steps and at Ctrl-C. It
            holds views: save it (``torch.save``) before returning.
        checkpoint_every: steps.

    Returns:
        `SpectralDensity`.

    Raises:
        ValueError: an argument is out of range, A is not symmetric, or the state is another's.
        NotFinite: a product is NaN or infinite; the message has its number.
        MemoryError: the bases do not fit.

    Cost: ``min(steps * (probes + 2), P)`` products; memory ``8 P steps * max(2, probes)`` bytes
    and more.
    Source: Golub and Meurant (1994) for the quadrature; Gambhir, Stathopoulos and Orginos (2017)
    for deflation in stochastic traces.
    """
    multiply = Counted(A)
    _check_request(steps, probes, deflate, multiply.size)
    run = _Run(multiply, steps, probes, deflate, seed, memory_limit)
    progress = Progress(
        "spectral_density",
        multiply,
        run,
        {"seed": seed, "steps": steps, "probes": probes, "deflate": str(deflate)},
        total=run.total,
        on_checkpoint=on_checkpoint,
        every=checkpoint_every,
    )
    with progress:
        progress.resume(state)
        while run.step():
            progress.step()
    return run.result(progress.seconds)


class _Run:
    """The two parts of the computation, one step after the other."""

    def __init__(
        self,
        multiply: Counted,
        steps: int,
        probes: int,
        deflate: Literal["auto"] | int | Eigenpairs | None,
        seed: int,
        memory_limit: int | None,
    ) -> None:
        self._multiply, self._steps, self._probes = multiply, steps, probes
        self._deflate, self._seed, self._limit = deflate, seed, memory_limit
        P, device = multiply.size, multiply.device
        self._storage = Storage.of((min(steps, P) + 1) * probes, P, device, memory_limit)
        first, second = np.random.SeedSequence(seed).generate_state(2).tolist()
        self._second = second
        self._pairs: tuple[Tensor, Tensor, Tensor] | None = None
        self._bases: list[KrylovBasis] = []
        self._outliers: KrylovBasis | None = None
        self.total: int | None = None  # products, where that is known beforehand
        if deflate == "auto":
            generator = torch.Generator().manual_seed(first)
            self.total = min(steps * (probes + 2), P)
            most = P if self.total == P else 2 * steps
            self._outliers = KrylovBasis(
                random_direction(P, generator),
                most,
                Storage.of(most + 1, P, device, memory_limit),
                tolerance=multiply.rounding,
                generator=generator,
            )

    def step(self) -> bool:
        """Go on by one product, or one of each probe; False if there is nothing left to do."""
        if self._outliers is not None:
            self._outliers.absorb(self._multiply(self._outliers.direction))
            if self._outliers.is_full or self._outliers.is_whole:
                self._take_out(*_resolved(self._outliers))
            return True
        if self._pairs is None:
            self._take_out(*self._given())
            return True
        going = [basis for basis in self._bases if not _has_ended(basis)]
        if not going:
            return False
        products = self._multiply(torch.stack([basis.direction for basis in going], dim=1))
        for basis, product in zip(going, products.T, strict=True):
            basis.absorb(product)
        return True

    def result(self, seconds: float) -> SpectralDensity:
        """What was found."""
        assert self._pairs is not None
        values, vectors, residuals = self._pairs

        def nodes(steps: int) -> tuple[Tensor, Tensor]:
            if self._bases:
                return _nodes(self._bases, steps)
            shape = self._probes, steps  # all eigenvalues were taken out
            return values[:1].expand(shape), torch.zeros(shape, dtype=torch.float64)

        return SpectralDensity(
            values,
            residuals,
            vectors.to(self._multiply.device),
            *nodes(self._steps),
            *nodes(self._steps // 2),
            size=self._multiply.size,
            products=self._multiply.products,
            seconds=seconds,
            seed=self._seed,
        )

    def state(self) -> State:
        """What `load` needs to go on."""
        if self._outliers is not None:
            return {"outliers": self._outliers.state()}
        return {"pairs": self._pairs, "bases": [basis.state() for basis in self._bases]}

    def load(self, state: State) -> None:
        """Go on from there."""
        if "outliers" in state and self._outliers is not None:
            return self._outliers.load(state["outliers"])
        if state["pairs"] is not None:
            self._take_out(*state["pairs"])
            for basis, saved in zip(self._bases, state["bases"], strict=True):
                basis.load(saved)
        return None

    def _take_out(self, values: Tensor, vectors: Tensor, residuals: Tensor) -> None:
        """Begin the probes in the space orthogonal to some vectors."""
        vectors = vectors.to(self._storage.device)
        self._pairs, self._outliers = (values, vectors, residuals), None
        P = self._multiply.size
        left = P - len(values)
        if left == 0:
            return
        draws = probe_directions(P, self._probes, torch.Generator().manual_seed(self._second))
        steps, tolerance = min(self._steps, left), self._multiply.rounding
        self._bases = [
            KrylovBasis(z, steps, self._storage, tolerance=tolerance, against=vectors)
            for z in draws.T
        ]

    def _given(self) -> tuple[Tensor, Tensor, Tensor]:
        """The pairs that the caller gave or asked for."""
        pairs = self._deflate
        if isinstance(pairs, int) and pairs > 0:
            pairs = eigsh(
                self._multiply.matrix,
                pairs,
                which="magnitude",
                rtol=OF_LARGEST,
                seed=self._seed,
                memory_limit=self._limit,
            )
            self._multiply.products += pairs.products
        if not isinstance(pairs, Eigenpairs):
            empty = torch.zeros(0, dtype=torch.float64)
            return empty, torch.zeros(self._multiply.size, 0, dtype=torch.float64), empty
        return pairs.values.cpu(), torch.linalg.qr(pairs.vectors.double()).Q, pairs.residuals.cpu()


def _check_request(steps: int, probes: int, deflate: Any, P: int) -> None:
    if steps != int(steps) or steps < 2:
        raise ValueError(f"steps={steps} is out of range: expected at least 2 steps a probe")
    if probes != int(probes) or probes < 1:
        raise ValueError(f"probes={probes} is out of range: expected at least 1")
    if isinstance(deflate, Eigenpairs):
        if deflate.vectors.shape[0] != P:
            raise ValueError(
                f"deflate holds vectors of {deflate.vectors.shape[0]} numbers, and A has {P} rows"
            )
    elif isinstance(deflate, int) and 0 <= deflate < P:
        return
    elif deflate is not None and deflate != "auto":
        raise ValueError(
            f'deflate={deflate!r}; expected "auto", None, Eigenpairs or a number below {P}'
        )


def _has_ended(basis: KrylovBasis) -> bool:
    return basis.is_full or basis.ended or basis.is_whole


def _resolved(basis: KrylovBasis) -> tuple[Tensor, Tensor, Tensor]:
    """The Ritz pairs that count as eigenpairs: values, vectors and residuals."""
    values, weights, residuals = basis.ritz()
    size = values.abs()
    found = (residuals <= OF_LARGEST * size.max()) & (residuals < OF_ITSELF * size)
    if basis.is_whole:
        found[:] = True
    return values[found], basis.vectors(weights[:, found]), residuals[found]


def _nodes(bases: list[KrylovBasis], steps: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights ``[q, m]`` of the first steps of each basis."""
    nodes = torch.zeros(len(bases), steps, dtype=torch.float64)
    weights = torch.zeros_like(nodes)
    for i, basis in enumerate(bases):
        n = min(basis.size, steps)
        values, vectors = torch.linalg.eigh(basis.T[:n, :n])
        nodes[i, :n], weights[i, :n] = values, vectors[0] ** 2
        nodes[i, n:] = values[-1]  # of no weight
    return nodes, weights
