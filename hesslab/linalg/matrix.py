"""What the estimators ask of a matrix, and the checks that they share."""

from __future__ import annotations

from typing import Any, Protocol

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
    """Products in the matrix's own precision, handed on in float64, counted and checked."""

    def __init__(self, A: MatrixLike) -> None:
        if len(A.shape) != 2 or A.shape[0] != A.shape[1]:
            raise ValueError(
                f"A has shape {tuple(A.shape)}; eigenpairs need a square symmetric matrix"
            )
        if A.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"A is {A.dtype}; expected a real floating-point matrix, 32 or 64 bit")
        self._A = A
        self.size = int(A.shape[0])
        self.products = 0

    def __call__(self, v: Tensor) -> Tensor:
        """``A @ v`` for a float64 ``[P]`` or ``[P, K]``, in float64."""
        product: Tensor = (self._A @ v.to(self._A.dtype)).double()
        self.products += 1 if v.ndim == 1 else v.shape[1]
        if not all_finite(product):
            raise NotFinite(f"product {self.products} with A is NaN or infinite")
        return product

    def random_unit(self, generator: torch.Generator) -> Tensor:
        """A random direction ``[P]`` in float64, the same on every device."""
        v = torch.randn(self.size, generator=generator, dtype=torch.float64)
        unit: Tensor = (v / v.norm()).to(self._A.device)
        return unit


def all_finite(tensor: Tensor) -> bool:
    """Whether no entry is NaN or infinite. Cost: as a rule that of a sum."""
    # A sum of finite numbers may overflow, but no sum hides a NaN or an infinity.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def asymmetry(u: Tensor, Au: Tensor, v: Tensor, Av: Tensor) -> float:
    r"""The size of :math:`u^T A v - v^T A u` relative to the norms; rounding if A is symmetric."""
    scale = max(float(u.norm() * Av.norm()), float(v.norm() * Au.norm()))
    return float((u @ Av - v @ Au).abs()) / scale if scale else 0.0
