from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from hesslab import plots


@dataclass(frozen=True)
class Fit:
    """A made-up regression: 80 points of a sine, a grid of 60 inputs, 12 samples."""

    x_train: torch.Tensor
    y_train: torch.Tensor
    x: torch.Tensor
    mean: torch.Tensor
    samples: torch.Tensor


@pytest.fixture(scope="session")
def fit() -> Fit:
    generator = torch.Generator().manual_seed(0)
    x_train = 4 * torch.rand(80, 1, generator=generator) - 2
    x = torch.linspace(-2.5, 2.5, 60)[:, None]
    noise = torch.randn(12, 60, 1, generator=generator)
    mean = torch.sin(3 * x)
    return Fit(x_train, torch.sin(3 * x_train), x, mean, mean + 0.3 * noise)


@pytest.fixture(scope="session")
def spectrum() -> np.ndarray[Any, Any]:
    """2,701 eigenvalues over 20 decades, the small ones of either sign, some zero."""
    values = np.logspace(3, -17, 2701)
    values[2000::2] *= -1
    values[-20:] = 0
    return values


def svg(figure: Any) -> str:
    """The file as a page would hold it."""
    buffer = io.StringIO()
    with plots.style():
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def to_svg() -> Callable[[Any], str]:
    return svg


@pytest.fixture
def line() -> Callable[[Any, str], Any]:
    """The line of some axes by the start of its label."""

    def find(axes: Any, label: str) -> Any:
        (found,) = [one for one in axes.get_lines() if str(one.get_label()).startswith(label)]
        return found

    return find


@pytest.fixture(scope="session")
def every_figure(fit: Fit, spectrum: Any) -> dict[str, Callable[[], Any]]:
    """One call of every public function that draws."""
    points = (fit.x_train, fit.y_train)
    top = spectrum[:20]
    return {
        "curve": lambda: plots.curve(*points, fit.x, fit.mean, truth=fit.mean, gap=(-0.5, 0.5)),
        "function_samples": lambda: plots.function_samples(
            fit.x, fit.samples, fit.mean, *points, limits=(-1.2, 1.2)
        ),
        "compare_samples": lambda: plots.compare_samples(
            fit.x, {"one": fit.samples, "two": 2 * fit.samples, "three": fit.samples},
            fit.mean, *points,
        ),
        "eigenvalues": lambda: plots.eigenvalues(
            spectrum, reference=spectrum, cutoff=1e-3, floor=1e-12
        ),
        "compare_eigenvalues": lambda: plots.compare_eigenvalues(
            {"one": top, "two": 2 * top}, errors={"one": 0.1 * np.abs(top)}, boundary=9
        ),
        "agreement": lambda: plots.agreement(top, top * (1 + 1e-7)),
        "threshold": lambda: plots.threshold(
            spectrum, 1e-6, np.abs(spectrum) <= 1e-3, x=fit.x, mean=fit.mean,
            deviation=0.1 + fit.x.abs(), x_train=fit.x_train, y_train=fit.y_train,
        ),
        "history": lambda: plots.history(
            {"train_loss": [2.0, 0.5, 0.04], "test_loss": [2.1, 0.6, 0.1],
             "test_accuracy": [0.2, 0.8, 0.95]}
        ),
        "images": lambda: plots.images(
            torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
            titles=[str(i) for i in range(10)], wrong=torch.arange(10) == 3,
        ),
    }  # fmt: skip


@pytest.fixture(scope="session")
def drawn(every_figure: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """Every figure, drawn once; tests must not change it."""
    return {name: draw() for name, draw in every_figure.items()}


@pytest.fixture(scope="session")
def texts(drawn: dict[str, Any]) -> dict[str, str]:
    """Every figure as SVG."""
    return {name: svg(figure) for name, figure in drawn.items()}
