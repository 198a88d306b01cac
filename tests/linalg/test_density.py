"""Densities of matrices whose spectrum was chosen: exact parts, intervals that cover, resuming."""

import numpy as np
import pytest
import scipy.integrate
import torch

import hesslab as hl
from hesslab.errors import NotFinite
from tests.linalg import coverage
from tests.linalg.coverage import ENERGIES
from tests.linalg.matrices import (
    Diagonal,
    Failing,
    Rotated,
    like_a_network,
    symmetric,
    toy,
    without_outliers,
)

spectral_density = hl.linalg.spectral_density


def netlike(P=500, seed=0):
    return like_a_network(np.random.default_rng(seed), P)


def test_moments_of_a_probe_are_those_of_the_matrix():
    A = symmetric(netlike())
    seen = []

    class Watched:
        shape, dtype, device = A.shape, A.dtype, A.device

        def __matmul__(self, v):
            seen.append(v)
            return A @ v

    density = spectral_density(Watched(), deflate=None, steps=8, probes=6, seed=3)
    torch.testing.assert_close(density.weights.sum(1), torch.ones(6).double(), rtol=1e-12, atol=0)
    start = x = seen[0]  # the six directions, of length 1
    for power in range(16):  # eight steps are exact up to degree 15, four up to 7
        exact = (start * x).sum(0)
        each = (density.weights * density.nodes**power).sum(1)
        torch.testing.assert_close(each, exact, rtol=1e-8, atol=1e-12 * float(exact.abs().max()))
        half = (density.half_weights * density.half_nodes**power).sum(1)
        assert torch.allclose(half, exact, rtol=1e-8) == (power < 8), power
        x = A @ x


@pytest.mark.parametrize(
    "values",
    [
        netlike(60),
        netlike(210),
        np.zeros(40),
        np.ones(40),
        np.repeat([3.0, 0.0, -2.0], [5, 30, 5]),
        np.repeat([3.0, 0.0, -2.0, 1e-3], [5, 90, 5, 90]),
        10.0 ** -np.arange(0, 10, 0.25),
        np.array([2.0]),
        np.array([2.0, -1.0]),
    ],
    ids=["netlike", "210", "zero", "identity", "three", "four", "decades", "1 x 1", "2 x 2"],
)
def test_a_small_matrix_is_exact(values):
    density = spectral_density(symmetric(values))
    assert density.products == len(values) == len(density.eigenvalues)  # and no more
    energies = density.energies(per="total")
    scale = max(float(np.abs(values).max()), 1e-300)
    for name, function in ENERGIES.items():
        found = getattr(energies, name)
        exact = function(values).sum()
        assert found.estimate == pytest.approx(exact, rel=1e-8, abs=1e-10 * scale), name
        assert found.half_width <= 1e-8 * exact + 1e-10 * scale


def test_deflation_takes_out_outliers_and_nothing_else():
    values = toy(5000)
    density = spectral_density(Rotated(values))
    exact = np.sort(values)
    for value, residual in zip(density.eigenvalues, density.residuals, strict=True):
        assert np.abs(exact - float(value)).min() <= float(residual) + 1e-10
    assert 12 <= len(density.eigenvalues) <= 60
    outliers = np.sort(values)[::-1][:10]
    np.testing.assert_allclose(density.eigenvalues[:10], outliers, rtol=1e-6)
    Q = density.vectors
    eye = torch.eye(Q.shape[1], dtype=torch.float64)
    torch.testing.assert_close(Q.T @ Q, eye, rtol=0, atol=1e-10)
    assert float(density.nodes.abs().max()) < 0.3  # nodes are of what is left
    assert density.products == 210
    assert "taken out of P = 5000" in repr(density)


def test_ways_to_say_what_is_taken_out():
    A = Rotated(netlike(1000))
    pairs = hl.linalg.eigsh(A, 6, rtol=1e-6)
    given = spectral_density(A, steps=10, probes=2, deflate=pairs)
    torch.testing.assert_close(given.eigenvalues, pairs.values)
    assert given.products == 20
    number = spectral_density(A, steps=10, probes=2, deflate=6)
    assert len(number.eigenvalues) == 6
    assert number.products > 20
    sizes = number.eigenvalues.abs().sort(descending=True).values
    expected = np.sort(np.abs(A.values))[::-1][:6]
    np.testing.assert_allclose(sizes, expected, rtol=1e-3)
    none = spectral_density(A, steps=10, probes=2, deflate=0)
    assert torch.equal(none.nodes, spectral_density(A, steps=10, probes=2, deflate=None).nodes)


def test_one_probe_of_30_steps_on_the_toy():
    values = toy()
    exact = {name: function(values).mean() for name, function in ENERGIES.items()}
    A = Rotated(values)

    def deviation(runs, **options):
        found = [spectral_density(A, probes=1, seed=i, **options).energies() for i in range(runs)]
        return {
            name: np.sqrt(
                np.mean([(float(getattr(e, name)) / exact[name] - 1) ** 2 for e in found])
            )
            for name in ("L1", "L2")
        }

    deflated = deviation(20)
    assert deflated["L1"] <= 0.013
    assert deflated["L2"] <= 0.0002
    plain = deviation(20, deflate=None)
    assert plain["L1"] > 0.2
    assert plain["L2"] > 0.3


@pytest.mark.slow
def test_deviation_of_one_probe_over_400_runs_on_the_toy():
    values = toy()
    A = Rotated(values)
    found = [spectral_density(A, probes=1, seed=1000 + i).energies() for i in range(400)]
    L1 = np.array([float(e.L1) for e in found]) / np.abs(values).mean() - 1
    L2 = np.array([float(e.L2) for e in found]) / np.square(values).mean() - 1
    assert np.sqrt(np.mean(L1**2)) <= 0.013
    assert np.sqrt(np.mean(L2**2)) <= 0.0002


@pytest.mark.slow
@pytest.mark.parametrize("draw", [like_a_network, without_outliers])
def test_intervals_of_1000_spectra_cover_what_they_promise(draw):
    share, ratio = coverage.of_densities(draw, 1000)
    for name in ("L2", "trace"):
        assert 0.93 <= share[name] <= 0.97, (name, share[name])
    for name in set(share) - {"L2", "trace"}:
        assert share[name] >= 0.93, (name, share[name])
        assert ratio[name] <= 2, (name, ratio[name])


def test_intervals_of_60_spectra():
    share, _ = coverage.of_densities(like_a_network, 60)
    for name, hit in share.items():
        # 95 % of 60 is 57; fewer than 51 has a chance of 1 in 1,000 at 95 %
        assert hit >= 51 / 60, (name, hit)


def test_localised_eigenvectors():
    values = netlike(1500, seed=4)
    density = spectral_density(Diagonal(values), seed=2)
    energies = density.energies(per="total")
    for name, function in ENERGIES.items():
        found, exact = getattr(energies, name), function(values).sum()
        assert abs(found.estimate - exact) <= 2 * found.half_width + 1e-12 * exact, name


def test_integrals_and_counts():
    rng = np.random.default_rng(0)
    values = rng.normal(size=3000)
    density = spectral_density(Rotated(values), seed=1)
    found = density.integral(torch.exp, per="dimension")
    normal = scipy.integrate.quad(lambda x: np.exp(x - x * x / 2) / np.sqrt(2 * np.pi), -9, 9)[0]
    assert found.estimate == pytest.approx(normal, rel=0.1)
    assert found.low < np.exp(values).mean() < found.high
    within = density.count(-1, 1)
    assert within.low < ((values >= -1) & (values <= 1)).sum() < within.high
    total = density.count(-np.inf, np.inf)
    assert total.estimate == pytest.approx(3000)
    with pytest.raises(ValueError, match=r"infinite at -.*positive for s above \d"):
        density.integral(torch.log)


def test_the_error_of_one_probe_is_the_spread_over_seeds():
    A = Rotated(netlike(2000, seed=8))
    found = [spectral_density(A, probes=1, seed=i).energies().L2 for i in range(80)]
    spread = np.std([e.estimate for e in found])
    reported = np.sqrt(np.mean([e.standard_error**2 for e in found]))
    # the spread of 80 is known to 8 %, and the reported error rests on one probe
    assert reported == pytest.approx(spread, rel=0.3)


@pytest.mark.parametrize("at", [14, 37], ids=["first part", "second part"])
def test_a_resumed_run_equals_the_unbroken_one_to_the_bit(at, tmp_path):
    A = symmetric(netlike(300))
    options = {"steps": 10, "probes": 3, "seed": 5}
    whole = spectral_density(A, **options)
    saved = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        spectral_density(
            Failing(A, at, None),
            on_checkpoint=lambda state: torch.save(state, saved),
            **options,
        )
    state = torch.load(saved, weights_only=True)
    resumed = spectral_density(A, state=state, **options)
    for name in ("eigenvalues", "vectors", "nodes", "weights", "half_nodes"):
        assert torch.equal(getattr(whole, name), getattr(resumed, name)), name
    assert resumed.products == whole.products == 50
    with pytest.raises(ValueError, match="state was made with steps=10, and this is steps=11"):
        spectral_density(A, state=state, **{**options, "steps": 11})


def test_nan_names_the_product():
    A = torch.eye(200, dtype=torch.float64)
    A[3, 3] = torch.nan
    with pytest.raises(NotFinite, match="product 1 with A is NaN or infinite"):
        spectral_density(A)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 1}, "steps=1 is out of range: expected at least 2"),
        ({"probes": 0}, "probes=0 is out of range: expected at least 1"),
        ({"deflate": "some"}, "deflate='some'; expected \"auto\", None, Eigenpairs or a number"),
        ({"deflate": -1}, "deflate=-1; expected"),
        ({"deflate": hl.linalg.eigsh(torch.eye(9), 2)}, "deflate holds vectors of 9 numbers, and"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        spectral_density(torch.eye(80), **options)


def test_bad_questions_to_a_density():
    density = spectral_density(symmetric(netlike(300)))
    for ask in (density.energies, lambda per: density.count(0, 1, per=per)):
        with pytest.raises(ValueError, match='per=\'Total\'; expected "dimension" or "total"'):
            ask(per="Total")
    for function in (lambda x: 1.0, torch.sum):
        with pytest.raises(ValueError, match=r"gave the shape \(\) for .* eigenvalues; expected"):
            density.integral(function)
    for low, high in ((1, 0), (np.nan, 1)):
        with pytest.raises(ValueError, match="expected low <= high"):
            density.count(low, high)


@pytest.mark.parametrize(
    ("estimate", "error", "text"),
    [
        (0.0285453, 0.000312, "0.02855 +- 0.00031 (95 %: 0.02792 to 0.02917;"),
        (254.83, 14, "255 +- 14 (95 %: 227 to 283;"),
        (-1.5, 0.0, "-1.5 +- 0 (95 %: -1.5 to -1.5;"),
        (0.1, 30.0, "0.1 +- 30 (95 %: -60 to 60;"),
    ],
)
def test_an_estimate_shows_the_digits_that_its_error_leaves(estimate, error, text):
    found = hl.linalg.Estimate(estimate, error, 2 * error, 5, 210, 0)
    assert repr(found) == f"{text} 5 probes, 210 products)"


def test_an_unsymmetric_matrix_is_refused():
    A = torch.randn(100, 100, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="A is not symmetric"):
        spectral_density(A)
    with pytest.raises(ValueError, match="A is not symmetric"):
        spectral_density(A, deflate=None)
