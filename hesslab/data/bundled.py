"""Real images that need no download: scikit-learn's handwritten digits."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch
from torch import Tensor

from hesslab import _files
from hesslab.data.dataset import Dataset, Normalisation
from hesslab.data.splits import Part, Parts, Split, Subset, read_parts
from hesslab.errors import import_extra

_CLASSES = tuple(str(digit) for digit in range(10))


def digits(
    *,
    split: Split = "both",
    subset: Subset = None,
    seed: int = 0,
    download: bool = True,
    normalisation: Normalisation | None = None,
    test_n: int = 500,
) -> Parts:
    """1,797 real handwritten digits of 8 x 8 pixels, bundled with scikit-learn.

    Args:
        split: "both" for a pair, or one part.
        subset: how many examples, balanced over the classes: a pair for (training, test), or one
            number for the training set (for the part that ``split`` names).
        seed: of the split, which keeps the class proportions, and of the subset.
        download: accepted so that sets can be exchanged; nothing is ever downloaded.
        normalisation: of pixels in 0..1; None for mean and deviation of the training part.
        test_n: test examples, 10 to 1,787; the others are for training.

    Returns:
        (train, test), or the Dataset that ``split`` names: x ``[N, 1, 8, 8]`` float32, y ``[N]``
        int64. By default 1,297 and 500 examples.

    Raises:
        ValueError: an argument is out of range.
        MissingExtra: scikit-learn is not installed.

    Source: Alpaydin & Kaynak (1998), Optical Recognition of Handwritten Digits, its test set.

    Example:
        >>> import hesslab as hl
        >>> train, test = hl.data.digits()
        >>> train.x.shape, len(test)
        (torch.Size([1297, 1, 8, 8]), 500)
    """
    if not isinstance(test_n, int) or not 10 <= test_n <= 1787:
        raise ValueError(f"test_n={test_n!r}; expected a whole number from 10 to 1787")
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed!r}; expected a whole number from 0 to 2**32 - 1")
    images, labels, digest = _bundled()
    _files.read_files["scikit-learn/digits"] = digest
    selection = import_extra("sklearn.model_selection", extra="data")
    indices: dict[Part, Tensor] = {}
    indices["train"], indices["test"] = (
        part.sort().values
        for part in selection.train_test_split(
            torch.arange(len(labels)), test_size=test_n, stratify=labels, random_state=seed
        )
    )
    if normalisation is None:
        pixels = images[indices["train"]].double()
        normalisation = Normalisation((pixels.mean().item(),), (pixels.std().item(),))

    def read(part: Part, n: int | None) -> Dataset:
        name = f"digits, {'training' if part == 'train' else 'test'}"
        x = normalisation.apply(images[indices[part]])
        data = Dataset(x, labels[indices[part]], name, _CLASSES, normalisation)
        return data if n is None else data.subset(n, seed=seed)

    return read_parts(read, split, subset)


@lru_cache(maxsize=1)
def _bundled() -> tuple[Tensor, Tensor, str]:
    """Images ``[1797, 1, 8, 8]`` with pixels in 0..1, labels ``[1797]``, and a digest of both."""
    bunch = import_extra("sklearn.datasets", extra="data").load_digits()
    images = torch.as_tensor(bunch.images, dtype=torch.float32)[:, None] / 16
    labels = torch.as_tensor(bunch.target, dtype=torch.int64)
    content = images.numpy().tobytes() + labels.numpy().tobytes()
    return images, labels, hashlib.sha256(content).hexdigest()
