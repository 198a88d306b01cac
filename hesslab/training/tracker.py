"""Numbers of a matrix of the model, followed through its training."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from hesslab._files import write_aside
from hesslab.errors import DamagedFile
from hesslab.linalg import Eigenpairs, Estimate, MatrixLike, SpectralDensity, eigsh
from hesslab.linalg.eigsh import End
from hesslab.metrics import Quantity
from hesslab.training.loop import left_as_found

MOST = 10_000  # numbers of an array in one visit
SAME = 1e-6  # relative: the norms of the weights of one training, run again


class Eigenvalues:
    """Extreme eigenvalues, from a random start at each visit.

    A start from the last visit's vectors converges in fewer products, and then does not see that
    another eigenvalue has become the largest. With enough products to see it, nothing is saved.

    Args:
        k: number of pairs.
        which: end of the spectrum; see `hesslab.linalg.eigsh`.
        rtol: residual that counts as converged, relative to the largest modulus.
        max_products: limit of a visit.
        seed: of the start.
    """

    def __init__(
        self,
        k: int = 1,
        *,
        which: End = "largest",
        rtol: float = 0.03,
        max_products: int = 200,
        seed: int = 0,
    ) -> None:
        self._k = k
        self._options: dict[str, Any] = {"which": which, "rtol": rtol}
        self._options |= {"max_products": max_products, "seed": seed}

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self._options.items())
        return f"Eigenvalues({self._k}, {options})"

    def __call__(self, A: MatrixLike) -> Eigenpairs:
        """The pairs of a matrix."""
        return eigsh(A, self._k, **self._options)


class CurvatureTracker:
    """Visits a model during its training and writes a line of numbers for each visit.

    Give it to `fit`, or call it after each step of a loop of your own. At a visit it builds the
    matrix at the present weights, with the model in evaluation mode, and applies each function to
    it; weights, modes and random states are left as they were, so that the training ends with the
    same bits as without.

    Args:
        matrix: a function from the model to its matrix on a fixed set of examples, such as
            ``lambda model: hl.Hessian(model, loss, probe)``.
        follow: names and functions of the matrix that return a number, an `Estimate`, `Quantity`,
            `Eigenpairs`, a mapping or dataclass of those; such as ``{"top": Eigenvalues(1),
            "trace": hl.linalg.trace}``. They are called in this order.
        path: a file of JSON lines. If it exists, it is continued: visits that it holds are not made
            again, and refused where the weights are not those of the visit.
        every: steps between visits, from step 0; or "log", which visits 0, 1, 2, 3, 4, 6, 8, 11,
            16, ..., each 1.41 times the one before.

    Attributes:
        seconds: spent in visits by this object.

    Raises:
        ValueError: an argument is out of range, the file is of a tracker that follows others, or,
            at a visit, of another training.
        TypeError: what `follow` holds is no function.
        DamagedFile: the file is none of a tracker.
    """

    def __init__(
        self,
        matrix: Callable[[nn.Module], MatrixLike],
        follow: Mapping[str, Callable[[Any], Any]],
        *,
        path: str | os.PathLike[str],
        every: int | Literal["log"] = 50,
    ) -> None:
        if not follow:
            raise ValueError("follow is empty; expected a name and a function of the matrix")
        for name, function in follow.items():
            if not callable(function):
                raise TypeError(
                    f"follow[{name!r}] is a {type(function).__name__}; expected a function of the "
                    "matrix, such as hesslab.training.Eigenvalues(3)"
                )
        if every != "log" and (not isinstance(every, int) or every < 1):
            raise ValueError(f'every={every!r}; expected a number of steps, 1 or more, or "log"')
        self._matrix, self._follow, self._path = matrix, dict(follow), Path(path)
        self._every = every
        self.seconds = 0.0
        described = {
            name: repr(function) if isinstance(function, Eigenvalues) else "a function"
            for name, function in self._follow.items()
        }
        about = {"follow": described, "every": every}
        self._visited = self._continue(about) if self._path.exists() else self._begin(about)

    def is_due(self, step: int) -> bool:
        """Whether a step is to be visited."""
        if self._every != "log":
            return step % self._every == 0
        near = round(2 * math.log2(step)) if step > 0 else 0
        return step == 0 or step in {round(2 ** (i / 2)) for i in (near - 1, near, near + 1)}

    def __call__(self, model: nn.Module, step: int) -> None:
        """Visit the model if the step is due and was not visited yet.

        Args:
            model: with the weights after so many steps.
            step: number of steps made.
        """
        if not self.is_due(step):
            return
        norm = _norm(model)
        if step in self._visited:
            return self._compare(step, norm)
        start = time.perf_counter()
        with left_as_found(model, next(model.parameters()).device):
            model.eval()
            A = self._matrix(model)
            found: dict[str, Any] = {}
            for name, function in self._follow.items():
                found |= flat(name, function(A))
        seconds = time.perf_counter() - start
        self.seconds += seconds
        line = {"step": step, "seconds": round(seconds, 3), "weights_norm": norm, **found}
        self._append(line)
        self._visited[step] = norm

    def _compare(self, step: int, norm: float) -> None:
        """Refuse to go on in the file of another training."""
        known = self._visited[step]
        if known is not None and abs(norm - known) > SAME * known:
            raise ValueError(
                f"{self._path} is of another training: there the weights had the norm {known:.9g} "
                f"at step {step}, and now {norm:.9g}; give another path"
            )

    def _append(self, line: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_without_nan(line), allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _begin(self, about: Mapping[str, Any]) -> dict[int, float | None]:
        self._append({"tracker": about})
        return {}

    def _continue(self, about: Mapping[str, Any]) -> dict[int, float | None]:
        """The steps in the file, and the weights' norms; what a kill left of a line is cut off."""
        text = self._path.read_text(encoding="utf-8")
        if text != (whole := _whole_lines(text)):
            with write_aside(self._path) as aside:
                aside.write_text(whole, encoding="utf-8")
        found, visits = read_visits(self._path)
        if found != about:
            raise ValueError(
                f"{self._path} is of a tracker with {found}, and this one has {about}; give "
                "another path, or the same arguments"
            )
        return {visit["step"]: visit.get("weights_norm") for visit in visits}


def read_visits(
    path: str | os.PathLike[str],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What a tracker wrote.

    Args:
        path: its file.

    Returns:
        What it follows and how often, and a dictionary for each visit, in order of steps.

    Raises:
        DamagedFile: the file is none of a tracker.
    """
    try:
        text = _whole_lines(Path(path).read_text(encoding="utf-8"))
        lines = [json.loads(line) for line in text.splitlines()]
        about, *visits = lines
        return about["tracker"], sorted(visits, key=lambda visit: visit["step"])
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise DamagedFile(f"{path} is no file of a CurvatureTracker ({error!r})") from error


def _whole_lines(text: str) -> str:
    """Without what a kill may have left of a last line."""
    return text[: text.rfind("\n") + 1]


def flat(name: str, result: Any) -> dict[str, Any]:
    """A result as named numbers and lists of numbers.

    Args:
        name: of the result.
        result: a number, an array, an `Estimate`, `Quantity`, `Eigenpairs`, `SpectralDensity`, or
            a mapping or dataclass of those.

    Returns:
        ``{name: value}`` and, where there are errors, ``{name_error: ...}``; parts of a mapping or
        dataclass are called ``name.part``.

    Raises:
        TypeError: it is something else.
        ValueError: it is an array of more than 10,000 numbers.
    """
    if isinstance(result, Estimate):
        return {
            name: result.estimate,
            f"{name}_error": result.standard_error,
            f"{name}_low": result.low,
            f"{name}_high": result.high,
        }
    if isinstance(result, Quantity):
        return {name: result.value, f"{name}_error": result.error}
    if isinstance(result, Eigenpairs):
        return {
            name: result.values.tolist(),
            f"{name}_residual": result.residuals.tolist(),
            f"{name}_products": result.products,
        }
    if isinstance(result, SpectralDensity):
        values, weights = result.atoms()
        found = {"eigenvalues": result.eigenvalues, "values": values, "weights": weights}
        return flat(name, found | {"energies": result.energies(), "products": result.products})
    if isinstance(result, Tensor | np.ndarray | np.generic):
        size = int(np.prod(result.shape))
        if size > MOST:
            raise ValueError(
                f"{name} gave {size} numbers, and a visit keeps at most {MOST} of each; return "
                "what you want to know of them"
            )
        return {name: result.tolist()}
    if isinstance(result, bool | int | float | str):
        return {name: result}
    if is_dataclass(result) and not isinstance(result, type):
        result = {field.name: getattr(result, field.name) for field in fields(result)}
    if isinstance(result, Mapping):
        parts = (flat(f"{name}.{key}", value) for key, value in result.items())
        return {key: value for part in parts for key, value in part.items()}
    raise TypeError(
        f"{name} gave a {type(result).__name__}; expected a number, an array, an estimate, "
        "eigenpairs, or a mapping of those"
    )


def _norm(model: nn.Module) -> float:
    """Of all parameters together, in float64."""
    parts = [parameter.detach().double().square().sum() for parameter in model.parameters()]
    return float(torch.stack(parts).sum().sqrt())


def _without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity: None stands for what is not a number."""
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
