"""A program at values of the parameters: its head evaluated, and its way back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from hesslab.operators.engine.linear import Linear
from hesslab.operators.engine.program import Program


class Point:
    """One shape of batch at one point. Tangents and cotangents are lists of tensors.

    Args:
        program: the graphs of that shape.
        state: all parameters and buffers, by name.
        active: the names that are differentiated by.
    """

    def __init__(self, program: Program, state: Mapping[str, Tensor], active: Sequence[str]):
        self.program = program
        constants = {name: value.clone() for name, value in program.constants.items()}
        values = {**state, **constants}
        self._values = [values[name] for name in program.names]
        self._p = [state[name] for name in active]
        self.q = program.head(*self._values)
        self._hessians: dict[Any, Linear] = {}
        self.active = [self.q[i] for i in program.active]
        self.gradient: Mean | None = None  # of the mean loss by q, once all data was seen

    @cached_property
    def _push(self) -> tuple[Tensor, ...]:
        return self.program.push.prepare(*self._values)

    @cached_property
    def _pull(self) -> tuple[Tensor, ...]:
        return self.program.pull.prepare(*self._values)

    @cached_property
    def _pull_tangent(self) -> tuple[Tensor, ...]:
        dtype = self._p[0].dtype
        if not self.program.head_is_curved:
            gradient = self.active  # only their shapes are read
        else:
            assert self.gradient is not None
            gradient = self.gradient.parts(dtype)
        return self.program.pull_tangent.prepare(*self._values, *gradient)

    def hessian(self, loss: Any, y: Tensor, *, lean: bool) -> Linear:
        """See `Program.hessian`; a point belongs to one operator, and so to one loss."""
        key = (y.shape, y.dtype, lean)
        if key not in self._hessians:
            self._hessians[key] = self.program.hessian(loss, y, lean=lean)
        return self._hessians[key]

    def add_gradient(self, parts: Sequence[Tensor | None], terms: int) -> None:
        """Add a batch's gradient of its mean loss by q; None is zero."""
        self.gradient = self.gradient or Mean()
        pairs = zip(parts, self.active, strict=True)
        full = [torch.zeros_like(q) if part is None else part for part, q in pairs]
        self.gradient.add(full, terms)

    def push(self, dp: Sequence[Tensor], block: bool = False) -> list[Tensor]:
        """A tangent of the parameters to one of q; or a block of them, K in front."""
        push = self.program.push
        lead = dp[0].shape[:1] if block else ()
        return fill(push, push.run(block, self._push, dp), self.active, lead)

    def pull(self, dg: Sequence[Tensor], block: bool = False) -> list[Tensor]:
        """A cotangent of q to one of the parameters."""
        pull = self.program.pull
        lead = dg[0].shape[:1] if block else ()
        return fill(pull, pull.run(block, self._pull, dg), self._p, lead)

    def pull_tangent(
        self, dp: Sequence[Tensor], dg: Sequence[Tensor], block: bool = False
    ) -> list[Tensor]:
        """The change of the pulled back gradient along tangents of p and of the gradient of q."""
        pull = self.program.pull_tangent
        lead = dp[0].shape[:1] if block else ()
        return fill(pull, pull.run(block, self._pull_tangent, [*dp, *dg]), self._p, lead)


def fill(
    linear: Linear, outputs: Sequence[Tensor], like: Sequence[Tensor], lead: Sequence[int] = ()
) -> list[Tensor]:
    """The outputs of a linear map in their places, zeros in the others; ``lead`` is K or empty."""
    full: list[Any] = [None] * len(like)
    for place, output in zip(linear.places, outputs, strict=True):
        full[place] = output
    return [
        torch.zeros((), dtype=x.dtype, device=x.device).expand(*lead, *x.shape)
        if part is None
        else part
        for part, x in zip(full, like, strict=True)
    ]


class Mean:
    """The weighted mean of lists of tensors, summed in float64; one list alone stays as it came."""

    def __init__(self) -> None:
        self._parts: list[Tensor] | None = None
        self._single = True
        self.weight = 0

    def add(self, parts: Sequence[Tensor], weight: int) -> None:
        """Add one list."""
        if self._parts is None:
            self._parts = list(parts)
        else:
            if self._single:
                self._parts = [part.double() * self.weight for part in self._parts]
                self._single = False
            for total, part in zip(self._parts, parts, strict=True):
                total.add_(part, alpha=weight)
        self.weight += weight

    def parts(self, dtype: torch.dtype) -> list[Tensor]:
        """The mean."""
        assert self._parts is not None
        if self._single:
            return self._parts
        return [(part / self.weight).to(dtype) for part in self._parts]
