"""How much memory a computation may take for what it keeps."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import torch

CONTAINER_LIMITS = (  # of the two versions of Linux's control groups
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def quarter(device: torch.device) -> int:
    """Bytes: a quarter of the device's memory, or of what a container may take of it."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // 4
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CONTAINER_LIMITS:
        with suppress(OSError, ValueError):  # not there, or "max"
            found.append(int(Path(path).read_text(encoding="ascii")))
    return min(found) // 4


def megabytes(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 1e6:,.0f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"
