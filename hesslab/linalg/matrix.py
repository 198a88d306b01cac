"""What the estimators ask of a matrix, and the checks that they share."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from hesslab.errors import NotFinite


class MatrixLike(Protocol):
    """Anything with a shape ``(P, P)``, a dtype, a device and ``A @ v`` for tensors ``[P]``."""

    @property
    def shape(self) -> Any:
        """``(P, P)``."""

    @property
    def dtype(self) -> torch.dtype:
        """``torch.float32`` or ``torch.float64``."""

    @property
    def device(self) -> torch.device:
        """Where vectors live."""

    def __matmul__(self, v: Any, /) -> Any:
        """``[P] -> [P]``, ``[P, K] -> [P, K]``."""


class Counted:
    """Products in the matrix's own precision, handed on in float64, counted and checked.

    Attributes:
        matrix: what multiplies.
        size: P.
        products: made so far; a block counts once for each column.
        rounding: an asymmetry, relative to the norm, that may be one of rounding.
    """

    def __init__(self, A: Any) -> None:
        if not all(hasattr(A, name) for name in ("shape", "dtype", "__matmul__")):
            raise TypeError(
                f"A is a {type(A).__name__}; expected an operator, a tensor, an array, or anything "
                "with shape, dtype, device and @"
            )
        if isinstance(A, np.ndarray):
            A = torch.from_numpy(A)
        elif not isinstance(A.dtype, torch.dtype):
            A = _OfNumpy(A)
        if len(A.shape) != 2 or A.shape[0] != A.shape[1]:
            raise ValueError(
                f"A has shape {tuple(A.shape)}; eigenpairs need a square symmetric matrix"
            )
        if A.shape[0] == 0:
            raise ValueError("A has no rows")
        if A.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"A is {A.dtype}; expected a real floating-point matrix, 32 or 64 bit")
        self.matrix = A
        self.size = int(A.shape[0])
        self.dtype, self.device = A.dtype, A.device
        self.rounding = torch.finfo(A.dtype).eps ** 0.5  # an asymmetry that may be one of rounding
        self.products = 0

    def __call__(self, v: Tensor) -> Tensor:
        """``A @ v`` for a float64 ``[P]`` or ``[P, K]``, in float64."""
        product: Tensor = (self.matrix @ v.to(self.device, self.dtype)).detach().double()
        self.products += 1 if v.ndim == 1 else v.shape[1]
        if not all_finite(product):
            raise NotFinite(f"product {self.products} with A is NaN or infinite")
        return product


class _OfNumpy:
    """A matrix that multiplies arrays, such as scipy's sparse ones and linear operators."""

    device = torch.device("cpu")

    def __init__(self, A: Any) -> None:
        self.shape = A.shape
        self.dtype = torch.from_numpy(np.empty(0, A.dtype)).dtype
        self._matrix = A

    def __matmul__(self, v: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(self._matrix @ v.numpy()))


def all_finite(tensor: Tensor) -> bool:
    """Whether no entry is NaN or infinite. Cost: as a rule that of a sum."""
    # A sum of finite numbers may overflow, but no sum hides a NaN or an infinity.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def asymmetry(u: Tensor, Au: Tensor, v: Tensor, Av: Tensor) -> float:
    r"""The size of :math:`u^T A v - v^T A u` relative to the norms; rounding if A is symmetric."""
    scale = max(float(u.norm() * Av.norm()), float(v.norm() * Au.norm()))
    return float((u @ Av - v @ Au).abs()) / scale if scale else 0.0
