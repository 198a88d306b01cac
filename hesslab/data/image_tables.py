"""What the image sets are: files and their SHA-256 sums, classes, pixel statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hesslab.data.dataset import Normalisation
from hesslab.data.splits import Part


@dataclass(frozen=True)
class ImageSet:
    """One image set of torchvision.

    Args:
        title: what people call it.
        reader: the class of ``torchvision.datasets`` that downloads it.
        url: where that class downloads it from, for messages.
        files: of each part the files below the data folder, images before labels, with their
            SHA-256 sums; where a sum is not known, the size in bytes.
        classes: names in the order of the class numbers.
        normalisation: mean and deviation of the training pixels, scaled to 0..1.
    """

    title: str
    reader: str
    url: str
    files: Mapping[Part, Mapping[str, str | int]]
    classes: tuple[str, ...]
    normalisation: Normalisation


# Pixel statistics of MNIST and CIFAR-10 are measured on the files below; those of the other two
# are the published ones to four digits.


def _idx(folder: str, part: str, images: str | int, labels: str | int) -> dict[str, str | int]:
    return {
        f"{folder}/raw/{part}-images-idx3-ubyte": images,
        f"{folder}/raw/{part}-labels-idx1-ubyte": labels,
    }


_TRAIN_IMAGES = 16 + 60_000 * 28 * 28  # bytes: the header and one for each pixel
_TRAIN_LABELS = 8 + 60_000

MNIST = ImageSet(
    title="MNIST",
    reader="MNIST",
    url="https://ossci-datasets.s3.amazonaws.com/mnist/",
    files={
        "train": _idx(
            "MNIST",
            "train",
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        "test": _idx(
            "MNIST",
            "t10k",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    },
    classes=tuple("0123456789"),
    normalisation=Normalisation((0.13066,), (0.30811,)),
)

FASHION_MNIST = ImageSet(
    title="Fashion-MNIST",
    reader="FashionMNIST",
    url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    files={
        "train": _idx("FashionMNIST", "train", _TRAIN_IMAGES, _TRAIN_LABELS),
        "test": _idx(
            "FashionMNIST",
            "t10k",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    },
    classes=(
        "T-shirt/top",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ),
    normalisation=Normalisation((0.2860,), (0.3530,)),
)

KMNIST = ImageSet(
    title="KMNIST",
    reader="KMNIST",
    url="http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
    files={
        "train": _idx("KMNIST", "train", _TRAIN_IMAGES, _TRAIN_LABELS),
        "test": _idx(
            "KMNIST",
            "t10k",
            "76fbd229ce87db80dd281af5e6670de4ad0e42fb30a7bd643972994c47c1f42e",
            "a11dc742be8e781a40a92f53d6a4957e7b7d36df2faa097659131ebfd8fd60c6",
        ),
    },
    classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    normalisation=Normalisation((0.1918,), (0.3483,)),
)

_CIFAR10_META = {
    "cifar-10-batches-py/batches.meta": (
        "f962466ef690d46b226450fb9aadc74ba4bc64a76aa526b5827fe4bc5c7125cb"
    )
}
_CIFAR10_TRAIN = (
    "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
    "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
    "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
    "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
    "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
)

CIFAR10 = ImageSet(
    title="CIFAR-10",
    reader="CIFAR10",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    files={
        "train": {
            f"cifar-10-batches-py/data_batch_{number}": sum_
            for number, sum_ in enumerate(_CIFAR10_TRAIN, start=1)
        }
        | _CIFAR10_META,
        "test": {
            "cifar-10-batches-py/test_batch": (
                "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831"
            )
        }
        | _CIFAR10_META,
    },
    classes=(
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
    normalisation=Normalisation((0.49140, 0.48216, 0.44653), (0.24703, 0.24349, 0.26159)),
)
