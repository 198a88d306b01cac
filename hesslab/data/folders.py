"""Images in folders, one folder per class, as ImageNet has them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch
from torch import Tensor

from hesslab import _files, _torchvision
from hesslab.data.dataset import Dataset, Normalisation
from hesslab.data.images import scaled
from hesslab.data.splits import Part, Parts, Split, Subset, read_parts
from hesslab.errors import DamagedFile, MissingData

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""What networks trained on ImageNet expect of their inputs."""

_NAMES: dict[Part, tuple[str, ...]] = {"train": ("train",), "test": ("val", "test")}


def image_folder(
    path: str | os.PathLike[str],
    *,
    size: int = 64,
    split: Split = "both",
    subset: Subset = None,
    seed: int = 0,
    normalisation: Normalisation | None = None,
) -> Parts:
    """Images in the layout of ImageNet: ``train/<class>/*`` and ``val/<class>/*`` (or ``test``).

    The shorter side is scaled to ``size``, then the middle square is cut out. A folder with
    classes but no parts is one set, read with ``split="train"``. Where an
    ``imagenet_class_index.json`` lies in the folder or beside it, folders named after synsets get
    the names of their classes.

    Args:
        path: the folder, or its name below ``HESSLAB_DATA`` or the cache folder.
        size: side of the images in pixels, 8 to 1024.
        split: "both" for a pair, or one part.
        subset: how many examples, balanced over the classes: a pair for (training, test), or one
            number for the training set (for the part that ``split`` names). Others are not read.
        seed: of the subset.
        normalisation: of pixels in 0..1; None for ImageNet's.

    Returns:
        (train, test), or the Dataset that ``split`` names: x ``[N, 3, size, size]`` float32,
        y ``[N]`` int64, the classes in alphabetical order of their folders (``info["folders"]``).

    Raises:
        MissingData: there is no such folder, or nothing in it.
        DamagedFile: an image cannot be read; the message names the file.
        ValueError: an option is out of range, or training and test classes differ.
        MissingExtra: torchvision is not installed.
    """
    if isinstance(size, bool) or not isinstance(size, int) or not 8 <= size <= 1024:
        raise ValueError(f"size={size!r}; expected a whole number of pixels from 8 to 1024")
    datasets = _torchvision.load("datasets")
    root = _folder(path)
    folders = _part_folders(root, split)
    norm = normalisation or IMAGENET

    def read(part: Part, n: int | None) -> Dataset:
        folder = folders[part]
        try:
            listed = datasets.ImageFolder(str(folder))
        except FileNotFoundError as error:
            raise MissingData(f"{folder} has a class without images: {error}") from error
        labels = torch.tensor(listed.targets)
        name = f"{root.name}, {'training' if part == 'train' else 'test'}"
        chosen = Dataset(torch.arange(len(labels)), labels, name)
        chosen = chosen if n is None else chosen.subset(n, seed=seed)
        paths = [Path(listed.samples[int(index)][0]) for index in chosen.x]
        x = scaled(_pixels(paths, folder, size), norm)
        info = {"folders": tuple(listed.classes)}
        return Dataset(x, chosen.y, name, _class_names(root, listed.classes), norm, info)

    return read_parts(read, split, subset)


def _folder(path: str | os.PathLike[str]) -> Path:
    given = Path(path).expanduser()
    found = given if given.is_dir() else _files.find(str(path))
    if found is None or not found.is_dir():
        raise MissingData(
            f"{given} is not a folder, and neither HESSLAB_DATA ({_files.data_folder()}) nor the "
            f"cache folder ({_files.cache_folder()}) holds one of that name; set HESSLAB_DATA to "
            "a folder that does, or use hl.data.digits(), which needs no files"
        )
    return found


def _part_folders(root: Path, split: Split) -> dict[Part, Path]:
    """Where the parts are; refuses classes that differ, since their numbers would too."""
    folders: dict[Part, Path] = {}
    for part, names in _NAMES.items():
        present = [root / name for name in names if (root / name).is_dir()]
        if present:
            folders[part] = present[0]
    if not folders:
        if split != "train":
            raise MissingData(
                f"{root} has neither a folder train nor val or test; pass split='train' to read "
                "it as one set with a folder for each class"
            )
        return {"train": root}
    absent = [part for part in _NAMES if split in ("both", part) and part not in folders]
    if absent:
        raise MissingData(
            f"{root} has no folder {' or '.join(_NAMES[absent[0]])}; it has "
            f"{', '.join(sorted(folder.name for folder in folders.values()))}"
        )
    classes = [
        {entry.name for entry in folder.iterdir() if entry.is_dir()} for folder in folders.values()
    ]
    if len(classes) == 2 and (differing := sorted(classes[0] ^ classes[1])):
        raise ValueError(
            f"{root}: the parts have different classes ({', '.join(differing[:5])}); class "
            "numbers follow the folders, so both parts need the same ones"
        )
    return folders


def _class_names(root: Path, folders: list[str]) -> tuple[str, ...]:
    for folder in (root, root.parent):
        index = folder / "imagenet_class_index.json"
        if index.is_file():
            names: dict[str, str] = dict(json.loads(index.read_text()).values())
            return tuple(names.get(name, name) for name in folders)
    return tuple(folders)


def _pixels(paths: list[Path], folder: Path, size: int) -> Tensor:
    """The images as bytes ``[N, 3, size, size]``; their common sum is noted as read."""
    v2 = _torchvision.load("transforms.v2")
    loader = _torchvision.load("datasets.folder").default_loader
    transform = v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.ToImage()])
    images = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)
    content = hashlib.sha256()
    for image, path in zip(images, paths, strict=True):
        try:
            image.copy_(transform(loader(str(path))))
        except (OSError, SyntaxError, ValueError) as error:
            raise DamagedFile(
                f"{path} is not an intact image ({error}); replace or remove the file"
            ) from error
        content.update(f"{path.relative_to(folder).as_posix()} {_files.sha256(path)}\n".encode())
    _files.read_files[f"{_files.relative_name(folder)} ({len(paths)} images)"] = content.hexdigest()
    return images
