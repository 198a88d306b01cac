"""On what machine and with which libraries figures were measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch
from _peers import PACKAGES

from hesslab.report.footer import facts


def machine(device: str) -> dict[str, Any]:
    """Processor, cores, threads, libraries, peers (None where absent) and commit."""
    made = facts({}, seed=0)
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": 1,
        "load_average": os.getloadavg(),
        "system": f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}",
        "cuda": torch.version.cuda,
        "versions": made["versions"] | {name: _version(name) for name in PACKAGES.values()},
        "commit": made["commit"],
    }


def _processor() -> str:
    """The processor's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
