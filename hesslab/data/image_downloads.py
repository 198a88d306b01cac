"""Downloading an image set: torchvision does it aside, and only whole sets enter the cache."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from hesslab import _files
from hesslab.data.image_tables import ImageSet
from hesslab.data.splits import Part
from hesslab.errors import DamagedFile, MissingData

_ALTERNATIVE = "hl.data.digits()"
_SUMS = "SHA256SUMS"
_SECONDS = 30  # without an answer from a server, until a download is given up


def download(images: ImageSet, datasets: ModuleType) -> None:
    """Let torchvision download and check a set aside, then move it into the cache folder.

    Args:
        images: which set.
        datasets: ``torchvision.datasets``.

    Raises:
        MissingData: the network failed.
        DamagedFile: what came has another MD5 sum than torchvision expects; nothing is kept.
    """
    cache = _files.cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".part-") as aside:
        try:
            with _quiet_and_impatient():
                getattr(datasets, images.reader)(aside, download=True)
        except (OSError, RuntimeError) as error:
            if "corrupted" in str(error):
                raise DamagedFile(
                    f"what {images.url} sent for {images.title} does not have torchvision's MD5 "
                    f"sum; nothing of it was kept; try again later ({error})"
                ) from error
            reason = f"the download failed: {' '.join(str(error).split())}"
            raise MissingData(missing(images, "train", reason)) from error
        for name, expected in {**images.files["train"], **images.files["test"]}.items():
            _keep(Path(aside) / name, cache / name, known=isinstance(expected, str))


def _keep(path: Path, target: Path, *, known: bool) -> None:
    """Move a downloaded file into the cache; a sum that no table holds is kept beside it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not known:
        sums = kept_sums(target.parent) | {target.name: _files.sha256(path)}
        with _files.write_aside(target.parent / _SUMS) as aside:
            aside.write_text("".join(f"{sum_}  {file}\n" for file, sum_ in sums.items()))
    os.replace(path, target)


def kept_sums(folder: Path) -> dict[str, str]:
    """The SHA-256 sums that a download left in a folder, by file name."""
    path = folder / _SUMS
    lines = path.read_text().splitlines() if path.is_file() else []
    return {file: sum_ for sum_, file in (line.split(maxsplit=1) for line in lines)}


def missing(images: ImageSet, part: Part, reason: str) -> str:
    """Say where the files of a part were looked for and what to do."""
    if part == "train" and all(_files.find(name) for name in images.files["test"]):
        reason += "; its test set is there, read it with split='test'"
    return _files.missing(
        f"{images.title} ({', '.join(images.files[part])})",
        url=images.url,
        reason=reason,
        alternative=_ALTERNATIVE,
    )


@contextlib.contextmanager
def _quiet_and_impatient() -> Iterator[None]:
    """No progress bar where there is no terminal, and no endless wait for a silent server."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SECONDS)
    stream = sys.stderr if sys.stderr.isatty() else io.StringIO()
    try:
        with contextlib.redirect_stderr(stream):
            yield
    finally:
        socket.setdefaulttimeout(before)
