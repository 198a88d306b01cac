"""The chapters as they are written, and the pages where they have been built."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from nbformat import NotebookNode

from book import build, notebooks, render

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))
HTML = ROOT / "_build" / "html"
DETERMINISTIC = "book/01_sine"  # the chapter that is run a second time
DRAWING = {"show", "slider"}


@pytest.fixture(params=CHAPTERS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


@pytest.fixture
def chapter(path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(chapter: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in chapter.cells if cell.cell_type == "code"]


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def prose(chapter: NotebookNode) -> str:
    return "\n".join(cell.source for cell in chapter.cells if cell.cell_type == "markdown")


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """(last part of the name, call) of all calls."""
    return [
        (node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func), node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    ]


def test_there_are_chapters():
    assert CHAPTERS


def test_it_is_in_the_table_of_contents(path):
    assert f"book/{path.stem}" in render.toc_files(ROOT)


def test_nothing_is_stored_in_it_that_a_run_adds(chapter):
    nbformat.validate(chapter)
    assert not any(cell.outputs or cell.execution_count for cell in code_cells(chapter))
    assert "papermill" not in chapter.metadata
    assert chapter.metadata.kernelspec.name == "python3"


def test_it_begins_with_a_question(chapter):
    first = chapter.cells[0]
    assert first.cell_type == "markdown"
    title, _, why = first.source.partition("\n")
    assert re.fullmatch(r"# .+\?", title.strip()), title
    assert why.strip(), "two sentences why anyone should care"


def test_parameters_are_annotated_literals_with_comments(chapter):
    cell = notebooks.tagged(chapter, "parameters")
    known = notebooks.parameters(chapter)
    assert len(known) == len(cell.source.splitlines())
    for node in ast.parse(cell.source).body:
        assert isinstance(node, ast.AnnAssign), ast.unparse(node)
    for parameter in known.values():
        assert len(parameter.comment) > 4, parameter.name


def test_profiles_name_every_parameter_and_quick_equals_the_cell(chapter):
    assert list(notebooks.profiles(chapter)) == ["quick", "laptop", "gpu"]
    assert "hide-input" in tags(notebooks.tagged(chapter, "profiles"))


def test_cells_are_short_and_define_nothing(chapter):
    for cell in code_cells(chapter):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert len(lines) <= 15, cell.source
        assert max(map(len, lines), default=0) <= 72, cell.source
        assert not re.search(r"^\s*[%!]|;\s*$", cell.source, flags=re.MULTILINE), cell.source
        defining = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        assert not any(isinstance(n, defining) for n in ast.walk(ast.parse(cell.source)))


def test_figures_go_through_the_report_and_say_what_they_show(chapter):
    drawn = 0
    for cell in code_cells(chapter):
        tree = ast.parse(cell.source)
        found = [(name, call) for name, call in calls(tree) if name in DRAWING]
        drawn += len(found)
        assert len(found) <= 1, "one figure per cell"
        for name, call in found:
            # Only the last expression of a cell is shown.
            last = tree.body[-1]
            assert isinstance(last, ast.Expr), cell.source
            assert last.value is call, cell.source
            said = {k.arg: k.value for k in call.keywords}
            assert "alt" in said, f"{name} without alt"
            assert len(ast.unparse(said["alt"])) > 40, "alt says kind, axes and what the curve does"
        assert not {"savefig", "imshow", "plot"} & {name for name, _ in calls(tree)}, cell.source
    assert drawn


def test_it_checks_itself_in_folded_cells(chapter):
    folded = [ast.parse(c.source) for c in code_cells(chapter) if "hide-cell" in tags(c)]
    asserts = sum(isinstance(n, ast.Assert) for tree in folded for n in ast.walk(tree))
    checks = [name for tree in folded for name, _ in calls(tree)]
    assert asserts + checks.count("assert_close") > 0, "invariants"
    assert "check" in checks, "claims"
    assert "report.claims(globals(), profiles)" in "".join(c.source for c in code_cells(chapter))


def test_it_ends_with_how_it_was_made(chapter):
    last = chapter.cells[-1]
    assert "remove-input" in tags(last)
    assert last.source.strip().endswith("report.provenance(globals(), seed=seed)")


def test_it_says_how_to_run_it_again(path, chapter):
    assert f"papermill book/{path.name} " in prose(chapter)
    assert "xercise" in prose(chapter)


# what was built


@pytest.mark.timeout(600)
def test_a_second_run_of_a_chapter_gives_the_same_outputs(tmp_path):
    if not (ROOT / f"{DETERMINISTIC}.ipynb").is_file():
        pytest.skip(f"{DETERMINISTIC}.ipynb does not exist")
    executed = build.stored(ROOT, DETERMINISTIC, "quick")
    if executed is None:
        pytest.skip(f"no run of {DETERMINISTIC} with this code; `make book` first")
    assert sum(bool(cell.outputs) for cell in code_cells(executed)) > 3
    executed.cells[-1].metadata.tags.append("nbval-ignore-output")  # seconds and megabytes
    nbformat.write(executed, tmp_path / "chapter.ipynb")
    command = ["-m", "pytest", "-q", "--nbval", "--nbval-current-env", "-p", "no:cacheprovider"]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command, "chapter.ipynb"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


class Links(HTMLParser):
    """Collects what a page loads and refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.referred: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag in {"img", "script", "iframe", "source"} and named.get("src"):
            self.loaded.append(named["src"])
        if tag == "link" and named.get("href"):
            self.loaded.append(named["href"])
        if tag == "a" and named.get("href"):
            self.referred.append(named["href"])


def pages() -> list[Path]:
    if not HTML.is_dir():
        pytest.skip("the book is not built; `make book` first")
    templates = HTML / "_static"  # of the theme
    return sorted(p for p in HTML.rglob("*.html") if not p.is_relative_to(templates))


def links(page: Path) -> Links:
    parser = Links()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser


def test_pages_load_nothing_from_the_network():
    outside = {
        f"{page.name}: {address}"
        for page in pages()
        for address in links(page).loaded
        if urlsplit(address).netloc
    }
    assert not outside


def test_links_between_pages_lead_somewhere():
    lost = set()
    for page in pages():
        found = links(page)
        for address in found.loaded + found.referred:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc or not parts.path:
                continue
            if not (page.parent / unquote(parts.path)).exists():
                lost.add(f"{page.relative_to(HTML)}: {address}")
    assert not lost


def test_pictures_on_pages_have_a_text():
    assert not [fault for page in pages() for fault in render.faults(page)]


def test_pages_name_no_folder_of_this_machine():
    places = [str(ROOT), str(Path.home()) + os.sep]
    found = {
        f"{path.relative_to(HTML)}: {place}"
        for path in [*pages(), *HTML.glob("_sources/**/*.ipynb")]
        for place in places
        if len(place) > 8 and place in path.read_text(encoding="utf-8")
    }
    assert not found
