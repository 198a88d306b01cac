"""Residual networks: the CIFAR family of depth 6n + 2, and ResNet-18."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional

from hesslab.models._construction import check_sizes, seeded

if TYPE_CHECKING:  # loading a network should not load the data package
    from hesslab.data.dataset import Normalisation


def resnet(
    depth: int,
    *,
    width: int | None = None,
    classes: int = 10,
    in_channels: int = 3,
    batchnorm: bool = True,
    residual: bool = True,
    seed: int = 0,
) -> nn.Module:
    r"""A residual network of two-convolution blocks, :math:`h \mapsto \mathrm{relu}(h + F(h))`.

    Depth 6n + 2 (8, 14, 20, 32, 44, 56, 110) is the form for small images: three stages of n
    blocks with ``width`` times 1, 2, 4 channels and shortcuts without parameters, which skip
    pixels and pad channels by zeros. Depth 18 is the form for ImageNet: 7 x 7 convolution and
    pooling, four stages of two blocks with ``width`` times 1, 2, 4, 8 channels, shortcuts by
    1 x 1 convolution; its parameters are named as torchvision's. Any image size goes in, since
    the last maps are averaged over their pixels.

    Without batch norm the convolutions have a bias, and the second one of each residual block
    starts smaller by the root of the number of blocks, so that outputs do not grow with depth.

    Args:
        depth: layers with weights on the longest way.
        width: channels of the first stage; None means 16, or 64 for depth 18, as published.
        classes: outputs; they are logits ``[N, classes]``.
        in_channels: channels of an image; inputs are ``[N, in_channels, H, W]``.
        batchnorm: normalise after every convolution.
        residual: add the shortcuts; False leaves a plain stack of the same layers.
        seed: of the initial weights, He-normal (fan-in for 6n + 2, fan-out for 18).

    Returns:
        The network, in training mode, on the CPU, in torch's default dtype: 269,722 parameters
        for depth 20, 11,689,512 for depth 18 with 1,000 classes.

    Raises:
        ValueError: the depth is neither 18 nor 6n + 2, or a size is not positive.
        TypeError: a size or the seed is no integer.

    Source: He, Zhang, Ren & Sun (2016), sections 4.1 and 4.2 (option A); scale of the branches
    without batch norm: Hanin & Rolnick (2018).
    """
    check_sizes(depth=depth, classes=classes, in_channels=in_channels)
    # 50 and 152 are 6n + 2 too, but by these names everyone means networks with bottlenecks
    if depth != 18 and (depth < 8 or depth % 6 != 2 or depth in (50, 152)):
        raise ValueError(
            f"depth={depth} is not a residual network of this family; expected 18 (the ImageNet "
            "form) or 6n + 2 (the CIFAR form): 8, 14, 20, 32, 44, 56, 110; bottleneck blocks are "
            "not built here"
        )
    first = width if width is not None else (64 if depth == 18 else 16)
    check_sizes(width=first)
    with seeded(seed):
        model: nn.Module
        if depth == 18:
            model = ImageNetResNet(first, classes, in_channels, batchnorm, residual)
        else:
            model = CifarResNet((depth - 2) // 6, first, classes, in_channels, batchnorm, residual)
        _initialise(model, fan="fan_out" if depth == 18 else "fan_in")
    return model


class CifarResNet(nn.Module):
    """Three stages of ``blocks`` blocks; made by `resnet`."""

    normalisation: Normalisation | None = None
    source: str | None = None

    def __init__(
        self,
        blocks: int,
        width: int,
        classes: int,
        in_channels: int,
        batchnorm: bool,
        residual: bool,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=not batchnorm)
        self.bn1 = _norm(width, batchnorm)
        options = {"batchnorm": batchnorm, "residual": residual, "projection": False}
        self.layer1 = _stage(blocks, width, width, 1, **options)
        self.layer2 = _stage(blocks, width, 2 * width, 2, **options)
        self.layer3 = _stage(blocks, 2 * width, 4 * width, 2, **options)
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[N, classes]`` of images ``[N, in_channels, H, W]``."""
        h = functional.relu(self.bn1(self.conv1(x)))
        h = self.layer3(self.layer2(self.layer1(h)))
        logits: Tensor = self.linear(h.mean((2, 3)))
        return logits


class ImageNetResNet(nn.Module):
    """Four stages of two blocks; made by `resnet` for depth 18."""

    normalisation: Normalisation | None = None
    source: str | None = None

    def __init__(
        self, width: int, classes: int, in_channels: int, batchnorm: bool, residual: bool
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=not batchnorm)
        self.bn1 = _norm(width, batchnorm)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        options = {"batchnorm": batchnorm, "residual": residual, "projection": True}
        self.layer1 = _stage(2, width, width, 1, **options)
        self.layer2 = _stage(2, width, 2 * width, 2, **options)
        self.layer3 = _stage(2, 2 * width, 4 * width, 2, **options)
        self.layer4 = _stage(2, 4 * width, 8 * width, 2, **options)
        self.fc = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[N, classes]`` of images ``[N, in_channels, H, W]``."""
        h = self.maxpool(functional.relu(self.bn1(self.conv1(x))))
        h = self.layer4(self.layer3(self.layer2(self.layer1(h))))
        logits: Tensor = self.fc(h.mean((2, 3)))
        return logits


class _Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut around them."""

    def __init__(
        self, inner: int, outer: int, stride: int, batchnorm: bool, shortcut: nn.Module | None
    ) -> None:
        super().__init__()
        bias = not batchnorm
        self.conv1 = nn.Conv2d(inner, outer, 3, stride=stride, padding=1, bias=bias)
        self.bn1 = _norm(outer, batchnorm)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1, bias=bias)
        self.bn2 = _norm(outer, batchnorm)
        self.downsample = shortcut  # the name that torchvision's weights have

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.bn1(self.conv1(x)))
        h = self.bn2(self.conv2(h))
        return functional.relu(h if self.downsample is None else h + self.downsample(x))


class _ZeroPad(nn.Module):
    """Option A: every ``stride``-th pixel, and zero channels on both sides."""

    def __init__(self, stride: int, extra: int) -> None:
        super().__init__()
        self.stride, self.extra = stride, extra

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        before = self.extra // 2
        return functional.pad(x, (0, 0, 0, 0, before, self.extra - before))


def _stage(
    blocks: int,
    inner: int,
    outer: int,
    stride: int,
    *,
    batchnorm: bool,
    residual: bool,
    projection: bool,
) -> nn.Sequential:
    """``blocks`` blocks, of which the first changes channels and resolution."""
    layers: list[nn.Module] = []
    for number in range(blocks):
        if number:
            inner, stride = outer, 1
        shortcut: nn.Module | None = None
        if residual and (inner, stride) == (outer, 1):
            shortcut = nn.Identity()
        elif residual and projection:
            convolution = nn.Conv2d(inner, outer, 1, stride=stride, bias=not batchnorm)
            shortcut = nn.Sequential(convolution, _norm(outer, batchnorm))
        elif residual:
            shortcut = _ZeroPad(stride, outer - inner)
        layers.append(_Block(inner, outer, stride, batchnorm, shortcut))
    return nn.Sequential(*layers)


def _norm(channels: int, batchnorm: bool) -> nn.Module:
    return nn.BatchNorm2d(channels) if batchnorm else nn.Identity()


def _initialise(model: nn.Module, fan: str) -> None:
    """He-normal weights, zero biases of convolutions, smaller branches where no norm tames them."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) or (isinstance(module, nn.Linear) and fan == "fan_in"):
            nn.init.kaiming_normal_(module.weight, mode=fan, nonlinearity="relu")  # type: ignore[arg-type]
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
    blocks = [module for module in model.modules() if isinstance(module, _Block)]
    for block in blocks:
        if block.downsample is not None and isinstance(block.bn2, nn.Identity):
            block.conv2.weight.data.mul_(len(blocks) ** -0.5)
