import gzip
import hashlib
import io
import pickle
import shutil
import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hesslab import _files, _torchvision
from hesslab.data import Normalisation, cifar10, fashion_mnist, image_tables, images, kmnist, mnist
from hesslab.errors import DamagedFile, MissingData

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
LABELS = np.arange(20, dtype=np.uint8) % 10


def _idx(array: np.ndarray) -> bytes:
    return struct.pack(f">{array.ndim + 1}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


FILES = {
    f"{part}-{kind}-ubyte": _idx(array)
    for part in ("train", "t10k")
    for kind, array in (("images-idx3", PIXELS), ("labels-idx1", LABELS))
}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """MNIST and KMNIST of 20 + 20 images; KMNIST without known sums of its training files."""
    mine = {
        part: {f"MNIST/raw/{n}": hashlib.sha256(FILES[n]).hexdigest() for n in FILES if n[:2] == c}
        for part, c in (("train", "tr"), ("test", "t1"))
    }
    theirs = {
        "train": {f"KMNIST/raw/{n}": len(FILES[n]) for n in FILES if n[:2] == "tr"},
        "test": {k.replace("MNIST", "KMNIST", 1): v for k, v in mine["test"].items()},
    }
    monkeypatch.setattr(images, "MNIST", replace(image_tables.MNIST, files=mine))
    monkeypatch.setattr(images, "KMNIST", replace(image_tables.KMNIST, files=theirs))


def _place(folder: Path, names=tuple(FILES)) -> None:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_bytes(FILES[name])


def _serve(name: str, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision's class download from the local server."""
    url, folder = server
    resources = []
    for file, content in FILES.items():
        packed = gzip.compress(content, mtime=0)
        (folder / f"{file}.gz").write_bytes(packed)
        resources.append((f"{file}.gz", hashlib.md5(packed).hexdigest()))
    reader = getattr(_torchvision.load("datasets"), name)
    monkeypatch.setattr(reader, "mirrors", [url])
    monkeypatch.setattr(reader, "resources", resources)


def _kept(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_idx_files_are_read_and_normalised(folders, tiny):
    _place(folders[0] / "MNIST/raw")
    train, test = mnist(download=False)
    expected = (torch.from_numpy(PIXELS).double() / 255 - 0.13066) / 0.30811
    torch.testing.assert_close(train.x[:, 0].double(), expected, rtol=0, atol=1e-6)
    assert torch.equal(test.y, torch.from_numpy(LABELS).long())
    assert train.x.dtype == torch.float32
    assert train.classes == tuple("0123456789")
    assert sorted(_files.read_files) == [f"MNIST/raw/{name}" for name in sorted(FILES)]


def test_subset_and_normalisation_are_applied(folders, tiny):
    _place(folders[0] / "MNIST/raw")
    norm = Normalisation((0.5,), (2.0,))
    train, test = mnist(subset=(10, 5), normalisation=norm, download=False)
    assert train.y.bincount().tolist() == [1] * 10
    assert len(test) == 5
    assert train.normalisation == norm
    raw = (norm.invert(train.x) * 255).round().to(torch.uint8)[:, 0]
    assert all((raw[i] == torch.from_numpy(PIXELS)).flatten(1).all(1).any() for i in range(10))


def test_set_without_training_files_loads_its_test_part(folders, tiny):
    _place(folders[0] / "KMNIST/raw", [name for name in FILES if name.startswith("t10k")])
    assert len(kmnist(split="test", download=False)) == 20
    with pytest.raises(MissingData, match="its test set is there, read it with split='test'"):
        kmnist(download=False)


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("damage", ["truncated", "altered", "empty"])
def test_damaged_idx_file_is_refused_with_file_and_sums(folders, tiny, name, damage):
    _place(folders[0] / "MNIST/raw")
    content = FILES[name]
    altered = content[:-1] + bytes([content[-1] ^ 1])
    content = {"truncated": content[:-5], "altered": altered, "empty": b""}[damage]
    path = folders[0] / "MNIST/raw" / name
    path.write_bytes(content)
    found = hashlib.sha256(content).hexdigest()
    expected = hashlib.sha256(FILES[name]).hexdigest()
    with pytest.raises(DamagedFile, match=f"{path} has .* {found}, expected {expected}"):
        mnist(download=False)


def test_only_the_files_of_the_part_asked_for_are_read(folders, tiny):
    _place(folders[0] / "MNIST/raw")
    (folders[0] / "MNIST/raw/train-images-idx3-ubyte").write_bytes(b"damaged")
    assert len(mnist(split="test", download=False)) == 20


def test_truncated_file_without_known_sum_is_refused_by_its_size(folders, tiny):
    _place(folders[0] / "KMNIST/raw")
    path = folders[0] / "KMNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedFile, match=f"{path} has 15695 bytes, expected 15696"):
        kmnist(download=False)


@pytest.mark.parametrize("read", [mnist, fashion_mnist, kmnist, cifar10])
def test_missing_set_names_folders_variable_and_alternative(folders, read):
    data, cache = folders
    with pytest.raises(MissingData) as caught:
        read(download=False)
    for part in (f"HESSLAB_DATA is {data}", str(cache), "download=False", "hl.data.digits()"):
        assert part in str(caught.value)


def test_download_enters_the_cache_and_is_used_again(folders, tiny, server, monkeypatch, capfd):
    _serve("MNIST", server, monkeypatch)
    train, _ = mnist()
    assert len(train) == 20
    assert _kept(folders[1]) == [f"MNIST/raw/{name}" for name in sorted(FILES)]
    assert capfd.readouterr().err == ""
    shutil.rmtree(server[1])
    assert torch.equal(mnist(download=False)[0].x, train.x)


def test_download_without_known_sums_keeps_its_own(folders, tiny, server, monkeypatch):
    _serve("KMNIST", server, monkeypatch)
    assert len(kmnist()[0]) == 20
    path = folders[1] / "KMNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(DamagedFile, match=f"{path} has the SHA-256 sum"):
        kmnist(download=False)


def test_damaged_download_is_refused_and_nothing_is_kept(folders, tiny, server, monkeypatch):
    _serve("MNIST", server, monkeypatch)
    path = server[1] / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DamagedFile, match=r"MNIST does not have torchvision's MD5 sum; nothing"):
        mnist()
    assert not list(folders[1].iterdir())


def test_interrupted_download_leaves_nothing(folders, tiny, monkeypatch):
    def interrupted(self: object) -> None:
        Path(self.raw_folder).mkdir(parents=True)
        (Path(self.raw_folder) / "train-images-idx3-ubyte").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(_torchvision.load("datasets").MNIST, "download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mnist()
    assert not list(folders[1].iterdir())


def test_no_network_becomes_missing_data(folders, tiny, monkeypatch):
    reader = _torchvision.load("datasets").MNIST
    monkeypatch.setattr(reader, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(MissingData, match=r"the download failed: .*Set HESSLAB_DATA .*hl\.data"):
        mnist()
    assert not list(folders[1].iterdir())


def _batches() -> dict[str, bytes]:
    """CIFAR-10 of ten images a batch, in its own format."""
    rng = np.random.default_rng(1)
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    content = {}
    for name in names:
        pixels = rng.integers(0, 256, (10, 3072), dtype=np.uint8)
        content[name] = pickle.dumps({"data": pixels, "labels": list(range(10))})
    content["batches.meta"] = pickle.dumps({"label_names": list(image_tables.CIFAR10.classes)})
    return content


@pytest.fixture
def tiny_cifar(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    content = _batches()
    reader = _torchvision.load("datasets").CIFAR10
    md5 = {name: hashlib.md5(raw).hexdigest() for name, raw in content.items()}
    monkeypatch.setattr(reader, "train_list", [[n, md5[n]] for n in content if n[:4] == "data"])
    monkeypatch.setattr(reader, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(reader, "meta", reader.meta | {"md5": md5["batches.meta"]})
    files = {
        part: {
            f"cifar-10-batches-py/{n}": hashlib.sha256(raw).hexdigest()
            for n, raw in content.items()
            if n.startswith((start, "batches"))
        }
        for part, start in (("train", "data"), ("test", "test"))
    }
    monkeypatch.setattr(images, "CIFAR10", replace(image_tables.CIFAR10, files=files))
    return content


def _place_batches(folder: Path, content: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, raw in content.items():
        (folder / name).write_bytes(raw)


def test_cifar_batches_are_read_in_order(folders, tiny_cifar):
    _place_batches(folders[0] / "cifar-10-batches-py", tiny_cifar)
    train, test = cifar10(normalisation=Normalisation((0.0,) * 3, (1.0,) * 3), download=False)
    assert train.x.shape == (50, 3, 32, 32)
    assert train.x.is_contiguous()
    third = pickle.loads(tiny_cifar["data_batch_3"])["data"].reshape(10, 3, 32, 32)
    torch.testing.assert_close(train.x[20:30] * 255, torch.from_numpy(third).float())
    assert test.y.tolist() == list(range(10))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("data_batch_4", "train"),
        ("test_batch", "test"),
        ("batches.meta", "test"),
        ("data_batch_4", "both"),
        ("batches.meta", "both"),
    ],
)
def test_altered_cifar_batch_is_refused_before_it_is_unpickled(
    folders, tiny_cifar, name, split, monkeypatch
):
    folder = folders[0] / "cifar-10-batches-py"
    _place_batches(folder, tiny_cifar)
    (folder / name).write_bytes(tiny_cifar[name] + b".")
    monkeypatch.setattr(images.pickle, "load", lambda file, **_: pytest.fail("unpickled"))
    with pytest.raises(DamagedFile, match=f"{folder / name} has .*, expected"):
        cifar10(split=split, download=False)


def test_each_part_of_cifar_loads_alone(folders, tiny_cifar):
    folder = folders[0] / "cifar-10-batches-py"
    _place_batches(folder, {n: tiny_cifar[n] for n in ("test_batch", "batches.meta")})
    test = cifar10(split="test", normalisation=Normalisation((0,) * 3, (1,) * 3), download=False)
    expected = pickle.loads(tiny_cifar["test_batch"])["data"].reshape(10, 3, 32, 32)
    torch.testing.assert_close(test.x * 255, torch.from_numpy(expected).float())
    with pytest.raises(MissingData, match=r"data_batch_5.*read it with split='test'"):
        cifar10(download=False)


def test_a_file_without_a_known_sum_is_read_once_for_its_own(folders, tiny, monkeypatch):
    _place(folders[0] / "KMNIST/raw")
    read = []
    monkeypatch.setattr(_files, "sha256", lambda path: read.append(path.name) or "sum")
    monkeypatch.setattr(_files, "_sum", _files.sha256)
    kmnist(split="train", download=False)
    assert sorted(read) == ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"]
    assert _files.read_files == {f"KMNIST/raw/{name}": "sum" for name in sorted(read)}


def test_cifar_download_is_unpacked_and_checked(folders, tiny_cifar, server, monkeypatch):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, raw in tiny_cifar.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    (server[1] / "cifar-10-python.tar.gz").write_bytes(packed.getvalue())
    reader = _torchvision.load("datasets").CIFAR10
    monkeypatch.setattr(reader, "url", server[0] + "cifar-10-python.tar.gz")
    monkeypatch.setattr(reader, "tgz_md5", hashlib.md5(packed.getvalue()).hexdigest())
    assert len(cifar10(split="test")) == 10
    assert _kept(folders[1]) == [f"cifar-10-batches-py/{name}" for name in sorted(tiny_cifar)]


@pytest.mark.data
@pytest.mark.parametrize(
    ("read", "shape"), [(mnist, (10_000, 1, 28, 28)), (cifar10, (10_000, 3, 32, 32))]
)
def test_real_test_set_is_whole(real_data, read, shape):
    test = read(split="test", download=False)
    assert test.x.shape == shape
    assert len(test.y.unique()) == 10
    assert abs(test.x.mean()) < 0.03
    assert abs(test.x.std() - 1) < 0.03


@pytest.mark.data
@pytest.mark.parametrize("read", [fashion_mnist, kmnist])
def test_real_test_only_set_loads_balanced(real_data, read):
    test = read(split="test", download=False)
    assert test.y.bincount().tolist() == [1000] * 10
    assert abs(test.x.mean()) < 0.05


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(("read", "n"), [(mnist, 60_000), (cifar10, 50_000)])
def test_recorded_statistics_are_those_of_the_training_images(real_data, read, n):
    train = read(split="train", download=False)
    assert len(train) == n
    x = train.x.movedim(1, 0).flatten(1)
    assert x.mean(1, dtype=torch.float64).abs().max() < 1e-4
    assert (x.square_().mean(1, dtype=torch.float64) - 1).abs().max() < 1e-4
