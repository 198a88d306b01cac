import pytest
import torch
from sklearn.datasets import load_digits

from hesslab import _files
from hesslab.data import Normalisation, digits, load


def test_digits_are_those_of_scikit_learn_each_once():
    train, test = digits()
    assert (len(train), len(test)) == (1297, 500)
    assert train.x.dtype == torch.float32
    assert train.y.dtype == torch.int64
    raw = torch.cat([part.normalisation.invert(part.x) for part in (train, test)]) * 16
    ours = torch.cat([raw.round().reshape(-1, 64), torch.cat([train.y, test.y])[:, None]], 1)
    x, y = load_digits(return_X_y=True)
    theirs = torch.cat([torch.tensor(x), torch.tensor(y)[:, None]], 1).float()
    assert torch.equal(ours.unique(dim=0), theirs.unique(dim=0))


def test_split_keeps_class_proportions_and_statistics_are_of_the_training_part():
    train, test = digits(seed=5)
    shares = train.y.bincount() / len(train)
    torch.testing.assert_close(test.y.bincount() / len(test), shares, rtol=0, atol=0.003)
    assert abs(train.x.double().mean()) < 1e-6
    assert abs(train.x.double().std() - 1) < 1e-6
    assert test.normalisation == train.normalisation


def test_same_seed_same_digits_other_seed_other_split():
    assert torch.equal(digits(seed=1)[1].x, digits(seed=1)[1].x)
    assert not torch.equal(digits(seed=1)[1].y, digits(seed=2)[1].y)


def test_subset_is_balanced_and_one_part_is_that_of_the_pair():
    train, test = digits(subset=(100, 55))
    assert set(train.y.bincount().tolist()) == {10}
    assert set(test.y.bincount().tolist()) == {5, 6}
    assert torch.equal(digits(split="test", subset=55).x, test.x)


def test_given_normalisation_is_used():
    raw = digits(split="train", normalisation=Normalisation((0.0,), (1.0,)))
    assert raw.x.min() == 0
    assert raw.x.max() == 1


def test_reading_is_noted(monkeypatch):
    monkeypatch.setattr(_files, "read_files", {})
    digits(split="test", download=False)
    assert list(_files.read_files) == ["scikit-learn/digits"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_n": 9}, "test_n=9; expected a whole number from 10 to 1787"),
        ({"seed": -1}, "seed=-1; expected a whole number from 0"),
        ({"subset": 1298}, "subset=1298 is out of range: digits, training has 1297 examples"),
        ({"split": "all"}, "split='all' is unknown"),
    ],
)
def test_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        digits(**options)


def test_load_takes_the_name_as_a_parameter_and_lists_the_known_ones():
    assert torch.equal(load("digits", split="test").x, digits(split="test").x)
    with pytest.raises(
        ValueError, match="'imagenet' is unknown; expected one of digits, mnist, fashion_mnist"
    ):
        load("imagenet")
