"""Eigenpairs of one matrix by every solver: tuned, timed in turn, and held to one accuracy."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterable, Mapping
from typing import Any

import scipy.sparse.linalg
import torch
from _solvers import Ends, K, Pairs, Solver, solvers
from _spectra import MOST, Problem, TooMany
from tqdm import tqdm

Row = dict[str, Any]
Settings = dict[str, list[Mapping[str, Any]]]  # of each solver, to be tried in this order

RTOL = 1e-3  # of residuals and of values, relative to the largest modulus
TRIES = 6  # settings of a ladder at a point where the cheapest one is not accurate
WORTH = 250  # products, beyond which no setting of many ladders is the cheapest
OURS = "hesslab, lanczos"
FAILURES = (scipy.sparse.linalg.ArpackNoConvergence, torch.linalg.LinAlgError, TooMany)


def tuned(problem: Problem, ends: Ends, known: Iterable[str] = ()) -> Settings:
    """The settings of each solver from its cheapest accurate one on; none, where none is."""
    found: Settings = {}
    able = [s for s in solvers(RTOL) if ends in s.ends and problem.size <= s.most]
    for solver in tqdm([s for s in able if s.name not in known], desc="tuning", disable=None):
        like = [s for s in able if (s.solve, s.settings) == (solver.solve, solver.settings)]
        same = [s.name for s in like if s.name in found]  # but for its product
        found[solver.name] = found[same[0]] if same else _cheapest(problem, solver, ends)
    return found


def _cheapest(problem: Problem, solver: Solver, ends: Ends) -> list[Mapping[str, Any]]:
    best: tuple[float, list[Mapping[str, Any]]] = (float("inf"), [])
    for ladder in solver.settings:
        if (ladder[0].get("ncv") or 0) >= best[0]:
            break  # a basis takes as many products at least
        for i, setting in enumerate(ladder):
            A = problem.counter(most=MOST if len(solver.settings) == 1 else WORTH)
            try:
                errors = _errors(problem, solver.solve(A, ends, 0, **setting), ends)
            except TooMany:
                break  # the next ones take more
            except FAILURES:
                continue
            if _accurate(errors):
                if A.products < best[0]:
                    best = A.products, ladder[i:]
                break
    return best[1]


def pairs(
    problem: Problem, ends: Ends, settings: Settings, seeds: int, *, only: Iterable[str] = ()
) -> list[Row]:
    """Products and CPU seconds of every solver, and what its answer was worth."""
    present = [s for s in solvers(RTOL) if s.name in (list(only) or settings)]
    going = [s for s in present if settings[s.name]]
    _warm_up(problem, going)
    runs: dict[str, list[Row]] = {solver.name: [] for solver in going}
    for seed, solver in tqdm(list(itertools.product(range(seeds), going)), disable=None):
        if run := _one(problem, solver, ends, settings[solver.name], seed):
            runs[solver.name].append(run)
    rows = []
    for solver in present:
        mine = runs.get(solver.name, [])
        row = {"route": solver.name, "ends": ends, "accurate": False}
        if mine:
            row["accurate"] = len(mine) == seeds and all(run["accurate"] for run in mine)
            row |= {of: statistics.median(r[of] for r in mine) for of in ("products", "seconds")}
            row |= {of: max(run[of] for run in mine) for of in ("residual", "value_error")}
            row["of_runs"] = [[run[of] for of in ("products", "seconds")] for run in mine]
            row["settings"] = [dict(run["setting"]) for run in mine]
        rows.append(row)
    print(table(f"{problem.name}: ten pairs, {ends}", rows), flush=True)
    return rows


def _warm_up(problem: Problem, going: list[Solver]) -> None:
    """What a process pays once for a library is nobody's."""
    for library in dict.fromkeys(solver.library for solver in going):
        problem.product(library)(torch.randn(problem.size))


def _one(
    problem: Problem, solver: Solver, ends: Ends, settings: list[Mapping[str, Any]], seed: int
) -> Row:
    """One run, from the model to the pairs, with the first setting that is accurate here too.

    Empty, if each of them fails.
    """
    run: Row = {}
    for setting in settings[:TRIES]:
        start = time.process_time()
        A = problem.counter(problem.product(solver.library))
        try:
            answer = solver.solve(A, ends, seed, **setting)
        except FAILURES:
            continue
        seconds = time.process_time() - start
        run = {"products": A.products, "seconds": seconds, "setting": setting}
        run |= _errors(problem, answer, ends)
        run["accurate"] = _accurate(run)
        if run["accurate"]:
            break
    return run


def _accurate(run: Row) -> bool:
    return bool(max(run["residual"], run["value_error"]) <= RTOL)


def _errors(problem: Problem, answer: Pairs, ends: Ends) -> dict[str, float]:
    """Largest residual and largest error of a value, relative to the largest modulus."""
    values, vectors = answer[0].double(), answer[1].double()
    products = torch.stack([problem.fast(v.float()).double() for v in vectors.T], dim=1)
    scale = float(problem.eigenvalues.abs().max())
    top = K if ends == "largest" else K // 2
    bottom = len(problem.eigenvalues) - (K - top)
    known = torch.cat([problem.eigenvalues[:top], problem.eigenvalues[bottom:]])
    residuals = (products - vectors * values).norm(dim=0) / vectors.norm(dim=0)
    return {
        "residual": float(residuals.max()) / scale,
        "value_error": float((values.sort(descending=True).values - known).abs().max()) / scale,
    }


def table(title: str, rows: list[Row]) -> str:
    """Rows as lines of text, fewest products first."""
    ours = next(row for row in rows if row["route"] == OURS)
    lines = [
        f"\n{title}",
        f"{'route':<44}{'products':>9}{'seconds':>10}{'x ours':>8}{'residual':>10}{'value':>9}",
    ]
    for row in sorted(rows, key=lambda row: row.get("products", 1e9)):
        if "products" not in row:
            lines.append(f"{row['route']:<44}  not accurate within {MOST} products")
            continue
        lines.append(
            f"{row['route']:<44}{row['products']:>9.0f}{row['seconds']:>10.2f}"
            f"{row['seconds'] / ours['seconds']:>8.1f}{row['residual']:>10.1e}"
            f"{row['value_error']:>9.0e}"
            + ("" if row["accurate"] else "  NOT ACCURATE")
            + f"  {row['settings'][0] or ''}"
        )
    return "\n".join(lines)
