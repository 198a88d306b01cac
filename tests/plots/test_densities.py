from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import hesslab as hl
from hesslab import plots
from hesslab.errors import NotFinite
from tests.linalg.matrices import Rotated, toy

VALUES = toy(1000)
ALIKE = np.full(1000, 1e-3)


def curve(figure: Any, label: str) -> tuple[Any, Any]:
    (line,) = [line for line in figure.axes[0].get_lines() if line.get_label() == label]
    return line.get_xdata(), line.get_ydata()


def test_a_curve_holds_all_of_the_mass_and_a_lone_eigenvalue_has_the_stated_height() -> None:
    figure = plots.densities({"exact": (VALUES, ALIKE)}, size=1000, scale=0.01, width=0.08)
    x, y = curve(figure, "exact")
    assert np.trapezoid(y, np.arcsinh(x / 0.01)) == pytest.approx(1, rel=1e-3)
    one = 1e-3 / (0.08 * np.sqrt(2 * np.pi))
    assert y[np.abs(x - 10).argmin()] == pytest.approx(one, rel=0.05)
    assert figure.axes[0].get_ylim()[0] == pytest.approx(one / 10)


def test_a_density_of_probes_is_its_mean_with_a_band_and_marks() -> None:
    density = hl.linalg.spectral_density(Rotated(VALUES), seed=1)
    figure = plots.densities(
        {"estimate": density.atoms()},
        size=1000,
        outliers={"estimate": density.eigenvalues},
        reference=VALUES,
        scale=0.01,
    )
    x, y = curve(figure, "estimate")
    _, exact = curve(figure, "all eigenvalues")
    bulk = np.abs(x) < 1e-3
    np.testing.assert_allclose(y[bulk], exact[bulk], rtol=0.02, atol=1e-3 * exact.max())
    bands = [c for c in figure.axes[0].collections if "FillBetween" in type(c).__name__]
    assert len(bands) == 1
    (marks,) = [line for line in figure.axes[0].get_lines() if line.get_marker() == "v"]
    np.testing.assert_array_equal(marks.get_xdata(), density.eigenvalues)


def test_time_runs_to_the_right_and_emptiness_stays_empty() -> None:
    spectra = [(VALUES * factor, ALIKE) for factor in (1.0, 0.5, 0.25)]
    figure = plots.densities_over_time([0, 10, 40], spectra, size=1000)
    heights = figure.axes[0].collections[0].get_array()
    assert heights.shape[1] == 3
    assert heights.mask.any()
    # the largest eigenvalue falls, and the highest row that is not empty with it
    top = [np.flatnonzero(~heights.mask[:, i]).max() for i in range(3)]
    assert top[0] > top[1] > top[2]


def test_steps_of_a_logarithmic_axis_stand_between_their_edges() -> None:
    steps = [0, 1, 3, 7, 40]
    spectra = [(VALUES, ALIKE)] * len(steps)
    axes = plots.densities_over_time(steps, spectra, size=1000, log_steps=True).axes[0]
    edges = axes.collections[0].get_coordinates()[0, :, 0]
    assert (edges[:-1] < steps).all()
    assert (edges[1:] > steps).all()
    assert axes.get_xticks().tolist() == [0, 1, 10]


def test_a_spectrum_may_have_no_outliers() -> None:
    figure = plots.densities({"a": (VALUES, ALIKE)}, size=1000, outliers={"a": VALUES[:0]})
    frames = plots.density_frames(
        [0, 1], [(VALUES, ALIKE)] * 2, size=1000, outliers=[[], VALUES[:2]]
    )
    for one in (figure, *frames):
        one.canvas.draw()


def test_frames_have_the_same_axes() -> None:
    spectra = [(VALUES * factor, ALIKE) for factor in (1.0, 0.25)]
    frames = plots.density_frames(
        [0, 40], spectra, size=1000, outliers=[VALUES[:2], VALUES[:1] / 4]
    )
    first, second = (frame.axes[0] for frame in frames)
    assert first.get_xlim() == second.get_xlim()
    assert first.get_ylim() == second.get_ylim()
    labels = [axes.get_legend_handles_labels()[1][0] for axes in (first, second)]
    assert labels == ["0", "40"]
    marks = [line for line in second.get_lines() if line.get_marker() == "v"]
    np.testing.assert_array_equal(marks[0].get_xdata(), VALUES[:1] / 4)


def test_energies_stand_in_their_rows_with_their_intervals() -> None:
    found = hl.linalg.spectral_density(Rotated(VALUES), seed=1).energies()
    parts: dict[str, Any] = {}
    for name in ("L1", "L2"):
        both = {sign: getattr(found, f"{name}_{sign}") for sign in ("positive", "negative")}
        parts[name] = {
            "toy": {sign: (e.estimate, e.low, e.high) for sign, e in both.items()},
            "wide": {"positive": (1e-3, -1.0, 1.0), "negative": (0.0, 0.0, 0.0)},
        }
    figure = plots.energies(parts)
    assert [axes.get_xlabel() for axes in figure.axes] == ["L1", "L2"]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["toy", "wide"]
    positive, negative = figure.axes[1].containers
    assert positive.lines[0].get_xdata()[0] == pytest.approx(found.L2_positive.estimate)
    assert len(negative.lines[0].get_xdata()) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.densities({}, size=9), "spectra holds 0 names, but 1 to 6"),
        (lambda: plots.densities({"a": ([1.0], [0.5])}, size=9), "do not sum to 1 in each row"),
        (
            lambda: plots.densities({"a": ([1.0, 2.0], [1.0])}, size=9),
            r"a has values \[1, 2\] and weights \[1, 1\]",
        ),
        (lambda: plots.densities({"a": ([1.0], [1.0])}, size=0), "size=0 is out of range"),
        (
            lambda: plots.densities({"a": ([1.0], [1.0])}, size=9, outliers={"b": [1.0]}),
            r"outliers has \['b'\], which spectra has not",
        ),
        (lambda: plots.densities({"a": ([1.0], [1.0])}, size=9, width=0), "width is 0"),
        (
            lambda: plots.densities_over_time([0, 1], [([1.0], [1.0])], size=9),
            "there are 2 steps and 1 spectra",
        ),
        (
            lambda: plots.densities_over_time(
                [-1, 1], [([1.0], [1.0])] * 2, size=9, log_steps=True
            ),
            "step -1 has no place",
        ),
        (
            lambda: plots.density_frames([0, 0], [([1.0], [1.0])] * 2, size=9),
            "there are 1 different labels, 2 spectra and 2 lists of outliers",
        ),
        (lambda: plots.energies({}), "parts holds no energy"),
        (
            lambda: plots.energies({"L1": {"a": {"positive": (2.0, 0.0, 1.0)}}}),
            "L1 of a, positive, is",
        ),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(NotFinite, match="values of a holds 1 of 1 values"):
        plots.densities({"a": ([np.nan], [1.0])}, size=9)
