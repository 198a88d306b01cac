"""Numbers of record: results of long runs on disk, each with how it was made."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hesslab import _files
from hesslab.errors import DamagedFile, MissingData, import_extra

MAX_BYTES = 1_000_000

loaded: dict[str, str] = {}
"""Name and SHA-256 of every record that this process has read.

The book makes them part of what decides whether a chapter is run again.
"""


@dataclass(frozen=True)
class Record:
    """What was recorded under a name.

    Attributes:
        name: of the record.
        data: a pandas table, or what JSON holds.
        provenance: parameters, seed, device, versions, seconds, peak memory and commit.
    """

    name: str
    data: Any
    provenance: dict[str, Any]


def record(
    name: str,
    data: Any,
    *,
    parameters: Mapping[str, Any],
    seed: int,
    folder: str | os.PathLike[str] | None = None,
) -> Path:
    """Write results to disk together with how they were made.

    Args:
        name: file name without suffix.
        data: a pandas table (to Parquet), or mappings, sequences, numbers, text, tensors and
            arrays (to JSON).
        parameters: the values that decided the result.
        seed: the seed of the run.
        folder: where to write; the book's results where it is None.

    Returns:
        The file, complete: it is written aside and renamed.

    Raises:
        ValueError: a number is NaN or infinite in JSON, or the file exceeds 1 MB.
        MissingData: no folder is given, and the book's is not found.
    """
    from .footer import facts

    target = Path(folder) if folder is not None else _results()
    made = facts(parameters, seed)
    if type(data).__module__.partition(".")[0] == "pandas":
        path = target / f"{name}.parquet"
        with _files.write_aside(path) as aside:
            _write_parquet(aside, data, made)
            _fits(aside, name)
        return path
    path = target / f"{name}.json"
    try:
        content = {"provenance": made, "data": data}
        text = json.dumps(content, indent=1, default=_plain, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{name}: {error}; write None for what is missing or diverged") from error
    with _files.write_aside(path) as aside:
        aside.write_text(text + "\n", encoding="utf-8")
        _fits(aside, name)
    return path


def load(name: str, *, folder: str | os.PathLike[str] | None = None) -> Record:
    """Read a record; a chapter that does so is run again when the file changes.

    Args:
        name: file name without suffix.
        folder: where to read; the book's results where it is None.

    Returns:
        The data with its provenance.

    Raises:
        MissingData: there is no such record; the message lists those there are.
        DamagedFile: the file is not one that `record` wrote.
    """
    source = Path(folder) if folder is not None else _results()
    paths = [p for s in ("parquet", "json") if (p := source / f"{name}.{s}").is_file()]
    if not paths:
        known = sorted(p.stem for p in source.glob("*") if p.suffix in {".parquet", ".json"})
        raise MissingData(f"no record {name!r} in {source}; there are {known}")
    loaded[paths[0].name] = _files.sha256(paths[0])
    try:
        if paths[0].suffix == ".parquet":
            return Record(name, *_read_parquet(paths[0]))
        content = json.loads(paths[0].read_text(encoding="utf-8"))
        return Record(name, content["data"], content["provenance"])
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFile(f"{paths[0]} is not a record ({error}); record it again") from error


def _results() -> Path:
    """The folder `book/results` of the checkout that this package runs from."""
    folder = Path(__file__).resolve().parents[2] / "book" / "results"
    if not folder.is_dir():
        raise MissingData(
            f"{folder} does not exist: the records belong to the book, and this package was "
            "installed without it; run from a checkout, or name a folder"
        )
    return folder


def _fits(path: Path, name: str) -> None:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(
            f"record {name!r} takes {size / 1e6:.1f} MB, at most {MAX_BYTES / 1e6:.0f} MB is "
            "kept with the book; keep fewer rows or fewer digits"
        )


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} cannot be recorded; make it a number or a list")


def _write_parquet(path: Path, data: Any, made: Mapping[str, Any]) -> None:
    pyarrow = import_extra("pyarrow", extra="sweeps")
    parquet = import_extra("pyarrow.parquet", extra="sweeps")
    rows = pyarrow.Table.from_pandas(data)
    rows = rows.replace_schema_metadata(
        {**rows.schema.metadata, b"hesslab": json.dumps(made, default=_plain).encode()}
    )
    parquet.write_table(rows, path)


def _read_parquet(path: Path) -> tuple[Any, dict[str, Any]]:
    rows = import_extra("pyarrow.parquet", extra="sweeps").read_table(path)
    return rows.to_pandas(), json.loads((rows.schema.metadata or {})[b"hesslab"])
