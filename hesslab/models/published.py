"""Networks with weights that others trained and published."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hesslab._files import check, fetch, find
from hesslab.data.dataset import Normalisation
from hesslab.errors import DamagedFile
from hesslab.models.residual import CifarResNet, ImageNetResNet, resnet

_IMAGENET_STATISTICS = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_CIFAR_AUTHORS = "https://github.com/akamaster/pytorch_resnet_cifar10"


@dataclass(frozen=True)
class _Published:
    """Where weights are, and how they are known to be the right ones."""

    depth: int
    classes: int
    file: str  # published name; it ends with the first 8 hexadecimal digits of its SHA-256
    url: str
    source: str
    digest: str | None = None  # of the named tensors, whatever file they came in
    copy: str | None = None  # a plain copy of the same tensors, as HESSLAB_DATA may hold it
    copy_sha256: str = ""

    def verify(self, path: Path) -> None:
        """Refuse a file whose tensors are not the published ones."""
        found = content_digest(read_weights(path))
        if self.digest is not None and found != self.digest:
            raise DamagedFile(
                f"the tensors in {path} have the digest {found}, but those published as "
                f"{self.file} have {self.digest}; delete the file and call again"
            )


def _cifar(depth: int, suffix: str, digest: str, copy_sha256: str) -> _Published:
    file = f"resnet{depth}-{suffix}.th"
    return _Published(
        depth=depth,
        classes=10,
        file=file,
        url=f"{_CIFAR_AUTHORS}/raw/master/pretrained_models/{file}",
        source=f"Y. Idelbayev, {_CIFAR_AUTHORS} (BSD 2-clause), trained on CIFAR-10",
        digest=digest,
        copy=f"cifar10_resnet{depth}.pt",
        copy_sha256=copy_sha256,
    )


_TABLE: dict[str, _Published] = {
    "cifar10-resnet20": _cifar(
        20,
        "12fca82f",
        digest="4e9c7169f9dd21fc20fefeb97ac8f494bbc2e803b6ae87ad4ff48d4de2c6f3c7",
        copy_sha256="52531237b36c6173d517e1a2a2d7ea9bf746b60ce925d61956b66c346b82008e",
    ),
    "cifar10-resnet32": _cifar(
        32,
        "d509ac18",
        digest="6e5d4e4858415ceedb3e049b0e86140d60dd6621e3e9aa5d667cb33e7e0e6ef5",
        copy_sha256="73b318cf7899a14d281bca1decbbaeb60b467942da0334a4e72f49d1a6a28f66",
    ),
    "cifar10-resnet56": _cifar(
        56,
        "4bfd9763",
        digest="8f1916e93836128853f6cb19667912ead2f1f4148ac95fd1467c8fa6ec484545",
        copy_sha256="b011068074af76b9007244d981fe3f2347fe38051f6c749c13027675cdcd5a5f",
    ),
    "imagenet-resnet18": _Published(
        depth=18,
        classes=1000,
        file="resnet18-f37072fd.pth",
        url="https://download.pytorch.org/models/resnet18-f37072fd.pth",
        source="torchvision, ResNet18_Weights.IMAGENET1K_V1 (BSD 3-clause), trained on ImageNet",
    ),
}


def pretrained(name: str, *, download: bool = True) -> CifarResNet | ImageNetResNet:
    """A residual network with published weights, and the normalisation that they expect.

    Weights are looked for in ``$HESSLAB_DATA/weights``, in the cache folder (``$HESSLAB_CACHE``),
    for ImageNet also in torch's own (``torch.hub``), and else downloaded from where their authors
    keep them. Files are compared with their checksums, and only tensors are ever unpickled.

    The CIFAR-10 networks reach 0.9173 (resnet20), 0.9263 (resnet32) and 0.9339 (resnet56) on the
    test set. Their source had no validation split: their training was chosen with that test set
    in view.

    Args:
        name: "cifar10-resnet20", "cifar10-resnet32", "cifar10-resnet56" or "imagenet-resnet18".
        download: whether the network may be used when there is no local copy.

    Returns:
        The network in evaluation mode, on the CPU, float32. ``model.normalisation`` is what its
        inputs need (``hesslab.data.cifar10(normalisation=model.normalisation)``), and
        ``model.source`` says who made the weights.

    Raises:
        ValueError: the name is unknown.
        MissingData: there is no local copy, and downloading is not allowed or fails.
        DamagedFile: the file is not the published one.
    """
    if name not in _TABLE:
        known = ", ".join(f'"{choice}"' for choice in _TABLE)
        raise ValueError(f'no published weights are known as "{name}"; expected one of {known}')
    entry = _TABLE[name]
    weights = read_weights(_find(entry, download))
    model = resnet(entry.depth, classes=entry.classes).to(torch.float32)
    assert isinstance(model, CifarResNet | ImageNetResNet)  # for the type checker
    model.load_state_dict(weights)
    model.normalisation = _IMAGENET_STATISTICS
    model.source = entry.source
    return model.eval()


def _find(entry: _Published, download: bool) -> Path:
    """The file with the weights, known to be the right one."""
    if entry.copy is not None and (copy := find(f"weights/{entry.copy}")) is not None:
        check(copy, entry.copy_sha256)
        return copy
    sha256 = Path(entry.file).stem.rpartition("-")[2]  # its first 8 digits
    if (shared := Path(torch.hub.get_dir()) / "checkpoints" / entry.file).is_file():
        check(shared, sha256)
        return shared
    return fetch(
        f"weights/{entry.file}",
        url=entry.url,
        sha256=sha256,
        download=download,
        alternative=f"hesslab.models.resnet({entry.depth}) trained by hesslab.training.fit",
        verify=entry.verify,
    )


def read_weights(path: Path) -> dict[str, Tensor]:
    """The named tensors of a weight file, without the wrappers that training scripts add.

    Args:
        path: a file of ``torch.save``: a state dict, or a dict that holds one as "state_dict".

    Returns:
        The state dict, on the CPU, without the "module." that data-parallel training prepends.

    Raises:
        DamagedFile: it cannot be read, or holds something else.
    """
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        raise DamagedFile(
            f"{path} cannot be read as a file of weights ({error}); delete it and call again"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise DamagedFile(f"{path} holds no dict of named tensors; delete it and call again")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def content_digest(weights: Mapping[str, Tensor]) -> str:
    """One number for a set of named tensors, whatever file they came in.

    Args:
        weights: tensors by name. Batch norm's counters of batches are left out: they play no part
            in the network's outputs, and copies of the same weights have them or not.

    Returns:
        SHA-256 over names, shapes, dtypes and bytes, in the order of the names.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        if not name.endswith("num_batches_tracked"):
            tensor = weights[name].detach().cpu().contiguous()
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
