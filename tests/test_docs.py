"""What is written about the package and the book, compared with both."""

from __future__ import annotations

import ast
import re
import warnings
from pathlib import Path

import nbformat
import pytest
import yaml

import hesslab
from book import notebooks

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
PAGES = sorted([*BOOK.glob("*.md"), *BOOK.glob("*.ipynb")])
TEXTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "book/reproduce.md"]
DIRECTIVE = r"^\.\. (?:autofunction|autoclass|py:data):: (hesslab\.\S+)$"


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def prose(page: Path) -> str:
    if page.suffix == ".md":
        return page.read_text(encoding="utf-8")
    cells = nbformat.read(page, as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def stub_names(path: Path) -> set[str]:
    """What a stub exports: the names after `as`."""
    imports = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.ImportFrom)]
    return {alias.asname or alias.name for node in imports for alias in node.names}


def module_names(path: Path) -> set[str]:
    """What a plain module defines under public names, its constants left out."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias":
            names.add(ast.unparse(node.target))
    return {name for name in names if not name.startswith("_")}


def public_names() -> set[str]:
    package = ROOT / "hesslab"
    found = {
        f"hesslab.{stub.parent.name}.{name}"
        for stub in package.glob("*/__init__.pyi")
        for name in stub_names(stub)
    }
    for module in package.glob("[a-z]*.py"):
        found |= {f"hesslab.{module.stem}.{name}" for name in module_names(module)}
    return found


def test_api_page_names_every_public_name_once_and_no_other():
    named = re.findall(DIRECTIVE, text("book/api.md"), flags=re.MULTILINE)
    assert len(named) == len(set(named))
    assert set(named) == public_names()


def test_api_tables_list_what_stands_below_them():
    for block in re.findall(r"```\{eval-rst\}\n(.*?)```", text("book/api.md"), flags=re.DOTALL):
        (module,) = re.findall(r"^\.\. currentmodule:: (\S+)$", block, flags=re.MULTILINE)
        table = re.findall(r"^   (\w+)$", block, flags=re.MULTILINE)
        directives = re.findall(DIRECTIVE.replace("|py:data", ""), block, flags=re.MULTILINE)
        assert [f"{module}.{name}" for name in table] == directives


def test_short_names_are_names_of_a_subpackage():
    top = stub_names(ROOT / "hesslab" / "__init__.pyi")
    folders = {path.parent.name for path in (ROOT / "hesslab").glob("*/__init__.pyi")}
    modules = {path.stem for path in (ROOT / "hesslab").glob("[a-z]*.py")}
    assert folders <= top
    short = top - folders - modules
    assert short <= {name.rpartition(".")[2] for name in public_names()}
    assert all(f"`hesslab.{name}`" in text("book/api.md") for name in short)


def test_citation_has_the_version_of_the_package():
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["version"] == hesslab.__version__
    assert citation["license"] == "MIT"
    assert f"\n## {hesslab.__version__}" in text("CHANGELOG.md")


def test_readme_picture_is_small_and_described():
    alt, path = re.findall(r"^!\[(.+?)\]\((.+?)\)$", text("README.md"), flags=re.MULTILINE)[0]
    assert len(alt) > 80
    assert (ROOT / path).stat().st_size < 200_000


@pytest.mark.parametrize("name", TEXTS)
def test_links_to_files_of_the_repository_lead_somewhere(name):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", text(name))
    assert not [target for target in targets if not ((ROOT / name).parent / target).exists()]


@pytest.mark.parametrize("name", TEXTS)
def test_commands_name_targets_chapters_and_parameters_that_exist(name):
    content = text(name)
    lines = set(re.findall(r"^([a-z]+):(?!=)", text("Makefile"), flags=re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", content, flags=re.MULTILINE)) <= lines
    pattern = r"(?:papermill book/|book\.build run |--profile \w+ )(\d\d_\w+)(?:\.ipynb)?(.*)"
    for chapter, rest in re.findall(pattern, content):
        notebook = BOOK / f"{chapter}.ipynb"
        assert notebook.is_file(), chapter
        known = notebooks.parameters(nbformat.read(notebook, as_version=4))
        assert set(re.findall(r"-p (\w+)", rest)) <= set(known)


def test_cited_works_are_in_the_bibliography():
    entries = re.findall(r"^@\w+\{([^,]+),", text("book/references.bib"), flags=re.MULTILINE)
    assert len(entries) == len(set(entries))
    cited = {
        key.strip()
        for page in PAGES
        for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", prose(page))
        for key in keys.split(",")
    }
    assert cited <= set(entries), f"not in references.bib: {sorted(cited - set(entries))}"
    if unused := set(entries) - cited:
        warnings.warn(f"cited by no page: {', '.join(sorted(unused))}", stacklevel=1)
