"""Figures of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from hesslab.plots._arrays import Array, ArrayLike, finite, plain
from hesslab.plots.look import DOUBLE, PALETTE, SINGLE, panels, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST = 200
_TITLE_POINTS = 9
_INCHES_PER_LETTER = 0.085  # of a title; DejaVu Sans at 9 points, with a little air


def images(
    x: ArrayLike,
    *,
    titles: Sequence[str] | None = None,
    wrong: ArrayLike | None = None,
    columns: int = 8,
) -> Figure:
    """Images in a grid, in grey or in colour, as the pixels they are.

    Grey images share one scale, from the smallest value of all to the largest.

    Args:
        x: images, [n, 1, H, W] of any unit or [n, 3, H, W] between 0 and 1, n at most 200.
        titles: a short text above each, [n]; a line break is kept.
        wrong: True for the images to frame, [n] of bool.
        columns: images in a row.

    Returns:
        A grid, 5.2 inches wide, or 7.2 where the titles need it.

    Raises:
        ValueError: a shape or length does not fit, a colour leaves 0..1, or ``columns`` is below 1.
        NotFinite: a pixel is NaN or infinite.
        MissingExtra: matplotlib is not installed.
    """
    pixels = _pixels(x)
    n = len(pixels)
    names = [""] * n if titles is None else [str(title) for title in titles]
    framed = np.zeros(n, dtype=bool) if wrong is None else _flags(wrong)
    for name, length in (("titles", len(names)), ("wrong", len(framed))):
        if length != n:
            raise ValueError(
                f"{name} has {length} entries, but x has {n} images; one each is needed"
            )
    if columns < 1:
        raise ValueError(f"columns is {columns}, but a row holds at least 1 image")
    columns = min(columns, n)
    rows = -(-n // columns)
    width, height = _size(pixels, names, rows, columns)
    limits = (float(pixels.min()), float(pixels.max()))
    with style():
        figure, grid = panels(width, height, rows=rows, columns=columns)
        figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
        for axes, image, name, frame in zip(grid.flat, pixels, names, framed, strict=False):
            _draw(axes, image, limits, frame=bool(frame))
            axes.set_title(
                name, fontsize=_TITLE_POINTS, pad=3, loc="center", linespacing=1.0,
                fontweight="bold" if frame else "normal",
            )  # fmt: skip
        for axes in grid.flat[n:]:
            axes.remove()
    return figure


def _pixels(x: ArrayLike) -> Array:
    """Images [n, C, H, W], checked."""
    array = plain(x)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or not array.size:
        raise ValueError(
            f"x has shape {list(array.shape)}, but [n, 1, H, W] or [n, 3, H, W] with n >= 1 is "
            "needed; add the channel with x.unsqueeze(1), or permute [n, H, W, C]"
        )
    if len(array) > _MOST:
        raise ValueError(
            f"x holds {len(array)} images, but at most {_MOST} are drawn; take some: x[:{_MOST}]"
        )
    finite("x", array)
    # Rounding of a normalisation and its inverse in float32 is forgiven.
    if array.shape[1] == 3 and not (array.min() > -1e-3 and array.max() < 1 + 1e-3):
        raise ValueError(
            f"x lies in {array.min():.3g} .. {array.max():.3g}, but colours lie in 0 .. 1; "
            "undo the normalisation first: dataset.normalisation.invert(x)"
        )
    return array


def _flags(wrong: ArrayLike) -> Array:
    """A mask as bool."""
    flags = wrong.detach().cpu().numpy() if isinstance(wrong, Tensor) else np.asarray(wrong)
    if flags.dtype != bool or flags.ndim != 1:
        raise ValueError(
            f"wrong is {flags.dtype} of shape {list(flags.shape)}, but one bool per image is "
            "needed; build it as predictions != targets"
        )
    return flags


def _size(pixels: Array, names: list[str], rows: int, columns: int) -> tuple[float, float]:
    """Width and height of the figure in inches."""
    lines = [line for name in names for line in name.split("\n")]
    longest = max(len(line) for line in lines) * _INCHES_PER_LETTER
    width = SINGLE if longest <= SINGLE / columns else DOUBLE
    # A few large images need not fill the width.
    width = min(width, columns * max(1.6, longest))
    above = max(name.count("\n") + 1 for name in names) * 0.16 if any(names) else 0.0
    tall = width / columns * pixels.shape[2] / pixels.shape[3]
    return width, rows * (tall + above + 0.04)


def _draw(axes: Axes, image: Array, limits: tuple[float, float], *, frame: bool) -> None:
    """One image [C, H, W] without axes; framed or not."""
    if len(image) == 1:
        axes.imshow(image[0], cmap="gray", vmin=limits[0], vmax=limits[1], interpolation="none")
    else:
        axes.imshow(np.clip(image.transpose(1, 2, 0), 0, 1), interpolation="none")  # [H, W, 3]
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=frame, color=PALETTE[1], linewidth=3)
