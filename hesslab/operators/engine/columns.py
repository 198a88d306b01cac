"""The columns of a matrix of vectors as tensors of the parameters' shapes, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Tangents or cotangents of one column, or of a block of columns with a leading dimension.
Pieces = Sequence[Tensor]
CACHED = 1 << 14  # rows of a block of vectors that stay in the processor's cache


def split(V: Tensor, values: Sequence[Tensor], width: int) -> list[Pieces]:
    """The columns of a matrix as tensors of the shapes of others.

    Args:
        V: ``[P, K]``.
        values: of P numbers in all.
        width: columns that stay together; 0 takes each for itself, without a leading dimension.

    Returns:
        The pieces of each column, or of each block of columns.
    """
    rows = _transposed(V)
    sizes = [value.numel() for value in values]
    found: list[Pieces] = []
    for chunk in rows.split(width) if width else rows:
        pairs = zip(chunk.split(sizes, dim=-1), values, strict=True)
        found.append([piece.view(chunk.shape[:-1] + value.shape) for piece, value in pairs])
    return found


def join(columns: Sequence[Pieces], V: Tensor, size: int, width: int) -> Tensor:
    """The inverse of `split`.

    Args:
        columns: the pieces of each column, or of each block of columns.
        V: any matrix ``[., K]`` of the dtype and device wanted.
        size: P.
        width: as for `split`.

    Returns:
        ``[P, K]``.
    """
    rows = torch.empty(V.shape[1], size, dtype=V.dtype, device=V.device)
    for chunk, pieces in zip(rows.split(width) if width else rows, columns, strict=True):
        flat = [piece.reshape(*chunk.shape[:-1], -1) for piece in pieces]
        torch.cat(flat, dim=-1, out=chunk)
    return rows.T


def _transposed(V: Tensor) -> Tensor:
    """``V.T``, contiguous."""
    if V.is_cuda or V.shape[1] == 1 or V.T.is_contiguous():
        return V.T.contiguous()
    rows = V.new_empty(V.shape[1], V.shape[0])
    for some, part in zip(rows.split(CACHED, 1), V.split(CACHED), strict=True):
        some.copy_(part.T)  # all at once, torch leaves the cache for each number
    return rows
