import pytest
import torch

from hesslab import models


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("in_shape", "parameters", "maps"),
    [
        # 5 x 5 kernels: 6(25+1) + 16(150+1) + 120(400+1) + 84(121) + 10(85)
        ((1, 28, 28), 61706, (5, 5)),
        ((3, 32, 32), 62006, (5, 5)),
        ((1, 31, 31), 61706, (5, 5)),
        # 3 x 3 kernels: 6(9+1) + 16(54+1) + 120(64+1) + 84(121) + 10(85)
        ((1, 8, 8), 19754, (2, 2)),
        ((2, 11, 40), 50528, (2, 10)),
    ],
)
def test_lenet_has_the_stated_maps_and_parameters(in_shape, parameters, maps):
    model = models.lenet(in_shape)
    x = torch.randn(2, *in_shape)
    assert count(model) == parameters
    assert model(x).shape == (2, 10)
    assert model[:6](x).shape == (2, 16, *maps)


def test_lenet_on_padded_images_equals_the_unpadded_paper_form():
    padded, unpadded = models.lenet((1, 28, 28), seed=1), models.lenet((1, 32, 32), seed=1)
    x = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(padded(x), unpadded(torch.nn.functional.pad(x, (2, 2, 2, 2))))


def test_vgg11_has_the_published_size():
    # torchvision's vgg11 convolutions have 9,220,480 parameters; the head 512 * 10 + 10
    assert count(models.vgg(11, batchnorm=False)) == 9_220_480 + 5_130
    # with batch norm: 2,752 biases become scales, and as many shifts come
    assert count(models.vgg(11)) == 9_220_480 + 5_130 + 2_752


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_vgg_depth_counts_its_convolutions(depth):
    model = models.vgg(depth, width=2)
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == depth - 3  # the paper's head has three layers
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_vgg_leaves_out_poolings_that_would_leave_no_pixel():
    model = models.vgg(11, width=2, in_shape=(1, 8, 8))
    assert sum(isinstance(m, torch.nn.MaxPool2d) for m in model.modules()) == 3
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 10)


def test_unfit_shapes_and_depths_are_refused():
    with pytest.raises(ValueError, match="expected sides of at least 4 pixels"):
        models.lenet((1, 3, 8))
    with pytest.raises(ValueError, match=r"has 2 entries; expected \(channels, height, width\)"):
        models.lenet((8, 8))
    with pytest.raises(ValueError, match="depth=12 is not a VGG; expected one of 11, 13, 16, 19"):
        models.vgg(12)
    with pytest.raises(ValueError, match="width=0 is out of range"):
        models.vgg(11, width=0)
