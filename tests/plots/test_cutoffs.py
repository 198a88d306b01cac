from __future__ import annotations

import io
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch

from hesslab import plots


def call(fit: Any, values: Any, rtol: float = 1e-6, **change: Any) -> Any:
    given = {
        "kept": np.abs(np.asarray(values)) <= rtol * np.abs(np.asarray(values)).max(),
        "x": fit.x, "mean": fit.mean, "deviation": torch.full((60,), 0.25),
        "x_train": fit.x_train, "y_train": fit.y_train,
    }  # fmt: skip
    given.update(change)
    return plots.threshold(values, rtol, given.pop("kept"), **given)


def test_few_eigenvalues_are_drawn_one_by_one(fit: Any, line: Any) -> None:
    left, right = call(fit, [8.0, 2.0, 1e-3, -1e-9, 0.0], rtol=1e-2).axes
    np.testing.assert_array_equal(line(left, "constrained").get_xdata(), [1, 2])
    np.testing.assert_array_equal(line(left, "constrained").get_ydata(), [8.0, 2.0])
    np.testing.assert_array_equal(line(left, "free").get_xdata(), [3, 4, 5])
    np.testing.assert_array_equal(line(left, "free").get_ydata(), [1e-3, 1e-9, 8e-17])
    np.testing.assert_allclose(line(left, "cut-off").get_ydata(), 0.08)
    assert left.get_title("left") == "3 of 5 directions free"
    np.testing.assert_array_equal(line(right, "mean").get_ydata(), fit.mean[:, 0])
    np.testing.assert_array_equal(line(right, "data").get_ydata(), fit.y_train[:, 0])
    low, high = (right.collections[0].get_datalim(right.transData).intervaly).tolist()
    assert low == pytest.approx(float(fit.mean.min()) - 0.5)
    assert high == pytest.approx(float(fit.mean.max()) + 0.5)


def test_many_eigenvalues_are_thinned_but_not_at_the_cut(
    fit: Any, spectrum: Any, line: Any
) -> None:
    left, _ = call(fit, spectrum).axes
    constrained, free = (line(left, name).get_xdata() for name in ("constrained", "free"))
    kept = np.abs(spectrum) <= 1e-6 * 1e3
    assert constrained.max() == (~kept).sum()
    assert free.min() == (~kept).sum() + 1
    assert (constrained.min(), free.max()) == (1, 2701)
    assert len(constrained) + len(free) < 70
    assert left.get_title("left") == f"{kept.sum():,} of 2,701 directions free"


def test_only_the_cut_moves_between_frames(fit: Any, spectrum: Any) -> None:
    frames = [call(fit, spectrum, rtol=r, limits=(-3, 3)) for r in (1e-2, 1e-10)]
    for one, other in zip(frames[0].axes, frames[1].axes, strict=True):
        assert one.get_xlim() == other.get_xlim()
        assert one.get_ylim() == other.get_ylim()


def test_twenty_frames_stay_below_a_megabyte(fit: Any, spectrum: Any) -> None:
    x, x_train = torch.linspace(-2.5, 2.5, 500), torch.linspace(-2, 2, 300)
    figure = call(
        fit, spectrum, x=x, mean=torch.sin(9 * x), deviation=x.abs(), x_train=x_train,
        y_train=torch.sin(9 * x_train),
    )  # fmt: skip
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # its long list of fonts costs the most
        figure.savefig(buffer, format="svg", transparent=True)
    assert 20 * len(buffer.getvalue().encode()) <= 1_000_000


def test_data_points_are_thinned_evenly(fit: Any, line: Any) -> None:
    x_train = torch.arange(1000.0)
    _, right = call(fit, [2.0, 1.0], x_train=x_train, y_train=2 * x_train).axes
    shown = line(right, "data")
    assert len(shown.get_xdata()) == 80
    assert (shown.get_xdata()[0], shown.get_xdata()[-1]) == (0, 999)
    np.testing.assert_array_equal(shown.get_ydata(), 2 * shown.get_xdata())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kept": np.array([2, 3])}, r"kept is int64 of shape \[2\].*bool for each of the 5"),
        ({"kept": torch.ones(4, dtype=torch.bool)}, r"kept is bool of shape \[4\]"),
        ({"rtol": 0.0}, r"rtol is 0"),
        ({"floor": -1.0}, r"floor is -1"),
        ({"deviation": torch.full((60,), -1.0)}, r"deviation holds -1.*root of the variance"),
        ({"deviation": torch.zeros(3)}, r"deviation has 3 values, but x has 60"),
        ({"limits": (1, 0)}, r"limits is \(1, 0\)"),
    ],
)
def test_bad_frames_are_named(fit: Any, change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(fit, [8.0, 2.0, 1e-3, 1e-9, 0.0], **change)
