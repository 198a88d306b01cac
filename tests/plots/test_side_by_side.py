from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hesslab import plots
from hesslab.errors import NotFinite

HESSIAN = torch.tensor([30.0, 4.0, 0.5], dtype=torch.float64)


def bars(container: Any) -> np.ndarray[Any, Any]:
    """Ends of the error bars, [k, 2]."""
    (lines,) = container.lines[2]
    return np.array([segment[:, 1] for segment in lines.get_segments()])


def test_marks_are_the_eigenvalues_and_bars_their_errors() -> None:
    sets = {"Hessian": HESSIAN, "GGN": [29.0, 4.5]}
    (axes,) = plots.compare_eigenvalues(sets, errors={"Hessian": [2.0, 0.0, 0.1]}).axes
    first, second = axes.containers
    np.testing.assert_array_equal(first.lines[0].get_ydata(), HESSIAN)
    np.testing.assert_array_equal(second.lines[0].get_ydata(), [29.0, 4.5])
    np.testing.assert_allclose(bars(first), [[28, 32], [4, 4], [0.4, 0.6]], rtol=1e-12)
    assert not second.has_yerr
    assert axes.get_yscale() == "log"
    assert axes.get_ylabel() == "eigenvalue λ [loss / parameter²]"
    assert axes.get_xlabel().startswith("index i")


def test_sets_differ_by_marker_and_stand_beside_each_other() -> None:
    sets = {str(number): HESSIAN for number in range(6)}
    (axes,) = plots.compare_eigenvalues(sets).axes
    marks = [container.lines[0] for container in axes.containers]
    assert len({mark.get_marker() for mark in marks}) == 6
    places = np.array([mark.get_xdata() for mark in marks])
    assert (np.diff(places, axis=0) > 0).all()
    np.testing.assert_array_equal(places.round(), np.tile([1, 2, 3], (6, 1)))


def test_the_boundary_stands_between_two_eigenvalues(line: Any) -> None:
    (axes,) = plots.compare_eigenvalues({"Hessian": HESSIAN}, boundary=2).axes
    np.testing.assert_array_equal(line(axes, "after 2").get_xdata(), [2.5, 2.5])


def test_a_bar_below_zero_does_not_stretch_the_log_axis() -> None:
    (axes,) = plots.compare_eigenvalues({"a": HESSIAN}, errors={"a": [0.0, 0.0, 9.0]}).axes
    assert axes.get_ylim()[0] == pytest.approx(0.25)


def test_negative_eigenvalues_are_drawn_on_a_linear_axis() -> None:
    (axes,) = plots.compare_eigenvalues({"a": [30.0, 0.1, -2.0]}).axes
    assert axes.get_yscale() == "linear"
    np.testing.assert_array_equal(axes.containers[0].lines[0].get_ydata(), [30.0, 0.1, -2.0])


def test_one_eigenvalue_is_drawn() -> None:
    (axes,) = plots.compare_eigenvalues({"a": [3.0]}).axes
    np.testing.assert_array_equal(axes.containers[0].lines[0].get_xdata(), [1.0])


@pytest.mark.parametrize(
    ("sets", "options", "message"),
    [
        ({}, {}, "0 sets, but 1 to 6"),
        ({str(i): [1.0] for i in range(7)}, {}, "7 sets, but 1 to 6"),
        ({"a": [[1.0, 2.0]]}, {}, r"a has shape \[1, 2\]"),
        ({"a": [1.0]}, {"errors": {"b": [1.0]}}, r"errors has \['b'\], but spectra has \['a'\]"),
        ({"a": [1.0]}, {"errors": {"a": [1.0, 2.0]}}, "errors of a has 2 values, but a has 1"),
        ({"a": [1.0]}, {"errors": {"a": [-1.0]}}, "errors of a holds -1, but the length"),
        ({"a": [1.0]}, {"boundary": 0}, "boundary is 0, but it stands behind at least 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    sets: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plots.compare_eigenvalues(sets, **options)


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(NotFinite, match="a holds 1 of 2 values"):
        plots.compare_eigenvalues({"a": [1.0, float("nan")]})
