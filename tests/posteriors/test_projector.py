"""The null-space projector against the dense Jacobian by double loops of autograd."""

import pytest
import torch

import hesslab as hl
from tests.cases import MODELS, case


def projector(c, **options):
    return hl.posteriors.NullSpaceProjector(c.model, c.loss, (c.x, c.y), batch_size=4, **options)


@pytest.mark.parametrize("model", MODELS)
def test_projector_equals_the_pseudo_inverse_form(model):
    c = case(model, "cross-entropy")
    P = projector(c, rtol=1e-10)
    J = c.jacobian
    # rtol of pinv is on singular values, ours on their squares
    expected = torch.eye(J.shape[1]).double() - torch.linalg.pinv(J, rtol=1e-5) @ J
    torch.testing.assert_close(P.to_dense(), expected, rtol=0, atol=1e-8)
    values = torch.linalg.eigvalsh(J @ J.T if len(J) < J.shape[1] else J.T @ J).flip(0)
    torch.testing.assert_close(P.eigenvalues, values, rtol=1e-9, atol=1e-9 * float(values[0]))


@pytest.mark.parametrize("rtol", [1e-12, 1e-6, 1e-2])
def test_symmetric_idempotent_with_integer_trace(rtol):
    P = projector(case("mlp", "cross-entropy"), rtol=rtol)
    Q = P.to_dense()
    assert (Q - Q.T).norm() < 1e-10
    assert (Q @ Q - Q).norm() < 1e-10
    assert float(Q.trace()) == pytest.approx(P.null_dimension, abs=1e-9)
    assert P.rank + P.null_dimension == len(Q)


def test_relative_threshold_does_not_see_the_scale_of_the_outputs():
    c = case("mlp", "cross-entropy")
    model = hl.models.mlp(4, 3, hidden=(5, 4), seed=0).double()
    wrapped = torch.nn.Sequential(model, Scale(1e-3))
    small = hl.posteriors.NullSpaceProjector(wrapped, c.loss, (c.x, c.y), rtol=1e-8)
    large = hl.posteriors.NullSpaceProjector(model, c.loss, (c.x, c.y), rtol=1e-8)
    assert small.rank == large.rank
    torch.testing.assert_close(small.to_dense(), large.to_dense(), rtol=0, atol=1e-8)


class Scale(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


def test_another_threshold_shares_the_decomposition():
    c = case("mlp", "cross-entropy")
    P = projector(c, rtol=1e-12)
    loose = P.at(1e-2)
    assert loose.rank < P.rank
    assert P.rtol == 1e-12
    torch.testing.assert_close(loose.to_dense(), projector(c, rtol=1e-2).to_dense())


def test_projected_noise_is_invisible_in_training_outputs_to_first_order():
    c = case("mlp", "cross-entropy")
    P = projector(c, rtol=1e-14)
    noise = torch.randn(P.null_dimension + P.rank, 5, dtype=torch.float64)
    projected = P.project(noise)
    assert (c.jacobian @ projected).norm() < 1e-6 * (c.jacobian @ noise).norm()
    assert projected.norm() > 0.1 * noise.norm()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"constraint": "loss"}, "constraint='loss'; expected \"output\""),
        ({"solver": "cg"}, "solver='cg'; expected"),
        ({"rtol": 1.0}, "rtol=1.0 is out of range: expected 0 <= rtol < 1"),
        ({"memory_limit": 1e3}, "the dense null space needs more than .* GB .*memory_limit"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        projector(case("mlp", "cross-entropy"), **options)


def test_wrong_vector_and_wrong_threshold():
    P = projector(case("mlp", "cross-entropy"))
    with pytest.raises(ValueError, match=r"v has shape \(3,\), but the projector has 64 parameter"):
        P.project(torch.ones(3))
    with pytest.raises(ValueError, match="rtol=2 is out of range"):
        P.at(2)
