"""What a cell shows: an output that a notebook renders and a plain session prints as a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

MAX_ROWS = 60  # a longer table is not read; it belongs into a record


@dataclass(frozen=True, repr=False)
class Output:
    """One output of a cell; the last expression of the cell shows it.

    Attributes:
        data: the same content by media type, "text/plain" among them.
        metadata: of the output; "hesslab" holds what the builder of the book reads.
    """

    data: Mapping[str, str]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return self.data["text/plain"]

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """What IPython asks for."""
        return dict(self.data), dict(self.metadata)


def table(columns: Mapping[str, Sequence[object]], *, caption: str = "", digits: int = 4) -> Output:
    """A small table, its first column in bold, that scrolls sideways where the page is narrow.

    Args:
        columns: values by heading, all of one length; text, numbers, or tensors of one number.
        caption: a sentence above it.
        digits: significant digits of the floats.

    Returns:
        The output, to stand on the last line of a cell.

    Raises:
        ValueError: a heading is empty, the columns differ in length, or there are more than 60
            rows.
    """
    lengths = {name: len(values) for name, values in columns.items()}
    if not lengths or not all(name.strip() for name in lengths):
        raise ValueError(f"the headings are {list(lengths)}; every column needs one")
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the columns have different lengths: {lengths}")
    if max(lengths.values()) > MAX_ROWS:
        raise ValueError(
            f"the table has {max(lengths.values())} rows, at most {MAX_ROWS} are readable on a "
            "page; show a selection, or draw it"
        )
    rows = [[_text(value, digits) for value in row] for row in zip(*columns.values(), strict=True)]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "".join(f"<tr>{_cells(row)}</tr>" for row in rows)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    html = (
        f'<div class="hl-table" tabindex="0"><table>{title}<thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
    plain = "\n".join("  ".join(row) for row in [list(columns), *rows])
    return Output({"text/html": html, "text/plain": plain})


def _cells(row: Sequence[str]) -> str:
    first, *rest = (escape(text) for text in row)
    return f'<th scope="row">{first}</th>' + "".join(f"<td>{text}</td>" for text in rest)


def _text(value: object, digits: int) -> str:
    item = getattr(value, "item", None)
    value = item() if callable(item) else value
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)
