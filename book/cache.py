"""Which chapters need no run: finished runs, found again by what decided their outputs.

jupyter-cache stores runs and finds them by their code cells. What it does not know goes as one
digest into the metadata that it compares: the files of the package that the chapter imported, the
versions of the libraries, the checksums of the data. Each run says itself what it imported and
read, in the metadata of its footer (`hesslab.report.provenance`), as a C compiler writes
dependency files. A chapter with a changed import has changed code, so no such list goes stale.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import json
import platform
import re
import uuid
from functools import cache as memoise
from pathlib import Path
from typing import Any

from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn, JupyterCacheAbstract
from nbformat import NotebookNode

from hesslab import _files

LIBRARIES = (
    *("torch", "numpy", "scipy", "matplotlib", "seaborn", "pandas"),
    *("scikit-learn", "torchvision"),
)

Record = dict[str, Any]
"""What one run imported and read: "modules", "data" and "loaded" of its footer."""


RECORDED = ("book", "benchmarks")  # whose folders `results` hold numbers of record


class Runs:
    """The finished runs of all chapters and profiles.

    Args:
        folder: where they are kept.
        root: the folder that holds `hesslab/` and the folders of records.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self.root = root
        self._store: JupyterCacheAbstract = get_cache(folder)

    def find(self, chapter: str, notebook: NotebookNode) -> NotebookNode | None:
        """Look for an earlier run of a chapter that is still good.

        Args:
            chapter: its name in the table of contents.
            notebook: its source, the parameters of this build merged in.

        Returns:
            The chapter with the outputs of that run, or None.
        """
        records = [r for r in self._store.list_cache_records() if r.uri == chapter]
        for record in sorted(records, key=lambda r: r.created, reverse=True):
            keyed = _with_digest(notebook, self.digest(record.data))
            try:
                if self._store.match_cache_notebook(keyed).pk == record.pk:
                    _, merged = self._store.merge_match_into_notebook(keyed)
                    return _without_digest(merged)
            except (KeyError, ValueError, OSError):
                continue  # no such run, or an interrupted build left half of it
        return None

    def keep(self, chapter: str, executed: NotebookNode) -> None:
        """Store a finished run. To be called from one thread (the store is SQLite)."""
        record = footer(executed)
        keyed = _with_digest(executed, self.digest(record))
        bundle = CacheBundleIn(keyed, chapter, data=record)
        self._store.cache_notebook_bundle(bundle, overwrite=True)

    def digest(self, record: Record) -> str:
        """One number for the present state of everything that a run imported and read."""
        state = {
            "modules": {m: module_sum(self.root, m) for m in record.get("modules", [])},
            "data": {name: _data_sum(name) for name in record.get("data", {})},
            "loaded": {
                name: [_sum(self.root / folder / "results" / name) for folder in RECORDED]
                for name in record.get("loaded", {})
            },
            "versions": _versions(),
        }
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def footer(executed: NotebookNode) -> Record:
    """Read the provenance output of a run.

    Returns:
        What the run says that it imported and read.

    Raises:
        ValueError: no output carries it.
    """
    for cell in reversed(executed.cells):
        for output in cell.get("outputs", []):
            record = output.get("metadata", {}).get("hesslab", {})
            if "modules" in record:
                return {key: record.get(key, {}) for key in ("modules", "data", "loaded")}
    raise ValueError(
        "no cell shows report.provenance(globals(), seed=...): without it nobody can tell what "
        "the chapter depends on; make it the last cell"
    )


def module_sum(root: Path, module: str) -> str:
    """Checksum of the file of a module, and of the stub that a lazy package reads."""
    path = root.joinpath(*module.split("."))
    files = [path.with_suffix(".py"), path / "__init__.py", path / "__init__.pyi"]
    return " ".join(_sum(file) for file in files if file.is_file()) or "missing"


def _data_sum(name: str) -> str:
    """The present state of what a run has read, by the name in `hesslab._files.read_files`."""
    if name.startswith("scikit-learn/"):
        return "of the library"  # whose version is a part of the digest
    folder, images = re.fullmatch(r"(.*?)( \(\d+ images\))?", name, re.DOTALL).groups()
    path = _files.find(folder) or _shared_weights(folder)
    if path is None or path.is_dir() != bool(images):
        return uuid.uuid4().hex  # nobody can tell whether it changed: equal to no earlier state
    return _folder_sum(path) if images else _sum(path)


def _shared_weights(name: str) -> Path | None:
    """A file of weights in torch's own folder, which `hesslab.models.pretrained` shares."""
    import torch  # slow, and rarely needed here

    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    return path if path.is_file() else None


def _folder_sum(folder: Path) -> str:
    """Names, sizes and times of all files: there may be millions of images."""
    content = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            stat = path.stat()
            state = f"{path.relative_to(folder).as_posix()} {stat.st_size} {stat.st_mtime_ns}\n"
            content.update(state.encode())
    return content.hexdigest()


def _sum(path: Path) -> str:
    if not path.is_file():
        return "missing"
    stat = path.stat()
    return _sum_of_state(path, stat.st_mtime_ns, stat.st_size)


@memoise
def _sum_of_state(path: Path, mtime: int, size: int) -> str:
    """The sum; once a process for each state of a file, as data sets are large."""
    return _files.sha256(path)


@memoise
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            found[library] = "missing"
    return found


def _with_digest(notebook: NotebookNode, digest: str) -> NotebookNode:
    keyed = copy.deepcopy(notebook)
    keyed.metadata.setdefault("kernelspec", {})["digest"] = digest
    return keyed


def _without_digest(notebook: NotebookNode) -> NotebookNode:
    notebook.metadata.get("kernelspec", {}).pop("digest", None)
    return notebook
