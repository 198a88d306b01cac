from __future__ import annotations

import re

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from hesslab import report
from hesslab.plots import INK
from hesslab.report.figures import MAX_MARKS


def draw(points: int = 20, width: float = 4.0) -> Figure:
    figure, ax = plt.subplots(figsize=(width, 3))
    ax.plot(range(points), [x % 7 for x in range(points)], "o", clip_on=True)
    ax.set_xlabel("steps", color=INK)
    return figure


def html(output: report.Output) -> str:
    return output.data["text/html"]


def ids(text: str) -> set[str]:
    return set(re.findall(r' id="([^"]+)"', text))


def test_a_figure_is_inline_svg_with_label_and_the_ink_of_the_page():
    output = report.show(draw(), alt='Twenty dots & "quotes"')
    assert 'role="img" aria-label="Twenty dots &amp; &quot;quotes&quot;"' in html(output)
    assert "currentColor" in html(output)
    assert INK not in html(output)
    assert output.metadata["hesslab"] == {"alt": 'Twenty dots & "quotes"'}


def test_nothing_of_a_figure_reaches_the_rest_of_the_page():
    text = html(report.show(draw(), alt="Dots"))
    assert "<style" not in text
    assert "<metadata" not in text
    assert "http://www.w3.org" in text  # name spaces only
    assert "matplotlib.org" not in text


def test_the_same_figure_gives_the_same_text():
    assert html(report.show(draw(), alt="Dots")) == html(report.show(draw(), alt="Dots"))


def test_ids_of_two_figures_are_disjoint_and_references_resolve():
    one = html(report.show(draw(20), alt="Dots"))
    two = html(report.show(draw(21), alt="Dots"))
    assert ids(one)
    assert not ids(one) & ids(two)
    for text in (one, two):
        assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', text)) == ids(text)


def test_the_figure_is_closed():
    figure = draw()
    report.show(figure, alt="Dots")
    assert not plt.fignum_exists(figure.number)


def test_many_marks_become_an_opaque_picture_with_the_same_description():
    output = report.show(draw(MAX_MARKS + 1), alt="Dots", caption="Many.")
    assert set(output.data) == {"image/png", "text/plain"}
    assert output.metadata["hesslab"] == {"alt": "Dots", "caption": "Many."}
    assert "image/png" in report.show(draw(), alt="Dots", raster=True).data


def test_a_wide_figure_scrolls_and_is_reached_by_keyboard():
    assert 'class="hl-figure hl-wide" tabindex="0"' in html(report.show(draw(width=8), alt="Dots"))


def test_outside_a_notebook_a_figure_is_a_line_of_text():
    assert repr(report.show(draw(), alt="Dots")) == "[figure: Dots]"


def test_a_figure_without_alternative_text_is_refused():
    with pytest.raises(ValueError, match="alt is empty; it is what a reader"):
        report.show(draw(), alt=" ")


def test_a_slider_shows_its_first_frame_and_labels_its_control():
    output = report.slider(
        [draw(5), draw(6)], labels=[5, 6], alt="Dots", label="number", name="How many"
    )
    text = html(output)
    assert 'for="hl-slider-how-many">number</label>' in text
    assert 'id="hl-slider-how-many" min="0" max="1" value="0"' in text
    assert text.count('class="hl-frame"') == 2
    assert re.findall(r'data-label="(\d)"( hidden)?', text) == [("5", ""), ("6", " hidden")]
    assert 'aria-label="Dots (number: 6)"' in text


def test_a_slider_refuses_what_does_not_fit_a_page():
    with pytest.raises(ValueError, match="1 frames and 2 labels"):
        report.slider([draw()], labels=[1, 2], alt="a", label="n", name="n")
    with pytest.raises(ValueError, match=r"31 frames and 31 labels; .* 1 to 30"):
        report.slider([draw()] * 31, labels=range(31), alt="a", label="n", name="n")
    with pytest.raises(ValueError, match=r"take \d\.\d MB, at most 1 MB"):
        report.slider([draw(4000)] * 8, labels=range(8), alt="a", label="n", name="n")


def test_a_table_has_headers_on_both_sides():
    text = html(report.table({"method": ["Lanczos"], "error": [1.23456e-9]}, caption="a < b"))
    assert '<th scope="col">method</th><th scope="col">error</th>' in text
    assert '<th scope="row">Lanczos</th><td>1.235e-09</td>' in text
    assert "a &lt; b" in text


def test_a_table_refuses_what_cannot_be_read():
    with pytest.raises(ValueError, match="every column needs one"):
        report.table({"": [1]})
    with pytest.raises(ValueError, match=r"different lengths: \{'a': 1, 'b': 2\}"):
        report.table({"a": [1], "b": [1, 2]})
    with pytest.raises(ValueError, match="61 rows, at most 60"):
        report.table({"a": range(61)})
