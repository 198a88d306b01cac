"""Many long vectors kept together, where and as precisely as memory allows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hesslab._memory import megabytes, quarter

PIECE = 1 << 18  # numbers of a float32 vector that are made float64 at a time
AT_FIRST = 32  # vectors for which memory is taken; then twice as many, and so on


@dataclass(frozen=True)
class Storage:
    """Where vectors are kept and in which precision; inner products are float64 in any case."""

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, rows: int, size: int, device: torch.device, limit: int | None) -> Storage:
        """The first that fits of: float64 and float32 on the device, the same on the host.

        Args:
            rows: number of vectors.
            size: of each.
            device: of the matrix.
            limit: bytes; None means a quarter of the memory.

        Returns:
            The form.

        Raises:
            MemoryError: none fits; the message says how many vectors would.
        """
        for place in dict.fromkeys((device, torch.device("cpu"))):
            allowed = room(place, limit)
            for dtype in (torch.float64, torch.float32):
                if rows * size * dtype.itemsize <= allowed:
                    return cls(place, dtype)
        raise MemoryError(
            f"{rows} basis vectors of {size} numbers take {megabytes(4 * rows * size)} in float32, "
            f"and {megabytes(allowed)} are allowed, which hold {allowed // (4 * size)}; take fewer "
            "steps, or give a larger memory_limit"
        )


def room(device: torch.device, limit: int | None) -> int:
    """Bytes that may be kept: the limit, or a quarter of the device's memory."""
    return quarter(device) if limit is None else limit


def check_room(vectors: int, size: int, device: torch.device, limit: int | None) -> None:
    """Refuse to hold more float64 vectors than there is room for.

    Args:
        vectors: how many.
        size: of each.
        device: where they live.
        limit: bytes; None means a quarter of the memory.

    Raises:
        MemoryError: they do not fit.
    """
    if 8 * vectors * size > (allowed := room(device, limit)):
        raise MemoryError(
            f"{vectors} vectors of {size} numbers take {megabytes(8 * vectors * size)}, and "
            f"{megabytes(allowed)} are allowed; take fewer products, or give a larger memory_limit"
        )


class Rows:
    """Vectors as the rows of one matrix ``[capacity, P]``, with float64 arithmetic."""

    def __init__(self, capacity: int, size: int, storage: Storage) -> None:
        self.storage, self.size, self._capacity = storage, size, capacity
        self._V = self._empty(min(capacity, AT_FIRST))

    def __len__(self) -> int:
        return self._capacity

    def __getitem__(self, i: int) -> Tensor:
        return self._V[i].double()

    def __setitem__(self, place: int | slice, value: Tensor) -> None:
        needed = place.stop if isinstance(place, slice) else place + 1
        if needed > len(self._V):
            larger = self._empty(min(self._capacity, max(needed, 2 * len(self._V))))
            larger[: len(self._V)] = self._V
            self._V = larger
        self._V[place] = value.to(self._V.device)

    def _empty(self, n: int) -> Tensor:
        return torch.empty(n, self.size, dtype=self.storage.dtype, device=self.storage.device)

    def first(self, n: int) -> Tensor:
        """The first n as they are stored, ``[n, P]``: a view."""
        return self._V[:n]

    def coefficients(self, w: Tensor, n: int) -> Tensor:
        """Inner products of the first n with ``w`` ``[P]`` or ``[P, K]``."""
        if self._V.dtype == torch.float64:
            return self._V[:n] @ w
        pieces = zip(self._V[:n].split(PIECE, dim=1), w.split(PIECE), strict=True)
        return torch.stack([v.double() @ piece for v, piece in pieces]).sum(0)

    def combine(self, c: Tensor, n: int) -> Tensor:
        """The first n times ``c`` ``[n]`` or ``[n, K]``, added up: ``[P]`` or ``[P, K]``."""
        if self._V.dtype == torch.float64:
            return self._V[:n].T @ c
        return torch.cat([v.double().T @ c for v in self._V[:n].split(PIECE, dim=1)])

    def orthogonality(self, n: int) -> float:
        r""":math:`\|V^T V - I\|_2` of the first n. Cost: n inner products with each."""
        pieces = self._V[:n].split(PIECE, dim=1)
        gram = torch.stack([(v := piece.double()) @ v.T for piece in pieces]).sum(0)
        return float(torch.linalg.matrix_norm(gram - torch.eye(n).to(gram), ord=2))


def random_direction(size: int, generator: torch.Generator) -> Tensor:
    """A random direction ``[P]``: float64, of unit length, the same for every device."""
    v = torch.randn(size, generator=generator, dtype=torch.float64)
    return v / math.sqrt(float(v @ v))
