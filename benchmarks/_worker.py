"""One fresh process of the benchmark of products: a job as JSON in, its figures as JSON out.

`products.py` starts it. Jobs: "reference" (float64 products to a file, and multiplications),
"time" (all candidates in turn) and "alone" (one candidate: first product and peak memory).
"""

from __future__ import annotations

import gc
import json
import math
import os
import random
import resource
import statistics
import sys
import time
from typing import Any

import torch
from _candidates import OURS, Absent, Candidate, Run, plan, unit
from _measure import matrix_rate, peak_bytes, seconds, without_tf32
from _networks import TINY, Setting, setting
from _peers import PEERS
from _references import flat, multiplications, references

from hesslab.operators.allocator import keep_freed_memory

UNIT = Candidate("gradient", "torch", unit, "gradient", alone=True)
ALL = [UNIT, *OURS, *PEERS]
# What torch alone computes in float32 shows what rounding and flipped ReLUs do to a network.
PLAIN = ("double backward", "jvp(grad)", "torch.func.jvp", "kept graph")
SHORTEST = 0.02  # s of CPU time that one timing should take
LONG = 0.5  # s of a gradient, where a block takes a minute: none is timed, and two rounds do


def reference(job: dict[str, Any], s: Setting) -> dict[str, Any]:
    """The float64 products, to a file; and how far off torch alone is in float32."""
    wanted = references(s)
    torch.save(wanted, job["file"])
    plain = [_difference(c, c.start(s), s, wanted) for c in PEERS if c.route in PLAIN]
    return {
        "parameters": s.v.numel(),
        "multiplications": multiplications(s),
        "plain_difference": max(plain),
    }


def timings(job: dict[str, Any], s: Setting) -> dict[str, Any]:
    """Medians and minima of every candidate, timed in turn, and how wrong each is."""
    device = job["device"]
    wanted = torch.load(job["file"], weights_only=True)
    runs: dict[str, Run] = {}
    failures: dict[str, str] = {}
    differences: dict[str, float] = {}
    gradient = unit(s)
    gradient()
    slow = seconds(gradient, device) > LONG
    job = {**job, "least": 2} if slow else job
    for candidate in ALL:
        if candidate.device not in (None, device) or (candidate in PEERS and not job["peers"]):
            continue
        if candidate.block and slow:
            failures[candidate.name] = f"left out: a gradient takes longer than {LONG} s"
        else:
            try:
                runs[candidate.name] = candidate.start(s)
                differences[candidate.name] = _difference(
                    candidate, runs[candidate.name], s, wanted
                )
            except Absent as error:
                failures[candidate.name] = f"absent: {error}"
            except Exception as error:  # a peer may fail in any way; the others are still timed
                failures[candidate.name] = f"failed: {type(error).__name__}: {str(error)[:300]}"
                runs.pop(candidate.name, None)
    present = [candidate for candidate in ALL if candidate.name in runs]
    taken = _take_turns(present, runs, s, job)
    for candidate in present:  # what runs many times must still be right
        again = _difference(candidate, runs[candidate.name], s, wanted)
        differences[candidate.name] = max(differences[candidate.name], again)
    return {
        "median": {name: statistics.median(times) for name, times in taken.items()},
        "minimum": {name: min(times) for name, times in taken.items()},
        "repetitions": len(taken[UNIT.name]),
        "difference": differences,
        "failures": failures,
        "rate": matrix_rate(device),
        **plan(s),
    }


def _difference(
    candidate: Candidate, run: Run, s: Setting, wanted: dict[str, torch.Tensor]
) -> float:
    result = flat(run()).detach().double()
    if candidate.block:
        result = result @ s.mix.double()
    exact = wanted[candidate.product]
    return float((result - exact).norm() / exact.norm())


def _take_turns(
    present: list[Candidate], runs: dict[str, Run], s: Setting, job: dict[str, Any]
) -> dict[str, list[float]]:
    """Seconds per product, candidate by candidate, in a new order each round."""
    device, order = job["device"], random.Random(job["process"])
    once = statistics.median(seconds(runs[UNIT.name], device) for _ in range(5))
    number = max(1, math.ceil(SHORTEST / once)) if device == "cpu" else 5
    taken: dict[str, list[float]] = {candidate.name: [] for candidate in present}
    started, rounds = time.monotonic(), 0
    while rounds < job["least"] or (
        rounds < job["most"] and time.monotonic() - started < job["budget"]
    ):
        gc.collect()
        # A block costs as much as a dozen vectors: every fourth round must do.
        due = [candidate for candidate in present if not candidate.block or rounds % 4 == 0]
        for candidate in order.sample(due, len(due)):
            taken[candidate.name].append(_once(candidate, runs, s, device, number))
        rounds += 1
    return taken


def _once(
    candidate: Candidate, runs: dict[str, Run], s: Setting, device: str, number: int
) -> float:
    if not candidate.fresh:
        run = runs[candidate.name]

        def many() -> None:
            for _ in range(number):
                run()

        return seconds(many, device) / number
    runs[candidate.name] = candidate.start(s)
    return seconds(runs[candidate.name], device)


def alone(job: dict[str, Any], s: Setting) -> dict[str, Any]:
    """Seconds to a candidate's first product in this process, and the peak of a later one."""
    candidate = next(c for c in ALL if c.name == job["candidate"])
    small = setting(TINY, 4, device=job["device"], columns=job["columns"])
    run: Run | None = None

    def first() -> None:
        nonlocal run
        run = candidate.start(s)
        run()

    try:
        candidate.start(small)()  # the process's first trace is not the network's
        until = seconds(first, job["device"])
    except Absent as error:
        return {"failure": f"absent: {error}"}
    except Exception as error:
        return {"failure": f"failed: {type(error).__name__}: {str(error)[:300]}"}
    assert run is not None
    if candidate.fresh:
        run = candidate.start(s)
    return {"seconds_to_first": until, "peak_bytes": peak_bytes(run, job["device"])}


def _limit_memory() -> None:
    """Let a candidate that needs more than the machine has raise, not end the whole process."""
    if sys.platform == "linux":
        most = int(0.9 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main() -> None:
    job = json.load(sys.stdin)
    kept = keep_freed_memory()
    torch.set_num_threads(1)
    if job["device"] == "cuda":
        without_tf32()
    else:
        _limit_memory()
    s = setting(job["network"], job["batch"], device=job["device"], columns=job["columns"])
    work = {"reference": reference, "time": timings, "alone": alone}[job["job"]]
    print(json.dumps({"allocator_kept": kept, **work(job, s)}))


if __name__ == "__main__":
    main()
