"""What every matrix of the package can do: multiply tensors, blocks, arrays and dictionaries."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
import scipy.sparse.linalg
import torch
from torch import Tensor

from hesslab.linalg.matrix import MatrixLike
from hesslab.operators.network import Network
from hesslab.operators.space import Space

if TYPE_CHECKING:  # the algebra is made of operators
    from hesslab.operators.algebra import Combination, Congruence
    from hesslab.operators.blocks import BlockDiagonal

Array: TypeAlias = "np.ndarray[Any, Any]"


class Operator:
    """A matrix that only multiplies: ``[P, P]`` on parameters, or between them and outputs.

    Subclasses implement `_matmat` and, where they are not symmetric, `_rmatmat`. ``A @ v`` takes
    ``[n]``, ``[n, K]``, numpy arrays of either shape, or, on the side of the parameters, a
    dictionary of tensors named as in ``model.named_parameters()``, and returns the same kind,
    without a graph. ``A + B``, ``A - B``, ``2 * A``, ``A / 2`` and ``-A`` are operators again; B is
    an operator, a tensor, an array or anything with shape, dtype, device and ``@``.

    Args:
        columns: what a vector counts: named parameters or a space.
        rows: what a product counts; None for a symmetric matrix.
    """

    __array_ufunc__ = None  # numpy leaves `array + A` and `number * A` to the methods below
    _network: Network | None = None  # whose derivatives these are; None for sums and the like

    def __init__(self, columns: Mapping[str, Tensor] | Space, rows: Space | None = None) -> None:
        self._columns = columns if isinstance(columns, Space) else Space.of(columns)
        self._rows = self._columns if rows is None else rows
        self._symmetric = rows is None
        self.dtype = self._columns.dtype
        self.device = self._columns.device

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns: ``(P, P)`` on parameters, ``(N C, P)`` for a Jacobian."""
        return self._rows.size, self._columns.size

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The names of the parameters in the order of their entries."""
        return tuple(self._named.shapes)

    @property
    def T(self) -> Operator:  # noqa: N802
        """The transpose: the matrix itself, where it is symmetric."""
        return self._transpose()

    H = T

    def _transpose(self) -> Operator:
        from hesslab.operators.algebra import Transposed

        return self if self._symmetric else Transposed(self)

    @overload
    def __matmul__(self, v: Tensor) -> Tensor: ...

    @overload
    def __matmul__(self, v: Array) -> Array: ...

    @overload
    def __matmul__(self, v: Mapping[str, Tensor]) -> dict[str, Tensor]: ...

    def __matmul__(self, v: Any) -> Any:
        """The product with a vector, a block of vectors or a dictionary of tensors.

        Args:
            v: ``[n]`` or ``[n, K]`` (tensor of the operator's dtype and device, or a numpy array),
                or a dictionary of tensors, one per parameter and of its shape.

        Returns:
            The same kind as ``v``, in the operator's dtype; a dictionary becomes a vector where
            the rows are outputs.

        Raises:
            ValueError: wrong shape, dtype or device.
            NotFinite: ``v`` or the product holds NaN or infinite values.
            TypeError: ``v`` is none of these kinds.
        """
        if isinstance(v, Mapping):
            product = self @ self._columns.join(v)
            return self._rows.split(product) if self._rows.shapes else product
        if isinstance(v, np.ndarray):
            if np.iscomplexobj(v):
                raise ValueError("v is complex; the operator is real: multiply v.real and v.imag")
            tensor = torch.as_tensor(np.ascontiguousarray(v)).to(self.device, self.dtype)
            return (self @ tensor).cpu().numpy()
        if not isinstance(v, Tensor):
            raise TypeError(
                f"v is a {type(v).__name__}; expected a tensor or numpy array of shape [P] or "
                "[P, K], or a dictionary of named tensors"
            )
        self._columns.check(v)
        with torch.inference_mode(False), torch.no_grad():
            block = v.clone() if v.is_inference() else v.detach()
            if v.ndim == 2 and v.shape[1] == 0:
                return v.new_zeros(self._rows.size, 0)
            product = self._matmat(block.unsqueeze(1) if v.ndim == 1 else block)
        return product.squeeze(1) if v.ndim == 1 else product

    def _matmat(self, V: Tensor) -> Tensor:
        """The product with a block ``[n, K]``, of the operator's dtype and device."""
        raise NotImplementedError

    def _rmatmat(self, U: Tensor) -> Tensor:
        """The transpose's product with a block; that of a symmetric matrix is its own."""
        if not self._symmetric:
            raise NotImplementedError
        return self._matmat(U)

    def matvec(self, v: Any) -> Any:
        """``A @ v``, by scipy's name."""
        return self @ v

    def rmatvec(self, u: Any) -> Any:
        """``A.T @ u``, by scipy's name."""
        return self.T @ u

    matmat = matvec
    rmatmat = rmatvec

    @property
    def _named(self) -> Space:
        """The side of the parameters, if there is one."""
        return self._columns if self._columns.shapes else self._rows

    def _name_list(self) -> str:
        return self._named.name_list()

    def dict_to_vector(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Join named tensors into one vector ``[P]`` in the order of the parameters.

        Args:
            tensors: one per parameter, of its shape, in any order.

        Returns:
            ``[P]``, in the tensors' dtype.

        Raises:
            ValueError: a name is missing or unknown, or a shape is wrong.
        """
        return self._named.join(tensors)

    def vector_to_dict(self, v: Tensor) -> dict[str, Tensor]:
        """Split a vector ``[P]`` into tensors of the parameters' names and shapes (views of it).

        Args:
            v: ``[P]``.

        Returns:
            A dictionary in the order of the parameters.

        Raises:
            ValueError: ``v`` has another shape.
        """
        return self._named.split(v)

    def to_dense(self) -> Tensor:
        """The matrix itself. Cost: as many products as its shorter side; memory: 8 to 20 P^2 B."""
        if self.shape[0] < self.shape[1]:
            return self.T.to_dense().T
        n = self.shape[1]
        columns = []
        for start in range(0, n, 256):
            eye = torch.zeros(n, min(256, n - start), dtype=self.dtype, device=self.device)
            eye[start : start + 256].fill_diagonal_(1)
            columns.append(self @ eye)
        return torch.cat(columns, dim=1)

    def to_scipy(self) -> scipy.sparse.linalg.LinearOperator:
        """The operator for scipy: float arrays in and out, with the transpose."""
        return scipy.sparse.linalg.LinearOperator(
            self.shape,
            matvec=self.matvec,
            rmatvec=self.rmatvec,
            matmat=self.matmat,
            rmatmat=self.rmatmat,
            dtype=torch.empty(0, dtype=self.dtype).numpy().dtype,
        )

    def restrict(self, parameters: str | Sequence[str]) -> Operator:
        """The block of some parameters: what the same matrix is on them, the others held fixed.

        For a matrix of a network less work is done, not less of it shown: only these parameters
        are differentiated by. Point, data and options are the operator's own.

        Args:
            parameters: names or shell patterns, such as ``"layer3.*"``.

        Returns:
            An operator ``[p, p]`` (for a Jacobian ``[N C, p]``) in the order of the parameters.

        Raises:
            ValueError: a name or pattern matches no parameter of the operator.
        """
        return self._restrict(self._named.choose(parameters))

    def _restrict(self, names: Sequence[str]) -> Operator:
        from hesslab.operators.blocks import Submatrix

        if self._network is None:
            return Submatrix(self, self._named, names)
        other = copy.copy(self)
        other._network = self._network.restrict(names)
        other._columns = other._rows = self._columns.subset(names)
        other._forget()
        return other

    def _forget(self) -> None:
        """Drop what was kept for the parameters of before; called on a restricted copy."""

    def block_diagonal(self, blocks: Sequence[str | Sequence[str]] | None = None) -> BlockDiagonal:
        """The matrix without the entries between different blocks of parameters.

        Args:
            blocks: one name, pattern or list of them per block, together every parameter once;
                None makes one block of each parameter tensor.

        Returns:
            An operator ``[P, P]`` whose ``blocks`` are restrictions of this one.

        Raises:
            ValueError: a parameter is in two blocks or in none.

        Cost: a product with each block, and each block costs its own passes over the data.
        """
        from hesslab.operators.blocks import BlockDiagonal

        return BlockDiagonal(self, blocks)

    def shift(self, s: float) -> Combination:
        """A + s I, for a square A and a number s."""
        from hesslab.operators.algebra import combine

        return combine([(1.0, self)], shift=s)

    def congruence(self, d: Tensor | Array | Mapping[str, Tensor]) -> Congruence:
        """diag(d) A diag(d): the symmetric matrix in the coordinates v / d.

        Args:
            d: ``[P]``, an array of that shape, or a dictionary of tensors shaped as the parameters,
                such as `filter_norms` and `adam_scaling` give.

        Returns:
            An operator of the same shape; its eigenvalues are those of diag(d)^2 A.

        Raises:
            ValueError: ``d`` does not fit the operator, or the matrix is not square.
            NotFinite: ``d`` holds NaN or infinite values.
        """
        from hesslab.operators.algebra import Congruence

        return Congruence(self, d)

    def __add__(self, other: MatrixLike | Array) -> Combination:
        return self._plus(other, 1.0, 1.0)

    def __radd__(self, other: Any) -> Operator:
        if isinstance(other, int) and other == 0:  # where sum([A, B]) starts
            return self
        return self._plus(other, 1.0, 1.0)

    def __sub__(self, other: MatrixLike | Array) -> Combination:
        return self._plus(other, 1.0, -1.0)

    def __rsub__(self, other: MatrixLike | Array) -> Combination:
        return self._plus(other, -1.0, 1.0)

    def _plus(self, other: Any, ours: float, theirs: float) -> Combination:
        from hesslab.operators.algebra import combine

        return combine([(ours, self), (theirs, other)])

    def __mul__(self, factor: float) -> Combination:
        from hesslab.operators.algebra import combine

        return combine([(factor, self)])

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Combination:
        from hesslab.operators.algebra import inverse

        return self * inverse(divisor)

    def __neg__(self) -> Combination:
        return self * -1.0
