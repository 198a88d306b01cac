"""The options that the data functions share: which part, and how much of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from hesslab.data.dataset import Dataset

Part: TypeAlias = Literal["train", "test"]
Split: TypeAlias = Literal["both", "train", "test"]
Subset: TypeAlias = int | tuple[int, int] | None
Parts: TypeAlias = Any
"""What a data function returns: a pair (train, test), or the one Dataset that ``split`` names."""

_PARTS: tuple[Part, Part] = ("train", "test")


def read_parts(read: Callable[[Part, int | None], Dataset], split: Split, subset: Subset) -> Parts:
    """Read what ``split`` asks for, and of each part as many examples as ``subset`` says.

    Args:
        read: gives one part, or that many examples of it.
        split: "both" for a pair, or one part.
        subset: a pair for (training, test), or one number for the training set where both are
            asked for, and for the only one otherwise; None for all examples.

    Returns:
        A pair (train, test), or one Dataset.

    Raises:
        ValueError: ``split`` or ``subset`` is not one of these.
    """
    if split not in ("both", *_PARTS):
        raise ValueError(f"split={split!r} is unknown; expected 'both', 'train' or 'test'")
    train, test = _sizes(split, subset)
    if split == "both":
        return read("train", train), read("test", test)
    return read(split, train if split == "train" else test)


def _sizes(split: Split, subset: Subset) -> tuple[int | None, int | None]:
    if subset is None:
        return None, None
    sizes = tuple(subset) if isinstance(subset, tuple | list) else (subset,)
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in sizes)
    if not whole or len(sizes) not in (1, 2):
        raise ValueError(
            f"subset={subset!r}; expected None, a whole number from 1 on, or a pair of them "
            "(training, test)"
        )
    if len(sizes) == 2:
        return sizes[0], sizes[1]
    return (None, sizes[0]) if split == "test" else (sizes[0], None)
