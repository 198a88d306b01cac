"""The builder of the book, on chapters of a few lines."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from book import build, notebooks, render
from book.build import main
from book.cache import Runs, footer
from book.execute import ChapterError, check_outputs, describe_images, machine_folders
from book.notebooks import NotebookError

ROOT = Path(__file__).resolve().parents[1]
PARAMETERS = "n: int = 3  # ä number\nnoise: float = 0.5  # its noise\nname: str = 'a'  # a name"
PROFILES = """profiles = {
    "quick": {"n": 3, "noise": 0.5, "name": "a"},
    "laptop": {"n": 30, "noise": 0.5, "name": "b"},
}"""
USE = "from hesslab import report"
FOOTER = "report.provenance(globals(), seed=0)"


def code(source: str, *tags: str) -> NotebookNode:
    return new_code_cell(source, metadata={"tags": list(tags)} if tags else {})


def chapter(*cells: str, parameters: str = PARAMETERS, profiles: str = PROFILES) -> NotebookNode:
    notebook = new_notebook(
        cells=[
            new_markdown_cell("# Why?"),
            code(parameters, "parameters"),
            code(profiles, "profiles", "hide-input"),
            *(code(source) for source in (USE, *cells, FOOTER)),
        ],
        metadata={"kernelspec": {"name": "python3", "language": "python", "display_name": "P"}},
    )
    return notebook


def with_output(**described: object) -> NotebookNode:
    """A chapter whose third cell shows a picture."""
    notebook = chapter("show()")
    picture = new_output("display_data", data={"image/png": "AAAA"}, metadata=described)
    notebook.cells[3].outputs = [picture]
    return notebook


# parameters and profiles


def test_parameters_carry_type_default_and_comment():
    known = notebooks.parameters(chapter())
    assert next(str(p) for p in known.values()) == "n: int = 3  # ä number"
    assert known["noise"].default == 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"m": 1}, r"unknown parameter m; known are\n  n: int = 3  # ä number\n  noise: float"),
        ({"n": "ten"}, r"parameter n is 'ten' \(str\), expected int; known are\n  n: int"),
        ({"n": True}, r"parameter n is True \(bool\), expected int"),
        ({"n": 1.5}, r"parameter n is 1\.5 \(float\), expected int"),
        ({"name": 3}, r"parameter name is 3 \(int\), expected str"),
    ],
)
def test_unknown_and_mistyped_parameters_are_refused(values, message):
    with pytest.raises(NotebookError, match=message):
        notebooks.merge(chapter(), values)


def test_values_replace_the_literals_and_keep_the_comments():
    merged = notebooks.merge(chapter(), {"n": 40, "noise": 1, "name": "ö'"})
    assert notebooks.tagged(merged, "parameters").source == (
        'n: int = 40  # ä number\nnoise: float = 1.0  # its noise\nname: str = "ö\'"  # a name'
    )


def test_text_of_a_command_line_becomes_typed_values():
    known = notebooks.parameters(chapter())
    pairs = [("n", "7"), ("noise", "2"), ("name", "12")]
    assert notebooks.from_text(known, pairs) == {"n": 7, "noise": 2.0, "name": "12"}
    with pytest.raises(NotebookError, match="parameter n is 'ten'"):
        notebooks.from_text(known, [("n", "ten")])


def test_optional_and_tuple_types_are_understood():
    cell = "k: int | None = None  # a\nhidden: tuple[int, ...] = (5, 5)  # b"
    known = notebooks.parameters(chapter(parameters=cell))
    assert notebooks.checked(known, {"k": 3, "hidden": [2]}) == {"k": 3, "hidden": (2,)}
    with pytest.raises(NotebookError, match="parameter k is 'x'"):
        notebooks.checked(known, {"k": "x"})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"parameters": "n: int = 1 + 1"}, "parameter 'n' is not a literal: 1 \\+ 1"),
        ({"parameters": "import os"}, "line 1 of the parameters cell is not `name: type = lit"),
        ({"parameters": "n: tuple = (\n    1,\n)"}, "the value of parameter 'n' spans several"),
        ({"profiles": "profiles = {'quick': {'n': 3}}"}, r"no value for \['noise', 'name'\]"),
        ({"profiles": PROFILES.replace("3,", "4,")}, "'quick' differs from the parameters"),
        ({"profiles": PROFILES.replace("30", "'x'")}, "parameter n is 'x'"),
        ({"profiles": "profiles = dict()"}, r"profiles is not a literal: dict\(\)"),
        ({"profiles": "a = 1"}, "the cell tagged 'profiles' is not `profiles = "),
    ],
)
def test_chapters_that_break_the_rules_are_refused(changed, message):
    with pytest.raises(NotebookError, match=message):
        notebooks.profiles(chapter(**changed))


def test_a_chapter_without_a_parameters_cell_is_refused():
    with pytest.raises(NotebookError, match="0 cells are tagged 'parameters'; expected one"):
        notebooks.parameters(new_notebook())


# what may be published


def test_figures_without_alternative_text_are_refused():
    with pytest.raises(ChapterError, match="a figure has no alternative text"):
        check_outputs(with_output())
    check_outputs(with_output(hesslab={"alt": "Dots"}))


def test_a_cell_describes_one_image():
    notebook = with_output(hesslab={"alt": "Dots"})
    notebook.cells[3].outputs *= 2
    with pytest.raises(ChapterError, match="a cell shows 2 images"):
        check_outputs(notebook)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (new_output("error", ename="ValueError", evalue="no", traceback=[]), "an output is ValueE"),
        (new_output("stream", name="stderr", text="deprecated"), "wrote to stderr:\ndeprecated"),
        (new_output("stream", name="stdout", text="in /some/where"), "a folder of this machine"),
        (new_output("display_data", data={"text/html": "<svg>"}), "no alternative text"),
    ],
)
def test_outputs_that_no_page_may_show_are_refused(output, message):
    notebook = chapter("show()")
    notebook.cells[3].outputs = [output]
    with pytest.raises(ChapterError, match=message):
        check_outputs(notebook, forbidden=("/some/where",))


@pytest.mark.parametrize(
    ("kind", "text", "refused"),
    [
        ("text/plain", "'/some/where/a'", True),
        ("text/html", "<p>see file:///some/where/a</p>", True),
        ("text/markdown", "in `/some/where`", True),
        ("application/json", {"folder": "/some/where"}, True),
        ("text/plain", "/some/whereabouts, https://example.org/some/where", False),
        ("image/png", "AA=/some/where/", False),  # base64 has these letters as well
    ],
)
def test_paths_are_found_in_all_that_is_readable(kind, text, refused):
    notebook = with_output(hesslab={"alt": "Dots"})
    notebook.cells[3].outputs[0].data = NotebookNode({kind: text})
    found = contextlib.nullcontext()
    if refused:
        found = pytest.raises(ChapterError, match="a folder of this machine, /some/where\n")
    with found:
        check_outputs(notebook, forbidden=("/some/where",))


def test_checkout_home_and_data_are_folders_that_no_page_names(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HESSLAB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HESSLAB_CACHE", "/")
    found = machine_folders(tmp_path / "kernel")
    assert {str(ROOT), *(str(tmp_path / name) for name in ("home", "data", "kernel"))} <= set(found)
    assert "/" not in found


def test_a_chapter_that_names_the_checkout_fails(root, capsys):
    write(
        root,
        "one",
        chapter(
            "from IPython.display import HTML\nimport os",
            "HTML(f'<p>{os.environ[\"HESSLAB_SAID\"]}</p>')",
        ),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HESSLAB_SAID", str(ROOT / "book"))
        assert main(["--root", str(root)]) == 1
    assert f"an output names a folder of this machine, {ROOT}" in capsys.readouterr().err


def test_alternative_text_and_caption_reach_the_page():
    notebook = with_output(hesslab={"alt": "Dots", "caption": "Many & small"})
    cell = describe_images(notebook).cells[3]
    assert cell.metadata.mystnb == {"image": {"alt": "Dots"}}
    assert cell.outputs[-1].data["text/html"] == '<p class="hl-caption">Many &amp; small</p>'
    assert "mystnb" not in notebook.cells[3].metadata


@pytest.mark.parametrize(
    ("tag", "found"),
    [
        ('<img src="a.png" alt="">', "no alternative text"),
        ('<img src="a.png">', "no alternative text"),
        ('<img src="a.png" alt="../_images/0123456789abcdef0123456789abcdef.png">', "no alt"),
        ("<svg><path/></svg>", "neither aria-label"),
        ('<img src="a.png" alt="Dots">', None),
        ('<svg aria-label="Dots"></svg>', None),
    ],
)
def test_pages_are_looked_through(tmp_path, tag, found):
    page = tmp_path / "a.html"
    page.write_text(f'<img src="logo.png"><main>{tag}</main>', encoding="utf-8")
    faults = render.faults(page)
    assert bool(faults) == (found is not None)
    assert found is None or found in faults[0]


# staging


def test_staging_touches_only_what_differs(tmp_path):
    folder = tmp_path / "stage"
    render._make_equal(folder, {Path("a"): b"1", Path("b/c"): b"2"})
    before = (folder / "a").stat().st_mtime_ns
    source = tmp_path / "source"
    source.write_bytes(b"1")
    render._make_equal(folder, {Path("a"): source, Path("d"): b"3"})
    assert (folder / "a").stat().st_mtime_ns == before
    assert sorted(p.name for p in folder.rglob("*") if p.is_file()) == ["a", "d"]


def test_an_edited_style_sheet_is_noticed(tmp_path):
    assets, static = tmp_path / "assets", tmp_path / "html" / "_static"
    for folder in (assets, static):
        folder.mkdir(parents=True)
        (folder / "a.css").write_text("a {}")
    assert not render._styles_differ(assets, tmp_path / "html")
    (assets / "a.css").write_text("b {}")
    assert render._styles_differ(assets, tmp_path / "html")


def test_a_table_of_contents_that_names_nothing_is_refused(tmp_path):
    (tmp_path / "_toc.yml").write_text("root: book/intro\n")
    with pytest.raises(render.RenderError, match=r"_toc\.yml names book/intro, and there is no"):
        render.toc_files(tmp_path)


# the whole, without rendering


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A book of two chapters beside a copy of the parts of the package that they import."""
    package = tmp_path / "hesslab"
    shutil.copytree(ROOT / "hesslab" / "report", package / "report")
    for file in ("__init__.py", "__init__.pyi", "_files.py", "errors.py"):
        shutil.copy(ROOT / "hesslab" / file, package)
    (tmp_path / "book").mkdir()
    (tmp_path / "_toc.yml").write_text(
        "root: book/intro\nchapters:\n- file: book/one\n- file: book/two\n"
    )
    (tmp_path / "book" / "intro.md").write_text("# Hello\n")
    write(tmp_path, "one", chapter("print(n)", "report.claims(globals(), profiles)"))
    write(tmp_path, "two", chapter("print(n + 1)"))
    monkeypatch.setattr(build, "_render", lambda root, chapters: root / "page.html")
    return tmp_path


def write(root: Path, name: str, notebook: NotebookNode) -> None:
    nbformat.write(notebook, root / "book" / f"{name}.ipynb")


def test_chapters_run_again_when_what_they_import_changed_and_not_for_prose(root, capsys):
    def built(*arguments: str) -> set[str]:
        capsys.readouterr()
        assert main(["--root", str(root), *arguments]) == 0
        return {line.split()[0][5:-1] for line in capsys.readouterr().out.splitlines()[1:-1]}

    assert built() == {"one", "two"}
    assert built() == set()
    prose = notebooks.read(root / "book" / "one.ipynb")
    prose.cells.insert(1, new_markdown_cell("New prose."))
    write(root, "one", prose)
    assert built() == set()
    assert build.stored(root, "book/one", "quick").cells[1].source == "New prose."
    with (root / "hesslab" / "report" / "checks.py").open("a") as file:
        file.write("# changed\n")
    assert built() == {"one"}  # only this one uses claims
    assert built("--profile", "laptop") == {"one", "two"}
    assert built() == set()  # the runs of the other profile are still there


def test_a_failing_chapter_is_reported_and_the_other_one_runs(root, capsys):
    write(root, "one", chapter("raise KeyError('lost')"))
    assert main(["--root", str(root)]) == 1
    said = capsys.readouterr()
    assert "FAILED book/one" in said.err
    assert "raised KeyError: 'lost'" in said.err
    assert "not rendered, failed: book/one" in said.err
    assert "book/two: " in said.out
    assert build.stored(root, "book/one", "quick") is None
    assert build.stored(root, "book/two", "quick") is not None


def test_one_chapter_runs_with_other_values(root, capsys):
    output = root / "out.ipynb"
    request = ["run", "one", "--root", str(root), "-p", "n", "5", "-o", str(output)]
    assert main(request) == 0
    executed = nbformat.read(output, 4)
    assert executed.cells[4].outputs[0].text == "5\n"
    assert executed.cells[1].source.startswith("n: int = 5  # ")
    assert "papermill" not in executed.metadata
    assert footer(executed)["modules"]


def test_wrong_requests_say_what_there_is(root, capsys):
    assert main(["run", "one", "--root", str(root), "-p", "m", "5"]) == 2
    assert "unknown parameter m; known are\n  n: int = 3" in capsys.readouterr().err
    assert main(["run", "three", "--root", str(root)]) == 2
    assert "no chapter 'three'; there are: one, two" in capsys.readouterr().err
    assert main(["--root", str(root), "--profile", "gpu"]) == 2
    assert "one.ipynb: no profile 'gpu'; there are quick, laptop" in capsys.readouterr().err


def test_a_chapter_without_a_footer_is_refused(root, capsys):
    bare = chapter()
    bare.cells.pop()
    write(root, "one", bare)
    assert main(["--root", str(root)]) == 1
    assert "make it the last cell" in capsys.readouterr().err


def executed(root: Path) -> NotebookNode:
    """Chapter one as a run leaves it, without a kernel."""
    notebook = notebooks.read(root / "book" / "one.ipynb")
    for count, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), 1):
        cell.execution_count = count
    record = {"modules": ["hesslab.errors"], "data": {"set/a.bin": "x"}, "loaded": {"r.json": "x"}}
    notebook.cells[-1].outputs = [new_output("display_data", metadata={"hesslab": record})]
    return notebook


def test_data_records_and_half_stored_runs_decide_as_well(root, monkeypatch):
    monkeypatch.setenv("HESSLAB_DATA", str(root / "data"))
    data, result = root / "data" / "set" / "a.bin", root / "book" / "results" / "r.json"
    measured = root / "benchmarks" / "results" / "r.json"
    for path in (data, result, measured):
        path.parent.mkdir(parents=True)
        path.write_text("1")
    runs = Runs(root / "cache", root)
    source = notebooks.read(root / "book" / "one.ipynb")
    runs.keep("book/one", executed(root))
    assert runs.find("book/one", source) is not None
    for path in (data, result, measured):
        path.write_text("22")
        assert runs.find("book/one", source) is None
        path.write_text("1")
        assert runs.find("book/one", source) is not None
    (stored,) = (root / "cache").glob("executed/*/base.ipynb")
    stored.write_text(stored.read_text()[:100])
    assert runs.find("book/one", source) is None
    runs.keep("book/one", executed(root))
    assert runs.find("book/one", source) is not None


@pytest.mark.parametrize("place", ["data", "hub"])
def test_changed_images_and_shared_weights_decide_as_well(root, monkeypatch, place):
    monkeypatch.setenv("HESSLAB_DATA", str(root / "data"))
    monkeypatch.setenv("TORCH_HOME", str(root / "torch"))
    name, file = {
        "data": ("pics/val (2 images)", root / "data/pics/val/cat/1.png"),
        "hub": ("net-0123.pth", root / "torch/hub/checkpoints/net-0123.pth"),
    }[place]
    file.parent.mkdir(parents=True)
    file.write_text("1")
    runs = Runs(root / "cache", root)
    source, done = notebooks.read(root / "book" / "one.ipynb"), executed(root)
    done.cells[-1].outputs[0].metadata["hesslab"] |= {"data": {name: "x"}, "loaded": {}}
    runs.keep("book/one", done)
    assert runs.find("book/one", source) is not None
    file.write_text("22")
    assert runs.find("book/one", source) is None
    runs.keep("book/one", done)
    assert runs.find("book/one", source) is not None
    file.unlink()
    assert runs.find("book/one", source) is None


@pytest.mark.parametrize(
    ("name", "again"),
    [("elsewhere (2 images)", True), ("gone.bin", True), ("scikit-learn/digits", False)],
)
def test_data_that_cannot_be_looked_at_again_means_a_new_run(root, monkeypatch, name, again):
    monkeypatch.setenv("HESSLAB_DATA", str(root / "data"))
    runs = Runs(root / "cache", root)
    source, done = notebooks.read(root / "book" / "one.ipynb"), executed(root)
    done.cells[-1].outputs[0].metadata["hesslab"] |= {"data": {name: "x"}, "loaded": {}}
    runs.keep("book/one", done)
    assert (runs.find("book/one", source) is None) == again


def test_an_interrupt_whose_exception_python_has_dropped(monkeypatch, tmp_path):
    said = threading.Event()
    said.set()
    monkeypatch.setattr(build, "_interrupted", said)
    cells = [new_code_cell("import time; time.sleep(5)")]
    waiting = {"one": new_notebook(cells=cells)}
    with pytest.raises(KeyboardInterrupt):
        list(build._execute_all(waiting, tmp_path, "quick", 1))


def test_an_interrupted_build_leaves_no_half_file(root):
    write(root, "one", chapter("import time; time.sleep(60)"))
    process = subprocess.Popen(
        [sys.executable, "-m", "book.build", "--root", str(root)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not process.stdout.readline().startswith("0 of 2"):
        assert process.poll() is None, process.stderr.read()
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted: nothing half-written is left" in said
    assert not list(root.rglob("*.part*"))
    assert not (root / "_build" / "html").exists()
