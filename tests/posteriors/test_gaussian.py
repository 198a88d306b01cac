"""Posterior samples: their covariance, their predictions, the prior precision."""

import math

import pytest
import torch

import hesslab as hl
from hesslab.posteriors import IsotropicPosterior, NullSpacePosterior, NullSpaceProjector
from tests.cases import case


@pytest.fixture(scope="module")
def mlp():
    c = case("mlp", "cross-entropy")
    return c, NullSpaceProjector(c.model, c.loss, (c.x, c.y), rtol=1e-12)


def test_samples_have_the_covariance_of_the_projector(mlp):
    _, projector = mlp
    S = 20_000
    drawn = NullSpacePosterior(projector, prior_precision=4.0).sample(S, seed=0).directions
    covariance = drawn @ drawn.T / S
    expected = projector.to_dense() / 4
    # entries of a Wishart matrix: standard error sqrt((c_ij^2 + c_ii c_jj) / S), six of them
    diagonal = expected.diagonal()
    error = ((expected.square() + diagonal.outer(diagonal)) / S).sqrt()
    assert ((covariance - expected).abs() <= 6 * error + 1e-12).all()


def test_isotropic_samples_are_the_same_noise_before_projection(mlp):
    c, projector = mlp
    free = IsotropicPosterior(c.model, c.loss, prior_precision=4.0).sample(3, seed=5)
    held = NullSpacePosterior(projector, prior_precision=4.0).sample(3, seed=5)
    torch.testing.assert_close(projector.project(free.directions), held.directions)
    assert free.relative_size > held.relative_size


def test_linearised_training_predictions_stay_at_the_map_for_any_precision(mlp):
    c, projector = mlp
    expected = c.model(c.x).detach()
    for precision in (1e-2, 1.0, 1e4):
        samples = NullSpacePosterior(projector, prior_precision=precision).sample(4, seed=1)
        moved = samples.outputs(c.x)
        bound = 1e-5 * samples.relative_size + 1e-12  # rtol 1e-12 lets 1e-6 of s_1 through
        assert (moved - expected).abs().max() < 100 * bound


def test_outputs_of_both_modes_equal_independent_ones(mlp):
    c, projector = mlp
    samples = NullSpacePosterior(projector, prior_precision=1.0).sample(2, seed=0)
    x = torch.randn(5, 4, dtype=torch.float64)
    for s in range(2):
        moved = hl.models.mlp(4, 3, hidden=(5, 4), seed=0).double()
        torch.nn.utils.vector_to_parameters(c.flat() + samples.directions[:, s], moved.parameters())
        torch.testing.assert_close(samples.outputs(x, mode="network")[s], moved(x).detach())
        steps = [1e-4 * samples.directions[:, s], -1e-4 * samples.directions[:, s]]
        ends = []
        for step in steps:
            torch.nn.utils.vector_to_parameters(c.flat() + step, moved.parameters())
            ends.append(moved(x).detach())
        slope = (ends[0] - ends[1]) / 2e-4  # central difference, error 1e-8 of the curvature
        torch.testing.assert_close(
            samples.outputs(x)[s], c.model(x).detach() + slope, rtol=1e-5, atol=1e-6
        )


def test_predictions_are_probabilities_or_means(mlp):
    c, projector = mlp
    probabilities = NullSpacePosterior(projector, prior_precision=1.0).sample(2).predict(c.x)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(2, 11, dtype=torch.float64))
    assert not probabilities.requires_grad
    g = case("mlp", "gaussian")
    samples = IsotropicPosterior(g.model, g.loss, prior_precision=1.0).sample(2)
    assert torch.equal(samples.predict(g.x), samples.outputs(g.x))


def test_evidence_precision_maximises_the_evidence_of_a_linear_model():
    """The closed-form log evidence, maximised on a fine grid; the reciprocal would fail."""
    generator = torch.Generator().manual_seed(0)
    N, P, noise_variance, true_precision = 60, 300, 1e-4, 4.0
    X = torch.randn(N, P, generator=generator, dtype=torch.float64)
    theta = torch.randn(P, generator=generator, dtype=torch.float64) / math.sqrt(true_precision)
    noise = math.sqrt(noise_variance) * torch.randn(N, generator=generator, dtype=torch.float64)
    y = X @ theta + noise
    K = X @ X.T

    def log_evidence(alpha):
        cov = K / alpha + noise_variance * torch.eye(N, dtype=torch.float64)
        return -0.5 * (torch.logdet(cov) + y @ torch.linalg.solve(cov, y))

    grid = torch.logspace(-2, 2, 4001, dtype=torch.float64)
    best = float(grid[torch.stack([log_evidence(a) for a in grid]).argmax()])
    ridge = X.T @ torch.linalg.solve(
        K + noise_variance * best * torch.eye(N, dtype=torch.float64), y
    )
    model = torch.nn.Linear(P, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(ridge.unsqueeze(0))
    loss = hl.losses.GaussianLikelihood(noise_variance)
    projector = NullSpaceProjector(model, loss, (X, y.unsqueeze(1)))
    found = NullSpacePosterior(projector, prior_precision="evidence").prior_precision
    assert found == pytest.approx(best, rel=1e-2)


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        (0.0, "prior_precision=0.0 is out of range: expected 0 < prior_precision"),
        (-1, "prior_precision=-1 is out of range"),
        ("validation", "prior_precision='validation'; expected a number or \"evidence\""),
    ],
)
def test_bad_precision(mlp, precision, message):
    with pytest.raises(ValueError, match=message):
        NullSpacePosterior(mlp[1], prior_precision=precision)


def test_bad_count_and_mode(mlp):
    posterior = NullSpacePosterior(mlp[1], prior_precision=1.0)
    with pytest.raises(ValueError, match="count=0 is out of range"):
        posterior.sample(0)
    with pytest.raises(ValueError, match='mode=\'glm\'; expected "linearised" or "network"'):
        posterior.sample(1).predict(mlp[0].x, mode="glm")


def test_evidence_of_nothing():
    c = case("mlp", "cross-entropy")
    model = hl.models.mlp(4, 3, hidden=(5, 4), seed=0).double()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    projector = NullSpaceProjector(model, c.loss, (c.x, c.y))
    with pytest.raises(ValueError, match="the evidence has no maximum here"):
        NullSpacePosterior(projector, prior_precision="evidence")
    samples = NullSpacePosterior(projector, prior_precision=1.0).sample(2)
    assert samples.relative_size == math.inf
