"""Datasets: balanced subsets, normalisation, shapes."""

import pytest
import torch

from hesslab.data import Dataset, Normalisation


def labelled(counts, seed=0):
    y = torch.cat([torch.full((n,), c) for c, n in enumerate(counts)])
    y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))]
    return Dataset(torch.arange(len(y)).float().unsqueeze(1), y, "labelled", ("a", "b", "c"))


@pytest.mark.parametrize("n", [3, 10, 31, 60])
def test_subset_is_balanced_within_one_and_keeps_the_order(n):
    part = labelled([50, 30, 20]).subset(n, seed=1)
    counts = torch.bincount(part.y, minlength=3)
    assert counts.max() - counts.min() <= 1
    assert torch.equal(part.x.flatten(), part.x.flatten().sort().values)


def test_subset_takes_what_there_is_where_a_class_is_short():
    part = labelled([50, 3, 50]).subset(33)
    assert torch.bincount(part.y).tolist() == [15, 3, 15]


def test_subset_is_seeded_and_does_not_touch_global_state():
    state = torch.random.get_rng_state()
    data = labelled([50, 30, 20])
    assert torch.equal(data.subset(10, seed=1).x, data.subset(10, seed=1).x)
    assert not torch.equal(data.subset(10, seed=1).x, data.subset(10, seed=2).x)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_subset_of_a_regression_is_random():
    data = Dataset(torch.arange(20.0).unsqueeze(1), torch.zeros(20, 1), "regression")
    assert len(data.subset(7)) == 7


@pytest.mark.parametrize("n", [0, 101])
def test_subset_out_of_range(n):
    with pytest.raises(ValueError, match=rf"subset={n} is out of range: labelled has 100 examples"):
        labelled([50, 30, 20]).subset(n)


def test_normalisation_inverts_itself_and_gives_the_stated_moments():
    x = torch.rand(50, 3, 4, 4, dtype=torch.float64)
    mean, std = x.mean((0, 2, 3)), x.std((0, 2, 3), correction=0)
    normalisation = Normalisation(tuple(mean.tolist()), tuple(std.tolist()))
    z = normalisation.apply(x)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(z.std((0, 2, 3), correction=0), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(normalisation.invert(z), x)


def test_normalisation_of_other_channels_is_refused():
    with pytest.raises(ValueError, match=r"x has shape \(5, 1, 4, 4\), but the norm.* 3 channels"):
        Normalisation((0, 0, 0), (1, 1, 1)).apply(torch.zeros(5, 1, 4, 4))
    with pytest.raises(ValueError, match="as many positive deviations as means"):
        Normalisation((0.0, 0.0), (1.0, 0.0))


def test_inputs_and_targets_of_different_length_are_refused():
    with pytest.raises(ValueError, match="odd has 3 inputs and 2 targets"):
        Dataset(torch.zeros(3, 1), torch.zeros(2), "odd")


def test_to_changes_the_dtype_of_floating_tensors_only():
    data = labelled([2, 2, 2]).to(dtype=torch.float64)
    assert data.x.dtype == torch.float64
    assert data.y.dtype == torch.int64
    tokens = Dataset(torch.tensor([[1, 2]]), torch.tensor([[0.5]]), "tokens").to(
        dtype=torch.float64
    )
    assert (tokens.x.dtype, tokens.y.dtype) == (torch.int64, torch.float64)
    assert "labelled: x [6, 1] torch.float64, 3 classes" in repr(data)
