"""What the caller sees of a long computation: a bar, states to resume from, a clean end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Protocol

from tqdm import tqdm

from hesslab.linalg.matrix import Counted

State = dict[str, Any]
OnCheckpoint = Callable[[State], None]


class Resumable(Protocol):
    """Work that can be interrupted between two steps."""

    def state(self) -> State:
        """What `load` needs to go on; views, to be written before the next step."""

    def load(self, state: State) -> None:
        """Go on from there, to the bit."""


class Progress:
    """A bar on a terminal, and the state handed out every so many steps and at Ctrl-C.

    With `on_checkpoint`, Ctrl-C waits for the end of the step, where the state is whole; a second
    one does not wait.

    Args:
        name: what is computed.
        multiply: the matrix, whose products are counted.
        work: what is done step by step: ``state()`` tells it, ``load(state)`` goes on from there.
        request: what makes the computation what it is, besides the matrix; a state is for this
            alone.
        total: products that will be made, or None.
        on_checkpoint: takes it; the caller saves it before it returns.
        every: steps between two states.
    """

    def __init__(
        self,
        name: str,
        multiply: Counted,
        work: Resumable,
        request: Mapping[str, Any],
        *,
        total: int | None,
        on_checkpoint: OnCheckpoint | None,
        every: int,
    ) -> None:
        if every < 1:
            raise ValueError(f"checkpoint_every={every} is out of range: expected at least 1")
        matrix = {"P": multiply.size, "dtype": str(multiply.dtype)}
        self._request = {"estimator": name, **matrix, **request}
        self._multiply, self._work = multiply, work
        self._on_checkpoint, self._every = on_checkpoint, every
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

    def step(self, note: str = "") -> None:
        """A step is done.

        Args:
            note: what to show beside the bar.

        Raises:
            KeyboardInterrupt: Ctrl-C came during the step.
        """
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(self._multiply.products - self._bar.n)
        self._steps += 1
        if self._interrupted or self._steps % self._every == 0:
            self._hand_out()
        if self._interrupted:
            raise KeyboardInterrupt

    def resume(self, state: State | None) -> None:
        """Go on from a state that was handed out; None begins at the beginning.

        Raises:
            ValueError: it is of another computation; the message names what differs.
        """
        if state is None:
            return
        theirs = state.get("request")
        if not isinstance(theirs, Mapping):
            raise ValueError("state is not one that an estimator of hesslab.linalg handed out")
        for name, ours in self._request.items():
            if theirs.get(name) != ours:
                raise ValueError(
                    f"state was made with {name}={theirs.get(name)!r}, and this is {name}="
                    f"{ours!r}; resume with the arguments that it was made with"
                )
        self._work.load(state["work"])
        self._multiply.products = state["products"]

    def _hand_out(self) -> None:
        if self._on_checkpoint is not None:
            found = {"products": self._multiply.products, "work": self._work.state()}
            self._on_checkpoint({"request": self._request, **found})
