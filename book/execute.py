"""Runs one chapter in a kernel of its own and decides whether what came out may be shown."""

from __future__ import annotations

import copy
import json
import re
import textwrap
from html import escape
from pathlib import Path

import papermill
from nbformat import NotebookNode
from nbformat.v4 import new_output
from papermill.exceptions import PapermillExecutionError

from hesslab import _files


class ChapterError(RuntimeError):
    """A chapter failed, or its outputs may not be published; the text says where and why."""


def execute(notebook: NotebookNode, *, folder: Path, seconds: int | None = None) -> NotebookNode:
    """Run a chapter and return it with its outputs, and with nothing else that a run adds.

    Args:
        notebook: the source, parameters merged in.
        folder: working folder of the kernel.
        seconds: limit for one cell.

    Returns:
        The source with outputs and counts. Papermill's own metadata, which names folders of this
        machine, is left out.

    Raises:
        ChapterError: a cell raised, the kernel died, or an output may not be published.
    """
    source = copy.deepcopy(notebook)
    try:
        # The folder goes to the kernel directly: papermill's `cwd` would change that of this
        # process, and two chapters run at a time.
        ran = papermill.execute_notebook(
            copy.deepcopy(source),
            None,
            kernel_name="python3",
            progress_bar=False,
            execution_timeout=seconds,
            resources={"metadata": {"path": str(folder)}},
            extra_arguments=["--log-level=CRITICAL"],  # it warns of every start and end
        )
    except PapermillExecutionError as error:
        trace = "\n".join(_plain(line) for line in error.traceback)
        raise ChapterError(
            f"cell [{error.exec_count}] raised {error.ename}: {error.evalue}\n\n"
            f"{textwrap.indent(error.source, '    ')}\n\n{trace}".rstrip()
        ) from error
    except Exception as error:  # dead kernels and timeouts, each with its own class
        raise ChapterError(f"{type(error).__name__}: {error}") from error
    for cell, done in zip(source.cells, ran.cells, strict=True):
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = done.outputs, done.execution_count
    check_outputs(source, forbidden=machine_folders(folder))
    return source


def machine_folders(*more: Path) -> tuple[str, ...]:
    """The folders of this machine that no page may name.

    Args:
        more: besides the checkout, the home folder and those of data and downloads.

    Returns:
        Their paths, as given and with links resolved; never the root of the file system.
    """
    folders = [*more, Path(__file__).parents[1], Path.home(), _files.cache_folder()]
    if (data := _files.data_folder()) is not None:
        folders.append(data)
    paths = {path for folder in folders for path in (folder.absolute(), folder.resolve())}
    return tuple(sorted(str(path) for path in paths if path != path.parent))


def _plain(text: str) -> str:
    """Text without the colours of a terminal."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def check_outputs(notebook: NotebookNode, *, forbidden: tuple[str, ...] = ()) -> None:
    """Refuse what a page must not show.

    Args:
        notebook: a chapter with outputs.
        forbidden: paths of this machine that no text, HTML or drawing on a page may contain.

    Raises:
        ChapterError: an output is an error or a message on stderr, a figure has no alternative
            text, a cell has two images, or a text contains a forbidden path.
    """
    for cell in notebook.cells:
        images = 0
        for output in cell.get("outputs", []):
            where = f"\n\n{textwrap.indent(cell.source, '    ')}"
            if output.output_type == "error":
                raise ChapterError(f"an output is {output.ename}: {output.evalue}{where}")
            if output.output_type == "stream" and output.name == "stderr":
                raise ChapterError(f"a cell wrote to stderr:\n{_plain(output.text)}{where}")
            data = output.get("data", {})
            for path in forbidden:
                if _names(output, path):
                    raise ChapterError(f"an output names a folder of this machine, {path}{where}")
            if not _is_figure(data):
                continue
            if not output.metadata.get("hesslab", {}).get("alt", "").strip():
                raise ChapterError(f"a figure has no alternative text{where}")
            images += _is_image(data)
        if images > 1:
            raise ChapterError(f"a cell shows {images} images, and can describe one{where}")


def _names(output: NotebookNode, path: str) -> bool:
    """Whether an output names this path or one below it, and not just a longer word."""
    shown = {"text/stream": output.get("text", ""), **output.get("data", {})}
    pattern = re.compile(rf"(?<![\w.+-]){re.escape(path)}(?![\w+-])")
    return any(
        pattern.search(
            content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        )
        for kind, content in shown.items()
        if kind == "image/svg+xml" or not kind.startswith("image/")  # others are base64
    )


def _is_image(data: NotebookNode) -> bool:
    return any(kind.startswith("image/") for kind in data)


def _is_figure(data: NotebookNode) -> bool:
    html = data.get("text/html", "")
    return _is_image(data) or "<svg" in html or "<img" in html


def describe_images(notebook: NotebookNode) -> NotebookNode:
    """Bring the alternative texts of images to where MyST reads them, and show their captions.

    That is the metadata of the cell, while `hesslab.report.show` can only set that of the output.
    The caption becomes a paragraph, as below an inline figure: MyST would number this one alone.

    Returns:
        A copy of the notebook.
    """
    described = copy.deepcopy(notebook)
    for cell in described.cells:
        for output in list(cell.get("outputs", [])):
            if _is_image(output.get("data", {})):
                said = output.metadata.hesslab
                cell.metadata.mystnb = {"image": {"alt": said.alt}}
                if said.get("caption"):
                    html = f'<p class="hl-caption">{escape(said.caption)}</p>'
                    data = {"text/html": html, "text/plain": said.caption}
                    cell.outputs.append(new_output("display_data", data=data))
    return described
