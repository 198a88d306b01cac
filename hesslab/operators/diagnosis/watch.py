"""A copy of an operator under a clock: where the seconds of its products go."""

from __future__ import annotations

import copy
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from hesslab.data import Batches
from hesslab.operators.curvature import Curvature
from hesslab.operators.engine.linear import Linear
from hesslab.operators.engine.point import Point
from hesslab.operators.engine.traced import Traced
from hesslab.operators.group import Ranks

Result = TypeVar("Result")
Pair = tuple[Tensor, Tensor]

READING: Final = "reading data"  # the user's own batches
CHECKING: Final = "checking data"  # that these are finite, and the same in every pass
COPYING: Final = "copying to device"
SETUP: Final = "set-up"  # tracing, and writing the graphs
RESIDUALS: Final = "residuals"  # what does not depend on the vector, where it is done apart
NETWORK: Final = "network"  # the rest of what is done for each batch
HEAD: Final = "head"  # what reads parameters alone, once a product
OTHER: Final = "other"  # mostly once a product as well
STAGES = (READING, CHECKING, COPYING, SETUP, RESIDUALS, NETWORK, HEAD, OTHER)


class Clock:
    """Seconds by stage. Inside a stage another one may begin, whose seconds are its own alone.

    Where the device works on by itself, a stage ends when the device has finished it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._open: list[str] = []
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._last = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What happens inside is booked under that name."""
        self._book()
        self._open.append(name)
        try:
            yield
        finally:
            self._book()
            self._open.pop()

    def lap(self, work: Callable[[], object]) -> dict[str, float]:
        """The seconds of one piece of work, by stage; they sum up to its wall time."""
        self._seconds = dict.fromkeys(STAGES, 0.0)
        with self.stage(OTHER):
            work()
        return dict(self._seconds)

    def timed(self, name: str, function: Callable[..., Result]) -> Callable[..., Result]:
        """The function, its calls booked under that name."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Result:
            with self.stage(name):
                return function(*args, **kwargs)

        return call

    def steps(self, name: str, iterator: Iterator[Any]) -> Iterator[Any]:
        """The items of an iterator, the waiting for each booked under that name."""
        nothing = object()
        while True:
            with self.stage(name):
                item = next(iterator, nothing)
            if item is nothing:
                return
            yield item

    def _book(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        if self._open:
            self._seconds[self._open[-1]] += now - self._last
        self._last = now


class _Source:
    """The user's batches under the clock."""

    def __init__(self, source: Iterable[Any], clock: Clock) -> None:
        self._source, self._clock = source, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)  # a message may name the loader's sampler

    def __iter__(self) -> Iterator[Any]:
        # Not at the first step: a DataLoader draws a random number here, and who asked guards that.
        with self._clock.stage(READING):
            iterator = iter(self._source)
        return self._clock.steps(READING, iterator)


class WatchedBatches(Batches):
    """Batches under the clock.

    Attributes:
        sizes: examples in each batch of the last pass.
    """

    def __init__(self, batches: Batches, clock: Clock) -> None:
        inner: Any = copy.copy(batches)
        super().__init__(inner._device, inner._dtype)
        self._inner, self._clock = inner, clock
        self._stage = READING
        self.sizes: list[int] = []
        inner._moved = clock.timed(COPYING, inner._moved)
        if hasattr(inner, "_source"):
            self._stage = CHECKING  # what is left when reading has a stage of its own
            inner._source = _Source(inner._source, clock)
            inner._sums = list(inner._sums)

    def __iter__(self) -> Iterator[Pair]:
        self.sizes = []
        for x, y in self._clock.steps(self._stage, iter(self._inner)):
            self.sizes.append(len(x))
            yield x, y


class Few(Batches):
    """The first few of some batches."""

    def __init__(self, batches: Iterable[Pair], count: int, device: torch.device) -> None:
        super().__init__(device, None)
        self._batches, self._count = batches, count

    def __iter__(self) -> Iterator[Pair]:
        yield from itertools.islice(self._batches, self._count)


class WatchedTraced(Traced):
    """A traced network under the clock."""

    def __init__(self, traced: Traced, batches: Batches, clock: Clock) -> None:
        vars(self).update(vars(traced))
        self._source, self._clock = batches, clock

    def _point(self, x: Tensor) -> Point:
        known = len(self._points)
        with self._clock.stage(SETUP):
            point = super()._point(x)
        if len(self._points) > known:
            for name in ("push", "pull", "pull_tangent"):
                vars(point)[name] = self._clock.timed(HEAD, getattr(point, name))
        return point

    def _product(self, *args: Any, **options: Any) -> Any:
        with self._clock.stage(NETWORK):  # what has no stage of its own below
            return super()._product(*args, **options)

    def _columns(self, *args: Any) -> Any:
        with self._clock.stage(OTHER):
            return super()._columns(*args)

    def _join(self, *args: Any) -> Any:
        with self._clock.stage(OTHER):
            return super()._join(*args)

    def _hessian_of_batch(self, batch: Any, linear: Linear, *args: Any) -> Any:
        prepares = self.keep and batch.kept is None
        if prepares:
            with self._clock.stage(SETUP):
                _ = linear.prepare, linear.apply  # written once
        with self._clock.stage(RESIDUALS if prepares else NETWORK):
            return super()._hessian_of_batch(batch, linear, *args)

    def _linearised(self, batch: Any) -> Any:
        with self._clock.stage(RESIDUALS if batch.kept is None else NETWORK):
            return super()._linearised(batch)


def watched(operator: Curvature, clock: Clock, batches: Batches | None = None) -> Curvature:
    """A copy of an operator whose products are booked; it streams until it is told otherwise.

    Network and data are the operator's own; what it has kept of earlier products is not used.

    Args:
        operator: stays as it is.
        clock: where the copy's stages are booked.
        batches: others than the operator's.

    Returns:
        The copy; `release` it.
    """
    other = copy.copy(operator)
    other._forget()
    other._ranks = Ranks(None, operator.device)  # nobody else takes part in these products
    other._batches = WatchedBatches(batches or operator._batches, clock)
    if batches is not None:
        other._partition = None
    if other.plan.traced is not None:
        traced = WatchedTraced(other.plan.traced, other._batches, clock)
        other.plan.mode = "stream"
        other.plan.start(traced, other.plan._note)
    mean = other._mean
    vars(other)["_mean"] = lambda contribution: mean(clock.timed(NETWORK, contribution))
    return other


def release(operator: Curvature) -> None:
    """Free what a watched copy keeps, at once: it refers to itself."""
    batches: Any = operator._batches
    for part in (operator.plan.traced, batches._inner, operator):
        if part is not None:
            vars(part).clear()
