"""The sentences of a chapter that hold at the values it was written for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Claims:
    """Checks sentences of the text against what was computed.

    A chapter can be run with any values of its parameters. What must hold for all of them is an
    ``assert``; what the text says about the figures of its own profiles is a claim.

    Attributes:
        at_profile: the profile whose values are all in use, or None.
    """

    def __init__(self, at_profile: str | None) -> None:
        self.at_profile = at_profile

    def check(self, sentence: str, condition: object) -> None:
        """Compare a sentence with the facts.

        Args:
            sentence: as it stands in the text.
            condition: whether it holds: a bool, or a tensor or array of one.

        Raises:
            AssertionError: it does not hold, at the values of a profile. At other values that is
                printed.
        """
        if bool(condition):
            print(f"holds: {sentence}")
        elif self.at_profile is None:
            print(f"not at these values: {sentence}")
        else:
            raise AssertionError(
                f"{sentence} - the text says so, and it does not hold at the values of the "
                f"{self.at_profile} profile"
            )


def claims(values: Mapping[str, Any], profiles: Mapping[str, Mapping[str, Any]]) -> Claims:
    """Find out which profile a chapter is running at.

    Args:
        values: the chapter's ``globals()``.
        profiles: values of every parameter, by profile.

    Returns:
        What checks the sentences of the text.

    Raises:
        ValueError: a profile names a parameter that the chapter does not have.
    """
    unknown = sorted({name for p in profiles.values() for name in p} - set(values))
    if unknown:
        raise ValueError(f"the profiles name {unknown}, which the chapter does not define")
    matching = (
        profile
        for profile, expected in profiles.items()
        if all(values[name] == value for name, value in expected.items())
    )
    return Claims(next(matching, None))
