"""Distances of spectra against scipy, closed forms and each other."""

import math

import numpy as np
import pytest
import scipy.stats

import hesslab as hl

m = hl.metrics


def test_wasserstein_is_that_of_the_atoms():
    rng = np.random.default_rng(0)
    x, y, u, v = rng.normal(size=50), rng.normal(size=70), rng.random(50), rng.random(70)
    found = m.wasserstein(x, y, u, v)
    assert found.value == pytest.approx(scipy.stats.wasserstein_distance(x, y, u, v))
    assert m.wasserstein(x, x).value == 0
    assert m.wasserstein(x, x + 3).value == pytest.approx(3)
    assert math.isnan(found.error)


def test_rows_are_a_mean_density_and_give_an_error():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(6, 40)), rng.normal(size=(5, 30)) + 1
    w, v = np.full_like(x, 1 / 40), np.full_like(y, 1 / 30)
    found = m.wasserstein(x, y, w, v)
    assert found.value == pytest.approx(m.wasserstein(x.ravel(), y.ravel()).value)
    assert 0.02 < found.error < 0.3


def test_bulk_and_transforms():
    bulk = np.linspace(-1e-3, 1e-3, 999)
    x, y = np.append(bulk, 100.0), np.append(bulk * 2, 50.0)
    assert m.wasserstein(x, y).value == pytest.approx(0.0505, abs=1e-4)  # the outlier
    assert m.wasserstein(x, y, bulk=1).value == pytest.approx(5e-4, rel=0.01)
    asinh = m.wasserstein(x, y, transform="asinh", scale=0.01)
    s, t = np.arcsinh(x / 0.01), np.arcsinh(y / 0.01)
    assert asinh.value == pytest.approx(scipy.stats.wasserstein_distance(s, t))
    log = m.wasserstein(x, y, transform="log")
    assert 0.05 < log.value < 0.4  # a factor of two is 0.3 decades


def test_divergences_have_their_closed_forms():
    rng = np.random.default_rng(2)
    x = rng.normal(size=4000)
    same = m.divergence(x, x)
    assert same.value == pytest.approx(0, abs=1e-12)
    assert m.divergence(x, x * (1 + 1e-13)).value == pytest.approx(0, abs=1e-12)
    apart = m.divergence(x, x + 1000, width=2)
    assert apart.value == pytest.approx(math.log(2), rel=1e-6)
    # two normal densities of deviation sqrt(1 + width^2), one standard deviation apart
    width = 0.3
    kl = m.divergence(x, x + 1, kind="kullback-leibler", width=width)
    assert kl.value == pytest.approx(1 / (2 * (1 + width**2)), rel=0.1)
    swapped = m.divergence(x + 1, x, width=width)
    assert m.divergence(x, x + 1, width=width).value == pytest.approx(swapped.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: m.wasserstein(x, x, bulk=0.0), "bulk=0.0 leaves nothing of a spectrum"),
        (lambda x: m.wasserstein(x, x, transform="sqrt"), "transform='sqrt'; expected \"none\""),
        (lambda x: m.wasserstein(x, x, transform="log", scale=0), "scale=0 is out of range"),
        (lambda x: m.divergence(x, x, kind="hellinger"), "kind='hellinger'; expected \"jensen"),
        (lambda x: m.divergence(x, x, width=1e-6, points=10), "is below the grid's spacing"),
        (lambda x: m.divergence(x, x, width=0), "expected a positive width, 10 points"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.array([1.0, 2.0]))
