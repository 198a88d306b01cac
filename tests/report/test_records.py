from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from hesslab import report
from hesslab.errors import DamagedFile, MissingData
from hesslab.report import records


def test_what_was_recorded_is_loaded_with_how_it_was_made(tmp_path):
    data = {"values": torch.tensor([1.0, 2.0]), "counts": np.arange(2)}
    path = report.record("runs", data, parameters={"n": 3}, seed=7, folder=tmp_path)
    assert path == tmp_path / "runs.json"
    found = report.load("runs", folder=tmp_path)
    assert found.data == {"values": [1.0, 2.0], "counts": [0, 1]}
    assert found.provenance["parameters"] == {"n": 3}
    assert found.provenance["seed"] == 7
    assert set(found.provenance) >= {"device", "versions", "seconds", "peak_memory_mb", "commit"}


def test_a_table_is_recorded_as_parquet(tmp_path):
    table = pd.DataFrame({"depth": [1, 2], "loss": [0.5, float("nan")]})
    path = report.record("sweep", table, parameters={}, seed=0, folder=tmp_path)
    assert path.suffix == ".parquet"
    found = report.load("sweep", folder=tmp_path)
    pd.testing.assert_frame_equal(found.data, table)
    assert found.provenance["seed"] == 0


def test_loading_notes_the_checksum(tmp_path):
    report.record("noted", [1], parameters={}, seed=0, folder=tmp_path)
    report.load("noted", folder=tmp_path)
    assert len(records.loaded["noted.json"]) == 64


def test_nothing_is_left_of_a_record_that_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"bad: .*write None for what is missing"):
        report.record("bad", [float("nan")], parameters={}, seed=0, folder=tmp_path)
    with pytest.raises(ValueError, match=r"takes 1\.\d MB, at most 1 MB"):
        report.record("big", list(range(150_000)), parameters={}, seed=0, folder=tmp_path)
    with pytest.raises(TypeError, match="a object cannot be recorded"):
        report.record("odd", [object()], parameters={}, seed=0, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_record_lists_those_there_are(tmp_path):
    report.record("runs", [1], parameters={}, seed=0, folder=tmp_path)
    with pytest.raises(MissingData, match=r"no record 'walks' .* there are \['runs'\]"):
        report.load("walks", folder=tmp_path)


def test_a_damaged_record_is_refused(tmp_path):
    report.record("runs", {"a": 1}, parameters={}, seed=0, folder=tmp_path)
    path = tmp_path / "runs.json"
    path.write_text(path.read_text()[:-10])
    with pytest.raises(DamagedFile, match=r"runs\.json is not a record"):
        report.load("runs", folder=tmp_path)
    path.write_text(json.dumps([1, 2]))
    with pytest.raises(DamagedFile, match="record it again"):
        report.load("runs", folder=tmp_path)
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "foreign.parquet")
    with pytest.raises(DamagedFile, match=r"foreign\.parquet is not a record"):
        report.load("foreign", folder=tmp_path)
