"""From finished chapters to pages: a staging tree, jupyter-book, a last look at the HTML."""

from __future__ import annotations

import filecmp
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbformat import NotebookNode

from book.execute import describe_images
from hesslab import _files

UNFINISHED = ".unfinished"


class RenderError(RuntimeError):
    """The pages could not be made, or may not be published."""


def toc_files(root: Path) -> list[str]:
    """Read the table of contents.

    Returns:
        Its pages in reading order, without suffix.

    Raises:
        RenderError: there is none, or it names a page that does not exist.
    """
    path = root / "_toc.yml"
    if not path.is_file():
        raise RenderError(f"{path} does not exist: is {root} the root of the book?")
    pages: list[str] = []

    def collect(node: Any) -> None:
        if isinstance(node, dict):
            pages.extend(str(node[key]) for key in ("root", "file") if key in node)
            for value in node.values():
                collect(value)
        elif isinstance(node, list):
            for value in node:
                collect(value)

    collect(yaml.safe_load(path.read_text(encoding="utf-8")))
    for page in pages:
        if not any((root / f"{page}{suffix}").is_file() for suffix in (".md", ".ipynb")):
            raise RenderError(f"_toc.yml names {page}, and there is no {page}.md or {page}.ipynb")
    return pages


def stage(root: Path, folder: Path, chapters: Mapping[str, NotebookNode]) -> None:
    """Make `folder` hold the book as jupyter-book reads it; unchanged files are not touched.

    Args:
        root: the sources.
        folder: the staging tree; what does not belong to it any more is removed.
        chapters: the executed notebooks by page name.
    """
    content: dict[Path, bytes | Path] = {
        Path(name): root / name for name in ("_config.yml", "_toc.yml")
    }
    for page in toc_files(root):
        if page in chapters:
            text = nbformat.writes(describe_images(chapters[page]), version=4)
            content[Path(f"{page}.ipynb")] = text.encode()
        else:
            content[Path(f"{page}.md")] = root / f"{page}.md"
    book = root / "book"
    for path in [*book.glob("*.bib"), *(book / "assets").rglob("*")]:
        if path.is_file():
            content[path.relative_to(root)] = path
    for name, path in _mathjax():
        content[Path("book/assets/mathjax", name)] = path
    _make_equal(folder, content)


def _mathjax() -> list[tuple[str, Path]]:
    """MathJax with all of TeX in one file, and its fonts: formulas need no network."""
    spec = importlib.util.find_spec("sphinx-mathjax-offline")
    if spec is None or not spec.submodule_search_locations:
        raise RenderError("sphinx-mathjax-offline is not installed: pip install 'hesslab[book]'")
    folder = Path(spec.submodule_search_locations[0], "static", "mathjax")
    files = [folder / "tex-chtml-full.js", *folder.glob("output/chtml/fonts/**/*.woff")]
    return [(file.relative_to(folder).as_posix(), file) for file in files]


def _make_equal(folder: Path, content: Mapping[Path, bytes | Path]) -> None:
    """Write what differs, remove what is not in `content`."""
    for name, source in content.items():
        target = folder / name
        if isinstance(source, Path):
            if not target.is_file() or not filecmp.cmp(source, target, shallow=False):
                with _files.write_aside(target) as aside:
                    shutil.copyfile(source, aside)
        elif not target.is_file() or target.read_bytes() != source:
            with _files.write_aside(target) as aside:
                aside.write_bytes(source)
    for path in list(folder.rglob("*")):
        if path.is_file() and path.relative_to(folder) not in content:
            path.unlink()


def render(staged: Path, work: Path) -> Path:
    """Run jupyter-book with warnings as errors and look through what it wrote.

    Args:
        staged: the staging tree.
        work: where Sphinx writes and keeps what it knows between builds.

    Returns:
        The folder with the pages.

    Raises:
        RenderError: Sphinx warned, or `faults` found something.
    """
    html = work / "_build" / "html"
    marker = work / UNFINISHED
    # Sphinx takes a half-written page for a finished one, so what an interruption left is dropped;
    # and it looks at style sheets only when some page has changed.
    if marker.exists() or (html.exists() and _styles_differ(staged / "book/assets", html)):
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    marker.touch()
    command = ["build", str(staged), "--path-output", str(work), "-W", "--keep-going", "-q"]
    done = subprocess.run(
        [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RenderError(f"jupyter-book failed:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")
    found = [f"{p.relative_to(html)}: {fault}" for p in html.rglob("*.html") for fault in faults(p)]
    if found:
        raise RenderError("pages with faults are not published:\n" + "\n".join(found))
    marker.unlink()
    return html


def _styles_differ(assets: Path, html: Path) -> bool:
    pairs = ((path, html / "_static" / path.relative_to(assets)) for path in assets.rglob("*.*"))
    return any(not b.is_file() or not filecmp.cmp(a, b, shallow=False) for a, b in pairs)


def publish(html: Path, target: Path) -> None:
    """Make `target` equal to the rendered pages, file by file, each complete at any moment."""
    _make_equal(target, {p.relative_to(html): p for p in html.rglob("*") if p.is_file()})


class _Figures(HTMLParser):
    """Collects pictures without a text that could stand for them."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = 0  # of <main>
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.depth += tag == "main"
        named = {key: value or "" for key, value in attrs}
        if self.depth and tag == "img" and not _says_something(named.get("alt", "")):
            self.found.append(f"no alternative text: {named.get('src', '')[:80]}")
        if self.depth and tag == "svg" and not _has_label(named):
            self.found.append("a picture has neither aria-label nor aria-hidden")

    def handle_endtag(self, tag: str) -> None:
        self.depth -= tag == "main"


def _says_something(alt: str) -> bool:
    """False for nothing and for the file path that Sphinx writes where nothing is given."""
    return bool(alt.strip()) and not re.search(r"_images/|^[0-9a-f]{30}|\.(png|svg|jpe?g)$", alt)


def _has_label(attributes: Mapping[str, str]) -> bool:
    return attributes.get("aria-hidden") == "true" or bool(attributes.get("aria-label", "").strip())


def faults(page: Path) -> list[str]:
    """What a rendered page lacks: alternative texts of its images and pictures."""
    parser = _Figures()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser.found
