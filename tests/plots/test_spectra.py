from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hesslab import plots
from hesslab.errors import NotFinite
from hesslab.plots.look import power_of_ten


def test_dots_are_the_eigenvalues_and_circles_the_reference(line: Any) -> None:
    values = torch.tensor([30.0, 4.0, 0.5], dtype=torch.float64)
    (axes,) = plots.eigenvalues(values, reference=[31.0, 4.5, 0.6], cutoff=1.0).axes
    np.testing.assert_array_equal(line(axes, "eigenvalue").get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(line(axes, "eigenvalue").get_ydata(), values)
    dense = line(axes, "dense")
    np.testing.assert_array_equal(dense.get_ydata(), [31.0, 4.5, 0.6])
    assert dense.get_markerfacecolor() == "none"
    np.testing.assert_array_equal(line(axes, "cut-off 1").get_ydata(), [1.0, 1.0])
    assert axes.get_yscale() == "log"
    assert axes.get_ylabel() == "eigenvalue |λ| [loss / parameter²]"
    assert axes.get_xlabel().startswith("index i")


def test_negative_and_zero_eigenvalues_have_their_own_marks(line: Any) -> None:
    (axes,) = plots.eigenvalues([5.0, 0.0, -2.0, 0.0, -0.5]).axes
    np.testing.assert_array_equal(line(axes, "eigenvalue").get_ydata(), [5.0])
    negative, zero = line(axes, "negative: 2"), line(axes, "exactly zero: 2")
    np.testing.assert_array_equal(negative.get_xdata(), [3, 5])
    np.testing.assert_array_equal(negative.get_ydata(), [2.0, 0.5])
    np.testing.assert_array_equal(zero.get_xdata(), [2, 4])
    np.testing.assert_allclose(zero.get_ydata(), 0.05, rtol=1e-12)
    assert len({one.get_marker() for one in axes.get_lines()}) == 3


def test_rounding_errors_stand_at_the_floor(line: Any) -> None:
    (axes,) = plots.eigenvalues([5.0, 1e-9, -1e-12, 0.0], floor=1e-8).axes
    low = line(axes, "at most 1e-08: 3")
    np.testing.assert_array_equal(low.get_ydata(), [1e-8] * 3)
    assert "rounding error" in [patch.get_label() for patch in axes.patches]


def test_no_eigenvalue_is_lost_among_thousands(spectrum: Any, line: Any) -> None:
    (axes,) = plots.eigenvalues(spectrum, reference=spectrum).axes
    ours = [line(axes, name) for name in ("eigenvalue", "negative", "exactly zero: 20")]
    np.testing.assert_array_equal(
        np.sort(np.concatenate([one.get_xdata() for one in ours])), np.arange(1, 2702)
    )
    np.testing.assert_array_equal(line(axes, "negative").get_ydata(), -spectrum[spectrum < 0])
    assert axes.get_xscale() == "log"
    assert line(axes, "dense").get_marker() == "None"  # a line, where circles would run together


def test_all_zero_spectrum_is_drawn(line: Any) -> None:
    (axes,) = plots.eigenvalues(torch.zeros(4)).axes
    assert len(line(axes, "exactly zero: 4").get_ydata()) == 4


def test_agreement_shows_relative_errors(line: Any) -> None:
    values, reference = np.array([4.0, 1.0, -0.5]), np.array([5.0, 1.0, -0.4])
    top, bottom = plots.agreement(values, reference).axes
    np.testing.assert_array_equal(line(top, "products only").get_ydata(), [4.0, 1.0])
    np.testing.assert_array_equal(line(top, "negative: 1").get_ydata(), [0.5])
    (errors, exact) = bottom.get_lines()
    np.testing.assert_allclose(errors.get_ydata(), [0.2, 0.25], rtol=1e-12)
    np.testing.assert_array_equal(errors.get_xdata(), [1, 3])
    np.testing.assert_array_equal(exact.get_xdata(), [2])
    assert exact.get_label() == "exactly equal: 1"
    assert bottom.get_ylabel() == "relative error"
    assert bottom.get_yscale() == "log"


def test_given_errors_are_shown_as_they_are() -> None:
    _, bottom = plots.agreement([4.0, 1.0], [4.0, 0.0], errors=[1e-9, 1e-3]).axes
    np.testing.assert_array_equal(bottom.get_lines()[0].get_ydata(), [1e-9, 1e-3])


def test_bad_spectra_are_named() -> None:
    with pytest.raises(ValueError, match=r"values has shape \[2, 2\]"):
        plots.eigenvalues(torch.eye(2))
    with pytest.raises(ValueError, match=r"values has shape \[0\]"):
        plots.eigenvalues([])
    with pytest.raises(NotFinite, match=r"values holds 1 of 2 .* index 1"):
        plots.eigenvalues([1.0, float("nan")])
    with pytest.raises(ValueError, match=r"cutoff is 0.*logarithmic"):
        plots.eigenvalues([1.0], cutoff=0.0)
    with pytest.raises(ValueError, match=r"floor is -1"):
        plots.eigenvalues([1.0], floor=-1.0)
    with pytest.raises(ValueError, match=r"reference has 3 values, but values has 2"):
        plots.agreement([2.0, 1.0], [2.0, 1.0, 0.5])
    with pytest.raises(ValueError, match=r"reference is zero at index 1.*pass errors="):
        plots.agreement([2.0, 1.0], [2.0, 0.0])
    with pytest.raises(ValueError, match=r"errors holds -1"):
        plots.agreement([2.0, 1.0], [2.0, 1.0], errors=[0.0, -1.0])


@pytest.mark.parametrize(
    ("x", "text"), [(1e-12, "10⁻¹²"), (1.0, "10⁰"), (2e-3, "2·10⁻³"), (1e34, "10³⁴")]
)
def test_powers_are_written_in_plain_text(x: float, text: str) -> None:
    assert power_of_ten(x) == text
