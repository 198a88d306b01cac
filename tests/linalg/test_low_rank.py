"""Approximations of low rank, and eigenvectors by descent, against the dense matrix."""

import numpy as np
import pytest
import torch

import hesslab as hl
from tests.linalg.matrices import like_a_network, symmetric, toy

A = symmetric(like_a_network(np.random.default_rng(0), 300))


@pytest.mark.parametrize("method", ["lanczos", "randomized"])
def test_the_error_is_that_of_the_best_of_its_rank(method):
    exact = torch.linalg.eigvalsh(A)
    best = exact.abs().sort(descending=True).values[8:].square().sum().sqrt()
    found = hl.linalg.low_rank(A, 8, method=method, rtol=1e-6)
    dense = found @ torch.eye(300, dtype=torch.float64)
    error = torch.linalg.matrix_norm(A - dense)
    slack = {"lanczos": 1e-6, "randomized": 0.05}[method]
    assert float(error) <= (1 + slack) * float(best)
    v = torch.arange(300, dtype=torch.float64)
    torch.testing.assert_close(found @ v, dense @ v)
    residuals = (A @ found.pairs.vectors - found.pairs.vectors * found.pairs.values).norm(dim=0)
    torch.testing.assert_close(found.pairs.residuals, residuals, rtol=1e-2, atol=1e-10)
    if method == "randomized":
        assert found.pairs.products == 54  # 8 + 10 vectors, three times


def test_it_is_a_matrix_like_others():
    found = hl.linalg.low_rank(A.float(), 3)
    assert found.shape == (300, 300)
    assert found.dtype == torch.float32
    top = hl.linalg.eigsh(found, 1)
    torch.testing.assert_close(top.values[0], found.pairs.values.max(), rtol=1e-5, atol=0)
    assert "rank 3" in repr(found)


def test_whole_rank_is_exact():
    small = symmetric([3.0, 1.0, -2.0])
    for method in ("lanczos", "randomized"):
        found = hl.linalg.low_rank(small, 3, method=method)
        torch.testing.assert_close(found @ torch.eye(3, dtype=torch.float64), small)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0, "method": "randomized"}, "k=0 is out of range: expected 1 <= k <= 300"),
        ({"k": 301}, "k=301 is out of range"),
        ({"k": 2, "method": "svd"}, 'method=\'svd\'; expected "lanczos" or "randomized"'),
        ({"k": 2, "method": "randomized", "power_steps": -1}, "power_steps=-1 is out of range"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        hl.linalg.low_rank(A, **options)


def test_descent_finds_the_eigenvector_and_lanczos_with_fewer_products():
    B = torch.diag(torch.from_numpy(toy(2000)))
    start = hl.linalg.eigsh(B, 1, rtol=0.5, max_products=6)
    descent = hl.linalg.refine_eigenvector(B, start.vectors[:, 0], rtol=1e-3)
    assert descent.converged.all()
    value, vector = float(descent.values[0]), descent.vectors[:, 0]
    assert float((B @ vector - value * vector).norm()) <= 1.01e-3 * value
    assert float(descent.residuals[0]) == pytest.approx(
        float((B @ vector - value * vector).norm()), rel=1e-6
    )
    lanczos = hl.linalg.eigsh(B, 1, rtol=1e-3, start=start.vectors)
    assert lanczos.products < descent.products / 2


def test_descent_stops_at_its_limit_and_says_so():
    B = torch.diag(torch.linspace(0, 1, 500, dtype=torch.float64))
    x = torch.ones(500, dtype=torch.float64)
    found = hl.linalg.refine_eigenvector(B, x, rtol=1e-9, max_products=30)
    assert not found.converged.any()
    assert found.products <= 30
    exact = hl.linalg.refine_eigenvector(B, B[:, 3] * 7 / B[3, 3], rtol=1e-9)
    assert exact.converged.all()
    assert exact.products == 1
    with pytest.raises(ValueError, match=r"vector has shape \(3,\), or is zero or not finite"):
        hl.linalg.refine_eigenvector(B, torch.ones(3))
    with pytest.raises(ValueError, match=r"rtol=2 is out of range"):
        hl.linalg.refine_eigenvector(B, x, rtol=2)
    with pytest.raises(ValueError, match=r"max_products=0 is out of range"):
        hl.linalg.refine_eigenvector(B, x, max_products=0)
