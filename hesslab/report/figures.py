"""Figures on a page: inline SVG that takes the colour of the page, PNG where that is too much."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import sys
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from .outputs import Output

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_MARKS = 5_000  # paths and markers; with more a page scrolls badly
MAX_BYTES = 1_000_000  # of one output
MAX_FRAMES = 30
RASTER_DPI = 150
WIDE = 6.0  # inches; a wider figure scrolls on a telephone and keeps its labels readable


def show(figure: Figure, *, alt: str, caption: str = "", raster: bool = False) -> Output:
    """A figure for the page; the figure is closed.

    Lines and text in the ink of `hesslab.plots` take the colour of the page, light or dark. A
    figure of more than 5,000 marks or 1 MB becomes an opaque picture.

    Args:
        figure: what a function of `hesslab.plots` returned.
        alt: one or two sentences for those who do not see it: kind, axes, what the curve does.
        caption: a sentence below it, as plain text.
        raster: send an opaque PNG in any case.

    Returns:
        The output, to stand on the last line of a cell.

    Raises:
        ValueError: ``alt`` is empty.
    """
    _need(alt, "alt")
    try:
        svg = "" if raster else _svg(figure, label=alt)
        if svg and _marks(svg) <= MAX_MARKS and len(svg) <= MAX_BYTES:
            return _inline(_box(svg, figure), alt, caption)
        return _picture(figure, alt, caption)
    finally:
        _close(figure)


def slider(
    frames: Sequence[Figure],
    *,
    labels: Sequence[object],
    alt: str,
    label: str,
    name: str,
    start: int = 0,
) -> Output:
    """Figures behind a slider that needs no kernel; without JavaScript one of them is seen.

    Args:
        frames: at most 30 figures of one size, in order; they are closed.
        labels: what is written beside the slider at each of them.
        alt: as in `show`; each frame adds its own label.
        label: what the slider changes.
        name: tells it from the other sliders of the chapter.
        start: index of the frame that is seen first.

    Returns:
        The output, to stand on the last line of a cell.

    Raises:
        ValueError: a text is missing, frames and labels differ in number, there is more of them
            than 30 or than 1 MB, or ``start`` is none of them.
    """
    for text, what in ((alt, "alt"), (label, "label"), (name, "name")):
        _need(text, what)
    if not frames or len(frames) != len(labels) or len(frames) > MAX_FRAMES:
        raise ValueError(
            f"{len(frames)} frames and {len(labels)} labels; expected as many labels as frames, "
            f"and 1 to {MAX_FRAMES} of them"
        )
    if not 0 <= start < len(frames):
        raise ValueError(f"start={start} is out of range: expected 0 to {len(frames) - 1}")
    texts = [str(text) for text in labels]
    drawn = []
    for frame, text in zip(frames, texts, strict=True):
        drawn.append(_svg(frame, label=f"{alt} ({label}: {text})"))
        _close(frame)
    html = _slider_html(drawn, texts, label, name, start, wide=_wide(frames[0]))
    if len(html) > MAX_BYTES:
        raise ValueError(
            f"the {len(frames)} frames take {len(html) / 1e6:.1f} MB, at most "
            f"{MAX_BYTES / 1e6:.0f} MB fit a page; use fewer frames or fewer points"
        )
    return _inline(html, alt, "")


def _slider_html(
    drawn: Sequence[str], labels: Sequence[str], label: str, name: str, start: int, *, wide: bool
) -> str:
    """The range input, and one box per frame, all but one hidden."""
    scroll = ' tabindex="0"' if wide else ""
    key = "hl-slider-" + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    boxes = "".join(
        f'<div class="hl-frame" data-label="{escape(text)}"'
        f"{'' if index == start else ' hidden'}>{svg}</div>"
        for index, (svg, text) in enumerate(zip(drawn, labels, strict=True))
    )
    # Everything that the handler needs lies around it, so a page needs no script of its own.
    move = (
        "const s=this.closest('.hl-slider');"
        "s.querySelectorAll('.hl-frame').forEach((f,i)=>{f.hidden=i!=this.value;"
        "if(!f.hidden){s.querySelector('output').value=f.dataset.label;"
        "this.setAttribute('aria-valuetext',f.dataset.label)}})"
    )
    return (
        f'<div class="hl-figure hl-slider{" hl-wide" if wide else ""}">'
        f'<div class="hl-control"><label for="{key}">{escape(label)}</label>'
        f'<input type="range" id="{key}" min="0" max="{len(drawn) - 1}" value="{start}" step="1" '
        f'autocomplete="off" aria-valuetext="{escape(labels[start])}" oninput="{escape(move)}">'
        f'<output for="{key}">{escape(labels[start])}</output></div>'
        f'<div class="hl-frames"{scroll}>{boxes}</div></div>'
    )


def _box(svg: str, figure: Figure) -> str:
    # What scrolls must be reachable by keyboard.
    attributes = 'class="hl-figure hl-wide" tabindex="0"' if _wide(figure) else 'class="hl-figure"'
    return f"<div {attributes}>{svg}</div>"


def _wide(figure: Figure) -> bool:
    return figure.get_figwidth() > WIDE


def _need(text: str, what: str) -> None:
    if not text.strip():
        raise ValueError(
            f"{what} is empty; it is what a reader who does not see the figure is told: what kind "
            "of figure, what is on its axes, what it shows"
        )


def _close(figure: Figure) -> None:
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close(figure)


def _inline(html: str, alt: str, caption: str) -> Output:
    below = f'<p class="hl-caption">{escape(caption)}</p>' if caption else ""
    return Output(
        {"text/html": html + below, "text/plain": f"[figure: {alt}]"}, {"hesslab": {"alt": alt}}
    )


def _picture(figure: Figure, alt: str, caption: str) -> Output:
    """An opaque PNG: dense layers, and what a page cannot draw fast."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=RASTER_DPI, facecolor="white", metadata={})
    described: dict[str, Any] = {"alt": alt} | ({"caption": caption} if caption else {})
    width = round(figure.get_figwidth() * 96)  # CSS pixels
    return Output(
        {
            "image/png": base64.b64encode(buffer.getvalue()).decode(),
            "text/plain": f"[figure: {alt}]",
        },
        {"hesslab": described, "image/png": {"width": width}},
    )


def _marks(svg: str) -> int:
    return svg.count("<use ") + svg.count("<path ")


def _svg(figure: Figure, *, label: str) -> str:
    """The figure as an element that can stand in a page beside others; always the same text."""
    import matplotlib

    from hesslab.plots import INK

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hesslab"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Matplotlib's style sheet holds one rule, for `*`: it would reach the whole page.
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(rf"{INK}|#000000", "currentColor", svg, flags=re.IGNORECASE)
    # Ids come from the content: those of two figures on a page would collide otherwise, and one
    # figure would be clipped by the paths of the other.
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    prefix = "f" + hashlib.sha256((label + svg).encode()).hexdigest()[:8]
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    return svg.replace(
        "<svg ",
        f'<svg role="img" aria-label="{escape(label)}" fill="currentColor" '
        'style="stroke-linejoin: round; stroke-linecap: butt" ',
        1,
    ).strip()
