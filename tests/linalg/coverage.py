"""How often 95 % intervals hold the truth, counted on matrices whose spectrum was chosen."""

import numpy as np
import scipy.stats
import torch

import hesslab as hl
from tests.linalg.matrices import Rotated

ENERGIES = {
    "L1": np.abs,
    "L1_negative": lambda x: np.maximum(-x, 0),
    "L1_positive": lambda x: np.maximum(x, 0),
    "L2": np.square,
    "L2_negative": lambda x: np.maximum(-x, 0) ** 2,
    "L2_positive": lambda x: np.maximum(x, 0) ** 2,
}


def of_densities(draw, runs):
    """Shares by quantity, and mean half-widths in units of Student's t over the probes alone."""
    hits, widths = {}, {}
    for i in range(runs):
        values = draw(np.random.default_rng([0, i]))
        density = hl.linalg.spectral_density(Rotated(values, seed=i), seed=i)
        scale = np.abs(values).max()
        found = {name: getattr(density.energies(per="total"), name) for name in ENERGIES}
        found["trace"] = density.integral(lambda x: x)
        found["exp"] = density.integral(lambda x, s=scale: (x / s).exp())
        functions = {**ENERGIES, "trace": lambda x: x, "exp": lambda x, s=scale: np.exp(x / s)}
        for name, estimate in found.items():
            function = functions[name]
            hits.setdefault(name, []).append(_holds(estimate, function(values).sum()))
            each = (density.weights * torch.as_tensor(function(density.nodes.numpy()))).sum(1)
            spread = (len(values) - len(density.eigenvalues)) * float(each.std())
            student = scipy.stats.t.ppf(0.975, len(each) - 1) / len(each) ** 0.5
            widths.setdefault(name, []).append((estimate.half_width, student * spread))
    share = {name: float(np.mean(hit)) for name, hit in hits.items()}
    return share, {name: float(np.divide(*np.sum(of, 0))) for name, of in widths.items()}


def of(estimate, exact, draw, runs):
    """The share of one estimator, called with a matrix and a seed."""
    hits = 0
    for i in range(runs):
        values = draw(np.random.default_rng([1, i]))
        hits += _holds(estimate(Rotated(values, seed=i), i), exact(values))
    return hits / runs


def _holds(estimate, exact):
    return bool(estimate.low <= exact <= estimate.high)
