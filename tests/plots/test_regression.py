from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hesslab import plots
from hesslab.errors import NotFinite


def test_curve_shows_what_it_was_given(fit: Any, line: Any) -> None:
    figure = plots.curve(
        fit.x_train, fit.y_train, fit.x, fit.mean, truth=2 * fit.mean, gap=(-0.5, 0.25)
    )
    (axes,) = figure.axes
    np.testing.assert_array_equal(line(axes, "data").get_xdata(), fit.x_train[:, 0])
    np.testing.assert_array_equal(line(axes, "data").get_ydata(), fit.y_train[:, 0])
    np.testing.assert_array_equal(line(axes, "fit").get_xdata(), fit.x[:, 0])
    np.testing.assert_array_equal(line(axes, "fit").get_ydata(), fit.mean[:, 0])
    np.testing.assert_array_equal(line(axes, "true").get_ydata(), 2 * fit.mean[:, 0])
    (band,) = axes.patches
    assert (band.get_x(), band.get_x() + band.get_width()) == (-0.5, 0.25)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("input x", "output y")
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [
        "no data", "data", "true function", "fit",
    ]  # fmt: skip


def test_graphs_and_half_precision_are_taken(fit: Any, line: Any) -> None:
    mean = fit.mean.bfloat16().requires_grad_()
    (axes,) = plots.curve(fit.x_train, fit.y_train, fit.x, mean).axes
    np.testing.assert_array_equal(line(axes, "fit").get_ydata(), mean.detach().double()[:, 0])


def test_samples_are_one_line_each(fit: Any, line: Any) -> None:
    (axes,) = plots.function_samples(fit.x, fit.samples, fit.mean, fit.x_train, fit.y_train).axes
    drawn = [one.get_ydata() for one in axes.get_lines() if len(one.get_ydata()) == len(fit.x)]
    np.testing.assert_array_equal(drawn[:12], fit.samples[:, :, 0])
    np.testing.assert_array_equal(line(axes, "mean").get_ydata(), fit.mean[:, 0])
    assert line(axes, "12 samples") is axes.get_lines()[0]


def test_samples_that_leave_the_limits_are_counted(fit: Any) -> None:
    samples = torch.zeros(5, 60)
    samples[1, 7] = 3.0
    samples[4, 0] = -3.0
    (axes,) = plots.function_samples(
        fit.x, samples, fit.mean, fit.x_train, fit.y_train, limits=(-2, 2)
    ).axes
    assert axes.get_ylim() == (-2, 2)
    assert axes.get_title("left") == "2 of 5 samples leave the panel"


def test_panels_share_axes_and_carry_titles(fit: Any) -> None:
    samples = {"narrow": fit.samples, "wide": 4 * fit.samples}
    figure = plots.compare_samples(fit.x, samples, fit.mean, fit.x_train, fit.y_train)
    left, right = figure.axes
    assert [a.get_title("left") for a in figure.axes] == ["narrow", "wide"]
    assert left.get_ylim() == right.get_ylim()
    np.testing.assert_array_equal(right.get_lines()[3].get_ydata(), 4 * fit.samples[3, :, 0])
    assert len(figure.legends) == 1


def test_odd_panels_leave_no_empty_axes(fit: Any) -> None:
    samples = {name: fit.samples for name in "abc"}
    figure = plots.compare_samples(fit.x, samples, fit.mean, fit.x_train, fit.y_train)
    assert [a.get_title("left") for a in figure.axes] == ["a", "b", "c"]
    assert figure.axes[1].get_xlabel() == "input x"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": torch.zeros(59)}, r"mean has 59 values, but x has 60"),
        ({"y_train": torch.zeros(3)}, r"y_train has 3 values, but x_train has 80"),
        ({"x_train": torch.zeros(4, 2)}, r"x_train has shape \[4, 2\].*x_train\[:, 0\]"),
        ({"x": torch.linspace(1, -1, 60)}, r"x falls at index 1.*sort x"),
        ({"x": torch.zeros(0)}, r"x has shape \[0\]"),
        ({"gap": (1.0, -1.0)}, r"gap is \(1.0, -1.0\).*low < high"),
        ({"truth": torch.zeros(1)}, r"truth has 1 values, but x has 60"),
    ],
)
def test_bad_curves_are_named(fit: Any, change: Any, message: str) -> None:
    given = {"x_train": fit.x_train, "y_train": fit.y_train, "x": fit.x, "mean": fit.mean}
    with pytest.raises(ValueError, match=message):
        plots.curve(**{**given, **change})


def test_nan_is_located(fit: Any) -> None:
    mean = fit.mean.clone()
    mean[[7, 9]] = torch.nan
    with pytest.raises(NotFinite, match=r"mean holds 2 of 60 .* first at index 7"):
        plots.curve(fit.x_train, fit.y_train, fit.x, mean)


def test_bad_samples_are_named(fit: Any) -> None:
    rest = (fit.mean, fit.x_train, fit.y_train)
    with pytest.raises(ValueError, match=r"samples has shape \[60, 12\].*\[S, 60\].*transpose"):
        plots.function_samples(fit.x, fit.samples[:, :, 0].T, *rest)
    with pytest.raises(ValueError, match=r"samples\['prior'\] has shape \[60\]"):
        plots.compare_samples(fit.x, {"prior": fit.mean[:, 0]}, *rest)
    with pytest.raises(ValueError, match="samples is empty"):
        plots.compare_samples(fit.x, {}, *rest)
    with pytest.raises(ValueError, match=r"limits is \(2, 2\)"):
        plots.function_samples(fit.x, fit.samples, *rest, limits=(2, 2))
    broken = fit.samples.clone()
    broken[3, 5] = torch.inf
    with pytest.raises(NotFinite, match=r"first at index \(3, 5\)"):
        plots.function_samples(fit.x, broken, *rest)
