"""Which route a product takes: traced or not, with residuals kept or not. A fixed rule decides."""

from __future__ import annotations

import copy
import textwrap
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hesslab._memory import megabytes, quarter
from hesslab.operators.engine.traced import Kind, Traced
from hesslab.operators.network import Network

Mode = Literal["auto", "stream", "cache"]
ROWS_IN_BLOCKS = 128  # matrix products with more rows gain nothing from a block


class Plan:
    """The route of one operator's products, and its reason.

    Args:
        mode: "stream" goes through the data in each product. "cache" keeps what does not depend on
            the vector. "auto" streams the first product, and caches from then on if that fits.
        memory_limit: bytes that residuals may take; None means a quarter of the device's memory.
        block_size: columns that are multiplied at once; None leaves it to the shapes, "calibrate"
            to the clock at the first product of a block.

    Attributes:
        mode: the choice, or "stream" once it is clear that nothing can be kept.
        traced: the traced network, or None where products go by autograd.
        residual_bytes: what is kept between products, estimated from the first batch.
        uncalibrated: the clock has not yet said how many columns go at once.

    Raises:
        ValueError: an unknown mode, or a number out of range.
    """

    def __init__(
        self, mode: Mode, memory_limit: int | None, block_size: int | Literal["calibrate"] | None
    ) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f'mode={mode!r} is unknown; expected "auto", "stream" or "cache"')
        self.uncalibrated = block_size == "calibrate"
        self._block_size = None if block_size == "calibrate" else block_size
        for name, value, others in (
            ("memory_limit", memory_limit, "None"),
            ("block_size", self._block_size, '"calibrate" or None'),
        ):
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and (not whole or value < 1):
                raise ValueError(
                    f"{name}={value!r} is out of range: expected a whole number of at least 1, or "
                    f"{others}"
                )
        self.mode = self._asked = mode
        self._limit = memory_limit
        self._parts = 1
        self.traced: Traced | None = None
        self.residual_bytes = 0
        # Neither `start` nor `untraced` is called where there is no product to compare.
        self.reason = "streaming by autograd (the product with the first examples is not finite)"
        self._note = ""
        self.lock = threading.RLock()  # one product at a time: what they keep is shared

    def __getstate__(self) -> dict[str, Any]:
        """A copy keeps nothing yet."""
        state = {**vars(self), "mode": self._asked, "residual_bytes": 0}
        del state["lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin with the first product."""
        vars(self).update(state, lock=threading.RLock())
        if self.traced is not None:
            self.start(self.traced, self._note)

    def __repr__(self) -> str:
        return self.reason + (f"; {self._note}" if self._note else "")

    def untraced(self, reason: str) -> None:
        """Go on by autograd, batch by batch."""
        self.traced = None
        self.reason = f"streaming by autograd ({_short(reason)})"

    def start(self, traced: Traced, note: str = "") -> None:
        """Go on by the traced route; the note says what is to be known of blocks of columns."""
        self.traced = traced
        self.reason = {
            "stream": "streaming",
            "cache": "residuals to be kept by the first product",
            "auto": "streaming, residuals to be kept by the second product",
        }[self.mode]
        self._note = _short(note)

    def calibrated(self, seconds: Mapping[int, float]) -> None:
        """Take the number of columns at once that took the fewest seconds a column."""
        assert self.traced is not None
        best = min(seconds, key=seconds.__getitem__)
        self.traced.block_size = best
        self.uncalibrated = False
        self._note = f"{best} columns at once, by the clock"

    def share(self, parts: int) -> None:
        """Leave room for the residuals of so many operators."""
        self._parts = parts

    def renewed(self, network: Network) -> Plan:
        """The same choices for the same function of fewer parameters."""
        other = copy.copy(self)
        other.mode, other.residual_bytes = self._asked, 0
        if self.traced is not None:
            other.start(self.traced.restricted(network), self._note)
        return other

    def columns(self, device: torch.device, rows: float) -> int:
        """How many columns of a block are multiplied at once; 1 is one after the other.

        Args:
            device: of the operator.
            rows: of the largest matrix product of the net; infinite if it has others as well.

        Returns:
            That number.
        """
        if device.type == "cuda":
            return self._block_size or 16
        return (self._block_size or 32) if rows <= ROWS_IN_BLOCKS else 1

    def decide(
        self,
        examples: Callable[[], int],
        first_batch: Callable[[], tuple[Tensor, Tensor]],
        kind: Kind,
    ) -> None:
        """Before a product: whether it keeps its residuals.

        Raises:
            MemoryError: mode="cache", and they do not fit.
        """
        traced = self.traced
        if traced is None or traced.keep or self.mode == "stream":
            return
        if self.mode == "auto" and not traced.seen:
            return
        first = first_batch()
        found = self.residuals(traced, kind, first, examples() / len(first[0]))
        if traced.exceeded:
            found = replace(found, size=traced.exceeded)
        elif found.fit:
            traced.keep, traced.lean, traced.on_host = True, found.lean, found.on_host
            traced.limit = max(found.limit, found.size * 11 // 10)  # ragged batches may take more
            self.residual_bytes = found.size
            self.reason = f"cached: {megabytes(found.size)} of {found}"
            return
        text = self._too_much(found.size, found.limit)
        if self.mode == "cache":
            raise MemoryError(
                f'mode="cache": {text}; raise memory_limit, take fewer examples, or mode="stream"'
            )
        self.mode = "stream"
        self.reason = f"streaming ({text})"

    def review(self) -> None:
        """After a product: whether a batch took more than the first had led to expect."""
        if self.traced is not None and self.traced.exceeded and self.residual_bytes:
            self.residual_bytes = 0
            text = self._too_much(self.traced.exceeded, self.traced.limit)
            self.reason = f"streaming ({text})"
            if self.mode == "auto":
                self.mode = "stream"

    def _too_much(self, size: int, limit: int) -> str:
        least = "at least " if self.traced is not None and self.traced.exceeded else ""
        return f"{least}{megabytes(size)} of residuals exceed memory_limit, {megabytes(limit)}"

    def residuals(
        self, traced: Traced, kind: Kind, first: tuple[Tensor, Tensor], share: float
    ) -> Residuals:
        """What would be kept: the fastest form that fits, or else the smallest.

        Args:
            traced: the network.
            kind: of the product.
            first: a batch.
            share: of all data in that batch: so many of them.

        Returns:
            The form, its size and its limit.
        """
        device = first[0].device
        forms = [(False, False), (True, False)] if kind == "hessian" else [(False, False)]
        if device.type == "cuda":  # copies to the device and back cost less than a forward
            forms.append((False, True))
        for lean, on_host in forms:
            size = int(traced.residual_bytes(kind, *first, lean=lean) * share)
            limit = self.limit(torch.device("cpu") if on_host else device)
            found = Residuals(lean, on_host, size, limit)
            if found.fit:
                break
        return found

    def limit(self, device: torch.device) -> int:
        """Bytes that may be kept in a device's memory."""
        return (self._limit or quarter(device)) // self._parts


@dataclass(frozen=True)
class Residuals:
    """What is kept from product to product.

    Attributes:
        lean: the cotangents are left out, and computed again.
        on_host: it waits in the memory of the host.
        size: in bytes.
        limit: that there is for it.
    """

    lean: bool
    on_host: bool
    size: int
    limit: int

    def __str__(self) -> str:
        what = "residuals without cotangents" if self.lean else "residuals"
        return f"{what} on the host" if self.on_host else what

    @property
    def fit(self) -> bool:
        """Whether they are within the limit."""
        return self.size <= self.limit


def seconds_a_column(
    started: Callable[[int], Callable[[Tensor], Tensor]], V: Tensor
) -> dict[int, float]:
    """The time of a column of a product that finds its residuals, by columns at once.

    Args:
        started: the product of a block, for a number of columns at once.
        V: a block ``[P, K]``; no more than K are tried.

    Returns:
        Seconds by number.
    """
    seconds = {}
    for width in (2**n for n in range(6) if 2**n <= V.shape[1]):
        product, columns, laps = started(width), V[:, : max(width, min(4, V.shape[1]))], []
        for _ in range(4):  # the first one prepares
            start = time.perf_counter()
            float(product(columns).sum())  # waits for the device
            laps.append((time.perf_counter() - start) / columns.shape[1])
        seconds[width] = min(laps[1:])
    return seconds


def _short(reason: str) -> str:
    """One line for the repr of what may be a message of torch."""
    return textwrap.shorten(reason, 160, placeholder=" ...")
