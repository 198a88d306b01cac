import pytest
import torch

from hesslab.data import Dataset
from hesslab.data.splits import read_parts


def _read(part, n):
    size = {"train": 8, "test": 4}[part] if n is None else n
    return Dataset(torch.zeros(size, 1), torch.zeros(size), part)


@pytest.mark.parametrize(
    ("split", "subset", "sizes"),
    [
        ("both", None, (8, 4)),
        ("both", 3, (3, 4)),
        ("both", (3, 2), (3, 2)),
        ("both", [3, 2], (3, 2)),
        ("train", None, (8,)),
        ("train", 3, (3,)),
        ("train", (3, 2), (3,)),
        ("test", 3, (3,)),
        ("test", (3, 2), (2,)),
    ],
)
def test_split_and_subset_say_which_part_and_how_much(split, subset, sizes):
    parts = read_parts(_read, split, subset)
    parts = parts if isinstance(parts, tuple) else (parts,)
    assert tuple(map(len, parts)) == sizes
    if split != "both":
        assert parts[0].name == split


@pytest.mark.parametrize("subset", [0, -1, (1, 0), (1, 2, 3), (), 1.5, True, "12"])
def test_bad_subset_is_refused(subset):
    with pytest.raises(ValueError, match=r"subset=.*; expected None, a whole number from 1 on"):
        read_parts(_read, "both", subset)


def test_bad_split_is_refused():
    with pytest.raises(ValueError, match="split='validation' is unknown; expected 'both', 'train'"):
        read_parts(_read, "validation", None)
