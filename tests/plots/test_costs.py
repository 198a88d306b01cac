from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from hesslab import plots
from hesslab.errors import NotFinite

RECORD = {
    "resnet20": {"hesslab, first": [2.4, 2.3, 2.6], "double backward": [3.7, 3.6, 3.8]},
    "mlp": {"double backward": [2.7], "kept graph": [1.6, 1.5, 1.7]},
    "gpt": {"hesslab, first": torch.tensor([2.5])},
}
FLOORS = {"resnet20": {"hesslab, first": 2.66, "double backward": 2.66}}
CURVES: dict[str, dict[str, Any]] = {
    "vectors K": {"first": ([1, 2, 4], [2.6, 2.3, 2.1]), "further": ([1, 2, 4], [2, 2, 2])},
    "parameters P": {"further": (torch.tensor([512, 12_000, 1_200_000]), [1.8, 1.9, 2.0])},
}


def names(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_yticklabels()]


def panel(figure: Any, title: str) -> Any:
    (found,) = [axes for axes in figure.axes if axes.get_title(loc="left") == title]
    return found


def marks(axes: Any) -> dict[str, tuple[float, float, float]]:
    """Cost and interval by the route in whose row they stand."""
    rows = names(axes.figure.axes[0])
    found = {}
    for container in axes.containers:
        value, row = container.lines[0].get_data()
        (bars,) = container.lines[2]
        for x, y, segment in zip(value, row, bars.get_segments(), strict=True):
            found[rows[int(y)]] = (float(x), float(segment[0, 0]), float(segment[1, 0]))
    return found


def test_each_cost_stands_in_the_row_of_its_route_with_its_interval() -> None:
    figure = plots.product_costs(RECORD, floors=FLOORS)
    assert names(figure.axes[0]) == ["hesslab, first", "double backward", "kept graph"]
    np.testing.assert_allclose(marks(panel(figure, "resnet20"))["double backward"], [3.7, 3.6, 3.8])
    assert marks(panel(figure, "mlp")) == {
        "double backward": (2.7, 2.7, 2.7),
        "kept graph": (1.6, 1.5, 1.7),
    }
    assert marks(panel(figure, "gpt")) == {"hesslab, first": (2.5, 2.5, 2.5)}


def test_the_first_route_is_on_top_and_costs_begin_at_zero() -> None:
    axes = plots.product_costs(RECORD).axes[0]
    low, high = axes.get_ylim()
    assert low > high
    assert axes.get_xlim()[0] == 0


def test_ours_and_others_differ_by_mark_and_colour() -> None:
    figure = plots.product_costs(RECORD, highlight="hesslab")
    ours, others = (c.lines[0] for c in panel(figure, "resnet20").containers)
    assert (ours.get_marker(), others.get_marker()) == ("o", "s")
    assert ours.get_color() != others.get_color()
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {"hesslab", "others"}


def test_a_floor_is_a_line_in_the_row_of_its_route_only() -> None:
    figure = plots.product_costs(RECORD, floors=FLOORS)
    lines = [line.get_data() for line in panel(figure, "resnet20").get_lines() if line.get_label()]
    floors = [(x[0], y[0] < row < y[1]) for (x, y), row in zip(lines[:2], (0, 1), strict=True)]
    assert floors == [(2.66, True), (2.66, True)]
    assert figure.legends[0].get_texts()[0].get_text() == "floor"
    solid = [line for line in panel(figure, "mlp").get_lines() if line.get_linestyle() == "-"]
    assert not solid


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6])
def test_there_is_a_panel_for_each_network_and_no_other(count: int) -> None:
    networks = {f"net {i}": RECORD["resnet20"] for i in range(count)}
    axes = plots.product_costs(networks).axes
    assert [one.get_title(loc="left") for one in axes] == list(networks)
    labelled = [one.get_title(loc="left") for one in axes if one.get_xlabel() == "gradients"]
    assert labelled == list(networks)[-2:]  # the lowest of each column


def test_a_name_looks_the_same_in_all_panels() -> None:
    left, right = plots.cost_curves(CURVES).axes
    first, further = left.get_lines()
    (alone,) = right.get_lines()
    np.testing.assert_array_equal(first.get_xydata(), [[1, 2.6], [2, 2.3], [4, 2.1]])
    look = ("get_color", "get_marker", "get_linestyle")
    assert [getattr(alone, part)() for part in look] == [getattr(further, part)() for part in look]
    assert [getattr(first, part)() for part in look] != [getattr(further, part)() for part in look]
    assert left.get_ylabel() == "cost of a product [gradients]"
    assert left.get_ylim()[0] == 0


def test_positions_are_labelled_in_few_characters() -> None:
    left, right = plots.cost_curves(CURVES).axes
    assert [text.get_text() for text in left.get_xticklabels()] == ["1", "2", "4"]
    assert [text.get_text() for text in right.get_xticklabels()] == ["512", "12k", "1.2M"]
    many = {"n": {"a": (range(1, 20), range(1, 20))}}
    assert plots.cost_curves(many).axes[0].get_xscale() == "log"
    assert left.get_yscale() == "linear"
    assert plots.cost_curves(CURVES, log=True).axes[0].get_yscale() == "log"
    with pytest.raises(ValueError, match="a cost is 0; expected positive ones on a log axis"):
        plots.cost_curves({"K": {"a": ([1, 2], [0.0, 1.0])}}, log=True)


FIGURES = {
    "three networks": lambda: plots.product_costs(RECORD, floors=FLOORS),
    "one network": lambda: plots.product_costs({"a": {"double backward": [1.0]}}),
    "six networks": lambda: plots.product_costs({str(i): RECORD["mlp"] for i in range(6)}),
    "two panels": lambda: plots.cost_curves(CURVES),
    "one panel": lambda: plots.cost_curves({"K": CURVES["vectors K"]}),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_fits_its_page(name: str, to_svg: Any) -> None:
    figure = FIGURES[name]()
    text = to_svg(figure)
    assert to_svg(FIGURES[name]()) == text
    box = figure.get_tightbbox()
    assert figure.get_figwidth() <= (5.2 if "network" in name or name == "one panel" else 7.2)
    assert min(box.x0, box.y0) >= 0
    assert box.x1 <= figure.get_figwidth() + 0.01
    assert box.y1 <= figure.get_figheight() + 0.01
    allowed = {colour.lower() for colour in (plots.INK, *plots.PALETTE)}
    assert set(re.findall(r"#[0-9a-f]{6}(?=[;\"])", text)) <= allowed


@pytest.mark.parametrize(
    ("costs", "floors", "message"),
    [
        ({}, None, "no route of any network"),
        ({"a": {}}, None, "no route of any network"),
        ({"a": {"b": [1.0, 2.0]}}, None, r"the cost of b, a has shape \[2\]; expected \[1\]"),
        ({"a": {"b": [3.0, 1.0, 2.0]}}, None, r"the cost of b, a is 3 in \[1, 2\]; expected"),
        ({"a": {"b": [-1.0]}}, None, "the cost of b, a is -1 .* 0 or more"),
        ({"a": {"b": [1.0]}}, {"a": {"c": 1.0}}, r"floors has \['c'\] for 'a', which costs has"),
        ({"a": {"b": [1.0]}}, {"z": {"b": 1.0}}, r"floors has \['b'\] for 'z'"),
    ],
)
def test_costs_that_cannot_be_drawn_are_refused(costs: Any, floors: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plots.product_costs(costs, floors=floors)


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ({}, "0 names, but 1 to 6"),
        ({"K": {str(i): ([1], [1]) for i in range(7)}}, "7 names, but 1 to 6"),
        ({"K": {"a": ([1, 2], [1])}}, "the costs of a has 1 values, but the positions of a has 2"),
        ({"K": {"a": ([0, 1], [1, 1])}}, r"the positions of a are \[0.0, 1.0\]"),
        ({"K": {"a": ([2, 1], [1, 1])}}, "runs from left to right"),
    ],
)
def test_curves_that_cannot_be_drawn_are_refused(curves: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plots.cost_curves(curves)


def test_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(NotFinite, match="the cost of b, a holds 1 of 1"):
        plots.product_costs({"a": {"b": [float("nan")]}})
    with pytest.raises(NotFinite, match="the floors of a"):
        plots.product_costs({"a": {"b": [1.0]}}, floors={"a": {"b": float("inf")}})
    with pytest.raises(NotFinite, match="the costs of a"):
        plots.cost_curves({"K": {"a": ([1], [float("nan")])}})
