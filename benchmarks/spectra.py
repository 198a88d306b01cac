"""What eigenvalues and energies of a spectrum cost: this package beside its peers.

`python benchmarks/spectra.py` writes benchmarks/results/spectra-cpu.json and prints the tables;
`--parts` chooses some of them, and what is not measured again keeps its figures. The network needs
CIFAR-10 and the published weights of ResNet-20.

Everybody multiplies with the same matrix and must reach the same accuracy, which is checked by
products that nobody is charged for. Pairs are accurate where every residual is at most 1e-3 of the
largest modulus, and every value is off by no more than that: none of them is missing. Peers are
tuned: of the settings listed in _solvers.py each takes the one that needs the fewest products for
an accurate answer, as if it had been known beforehand; tries that failed cost nothing. This package
is called with rtol=1e-3 and nothing else. Estimates of L1 are tuned for everybody.

One thread; CPU time of the process, from the model to the answer; glibc keeps freed memory; the
solvers take turns. On a network each has its own product, on chosen matrices all have one.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is imported

import argparse
import dataclasses
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from _energies import energy_rows, nuclear_rows
from _machine import machine
from _pairs import OURS, RTOL, pairs, tuned
from _solvers import Ends, solvers
from _spectra import chosen, network

import hesslab as hl
from hesslab.operators.allocator import keep_freed_memory

FOLDER = Path(__file__).resolve().parent
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much is measured."""

    size: int  # of the chosen matrix
    examples: tuple[int, ...]  # of the network: the first tunes, the second is reported
    sizes: tuple[int, ...]  # of the chosen matrices that show the growth
    seeds: int  # of start vectors
    energies: int  # seeds of energies
    steps: int  # of the estimate that stands for the truth of the network's energies


FULL = Scale(100_000, (32, 128, 256), (10**4, 10**5, 10**6, 10**7), 3, 40, 150)
QUICK = Scale(5_000, (4, 8, 16), (1_000, 5_000), 2, 10, 20)
FEW = OURS, "scipy ARPACK, jvp(grad)", "scipy ARPACK, curvlinops"  # for the growth with N
ENDS: tuple[Ends, ...] = ("largest", "both")
RTOLS = 0.05, 0.01  # of energies


def of_chosen(scale: Scale) -> Iterator[dict[str, Any]]:
    """Pairs of a chosen matrix, and the ten largest of smaller and larger ones like it."""
    problem, settings = chosen(scale.size), {}
    yield {"size": scale.size}
    for ends in ENDS:
        settings[ends] = tuned(problem, ends)
        yield {ends: pairs(problem, ends, settings[ends], scale.seeds)}
    by_size: list[Row] = []
    for size in scale.sizes:
        problem = chosen(size)
        able = {s.name for s in solvers(RTOL) if size <= s.most}
        known = {name: of for name, of in settings["largest"].items() if name in able}
        known |= tuned(problem, "largest", known)  # the dense route, at small sizes
        rows = pairs(problem, "largest", known, 1 if size > 10**6 else scale.seeds)
        by_size += [{**row, "size": size} for row in rows]
        yield {"by_size": by_size}


def of_network(scale: Scale, *, ends: Ends) -> Iterator[dict[str, Any]]:
    """Pairs of the network."""
    settings = tuned(network(scale.examples[0]), ends)
    problem = network(scale.examples[1])
    # What takes hundreds of products shows in the growth, with the fewest images.
    fast = [s.name for s in solvers(RTOL) if s.name in settings and ends not in s.slow]
    seeds = {"largest": scale.seeds, "both": 2}[ends]  # which takes twice the products
    rows = pairs(problem, ends, settings, seeds, only=fast)
    yield {"size": problem.size, "examples": scale.examples[1], ends: rows}


def of_growth(scale: Scale) -> Iterator[dict[str, Any]]:
    """The ten largest with fewer and with more images."""
    problem = network(scale.examples[0])
    settings = tuned(problem, "largest")
    by_examples: list[Row] = []
    for n in scale.examples:
        only = () if n == scale.examples[0] else FEW
        if n > scale.examples[0]:
            problem = network(n)
        rows = pairs(problem, "largest", settings, 1, only=only)
        by_examples += [{**row, "examples": n} for row in rows]
        yield {"by_examples": by_examples}


def of_energies(scale: Scale) -> Iterator[dict[str, Any]]:
    """Products to the energies of a chosen matrix."""
    problem, seeds = chosen(scale.size), scale.energies
    rows = energy_rows(problem, RTOLS, seeds)
    rows += nuclear_rows(problem, RTOLS[0], seeds)
    print(energies_table(problem.name, rows), flush=True)
    yield {"size": problem.size, "rows": rows}


def of_network_energies(scale: Scale) -> Iterator[dict[str, Any]]:
    """Products to L2 of the network, whose truth is a much longer estimate.

    That tells L1 to a few per cent, which is too little to judge anybody by.
    """
    problem, seeds = network(scale.examples[0]), max(scale.energies // 4, 4)
    H = problem.counter()
    known = hl.linalg.spectral_density(H, steps=scale.steps, probes=4, seed=10_000).energies()
    problem = dataclasses.replace(problem, L2=known.L2.estimate)
    rows = energy_rows(problem, RTOLS, seeds, every=3)
    print(energies_table(problem.name, rows), flush=True)
    truth = {name: _interval(getattr(known, name)) for name in ("L1", "L2")}
    yield {"size": problem.size, "examples": scale.examples[0], "known": truth, "rows": rows}


def _interval(estimate: hl.linalg.Estimate) -> dict[str, float]:
    return {of: getattr(estimate, of) for of in ("estimate", "low", "high")}


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
    "network-largest": functools.partial(of_network, ends="largest"),
    "network-both": functools.partial(of_network, ends="both"),
    "network-growth": of_growth,
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
        made = {**machine("cpu"), "allocator_kept": kept}
        measured: dict[str, Any] = {"made": made}
        for data in PARTS[part](scale):
            measured |= data
            if not options.quick:  # as it comes: an interruption loses what was under way
                _write(name, part, measured, options.folder)
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
