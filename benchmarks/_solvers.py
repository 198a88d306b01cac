"""Extreme eigenpairs by this package and by others, each tuned to need the fewest products."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from unittest import mock

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
        settings: ladders, from settings that cost least upwards, of which the cheapest one is taken
            whose answer is accurate: what others get to know beforehand, and a user does not. A
            single setting means: as it is called.
        ends: what it can find.
        slow: the ends for which it takes hundreds of products.
        most: the largest P at which it is run.
    """

    name: str
    library: str
    solve: Solve
    settings: list[list[Mapping[str, Any]]] = field(default_factory=lambda: [[{}]])
    ends: tuple[Ends, ...] = ("largest", "both")
    slow: tuple[Ends, ...] = ()
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


def as_lambda(A: Counter) -> Any:
    """A matrix as hessian-eigenthings takes it."""
    operator = peer("hessian_eigenthings.operators.base").LambdaOperator
    return operator(lambda v: A @ v, size=A.shape[0])


def _eigenthings(A: Counter, ends: Ends, seed: int, *, tol: float, steps: int | None) -> Pairs:
    """Its Lanczos does not restart: where its flags deny, a user asks for twice the steps."""
    lanczos = peer("hessian_eigenthings.algorithms.lanczos").lanczos
    tried = steps or 2 * K  # its default
    while True:
        # All Ritz pairs of one run hold both ends.
        found = lanczos(
            as_lambda(A),
            k=tried,
            max_iter=tried,
            which="LA",
            tol=tol,
            seed=seed,
            reorthogonalize=True,
        )
        top = K if ends == "largest" else K // 2
        chosen = [*range(top), *range(tried - (K - top), tried)]
        if steps is not None or bool(found.converged[chosen].all()) or tried > 500:
            return found.eigenvalues[chosen], found.eigenvectors[chosen].T
        tried *= 2


def _eigenthings_power(A: Counter, ends: Ends, seed: int, *, tol: float) -> Pairs:
    power = peer("hessian_eigenthings.algorithms.power_iteration").deflated_power_iteration
    pairs = power(as_lambda(A), k=K, max_iter=1000, tol=tol, seed=seed)
    return pairs.eigenvalues, pairs.eigenvectors.T


@contextlib.contextmanager
def pyhessian_on(A: Counter) -> Iterator[Any]:
    """PyHessian's class around any matrix: it sees one parameter of P numbers."""
    module = peer("pyhessian.hessian")
    it = object.__new__(module.hessian)
    it.full_dataset, it.device, it.model = False, "cpu", nn.Module()
    it.params, it.gradsH = [torch.zeros(A.shape[0])], []
    product = lambda gradient, parameters, v: [A @ v[0]]  # noqa: E731
    with mock.patch.object(module, "hessian_vector_product", product):
        yield it


def _pyhessian(A: Counter, ends: Ends, seed: int, *, tol: float) -> Pairs:
    with torch.random.fork_rng(), pyhessian_on(A) as it:
        torch.manual_seed(seed)
        values, vectors = it.eigenvalues(maxIter=1000, tol=tol, top_n=K)
    return torch.tensor(values), torch.stack([v[0] for v in vectors], dim=1)


def _lobpcg(A: Counter, ends: Ends, seed: int, *, tol: float) -> Pairs:
    """torch's takes a matrix, not its products: those with it are counted on their way."""
    utils = torch._lobpcg._utils  # the only place where it multiplies
    assert A.problem is not None
    dense, plain = A.problem.dense, utils.matmul

    def matmul(left: Tensor | None, right: Tensor) -> Tensor:
        if left is dense:
            A.count(right.shape[1])
        return plain(left, right)

    ends_of = [(True, K)] if ends == "largest" else [(True, K // 2), (False, K // 2)]
    with mock.patch.object(utils, "matmul", matmul), torch.random.fork_rng():
        torch.manual_seed(seed)
        found = [
            torch.lobpcg(dense, k, largest=largest, tol=tol, niter=200) for largest, k in ends_of
        ]
    return torch.cat([values for values, _ in found]), torch.cat([v for _, v in found], dim=1)


# ARPACK holds a residual to its own eigenvalue, so that a small one asks for far too much.
_ARPACK = [
    [{"ncv": ncv, "tol": tol} for tol in (100.0, 10.0, 1.0, 0.1, 0.01, 0.001)]
    for ncv in (12, 15, 18, 21, 24, 27, 30, 34, 38, 42, 46, 50, 60, 80)
]
_STEPS = [[{"tol": 1.0, "steps": steps} for steps in range(14, 81)]]


def _tolerances(*exponents: float, **more: Any) -> list[list[Mapping[str, Any]]]:
    return [[{"tol": 10.0**-x, **more} for x in exponents]]


def solvers(rtol: float) -> list[Solver]:
    """All ways to eigenpairs whose residuals are below rtol times the largest modulus."""
    return [
        Solver(
            f"hesslab, {method}",
            "hesslab",
            functools.partial(_hesslab, method=method, rtol=rtol),
            most=10**6 if method == "lobpcg" else 10**8,  # it keeps 144 vectors
        )
        for method in ("lanczos", "lobpcg")
    ] + [
        Solver("scipy ARPACK, jvp(grad)", "torch", _arpack, _ARPACK),
        Solver("scipy ARPACK, curvlinops", "curvlinops", _arpack, _ARPACK),
        Solver(
            "scipy ARPACK as called, curvlinops",
            "curvlinops",
            _arpack,
            [[{"ncv": None, "tol": rtol}]],
            slow=("both",),
        ),
        Solver(
            "hessian-eigenthings, Lanczos",
            "hessian-eigenthings",
            _eigenthings,
            _tolerances(-2, -1, 0, 1, 2, 3, steps=None),
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
            _tolerances(2, 2.5, 3, 3.5, 4, 5),
            ("largest",),  # by modulus, which are the same ten here
            slow=("largest",),
            most=10**6,
        ),
        Solver(
            "PyHessian, power",
            "PyHessian",
            _pyhessian,
            _tolerances(3, 4, 5, 5.5, 6, 7),
            ("largest",),
            slow=("largest",),
            most=10**6,
        ),
        Solver("torch.lobpcg, dense", "torch", _lobpcg, _tolerances(3, 4), most=10_000),
    ]
