"""Traces from the range of A times random vectors: Hutch++ and XTrace."""

from __future__ import annotations

import torch
from torch import Tensor

from hesslab.linalg.estimate import probe_directions
from hesslab.linalg.matrix import Counted


def hutch_plus_plus(multiply: Counted, products: int, distribution: str, seed: int) -> Tensor:
    r"""Exact on the range Q of A S, Hutchinson outside it.

    Args:
        multiply: the matrix.
        products: a third each for A S, for A Q and for probes.
        distribution: of random vectors.
        seed: of them.

    Returns:
        One number for each probe.

    Source: Meyer, Musco, Musco and Woodruff (2021), algorithm 1.
    """
    P, generator = multiply.size, torch.Generator().manual_seed(seed)
    m = min(products // 3, P)
    S = probe_directions(P, m, generator, distribution).to(multiply.device)
    Q = torch.linalg.qr(multiply(S)).Q
    Z = probe_directions(P, products - 2 * m, generator, distribution).to(multiply.device)
    Z = Z - Q @ (Q.T @ Z)
    inside = float((Q * multiply(Q)).sum())
    outside: Tensor = (Z * multiply(Z)).sum(0).cpu()
    return inside + outside


def xtrace(multiply: Counted, products: int, seed: int) -> Tensor:
    r"""Each of m vectors in turn is the probe, the others give the range.

    With Y = A W = Q R, the range without vector i is that of Q without the direction
    :math:`s_i \propto R^{-T} e_i`, so that one factorisation serves all.

    Args:
        multiply: the matrix.
        products: half for A W, half for A Q.
        seed: of the vectors W, uniform on the sphere.

    Returns:
        One number for each vector; they are not independent.

    Source: Epperly, Tropp and Webber (2024), XTrace, section 2 and supplement.
    """
    P, generator = multiply.size, torch.Generator().manual_seed(seed)
    m = min(products // 2, P)
    W = probe_directions(P, m, generator, "sphere").to(multiply.device)
    Y = multiply(W)
    Q, R = torch.linalg.qr(Y)
    AQ = multiply(Q)
    tiny = torch.finfo(R.dtype)
    small = R.diagonal().abs().clamp(min=max(tiny.eps * float(R.abs().max()), tiny.tiny))
    R.diagonal().copy_(torch.where(R.diagonal() < 0, -small, small))  # A may have rank below m
    S = torch.linalg.solve_triangular(R.T, torch.eye(m).to(R), upper=False)
    S = S / S.norm(dim=0)
    H = Q.T @ AQ
    X = Q.T @ W
    inside = H.trace() - (S * (H @ S)).sum(0)
    X = X - S * (S * X).sum(0)  # coordinates of each probe in its own range
    Z, AZ = W - Q @ X, Y - AQ @ X
    # The part outside lies on a sphere of P - m + 1 dimensions, whose radius is known.
    scale = (P - m + 1) / (Z * Z).sum(0).clamp(min=tiny.tiny)
    each: Tensor = inside + scale * (Z * AZ).sum(0)
    return each.cpu()
