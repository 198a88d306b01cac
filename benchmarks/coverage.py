"""How often the 95 % intervals hold the truth: 1,000 chosen spectra of each of two kinds.

`python benchmarks/coverage.py` writes benchmarks/results/coverage.json and prints the table. The
spectra, their seeds and the count are those of the slow tests of tests/linalg; all estimators are
called with their defaults.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

import hesslab as hl

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))  # the tests are no installed package

from tests.linalg import coverage  # noqa: E402
from tests.linalg.matrices import like_a_network, without_outliers  # noqa: E402

METHODS = "deflated", "hutchinson", "hutch++", "xtrace"
KINDS = {"like a network": like_a_network, "without outliers": without_outliers}


def rows(runs: int) -> list[dict[str, Any]]:
    """A row for each quantity, estimator and kind of spectrum."""
    found = []

    def row(estimator: str, quantity: str, kind: str, share: float, width: float | None) -> None:
        interval = scipy.stats.binomtest(round(share * runs), runs).proportion_ci(method="wilson")
        found.append(
            {
                "estimator": estimator,
                "quantity": quantity,
                "spectra": kind,
                "runs": runs,
                "share": share,
                "low": float(interval.low),
                "high": float(interval.high),
                "width": width,
            }
        )
        print(_line(found[-1]), flush=True)

    for kind, draw in KINDS.items():
        shares, widths = coverage.of_densities(draw, runs)
        for quantity, share in shares.items():
            row("spectral_density", quantity, kind, share, widths[quantity])
        for method in METHODS:
            share = coverage.of(_trace(method), lambda x: x.sum(), draw, runs)
            row(f"trace, {method}", "trace", kind, share, None)
        share = coverage.of(_energy, lambda x: np.square(x).mean(), draw, runs)
        row("energy", "L2", kind, share, None)
    return found


def _trace(method: str) -> Callable[[Any, int], hl.linalg.Estimate]:
    return lambda A, seed: hl.linalg.trace(A, method=method, seed=seed)


def _energy(A: Any, seed: int) -> hl.linalg.Estimate:
    return hl.linalg.energy(A, seed=seed)


def _line(row: dict[str, Any]) -> str:
    width = "" if row["width"] is None else f"{row['width']:>9.2f}"
    return (
        f"{row['spectra']:<18}{row['estimator']:<20}{row['quantity']:<14}{row['share']:>7.1%}"
        f"  [{row['low']:.1%}, {row['high']:.1%}]{width}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=FOLDER / "results")
    options = parser.parse_args()
    heads = f"{'spectra':<18}{'estimator':<20}{'quantity':<14}{'share':>7}"
    print(f"{heads}{'95 % of it':>18}{'width / t':>11}")
    data = rows(options.runs)
    options.folder.mkdir(parents=True, exist_ok=True)
    parameters = {"runs": options.runs}
    hl.report.record("coverage", data, parameters=parameters, seed=0, folder=options.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
