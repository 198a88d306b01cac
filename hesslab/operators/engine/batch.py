"""A batch on its way through a product, and what stays of it for the next one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hesslab.operators.engine.point import Point

NOTHING = torch.empty(0)


@dataclass
class Batch:
    """A batch as it passes, and what a product has left with it for the next.

    Attributes:
        number: in the order of the data.
        point: the program for its shape.
        x: inputs.
        y: targets.
        kept: the residuals, perhaps in the memory of the host.
        outputs: of the network, as long as a product needs them.
        data: of the middle of a Gauss-Newton product.
    """

    number: int
    point: Point
    x: Tensor
    y: Tensor
    kept: tuple[Tensor, ...] | None = None
    outputs: Tensor = NOTHING
    data: Tensor | None = None

    def held(self) -> int:
        """Bytes that are kept for the next product."""
        rest = [] if self.data is None else [self.data]
        storages = [t.untyped_storage() for t in (self.x, self.y, *(self.kept or ()), *rest)]
        given = self._given()
        sizes = {s.data_ptr(): s.nbytes() for s in storages if s.data_ptr() not in given}
        return sum(sizes.values())

    def keep(self, values: tuple[Tensor, ...], *, on_host: bool) -> None:
        """Keep residuals, if there are none."""
        if self.kept is None:
            given = self._given()
            self.kept = tuple(
                _on_host(t) if on_host and t.untyped_storage().data_ptr() not in given else t
                for t in values
            )

    def residuals(self) -> tuple[Tensor, ...] | None:
        """What was kept, on the device."""
        if self.kept is None:
            return None
        device = self.y.device
        return tuple(t.to(device, non_blocking=True) for t in self.kept)

    def _given(self) -> set[int]:
        """Where the values of the point lie, which are there anyway."""
        return {q.untyped_storage().data_ptr() for q in self.point.q}


def _on_host(t: Tensor) -> Tensor:
    """A copy that a device can fetch without the processor's help, in the same layout."""
    pinned = t.device.type == "cuda"
    return torch.empty_like(t, device="cpu", pin_memory=pinned).copy_(t)
