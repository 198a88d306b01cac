"""Any data that a user brings, as batches in a fixed order on one device."""

from __future__ import annotations

import copy
import itertools
import math
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor

from hesslab.data.dataset import Dataset
from hesslab.errors import NotDeterministic, NotFinite

Batch: TypeAlias = tuple[Tensor, Tensor]
DataLike: TypeAlias = Dataset | tuple[Tensor, Tensor] | Iterable[Batch]
"""A Dataset, a pair of tensors, or a re-iterable of (inputs, targets) in a fixed order."""


def as_batches(
    data: DataLike,
    *,
    batch_size: int = 512,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Batches:
    """Look at a user's data as batches that can be gone through again and again.

    Args:
        data: a `Dataset`, a pair ``(x [N, ...], y [N] or [N, D])``, or a re-iterable of such
            pairs in a fixed order (a ``DataLoader`` without shuffling).
        batch_size: examples per batch; data that comes in batches keeps its own.
        device: where the batches are moved to.
        dtype: what floating-point inputs must have, or None for anything.

    Returns:
        `Batches`, re-iterable.

    Raises:
        ValueError: the data is empty, its shapes disagree or its dtype is not the model's.
        TypeError: it is none of the three kinds, or can be gone through only once.
        NotFinite: an input or a target is NaN or infinite.
    """
    if isinstance(data, Dataset):
        return _Slices(data.x, data.y, batch_size, torch.device(device), dtype)
    if isinstance(data, tuple | list) and len(data) == 2 and isinstance(data[0], Tensor):
        x, y = data
        return _Slices(x, y, batch_size, torch.device(device), dtype)
    if isinstance(data, tuple) and len(data) == 2 and hasattr(data[0], "__array__"):
        raise TypeError(
            f"x is a {type(data[0]).__name__} and y a {type(data[1]).__name__}; expected two "
            "tensors: convert them with torch.as_tensor"
        )
    if not isinstance(data, Iterable):
        raise TypeError(
            f"data is a {type(data).__name__}; expected a hesslab.data.Dataset, a pair of tensors "
            "(x, y) or a re-iterable of such pairs (a DataLoader with shuffle=False)"
        )
    if isinstance(data, Iterator):
        raise TypeError(
            f"data is a {type(data).__name__}, which can be gone through only once; "
            "pass a list of batches or a DataLoader, since each product needs all batches again"
        )
    return _Stream(data, torch.device(device), dtype)


class Batches:
    """Batches ``(x, y)`` in a fixed order on one device; made by `as_batches`."""

    def __init__(self, device: torch.device, dtype: torch.dtype | None) -> None:
        self._device = device
        self._dtype = dtype

    def __iter__(self) -> Iterator[Batch]:
        raise NotImplementedError

    def cut(self, batch_size: int) -> Batches:
        """The same data in equal batches of at most so many; those of a user stay as they are."""
        return self

    def like_first(self, x: Tensor) -> Tensor:
        """Inputs of the first batch, of which ``x`` are the first examples, or more than those."""
        return x

    def first(self) -> Batch:
        """The first batch."""
        for batch in self:
            return batch
        raise ValueError("the data is empty: it holds no batch; at least one example is needed")

    def _check(self, x: Any, y: Any, where: str) -> None:
        if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
            raise TypeError(
                f"{where} holds a {type(x).__name__} and a {type(y).__name__}; "
                "expected two tensors (inputs, targets)"
            )
        if x.ndim == 0 or y.ndim == 0:
            raise ValueError(
                f"{where} has inputs {list(x.shape)} and targets {list(y.shape)}; expected a "
                "batch, with the examples in the first dimension"
            )
        if len(x) != len(y):
            raise ValueError(
                f"{where} has {len(x)} inputs and {len(y)} targets; each input needs one target"
            )
        if self._dtype is not None and x.is_floating_point() and x.dtype != self._dtype:
            raise ValueError(
                f"{where} has inputs of {x.dtype}, but the model's parameters are {self._dtype}; "
                f"convert one of them, for example with x.to({self._dtype})"
            )
        for name, tensor in (("inputs", x), ("targets", y)):
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise NotFinite(
                    f"{where}: the {name} hold NaN or infinite values, first in example "
                    f"{_first_bad(tensor)}; clean the data before taking products"
                )

    def _moved(self, x: Tensor, y: Tensor) -> Batch:
        x, y = x.to(self._device), y.to(self._device)
        # autograd cannot keep what was made under torch.inference_mode
        return (x.clone() if x.is_inference() else x), (y.clone() if y.is_inference() else y)


class _Slices(Batches):
    """Slices of two tensors; the last one is ragged."""

    def __init__(
        self, x: Tensor, y: Tensor, batch_size: int, device: torch.device, dtype: torch.dtype | None
    ) -> None:
        super().__init__(device, dtype)
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size={batch_size}; expected a whole number of at least 1")
        if len(x) == 0:
            raise ValueError("the data is empty: x has 0 examples; at least one is needed")
        self._check(x, y, "the data")
        self._x, self._y = x, y
        self._ends = [*range(batch_size, len(x), batch_size), len(x)]

    def cut(self, batch_size: int) -> Batches:
        # None of a single example, which not every model takes.
        other = copy.copy(self)
        number = math.ceil(len(self._x) / batch_size)
        other._ends = [(i + 1) * len(self._x) // number for i in range(number)]
        return other

    def like_first(self, x: Tensor) -> Tensor:
        return x[: self._ends[0]]

    def __iter__(self) -> Iterator[Batch]:
        for start, stop in itertools.pairwise([0, *self._ends]):
            yield self._moved(self._x[start:stop], self._y[start:stop])


class _Stream(Batches):
    """A user's own batches; each pass must bring the same ones."""

    def __init__(
        self, source: Iterable[Batch], device: torch.device, dtype: torch.dtype | None
    ) -> None:
        super().__init__(device, dtype)
        self._source = source
        self._sums: list[int] = []

    def __iter__(self) -> Iterator[Batch]:
        number = -1
        with torch.random.fork_rng(devices=[]):  # a DataLoader draws a seed for its workers
            batches = iter(self._source)
        for number, batch in enumerate(batches):
            if not (isinstance(batch, tuple | list) and len(batch) == 2):
                raise TypeError(
                    f"batch {number} is a {type(batch).__name__}; expected a pair (inputs, targets)"
                )
            self._check(*batch, f"batch {number}")
            if len(batch[0]) == 0:
                raise ValueError(f"batch {number} is empty; leave it out")
            self._compare(number, _checksum(*batch))
            yield self._moved(*batch)
        if number + 1 < len(self._sums):
            raise NotDeterministic(
                f"this pass over the data had {number + 1} batches, an earlier one at least "
                f"{len(self._sums)}; every pass must bring the same batches"
            )

    def _compare(self, number: int, checksum: int) -> None:
        if number == len(self._sums):
            self._sums.append(checksum)
        elif self._sums[number] != checksum:
            raise NotDeterministic(
                f"batch {number} is not the same as in an earlier pass: {self._cause()}; "
                "every product must see the same examples in the same order"
            )

    def _cause(self) -> str:
        sampler = type(getattr(self._source, "sampler", None)).__name__
        if sampler in {"RandomSampler", "SubsetRandomSampler", "WeightedRandomSampler"}:
            return f"the loader shuffles ({sampler}); build it with shuffle=False"
        return (
            "a random transform (augmentation) or a shuffling loader changes it; "
            "switch it off, or collect the batches in a list first"
        )


def _checksum(x: Tensor, y: Tensor) -> int:
    total = 0
    for tensor in (x, y):
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        total = zlib.crc32(raw.numpy().tobytes(), total)
    return total


def _first_bad(tensor: Tensor) -> int:
    bad = ~tensor.isfinite().flatten(1).all(1) if tensor.ndim > 1 else ~tensor.isfinite()
    return int(bad.nonzero()[0])
