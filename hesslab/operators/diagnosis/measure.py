"""The measurements that a diagnosis rests on."""

from __future__ import annotations

import gc
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from hesslab.data import Batches
from hesslab.operators.curvature import Curvature
from hesslab.operators.diagnosis.watch import (
    HEAD,
    NETWORK,
    OTHER,
    RESIDUALS,
    SETUP,
    Clock,
    Few,
    Pair,
    release,
    watched,
)

REPEATS = 5  # of a short product; the fastest counts
AT_HAND = 2  # batches that memory and copies are looked at with
FEW = 8  # examples of the smaller batch that the fixed cost of a batch is found with

Lap = dict[str, float]


class Bench:
    """Products of a copy of an operator with one random vector, and what they take.

    Args:
        operator: stays as it is.
        seed: of the vector.

    Attributes:
        copy: goes through all data.
        laps: seconds by stage, by kind of product.
        sizes: examples of each batch of a pass.
        cached: whether products of the last kind read what was kept.
        products: taken so far.
    """

    def __init__(self, operator: Curvature, seed: int) -> None:
        self._operator = operator
        self._clock = Clock(operator.device)
        generator = torch.Generator().manual_seed(seed)
        v = torch.randn(operator.shape[0], generator=generator)
        self._v = v.to(operator.device, operator.dtype)
        self.products = 0
        self.copy = watched(operator, self._clock)
        self.laps: dict[str, Lap] = {"first": self._product(self.copy)}
        batches: Any = self.copy._batches
        self.sizes = tuple(batches.sizes)
        self._go_through()
        self.cached = "cached" in self.laps
        self._first = self.copy._batches.first()

    def close(self) -> None:
        """Free what the copy keeps."""
        release(self.copy)

    def _product(self, operator: Curvature) -> Lap:
        self.products += 1
        return self._clock.lap(lambda: operator @ self._v)

    def _fastest(self, operator: Curvature, times: int) -> Lap:
        return min(
            (self._product(operator) for _ in range(times)), key=lambda lap: sum(lap.values())
        )

    def _go_through(self) -> None:
        """Products of each kind with all data."""
        laps, plan = self.laps, self.copy.plan
        laps["streaming"] = self._fastest(self.copy, 2)
        _set_apart(laps["first"], laps["streaming"])
        if plan.traced is None or plan._asked == "stream":
            return
        plan.mode = plan._asked
        try:
            lap = self._product(self.copy)
        except MemoryError:  # mode="cache", and it does not fit: that is the finding
            plan.mode = "stream"
            return
        if plan.traced is None or not plan.traced.keep:
            laps["streaming"] = min(laps["streaming"], lap, key=lambda lap: sum(lap.values()))
            return
        laps["preparing"], laps["cached"] = lap, self._fastest(self.copy, 3)
        _set_apart(laps["preparing"], laps["cached"], (NETWORK,))

    def residuals(self) -> tuple[int | None, int]:
        """Bytes that are kept or would have to be (None by autograd), and those that may be."""
        plan = self.copy.plan
        if plan.traced is None:
            return None, plan.limit(self._operator.device)
        share = sum(self.sizes) / len(self._first[0])
        with self.copy._recording(), torch.no_grad():
            found = plan.residuals(plan.traced, self.copy._kind, self._first, share)
        return found.size, found.limit

    def gradient_seconds(self) -> float:
        """Of the gradient of the first batch's mean loss."""
        one = self._few([self._first])
        laps = [self._clock.lap(one.gradient) for _ in range(REPEATS)]
        release(one)
        return min(sum(lap.values()) for lap in laps)

    def fixed_cost(self) -> tuple[float, float, float]:
        """Of the first batch if it had no examples, by a straight line through two sizes.

        Returns:
            Seconds, their share of the batch's, and seconds of the stage "other" of one batch.
        """
        x, y = self._first
        count = len(x)
        small = FEW if count >= 2 * FEW else count // 2
        if small >= 2:  # a batch norm refuses a single example
            sizes, pairs = (small, count), [(x[:small], y[:small]), (x, y)]
        else:
            sizes, pairs = (count, 2 * count), [(x, y), (torch.cat([x, x]), torch.cat([y, y]))]
        copies = [self._few([pair]) for pair in pairs]
        for _ in range(2):  # what only the first products do
            for one in copies:
                self._product(one)
        # In turns: what else the machine does meanwhile slows both.
        laps = [[self._product(one) for one in copies] for _ in range(REPEATS)]
        for one in copies:
            release(one)
        seconds = [
            min(lap[RESIDUALS] + lap[NETWORK] for lap in found) for found in zip(*laps, strict=True)
        ]
        fixed = (seconds[0] * sizes[1] - seconds[1] * sizes[0]) / (sizes[1] - sizes[0])
        batch = sizes.index(count)
        fixed = min(max(fixed, 0.0), seconds[batch])
        return fixed, fixed / seconds[batch], min(found[batch][OTHER] for found in laps)

    def memory_and_copies(self) -> tuple[int, int, int, int, int]:
        """Peak and growth in bytes and tensors, and bytes to the device and to the host."""
        some = self._few(self.copy._batches, AT_HAND)
        for _ in range(2):
            self._product(some)
        gc.collect()
        before = _live_tensors()
        self._product(some)
        if _live_tensors() > before:
            gc.collect()  # perhaps it is no more than a cycle
        tensors = max(_live_tensors() - before, 0)
        events = _profiled(lambda: self._product(some), self._operator.device)
        release(some)
        peak, growth = allocated(events, self._operator.device)
        # What is kept was copied long before; what is streamed comes with each of the batches.
        scale = 1.0 if self.cached else len(self.sizes) / min(AT_HAND, len(self.sizes))
        there, back = (int(copied(events, way) * scale) for way in ("HtoD", "DtoH"))
        return peak, growth, tensors, there, back

    def _few(self, batches: Batches | Sequence[Pair], count: int = 1) -> Curvature:
        """The same with few batches, on the route that the whole has ended on."""
        few = watched(self._operator, self._clock, Few(batches, count, self._operator.device))
        if self.copy.plan.traced is None:
            few.plan.untraced("as the whole")
        elif self.cached and few.plan.traced is not None:
            few.plan.traced.keep, few.plan.traced.lean = True, self.copy.plan.traced.lean
        return few


def _set_apart(
    lap: Lap,
    next_one: Mapping[str, float],
    stages: Sequence[str] = (RESIDUALS, NETWORK, HEAD, OTHER),
) -> None:
    """What a stage takes longer than in the next product is set-up."""
    for stage in stages:
        excess = max(lap[stage] - next_one[stage], 0.0)
        lap[stage] -= excess
        lap[SETUP] += excess


def _live_tensors() -> int:
    kinds = Counter(map(type, gc.get_objects()))
    return sum(count for kind, count in kinds.items() if issubclass(kind, Tensor))


def _profiled(work: Callable[[], object], device: torch.device) -> list[dict[str, Any]]:
    """The events of a piece of work, as the profiler's file has them."""
    activities = [ProfilerActivity.CPU]
    activities += [ProfilerActivity.CUDA] if device.type == "cuda" else []
    with profile(activities=activities, profile_memory=True) as record:
        work()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        record.export_chrome_trace(str(file))
        events: list[dict[str, Any]] = json.loads(file.read_text())["traceEvents"]
    return events


def allocated(events: Sequence[Mapping[str, Any]], device: torch.device) -> tuple[int, int]:
    """The most bytes that were allocated at once on a device, and those that are still."""
    kind = 1 if device.type == "cuda" else 0  # by the profiler's numbers
    found = [event for event in events if event.get("name") == "[memory]"]
    found = [event for event in found if event["args"]["Device Type"] == kind]
    total = peak = 0
    for event in sorted(found, key=lambda event: event["ts"]):
        total += event["args"]["Bytes"]
        peak = max(peak, total)
    return peak, total


def copied(events: Sequence[Mapping[str, Any]], way: str) -> int:
    """The bytes that went from host to device ("HtoD") or back ("DtoH")."""
    copies = [event for event in events if event.get("cat") == "gpu_memcpy"]
    return sum(int(event["args"].get("bytes", 0)) for event in copies if way in event["name"])


def cores() -> int:
    """The cores that this process may use."""
    known = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(known(0)) if known else os.cpu_count() or 1
