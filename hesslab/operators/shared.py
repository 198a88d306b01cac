"""Switches of the whole process, for products that overlap on several threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

# A forward runs with other tensors in the places of the module's own, and forward mode has one
# stack of levels: for all threads of the process.
EVALUATING = threading.RLock()


class Shared:
    """A context that the first who enters sets up, and the last who leaves takes back.

    Args:
        context: builds what is entered.
    """

    def __init__(self, context: Callable[[], AbstractContextManager[None]]) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._inside = 0
        self._entered = ExitStack()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Be inside."""
        with self._lock:
            if self._inside == 0:
                self._entered.enter_context(self._context())
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._entered.close()
