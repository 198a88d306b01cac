from __future__ import annotations

import subprocess
import sys

import pytest

import hesslab
from hesslab import _files, report
from hesslab.report import footer, records

CHAPTER = {"n": 3, "noise": 0.5, "profiles": {"quick": {"n": 3, "noise": 0.5}}}


def test_the_footer_shows_parameters_seed_versions_and_commit():
    output = report.provenance(CHAPTER, seed=11)
    plain = output.data["text/plain"]
    assert "parameters: n = 3, noise = 0.5" in plain
    assert "seed: 11" in plain
    assert f"hesslab {hesslab.__version__}" in plain
    for what in ("device", "time", "peak memory", "commit"):
        assert f"{what}: " in plain


def test_the_footer_lists_what_was_imported_and_read(monkeypatch):
    monkeypatch.setitem(_files.read_files, "uci/x.csv", "a" * 64)
    monkeypatch.setitem(records.loaded, "sweep.parquet", "b" * 64)
    found = report.provenance(CHAPTER, seed=0).metadata["hesslab"]
    assert "hesslab.report.footer" in found["modules"]
    assert found["data"]["uci/x.csv"] == "a" * 64
    assert found["loaded"]["sweep.parquet"] == "b" * 64


def test_a_chapter_imports_only_what_it_uses():
    code = (
        "from hesslab import report\n"
        "n, profiles = 1, {'quick': {'n': 1}}\n"
        "print(report.provenance(globals(), seed=0).metadata['hesslab']['modules'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "hesslab.report.footer" in done.stdout
    assert not any(f"hesslab.{name}" in done.stdout for name in ("plots", "operators", "data"))


def test_a_chapter_without_profiles_or_with_wrong_ones_is_refused():
    with pytest.raises(ValueError, match=r"no profiles\['quick'\]"):
        report.provenance({}, seed=0)
    with pytest.raises(ValueError, match=r"the profiles name \['m'\]"):
        report.provenance({"profiles": {"quick": {"m": 1}}}, seed=0)


def test_the_commit_of_a_foreign_repository_is_not_claimed(tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    package = tmp_path / "site-packages" / "hesslab"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    assert footer._commit(package).startswith("release ")


def test_the_commit_says_when_files_were_changed(tmp_path):
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True)

    (tmp_path / "__init__.py").touch()
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    clean = footer._commit(tmp_path)
    assert len(clean) == 12
    (tmp_path / "__init__.py").write_text("changed = True\n")
    assert footer._commit(tmp_path) == clean + "+"
