"""Reads a chapter: its parameters, its profiles, and the chapter with other values."""

from __future__ import annotations

import ast
import io
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode


class NotebookError(ValueError):
    """A chapter, or what was asked of it, breaks the rules of the book."""


@dataclass(frozen=True)
class Parameter:
    """One line of the parameters cell: `n: int = 200  # number of points`."""

    name: str
    annotation: str
    default: Any
    comment: str

    def __str__(self) -> str:
        return f"{self.name}: {self.annotation} = {self.default!r}  {self.comment}".rstrip()


def read(path: Path) -> NotebookNode:
    """A notebook as its source alone: outputs, counts and run times removed."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        cell.metadata.pop("execution", None)
        cell.metadata.pop("papermill", None)
    notebook.metadata.pop("papermill", None)
    return notebook


def tagged(notebook: NotebookNode, tag: str) -> NotebookNode:
    """Find the one code cell with a tag.

    Returns:
        The cell itself, not a copy.

    Raises:
        NotebookError: there is no such cell, or more than one.
    """
    cells = [c for c in notebook.cells if tag in c.metadata.get("tags", [])]
    if len(cells) != 1 or cells[0].cell_type != "code":
        raise NotebookError(f"{len(cells)} cells are tagged {tag!r}; expected one code cell")
    return cells[0]


def _assignments(source: str) -> list[tuple[str, str, ast.expr]]:
    """(name, annotation, value node) of each line of a parameters cell."""
    found = []
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if len(targets) != 1 or not isinstance(targets[0], ast.Name) or value is None:
            raise NotebookError(
                f"line {node.lineno} of the parameters cell is not `name: type = literal`: "
                f"{ast.unparse(node)}"
            )
        if value.lineno != value.end_lineno:
            raise NotebookError(f"the value of parameter {targets[0].id!r} spans several lines")
        annotation = ast.unparse(node.annotation) if isinstance(node, ast.AnnAssign) else ""
        found.append((targets[0].id, annotation, value))
    return found


def _literal(node: ast.expr, what: str) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise NotebookError(f"{what} is not a literal: {ast.unparse(node)}") from error


def parameters(notebook: NotebookNode) -> dict[str, Parameter]:
    """Read the parameters cell; `NotebookError` where it is not a list of literals.

    Returns:
        The parameters by name, in the order of the cell.
    """
    source = tagged(notebook, "parameters").source
    comments = {
        token.start[0]: token.string
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    return {
        name: Parameter(
            name,
            annotation or type(_literal(value, f"parameter {name!r}")).__name__,
            _literal(value, f"parameter {name!r}"),
            comments.get(value.lineno, ""),
        )
        for name, annotation, value in _assignments(source)
    }


def profiles(notebook: NotebookNode) -> dict[str, dict[str, Any]]:
    """Read the cell tagged `profiles`.

    Returns:
        Parameter values by profile name.

    Raises:
        NotebookError: the cell tagged `profiles` is no literal `profiles = {...}`, a profile
            leaves a parameter out, has one too many or a wrong type, or `quick` differs from
            the parameters cell.
    """
    body = ast.parse(tagged(notebook, "profiles").source).body
    node = body[0] if len(body) == 1 else None
    if not isinstance(node, ast.Assign) or ast.unparse(node.targets[0]) != "profiles":
        raise NotebookError("the cell tagged 'profiles' is not `profiles = {...}` alone")
    found = _literal(node.value, "profiles")
    known = parameters(notebook)
    for profile, values in found.items():
        missing = [name for name in known if name not in values]
        if missing:
            raise NotebookError(f"profile {profile!r} has no value for {missing}")
        checked(known, values)
    defaults = {name: parameter.default for name, parameter in known.items()}
    if found.get("quick") != defaults:
        raise NotebookError("profile 'quick' differs from the parameters cell")
    return found


def checked(known: dict[str, Parameter], values: dict[str, Any]) -> dict[str, Any]:
    """Parameter values after comparison with the names and types of a parameters cell.

    Args:
        known: what `parameters` returned.
        values: literals by name; a whole number is taken where a float is expected.

    Returns:
        The values, converted where that loses nothing.

    Raises:
        NotebookError: an unknown name or a wrong type; the message lists what is known.
    """
    listing = "\n".join(f"  {parameter}" for parameter in known.values())
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise NotebookError(f"unknown parameter {', '.join(unknown)}; known are\n{listing}")
    result = {}
    for name, value in values.items():
        allowed = _type_names(known[name].annotation)
        if type(value) is int and "float" in allowed and "int" not in allowed:
            value = float(value)
        if type(value) is list and "tuple" in allowed:
            value = tuple(value)
        if "Any" not in allowed and type(value).__name__ not in allowed:
            raise NotebookError(
                f"parameter {name} is {value!r} ({type(value).__name__}), expected "
                f"{known[name].annotation}; known are\n{listing}"
            )
        result[name] = value
    return result


def _type_names(annotation: str) -> set[str]:
    """{"tuple", "NoneType"} of "tuple[int, ...] | None"."""
    node: ast.expr = ast.parse(annotation, mode="eval").body
    parts = []
    while isinstance(node, ast.BinOp):
        parts.append(node.right)
        node = node.left
    names = {ast.unparse(p.value if isinstance(p, ast.Subscript) else p) for p in [*parts, node]}
    return {"NoneType" if name == "None" else name for name in names}


def from_text(known: dict[str, Parameter], pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Read what was typed on a command line; `NotebookError` as in `checked`.

    Returns:
        The values: literals, or the plain text where a `str` is expected.
    """
    values: dict[str, Any] = {}
    for name, text in pairs:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        wants_text = name in known and "str" in _type_names(known[name].annotation)
        if wants_text and type(value).__name__ not in _type_names(known[name].annotation):
            value = text
        values[name] = value
    return checked(known, values)


def merge(notebook: NotebookNode, values: dict[str, Any]) -> NotebookNode:
    """Put other values into the parameters cell; `NotebookError` as in `checked`.

    The reader of the page then sees one cell with the values that were used, and not a second
    one that overwrites the first.

    Returns:
        A copy of the chapter; the comments of the cell stay.
    """
    values = checked(parameters(notebook), values)
    copy = NotebookNode(nbformat.from_dict(notebook))
    cell = tagged(copy, "parameters")
    lines = cell.source.split("\n")
    for name, _, node in _assignments(cell.source):
        if name in values and values[name] != _literal(node, name):
            line = lines[node.lineno - 1].encode()  # col_offset counts bytes
            changed = (
                line[: node.col_offset] + repr(values[name]).encode() + line[node.end_col_offset :]
            )
            lines[node.lineno - 1] = changed.decode()
    cell.source = "\n".join(lines)
    return copy
