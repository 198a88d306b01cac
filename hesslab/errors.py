"""The few exceptions of the package, each derived from the built-in one that it refines."""

from __future__ import annotations

import importlib
from types import ModuleType


class MissingExtra(ImportError):
    """An optional dependency is needed and not installed."""


class MissingData(FileNotFoundError):
    """A data set or a weight file is neither on this machine nor allowed to be downloaded."""


class DamagedFile(ValueError):
    """The content of a file is not what its checksum or its format promises."""


class NotDeterministic(ValueError):
    """The same product taken twice differs, or would differ: dropout, shuffling, transforms."""


class NotFinite(ValueError):
    """A parameter, an input or a result is NaN or infinite."""


def import_extra(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it.

    Args:
        module: name of the module to import, such as "sklearn.datasets".
        extra: name of the extra of hesslab that installs it.

    Returns:
        The imported module.

    Raises:
        MissingExtra: it is not installed; the message holds the command that installs it.
        ModuleNotFoundError: it is installed and lacks something itself.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != top:
            raise
        raise MissingExtra(
            f"{top} is needed here and is not installed; install it with: "
            f"pip install 'hesslab[{extra}]'"
        ) from error
