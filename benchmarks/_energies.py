"""The energies L1 and L2 of a spectrum by this package and by others, as products to an accuracy.

An estimate counts as accurate to r where the root mean square of its relative error, over seeds, is
at most r. Where that would take a peer thousands of products, what it needs follows from the
variance and the bias of its single runs, and the figure is marked as computed. What is chosen by
its error on some seeds is reported by its error on others.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import torch
from _peers import peer
from _solvers import as_lambda, pyhessian_on
from _spectra import Counter, Problem
from torch import Tensor

import hesslab as hl

Row = dict[str, Any]
Estimator = Callable[[Counter, int], float]  # of a matrix, with a seed
Nodes = Callable[[Counter, int, int], tuple[Tensor, Tensor]]  # of a matrix, with a seed, by steps
GRID = (8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100)  # steps of a quadrature, for everybody
LATER = 10_000  # seeds from here on are those that are reported


class Square:
    """``A @ A``, each product with it two with A."""

    def __init__(self, A: Counter) -> None:
        self.shape, self.dtype, self.device, self._A = A.shape, A.dtype, A.device, A

    def __matmul__(self, v: Tensor) -> Tensor:
        return self._A @ (self._A @ v)


def energy_rows(
    problem: Problem, rtols: Sequence[float], seeds: int, *, every: int = 1
) -> list[Row]:
    """Products to L2 at each of some accuracies; of what is tuned, every n-th setting is tried."""
    truth = _known(problem.L2) * problem.size
    rows: list[Row] = []
    for rtol in rtols:
        found = _runs(problem, seeds, functools.partial(_squares, rtol=rtol), first=LATER)
        rows.append(_row("hesslab, energy", "L2", rtol, found, truth))
    single = _runs(problem, 10 * seeds, _squared_norm)
    for name, each in (("curvlinops, squared Frobenius norm", 1), ("quadrature of 2 steps", 2)):
        rows += [_computed(name, rtol, single, truth, each) for rtol in rtols]
    for name, (method, sizes) in _SQUARES.items():
        left = list(rtols)
        for q in sizes[::every]:
            estimate = functools.partial(method, q=q)
            row = _row(name, "L2", left[0], _runs(problem, seeds // 2, estimate), truth)
            if row["reached"]:
                row = _row(name, "L2", left[0], _runs(problem, seeds, estimate, first=LATER), truth)
            while left and row["error"] <= left[0]:
                rows.append({**row, "accuracy": left.pop(0)})
            if not left:
                break
        rows += [{**row, "accuracy": rtol, "reached": False} for rtol in left]
    return rows


def _squares(A: Counter, seed: int, *, rtol: float) -> float:
    return hl.linalg.energy(A, rtol=rtol, per="total", seed=seed).estimate


def _squared_norm(A: Counter, seed: int) -> float:
    return float(peer("curvlinops").hutchinson_squared_fro(A, 1))


def _curvlinops(A: Counter, seed: int, *, q: int, of: str) -> float:
    return float(getattr(peer("curvlinops"), of)(Square(A), q))


def _eigenthings(A: Counter, seed: int, *, q: int) -> float:
    run = peer("hessian_eigenthings.algorithms.trace").hutch_plus_plus
    return float(run(as_lambda(Square(A)), num_matvecs=q, seed=seed).estimate)


_THIRDS, _HALVES = range(6, 91, 3), range(4, 61, 2)  # products with the square of the matrix
_SQUARES = {  # traces of the square, which a user of these packages can put together
    "curvlinops, XTrace of A squared": (functools.partial(_curvlinops, of="xtrace"), _HALVES),
    "curvlinops, Hutch++ of A squared": (
        functools.partial(_curvlinops, of="hutchpp_trace"),
        _THIRDS,
    ),
    "hessian-eigenthings, Hutch++ of A squared": (_eigenthings, _THIRDS),
}


def nuclear_rows(problem: Problem, rtol: float, seeds: int) -> list[Row]:
    """Products to L1 at an accuracy, by the cheapest setting of each."""
    truth = _known(problem.L1) * problem.size
    for m, q in sorted(itertools.product(GRID, (1, 2)), key=lambda s: s[0] * (2 + s[1])):
        estimate = functools.partial(_moduli, steps=m, probes=q)
        name = "hesslab, spectral_density"
        ours = _row(name, "L1", rtol, _runs(problem, seeds // 2, estimate), truth)
        if ours["reached"]:
            found = _runs(problem, seeds, estimate, first=LATER)
            ours = _row(name, "L1", rtol, found, truth)
        if ours["reached"]:
            break
    rows = [{**ours, "setting": f"{m} steps, {q} probes"}]
    spreads, biases = _of_plain_quadrature(problem, seeds, truth)
    steps, runs = min(
        ((m, _needed(spreads[m], biases[m], rtol)) for m in GRID),
        key=lambda found: found[0] * (found[1] or math.inf),
    )
    name = "quadrature, hessian-eigenthings"
    row = {**ours, "route": name, "error": rtol, "seeds": seeds, "computed": True}
    rows.append({**row, **_computed_part(runs, steps, spreads[steps], biases[steps])})
    for name, nodes in (("PyHessian", _pyhessian_nodes), ("curvlinops", _curvlinops_nodes)):
        values = _runs(problem, seeds, functools.partial(_mean_modulus, nodes=nodes, steps=steps))
        spread = float(torch.tensor([value / truth for value, _ in values]).std())
        runs = _needed(spread, biases[steps], rtol)
        row["route"] = f"quadrature, {name}"
        rows.append({**row, **_computed_part(runs, steps, spread, biases[steps])})
    return rows


def _needed(spread: float, bias: float, rtol: float) -> int | None:
    """How many runs have a mean with so small an error; None where their bias is too large."""
    room = rtol**2 - bias**2
    return math.ceil(spread**2 / room) if room > 0 else None


def _computed_part(runs: int | None, steps: int, spread: float, bias: float) -> Row:
    return {
        "products": None if runs is None else runs * steps,
        "reached": runs is not None,
        "spread_of_one": spread,
        "bias": bias,
        "setting": f"{steps} steps",
    }


def _of_plain_quadrature(
    problem: Problem, seeds: int, truth: float
) -> tuple[dict[int, float], dict[int, float]]:
    """Spread and bias of one run by its steps, relative to the truth.

    All numbers of steps are read from the coefficients of one run. Their bias is measured against
    its longest quadrature: that the same probe is in both takes nearly all noise away.
    """
    run = peer("hessian_eigenthings.algorithms.lanczos").lanczos_tridiagonal
    draw = peer("hessian_eigenthings.linalg").SingleDeviceBackend().rademacher_like
    by_steps: dict[int, list[float]] = {m: [] for m in GRID}
    for seed in range(seeds):
        start = draw(torch.empty(problem.size), generator=torch.Generator().manual_seed(seed))
        found = run(as_lambda(problem.counter()), start, GRID[-1])
        a, b = found.alphas.double(), found.betas.double()
        for m in GRID:
            T = torch.diag(a[:m]) + torch.diag(b[: m - 1], 1) + torch.diag(b[: m - 1], -1)
            values, vectors = torch.linalg.eigh(T)
            modulus = float((values.abs() * vectors[0] ** 2).sum()) * problem.size
            by_steps[m].append(modulus / truth)
    errors = {m: torch.tensor(of, dtype=torch.float64) for m, of in by_steps.items()}
    last = errors[GRID[-1]]
    return (
        {m: float(of.std()) for m, of in errors.items()},
        {m: float((of - last).mean()) for m, of in errors.items()},
    )


def _moduli(A: Counter, seed: int, *, steps: int, probes: int) -> float:
    density = hl.linalg.spectral_density(A, steps=steps, probes=probes, seed=seed)
    return density.energies(per="total").L1.estimate


def _pyhessian_nodes(A: Counter, seed: int, steps: int) -> tuple[Tensor, Tensor]:
    def eig(T: Tensor, eigenvectors: bool) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(T)
        return torch.stack([values, torch.zeros_like(values)], dim=1), vectors

    # PyHessian 0.1 calls what torch no longer has.
    with mock.patch.object(torch, "eig", eig, create=True), pyhessian_on(A) as it:
        nodes, weights = it.density(iter=steps, n_v=1)
    return torch.tensor(nodes[0]), torch.tensor(weights[0])


def _curvlinops_nodes(A: Counter, seed: int, steps: int) -> tuple[Tensor, Tensor]:
    run = peer("curvlinops.papyan2020traces.spectrum").fast_lanczos
    values, vectors = run(A, steps)
    return values, vectors[0] ** 2


def _mean_modulus(A: Counter, seed: int, *, nodes: Nodes, steps: int) -> float:
    values, weights = (found.double() for found in nodes(A, seed, steps))
    return float((values.abs() * weights).sum()) * A.shape[0]


def _runs(
    problem: Problem, seeds: int, estimate: Estimator, *, first: int = 0
) -> list[tuple[float, int]]:
    """An estimate for each seed, and its products."""
    found = []
    for seed in range(first, first + seeds):
        A = problem.counter()
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # some take no seed
            found.append((estimate(A, seed), A.products))
    return found


def _row(name: str, energy: str, rtol: float, found: list[tuple[float, int]], truth: float) -> Row:
    errors = torch.tensor([value / truth - 1 for value, _ in found], dtype=torch.float64)
    error = float(errors.square().mean().sqrt())
    return {
        "route": name,
        "energy": energy,
        "accuracy": rtol,
        "products": float(torch.tensor([float(n) for _, n in found]).mean()),
        "error": error,
        "seeds": len(found),
        "computed": False,
        "reached": error <= rtol,
    }


def _computed(
    name: str, rtol: float, single: list[tuple[float, int]], truth: float, each: int
) -> Row:
    """What means of single estimates of L2 need: they are unbiased, and their variance falls."""
    spread = float(torch.tensor([value / truth for value, _ in single]).std())
    row = {**_row(name, "L2", rtol, single, truth), "error": rtol, "computed": True}
    return {**row, **_computed_part(_needed(spread, 0.0, rtol), each, spread, 0.0), "setting": ""}


def _known(value: float | None) -> float:
    if value is None:
        raise ValueError("the energy of this matrix is not known")
    return value
