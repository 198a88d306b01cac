"""How a gradient or a space lies to the eigenvectors of a matrix."""

from __future__ import annotations

import math

import numpy as np

from hesslab.metrics.score import ArrayLike
from hesslab.metrics.spectral import Array, Quantity, finite, vector_of


def gradient_fraction(gradient: ArrayLike, vectors: ArrayLike) -> Quantity:
    r"""The share of a gradient's squared length in a space, :math:`\|V^T g\|^2 / \|g\|^2`.

    Args:
        gradient: ``[P]``, of the loss on the data of the matrix.
        vectors: ``[P, k]`` orthonormal columns, such as those of `hesslab.linalg.Eigenpairs`.

    Returns:
        Between 0 and 1; its chance level is k / P.

    Raises:
        ValueError: shapes do not fit, the columns are not orthonormal, or the gradient is zero.
        NotFinite: a number is NaN or infinite.
    """
    g = vector_of(gradient, "gradient")
    V = _columns(vectors, "vectors", len(g))
    size = float(g @ g)
    if size == 0:
        raise ValueError("the gradient is zero; it lies in no space")
    return Quantity(float(np.square(V.T @ g).sum()) / size, chance=V.shape[1] / len(g))


def cosine_to_optimum(gradient: ArrayLike, parameters: ArrayLike, optimum: ArrayLike) -> Quantity:
    r"""The cosine between the gradient and the way from an optimum to here.

    :math:`g^T (\theta - \theta^*) / (\|g\| \|\theta - \theta^*\|)`. With the last iterate of the
    same run for the optimum it tends upwards near the end, since the run ended there.

    Args:
        gradient: ``[P]`` at the parameters.
        parameters: ``[P]``.
        optimum: ``[P]``.

    Returns:
        Between -1 and 1; 1 where a step against the gradient leads straight to the optimum. A
        random direction gives 0 with a deviation of :math:`1/\sqrt{P}`, the ``chance``.

    Raises:
        ValueError: shapes do not fit, or one of both vectors is zero.
        NotFinite: a number is NaN or infinite.
    """
    g = vector_of(gradient, "gradient")
    way = vector_of(parameters, "parameters", len(g)) - vector_of(optimum, "optimum", len(g))
    sizes = float(np.linalg.norm(g) * np.linalg.norm(way))
    if sizes == 0:
        raise ValueError("the gradient or the way to the optimum is zero; there is no angle")
    return Quantity(float(g @ way) / sizes, chance=1 / math.sqrt(len(g)))


def subspace_overlap(U: ArrayLike, V: ArrayLike) -> Quantity:
    r"""How much two spaces have in common, :math:`\|U^T V\|_F^2 / k` for the smaller dimension k.

    Args:
        U: ``[P, j]`` orthonormal columns.
        V: ``[P, k]`` orthonormal columns.

    Returns:
        Between 0 and 1; its chance level is the larger dimension divided by P.

    Raises:
        ValueError: shapes do not fit, or columns are not orthonormal.
        NotFinite: a number is NaN or infinite.
    """
    left = _columns(U, "U")
    right = _columns(V, "V", len(left))
    small, large = sorted((left.shape[1], right.shape[1]))
    overlap = float(np.square(left.T @ right).sum()) / small
    return Quantity(overlap, chance=large / len(left))


def _columns(array: ArrayLike, name: str, size: int | None = None) -> Array:
    found = finite(array, name)
    if found.ndim != 2 or (size is not None and len(found) != size) or not found.shape[1]:
        rows = "P" if size is None else str(size)
        raise ValueError(f"{name} has shape {found.shape}; expected [{rows}, k]")
    apart = float(np.abs(found.T @ found - np.eye(found.shape[1])).max())
    if apart > 1e-4:
        raise ValueError(
            f"the columns of {name} are not orthonormal: inner products are off by {apart:.1e}; "
            "take torch.linalg.qr of them"
        )
    return found
