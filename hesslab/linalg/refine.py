"""Eigenvectors by descent on their residual: a teaching device, with its price."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from hesslab.linalg.eigsh import Eigenpairs, fix_signs
from hesslab.linalg.matrix import Counted, MatrixLike


def refine_eigenvector(
    A: MatrixLike | np.ndarray[Any, Any],
    vector: Tensor,
    *,
    rtol: float = 1e-3,
    max_products: int = 1000,
) -> Eigenpairs:
    r"""Improve an approximate eigenvector by steepest descent on :math:`\|A x - \lambda x\|^2`.

    On the unit sphere, with :math:`\lambda = x^T A x` anew at each step and the best step length
    along the projected gradient :math:`2 (A - \lambda)^2 x`. Each step costs two products, and the
    condition number is squared: `eigsh` with ``start=vector`` needs far fewer products and finds
    the extreme eigenvalue rather than the nearest one. It is here to be compared.

    Args:
        A: symmetric ``[P, P]``: an operator, a tensor, a matrix of numpy or scipy, a `MatrixLike`.
        vector: ``[P]``, where to begin; not zero.
        rtol: residual that counts as converged, relative to :math:`\|A x\|`.
        max_products: limit.

    Returns:
        One pair; ``converged`` says whether the residual was reached.

    Raises:
        ValueError: an argument is out of range.
        NotFinite: a product is NaN or infinite.

    Cost: two products a step.
    """
    multiply = Counted(A)
    _check_request(vector, multiply.size, rtol, max_products)
    start = time.perf_counter()
    x = vector.detach().to(multiply.device, torch.float64)
    x = x / x.norm()
    Ax = multiply(x)
    while True:
        value = float(x @ Ax)
        r = Ax - value * x
        residual, scale = float(r.norm()), float(Ax.norm())
        if residual <= rtol * scale or multiply.products + 2 > max_products:
            break
        descent = -(multiply(r) - value * r)
        descent = descent - x * (x @ descent)
        size = float(descent.norm())
        if size == 0:
            break
        d = descent / size
        Ad = multiply(d)
        angle = _best_angle(x, d, Ax, Ad)
        x, Ax = (
            np.cos(angle) * x + np.sin(angle) * d,
            np.cos(angle) * Ax + np.sin(angle) * Ad,
        )
    return Eigenpairs(
        values=torch.tensor([value], dtype=torch.float64, device=multiply.device),
        vectors=fix_signs(x.unsqueeze(1)).to(multiply.dtype),
        residuals=torch.tensor([residual], dtype=torch.float64, device=multiply.device),
        converged=torch.tensor([residual <= rtol * scale], device=multiply.device),
        products=multiply.products,
        seconds=time.perf_counter() - start,
        seed=0,
    )


def _best_angle(x: Tensor, d: Tensor, Ax: Tensor, Ad: Tensor) -> float:
    """How far to turn x towards d for the smallest residual, from inner products alone."""
    squares = torch.stack([Ax, Ad]) @ torch.stack([Ax, Ad]).T
    values = torch.stack([x, d]) @ torch.stack([Ax, Ad]).T
    AA, B = squares.cpu().numpy(), values.cpu().numpy()

    def residual(angle: float) -> float:
        c = np.array([np.cos(angle), np.sin(angle)])
        return float(c @ AA @ c - (c @ B @ c) ** 2)

    coarse = np.linspace(-np.pi / 2, np.pi / 2, 181)
    near = coarse[int(np.argmin([residual(a) for a in coarse]))]
    step = coarse[1] - coarse[0]
    found = scipy.optimize.minimize_scalar(
        residual, bounds=(near - step, near + step), method="bounded", options={"xatol": 1e-12}
    )
    return float(found.x)


def _check_request(vector: Tensor, P: int, rtol: float, max_products: int) -> None:
    if vector.shape != (P,) or not 0 < float(vector.double().norm()) < float("inf"):
        raise ValueError(
            f"vector has shape {tuple(vector.shape)}, or is zero or not finite; expected [{P}]"
        )
    if not 0 < rtol < 1:
        raise ValueError(f"rtol={rtol} is out of range: expected 0 < rtol < 1")
    if max_products < 1:
        raise ValueError(f"max_products={max_products} is out of range: expected at least 1")
