"""What the figures take: tensors, arrays and lists, checked once and turned into float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from hesslab.errors import NotFinite

Array = np.ndarray[Any, Any]
ArrayLike = Tensor | Array | Sequence[Any]


def plain(values: ArrayLike) -> Array:
    """The numbers as a float64 array on the CPU, without a graph."""
    if isinstance(values, Tensor):
        return values.detach().cpu().double().numpy()
    # A list may hold tensors of one element.
    return np.asarray([v.item() if isinstance(v, Tensor) else v for v in values], dtype=float)


def vector(name: str, values: ArrayLike, *, match: tuple[str, int] | None = None) -> Array:
    """A finite array [n]; [n, 1] is flattened. ``match`` is the name and length of its partner."""
    array = plain(values)
    shape = array.shape
    if array.ndim == 2 and shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or not len(array):
        raise ValueError(
            f"{name} has shape {list(shape)}, but one number per point is drawn: [n] or [n, 1] "
            f"with n >= 1; choose one column, such as {name}[:, 0]"
        )
    if match is not None and len(array) != match[1]:
        raise ValueError(
            f"{name} has {len(array)} values, but {match[0]} has {match[1]}; "
            f"they are drawn in pairs: pass the {name} that belongs to this {match[0]}"
        )
    finite(name, array)
    return array


def finite(name: str, array: Array) -> None:
    """Refuse NaN and infinity, and say where they are."""
    bad = ~np.isfinite(array)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise NotFinite(
            f"{name} holds {int(bad.sum())} of {array.size} values that are NaN or infinite, the "
            f"first at index {where[0] if len(where) == 1 else where}; a figure would hide them: "
            "find what produced them, or leave these entries out"
        )


def positive(name: str, value: float | None) -> None:
    """Refuse a level that has no place on a log axis."""
    if value is not None and not 0 < value < float("inf"):
        raise ValueError(
            f"{name} is {value:g}, but the axis is logarithmic and takes 0 < {name} < inf; "
            "leave it out to draw none"
        )


def ascending(name: str, array: Array) -> None:
    """Refuse points out of order, whose line would run to and fro."""
    if (np.diff(array) < 0).any():
        where = int(np.argmax(np.diff(array) < 0)) + 1
        raise ValueError(
            f"{name} falls at index {where}, but a curve is drawn from left to right; "
            f"sort {name} and reorder its values alike"
        )


def interval(name: str, pair: tuple[float, float] | None) -> None:
    """Refuse an interval that is not (low, high)."""
    if pair is not None and not (len(pair) == 2 and pair[0] < pair[1]):
        raise ValueError(
            f"{name} is {tuple(pair)}, but an interval (low, high) with low < high is needed"
        )
