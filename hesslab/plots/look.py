"""The look that all figures share, legible on a white page and on a nearly black one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from hesslab.errors import import_extra

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

# Text, axes, theory and reference marks, and nothing else: a page turns it into its own colour.
INK = "#1b1f24"

# The colours of Okabe & Ito (2008). Orange and sky blue are darkened to a contrast of 3 : 1 on
# white; yellow, illegible there, and black, illegible on a dark page, are left out.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#886433", "#2E9BD6")

SINGLE = 5.2  # inches: one panel, shrunk by a third at most on a telephone
DOUBLE = 7.2  # inches: a row of two panels, which scrolls there

_TICKS = {"color": INK, "labelcolor": INK, "labelsize": 10}
_RC: dict[str, Any] = {
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "savefig.dpi": 200,
    "savefig.bbox": None,
    "svg.fonttype": "none",
    "svg.hashsalt": "hesslab",
    # One font that matplotlib brings along, so that a layout is the same on every machine;
    # Verdana has its widths where a browser lacks it.
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans", "Verdana"],
    "font.size": 11,
    "mathtext.fontset": "dejavusans",
    "text.color": INK,
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 10,
    "legend.labelcolor": INK,
    "legend.handlelength": 1.5,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.2,
    "legend.borderaxespad": 0.1,
}


@contextmanager
def style() -> Iterator[None]:
    """The look of the figures while the block runs; matplotlib's settings are restored after it.

    Seaborn's "ticks" look with the colours of ``PALETTE`` and one ink colour, ``INK``, for text and
    axes. Every function of ``hesslab.plots`` draws inside it by itself. Save inside it as well:
    SVG files then hold their text as text and are the same bytes each time.

    Yields:
        Nothing.

    Raises:
        MissingExtra: matplotlib is not installed.

    Source: Okabe & Ito (2008), Color Universal Design.
    """
    matplotlib = import_extra("matplotlib", extra="plots")
    from cycler import cycler  # comes with matplotlib

    dashes = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
    cycle = cycler(color=PALETTE) + cycler(linestyle=dashes)
    axis = {
        f"{side}tick.{key}": value
        for side in "xy"
        for key, value in {"color": INK, "labelsize": 10, "major.size": 4, "minor.size": 2}.items()
    }
    with matplotlib.rc_context({**_RC, **axis, "axes.prop_cycle": cycle}):
        yield


def panels(
    width: float, height: float, *, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, np.ndarray[Any, Any]]:
    """A figure that pyplot does not know, with its axes [rows, columns]; inches, within style()."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for one in axes.flat:
        # Ticks are made when drawn, when these settings may be gone.
        one.tick_params(which="both", **_TICKS)
    return figure, axes


def legend_above(figure: Figure, axes: Iterable[Axes]) -> Legend:
    """The legend above the axes, where it hides no data; one entry for each different label."""
    entries: dict[str, Any] = {}
    for one in axes:
        handles, labels = one.get_legend_handles_labels()
        entries.update(zip(labels, handles, strict=True))
    columns = _columns([0.46 + 0.078 * len(label) for label in entries], figure.get_figwidth())
    return figure.legend(
        list(entries.values()), list(entries), loc="outside upper left", ncols=columns
    )


def _columns(widths: list[float], room: float) -> int:
    """The most columns, filled from top to bottom, that fit side by side; inches."""
    for columns in range(len(widths), 1, -1):
        short, longer = divmod(len(widths), columns)
        ends = [0]
        for column in range(columns):
            ends.append(ends[-1] + short + (column < longer))
        if sum(max(widths[a:b]) for a, b in pairwise(ends)) <= room:
            return columns
    return 1


def log_axis(axes: Axes, name: Literal["x", "y"], *, counts: bool = False) -> None:
    """A logarithmic axis labelled in plain text: 10⁻³, or 1,000 for counts.

    Formulas in an SVG file are placed letter by letter, for one font, at twenty times the bytes.
    """
    from matplotlib.ticker import LogFormatter

    class Powers(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            shown = LogFormatter.__call__(self, x, pos)  # the empty string thins out minor ticks
            return shown and (f"{x:,.0f}" if counts else power_of_ten(x))

    axes.set(**{f"{name}scale": "log"})
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_major_formatter(Powers())
    axis.set_minor_formatter(Powers())


def power_of_ten(x: float) -> str:
    """A number of one digit as 10⁻³ or 2·10⁻³."""
    digit, exponent = f"{x:.0e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if digit == "1" else f"{digit}·10{raised}"


def count_label(label: str, count: int) -> str:
    """A legend entry with the number of marks behind it."""
    return f"{label}: {count:,}"
