"""The one door to torchvision, which repairs the import of a mismatched build.

A torchvision built for CUDA beside a torch without it cannot be imported: its compiled part does
not load, and its Python part then describes operators that were never declared. The data sets,
transforms and models are plain Python and work once the two operators are declared. That is all
that is done here, to that one failure only; a torchvision that imports by itself is not touched.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import sys
import threading
from types import ModuleType

import torch

from hesslab.errors import import_extra

_SYMPTOM = "operator torchvision::nms does not exist"
_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_lock = threading.Lock()
_declared: list[torch.library.Library] = []  # the declarations last as long as this object


def load(part: str | None = None) -> ModuleType:
    """Import torchvision, repairing the import where a build for CUDA meets a torch without it.

    Args:
        part: a submodule such as "transforms.v2"; None for torchvision itself.

    Returns:
        The module. After a repair everything in Python works (``datasets``, ``transforms``,
        ``models``); what needs compiled code (``io.read_image``, ``ops.nms``) does not.

    Raises:
        MissingExtra: torchvision is not installed.
    """
    with _lock:
        _import()
    return importlib.import_module("torchvision" if part is None else f"torchvision.{part}")


def _import() -> None:
    """Import torchvision; on exactly the known failure declare the operators and try again."""
    try:
        import torchvision  # noqa: F401
    except ModuleNotFoundError:
        import_extra("torchvision", extra="data")  # names the extra
    except RuntimeError as error:
        if _SYMPTOM not in str(error) or _declared:
            raise
        _repair()


def _repair() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # half imported; a second import must start afresh
    library = torch.library.Library("torchvision", "DEF")
    for schema in _OPERATORS:
        library.define(schema)
    _declared.append(library)
    importlib.import_module("torchvision")
    # Not a warning: a reader of a notebook can do nothing about it, and nothing is wrong.
    logging.getLogger(__name__).info(
        "torchvision %s was built for another torch than %s: its compiled operators (io, ops) are "
        "missing, data sets and transforms work; install both from the same index to have all",
        importlib.metadata.version("torchvision"),
        torch.__version__,
    )
