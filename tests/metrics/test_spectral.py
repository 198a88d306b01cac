"""Scores of spectra against their definitions."""

import math

import numpy as np
import pytest
import torch

import hesslab as hl
from hesslab.errors import NotFinite
from tests.linalg.matrices import Rotated, like_a_network

m = hl.metrics
NETLIKE = like_a_network(np.random.default_rng(3), 2000)


@pytest.fixture(scope="module")
def density():
    return hl.linalg.spectral_density(Rotated(NETLIKE), seed=1)


def test_eigenvalue_ratio_and_its_conventions():
    values = torch.tensor([-9.0, 4.0, 8.0, 2.0, 0.0, -1.0])
    assert float(m.eigenvalue_ratio(values, 3)) == 4
    assert math.isinf(m.eigenvalue_ratio(values, 4).value)
    assert math.isinf(m.eigenvalue_ratio(values, 6).value)
    assert math.isnan(m.eigenvalue_ratio(torch.tensor([-2.0, -1.0]), 2).value)
    assert math.isnan(m.eigenvalue_ratio(values, 2).error)
    found = m.eigenvalue_ratio(values, 3, residuals=torch.full((6,), 0.1))
    assert found.error == pytest.approx(4 * math.hypot(0.1 / 8, 0.1 / 2))
    assert repr(found) == "4 +- 0.21"


def test_gradient_fraction_and_overlap_with_their_chance_levels():
    generator = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(200, 30, generator=generator)).Q
    inside = Q[:, :10] @ torch.randn(10, generator=generator)
    assert m.gradient_fraction(inside, Q[:, :10]).value == pytest.approx(1, abs=1e-6)
    assert m.gradient_fraction(inside, Q[:, 10:]).value == pytest.approx(0, abs=1e-6)
    drawn = [
        float(m.gradient_fraction(torch.randn(200, generator=generator), Q[:, :10]))
        for _ in range(300)
    ]
    chance = m.gradient_fraction(inside, Q[:, :10]).chance
    assert np.mean(drawn) == pytest.approx(chance, abs=4 * np.std(drawn) / 300**0.5)
    assert m.subspace_overlap(Q[:, :10], Q[:, 5:25]).value == pytest.approx(0.5, abs=1e-6)
    assert m.subspace_overlap(Q[:, :10], Q[:, 5:25]).chance == 0.1
    random = [torch.linalg.qr(torch.randn(200, 20, generator=generator)).Q for _ in range(100)]
    drawn = [float(m.subspace_overlap(Q[:, :10], R)) for R in random]
    assert np.mean(drawn) == pytest.approx(0.1, abs=4 * np.std(drawn) / 10)


def test_cosine_to_optimum():
    here, there = torch.tensor([1.0, 2.0, 2.0]), torch.tensor([0.0, 0.0, 2.0])
    found = m.cosine_to_optimum(torch.tensor([3.0, 0.0, 4.0]), here, there)
    assert found.value == pytest.approx(3 / (5 * 5**0.5))
    assert found.chance == pytest.approx(3**-0.5)
    # of a quadratic bowl: the gradient is H (here - there)
    assert float(m.cosine_to_optimum(2 * (here - there), here, there)) == pytest.approx(1)


def test_sharpness_of_values_and_of_a_density(density):
    exact = m.sharpness(NETLIKE, cut=0.1)
    assert float(exact.largest) == NETLIKE.max()
    assert float(exact.mean) == pytest.approx(NETLIKE.mean())
    beyond = np.abs(NETLIKE) > 0.1
    assert float(exact.mass_beyond) == pytest.approx(beyond.mean())
    assert float(exact.mean_beyond) == pytest.approx(np.abs(NETLIKE)[beyond].mean())
    assert math.isnan(exact.mean.error)
    found = m.sharpness(*density.atoms(), cut=0.1)
    for name in ("mean", "mass_beyond", "mean_beyond"):
        ours, theirs = getattr(found, name), getattr(exact, name)
        assert abs(float(ours) - float(theirs)) <= 4 * ours.error + 0.01 * abs(float(theirs)), name
    assert float(found.largest) == pytest.approx(NETLIKE.max())
    assert math.isnan(m.sharpness(NETLIKE, cut=1e9).mean_beyond.value)


def test_outliers_are_cut_at_the_largest_gap():
    values = [10.0, 8.0, 7.0, 0.5, 0.4, 0.3, -5.0]
    assert float(m.number_of_outliers(torch.tensor(values))) == 3
    assert float(m.number_of_outliers(torch.tensor(values), cut=0.35)) == 5
    near = m.number_of_outliers(
        torch.tensor(values), cut=0.35, residuals=torch.tensor([0, 0, 0, 0, 0.06, 0.06, 0])
    )
    assert near.error == 2
    assert math.isnan(m.number_of_outliers(torch.tensor(values)).error)


@pytest.mark.parametrize("power", [0, 1, 2])
def test_negative_mass_of_values_and_of_a_density(density, power):
    sizes = np.abs(NETLIKE) ** power
    exact = sizes[NETLIKE < 0].sum() / sizes.sum()
    assert m.negative_mass(NETLIKE, power=power).value == pytest.approx(exact)
    found = m.negative_mass(*density.atoms(), power=power)
    # the bulk's signs are not resolved: the nodes split it only roughly
    assert abs(found.value - exact) <= 4 * found.error + (0.1 if power == 0 else 0.01)
    agreed = getattr(density.energies(), f"L{power}_negative", None)
    if agreed is not None:
        whole = getattr(density.energies(), f"L{power}")
        assert found.value == pytest.approx(float(agreed) / float(whole))
    assert math.isnan(m.negative_mass(np.zeros(4), power=1).value)
    assert m.negative_mass(np.array([-1e-9, 1.0]), tolerance=1e-6).value == 0


def test_effective_ranks():
    values = np.array([8.0, 4.0, 2.0, 1.0, 1.0])
    r, R = m.effective_ranks(values)
    assert (float(r), float(R)) == (pytest.approx(2), pytest.approx(16**2 / 86))
    r, R = m.effective_ranks(values, k=2)
    assert (float(r), float(R)) == (pytest.approx(2), pytest.approx(16 / 6))
    flat = m.effective_ranks(np.ones(7))
    assert [float(rank) for rank in flat] == [pytest.approx(7), pytest.approx(7)]
    squares = np.square(NETLIKE)
    exact = m.effective_ranks(squares)
    density = hl.linalg.spectral_density(Rotated(squares), seed=2)
    found = m.effective_ranks(*density.atoms(), size=2000)
    for ours, theirs in zip(found, exact, strict=True):
        assert float(ours) == pytest.approx(float(theirs), rel=0.01)
    assert math.isnan(m.effective_ranks(np.zeros(3))[0].value)


def test_the_jackknife_gives_the_error_of_a_mean():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 20))
    found = m.sharpness(x, np.ones_like(x), cut=0.0).mean
    assert found.value == pytest.approx(x.mean())
    assert found.error == pytest.approx(x.mean(1).std(ddof=1) / 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: m.eigenvalue_ratio(np.ones(3), 1), ValueError, "k=1 is out of range: expected 2"),
        (lambda: m.eigenvalue_ratio(np.ones(3), 4), ValueError, "k=4 is out of range"),
        (lambda: m.eigenvalue_ratio(np.ones((3, 2)), 2), ValueError, r"values has shape \(3, 2\)"),
        (lambda: m.eigenvalue_ratio([1.0, 2.0], 2), TypeError, "values is a list; expected"),
        (lambda: m.eigenvalue_ratio(np.array([1, np.nan]), 2), NotFinite, "values hold NaN or inf"),
        (
            lambda: m.gradient_fraction(np.ones(3), np.ones((3, 1))),
            ValueError,
            "the columns of vectors are not orthonormal: inner products are off by 2.0e",
        ),
        (
            lambda: m.gradient_fraction(np.zeros(3), np.eye(3)),
            ValueError,
            "the gradient is zero; it lies in no space",
        ),
        (
            lambda: m.subspace_overlap(np.eye(3), np.eye(4)),
            ValueError,
            r"V has shape \(4, 4\); expected \[3, k\]",
        ),
        (
            lambda: m.cosine_to_optimum(np.ones(2), np.ones(2), np.ones(2)),
            ValueError,
            "the gradient or the way to the optimum is zero",
        ),
        (lambda: m.sharpness(np.ones(2), cut=-1), ValueError, "cut=-1 is out of range"),
        (
            lambda: m.sharpness(np.ones(2), np.ones(3), cut=0),
            ValueError,
            r"weights have shape \(3,\), and the values \(2,\)",
        ),
        (
            lambda: m.sharpness(np.ones(2), np.array([1.0, -1.0]), cut=0),
            ValueError,
            "weights are negative, or all zero",
        ),
        (lambda: m.sharpness(np.ones((2, 2, 2)), cut=0), ValueError, r"expected \[n\], or \[q, n"),
        (lambda: m.negative_mass(np.ones(2), power=3), ValueError, "power=3; expected 0, 1 or 2"),
        (
            lambda: m.number_of_outliers(-np.ones(4)),
            ValueError,
            "0 of the 4 values are positive; expected two or more",
        ),
        (
            lambda: m.effective_ranks(np.array([1.0, -1.0])),
            ValueError,
            "the smallest value is -1; these ranks are of positive semidefinite",
        ),
        (lambda: m.effective_ranks(np.ones(3), k=3), ValueError, "k=3 is out of range"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
