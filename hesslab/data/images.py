"""Real image sets that torchvision reads, each file checked by its SHA-256 sum before."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from hesslab import _files, _torchvision
from hesslab.data.dataset import Dataset, Normalisation
from hesslab.data.image_downloads import download as download_set
from hesslab.data.image_downloads import kept_sums, missing
from hesslab.data.image_tables import CIFAR10, FASHION_MNIST, KMNIST, MNIST, ImageSet
from hesslab.data.splits import Part, Parts, Split, Subset, read_parts
from hesslab.errors import DamagedFile, MissingData


def mnist(
    *,
    split: Split = "both",
    subset: Subset = None,
    seed: int = 0,
    download: bool = True,
    normalisation: Normalisation | None = None,
) -> Parts:
    """MNIST: 60,000 and 10,000 handwritten digits of 28 x 28 pixels.

    Files are looked for in ``HESSLAB_DATA``, then in the cache folder, then downloaded there.

    Args:
        split: "both" for a pair, or one part, whose files alone are then read.
        subset: how many examples, balanced over the classes: a pair for (training, test), or one
            number for the training set (for the part that ``split`` names).
        seed: of the subset.
        download: whether the network may be used.
        normalisation: of pixels in 0..1; None for mean and deviation of the training set.

    Returns:
        (train, test), or the Dataset that ``split`` names: x ``[N, 1, 28, 28]`` float32, y ``[N]``
        int64.

    Raises:
        MissingData: a file is nowhere, and downloading is off or failed.
        DamagedFile: a file is truncated or altered.
        MissingExtra: torchvision is not installed.
        ValueError: ``split`` or ``subset`` is out of range.

    Source: LeCun, Bottou, Bengio & Haffner (1998), Gradient-based learning.
    """
    return _load(MNIST, split, subset, seed, download, normalisation)


def fashion_mnist(
    *,
    split: Split = "both",
    subset: Subset = None,
    seed: int = 0,
    download: bool = True,
    normalisation: Normalisation | None = None,
) -> Parts:
    """Fashion-MNIST: 60,000 and 10,000 pictures of clothes of 28 x 28 pixels.

    The training files carry no known SHA-256 sum: a download is checked by torchvision's MD5 sums
    and its SHA-256 sums are kept beside it; files from elsewhere are checked by size only. The
    test set (``split="test"``) is checked in full and needs no training files.

    Args:
        split: "both" for a pair, or one part, whose files alone are then read.
        subset: how many examples, balanced over the classes: a pair for (training, test), or one
            number for the training set (for the part that ``split`` names).
        seed: of the subset.
        download: whether the network may be used.
        normalisation: of pixels in 0..1; None for mean and deviation of the training set.

    Returns:
        (train, test), or the Dataset that ``split`` names: x ``[N, 1, 28, 28]`` float32, y ``[N]``
        int64.

    Raises:
        MissingData: a file is nowhere, and downloading is off or failed.
        DamagedFile: a file is truncated or altered.
        MissingExtra: torchvision is not installed.
        ValueError: ``split`` or ``subset`` is out of range.

    Source: Xiao, Rasul & Vollgraf (2017), Fashion-MNIST.
    """
    return _load(FASHION_MNIST, split, subset, seed, download, normalisation)


def kmnist(
    *,
    split: Split = "both",
    subset: Subset = None,
    seed: int = 0,
    download: bool = True,
    normalisation: Normalisation | None = None,
) -> Parts:
    """Kuzushiji-MNIST: 60,000 and 10,000 cursive Japanese characters of 28 x 28 pixels.

    The training files carry no known SHA-256 sum: a download is checked by torchvision's MD5 sums
    and its SHA-256 sums are kept beside it; files from elsewhere are checked by size only. The
    test set (``split="test"``) is checked in full and needs no training files.

    Args:
        split: "both" for a pair, or one part, whose files alone are then read.
        subset: how many examples, balanced over the classes: a pair for (training, test), or one
            number for the training set (for the part that ``split`` names).
        seed: of the subset.
        download: whether the network may be used.
        normalisation: of pixels in 0..1; None for mean and deviation of the training set.

    Returns:
        (train, test), or the Dataset that ``split`` names: x ``[N, 1, 28, 28]`` float32, y ``[N]``
        int64.

    Raises:
        MissingData: a file is nowhere, and downloading is off or failed.
        DamagedFile: a file is truncated or altered.
        MissingExtra: torchvision is not installed.
        ValueError: ``split`` or ``subset`` is out of range.

    Source: Clanuwat et al. (2018), Deep Learning for Classical Japanese Literature.
    """
    return _load(KMNIST, split, subset, seed, download, normalisation)


def cifar10(
    *,
    split: Split = "both",
    subset: Subset = None,
    seed: int = 0,
    download: bool = True,
    normalisation: Normalisation | None = None,
) -> Parts:
    """CIFAR-10: 50,000 and 10,000 colour photographs of 32 x 32 pixels in ten classes.

    Files are looked for in ``HESSLAB_DATA``, then in the cache folder, then downloaded there.

    Args:
        split: "both" for a pair, or one part, whose files alone are then read.
        subset: how many examples, balanced over the classes: a pair for (training, test), or one
            number for the training set (for the part that ``split`` names).
        seed: of the subset.
        download: whether the network may be used.
        normalisation: of pixels in 0..1; None for mean and deviation of the training set. A
            pretrained model carries the one that it expects.

    Returns:
        (train, test), or the Dataset that ``split`` names: x ``[N, 3, 32, 32]`` float32, y ``[N]``
        int64.

    Raises:
        MissingData: a file is nowhere, and downloading is off or failed.
        DamagedFile: a file is truncated or altered.
        MissingExtra: torchvision is not installed.
        ValueError: ``split`` or ``subset`` is out of range.

    Cost: about 1.5 GB of memory while all training images are read, 0.6 GB afterwards.
    Source: Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images.
    """
    return _load(CIFAR10, split, subset, seed, download, normalisation)


def scaled(images: Tensor, normalisation: Normalisation) -> Tensor:
    """Bytes ``[N, C, H, W]`` to normalised float32, in pieces that keep the peak memory low."""
    pieces = images.split(4096)
    return torch.cat([normalisation.apply(piece.float() / 255) for piece in pieces])


def _load(
    images: ImageSet,
    split: Split,
    subset: Subset,
    seed: int,
    download: bool,
    normalisation: Normalisation | None,
) -> Parts:
    norm = normalisation or images.normalisation

    def read(part: Part, n: int | None) -> Dataset:
        datasets = _torchvision.load("datasets")  # first: its absence is the first thing to know
        root = _root(images, part, download, datasets)
        pixels, labels = _pixels(images, part, root)
        name = f"{images.title}, {'training' if part == 'train' else 'test'}"
        data = Dataset(pixels, labels, name, images.classes, norm)
        data = data if n is None else data.subset(n, seed=seed)
        return Dataset(scaled(data.x, norm), data.y, name, images.classes, norm)

    return read_parts(read, split, subset)


def _root(images: ImageSet, part: Part, download: bool, datasets: ModuleType) -> Path:
    """The folder whose files of one part are all there and intact; downloads them if it may."""
    reason = "download=False"
    for _ in range(2):
        for root in (_files.data_folder(), _files.cache_folder()):
            if root is not None and all((root / name).is_file() for name in images.files[part]):
                _check(images, part, root)
                return root
        if not download:
            break
        download_set(images, datasets)
        download, reason = False, "the download did not bring it"
    raise MissingData(missing(images, part, reason))


def _check(images: ImageSet, part: Part, root: Path) -> None:
    """Refuse a truncated or altered file before anything reads it."""
    for name, expected in images.files[part].items():
        path = root / name
        if isinstance(expected, str):
            _files.check(path, expected)
            continue
        if path.stat().st_size != expected:
            raise DamagedFile(
                f"{path} has {path.stat().st_size} bytes, expected {expected}: the file is "
                "truncated or altered; delete it and fetch it again"
            )
        if kept := kept_sums(path.parent).get(path.name):
            _files.check(path, kept)
        else:
            _files.read_files[_files.relative_name(path)] = _files.sha256(path)


def _pixels(images: ImageSet, part: Part, root: Path) -> tuple[Tensor, Tensor]:
    """Checked files to bytes ``[N, C, H, W]`` and class numbers ``[N]``."""
    # Not by torchvision's own classes: they ask for the files of both parts.
    if images.reader == "CIFAR10":
        return _cifar_batches([root / name for name in images.files[part]])
    reader = _torchvision.load("datasets.mnist")
    x, y = (str(root / name) for name in images.files[part])
    return reader.read_image_file(x)[:, None], reader.read_label_file(y)


def _cifar_batches(paths: list[Path]) -> tuple[Tensor, Tensor]:
    """The pickles of CIFAR-10, whose sums were compared before: unpickling runs code."""
    pixels, labels = [], []
    for path in paths:
        if path.name == "batches.meta":  # names of classes, which the table holds
            continue
        with path.open("rb") as file:
            batch = pickle.load(file, encoding="latin1")
        pixels.append(torch.from_numpy(batch["data"]).reshape(-1, 3, 32, 32))
        labels.extend(batch["labels"])
    return torch.cat(pixels), torch.tensor(labels)
