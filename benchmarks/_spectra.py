"""The matrices whose spectra are estimated: chosen ones of any size, and a network's Hessian."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
import scipy.sparse.linalg
import torch
from _candidates import Absent
from _peers import peer
from torch import Tensor, nn

import hesslab as hl

Multiply = Callable[[Tensor], Tensor]  # [P] -> [P], float32
MOST = 1_000  # products, after which a solver is stopped
BATCH = 64  # images: on a processor peers are faster in batches of 64 than of 512


class TooMany(Exception):
    """A solver has taken more products than anybody would wait for."""


class Counter:
    """A symmetric matrix that counts its products: what every library here can work on."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(
        self, size: int, multiply: Multiply, problem: Problem | None = None, most: int = MOST
    ) -> None:
        self.shape = (size, size)
        self.products, self.most = 0, most
        self.problem = problem
        self._multiply = multiply

    def __matmul__(self, v: Tensor) -> Tensor:
        if v.ndim == 2:
            return torch.stack([self @ column for column in v.T], dim=1)
        self.count(1)
        return self._multiply(v)

    def count(self, products: int) -> None:
        """So many further products."""
        self.products += products
        if self.products > self.most:
            raise TooMany(f"more than {self.most} products")

    def to_scipy(self) -> scipy.sparse.linalg.LinearOperator:
        """For ARPACK."""

        def multiply(v: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            return (self @ torch.from_numpy(v.ravel())).numpy()

        return scipy.sparse.linalg.LinearOperator(self.shape, matvec=multiply, dtype=np.float32)


@dataclass(frozen=True)
class Problem:
    """A matrix and what is known of it.

    Attributes:
        name: what is printed.
        size: P.
        product: builds the product of a library with this matrix.
        eigenvalues: descending; all of them, or as many from both ends as are needed.
        L1, L2: per dimension, or None where nothing tells.
    """

    name: str
    size: int
    product: Callable[[str], Multiply]
    eigenvalues: Tensor
    L1: float | None = None
    L2: float | None = None

    @functools.cached_property
    def fast(self) -> Multiply:
        """The product that costs least: where only their number counts, it is taken."""
        return self.product("hesslab")

    @functools.cached_property
    def dense(self) -> Tensor:
        """``[P, P]``, for who needs it; its products are not counted."""
        return torch.stack([self.fast(column) for column in torch.eye(self.size)])

    def counter(self, multiply: Multiply | None = None, most: int = MOST) -> Counter:
        """This matrix from now on, multiplied in this way."""
        return Counter(self.size, multiply or self.fast, self, most)


def chosen(size: int) -> Problem:
    """Ten outliers, two negative ones, a shoulder of 60, a heavy-tailed bulk around zero.

    The eigenvectors are cosines with random signs: none has a large entry.
    """
    random = np.random.default_rng(0)
    bulk = 5e-5 * random.standard_normal(size - 72) * np.exp(random.standard_normal(size - 72))
    largest, shoulder = np.geomspace(10, 1, 10), np.geomspace(0.3, 0.01, 60)
    values = np.concatenate([largest, [-0.2, -0.1], shoulder, bulk])
    place = random.permutation(values).astype(np.float32)
    signs = (2 * random.integers(0, 2, size) - 1).astype(np.float32)

    def multiply(v: Tensor) -> Tensor:
        u = scipy.fft.dct(signs * v.numpy(), norm="ortho")
        return torch.from_numpy(signs * scipy.fft.idct(place * u, norm="ortho"))

    ordered = torch.from_numpy(np.sort(values)[::-1].copy())
    L1, L2 = float(np.abs(values).mean()), float((values**2).mean())
    return Problem(f"chosen, P = {size}", size, lambda library: multiply, ordered, L1, L2)


def network(examples: int) -> Problem:
    """The Hessian of ResNet-20 with published weights on images of CIFAR-10 it was trained on."""
    model = hl.models.pretrained("cifar10-resnet20").eval()
    images, _ = hl.data.cifar10(normalisation=model.normalisation)
    part = images.subset(examples, seed=0)
    size = sum(p.numel() for p in model.parameters())
    build = functools.partial(_product, model=model, x=part.x, y=part.y)
    # ARPACK's answers to a far smaller tolerance; products are compared by products.py.
    A = Counter(size, build("hesslab")).to_scipy()
    ends = scipy.sparse.linalg.eigsh(
        A, 24, which="BE", tol=1e-5, ncv=72, v0=_start(size), return_eigenvectors=False
    )
    known = torch.from_numpy(np.sort(ends)[::-1].copy())
    return Problem(f"ResNet-20 on {examples} images", size, build, known)


def _start(size: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal(size).astype(np.float32)


def _product(library: str, *, model: nn.Module, x: Tensor, y: Tensor) -> Multiply:
    """A library's own product with the Hessian, in its fastest form."""
    loss, batches = nn.CrossEntropyLoss(), list(zip(x.split(BATCH), y.split(BATCH), strict=True))
    model = copy.deepcopy(model)
    parameters = list(model.parameters())
    sizes = [p.numel() for p in parameters]

    def split(v: Tensor) -> list[Tensor]:
        return [u.view_as(p) for u, p in zip(v.split(sizes), parameters, strict=True)]

    def flat(tensors: Any) -> Tensor:
        return torch.cat([t.detach().flatten() for t in tensors])

    if library == "hesslab":
        H = hl.Hessian(model, loss, (x, y))
        return lambda v: H @ v
    if library == "torch":
        point = {name: p.detach() for name, p in model.named_parameters()}

        def on(x: Tensor, y: Tensor, v: Tensor) -> Tensor:
            call = functools.partial(torch.func.functional_call, model)
            gradient = torch.func.grad(lambda p: loss(call(p, (x,)), y))
            direction = dict(zip(point, split(v), strict=True))
            product = flat(torch.func.jvp(gradient, (point,), (direction,))[1].values())
            return product * (len(x) / n)

        n = len(x)
        return lambda v: sum((on(x, y, v) for x, y in batches), torch.zeros(()))
    if library == "curvlinops":
        build = peer("curvlinops").HessianLinearOperator
        # Its check at construction, which costs two products, is left out; ours is not.
        A = build(model, loss, parameters, batches, check_deterministic=False)
        return lambda v: A @ v
    if library == "hessian-eigenthings":
        supervised = peer("hessian_eigenthings.loss_fns.standard").supervised_loss(loss)
        operators = peer("hessian_eigenthings.operators.hessian")
        return operators.HessianOperator(model, batches, supervised).matvec
    if library == "PyHessian":
        with warnings.catch_warnings():  # its graph and its gradients hold each other, as it says
            warnings.simplefilter("ignore", UserWarning)
            kept = peer("pyhessian").hessian(model, loss, data=(x, y), cuda=False)
        multiply = peer("pyhessian.utils").hessian_vector_product
        return lambda v: flat(multiply(kept.gradsH, kept.params, split(v)))
    raise Absent(f"{library} has no product here")
