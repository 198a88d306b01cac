"""Traces, energies and diagonals of matrices whose spectrum was chosen."""

import numpy as np
import pytest
import torch

import hesslab as hl
from hesslab.errors import NotFinite
from tests.linalg import coverage
from tests.linalg.matrices import (
    Diagonal,
    Rotated,
    like_a_network,
    symmetric,
    toy,
    without_outliers,
)

METHODS = ["deflated", "hutchinson", "hutch++", "xtrace"]


def netlike(P=500, seed=0):
    return like_a_network(np.random.default_rng(seed), P)


@pytest.mark.parametrize("method", METHODS)
def test_the_mean_over_seeds_is_the_trace(method):
    values = netlike()
    A = Rotated(values)
    found = [hl.linalg.trace(A, method=method, products=30, seed=i) for i in range(300)]
    estimates = np.array([e.estimate for e in found])
    error = estimates.std() / np.sqrt(300)
    assert abs(estimates.mean() - values.sum()) < 4 * error
    assert all(e.products == 30 for e in found)
    # the reported error is the spread over seeds; XTrace's is scaled to what it is in general
    reported = np.sqrt(np.mean([e.standard_error**2 for e in found]))
    assert estimates.std() / reported == pytest.approx(1, abs=0.25 if method != "xtrace" else 0.5)


@pytest.mark.parametrize("method", METHODS)
def test_exact_where_the_rank_is_small(method):
    values = np.concatenate([[5.0, 3.0, -2.0, 1.0], np.zeros(196)])
    found = hl.linalg.trace(symmetric(values), method=method, products=36)
    if method == "hutchinson":
        assert abs(found.estimate - 7) < 5 * found.standard_error
    else:
        assert found.estimate == pytest.approx(7, abs=1e-9)
        assert found.half_width < 1e-6


def test_deflation_is_worth_its_products():
    A = Rotated(toy(4000))
    spread = {
        method: np.std([float(hl.linalg.trace(A, method=method, seed=i)) for i in range(30)])
        for method in METHODS
    }
    for method in ("deflated", "hutch++", "xtrace"):
        assert spread[method] < spread["hutchinson"] / 8


def test_entries_of_plus_and_minus_one_see_a_diagonal_exactly():
    values = netlike()
    found = hl.linalg.trace(Diagonal(values), method="hutchinson", products=6)
    assert found.estimate == pytest.approx(values.sum(), rel=1e-12)
    spread = hl.linalg.trace(
        Diagonal(values), method="hutchinson", products=6, distribution="gaussian"
    )
    assert spread.standard_error > 0.01 * abs(values.sum())


@pytest.mark.slow
@pytest.mark.parametrize("draw", [like_a_network, without_outliers])
@pytest.mark.parametrize("method", METHODS)
def test_intervals_of_1000_traces(method, draw):
    share = coverage.of(
        lambda A, i: hl.linalg.trace(A, method=method, seed=i), lambda x: x.sum(), draw, 1000
    )
    assert share >= 0.93, share


@pytest.mark.slow
@pytest.mark.parametrize("draw", [like_a_network, without_outliers])
def test_intervals_of_1000_energies(draw):
    share = coverage.of(
        lambda A, i: hl.linalg.energy(A, seed=i), lambda x: np.square(x).mean(), draw, 1000
    )
    assert share >= 0.93, share


def test_energy_of_the_toy_in_at_most_15_products():
    values = toy()
    A = Rotated(values)
    exact = np.square(values).mean()
    found = [hl.linalg.energy(A, seed=i) for i in range(60)]
    ratio = np.array([e.estimate for e in found]) / exact
    assert np.sqrt(np.mean((ratio - 1) ** 2)) <= 0.05
    assert np.mean([e.products for e in found]) <= 15
    total = hl.linalg.energy(A, per="total")
    assert total.estimate == pytest.approx(found[0].estimate * len(values))


@pytest.mark.parametrize("draw", [like_a_network, without_outliers])
def test_energy_errs_by_no_more_than_was_asked_for(draw):
    apart, held = [], 0
    for seed in range(80):
        values = draw(np.random.default_rng(seed), 600)
        exact = np.square(values).mean()
        found = hl.linalg.energy(Rotated(values, seed=seed), rtol=0.02, seed=seed)
        apart.append(found.estimate / exact - 1)
        held += found.low <= exact <= found.high
    assert np.sqrt(np.mean(np.square(apart))) <= 0.02
    assert held >= 0.9 * 80


def test_energy_reaches_the_error_that_is_asked_for():
    A = Rotated(np.random.default_rng(0).normal(size=3000))
    exact = np.square(A.values).mean()
    for rtol, seeds in ((0.05, 30), (0.01, 30), (0.003, 10)):
        found = [hl.linalg.energy(A, rtol=rtol, max_products=5000, seed=i) for i in range(seeds)]
        assert all(e.standard_error <= rtol * e.estimate for e in found)
        assert np.mean([((e.estimate - exact) / exact / rtol) ** 2 for e in found]) <= 1.7
        assert sum(e.low < exact < e.high for e in found) >= 0.9 * seeds
    limited = hl.linalg.energy(A, rtol=0.001, max_products=40)
    assert limited.products <= 40
    few = Rotated(np.random.default_rng(1).normal(size=60))
    for most in (20, 63, 70, 200):
        found = hl.linalg.energy(few, rtol=0.03, max_products=most)
        assert found.products <= most
        assert found.low - 1e-12 <= np.square(few.values).mean() <= found.high + 1e-12
    assert limited.standard_error > 0.001 * limited.estimate


@pytest.mark.parametrize("values", [np.zeros(30), np.ones(30), np.array([2.0, -1.0]), np.ones(1)])
def test_energy_of_simple_matrices(values):
    found = hl.linalg.energy(symmetric(values))
    assert found.low - 1e-10 <= np.square(values).mean() <= found.high + 1e-10
    if len(values) < 3:  # the Krylov space is all that there is
        assert found.estimate == pytest.approx(np.square(values).mean(), rel=1e-8)


def test_diagonal_and_its_errors():
    A = symmetric(netlike(300, seed=2))
    estimates, errors = hl.linalg.diagonal(A, products=80)
    exact = A.diagonal()
    z = (estimates - exact) / errors.clamp(min=1e-300)
    assert float(z.square().mean().sqrt()) == pytest.approx(1, abs=0.3)
    whole, none = hl.linalg.diagonal(symmetric(np.arange(20.0)), products=40)
    torch.testing.assert_close(whole, symmetric(np.arange(20.0)).diagonal(), rtol=0, atol=1e-10)
    assert float(none.max()) < 1e-10


def test_energy_is_exact_where_the_space_is_whole_and_keeps_to_its_memory():
    found = hl.linalg.energy(symmetric([2.0, -1.0]))
    assert found.half_width < 1e-10
    A = Rotated(toy(4000))
    small = hl.linalg.energy(A, memory_limit=8 * 4000 * 40)
    assert small.low < np.square(A.values).mean() < small.high
    flat = Rotated(np.random.default_rng(0).normal(size=3000))
    free = hl.linalg.energy(flat, rtol=0.003, max_products=5000)
    tight = hl.linalg.energy(flat, rtol=0.003, max_products=5000, memory_limit=8 * 3000 * 60)
    assert free.probes > 30 >= tight.probes  # 60 vectors: half of them probes
    assert tight.low < np.square(flat.values).mean() < tight.high
    for method in METHODS:
        with pytest.raises(MemoryError, match="give a larger memory_limit"):
            hl.linalg.trace(A, method=method, memory_limit=1000)
    limited = hl.linalg.trace(A, method="hutchinson", memory_limit=24 * 4000 * 7)
    whole = hl.linalg.trace(A, method="hutchinson")
    # the same probes, cut otherwise: only sums round differently
    assert limited.estimate == pytest.approx(whole.estimate, rel=1e-12)
    assert limited.standard_error == pytest.approx(whole.standard_error, rel=1e-12)


def test_nan_and_bad_arguments():
    A = torch.eye(50, dtype=torch.float64)
    A[2, 2] = torch.nan
    for estimate in (hl.linalg.trace, hl.linalg.energy, hl.linalg.diagonal):
        with pytest.raises(NotFinite, match=r"product .* with A is NaN or infinite"):
            estimate(A)
    eye = torch.eye(50)
    for call, message in (
        (lambda: hl.linalg.trace(eye, products=5), "products=5 is out of range"),
        (lambda: hl.linalg.trace(eye, method="slq"), "method='slq'; expected \"deflated\""),
        (lambda: hl.linalg.trace(eye, distribution="uniform"), "distribution='uniform'; expected"),
        (lambda: hl.linalg.diagonal(eye, products=2), "products=2 is out of range"),
        (lambda: hl.linalg.energy(eye, rtol=0), "rtol=0 is out of range"),
        (lambda: hl.linalg.energy(eye, probes=2), "probes=2 is out of range"),
        (lambda: hl.linalg.energy(eye, max_products=3), "max_products=3 is out of range"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_estimates_print_and_scale():
    found = hl.linalg.trace(symmetric(netlike()), products=12)
    assert float(found * 2) == 2 * found.estimate
    assert (-1 * found).half_width == found.half_width
    assert (found * 2).low == pytest.approx(2 * found.low)
    assert "probes, 12 products)" in repr(found)
