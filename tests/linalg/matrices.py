"""Matrices whose spectrum was chosen."""

import signal

import numpy as np
import scipy.fft
import torch


def symmetric(values, seed=0):
    """A dense float64 matrix with these eigenvalues and random eigenvectors."""
    values = torch.as_tensor(values, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    n = len(values)
    Q = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
    A = (Q * values) @ Q.T
    return (A + A.T) / 2


class Rotated:
    """A matrix with these eigenvalues, whose eigenvectors spread over all coordinates.

    They are cosines with random signs, so that a product costs two fast transforms.
    """

    def __init__(self, values, seed=0, dtype=torch.float64):
        self.values = np.asarray(values, dtype=np.float64)
        self.shape = (len(self.values), len(self.values))
        self.dtype, self.device = dtype, torch.device("cpu")
        self.signs = np.random.default_rng(seed).choice([-1.0, 1.0], len(self.values))
        self.products = 0

    def __matmul__(self, v):
        x = v.double().numpy()
        self.products += 1 if x.ndim == 1 else x.shape[1]
        wide = (slice(None),) + (None,) * (x.ndim - 1)
        signs, values = self.signs[wide], self.values[wide]
        y = values * scipy.fft.dct(signs * x, axis=0, norm="ortho")
        return torch.from_numpy(signs * scipy.fft.idct(y, axis=0, norm="ortho")).to(self.dtype)


class Diagonal:
    """A matrix whose eigenvectors stand on one coordinate each."""

    def __init__(self, values):
        self.values = torch.as_tensor(values, dtype=torch.float64)
        self.shape = (len(self.values), len(self.values))
        self.dtype, self.device = torch.float64, torch.device("cpu")

    def __matmul__(self, v):
        return self.values * v if v.ndim == 1 else self.values[:, None] * v


class Failing:
    """A matrix that raises at one of its products, or gets a Ctrl-C where the error is None."""

    def __init__(self, A, at, error):
        self.A, self.shape, self.dtype, self.device = A, A.shape, A.dtype, A.device
        self.at, self.error, self.products = at, error, 0

    def __matmul__(self, v):
        self.products += 1 if v.ndim == 1 else v.shape[1]
        if self.error is None and self.products >= self.at:
            self.at = float("inf")
            signal.raise_signal(signal.SIGINT)
        elif self.products >= self.at:
            raise self.error
        return self.A @ v


def toy(P=20_000, seed=0):
    """Ten outliers from 10 to 1, two negative ones, a shoulder of 60 and a narrow bulk."""
    rng = np.random.default_rng(seed)
    bulk = 5e-5 * rng.normal(size=P - 72) * np.exp(rng.normal(size=P - 72))
    outliers, shoulder = np.geomspace(10, 1, 10), np.geomspace(0.3, 0.01, 60)
    return np.concatenate([outliers, [-0.2, -0.1], shoulder, bulk])


def like_a_network(rng, P=2000):
    """Random outliers, a few negative ones, a shoulder and a bulk of random width and tails."""
    top, k = 10 ** rng.uniform(0, 1.5), rng.integers(3, 16)
    outliers = np.geomspace(top, top * 10 ** -rng.uniform(0.3, 1.2), k)
    outliers = outliers * np.exp(0.1 * rng.normal(size=k))
    negative = -top * 10 ** rng.uniform(-2.5, -0.5, rng.integers(0, 5))
    shape = np.geomspace(0.5, 10 ** -rng.uniform(1.5, 3), rng.integers(10, 100))
    shoulder = outliers.min() * shape
    shoulder = shoulder * np.where(rng.random(len(shoulder)) < rng.uniform(0, 0.3), -1, 1)
    left = max(P - k - len(negative) - len(shoulder), 0)
    width, tails = top * 10 ** rng.uniform(-6, -3), rng.uniform(0, 1.5)
    bulk = width * rng.normal(size=left) * np.exp(tails * rng.normal(size=left))
    return np.concatenate([outliers, negative, shoulder, bulk])[:P]


def without_outliers(rng, P=2000):
    """Uniform, a power law of both signs, ten decades, or a normal one with a kernel."""
    kind = rng.integers(4)
    if kind == 0:
        return np.linspace(-rng.random(), 1, P)
    if kind == 1:
        signs = np.where(rng.random(P) < 0.3 * rng.random(), -1, 1)
        return (1.0 + np.arange(P)) ** -rng.uniform(0.5, 2) * signs
    if kind == 2:
        return 10 ** (-10 * np.arange(P) / P)
    return np.concatenate([rng.normal(size=P - P // 4), np.zeros(P // 4)])
