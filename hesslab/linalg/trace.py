"""Traces, squared norms and diagonals, from products alone."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hesslab.linalg.complement import Complement
from hesslab.linalg.estimate import (
    Estimate,
    Per,
    check_per,
    mean_of,
    per_unit,
    probe_directions,
)
from hesslab.linalg.matrix import Counted, MatrixLike
from hesslab.linalg.sketches import hutch_plus_plus, xtrace
from hesslab.linalg.vectors import check_room, room

TraceMethod = Literal["deflated", "hutchinson", "hutch++", "xtrace"]
# XTrace's terms share their vectors: over synthetic spectra its errors are 1.2 to 1.5 times what
# their spread says.
DEPENDENT = 1.4
FAIR = 4  # shares of an average dimension, of which a Lanczos step must capture more than a probe
Distribution = Literal["rademacher", "sphere", "gaussian"]


def trace(
    A: MatrixLike | np.ndarray[Any, Any],
    *,
    method: TraceMethod = "deflated",
    products: int = 60,
    distribution: Distribution = "rademacher",
    seed: int = 0,
    memory_limit: int | None = None,
) -> Estimate:
    r"""The sum of the eigenvalues of a symmetric matrix.

    The trace of a function of the matrix, such as its log-determinant, is
    ``spectral_density(A).integral(torch.log)``.

    - "hutchinson": the mean of :math:`z^T A z` over random z; variance
      :math:`2 (\|A\|_F^2 - \sum_i a_{ii}^2)` a probe for entries of -1 and 1.
    - "deflated": exact in a Krylov space of two thirds of the products, Hutchinson outside. The
      largest eigenvalues, which hold most of the variance, are inside.
    - "hutch++": the same with the range of A times random vectors, and a third of the products
      each to find it, to project on it and for probes outside.
    - "xtrace": every vector but one gives the range, and that one is the probe; averaged over
      which. The terms are not independent; their spread is scaled to the errors measured.

    Args:
        A: ``[P, P]``: an operator, a tensor, a matrix of numpy or scipy, a `MatrixLike`.
        method: see above.
        products: with A, all told; at least 6.
        distribution: of the entries of random vectors; xtrace takes "sphere" in any case.
        seed: of all random vectors.
        memory_limit: bytes for what is kept; None means a quarter of the memory.

    Returns:
        `Estimate`, in units of the matrix.

    Raises:
        ValueError: an argument is out of range, or "deflated" finds that A is not symmetric.
        NotFinite: a product is NaN or infinite.
        MemoryError: the vectors do not fit.

    Source: Hutchinson (1990); Gambhir, Stathopoulos and Orginos (2017); Meyer, Musco, Musco and
    Woodruff (2021), Hutch++; Epperly, Tropp and Webber (2024), XTrace.
    """
    multiply = Counted(A)
    if products != int(products) or products < 6:
        raise ValueError(f"products={products} is out of range: expected at least 6")
    if method == "deflated":
        steps = min(2 * products // 3, multiply.size)
        options = (distribution, seed, memory_limit)
        samples = Complement(multiply, steps, products - steps, *options).fill().traces()
    elif method == "hutchinson":
        samples = _hutchinson(multiply, products, distribution, seed, memory_limit)
    elif method == "hutch++":
        check_room(products, multiply.size, multiply.device, memory_limit)
        samples = hutch_plus_plus(multiply, products, distribution, seed)
    elif method == "xtrace":
        check_room(3 * products, multiply.size, multiply.device, memory_limit)
        samples = xtrace(multiply, products, seed)
    else:
        raise ValueError(
            f'method={method!r}; expected "deflated", "hutchinson", "hutch++" or "xtrace"'
        )
    found = mean_of(samples, products=multiply.products, seed=seed)
    if method == "xtrace":
        width = DEPENDENT * found.half_width
        return replace(found, standard_error=DEPENDENT * found.standard_error, half_width=width)
    return found


def _hutchinson(
    multiply: Counted, products: int, distribution: str, seed: int, memory_limit: int | None
) -> Tensor:
    """One number a probe; as many probes at once as fit."""
    generator = torch.Generator().manual_seed(seed)
    check_room(3, multiply.size, multiply.device, memory_limit)
    fit = room(multiply.device, memory_limit) // (24 * multiply.size)
    samples = []
    for start in range(0, products, fit):
        count = min(fit, products - start)
        # One by one, so that the numbers drawn do not depend on the memory.
        draws = [probe_directions(multiply.size, 1, generator, distribution) for _ in range(count)]
        Z = torch.cat(draws, dim=1).to(multiply.device)
        samples.append((Z * multiply(Z)).sum(0).cpu())
    return torch.cat(samples)


def energy(
    A: MatrixLike | np.ndarray[Any, Any],
    *,
    rtol: float = 0.05,
    probes: int = 3,
    max_products: int = 500,
    distribution: Distribution = "rademacher",
    per: Per = "dimension",
    seed: int = 0,
    memory_limit: int | None = None,
) -> Estimate:
    r"""The mean square of a symmetric matrix's eigenvalues, :math:`\|A\|_F^2 / P`.

    Exact in a Krylov space, by random probes outside it; the space grows until the standard error
    is small. What a probe says outside a larger space needs no further product with it.

    Args:
        A: symmetric ``[P, P]``: an operator, a tensor, a matrix of numpy or scipy, a `MatrixLike`.
        rtol: the standard error wanted, relative to the estimate.
        probes: random vectors, at least 3.
        max_products: limit; the estimate's interval then says what was reached.
        distribution: of the entries of the probes.
        per: "total" gives the squared Frobenius norm.
        seed: of all random vectors.
        memory_limit: bytes for the basis; None means a quarter of the memory.

    Returns:
        `Estimate`, in squared units of the matrix.

    Raises:
        ValueError: an argument is out of range, or A is not symmetric.
        NotFinite: a product is NaN or infinite.
        MemoryError: the vectors do not fit.

    Cost: about 15 products for 5 % and 20 for 1 %, where ten eigenvalues hold most of it.
    """
    multiply = Counted(A)
    check_per(per)
    _check_energy(rtol, probes, max_products)
    P = multiply.size
    vectors = room(multiply.device, memory_limit) // (8 * P)
    steps = min(P, max_products - probes, max(vectors - 2 * probes - 1, 1))
    complement = Complement(multiply, steps, probes, distribution, seed, memory_limit)
    # The steps end by what Lanczos itself says; were it the probes' spread, they would end where
    # that is small by chance.
    squares, variance = complement.squares()
    means, captured, enough = [float(squares.mean())], [1.0], rtol
    while True:
        while complement.basis.size < steps and max(captured[-2:]) > enough:
            complement.extend()
            squares, variance = complement.squares()
            means.append(float(squares.mean()))
            captured.append(complement.captured() / means[-1] if means[-1] else 0.0)
        whole = complement.basis.is_whole  # then there is nothing outside
        found = mean_of(
            squares,
            products=multiply.products,
            seed=seed,
            bias=0.0 if whole else abs(means[-1] - means[-3:][0]),
            predicted=variance,
            counts=len(squares) - 1,
        )
        kept = (vectors - complement.basis.size - 1) // 2  # a probe and its product
        left = min(max_products - multiply.products, kept - found.probes)
        if not found.standard_error > rtol * found.estimate or left < 1:
            break
        if enough > max(rtol / 4, FAIR / P):
            enough /= 2
        else:
            excess = (found.standard_error / (rtol * found.estimate)) ** 2
            rest = P - complement.basis.size  # of the space, which then leaves no error
            within = min(found.probes * excess, max_products - multiply.products)
            if rest <= within and rest <= steps - complement.basis.size:
                enough = 0.0
            else:
                complement.draw(min(math.ceil(found.probes * min(excess, 8)), left))
                squares, variance = complement.squares()
                means = [float(squares.mean())]
    return per_unit(found, per, P)


def _check_energy(rtol: float, probes: int, max_products: int) -> None:
    if not 0 < rtol < 1:
        raise ValueError(f"rtol={rtol} is out of range: expected 0 < rtol < 1")
    if probes != int(probes) or probes < 3:
        raise ValueError(f"probes={probes} is out of range: expected at least 3")
    if max_products < probes + 1:
        raise ValueError(
            f"max_products={max_products} is out of range: {probes} probes take {probes} products, "
            f"and one Lanczos step one; expected at least {probes + 1}"
        )


def diagonal(
    A: MatrixLike | np.ndarray[Any, Any],
    *,
    products: int = 60,
    seed: int = 0,
    memory_limit: int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""The diagonal of a symmetric matrix, and a standard error of each entry.

    With V from half of the products by Lanczos, :math:`\mathrm{diag}(V V^T A)` is exact, and the
    mean of :math:`z \odot (I - V V^T) A z` over vectors z of -1 and 1 gives the rest.

    Args:
        A: symmetric ``[P, P]``: an operator, a tensor, a matrix of numpy or scipy, a `MatrixLike`.
        products: with A, all told; at least 6.
        seed: of all random vectors.
        memory_limit: bytes for the basis; None means a quarter of the memory.

    Returns:
        The diagonal ``[P]`` and its standard error ``[P]``, float64.

    Raises:
        ValueError: an argument is out of range, or A is not symmetric.
        NotFinite: a product is NaN or infinite.
        MemoryError: the vectors do not fit.

    Source: Bekas, Kokiopoulou and Saad (2007), with deflation from one side.
    """
    multiply = Counted(A)
    if products != int(products) or products < 6:
        raise ValueError(f"products={products} is out of range: expected at least 6")
    steps = min(products // 2, multiply.size)
    options = ("rademacher", seed, memory_limit)
    exact, samples = Complement(multiply, steps, products - steps, *options).fill().diagonals()
    error = samples.std(1) / samples.shape[1] ** 0.5
    return (exact + samples.mean(1)).to(multiply.device), error.to(multiply.device)
