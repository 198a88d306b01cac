"""What is timed: the gradient, the products of this package, and those of others."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from _networks import Setting

import hesslab as hl

Run = Callable[[], Any]


class Absent(Exception):
    """A peer, or a part of this package, is not there."""


@dataclass(frozen=True)
class Candidate:
    """One way to a product.

    Attributes:
        product: what is computed, a name of `references`.
        route: who computes it and how.
        start: builds what outlives a product (operators, kept graphs) and returns the product.
        work: the name in `WORK` of its fewest multiplications.
        fresh: `start` is called again before each product; its time is not the product's.
        alone: its peak memory and the time to its first product are measured, in own processes.
        device: the only kind of device on which it is timed, or None for any.
    """

    product: str
    route: str
    start: Callable[[Setting], Run]
    work: str
    fresh: bool = False
    alone: bool = False
    device: str | None = None

    @property
    def name(self) -> str:
        return f"{self.product}: {self.route}"

    @property
    def block(self) -> bool:
        """Whether it multiplies all columns of a block at once."""
        return self.product.endswith("block")


def unit(s: Setting) -> Run:
    """The gradient of the user's own module, which is the unit of all figures."""
    parameters = s.parameters
    return lambda: torch.autograd.grad(s.loss(s.model(s.x), s.y), parameters)


def _operator(kind: str, s: Setting, mode: str, **options: Any) -> Any:
    """An operator of this package for all examples of the setting."""
    build = getattr(hl.operators, kind)
    return build(s.model, s.our_loss, (s.x, s.y), mode=mode, **options)


def _jacobian(s: Setting) -> Any:
    return hl.operators.Jacobian(s.model, s.x, mode="cache")


def _times_vector(kind: str, mode: str) -> Callable[[Setting], Run]:
    def start(s: Setting) -> Run:
        operator = _operator(kind, s, mode)
        return lambda: operator @ s.v

    return start


def _times_block(kind: str, mode: str) -> Callable[[Setting], Run]:
    def start(s: Setting) -> Run:
        operator = _operator(kind, s, mode)
        return lambda: operator @ s.V

    return start


def _forward(s: Setting) -> Run:
    J = _jacobian(s)
    return lambda: J @ s.v


def _backward(s: Setting) -> Run:
    J = _jacobian(s)
    return lambda: J.T @ s.u


def plan(s: Setting) -> dict[str, Any]:
    """What the cached Hessian says of itself, and what the way to a first product costs.

    The seconds are CPU time of a second model in a process that has traced one before: building the
    operator (its checks included), and tracing with all passes over the graphs, which is the first
    product less one by an operator that finds all graphs made.
    """
    H = _operator("Hessian", s, "cache")
    H @ s.v
    lean = _operator("Hessian", s, "cache", memory_limit=H.plan.residual_bytes - 1)
    lean @ s.v
    again = dataclasses.replace(s, model=copy.deepcopy(s.model))
    construction, fresh = _seconds(lambda: _operator("Hessian", again, "stream"))
    traced, _ = _seconds(lambda: fresh @ s.v)
    known = _operator("Hessian", again, "stream")
    plain, _ = _seconds(lambda: known @ s.v)
    return {
        "plan": repr(H.plan),
        "residual_mb": H.plan.residual_bytes / 1e6,
        "residual_mb_lean": lean.plan.residual_bytes / 1e6,
        "construction_seconds": construction,
        "trace_seconds": traced - plain,
    }


def _seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


OURS = [
    Candidate(
        "hessian",
        "hesslab, first",
        _times_vector("Hessian", "auto"),
        "hessian, first",
        fresh=True,
        alone=True,
    ),
    Candidate(
        "hessian",
        "hesslab, keeping",
        _times_vector("Hessian", "cache"),
        "hessian, first",
        fresh=True,
        alone=True,
    ),
    Candidate("hessian", "hesslab, repeated", _times_vector("Hessian", "cache"), "hessian"),
    Candidate(
        "hessian",
        "hesslab, streaming",
        _times_vector("Hessian", "stream"),
        "hessian, first",
    ),
    Candidate("hessian block", "hesslab, repeated", _times_block("Hessian", "cache"), "hessian"),
    Candidate("ggn", "hesslab, repeated", _times_vector("GGN", "cache"), "ggn"),
    Candidate(
        "ggn", "hesslab, streaming", _times_vector("GGN", "stream"), "ggn, first", alone=True
    ),
    Candidate("ggn block", "hesslab, repeated", _times_block("GGN", "cache"), "ggn"),
    Candidate("jvp", "hesslab, repeated", _forward, "jvp"),
    Candidate("vjp", "hesslab, repeated", _backward, "vjp"),
]
