"""What the caller sees of a long computation: a bar, states to resume from, a clean end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from tqdm import tqdm

State = dict[str, Any]
OnCheckpoint = Callable[[State], None]


class Progress:
    """A bar on a terminal, and the state handed out every so many steps and at Ctrl-C.

    With `on_checkpoint`, Ctrl-C waits for the end of the step, where the state is whole; a second
    one does not wait.

    Args:
        name: what is computed.
        total: products that will be made, or None.
        request: what makes the computation what it is; a state is for this alone.
        state: gives what is needed to go on from here.
        on_checkpoint: takes it; the caller saves it before it returns.
        every: steps between two states.
    """

    def __init__(
        self,
        name: str,
        total: int | None,
        request: Mapping[str, Any],
        state: Callable[[], State],
        on_checkpoint: OnCheckpoint | None,
        every: int = 10,
    ) -> None:
        if every < 1:
            raise ValueError(f"checkpoint_every={every} is out of range: expected at least 1")
        self._request = {"estimator": name, **request}
        self._state, self._on_checkpoint, self._every = state, on_checkpoint, every
        # disable=None: only on a terminal
        self._bar = tqdm(total=total, unit=" products", desc=name, disable=None, leave=False)
        self._steps, self._interrupted = 0, False
        self._handler: Any = None
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self._start

    def __enter__(self) -> Progress:
        main = threading.current_thread() is threading.main_thread()
        if self._on_checkpoint is not None and main:
            self._handler = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def _interrupt(self, number: int, frame: Any) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._bar.close()
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
        if self._interrupted and error is None:
            raise KeyboardInterrupt

    def step(self, products: int, note: str = "") -> None:
        """A step is done.

        Args:
            products: made so far.
            note: what to show beside the bar.

        Raises:
            KeyboardInterrupt: Ctrl-C came during the step.
        """
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(products - self._bar.n)
        self._steps += 1
        if self._interrupted or self._steps % self._every == 0:
            self._hand_out()
        if self._interrupted:
            raise KeyboardInterrupt

    def check(self, state: Mapping[str, Any]) -> None:
        """Refuse a state of another computation.

        Raises:
            ValueError: the message names what differs.
        """
        theirs = state.get("request")
        if not isinstance(theirs, Mapping):
            raise ValueError("state is not one that an estimator of hesslab.linalg handed out")
        for name, ours in self._request.items():
            if theirs.get(name) != ours:
                raise ValueError(
                    f"state was made with {name}={theirs.get(name)!r}, and this is {name}="
                    f"{ours!r}; resume with the arguments that it was made with"
                )

    def _hand_out(self) -> None:
        if self._on_checkpoint is not None:
            self._on_checkpoint({"request": self._request, **self._state()})
