from __future__ import annotations

import io
import itertools
import re
import subprocess
import sys
from typing import Any

import matplotlib
import numpy as np
import pytest

from hesslab import plots
from hesslab.errors import MissingExtra

WHITE, NEARLY_BLACK = "#ffffff", "#14181e"

# Machado, Oliveira & Fernandes (2009), severity 1; act on linear RGB.
COLOUR_BLIND = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour: str) -> Any:
    """Linear RGB of a hexadecimal colour, by the formula of WCAG 2.2."""
    c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    low, high = sorted(float(TO_XYZ[1] @ linear(c)) for c in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(rgb: Any) -> Any:
    """CIELAB of linear RGB, white point D65."""
    t = TO_XYZ @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089]
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("colour", plots.PALETTE)
@pytest.mark.parametrize("ground", [WHITE, NEARLY_BLACK])
def test_each_colour_is_legible_on_both_pages(colour: str, ground: str) -> None:
    assert contrast(colour, ground) >= 3  # WCAG 2.2, 1.4.11, graphical objects


def test_ink_is_legible_as_text_on_white() -> None:
    assert contrast(plots.INK, WHITE) >= 7


@pytest.mark.parametrize("kind", COLOUR_BLIND)
def test_colours_stay_apart_for_colour_blind_readers(kind: str) -> None:
    seen = [lab(np.array(COLOUR_BLIND[kind]) @ linear(c)) for c in plots.PALETTE]
    for one, other in itertools.combinations(seen, 2):
        assert np.linalg.norm(one - other) > 10  # a difference seen at a glance is about 5


def test_settings_are_restored_even_after_an_error() -> None:
    before = dict(matplotlib.rcParams)
    with plots.style():
        assert matplotlib.rcParams["text.color"] == plots.INK
        assert matplotlib.rcParams["axes.prop_cycle"].by_key()["color"] == list(plots.PALETTE)
    with pytest.raises(ZeroDivisionError), plots.style():
        _ = 1 / 0
    assert dict(matplotlib.rcParams) == before


def test_no_figure_touches_global_state(every_figure: Any) -> None:
    from matplotlib import pyplot

    before, open_before = dict(matplotlib.rcParams), pyplot.get_fignums()
    for draw in every_figure.values():
        draw()
    assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == open_before


def test_two_draws_are_the_same_bytes(every_figure: Any, texts: Any, to_svg: Any) -> None:
    for name, draw in every_figure.items():
        assert to_svg(draw()) == texts[name], name


def test_figures_use_ink_and_palette_and_no_other_colour(texts: Any) -> None:
    allowed = {c.lower() for c in (plots.INK, *plots.PALETTE)}
    for name, text in texts.items():
        assert set(re.findall(r"#[0-9a-f]{6}(?=[;\"])", text)) <= allowed, name


def test_saved_outside_the_style_ticks_keep_the_ink(fit: Any) -> None:
    figure = plots.curve(fit.x_train, fit.y_train, fit.x, fit.mean)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", transparent=True)
    assert buffer.getvalue().count("<text") > 8
    assert "#000000" not in buffer.getvalue()


def test_texts_are_not_placed_letter_by_letter(texts: Any) -> None:
    for name, text in texts.items():
        assert "<tspan" not in text, name


def test_nothing_is_cut_off_or_too_wide(drawn: Any, texts: Any) -> None:
    for name, figure in drawn.items():
        box = figure.get_tightbbox()  # after the layout of the drawing
        assert figure.get_figwidth() <= 7.2, name
        assert min(box.x0, box.y0) >= 0, name
        assert box.x1 <= figure.get_figwidth() + 0.01, name
        assert box.y1 <= figure.get_figheight() + 0.01, name


def test_every_panel_names_its_axes(drawn: Any) -> None:
    for name, figure in drawn.items():
        if name == "images":
            continue
        assert all(axes.get_xlabel() or axes.get_shared_x_axes() for axes in figure.axes), name
        assert figure.axes[0].get_ylabel(), name
        assert figure.axes[-1].get_xlabel(), name


def test_only_drawing_loads_matplotlib_and_never_pyplot_or_seaborn() -> None:
    code = (
        "import sys\n"
        "from hesslab.plots import agreement, curve, eigenvalues, history, images, threshold\n"
        "heavy = 'matplotlib', 'matplotlib.pyplot', 'seaborn', 'pandas'\n"
        "print([m for m in heavy if m in sys.modules])\n"
        "eigenvalues([2.0, 1.0])\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['matplotlib']"]


def test_without_matplotlib_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"matplotlib .*pip install 'hesslab\[plots\]'"):
        plots.eigenvalues([2.0, 1.0])
