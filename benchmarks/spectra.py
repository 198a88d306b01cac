"""What eigenvalues and energies of a spectrum cost: this package beside its peers.

`python benchmarks/spectra.py` writes benchmarks/results/spectra-cpu.json and prints the tables;
`--parts` chooses some of them, and what is not measured again keeps its figures. The network needs
CIFAR-10 and the published weights of ResNet-20.

Everybody multiplies with the same matrix and must reach the same accuracy, which is checked by
products that nobody is charged for. Pairs are accurate where every residual is at most 1e-3 of the
largest modulus, and every value is off by no more than that: none of them is missing. Peers are
tuned: of the settings listed in _solvers.py each takes the one that needs the fewest products for
an accurate answer, as if it had been known beforehand; tries that failed cost nothing. This package
is called with rtol=1e-3 and nothing else.

One thread; CPU time of the process, from the model to the answer; glibc keeps freed memory; the
solvers take turns. On a network each has its own product, on chosen matrices all have one.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is imported

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import scipy.sparse.linalg
import torch
from _candidates import Absent
from _energies import energy_rows, nuclear_rows
from _machine import machine
from _solvers import Ends, K, Pairs, Solver, solvers
from _spectra import Problem, TooMany, chosen, network
from tqdm import tqdm

import hesslab as hl
from hesslab.operators.allocator import keep_freed_memory

FOLDER = Path(__file__).resolve().parent
RTOL = 1e-3  # of residuals
OURS = "hesslab, lanczos"
LONG = 150  # s: a run that would take longer is not timed but computed from its products
NO_CONVERGENCE = scipy.sparse.linalg.ArpackNoConvergence
Row = dict[str, Any]
Settings = dict[str, list[Mapping[str, Any]]]  # of each solver


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much is measured."""

    size: int  # of the chosen matrix
    examples: tuple[int, ...]  # of the network: tuned on the first, reported on the second
    sizes: tuple[int, ...]  # of the chosen matrices that show the growth
    seeds: int  # of start vectors
    energies: int  # seeds of energies
    steps: int  # of the estimate that stands for the truth of the network's energies


FULL = Scale(100_000, (32, 128, 256, 512), (10**4, 10**5, 10**6, 10**7), 3, 40, 150)
QUICK = Scale(5_000, (4, 8, 16), (1_000, 5_000), 2, 10, 20)
FEW = OURS, "scipy ARPACK, jvp(grad)", "scipy ARPACK, curvlinops"  # for the growth with N
ENDS: tuple[Ends, ...] = ("largest", "both")
RTOLS = 0.05, 0.01  # of energies


def tuned(problem: Problem, ends: Ends, known: Iterable[str] = ()) -> Settings:
    """The settings of each solver that give accurate pairs, fewest products first."""
    found: Settings = {}
    able = [s for s in solvers(RTOL) if ends in s.ends and problem.size <= s.most]
    present = [s for s in able if s.name not in known]
    for solver in tqdm(present, desc=f"tuning, {ends}", disable=None):
        same = [s for s in present if s.settings is solver.settings and s.name in found]
        if same:  # but for its product
            found[solver.name] = found[same[0].name]
            continue
        passed = []
        for setting in solver.settings:
            A = problem.counter()
            try:
                errors = _errors(problem, solver.solve(A, ends, 0, **setting), ends)
            except (NO_CONVERGENCE, Absent, TooMany):
                continue
            if _accurate(errors):
                passed.append((A.products, setting))
                if "steps" in setting or "ncv" not in setting:  # the next ones need more
                    break
        found[solver.name] = [setting for _, setting in sorted(passed, key=lambda pair: pair[0])]
    return found


def pairs(
    problem: Problem,
    ends: Ends,
    settings: Settings,
    seeds: int,
    *,
    only: tuple[str, ...] | None = None,
) -> list[Row]:
    """Products and CPU seconds of every solver, with what its answer was worth."""
    present = [
        solver
        for solver in solvers(RTOL)
        if settings.get(solver.name) and (only is None or solver.name in only)
    ]
    rounds = range(seeds)
    runs: dict[str, list[Row]] = {solver.name: [] for solver in present}
    for seed in tqdm(rounds, desc=f"{problem.size} by {problem.size}, {ends}", disable=None):
        for solver in present:
            before = runs[solver.name]
            if not before or not before[0]["computed"]:
                before.append(_one(problem, solver, ends, settings[solver.name], seed))
    rows = []
    for solver in present:
        mine = runs[solver.name]
        rows.append(
            {
                "route": solver.name,
                "ends": ends,
                "products": statistics.median(run["products"] for run in mine),
                "most_products": max(run["products"] for run in mine),
                "seconds": statistics.median(run["seconds"] for run in mine),
                "seconds_of_runs": [run["seconds"] for run in mine],
                "residual": max(run["residual"] for run in mine),
                "value_error": max(run["value_error"] for run in mine),
                "computed": mine[0]["computed"],
                "setting": dict(mine[0]["setting"]),
            }
        )
    print(table(f"{problem.name}: ten pairs, {ends}", rows), flush=True)
    return rows


def _one(
    problem: Problem,
    solver: Solver,
    ends: Ends,
    settings: list[Mapping[str, Any]],
    seed: int,
) -> Row:
    """One run with the first setting whose answer is accurate here too."""
    for setting in settings:
        run = _timed(problem, solver, ends, setting, seed)
        if _accurate(run):
            break
    return run


def _timed(
    problem: Problem, solver: Solver, ends: Ends, setting: Mapping[str, Any], seed: int
) -> Row:
    start = time.process_time()
    multiply = problem.product(solver.library)
    built = time.process_time() - start
    if long := _would_be_long(problem, solver, multiply):
        A = problem.counter()
        answer = solver.solve(A, ends, seed, **setting)
        seconds = built + long * A.products
    else:
        A = problem.counter(multiply)
        answer = solver.solve(A, ends, seed, **setting)
        seconds = time.process_time() - start
    return {
        "products": A.products,
        "seconds": seconds,
        "computed": bool(long),
        "setting": setting,
        **_errors(problem, answer, ends),
    }


def _would_be_long(problem: Problem, solver: Solver, multiply: Any) -> float:
    """Seconds of a product, where hundreds of them would take too long; else 0."""
    if "power" not in solver.name:
        return 0.0
    v = torch.randn(problem.size)
    multiply(v)
    start = time.process_time()
    multiply(v)
    each = time.process_time() - start
    return each if 300 * each > LONG else 0.0


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


def of_chosen(scale: Scale) -> dict[str, Any]:
    """Pairs of a chosen matrix, and the ten largest of smaller and larger ones like it."""
    problem = chosen(scale.size)
    settings = {ends: tuned(problem, ends) for ends in ENDS}
    data: dict[str, Any] = {"size": scale.size, "by_size": []}
    data |= {ends: pairs(problem, ends, settings[ends], scale.seeds) for ends in ENDS}
    for size in scale.sizes:
        problem, known = chosen(size), settings["largest"]
        known = known | tuned(problem, "largest", known)  # the dense route, at small sizes
        rows = pairs(problem, "largest", known, 1 if size > 10**6 else scale.seeds)
        data["by_size"] += [{**row, "size": size} for row in rows]
    return data


def of_network(scale: Scale) -> dict[str, Any]:
    """Pairs of the network, and the ten largest with fewer and with more images."""
    first, examples = network(scale.examples[0]), scale.examples[1]
    problem, data = network(examples), {}
    data |= {"size": first.size, "examples": examples, "by_examples": []}
    for ends in ENDS:
        settings = tuned(first, ends)
        # Power iteration takes hundreds of products: once, with the fewest images, must do.
        fast = tuple(name for name in settings if "power" not in name)
        data[ends] = pairs(problem, ends, settings, scale.seeds, only=fast)
        if ends == "largest":
            known = settings
    for n in scale.examples:
        if n == examples:
            rows = data["largest"]
        elif n == scale.examples[0]:
            rows = pairs(first, "largest", known, 1)
        else:
            rows = pairs(network(n), "largest", known, 1, only=FEW)
        data["by_examples"] += [{**row, "examples": n} for row in rows]
    return data


def of_energies(scale: Scale) -> dict[str, Any]:
    """Products to the energies of a chosen matrix."""
    problem, seeds = chosen(scale.size), scale.energies
    rows = energy_rows(problem, RTOLS, seeds)
    rows += nuclear_rows(problem, RTOLS[0], seeds, all_peers=True)
    print(energies_table(problem.name, rows), flush=True)
    return {"size": problem.size, "rows": rows}


def of_network_energies(scale: Scale) -> dict[str, Any]:
    """Products to the energies of the network, whose truth is a much longer estimate."""
    problem, seeds = network(scale.examples[1]), max(scale.energies // 2, 10)
    H = problem.counter()
    known = hl.linalg.spectral_density(H, steps=scale.steps, probes=4, seed=10_000).energies()
    problem = dataclasses.replace(problem, L1=known.L1.estimate, L2=known.L2.estimate)
    rows = energy_rows(problem, RTOLS, seeds)
    rows += nuclear_rows(problem, RTOLS[0], seeds // 2, all_peers=False)
    print(energies_table(problem.name, rows), flush=True)
    truth = {name: _interval(getattr(known, name)) for name in ("L1", "L2")}
    return {"size": problem.size, "examples": scale.examples[1], "known": truth, "rows": rows}


def _interval(estimate: hl.linalg.Estimate) -> dict[str, float]:
    return {of: getattr(estimate, of) for of in ("estimate", "low", "high")}


def table(title: str, rows: list[Row]) -> str:
    """Rows of pairs as lines of text, fewest products first."""
    ours = next(row for row in rows if row["route"] == OURS)
    lines = [
        f"\n{title}",
        f"{'route':<44}{'products':>9}{'seconds':>10}{'x ours':>8}{'residual':>10}{'value':>9}",
    ]
    for row in sorted(rows, key=lambda row: row["products"]):
        lines.append(
            f"{row['route']:<44}{row['products']:>9.0f}{row['seconds']:>10.2f}"
            f"{row['seconds'] / ours['seconds']:>8.1f}{row['residual']:>10.1e}"
            f"{row['value_error']:>9.0e}"
            + ("  seconds computed" if row["computed"] else "")
            + f"  {row['setting'] or ''}"
        )
    return "\n".join(lines)


def energies_table(title: str, rows: list[Row]) -> str:
    """Rows of energies as lines of text."""
    lines = [f"\n{title}", f"{'route':<44}{'energy':>7}{'to':>6}{'products':>10}{'error':>9}"]
    order = sorted(rows, key=lambda row: (row["energy"], -row["accuracy"], row["products"] or 1e9))
    for row in order:
        how = "  computed" if row["computed"] else ""
        products = f"{row['products']:.1f}" if row["reached"] else "never"
        lines.append(
            f"{row['route']:<44}{row['energy']:>7}{row['accuracy']:>6.0%}{products:>10}"
            f"{row['error']:>9.2%}{how}  {row.get('setting', '')}"
        )
    return "\n".join(lines)


PARTS = {
    "chosen": of_chosen,
    "energies": of_energies,
    "network": of_network,
    "network-energies": of_network_energies,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing is written")
    parser.add_argument("--folder", type=Path, default=FOLDER / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kept = keep_freed_memory()
    name, scale = "spectra-cpu", QUICK if options.quick else FULL
    for part in options.parts:
        data = PARTS[part](scale)
        if not options.quick:
            made = {**machine("cpu"), "allocator_kept": kept}
            _write(name, part, {**data, "made": made}, options.folder)
    return 0


def _write(name: str, part: str, data: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        known = dict(hl.report.load(name, folder=folder).data)
    except hl.errors.MissingData:
        known = {}
    whole = {**known, part: data}
    hl.report.record(name, whole, parameters={"rtol": RTOL}, seed=0, folder=folder)


if __name__ == "__main__":
    sys.exit(main())
