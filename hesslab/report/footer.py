"""How a result was made: parameters, seed, device, versions, time, memory, commit."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from hesslab import _files

from .outputs import Output

_IMPORTED = time.time()
_LIBRARIES = ("hesslab", "torch", "numpy", "scipy", "matplotlib")


def provenance(namespace: Mapping[str, Any], *, seed: int) -> Output:
    """The footer of a chapter, and what decides when the chapter has to be run again.

    Args:
        namespace: the chapter's ``globals()``; ``profiles`` in it names the parameters.
        seed: the seed of the chapter.

    Returns:
        The output, to stand on the last line of the last cell. Its metadata lists the modules of
        this package that are loaded and the data and records that were read.

    Raises:
        ValueError: ``profiles`` is missing, or names a parameter that the chapter does not have.
    """
    from .records import loaded

    names = namespace.get("profiles", {}).get("quick")
    if names is None:
        raise ValueError("the chapter defines no profiles['quick'], which names its parameters")
    unknown = [name for name in names if name not in namespace]
    if unknown:
        raise ValueError(f"the profiles name {unknown}, which the chapter does not define")
    made = facts({name: namespace[name] for name in names}, seed)
    record = {
        "modules": sorted(m for m in sys.modules if m.partition(".")[0] == "hesslab"),
        "data": dict(_files.read_files),
        "loaded": dict(loaded),
    }
    lines = _lines(made)
    rows = "".join(
        f'<tr><th scope="row">{escape(key)}</th><td>{escape(value)}</td></tr>'
        for key, value in lines.items()
    )
    html = (
        '<details class="hl-provenance"><summary>How this page was made</summary>'
        f"<table><tbody>{rows}</tbody></table></details>"
    )
    plain = "\n".join(f"{key}: {value}" for key, value in lines.items())
    return Output({"text/html": html, "text/plain": plain}, {"hesslab": record})


def facts(parameters: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What is recorded beside every result.

    Args:
        parameters: the values that decided it.
        seed: the seed of the run.

    Returns:
        "parameters", "seed", "device", "versions" by library, "seconds" since the process
        started, "peak_memory_mb" of the process, "commit".
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "parameters": dict(parameters),
        "seed": seed,
        "device": _device(),
        "versions": {"python": platform.python_version()} | _versions(),
        "seconds": round(_seconds(), 1),
        "peak_memory_mb": round(peak / (2**20 if sys.platform == "darwin" else 2**10)),
        "commit": _commit(Path(__file__).resolve().parents[1]),
    }


def _lines(made: Mapping[str, Any]) -> dict[str, str]:
    return {
        "parameters": ", ".join(f"{k} = {v!r}" for k, v in made["parameters"].items()),
        "seed": str(made["seed"]),
        "device": made["device"],
        "versions": ", ".join(f"{k} {v}" for k, v in made["versions"].items()),
        "time": f"{made['seconds']} s, from the start of the kernel",
        "peak memory": f"{made['peak_memory_mb']} MB",
        "commit": made["commit"],
    }


def _device() -> str:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return f"{torch.cuda.get_device_name()} and {platform.machine()} CPU"
    threads = f", {torch.get_num_threads()} of them used" if torch is not None else ""
    return f"{platform.machine()} CPU ({os.cpu_count()} cores{threads})"


def _versions() -> dict[str, str]:
    found = {}
    for library in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[library] = importlib.metadata.version(library)
    return found


def _seconds() -> float:
    """Seconds since the process started, where the system tells, else since this import."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        return uptime - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return time.time() - _IMPORTED


def _commit(package: Path) -> str:
    """The commit of this package, "+" where it was changed since; else its version."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip()

    try:
        # Asks for a file first: an installed package may lie inside a repository that is not ours.
        git("ls-files", "--error-unmatch", "__init__.py")
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return f"release {importlib.metadata.version('hesslab')}"
