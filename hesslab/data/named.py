"""An image set by its name, so that a chapter can take the name as a parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hesslab.data.bundled import digits
from hesslab.data.images import cifar10, fashion_mnist, kmnist, mnist
from hesslab.data.splits import Parts

_SETS: dict[str, Callable[..., Parts]] = {
    "digits": digits,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "kmnist": kmnist,
    "cifar10": cifar10,
}


def load(name: str, **options: Any) -> Parts:
    """The image set called ``name``.

    Args:
        name: "digits", "mnist", "fashion_mnist", "kmnist" or "cifar10".
        options: of the function of that name: ``split``, ``subset``, ``seed``, ``download``,
            ``normalisation``.

    Returns:
        What that function returns: (train, test), or the Dataset that ``split`` names.

    Raises:
        ValueError: the name is unknown; the message lists the known ones.
    """
    if name not in _SETS:
        raise ValueError(f"data set {name!r} is unknown; expected one of {', '.join(_SETS)}")
    return _SETS[name](**options)
