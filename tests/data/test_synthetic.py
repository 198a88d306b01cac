import math

import numpy as np
import pytest
import torch
from sklearn.datasets import make_moons

import hesslab as hl
from hesslab.data import blobs, moons, sine, spirals


def test_sine_is_the_sine_where_there_is_no_noise():
    for part in sine(100, noise=0.0, frequency=1.5):
        torch.testing.assert_close(part.y, torch.sin(1.5 * part.x), rtol=0, atol=1e-6)


def test_sine_noise_has_the_deviation_asked_for():
    train, test = sine(20_000, noise=0.3, test_n=20_000)
    for part in (train, test):
        residual = (part.y - torch.sin(2 * part.x)).double()
        # The standard error of a deviation is 0.3 / sqrt(2 N) = 0.0015.
        assert abs(residual.std().item() - 0.3) < 0.006
        assert abs(residual.mean().item()) < 0.01
    assert train.info["noise_variance"] == pytest.approx(0.09)


@pytest.mark.parametrize("gap", [(0.5, 2.0), [-1, 1], (-2.9, 2.9), (-0.2, -0.1)])
def test_sine_has_no_training_input_in_the_gap_and_is_uniform_outside(gap):
    train, test = sine(4000, gap=gap)
    left, right = gap
    x = train.x[:, 0].double()
    assert not ((x > left + 1e-6) & (x < right - 1e-6)).any()
    assert x.min() >= -3
    assert x.max() <= 3
    share = (left + 3) / (6 - (right - left))
    assert abs((x <= left).double().mean().item() - share) < 4 * math.sqrt(
        share * (1 - share) / 4000
    )
    assert ((test.x > left) & (test.x < right)).any()


def test_sine_without_gap_covers_the_interval():
    train, _ = sine(4000, gap=None)
    counts = np.histogram(train.x.numpy(), bins=6, range=(-3, 3))[0]
    assert counts.min() > 600  # expected 667 each, standard deviation 24
    assert train.info["gap"] is None


@pytest.mark.parametrize("make", [sine, moons, spirals, blobs])
def test_same_seed_same_data_and_global_state_untouched(make):
    before = torch.get_rng_state()
    first, again, other = make(50, seed=3), make(50, seed=3), make(50, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, b.y)
    assert not torch.equal(first[0].y.double() + first[0].x.sum(), other[0].y + other[0].x.sum())


@pytest.mark.parametrize("make", [moons, spirals, blobs])
def test_plane_data_is_standardised_balanced_and_invertible(make):
    train, test = make(101, test_n=60)
    x = train.x.double()
    torch.testing.assert_close(x.mean(0), torch.zeros(2).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(2).double(), rtol=0, atol=1e-6)
    counts = train.y.bincount()
    assert counts.max() - counts.min() <= 1
    assert len(counts) == len(train.classes)
    assert train.y.dtype == torch.int64
    assert test.normalisation == train.normalisation


def test_moons_without_noise_lie_on_the_curves_of_scikit_learn():
    train, _ = moons(400, noise=0.0)
    x = train.normalisation.invert(train.x.double())
    reference, labels = make_moons(20_000, noise=None)
    for label in (0, 1):
        curve = torch.from_numpy(reference[labels == label])
        # Neighbours on the curve are 3e-4 apart, and x was stored in float32.
        assert torch.cdist(x[train.y == label], curve).min(1).values.max() < 2e-4


def test_spirals_without_noise_lie_on_their_arms():
    train, _ = spirals(300, classes=3, turns=1.25, noise=0.0)
    x = train.normalisation.invert(train.x.double())
    radius = x.norm(dim=1)
    angle = 2 * math.pi * (train.y / 3 + 1.25 * (radius - 0.1) / 0.9)
    arm = radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    torch.testing.assert_close(x, arm, rtol=0, atol=1e-5)


def test_blobs_have_their_centres_and_deviation():
    train, _ = blobs(30_000, classes=5, noise=0.2)
    x = train.normalisation.invert(train.x.double())
    for c in range(5):
        cloud = x[train.y == c]
        centre = [math.cos(2 * math.pi * c / 5), math.sin(2 * math.pi * c / 5)]
        assert (cloud.mean(0) - torch.tensor(centre)).abs().max() < 0.012  # 4 standard errors
        assert (cloud.std(0) - 0.2).abs().max() < 0.008


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sine(0), "n=0; expected a whole number from 1 to 1000000"),
        (lambda: sine(2.5), r"n=2\.5; expected a whole number"),
        (lambda: sine(noise=-0.1), r"noise=-0\.1; expected a number from 0 up to 10"),
        (lambda: sine(noise=math.nan), "noise=nan; expected a number from 0 up to 10"),
        (lambda: sine(gap=(1, 1)), r"gap=\(1, 1\); expected \(left, right\) with -3 < left"),
        (lambda: sine(gap=(0, 3)), r"left < right < 3, or None"),
        (lambda: sine(gap=(0, 1, 2)), r"gap=\(0, 1, 2\)"),
        (lambda: sine(frequency=0), "frequency=0; expected a number above 0 up to 100"),
        (lambda: sine(test_n=1), "test_n=1; expected a whole number from 2"),
        (lambda: sine(seed=-1), "seed=-1; expected a whole number from 0"),
        (lambda: moons(1), "n=1; expected a whole number from 2"),
        (lambda: moons(noise=11), "noise=11; expected a number from 0 up to 10"),
        (lambda: spirals(classes=1), "classes=1; expected a whole number from 2 to 20"),
        (lambda: spirals(turns=0), "turns=0; expected a number above 0 up to 10"),
        (lambda: blobs(4, classes=5), "n=4; expected a whole number from 5"),
        (lambda: blobs(classes=True), "classes=True; expected a whole number"),
    ],
)
def test_out_of_range_names_the_range(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_generated_data_is_reachable_from_the_top():
    assert hl.data.sine is sine
