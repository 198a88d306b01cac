"""Checkpoints: a training run on disk, whole or not at all, read without running code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hesslab._files import write_aside
from hesslab.errors import DamagedFile
from hesslab.training.history import History, Record

_FORMAT = 1
_KEYS = {"format", "settings", "model", "optimizer", "schedule", "record", "best", "stopped"}


def load_checkpoint(path: str | os.PathLike[str], model: nn.Module) -> History:
    """Give a model the weights of a checkpoint that `fit` wrote.

    Args:
        path: the file.
        model: of the shape that was trained; it gets the weights that `fit` would have returned:
            the best ones of an early-stopped run, else the last ones.

    Returns:
        The history up to that checkpoint.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: the file is no checkpoint, or is truncated.
        ValueError: the model has other parameters than the one that was trained.
    """
    content = read_checkpoint(path)
    weights = content["best"] if content["best"] is not None else content["model"]
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"the checkpoint {path} is of another model: {error}") from error
    return Record(content["record"]).history(stopped=content["stopped"])


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a checkpoint, with tensors on the CPU; nothing but data is unpickled.

    Args:
        path: a file that `fit` wrote.

    Returns:
        Tensors, numbers and strings by name.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: the file is no checkpoint, or is truncated.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}; fit(checkpoint=...) writes one")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        raise DamagedFile(
            f"{path} cannot be read as a checkpoint ({error}); delete it to start afresh"
        ) from error
    if not (isinstance(content, dict) and set(content) == _KEYS and content["format"] == _FORMAT):
        raise DamagedFile(
            f"{path} holds no checkpoint of this version of hesslab; delete it to start afresh"
        )
    return content


def write_checkpoint(path: str | os.PathLike[str], **content: Any) -> None:
    """Write a checkpoint aside and rename it, so that an interruption leaves the last one whole."""
    with write_aside(path) as aside:
        torch.save({"format": _FORMAT, **content}, aside)


def compare_settings(
    path: str | os.PathLike[str], found: dict[str, str], expected: dict[str, str]
) -> None:
    """Refuse to continue a run under other settings than it was started with.

    Args:
        path: the checkpoint, for the message.
        found: its settings.
        expected: those of this call.

    Raises:
        ValueError: they differ; the message names each difference.
    """
    differences = [
        f"{name} was {found.get(name, 'not recorded')} and is now {expected[name]}"
        for name in expected
        if found.get(name) != expected[name]
    ]
    if differences:
        raise ValueError(
            f"the checkpoint {path} is of a run with other settings: {'; '.join(differences)}. "
            "Give the settings of that run to resume it, or another path to start afresh"
        )
