"""What a product costs: this package beside its peers, in gradients of the user's own module.

`python benchmarks/products.py` writes benchmarks/results/products-<device>.json and prints the
tables; `--networks`, `--batch` and `--quick` choose less or more. Networks that are not measured
again keep their figures.

The unit is the eager gradient of the unmodified module in eval mode, in torch's default layout,
on the same batch. One thread; CPU time of the process (on CUDA, time between two events); glibc
keeps freed memory; the candidates take turns within a process. Every process is a fresh one and
gives one ratio of medians for each candidate; the interval is over processes. What a candidate
returns is compared with a float64 reference before and after it was timed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from _candidates import OURS
from _machine import machine
from _measure import MEMORY_HOW, interval
from _networks import NETWORKS
from _peers import PEERS
from _worker import ALL, UNIT
from tqdm import tqdm

import hesslab as hl

FOLDER = Path(__file__).resolve().parent
COLUMNS = {"cpu": 8, "cuda": 16}  # vectors of a block
TOLD = (  # what our cached Hessian says of itself
    "plan",
    "residual_mb",
    "residual_mb_lean",
    "construction_seconds",
    "trace_seconds",
)
WRONG = 2.0  # times the largest difference of what torch alone computes in float32,
WRONG_WITHIN = 1e-5, 1e-2  # within these limits, relative to the norm


def measure(network: str, batch: int, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one network at one batch size."""
    job = {
        "network": network,
        "batch": batch,
        "device": options.device,
        "columns": COLUMNS[options.device],
        "least": 3,
        "most": 3 if options.quick else 25,
        "budget": 30,  # s after which no further round begins
        "peers": options.peers,
    }
    present = [candidate for candidate in ALL if options.peers or candidate not in PEERS]
    lonely = [candidate.name for candidate in present if candidate.alone]
    total = 1 + options.processes + len(lonely)
    with (
        tempfile.TemporaryDirectory() as folder,
        tqdm(total=total, desc=f"{network}, batch {batch}", disable=None) as bar,
    ):
        job["file"] = str(Path(folder) / "references.pt")

        def work(**more: Any) -> dict[str, Any]:
            figures = _worker({**job, **more})
            bar.update()
            return figures

        floor = work(job="reference")
        processes = [work(job="time", process=number) for number in range(options.processes)]
        single = {name: work(job="alone", candidate=name) for name in lonely}
    return {**_summary(floor, processes, job), "alone": _alone(single)}


def _worker(job: dict[str, Any]) -> dict[str, Any]:
    """One job in a process of its own."""
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(FOLDER / "_worker.py")],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **threads},
    )
    if done.returncode:
        raise RuntimeError(f"the job {job} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def _summary(
    floor: dict[str, Any], processes: list[dict[str, Any]], job: dict[str, Any]
) -> dict[str, Any]:
    first = processes[0]
    units = [process["median"][UNIT.name] for process in processes]
    unit, rate = fmean(units), fmean([process["rate"] for process in processes])
    work = floor["multiplications"]
    rows = []
    for candidate in [*OURS, *PEERS]:
        if any(candidate.name not in process["median"] for process in processes):
            continue
        vectors = job["columns"] if candidate.block else 1
        ratios = {
            of: [p[of][candidate.name] / p[of][UNIT.name] / vectors for p in processes]
            for of in ("median", "minimum")
        }
        ratio = interval(ratios["median"])
        took = fmean(ratios["median"]) * unit
        differences = [process["difference"][candidate.name] for process in processes]
        worst = max(1e9 if math.isnan(difference) else difference for difference in differences)
        rows.append(
            {
                "product": candidate.product,
                "route": candidate.route,
                "vectors": vectors,
                "ratio": ratio,
                "of_minima": fmean(ratios["minimum"]),
                "floor": work[candidate.work] / work["gradient"],
                "share_of_matrix_rate": work[candidate.work] / took / rate,
                "difference": worst,
            }
        )
    least, most = WRONG_WITHIN
    limit = min(most, max(least, WRONG * floor["plain_difference"]))
    for row in rows:
        row["wrong"] = not row["difference"] <= limit
    failures = {name: why for process in processes for name, why in process["failures"].items()}
    return {
        "parameters": floor["parameters"],
        "gradient_ms": {k: v and v * 1e3 for k, v in interval(units).items()},
        "gradient_difference": max(p["difference"][UNIT.name] for p in processes),
        "gradient_share_of_matrix_rate": work["gradient"] / unit / rate,
        "multiplications": work,
        "matrix_rate_per_s": rate,
        "processes": len(processes),
        "rounds": [process["repetitions"] for process in processes],
        "allocator_kept": all(process["allocator_kept"] for process in processes),
        "wrong_above": limit,
        "rows": rows,
        "not_measured": failures,
        **{name: first[name] for name in TOLD if name in first},
    }


def _alone(single: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    unit_bytes = single[UNIT.name]["peak_bytes"]
    return {
        name: {
            "seconds_to_first": figures["seconds_to_first"],
            "peak_mb": figures["peak_bytes"] / 1e6,
            "peak_in_gradients": figures["peak_bytes"] / unit_bytes,
        }
        for name, figures in single.items()
        if "failure" not in figures
    }


def report(name: str, figures: dict[str, Any], device: str) -> str:
    """The figures of one network as lines of text, fewest gradients first within a product."""
    spread = _spread(figures["gradient_ms"], 1)
    lines = [
        f"\n{name}: {figures['parameters']:,} parameters, gradient {spread} ms "
        f"({figures['gradient_share_of_matrix_rate']:.0%} of the matrix rate), "
        f"{figures['processes']} processes, rounds {figures['rounds']}",
        f"{'product':<14}{'route':<24}{'gradients':>22}{'floor':>7}{'rate':>6}{'difference':>12}",
    ]
    order = list(dict.fromkeys(row["product"] for row in figures["rows"]))
    for row in sorted(
        figures["rows"], key=lambda row: (order.index(row["product"]), row["ratio"]["value"])
    ):
        lines.append(
            f"{row['product']:<14}{row['route']:<24}{_spread(row['ratio'], 3):>22}"
            f"{row['floor']:>7.2f}{row['share_of_matrix_rate']:>6.0%}{row['difference']:>12.1e}"
            + ("  WRONG" if row["wrong"] else "")
            + (f"  per vector of {row['vectors']}" if row["vectors"] > 1 else "")
        )
    lines += [f"{name}: {why}" for name, why in figures["not_measured"].items()]
    lines.append(f"peak memory ({MEMORY_HOW[device]}) and time to the first product:")
    for name, single in figures["alone"].items():
        lines.append(
            f"{name:<38}{single['peak_mb']:>8.0f} MB ={single['peak_in_gradients']:>5.2f} "
            f"gradients{single['seconds_to_first']:>8.2f} s"
        )
    lines += [f"{what}: {figures[what]}" for what in TOLD if what in figures]
    return "\n".join(lines)


def _spread(value: dict[str, float | None], digits: int) -> str:
    if value["low"] is None:
        return f"{value['value']:.{digits}f}"
    return f"{value['value']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def _known(name: str, folder: Path) -> dict[str, Any]:
    """What was recorded before, by network and batch."""
    try:
        return dict(hl.report.load(name, folder=folder).data["networks"])
    except hl.errors.MissingData:
        return {}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batch", nargs="+", type=int, default=[64], help="64; 512 takes long")
    parser.add_argument("--processes", type=int, default=5)
    found = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=["cpu", "cuda"], default=found)
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="only our own")
    parser.add_argument("--quick", action="store_true", help="3 rounds each, nothing is written")
    parser.add_argument("--folder", type=Path, default=FOLDER / "results")
    options = parser.parse_args()
    if min(options.batch) < 1 or options.processes < 1:
        parser.error("--batch and --processes take positive numbers")
    name, failed = f"products-{options.device}", []
    for network in options.networks:
        for batch in options.batch:
            key = f"{network}, batch {batch}"
            figures = measure(network, batch, options)
            print(report(key, figures, options.device), flush=True)
            failed += [f"{key}: {what}" for what in _faults(figures)]
            if not options.quick:
                _write(name, key, {**figures, "made": machine(options.device)}, options)
    for what in failed:
        print(f"hesslab: {what}", file=sys.stderr)
    return int(bool(failed))


def _faults(figures: dict[str, Any]) -> list[str]:
    """Products of this package that fail or are wrong; those of others are only reported."""
    broken = [
        f"{name}: {why}"
        for name, why in figures["not_measured"].items()
        if "hesslab," in name and not why.startswith("left out")
    ]
    wrong = [r for r in figures["rows"] if r["wrong"] and r["route"].startswith("hesslab")]
    return broken + [f"{r['product']}: {r['route']} is off by {r['difference']:.1e}" for r in wrong]


def _write(name: str, key: str, figures: dict[str, Any], options: argparse.Namespace) -> None:
    options.folder.mkdir(parents=True, exist_ok=True)
    networks = {**_known(name, options.folder), key: figures}
    data = {"memory_measured_by": MEMORY_HOW[options.device], "networks": networks}
    parameters = {"processes": options.processes}
    path = hl.report.record(name, data, parameters=parameters, seed=0, folder=options.folder)
    print(f"{path.parent.name}/{path.name}: {path.stat().st_size / 1e3:.0f} kB", flush=True)


if __name__ == "__main__":
    sys.exit(main())
