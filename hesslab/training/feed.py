"""Batches to train on: shuffled by a generator of their own, or as a user's loader brings them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hesslab.data.batches import Batch, DataLike, as_batches
from hesslab.data.dataset import Dataset


def make_feed(
    data: DataLike,
    *,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype | None,
    seed: int,
) -> Shuffled | Loaded:
    """The training data as something that gives the batches of each epoch.

    Args:
        data: a Dataset, a pair ``(x [N, ...], y [N] or [N, D])``, which are shuffled, or a
            re-iterable of such pairs, which keeps its own order and batch size.
        batch_size: examples per batch of shuffled data.
        device: where batches are moved to.
        dtype: what floating-point inputs must have; None for anything.
        seed: of the order.

    Returns:
        The feed.
    """
    as_batches(data, batch_size=batch_size, device=device, dtype=dtype)  # refuses what is unfit
    if isinstance(data, Dataset):
        return Shuffled(data.x, data.y, batch_size, device, seed)
    if isinstance(data, tuple | list) and len(data) == 2 and isinstance(data[0], Tensor):
        return Shuffled(data[0], data[1], batch_size, device, seed)
    return Loaded(data, device)


class Shuffled:
    """Two tensors in an order that follows from the seed and the number of the epoch alone."""

    def __init__(
        self, x: Tensor, y: Tensor, batch_size: int, device: torch.device, seed: int
    ) -> None:
        self._x, self._y, self._size, self._device = x, y, batch_size, device
        self._seed = seed

    def __len__(self) -> int:
        return -(-len(self._x) // self._size)

    def epoch(self, number: int) -> Iterator[Batch]:
        """All examples once; the last batch is ragged."""
        generator = torch.Generator().manual_seed(stream_seed(self._seed, number, "order"))
        order = torch.randperm(len(self._x), generator=generator).to(self._x.device)
        for indices in order.split(self._size):
            yield self._x[indices].to(self._device), self._y[indices].to(self._device)

    def fingerprint(self) -> str:
        """What the data is, for a checkpoint: shapes and a digest of the bytes."""
        return data_fingerprint((self._x, self._y))


class Loaded:
    """A user's own batches, in the order and of the sizes in which they come."""

    def __init__(self, source: Any, device: torch.device) -> None:
        self._source, self._device = source, device
        self._count: int | None = None

    def __len__(self) -> int:
        if self._count is None:
            sized = hasattr(self._source, "__len__")
            self._count = len(self._source) if sized else sum(1 for _ in self._source)
        return self._count

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches; the number of the epoch plays no part."""
        empty = True
        for batch in self._source:
            if not (isinstance(batch, tuple | list) and len(batch) == 2):
                raise TypeError(
                    f"a batch is a {type(batch).__name__}; expected a pair (inputs, targets)"
                )
            x, y = batch
            if not (isinstance(x, Tensor) and isinstance(y, Tensor) and len(x) == len(y)):
                raise ValueError(
                    "a batch is no pair of tensors of equal length; expected inputs [B, ...] and "
                    "targets [B] or [B, D]"
                )
            empty = False
            yield x.to(self._device), y.to(self._device)
        if empty:
            raise ValueError("the data is empty: it holds no batch; at least one is needed")

    def fingerprint(self) -> str:
        """What the data is, for a checkpoint; the content of a loader is not compared."""
        return data_fingerprint(self._source)


def data_fingerprint(data: DataLike | None) -> str:
    """Shapes and a digest of tensors; only the type of other data, which may be endless."""
    if isinstance(data, Dataset):
        data = (data.x, data.y)
    if not (isinstance(data, tuple | list) and len(data) == 2 and isinstance(data[0], Tensor)):
        return type(data).__name__ if isinstance(data, Iterable) else "none"
    digest = hashlib.blake2b(digest_size=8)
    for tensor in data:
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(raw.numpy().data)
    return f"{tuple(data[0].shape)} {data[0].dtype}, content {digest.hexdigest()}"


def stream_seed(seed: int, epoch: int, stream: str) -> int:
    """Independent seeds for each epoch and use, so that a resumed run needs no generator state."""
    entropy = [seed % 2**64, epoch, *stream.encode()]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
