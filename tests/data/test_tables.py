import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hesslab.data import tables, uci
from hesslab.errors import DamagedFile, MissingData

VALUES = np.random.default_rng(0).normal(3.0, 2.0, (40, 7)).round(3)
COMMAS = "\n".join(["h" + ",h" * 6, *(",".join(map(repr, row)) for row in VALUES.tolist())])
SPACES = "\n".join("\t ".join(map(repr, row)) for row in VALUES.tolist())


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A yacht table of 40 random rows."""
    table = replace(
        tables._TABLES["yacht"],
        sha256=hashlib.sha256(COMMAS.encode()).hexdigest(),
        values=hashlib.sha256(VALUES.tobytes()).hexdigest(),
        rows=40,
    )
    monkeypatch.setitem(tables._TABLES, "yacht", table)


@pytest.fixture
def served(server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The yacht table as published, on a server of this machine."""
    url, folder = server
    path = folder / "yacht" / "data.txt"
    path.parent.mkdir()
    path.write_text(SPACES)
    monkeypatch.setattr(tables, "_ADDRESS", url + "{folder}/data.txt")
    return path


def _place(folder: Path, text: str) -> Path:
    path = folder / "uci" / "yacht.csv"
    path.parent.mkdir()
    path.write_text(text)
    return path


def _sorted(rows: torch.Tensor) -> np.ndarray:
    array = rows.double().numpy()
    return array[np.lexsort(array.T)]


def test_every_row_is_in_one_part_and_standardisation_can_be_undone(folders, tiny):
    _place(folders[0], COMMAS)
    train, test = uci("yacht", test_fraction=0.25, download=False)
    assert (len(train), len(test)) == (30, 10)
    x = torch.cat([part.normalisation.invert(part.x.double()) for part in (train, test)])
    y = torch.cat([part.y.double() for part in (train, test)])
    rows = torch.cat([x, y * train.info["target_std"] + train.info["target_mean"]], 1)
    np.testing.assert_allclose(_sorted(rows), _sorted(torch.from_numpy(VALUES)), atol=1e-5)
    both = torch.cat([train.x, train.y], 1).double()
    torch.testing.assert_close(both.mean(0), torch.zeros(7).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(both.std(0, correction=0), torch.ones(7).double(), rtol=0, atol=1e-6)
    assert train.info["target"] == "residuary_resistance"
    assert len(train.info["columns"]) == 6


def test_seed_decides_the_split_and_one_part_is_that_of_the_pair(folders, tiny):
    _place(folders[0], COMMAS)
    train, test = uci("yacht", seed=1)
    assert torch.equal(uci("yacht", seed=1, split="test").x, test.x)
    assert not torch.equal(uci("yacht", seed=2)[1].x, test.x)
    few = uci("yacht", seed=1, subset=5)[0]
    assert len(few) == 5
    assert few.normalisation == train.normalisation


def test_constant_column_stays_finite(folders, monkeypatch):
    values = VALUES.copy()
    values[:, 2] = 4.0
    monkeypatch.setattr(tables, "_values", lambda name, download: values)
    train, _ = uci("yacht")
    assert (train.x[:, 2] == 0).all()


def test_damaged_table_is_refused(folders, tiny):
    path = _place(folders[0], COMMAS[:-4])
    with pytest.raises(DamagedFile, match=f"{path} has the SHA-256 sum .*, expected"):
        uci("yacht")


def test_download_has_the_same_values_and_is_kept(folders, tiny, served):
    downloaded = uci("yacht")
    assert [path.name for path in (folders[1] / "uci").iterdir()] == ["yacht.txt"]
    served.unlink()
    again = uci("yacht", download=False)
    _place(folders[0], COMMAS)
    for part, other, third in zip(downloaded, again, uci("yacht"), strict=True):
        assert torch.equal(part.x, other.x)
        assert torch.equal(part.y, third.y)


@pytest.mark.parametrize("damage", [lambda t: t[:-9], lambda t: t + "1", lambda t: "<html>"])
def test_damaged_download_is_refused_and_not_kept(folders, tiny, served, damage):
    served.write_text(damage(SPACES))
    with pytest.raises(
        DamagedFile, match=r"yacht/data\.txt sent (holds a table of|is not a table)"
    ):
        uci("yacht")
    assert not any(path.is_file() for path in folders[1].rglob("*"))


def test_missing_table_says_where_it_was_looked_for(folders, tiny, monkeypatch):
    data, cache = folders
    with pytest.raises(MissingData) as caught:
        uci("yacht", download=False)
    for part in ("uci/yacht.csv", f"HESSLAB_DATA is {data}", str(cache), "hl.data.digits()"):
        assert part in str(caught.value)
    monkeypatch.setattr(tables, "_ADDRESS", "http://127.0.0.1:9/{folder}")
    with pytest.raises(MissingData, match="the download failed"):
        uci("yacht")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("boston", {}, "'boston' is unknown; expected one of concrete, energy, kin8nm, power"),
        ("yacht", {"test_fraction": 0.0}, r"test_fraction=0\.0; expected a number from 0\.01"),
        ("yacht", {"seed": -1}, "seed=-1; expected a whole number from 0"),
    ],
)
def test_bad_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        uci(name, **options)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "rows", "inputs", "mean"),
    [
        ("concrete", 1030, 8, 35.82),
        ("energy", 768, 8, 22.31),
        ("kin8nm", 8192, 8, 0.7143),
        ("power", 9568, 4, 454.4),
        ("wine", 1599, 11, 5.636),
        ("yacht", 308, 6, 10.50),
    ],
)
def test_real_table_has_the_published_size_and_mean(real_data, name, rows, inputs, mean):
    train, test = uci(name, download=False)
    assert len(train) + len(test) == rows
    assert train.x.shape[1] == inputs
    y = torch.cat([train.y, test.y]).double() * train.info["target_std"]
    assert (y.mean() + train.info["target_mean"]).item() == pytest.approx(mean, rel=1e-3)


@pytest.mark.data
@pytest.mark.parametrize("name", sorted(tables._TABLES))
def test_content_sum_of_downloads_is_that_of_the_real_values(real_data, name, tmp_path):
    values = np.loadtxt(real_data / f"uci/{name}.csv", delimiter=",", skiprows=1)
    np.savetxt(tmp_path / "data.txt", values, fmt="%.17g")
    tables._check_values(tmp_path / "data.txt", tables._TABLES[name])
