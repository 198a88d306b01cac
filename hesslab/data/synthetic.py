"""Generated data whose truth is known: a sine with a gap, moons, spirals, blobs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from hesslab.data.dataset import Dataset, Normalisation

INTERVAL = (-3.0, 3.0)
"""Where the inputs of `sine` lie."""

_Point: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # labels [N], t [N] in 0..1 -> [N, 2]


def sine(
    n: int = 200,
    *,
    noise: float = 0.1,
    gap: Sequence[float] | None = (0.5, 2.0),
    frequency: float = 2.0,
    test_n: int = 200,
    seed: int = 0,
) -> tuple[Dataset, Dataset]:
    r"""A noisy sine on :math:`[-3, 3]`, with a gap in which no training example lies.

    Targets are :math:`y = \sin(f x) + \varepsilon` with Gaussian :math:`\varepsilon`. Training
    inputs are drawn uniformly outside the gap and sorted; test inputs stand at equal distances on
    the whole interval, the gap included, and their targets carry noise as well. Inputs are centred
    already and stay in their units.

    Args:
        n: training examples, 1 to 1,000,000.
        noise: standard deviation of the noise in units of y, 0 to 10.
        gap: its ends (left, right), inside the interval; None for no gap.
        frequency: :math:`f` in radians per unit of x, above 0 up to 100.
        test_n: test examples, 2 to 1,000,000.
        seed: of inputs and noise.

    Returns:
        (train, test): x ``[N, 1]``, y ``[N, 1]``, float32; ``info`` holds ``noise_variance``,
        ``gap``, ``frequency`` and ``interval``.

    Raises:
        ValueError: an argument is out of range; the message names the range.

    Example:
        >>> import hesslab as hl
        >>> train, test = hl.data.sine(n=50, gap=(-1, 1))
        >>> train.x.shape, bool((train.x.abs() < 1).any())
        (torch.Size([50, 1]), False)
    """
    _whole("n", n, 1, 1_000_000)
    _whole("test_n", test_n, 2, 1_000_000)
    _number("noise", noise, 0, 10)
    _number("frequency", frequency, 0, 100, above=True)
    left, right = _gap(gap)
    generator = _generator(seed)
    low, high = INTERVAL
    x = low + (high - low - (right - left)) * _uniform(n, generator).sort().values
    x = torch.where(x > left, x + (right - left), x)
    x_test = torch.linspace(low, high, test_n, dtype=torch.float64)
    info = {
        "noise_variance": noise**2,
        "gap": None if gap is None else (left, right),
        "frequency": frequency,
        "interval": INTERVAL,
    }

    def part(name: str, x: Tensor) -> Dataset:
        y = torch.sin(frequency * x) + noise * _normal(len(x), generator)
        return Dataset(x[:, None].float(), y[:, None].float(), f"sine, {name}", info=info)

    return part("training", x), part("test", x_test)


def moons(
    n: int = 200, *, noise: float = 0.15, test_n: int = 200, seed: int = 0
) -> tuple[Dataset, Dataset]:
    r"""Two interleaved half circles in the plane, one per class.

    With :math:`t` uniform on :math:`[0, \pi]`: the upper one is :math:`(\cos t, \sin t)`, the lower
    one :math:`(1 - \cos t, 1/2 - \sin t)`, both with Gaussian noise added.

    Args:
        n: training examples, 2 to 1,000,000; the classes differ by at most one.
        noise: standard deviation of the noise, in radii, 0 to 10.
        test_n: test examples, same range.
        seed: of positions and noise.

    Returns:
        (train, test): x ``[N, 2]`` float32, standardised with the statistics of the training
        part (``normalisation``), y ``[N]`` int64.

    Raises:
        ValueError: an argument is out of range; the message names the range.
    """

    def point(label: Tensor, t: Tensor) -> Tensor:
        angle = math.pi * t
        upper = torch.stack([angle.cos(), angle.sin()], 1)
        lower = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], 1)
        return torch.where(label[:, None] == 0, upper, lower)

    return _plane("moons", point, ("upper", "lower"), n, test_n, noise, seed)


def spirals(
    n: int = 300,
    *,
    classes: int = 2,
    turns: float = 1.0,
    noise: float = 0.05,
    test_n: int = 300,
    seed: int = 0,
) -> tuple[Dataset, Dataset]:
    r"""Spiral arms around the origin, one per class.

    With :math:`t` uniform on :math:`[0, 1]`, arm :math:`c` of :math:`C` is at radius
    :math:`0.1 + 0.9 t` and angle :math:`2 \pi (c / C + \text{turns} \cdot t)`; Gaussian noise is
    added to both coordinates.

    Args:
        n: training examples, ``classes`` to 1,000,000; the classes differ by at most one.
        classes: arms, 2 to 20.
        turns: how often an arm goes round, above 0 up to 10.
        noise: standard deviation of the noise in units of the largest radius, 0 to 10.
        test_n: test examples, same range as ``n``.
        seed: of positions and noise.

    Returns:
        (train, test): x ``[N, 2]`` float32, standardised with the statistics of the training
        part (``normalisation``), y ``[N]`` int64.

    Raises:
        ValueError: an argument is out of range; the message names the range.
    """
    _whole("classes", classes, 2, 20)
    _number("turns", turns, 0, 10, above=True)

    def point(label: Tensor, t: Tensor) -> Tensor:
        angle = 2 * math.pi * (label / classes + turns * t)
        return (0.1 + 0.9 * t)[:, None] * torch.stack([angle.cos(), angle.sin()], 1)

    names = tuple(f"arm {c}" for c in range(classes))
    return _plane("spirals", point, names, n, test_n, noise, seed)


def blobs(
    n: int = 300, *, classes: int = 3, noise: float = 0.35, test_n: int = 300, seed: int = 0
) -> tuple[Dataset, Dataset]:
    r"""Round Gaussian clouds in the plane, one per class, centred on the unit circle.

    The centre of class :math:`c` of :math:`C` is at angle :math:`2 \pi c / C`, so that the best
    possible classifier is known: the nearest centre.

    Args:
        n: training examples, ``classes`` to 1,000,000; the classes differ by at most one.
        classes: clouds, 2 to 20.
        noise: standard deviation of a cloud in each direction, in radii of the circle, 0 to 10.
        test_n: test examples, same range as ``n``.
        seed: of the positions.

    Returns:
        (train, test): x ``[N, 2]`` float32, standardised with the statistics of the training
        part (``normalisation``), y ``[N]`` int64.

    Raises:
        ValueError: an argument is out of range; the message names the range.
    """
    _whole("classes", classes, 2, 20)

    def point(label: Tensor, t: Tensor) -> Tensor:
        angle = 2 * math.pi * label.double() / classes
        return torch.stack([angle.cos(), angle.sin()], 1)

    names = tuple(f"blob {c}" for c in range(classes))
    return _plane("blobs", point, names, n, test_n, noise, seed)


def _plane(
    name: str, point: _Point, classes: tuple[str, ...], n: int, test_n: int, noise: float, seed: int
) -> tuple[Dataset, Dataset]:
    """Labelled points of the plane, standardised with the statistics of the training part."""
    _whole("n", n, len(classes), 1_000_000)
    _whole("test_n", test_n, len(classes), 1_000_000)
    _number("noise", noise, 0, 10)
    generator = _generator(seed)
    drawn = []
    for size in (n, test_n):
        label = torch.arange(size) % len(classes)
        x = point(label, _uniform(size, generator))
        drawn.append((x + noise * _normal(2 * size, generator).view(size, 2), label))
    x = drawn[0][0]
    deviation = x.std(0, correction=0)
    deviation[deviation == 0] = 1.0  # two points on one line have no spread across it
    normalisation = Normalisation(tuple(x.mean(0).tolist()), tuple(deviation.tolist()))
    train, test = (
        Dataset(
            normalisation.apply(x).float(),
            label,
            f"{name}, {part}",
            classes=classes,
            normalisation=normalisation,
            info={"noise_variance": noise**2},
        )
        for part, (x, label) in zip(("training", "test"), drawn, strict=True)
    )
    return train, test


def _gap(gap: Sequence[float] | None) -> tuple[float, float]:
    low, high = INTERVAL
    if gap is None:
        return high, high
    if len(gap) != 2 or not low < gap[0] < gap[1] < high:
        raise ValueError(
            f"gap={gap!r}; expected (left, right) with {low:g} < left < right < {high:g}, or None"
        )
    return float(gap[0]), float(gap[1])


def _whole(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name}={value!r}; expected a whole number from {low} to {high}")


def _number(name: str, value: float, low: float, high: float, *, above: bool = False) -> None:
    # Written so that NaN fails too.
    if not (low < value <= high if above else low <= value <= high):
        start = f"above {low:g}" if above else f"from {low:g}"
        raise ValueError(f"{name}={value!r}; expected a number {start} up to {high:g}")


def _generator(seed: int) -> torch.Generator:
    _whole("seed", seed, 0, 2**63 - 1)
    return torch.Generator().manual_seed(seed)


def _uniform(n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, dtype=torch.float64, generator=generator)


def _normal(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, dtype=torch.float64, generator=generator)
