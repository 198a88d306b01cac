"""Extreme eigenpairs by this package and by others, each tuned to need the fewest products."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import scipy.sparse.linalg
import torch
from _peers import peer
from _spectra import Counter
from torch import Tensor, nn

import hesslab as hl

K = 10  # eigenpairs: the largest, or half from either end
Ends = Literal["largest", "both"]
Pairs = tuple[Tensor, Tensor]  # values [k], vectors [P, k]
Solve = Callable[..., Pairs]


@dataclass(frozen=True)
class Solver:
    """A way to eigenpairs.

    Attributes:
        name: of the library and its method.
        library: whose product it takes on a network.
        solve: ``(A, ends, seed, **setting) -> (values, vectors)``.
        settings: from which the cheapest one is taken whose answer is accurate enough: what others
            get to know beforehand, and a user does not. One setting means: as it is called.
        ends: what it can find.
        most: the largest P at which it is run.
    """

    name: str
    library: str
    solve: Solve
    settings: list[Mapping[str, Any]] = field(default_factory=lambda: [{}])
    ends: tuple[Ends, ...] = ("largest", "both")
    most: int = 10**8


def _hesslab(A: Counter, ends: Ends, seed: int, *, method: str, rtol: float) -> Pairs:
    pairs = hl.linalg.eigsh(A, K, which=ends, rtol=rtol, method=method, seed=seed)
    return pairs.values, pairs.vectors


def _arpack(A: Counter, ends: Ends, seed: int, *, ncv: int | None, tol: float) -> Pairs:
    start = np.random.default_rng(seed).standard_normal(A.shape[0]).astype(np.float32)
    which = {"largest": "LA", "both": "BE"}[ends]
    values, vectors = scipy.sparse.linalg.eigsh(
        A.to_scipy(), K, which=which, ncv=ncv, tol=tol, v0=start
    )
    return torch.from_numpy(values), torch.from_numpy(vectors)


def _halves(ends: Ends, top: Any, bottom: Any) -> list[tuple[Any, int]]:
    """For who finds one end at a time: what to ask for, and how many."""
    return [(top, K)] if ends == "largest" else [(top, K // 2), (bottom, K // 2)]


def as_lambda(A: Counter) -> Any:
    """A matrix as hessian-eigenthings takes it."""
    operator = peer("hessian_eigenthings.operators.base").LambdaOperator
    return operator(lambda v: A @ v, size=A.shape[0])


def _eigenthings_once(A: Counter, end: str, k: int, seed: int, steps: int, tol: float) -> Any:
    lanczos = peer("hessian_eigenthings.algorithms.lanczos").lanczos
    return lanczos(
        as_lambda(A), k=k, which=end, max_iter=steps, tol=tol, seed=seed, reorthogonalize=True
    )


def _eigenthings(A: Counter, ends: Ends, seed: int, *, tol: float, steps: int | None) -> Pairs:
    """Its Lanczos does not restart: where its flags deny, a user asks for twice the steps."""
    found = []
    for end, k in (("LA", K),) if ends == "largest" else (("LA", K // 2), ("SA", K // 2)):
        tried = steps or 2 * k  # its default
        pairs = _eigenthings_once(A, end, k, seed, tried, tol)
        while steps is None and not bool(pairs.converged.all()) and tried < 1000:
            tried *= 2
            pairs = _eigenthings_once(A, end, k, seed, tried, tol)
        found.append(pairs)
    values = torch.cat([pairs.eigenvalues for pairs in found])
    return values, torch.cat([pairs.eigenvectors for pairs in found]).T


def _eigenthings_power(A: Counter, ends: Ends, seed: int, *, tol: float) -> Pairs:
    power = peer("hessian_eigenthings.algorithms.power_iteration").deflated_power_iteration
    pairs = power(as_lambda(A), k=K, max_iter=1000, tol=tol, seed=seed)
    return pairs.eigenvalues, pairs.eigenvectors.T


def pyhessian_on(A: Counter) -> Any:
    """PyHessian's class around any matrix: it sees one parameter of P numbers."""
    module = peer("pyhessian.hessian")
    module.hessian_vector_product = lambda gradient, parameters, v: [A @ v[0]]
    it = object.__new__(module.hessian)
    it.full_dataset, it.device, it.model = False, "cpu", nn.Module()
    it.params, it.gradsH = [torch.zeros(A.shape[0])], []
    return it


def _pyhessian(A: Counter, ends: Ends, seed: int, *, tol: float) -> Pairs:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        values, vectors = pyhessian_on(A).eigenvalues(maxIter=1000, tol=tol, top_n=K)
    return torch.tensor(values), torch.stack([v[0] for v in vectors], dim=1)


def _lobpcg(A: Counter, ends: Ends, seed: int, *, tol: float) -> Pairs:
    """torch's takes a matrix, not its products: those with it are counted on their way."""
    utils = torch._lobpcg._utils  # the only place where it multiplies
    assert A.problem is not None
    dense, plain = A.problem.dense, utils.matmul

    def matmul(left: Tensor | None, right: Tensor) -> Tensor:
        if left is dense:
            A.products += right.shape[1]
        return plain(left, right)

    found = []
    utils.matmul = matmul
    try:
        for largest, k in ((True, K),) if ends == "largest" else ((True, K // 2), (False, K // 2)):
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                found.append(torch.lobpcg(dense, k, largest=largest, tol=tol, niter=200))
    finally:
        utils.matmul = plain
    return torch.cat([values for values, _ in found]), torch.cat([v for _, v in found], dim=1)


_TOLERANCES = [1e-1, 1e-2, 1e-3]
_ARPACK = [
    {"ncv": ncv, "tol": tol}
    for ncv, tol in itertools.product((12, 15, 18, 21, 25, 30, 40), _TOLERANCES)
]
_STEPS = [{"tol": 1.0, "steps": steps} for steps in range(14, 81)]
_BY_TOLERANCE: list[Mapping[str, Any]] = [{"tol": tol} for tol in (1e-4, 1e-6)]


def solvers(rtol: float) -> list[Solver]:
    """All ways to eigenpairs whose residuals are below rtol times the largest modulus."""
    return [
        Solver(
            f"hesslab, {method}",
            "hesslab",
            functools.partial(_hesslab, method=method, rtol=rtol),
        )
        for method in ("lanczos", "lobpcg")
    ] + [
        Solver("scipy ARPACK, jvp(grad)", "torch", _arpack, _ARPACK),
        Solver("scipy ARPACK, curvlinops", "curvlinops", _arpack, _ARPACK),
        Solver(
            "scipy ARPACK as called, curvlinops",
            "curvlinops",
            _arpack,
            [{"ncv": None, "tol": rtol}],
        ),
        Solver(
            "hessian-eigenthings, Lanczos",
            "hessian-eigenthings",
            _eigenthings,
            [{"tol": tol, "steps": None} for tol in (3e-1, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3)],
        ),
        Solver(
            "hessian-eigenthings, Lanczos, steps known",
            "hessian-eigenthings",
            _eigenthings,
            _STEPS,
        ),
        Solver(
            "hessian-eigenthings, power",
            "hessian-eigenthings",
            _eigenthings_power,
            _BY_TOLERANCE,
            ("largest",),
        ),
        Solver("PyHessian, power", "PyHessian", _pyhessian, _BY_TOLERANCE, ("largest",)),
        Solver("torch.lobpcg, dense", "torch", _lobpcg, _BY_TOLERANCE, most=10_000),
    ]
