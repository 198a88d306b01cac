"""Convolutional networks without shortcuts: LeNet-5 and VGG."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn

from hesslab.models._construction import (
    Activation,
    activation_layer,
    check_image_shape,
    check_sizes,
    seeded,
)

# Convolutions per stage; a stage ends with a pooling layer. Simonyan & Zisserman, table 1.
_VGG_STAGES: dict[int, tuple[int, ...]] = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
_VGG_WIDTHS = (1, 2, 4, 8, 8)


def lenet(
    in_shape: tuple[int, int, int] = (1, 28, 28),
    classes: int = 10,
    *,
    activation: Activation = "relu",
    seed: int = 0,
) -> nn.Sequential:
    """LeNet-5: two convolutions of 6 and 16 channels, then layers of 120, 84 and ``classes`` units.

    Each convolution is followed by the activation and 2 x 2 max-pooling. Kernels and padding
    follow from the shorter side of the image:

    - 32 pixels and more: 5 x 5 without padding, as in the paper;
    - 12 to 31: 5 x 5, the first padded by 2, so that 28 x 28 gives the paper's 5 x 5 maps;
    - 4 to 11: 3 x 3, both padded by 1, so that 8 x 8 ends in 2 x 2 maps.

    Args:
        in_shape: (channels, height, width) of an image, pixels; inputs are ``[N, *in_shape]``.
        classes: outputs; they are logits ``[N, classes]``.
        activation: the paper has a scaled tanh, the field uses "relu".
        seed: of the initial weights, torch's defaults.

    Returns:
        The network, in training mode, on the CPU, in torch's default dtype: 61,706 parameters
        for 28 x 28 pixels, 19,754 for 8 x 8.

    Raises:
        ValueError: a side is below 4 pixels, a size is not positive, the activation is unknown.
        TypeError: a size or the seed is no integer.

    Source: LeCun, Bottou, Bengio & Haffner (1998), figure 2.
    """
    check_image_shape(in_shape, smallest=4)
    check_sizes(classes=classes)
    side = min(in_shape[1:])
    kernel, paddings = (5, (2 if side < 32 else 0, 0)) if side >= 12 else (3, (1, 1))
    shrink = [2 * padding - (kernel - 1) for padding in paddings]
    height, width = (((size + shrink[0]) // 2 + shrink[1]) // 2 for size in in_shape[1:])
    with seeded(seed):
        return nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(in_shape[0], 6, kernel, padding=paddings[0]),
                activation1=activation_layer(activation),
                pool1=nn.MaxPool2d(2),
                conv2=nn.Conv2d(6, 16, kernel, padding=paddings[1]),
                activation2=activation_layer(activation),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                fc1=nn.Linear(16 * height * width, 120),
                activation3=activation_layer(activation),
                fc2=nn.Linear(120, 84),
                activation4=activation_layer(activation),
                fc3=nn.Linear(84, classes),
            )
        )


def vgg(
    depth: Literal[11, 13, 16, 19],
    *,
    batchnorm: bool = True,
    classes: int = 10,
    in_shape: tuple[int, int, int] = (3, 32, 32),
    width: int = 64,
    seed: int = 0,
) -> nn.Module:
    """VGG with one linear layer on top, the form used for small images.

    Stages of 3 x 3 convolutions with ``width`` times 1, 2, 4, 8, 8 channels, each ended by 2 x 2
    max-pooling; a pooling that would leave no pixel is left out. What remains is averaged over
    its pixels. Convolutions have a bias only without batch norm, where it is not redundant.

    Args:
        depth: layers with weights in the paper's form, whose head has three of them.
        batchnorm: normalise after every convolution.
        classes: outputs; they are logits ``[N, classes]``.
        in_shape: (channels, height, width) of an image, pixels; inputs are ``[N, *in_shape]``.
        width: channels of the first stage.
        seed: of the initial weights, He-normal over the fan-out, as torchvision's.

    Returns:
        The network, in training mode, on the CPU, in torch's default dtype: 9.2 million
        parameters for depth 11 and width 64.

    Raises:
        ValueError: the depth is unknown or a size is not positive.
        TypeError: a size or the seed is no integer.

    Source: Simonyan & Zisserman (2015), table 1.
    """
    if depth not in _VGG_STAGES:
        known = ", ".join(map(str, _VGG_STAGES))
        raise ValueError(f"depth={depth} is not a VGG; expected one of {known}")
    check_image_shape(in_shape, smallest=1)
    check_sizes(classes=classes, width=width)
    with seeded(seed):
        model = _VGG(_VGG_STAGES[depth], in_shape, width, classes, batchnorm)
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    return model


class _VGG(nn.Module):
    """Convolutions, mean over pixels, one linear layer."""

    def __init__(
        self,
        stages: tuple[int, ...],
        in_shape: tuple[int, int, int],
        width: int,
        classes: int,
        batchnorm: bool,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, side = in_shape[0], min(in_shape[1:])
        for convolutions, factor in zip(stages, _VGG_WIDTHS, strict=True):
            for _ in range(convolutions):
                layers.append(nn.Conv2d(channels, width * factor, 3, padding=1, bias=not batchnorm))
                channels = width * factor
                layers += [nn.BatchNorm2d(channels)] if batchnorm else []
                layers.append(nn.ReLU())
            if side >= 2:
                layers.append(nn.MaxPool2d(2))
                side //= 2
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.features(x)  # (N, C, H, W)
        logits: Tensor = self.classifier(maps.mean((2, 3)))  # (N, classes)
        return logits
