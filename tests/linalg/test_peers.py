"""The estimators beside those of curvlinops, which were written by others."""

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

import hesslab as hl
from tests.linalg.matrices import like_a_network, symmetric

curvlinops = pytest.importorskip("curvlinops")
fast_lanczos = pytest.importorskip("curvlinops.papyan2020traces.spectrum").fast_lanczos
SEEDS = 150


@pytest.fixture(scope="module")
def A():
    return symmetric(like_a_network(np.random.default_rng(3), 300), seed=3)


def theirs(estimate, *arguments, seeds=SEEDS):
    """What an estimator without a seed gives for many of them."""
    found = []
    with torch.random.fork_rng():
        for seed in range(seeds):
            torch.manual_seed(seed)
            found.append(estimate(*arguments).double())
    return torch.stack(found)


def agree(ours, others, *, wider):
    """Means within four of their errors; ours scatter at most so many times as much."""
    apart = (ours.mean(0) - others.mean(0)).abs()
    error = ((ours.var(0) + others.var(0)) / len(ours)).sqrt()
    assert (apart <= 4 * error + 1e-12).all()
    assert ours.std(0).norm() <= wider * others.std(0).norm()


@pytest.mark.parametrize(
    ("method", "peer"),
    [("hutchinson", "hutchinson_trace"), ("hutch++", "hutchpp_trace"), ("xtrace", "xtrace")],
)
def test_traces(A, method, peer):
    found = [hl.linalg.trace(A, method=method, products=30, seed=s) for s in range(SEEDS)]
    ours = torch.tensor([e.estimate for e in found], dtype=torch.float64)
    agree(ours, theirs(getattr(curvlinops, peer), A, 30), wider=1.3)


def test_deflated_traces_scatter_less_than_those_of_any_peer(A):
    found = [hl.linalg.trace(A, products=30, seed=s) for s in range(SEEDS)]
    ours = torch.tensor([e.estimate for e in found], dtype=torch.float64)
    for peer in ("hutchinson_trace", "hutchpp_trace", "xtrace"):
        agree(ours, theirs(getattr(curvlinops, peer), A, 30), wider=1.1)


def test_diagonals(A):
    found = [hl.linalg.diagonal(A, products=30, seed=s)[0] for s in range(SEEDS)]
    for peer in (curvlinops.hutchinson_diag, curvlinops.xdiag):
        agree(torch.stack(found), theirs(peer, A, 30), wider=1.3)


def test_squared_norms(A):
    found = [hl.linalg.energy(A, per="total", seed=s) for s in range(SEEDS)]
    ours = torch.tensor([e.estimate for e in found], dtype=torch.float64)
    mean = round(sum(e.products for e in found) / SEEDS)
    agree(ours, theirs(curvlinops.hutchinson_squared_fro, A, mean), wider=0.5)


def test_mean_moduli_by_quadrature(A):
    def quadrature():
        nodes, vectors = fast_lanczos(A, 12)
        return (nodes.abs() * vectors[0] ** 2).sum()

    found = [hl.linalg.spectral_density(A, steps=12, probes=1, seed=s) for s in range(SEEDS)]
    ours = torch.tensor([float(d.energies().L1) for d in found], dtype=torch.float64)
    agree(ours, theirs(quadrature), wider=0.5)


@pytest.mark.parametrize(("which", "end"), [("largest", "LA"), ("smallest", "SA")])
def test_eigenvalues_of_a_network_by_another_product_and_another_solver(which, end):
    model = hl.models.mlp(5, 3, hidden=(7,), seed=0).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (40,), generator=generator)
    loss = torch.nn.CrossEntropyLoss()
    pairs = hl.linalg.eigsh(hl.Hessian(model, loss, (x, y)), 4, which=which, rtol=1e-9)
    peer = curvlinops.HessianLinearOperator(model, loss, list(model.parameters()), [(x, y)])
    known = scipy.sparse.linalg.eigsh(peer.to_scipy(), 4, which=end, return_eigenvectors=False)
    torch.testing.assert_close(
        pairs.values, torch.from_numpy(np.sort(known)[::-1].copy()), rtol=1e-7, atol=1e-9
    )
