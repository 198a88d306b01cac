import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hesslab import _files
from hesslab.errors import DamagedFile, MissingData

CONTENT = b"0.5 1.5\n2.5 3.5\n"
SUM = hashlib.sha256(CONTENT).hexdigest()


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """A server of this machine: its address and the folder that it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "table.txt").write_bytes(CONTENT)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=str(folder)))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}", folder
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Empty data and cache folders."""
    data, cache = tmp_path / "data", tmp_path / "cache"
    data.mkdir()
    monkeypatch.setenv("HESSLAB_DATA", str(data))
    monkeypatch.setenv("HESSLAB_CACHE", str(cache))
    monkeypatch.setattr(_files, "read_files", {})
    return data, cache


def _fetch(url: str, *, sha256: str | None = SUM, download: bool = True) -> Path:
    return _files.fetch(
        "sets/table.txt",
        url=f"{url}/table.txt",
        sha256=sha256,
        download=download,
        alternative="hl.data.digits()",
    )


def _kept(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_folders_come_from_the_environment(folders, monkeypatch):
    assert (_files.data_folder(), _files.cache_folder()) == folders
    monkeypatch.delenv("HESSLAB_DATA")
    monkeypatch.delenv("HESSLAB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    monkeypatch.setattr("sys.platform", "linux")
    assert _files.data_folder() is None
    assert _files.cache_folder() == Path("/somewhere/hesslab")


def test_sha256_is_that_of_hashlib(tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    assert _files.sha256(tmp_path / "a") == SUM


def test_check_accepts_the_whole_sum_or_its_start_and_notes_the_file(folders):
    path = folders[0] / "sets" / "a"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    _files.check(path, SUM)
    _files.check(path, SUM[:8])
    assert _files.read_files == {"sets/a": SUM}


@pytest.mark.parametrize("expected", ["0" * 64, SUM[:7], ""])
def test_check_names_file_and_both_sums(folders, expected):
    path = folders[0] / "a"
    path.write_bytes(CONTENT)
    with pytest.raises(
        DamagedFile, match=rf"{path} has the SHA-256 sum {SUM}, expected {expected}"
    ):
        _files.check(path, expected)
    assert not _files.read_files


def test_write_aside_replaces_the_file_once_it_is_complete(tmp_path):
    path = tmp_path / "new" / "a.npz"
    with _files.write_aside(path) as aside:
        assert aside.parent == path.parent
        assert aside.suffix == ".npz"
        aside.write_bytes(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert _kept(tmp_path) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_interrupted_write_aside_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def write() -> None:
        with _files.write_aside(path) as aside:
            aside.write_bytes(b"ha")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_bytes() == b"old"
    assert _kept(tmp_path) == [path]


def test_fetch_prefers_the_data_folder_then_the_cache_then_downloads(server, folders):
    url, _ = server
    data, cache = folders
    downloaded = _fetch(url)
    assert downloaded == cache / "sets/table.txt"
    assert downloaded.read_bytes() == CONTENT
    assert _fetch("http://127.0.0.1:9", download=False) == downloaded
    (data / "sets").mkdir()
    (data / "sets/table.txt").write_bytes(CONTENT)
    assert _fetch(url) == data / "sets/table.txt"
    assert _files.read_files == {"sets/table.txt": SUM}
    assert _kept(cache) == [downloaded]


def test_damaged_download_is_refused_and_not_kept(server, folders):
    url, served = server
    (served / "table.txt").write_bytes(CONTENT[:-3])
    with pytest.raises(DamagedFile, match=rf"what {url}/table.txt sent has .* expected {SUM}"):
        _fetch(url)
    assert not _kept(folders[1])
    assert not _files.read_files


def test_download_that_verify_refuses_is_not_kept(server, folders):
    url, _ = server

    def refuse(path: Path) -> None:
        raise DamagedFile(f"{path} holds 2 rows, expected 3")

    with pytest.raises(DamagedFile, match=r"table\.txt sent holds 2 rows, expected 3"):
        _files.fetch(
            "a", url=f"{url}/table.txt", sha256=None, download=True, alternative="", verify=refuse
        )
    assert not _kept(folders[1])


def test_damaged_file_of_the_cache_is_refused(server, folders):
    path = _fetch(server[0])
    path.write_bytes(CONTENT + b"4")
    with pytest.raises(DamagedFile, match=rf"{path} has .* delete it and fetch it again"):
        _fetch(server[0])


def test_missing_file_without_download_names_folders_variable_and_alternative(folders):
    data, cache = folders
    with pytest.raises(MissingData) as caught:
        _fetch("http://127.0.0.1:9", download=False)
    for part in (
        "sets/table.txt was not found",
        f"HESSLAB_DATA is {data}",
        f"the cache folder is {cache}",
        "download=False",
        "http://127.0.0.1:9/table.txt",
        "hl.data.digits()",
    ):
        assert part in str(caught.value)


def test_unset_variable_is_said(monkeypatch):
    monkeypatch.delenv("HESSLAB_DATA")
    with pytest.raises(MissingData, match="HESSLAB_DATA is not set"):
        _fetch("http://127.0.0.1:9", download=False)


def test_dead_network_and_absent_page_become_missing_data(server, folders):
    with pytest.raises(MissingData, match=r"the download failed: .*Set HESSLAB_DATA to a folder"):
        _fetch("http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(MissingData, match="the download failed: 404"):
        _fetch(server[0] + "/absent")
    assert not _kept(folders[1])
