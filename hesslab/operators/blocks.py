"""Parts of a matrix: the block of some parameters, and the blocks on the diagonal."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hesslab.operators.base import Operator
from hesslab.operators.space import Space


class BlockDiagonal(Operator):
    """The blocks on the diagonal of a matrix, and zero between them.

    Attributes:
        blocks: the operators of the blocks, each a restriction of the matrix.
    """

    def __init__(
        self, matrix: Operator, blocks: Sequence[str | Sequence[str]] | None = None
    ) -> None:
        if matrix._rows.shapes != matrix._columns.shapes or not matrix._rows.shapes:
            raise ValueError(
                f"the operator has {matrix._rows!r} as rows and {matrix._columns!r} as columns; "
                "blocks of parameters need parameters on both sides"
            )
        super().__init__(matrix._columns, None if matrix._symmetric else matrix._rows)
        self._names = _partition(self._columns, blocks)
        self.blocks = tuple(matrix.restrict(names) for names in self._names)
        self._places = [self._columns.rows(names) for names in self._names]
        for block in self.blocks:
            if plan := getattr(block, "plan", None):
                plan.share(len(self.blocks))

    def __repr__(self) -> str:
        sizes = ", ".join(str(block.shape[0]) for block in self.blocks[:6])
        more = ", ..." if len(self.blocks) > 6 else ""
        return f"BlockDiagonal({len(self.blocks)} blocks of {sizes}{more}: {self.blocks[0]!r}, ...)"

    def _matmat(self, V: Tensor) -> Tensor:
        return self._apply(V, self.blocks)

    def _rmatmat(self, U: Tensor) -> Tensor:
        return self._apply(U, [block.T for block in self.blocks])

    def _apply(self, V: Tensor, blocks: Sequence[Operator]) -> Tensor:
        product = torch.zeros_like(V)
        for places, block in zip(self._places, blocks, strict=True):
            product[places] = block @ V[places]
        return product

    @property
    def gradient(self) -> Callable[[], Tensor]:
        """The gradients of the blocks side by side, ``[P]``, where they have one."""
        pieces: list[Callable[[], Tensor]] = [
            block.gradient  # type: ignore[attr-defined]
            for block in self.blocks
        ]

        def gradient() -> Tensor:
            joined = torch.zeros(self.shape[0], dtype=self.dtype, device=self.device)
            for places, piece in zip(self._places, pieces, strict=True):
                joined[places] = piece()
            return joined

        return gradient

    def _restrict(self, names: Sequence[str]) -> Operator:
        other = copy.copy(self)
        other._columns = other._rows = self._columns.subset(names)
        kept = [[name for name in block if name in names] for block in self._names]
        pairs = zip(self.blocks, kept, strict=True)
        other.blocks = tuple(block._restrict(inside) for block, inside in pairs if inside)
        other._names = [inside for inside in kept if inside]
        other._places = [other._columns.rows(inside) for inside in other._names]
        return other


class Submatrix(Operator):
    """The rows and columns of some parameters of a matrix that knows no smaller form of itself.

    Cost: one product with the whole matrix.
    """

    def __init__(self, matrix: Any, space: Space, names: Sequence[str]) -> None:
        chosen = space.subset(names)
        symmetric = isinstance(matrix, Operator) and matrix._symmetric
        super().__init__(chosen, None if symmetric else chosen)
        self._matrix = matrix
        self._places = space.rows(names)
        self._whole = space

    def __repr__(self) -> str:
        return f"({self._matrix!r}) on {self._columns!r}"

    def _matmat(self, V: Tensor) -> Tensor:
        return self._cut(self._matrix, V)

    def _rmatmat(self, U: Tensor) -> Tensor:
        from hesslab.operators.algebra import transposed

        return self._cut(transposed(self._matrix), U)

    def _cut(self, matrix: Any, V: Tensor) -> Tensor:
        padded = V.new_zeros(self._whole.size, V.shape[1])
        padded[self._places] = V
        product: Tensor = (matrix @ padded).detach()
        return product[self._places]

    def _restrict(self, names: Sequence[str]) -> Operator:
        return Submatrix(self._matrix, self._whole, names)


def submatrix(matrix: Any, space: Space, names: Sequence[str]) -> Any:
    """The part of anything that multiplies: by less work, by indexing, or by zeros around v."""
    if isinstance(matrix, Operator):
        return matrix._restrict(names)
    if isinstance(matrix, Tensor) and matrix.layout == torch.strided:
        places = space.rows(names)
        return matrix[places][:, places]
    return Submatrix(matrix, space, names)


def _partition(space: Space, blocks: Sequence[str | Sequence[str]] | None) -> list[list[str]]:
    """The names of each block; together they are all names, each once."""
    if blocks is None:
        return [[name] for name in space.shapes]
    if isinstance(blocks, str):
        raise TypeError(f"blocks={blocks!r} is one text; expected a list with an entry per block")
    chosen = [space.choose(block) for block in blocks]
    counts = {name: sum(name in block for block in chosen) for name in space.shapes}
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ValueError(f"{', '.join(twice)} is in more than one block; expected one for each")
    if left := [name for name, count in counts.items() if count == 0]:
        raise ValueError(
            f"{', '.join(left)} is in no block; add a block for it, or take "
            "A.restrict(names).block_diagonal(...)"
        )
    return chosen
