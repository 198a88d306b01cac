from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from hesslab import plots
from hesslab.errors import NotFinite


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(10, 3, 6, 4, generator=torch.Generator().manual_seed(0))


def test_pixels_are_shown_as_they_are(x: torch.Tensor) -> None:
    figure = plots.images(x, columns=4)
    assert len(figure.axes) == 10
    for axes, image in zip(figure.axes, x, strict=True):
        (shown,) = axes.images
        np.testing.assert_array_equal(shown.get_array(), image.permute(1, 2, 0).double())
        assert shown.get_interpolation() == "none"


def test_grey_images_share_one_scale(x: torch.Tensor) -> None:
    grey = 7 * x[:, :1] - 3
    for axes in plots.images(grey).axes:
        assert axes.images[0].get_clim() == (float(grey.min()), float(grey.max()))


def test_wrong_images_are_framed_and_bold(x: torch.Tensor) -> None:
    wrong = torch.arange(10) == 4
    figure = plots.images(x, titles=[f"{i}" for i in range(10)], wrong=wrong)
    frames = [all(s.get_visible() for s in axes.spines.values()) for axes in figure.axes]
    assert frames == wrong.tolist()
    assert [a.get_title() for a in figure.axes] == [str(i) for i in range(10)]
    assert [a.title.get_fontweight() == "bold" for a in figure.axes] == wrong.tolist()


def test_long_titles_widen_the_figure_and_do_not_overlap(x: torch.Tensor) -> None:
    figure = plots.images(x[:8], titles=["automobile"] * 8, wrong=[True] * 8)
    with plots.style():
        figure.draw_without_rendering()
    boxes = [axes.title.get_window_extent() for axes in figure.axes]
    assert figure.get_figwidth() == 7.2
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))


def test_rounding_beyond_the_colours_is_forgiven(x: torch.Tensor) -> None:
    shown = plots.images(x * 1.0005 - 1e-4).axes[0].images[0].get_array()
    assert shown.min() >= 0
    assert shown.max() <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3, 8, 8)}, r"x has shape \[3, 8, 8\].*unsqueeze\(1\)"),
        ({"x": torch.zeros(3, 8, 8, 3)}, r"x has shape \[3, 8, 8, 3\].*permute"),
        ({"x": torch.zeros(0, 1, 8, 8)}, r"x has shape \[0, 1, 8, 8\]"),
        ({"x": torch.zeros(201, 1, 2, 2)}, r"x holds 201 images.*x\[:200\]"),
        ({"x": torch.full((2, 3, 2, 2), -1.5)}, r"colours lie in 0 \.\. 1.*normalisation\.invert"),
        ({"titles": ["a"]}, r"titles has 1 entries, but x has 10 images"),
        ({"wrong": [True]}, r"wrong has 1 entries, but x has 10 images"),
        ({"wrong": [4]}, r"wrong is int64.*predictions != targets"),
        ({"columns": 0}, r"columns is 0"),
    ],
)
def test_bad_images_are_named(x: torch.Tensor, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plots.images(**{"x": x, **change})


def test_nan_pixels_are_located(x: torch.Tensor) -> None:
    x[2, 1, 0, 3] = torch.nan
    with pytest.raises(NotFinite, match=r"index \(2, 1, 0, 3\)"):
        plots.images(x)
