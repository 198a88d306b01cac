"""Clocks, memory, rates and intervals."""

from __future__ import annotations

import gc
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import scipy.special
import torch
from torch.profiler import ProfilerActivity, profile

MEMORY_HOW = {
    "cpu": "largest sum of live bytes from torch's CPU allocator, by the profiler's memory events",
    "cuda": "torch.cuda.max_memory_allocated",
}


def seconds(run: Callable[[], Any], device: str) -> float:
    """CPU time of this process, or on CUDA the time between two events on the stream."""
    if device == "cpu":
        start = time.process_time()
        run()
        return time.process_time() - start
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    before.record()
    run()
    after.record()
    torch.cuda.synchronize()
    return float(before.elapsed_time(after)) / 1e3


def peak_bytes(run: Callable[[], Any], device: str) -> int:
    """The most bytes that tensors took above what was there before."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    steps = [event for event in events if event.get("name") == "[memory]"]
    steps.sort(key=lambda event: float(event["ts"]))
    live = peak = 0
    for event in steps:
        live += int(event["args"]["Bytes"])
        peak = max(peak, live)
    return peak


def matrix_rate(device: str) -> float:
    """Multiplications per second of the library's float32 matrix product, in 5 tries the median."""
    size = 8192 if device == "cuda" else 2048
    A, B = (torch.randn(size, size, device=device) for _ in range(2))
    tries = [seconds(lambda: A @ B, device) for _ in range(6)][1:]
    return size**3 / statistics.median(tries)


def without_tf32() -> None:
    """Full float32 for everyone; by default torch rounds inputs of convolutions to 10 bits."""
    if hasattr(torch.backends.cudnn, "conv"):  # one of torch's two ways, never both
        torch.backends.cudnn.conv.fp32_precision = "ieee"
        torch.backends.cuda.matmul.fp32_precision = "ieee"
    else:
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


def interval(values: Sequence[float]) -> dict[str, float | None]:
    """Mean over processes and its 95 % interval by Student's t; one value has no interval."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"value": mean, "low": None, "high": None}
    error = statistics.stdev(values) / math.sqrt(len(values))
    half = float(scipy.special.stdtrit(len(values) - 1, 0.975)) * error
    return {"value": mean, "low": mean - half, "high": mean + half}
