"""The energies L1 and L2 of a spectrum by this package and by others, as products to an accuracy.

An estimate counts as accurate to r where the root mean square of its relative error, over seeds, is
at most r. Where that would take a peer thousands of products, what it needs follows from the
variance and the bias of its single runs, and the figure is marked as computed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from _peers import peer
from _solvers import as_lambda, pyhessian_on
from _spectra import Counter, Problem
from torch import Tensor

import hesslab as hl

Row = dict[str, Any]
Estimator = Callable[[Counter, int], float]  # of a matrix, with a seed
Nodes = Callable[[Counter, int, int], tuple[Tensor, Tensor]]  # of a matrix, with a seed, by steps
STEPS = 100  # of the longest quadrature of a peer; shorter ones are read from its coefficients
OURS_L1 = [(m, q) for m in (8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100) for q in (1, 2)]


class Square:
    """``A @ A``, each product with it two with A."""

    def __init__(self, A: Counter) -> None:
        self.shape, self.dtype, self.device, self._A = A.shape, A.dtype, A.device, A

    def __matmul__(self, v: Tensor) -> Tensor:
        return self._A @ (self._A @ v)


def energy_rows(problem: Problem, rtols: Sequence[float], seeds: int) -> list[Row]:
    """Products to L2 at each of some accuracies."""
    truth = _known(problem.L2) * problem.size
    rows: list[Row] = []
    for rtol in rtols:
        found = _runs(problem, seeds, functools.partial(_squares, rtol=rtol))
        rows.append(_row("hesslab, energy", "L2", rtol, found, truth))
    few, many = max(seeds // 2, 10), 10 * seeds
    single = _runs(problem, many, _squared_norm)
    for name, each in (("curvlinops, squared Frobenius norm", 1), ("quadrature of 2 steps", 2)):
        rows += [_computed(name, "L2", rtol, single, truth, each, unbiased=True) for rtol in rtols]
    for name, (method, sizes) in _SQUARES.items():
        left = list(rtols)
        for q in sizes:
            found = _runs(problem, few, functools.partial(method, q=q))
            row = _row(name, "L2", left[0], found, truth)
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


_THIRDS, _HALVES = range(6, 91, 6), range(4, 61, 2)  # products with the square of the matrix
_SQUARES = {  # traces of the square, which a user of these packages can put together
    "curvlinops, XTrace of A squared": (functools.partial(_curvlinops, of="xtrace"), _HALVES),
    "curvlinops, Hutch++ of A squared": (
        functools.partial(_curvlinops, of="hutchpp_trace"),
        _THIRDS,
    ),
    "hessian-eigenthings, Hutch++ of A squared": (_eigenthings, _THIRDS),
}


def nuclear_rows(problem: Problem, rtol: float, seeds: int, *, all_peers: bool) -> list[Row]:
    """Products to L1 at an accuracy, by the cheapest setting of each."""
    truth = _known(problem.L1) * problem.size
    rows = []
    for m, q in sorted(OURS_L1, key=lambda setting: setting[0] * (2 + setting[1])):
        found = _runs(problem, seeds, functools.partial(_moduli, steps=m, probes=q))
        row = _row("hesslab, spectral_density", "L1", rtol, found, truth)
        row = {**row, "setting": f"{m} steps, {q} probes", "reached": row["error"] <= rtol}
        if row["reached"]:
            break
    rows.append(row)
    peers = {"hessian-eigenthings, quadrature": _eigenthings_nodes}
    if all_peers:
        peers |= {
            "PyHessian, quadrature": _pyhessian_nodes,
            "curvlinops, quadrature": _curvlinops_nodes,
        }
    for name, nodes in peers.items():
        rows.append(_quadrature_row(name, problem, nodes, rtol, seeds, truth))
    return rows


def _moduli(A: Counter, seed: int, *, steps: int, probes: int) -> float:
    density = hl.linalg.spectral_density(A, steps=steps, probes=probes, seed=seed)
    return density.energies(per="total").L1.estimate


def _eigenthings_nodes(A: Counter, seed: int, steps: int) -> tuple[Tensor, Tensor]:
    run = peer("hessian_eigenthings.algorithms.spectral_density").spectral_density
    density = run(as_lambda(A), num_runs=1, lanczos_steps=steps, num_grid_points=2, seed=seed)
    return density.raw_eigenvalues[0], density.raw_weights[0]


def _pyhessian_nodes(A: Counter, seed: int, steps: int) -> tuple[Tensor, Tensor]:
    def eig(T: Tensor, eigenvectors: bool) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(T)
        return torch.stack([values, torch.zeros_like(values)], dim=1), vectors

    torch.eig = eig  # which torch no longer has, and PyHessian 0.1 calls
    nodes, weights = pyhessian_on(A).density(iter=steps, n_v=1)
    return torch.tensor(nodes[0]), torch.tensor(weights[0])


def _curvlinops_nodes(A: Counter, seed: int, steps: int) -> tuple[Tensor, Tensor]:
    run = peer("curvlinops.papyan2020traces.spectrum").fast_lanczos
    values, vectors = run(A, steps)
    return values, vectors[0] ** 2


def _quadrature_row(
    name: str, problem: Problem, nodes: Nodes, rtol: float, seeds: int, truth: float
) -> Row:
    """The number of steps at which runs of them need the fewest products in all."""
    best: Row | None = None
    for steps in (10, 20, 30, 60, STEPS):
        found = _runs(problem, seeds, functools.partial(_mean_modulus, nodes=nodes, steps=steps))
        row = _computed(name, "L1", rtol, found, truth, steps)
        row["setting"] = f"{steps} steps"
        if row["reached"] and (best is None or row["products"] < best["products"]):
            best = row
    return best or row


def _mean_modulus(A: Counter, seed: int, *, nodes: Nodes, steps: int) -> float:
    values, weights = (found.double() for found in nodes(A, seed, steps))
    return float((values.abs() * weights).sum()) * A.shape[0]


def _runs(problem: Problem, seeds: int, estimate: Estimator) -> list[tuple[float, int]]:
    """An estimate for each seed, and its products."""
    found = []
    for seed in range(seeds):
        A = problem.counter()
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # some take no seed
            found.append((estimate(A, seed), A.products))
    return found


def _row(name: str, energy: str, rtol: float, found: list[tuple[float, int]], truth: float) -> Row:
    errors = torch.tensor([value / truth - 1 for value, _ in found])
    return {
        "route": name,
        "energy": energy,
        "accuracy": rtol,
        "products": float(torch.tensor([float(n) for _, n in found]).mean()),
        "error": float(errors.square().mean().sqrt()),
        "seeds": len(found),
        "computed": False,
        "reached": True,
    }


def _computed(
    name: str,
    energy: str,
    rtol: float,
    found: list[tuple[float, int]],
    truth: float,
    each: int,
    *,
    unbiased: bool = False,
) -> Row:
    """What means of single runs need: their variance falls with their number, their bias not."""
    errors = torch.tensor([value / truth - 1 for value, _ in found], dtype=torch.float64)
    spread, bias = float(errors.std()), float(errors.mean())
    noise = spread / math.sqrt(len(found))
    if unbiased or abs(bias) <= 3 * noise:  # then it is none, or cannot be told from none
        bias = 0.0
    room = rtol**2 - bias**2
    runs = math.ceil(spread**2 / room) if room > 0 else None
    row = _row(name, energy, rtol, found, truth)
    return {
        **row,
        "error": rtol,
        "products": None if runs is None else runs * each,
        "computed": True,
        "reached": room > 0,
        "spread_of_one": spread,
        "bias": bias,
    }


def _known(value: float | None) -> float:
    if value is None:
        raise ValueError("the energy of this matrix is not known")
    return value
