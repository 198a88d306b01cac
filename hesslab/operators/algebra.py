"""Sums, scalings, shifts, congruences and transposes of matrices that only multiply."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from hesslab.errors import NotFinite
from hesslab.linalg.matrix import MatrixLike, asymmetry
from hesslab.operators.base import Array, Operator
from hesslab.operators.space import Space

Terms: TypeAlias = Sequence[tuple[float, Operator | MatrixLike]]


class Combination(Operator):
    r"""The sum :math:`\sum_i c_i A_i + s I`, multiplied term by term and added in float64.

    Args:
        terms: the numbers and the matrices, of one shape, dtype and device.
        shift: s.
        columns: what a vector counts.
        rows: what a product counts; None where every term is symmetric.

    Cost: one product with each term.
    """

    def __init__(self, terms: Terms, shift: float, columns: Space, rows: Space | None) -> None:
        super().__init__(columns, rows)
        self.terms = tuple(terms)
        self.added = shift

    def __repr__(self) -> str:
        parts = [f"{factor:g} * {matrix!r}" for factor, matrix in self.terms]
        return " + ".join(parts + ([f"{self.added:g} * I"] if self.added else []))

    def _matmat(self, V: Tensor) -> Tensor:
        return self._sum(V, [(factor, matrix) for factor, matrix in self.terms])

    def _rmatmat(self, U: Tensor) -> Tensor:
        return self._sum(U, [(factor, transposed(matrix)) for factor, matrix in self.terms])

    def _sum(self, V: Tensor, terms: Terms) -> Tensor:
        total = self.added * V.double() if self.added else V.new_zeros((), dtype=torch.float64)
        for factor, matrix in terms:
            part = factor * (matrix @ V).detach().double()
            if not bool(part.isfinite().all()):
                raise NotFinite(f"the product with {_brief(matrix)} is NaN or infinite")
            total = total + part
        return total.to(self.dtype)

    @property
    def gradient(self) -> Callable[[], Tensor]:
        """The same combination of the terms' gradients, ``[P]``, where every term has one."""
        if self.added or not all(hasattr(matrix, "gradient") for _, matrix in self.terms):
            raise AttributeError(
                "this sum has no gradient: a shift or one of its terms is no matrix of a loss"
            )
        return self._gradient

    def _gradient(self) -> Tensor:
        terms: Any = self.terms
        gradients = [factor * matrix.gradient().double() for factor, matrix in terms]
        return torch.stack(gradients).sum(0).to(self.dtype)

    def _restrict(self, names: Sequence[str]) -> Operator:
        from hesslab.operators.blocks import submatrix

        terms = [(factor, submatrix(matrix, self._named, names)) for factor, matrix in self.terms]
        return combine(terms, shift=self.added)


class Congruence(Operator):
    r"""diag(d) A diag(d): symmetric where A is, with the eigenvalues of diag(d)^2 A.

    In the coordinates :math:`\eta` with :math:`\theta = \mathrm{diag}(d)\, \eta` the Hessian of a
    loss is this matrix, and its gradient is :math:`d \odot g`. Args and cost as for
    `Operator.congruence`: one product with A.
    """

    def __init__(self, matrix: Operator, d: Tensor | Array | Mapping[str, Tensor]) -> None:
        if matrix.shape[0] != matrix.shape[1]:
            raise ValueError(
                f"the operator has shape {matrix.shape}; diag(d) A diag(d) needs a square one"
            )
        super().__init__(matrix._columns, None if matrix._symmetric else matrix._rows)
        self.matrix = matrix
        self.d = self._vector(d)

    def __repr__(self) -> str:
        return f"diag(d) ({self.matrix!r}) diag(d)"

    def _vector(self, d: Any) -> Tensor:
        if isinstance(d, Mapping):
            d = self._columns.join(d)
        vector = torch.as_tensor(d).detach().to(self.device, self.dtype)
        if vector.ndim != 1:
            raise ValueError(
                f"d has {vector.ndim} dimensions; expected the diagonal alone, [{self.shape[0]}]"
            )
        self._columns.check(vector)
        return vector.clone()

    def _matmat(self, V: Tensor) -> Tensor:
        d = self.d.unsqueeze(1)
        return d * (self.matrix @ (d * V))

    def _rmatmat(self, U: Tensor) -> Tensor:
        d = self.d.unsqueeze(1)
        return d * (self.matrix.T @ (d * U))

    @property
    def gradient(self) -> Callable[[], Tensor]:
        """The gradient in the new coordinates, d times that of the matrix, where it has one."""
        inner: Callable[[], Tensor] = self.matrix.gradient  # type: ignore[attr-defined]
        return lambda: self.d * inner()

    def _restrict(self, names: Sequence[str]) -> Operator:
        rows = self._columns.rows(names)
        return Congruence(self.matrix._restrict(names), self.d[rows])


class Transposed(Operator):
    """The transpose of a matrix that is not symmetric."""

    def __init__(self, matrix: Operator) -> None:
        super().__init__(matrix._rows, matrix._columns)
        self._matrix = matrix

    def __repr__(self) -> str:
        return f"({self._matrix!r}).T"

    def _matmat(self, V: Tensor) -> Tensor:
        return self._matrix._rmatmat(V)

    def _rmatmat(self, U: Tensor) -> Tensor:
        return self._matrix._matmat(U)

    def _transpose(self) -> Operator:
        return self._matrix

    def _restrict(self, names: Sequence[str]) -> Operator:
        return self._matrix._restrict(names).T


def combine(terms: Sequence[tuple[Any, Any]], *, shift: Any = 0.0) -> Combination:
    """The sum of factors times matrices, plus a number times the identity.

    Args:
        terms: pairs of a number and a matrix; one at least is an `Operator`.
        shift: times the identity.

    Returns:
        One flat sum: sums among the terms are taken apart.

    Raises:
        ValueError: the terms disagree in shape, dtype, device or parameters.
        TypeError: a term is no matrix, or a factor no real number.
    """
    shift = number(shift)
    model = next(matrix for _, matrix in terms if isinstance(matrix, Operator))
    if shift and model.shape[0] != model.shape[1]:
        raise ValueError(f"the operator has shape {model.shape}; a shift needs a square one")
    flat: list[tuple[float, Any]] = []
    for factor, matrix in terms:
        factor, matrix = number(factor), _as_matrix(matrix, model)
        if isinstance(matrix, Combination):
            flat += [(factor * inner, term) for inner, term in matrix.terms]
            shift += factor * matrix.added
        else:
            flat.append((factor, matrix))
    symmetric = all(isinstance(matrix, Operator) and matrix._symmetric for _, matrix in flat)
    return Combination(flat, shift, model._columns, None if symmetric else model._rows)


def number(value: Any) -> float:
    """A finite real number as a float, from Python, numpy or a tensor of no dimension."""
    plain = value.item() if isinstance(value, Tensor) and value.ndim == 0 else value
    if not isinstance(plain, Real):
        raise TypeError(
            f"an operator is multiplied by or shifted by a {type(value).__name__}; expected a real "
            "number (use A @ v for a product with a vector)"
        )
    if not math.isfinite(plain):
        raise NotFinite(f"an operator is multiplied by or shifted by {plain}; expected a number")
    return float(plain)


def inverse(value: Any) -> float:
    """One over a number."""
    divisor = number(value)
    if divisor == 0:
        raise ValueError("the operator is divided by 0; expected another number")
    return 1 / divisor


def transposed(matrix: Any) -> Any:
    """The transpose of an operator or a tensor; what has none must be symmetric, and is checked."""
    if hasattr(matrix, "T"):
        return matrix.T
    generator = torch.Generator().manual_seed(0)
    n = int(matrix.shape[0])
    u, v = torch.randn(2, n, generator=generator).to(matrix.device, matrix.dtype)
    apart = asymmetry(u, matrix @ u, v, matrix @ v)
    if apart > torch.finfo(matrix.dtype).eps ** 0.5:
        raise ValueError(
            f"{_brief(matrix)} is not symmetric (u.Av - v.Au is {apart:.1e} of the norms) and has "
            "no .T, which products with the transpose of the sum need; give it one"
        )
    return matrix


def _as_matrix(matrix: Any, model: Operator) -> Any:
    """A term of a sum with an operator, held to its shape, dtype, device and parameters."""
    if isinstance(matrix, np.ndarray):
        matrix = torch.from_numpy(matrix).to(model.device, model.dtype)
    wanted = ("shape", "dtype", "device", "__matmul__")
    if lacks := [name for name in wanted if not hasattr(matrix, name)]:
        hint = "; use A.shift(s) for A + s I" if isinstance(matrix, Real) else ""
        raise TypeError(
            f"an operator is added to a {type(matrix).__name__}, which has no {', '.join(lacks)}; "
            f"expected an operator, a tensor, or an object with shape, dtype, device and @{hint}"
        )
    if tuple(matrix.shape) != model.shape:
        raise ValueError(
            f"a matrix of shape {tuple(matrix.shape)} is added to an operator of shape "
            f"{model.shape}; expected equal shapes"
        )
    if matrix.dtype != model.dtype or torch.device(matrix.device) != model.device:
        raise ValueError(
            f"a matrix of {matrix.dtype} on {matrix.device} is added to an operator of "
            f"{model.dtype} on {model.device}; convert one of them"
        )
    if isinstance(matrix, Tensor):
        return matrix.detach()
    if isinstance(matrix, Operator):
        _check_names(matrix, model)
    return matrix


def _check_names(one: Operator, two: Operator) -> None:
    for ours, theirs in ((one._rows, two._rows), (one._columns, two._columns)):
        if ours.shapes != theirs.shapes or list(ours.shapes) != list(theirs.shapes):
            raise ValueError(
                f"an operator on {ours!r} is added to one on {theirs!r}; their entries count "
                "different parameters: build both with the same parameters="
            )


def _brief(matrix: Any) -> str:
    return f"the {type(matrix).__name__} {tuple(matrix.shape)}"
