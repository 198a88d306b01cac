"""Files on disk: where data is kept, whether it is intact, and writing without half files."""

from __future__ import annotations

import hashlib
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hesslab.errors import DamagedFile, MissingData, import_extra

read_files: dict[str, str] = {}
"""Name and SHA-256 of every data file that this process has read, in the order of reading.

The book makes them part of what decides whether a chapter is run again.
"""

_SECONDS = 30  # without an answer from a server, until a download is given up


def data_folder() -> Path | None:
    """The folder that ``HESSLAB_DATA`` names, or None where it is not set."""
    value = os.environ.get("HESSLAB_DATA", "").strip()
    return Path(value).expanduser() if value else None


def cache_folder() -> Path:
    """The folder for downloads: ``HESSLAB_CACHE``, else "hesslab" in the user's cache folder."""
    value = os.environ.get("HESSLAB_CACHE", "").strip()
    if value:
        return Path(value).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "hesslab"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hesslab"


def find(name: str) -> Path | None:
    """The file or folder ``name`` under `data_folder`, else under `cache_folder`, else None."""
    for folder in (data_folder(), cache_folder()):
        if folder is not None and (folder / name).exists():
            return folder / name
    return None


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 sum of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(path: str | os.PathLike[str], sha256: str) -> None:
    """Refuse a file whose content is not the expected one, and note it in `read_files`.

    Args:
        path: an existing file.
        sha256: the expected sum in hexadecimal digits, or its first 8 or more digits, as some
            projects put them in their file names.

    Raises:
        DamagedFile: the sums differ; the message holds both.
    """
    path = Path(path)
    _compare(path, sha256, str(path))
    read_files[relative_name(path)] = _sum(path)


def relative_name(path: Path) -> str:
    """The name of a data file without the folder of this machine."""
    for folder in (data_folder(), cache_folder()):
        if folder is not None and path.is_relative_to(folder):
            return path.relative_to(folder).as_posix()
    return path.name


@contextmanager
def write_aside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file under a temporary name in the same folder; rename it once it is complete.

    Args:
        path: the file to write; its folder is created where missing.

    Yields:
        The temporary path, which does not exist yet and has the suffix of ``path``. On any
        exception, Ctrl-C included, it is removed and ``path`` is what it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:12]}.part{path.suffix}")
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def fetch(
    name: str,
    *,
    url: str,
    sha256: str | None,
    download: bool,
    alternative: str,
    verify: Callable[[Path], None] | None = None,
) -> Path:
    """The path of a checked file: from `data_folder`, from `cache_folder`, or downloaded there.

    Args:
        name: where it lies below those folders, such as "weights/cifar10_resnet20.pt".
        url: where it is downloaded from.
        sha256: its sum, see `check`; None where only ``verify`` can tell.
        download: whether the network may be used.
        alternative: what needs no file, for the error message, such as "hl.data.digits()".
        verify: called with the path before the file is used, and before it enters the cache;
            raises `DamagedFile`.

    Returns:
        The path of an intact file.

    Raises:
        MissingData: it is nowhere, and downloading is off or failed.
        DamagedFile: the file found or downloaded is not the expected one; nothing of a damaged
            download is kept.
        MissingExtra: pooch, which downloads, is not installed.
    """
    path = find(name)
    if path is None:
        if not download:
            reason = "download=False"
            raise MissingData(missing(name, url=url, reason=reason, alternative=alternative))
        path = cache_folder() / name
        with write_aside(path) as aside:
            _download(name, url, aside, alternative)
            _accept(aside, sha256, verify, f"what {url} sent")
    else:
        _accept(path, sha256, verify, str(path))
    read_files[relative_name(path)] = _sum(path)
    return path


def missing(name: str, *, url: str, reason: str, alternative: str) -> str:
    """Say where a file was looked for, and the three ways to have data."""
    folder = data_folder()
    data = "HESSLAB_DATA is not set" if folder is None else f"HESSLAB_DATA is {folder}"
    return (
        f"{name} was not found: {data}, the cache folder is {cache_folder()}, and it was not "
        f"downloaded ({reason}). Set HESSLAB_DATA to a folder that holds it, allow the download "
        f"from {url}, or use {alternative}, which needs no files"
    )


def _accept(
    path: Path, expected: str | None, verify: Callable[[Path], None] | None, what: str
) -> None:
    """Check a file by its sum, by ``verify`` or both; errors call it ``what``."""
    if expected is not None:
        _compare(path, expected, what)
    if verify is not None:
        try:
            verify(path)
        except DamagedFile as error:
            raise DamagedFile(str(error).replace(str(path), what)) from None


def _compare(path: Path, expected: str, what: str) -> None:
    found = _sum(path)
    if len(expected) < 8 or not found.startswith(expected.lower()):
        raise DamagedFile(
            f"{what} has the SHA-256 sum {found}, expected {expected}: the file is truncated, "
            "altered or of another version; delete it and fetch it again"
        )


def _download(name: str, url: str, path: Path, alternative: str) -> None:
    """Download to ``path`` with pooch; a network that fails becomes `MissingData`."""
    pooch = import_extra("pooch", extra="data")
    requests = import_extra("requests", extra="data")
    # The downloader itself and not pooch.retrieve, which logs to stderr even in a notebook.
    fetcher = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=_SECONDS)
    try:
        fetcher(url, str(path), None)
    except requests.exceptions.RequestException as error:
        reason = f"the download failed: {error}"
        message = missing(name, url=url, reason=reason, alternative=alternative)
        raise MissingData(message) from error


_sum = sha256  # `check` and `fetch` have a parameter of that name
