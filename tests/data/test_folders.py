import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from hesslab import _files
from hesslab.data import Normalisation, image_folder
from hesslab.errors import DamagedFile, MissingData

COLOURS = {"n01": (255, 0, 0), "n02": (0, 255, 0)}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of one colour each, 4 training and 2 validation images of 40 x 24 pixels."""
    monkeypatch.setenv("HESSLAB_DATA", str(tmp_path))
    monkeypatch.setattr(_files, "read_files", {})
    for part, count in (("train", 4), ("val", 2)):
        for name, colour in COLOURS.items():
            folder = tmp_path / "tiny" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                suffix = ("png", "jpg", "webp")[number % 3]
                Image.new("RGB", (40, 24), colour).save(folder / f"{number}.{suffix}")
    return tmp_path / "tiny"


def test_images_become_squares_with_the_class_of_their_folder(root):
    train, test = image_folder(root, size=16, normalisation=Normalisation((0.0,) * 3, (1.0,) * 3))
    assert train.x.shape == (8, 3, 16, 16)
    assert (len(test), train.classes, train.info["folders"]) == (4, ("n01", "n02"), ("n01", "n02"))
    for image, label in zip(train.x, train.y, strict=True):
        expected = torch.tensor(list(COLOURS.values())[label]) / 255.0
        # JPEG and WebP lose a little.
        assert (image - expected[:, None, None]).abs().max() < 0.02
    assert sorted(_files.read_files) == ["tiny/train (8 images)", "tiny/val (4 images)"]


def test_name_below_the_data_folder_is_found_and_imagenet_statistics_are_the_default(root):
    test = image_folder("tiny", size=8, split="test")
    assert test.normalisation.mean == (0.485, 0.456, 0.406)


def test_synsets_get_the_names_of_their_classes(root):
    index = {"0": ["n01", "tench"], "1": ["n02", "goldfish"], "2": ["n03", "shark"]}
    (root.parent / "imagenet_class_index.json").write_text(json.dumps(index))
    assert image_folder(root, split="test").classes == ("tench", "goldfish")


def _refuses(root: Path) -> bool:
    try:
        train = image_folder(root, split="train", subset=2)
    except DamagedFile:
        return True
    assert sorted(train.y.tolist()) == [0, 1]
    return False


def test_subset_is_balanced_and_reads_no_other_image(root):
    refused = 0
    for path in sorted((root / "train").glob("*/*")):
        intact = path.read_bytes()
        path.write_bytes(b"damaged")
        refused += _refuses(root)
        path.write_bytes(intact)
    assert refused == 2


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_corrupt_image_is_named(root, content):
    path = root / "train/n02/1.jpg"
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    with pytest.raises(DamagedFile, match=f"{path} is not an intact image"):
        image_folder(root)


def test_folder_without_parts_is_one_set(root):
    assert len(image_folder(root / "train", split="train")) == 8
    with pytest.raises(MissingData, match=r"neither a folder train nor val or test; pass split="):
        image_folder(root / "train")


def test_missing_part_is_named(root):
    (root / "val").rename(root / "validation")
    with pytest.raises(MissingData, match=r"tiny has no folder val or test; it has train"):
        image_folder(root)
    (root / "validation").rename(root / "test")
    assert len(image_folder(root, split="test")) == 4


def test_parts_with_different_classes_are_refused(root):
    (root / "val/n01").rename(root / "val/n03")
    with pytest.raises(ValueError, match=r"different classes \(n01, n03\)"):
        image_folder(root)


def test_class_without_images_is_named(root):
    for path in (root / "train/n01").iterdir():
        path.unlink()
    with pytest.raises(MissingData, match=r"has a class without images: .*n01"):
        image_folder(root)


def test_missing_folder_names_variable_and_alternative(root):
    with pytest.raises(MissingData, match=r"absent is not a folder, .*HESSLAB_DATA .*digits\(\)"):
        image_folder("absent")


@pytest.mark.parametrize("size", [7, 1025, 32.0, True])
def test_size_out_of_range_names_the_range(root, size):
    with pytest.raises(ValueError, match=r"expected a whole number of pixels from 8 to 1024"):
        image_folder(root, size=size)


@pytest.mark.data
def test_real_imagenet_images_load(real_data):
    train, test = image_folder("imagenet/imagenette_128px", subset=(20, 10))
    assert train.x.shape == (20, 3, 64, 64)
    assert train.y.bincount().tolist() == [2] * 10
    assert train.classes[0] == "tench"
    assert abs(train.x.mean()) < 0.5
    assert len(test) == 10
