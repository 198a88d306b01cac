"""What a tracker wrote, as a table."""

from __future__ import annotations

import os
from typing import Any

from hesslab.errors import import_extra
from hesslab.training import read_visits


def visits(path: str | os.PathLike[str]) -> Any:
    """The visits of a `hesslab.training.CurvatureTracker` as a pandas table.

    Args:
        path: the tracker's file of JSON lines.

    Returns:
        A row for each visit, in order of steps; a list of k numbers becomes the columns name.0 to
        name.(k - 1), and a list of lists stays one. `record` writes it to Parquet.

    Raises:
        DamagedFile: the file is none of a tracker.
        MissingExtra: pandas is not installed.
    """
    pandas = import_extra("pandas", extra="sweeps")
    _, lines = read_visits(path)
    return pandas.DataFrame([_spread(line) for line in lines])


def _spread(line: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in line.items():
        numbers = isinstance(value, list) and not any(isinstance(x, list) for x in value)
        parts = {f"{name}.{i}": x for i, x in enumerate(value)} if numbers else {name: value}
        found |= parts
    return found
