"""Derivatives of operations for which there is no rule: torch's own, one operation at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from hesslab.operators.shared import EVALUATING

Function = Callable[..., Any]


@dataclass(frozen=True)
class Closed:
    """An operation as a function of its tensors alone, giving a tuple of its float outputs."""

    op: Function
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    floating: tuple[int, ...]

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The float outputs."""
        kwargs = {pair[0]: _fill(pair[1], tensors) for pair in self.kwargs}
        out = self.op(*_fill(self.args, tensors), **kwargs)
        outputs = out if isinstance(out, tuple | list) else (out,)
        return tuple(outputs[i] for i in self.floating)


@dataclass(frozen=True)
class Pull:
    """The product of an output cotangent with the Jacobian of ``function``, for some arguments."""

    function: Function
    active: tuple[int, ...]
    tensors: int
    __name__ = "pull"

    def __call__(self, *values: Tensor) -> tuple[Tensor, ...]:
        """A cotangent of each active tensor, from all tensors and the cotangents."""
        tensors, cotangents = values[: self.tensors], values[self.tensors :]
        inner = _partial(self.function, self.active, tensors)
        pull = torch.func.vjp(inner, *(tensors[i] for i in self.active))[1]
        return tuple(pull(cotangents))


@dataclass(frozen=True)
class Push:
    """The product of the Jacobian of ``function`` with tangents of some of its arguments."""

    function: Function
    active: tuple[int, ...]
    tensors: int
    __name__ = "push"

    def __call__(self, *values: Tensor) -> tuple[Tensor, ...]:
        """The tangent of each output, from all tensors and the active ones' tangents."""
        tensors, tangents = values[: self.tensors], values[self.tensors :]
        inner = _partial(self.function, self.active, tensors)
        primals = tuple(_apart(tensors[i]) for i in self.active)
        # Without autograd, some of torch's backwards are not differentiable.
        with EVALUATING, torch.enable_grad():
            return tuple(torch.func.jvp(inner, primals, tangents)[1])


@dataclass(frozen=True)
class Slope:
    """The first or second derivative of an elementwise function of one tensor."""

    op: Function
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    order: int
    __name__ = "slope"

    def __call__(self, x: Tensor) -> Tensor:
        """The derivative at each entry of ``x``."""
        derivative: Function = lambda x: self.op(x, *self.args, **dict(self.kwargs))  # noqa: E731
        for _ in range(self.order):
            derivative = _slope(derivative)
        with EVALUATING:
            values: Tensor = derivative(_apart(x))
        return values


def _slope(function: Function) -> Function:
    return lambda x: torch.func.jvp(function, (x,), (torch.ones_like(x),))[1]


def _apart(x: Tensor) -> Tensor:
    """``x``; a copy if entries share memory, because torch gives such a tensor no tangent."""
    shared = any(step == 0 and n > 1 for step, n in zip(x.stride(), x.shape, strict=True))
    return x.clone(memory_format=torch.contiguous_format) if shared else x


def derivative(node: Node) -> Slope:
    """The derivative of a node's elementwise function, of one more order if it is one already."""
    target: Any = node.target
    if isinstance(target, Slope):
        return Slope(target.op, target.args, target.kwargs, target.order + 1)
    return Slope(target, tuple(node.args[1:]), tuple(sorted(node.kwargs.items())), 1)


def close(node: Node) -> tuple[Closed, list[Node]]:
    """The operation of a node as a function of the tensors that it reads."""
    tensors: list[Node] = []

    def mark(argument: Node) -> Any:
        if argument not in tensors:
            tensors.append(argument)
        return _Slot(tensors.index(argument))

    args = _hashable(map_arg(node.args, mark))
    kwargs = tuple((k, _hashable(map_arg(v, mark))) for k, v in sorted(node.kwargs.items()))
    value = node.meta["val"]
    outputs = value if isinstance(value, tuple | list) else (value,)
    floating = tuple(i for i, out in enumerate(outputs) if is_float(out))
    target: Any = node.target
    return Closed(target, args, kwargs, floating), tensors


def is_float(value: Any) -> bool:
    """Whether it is a tensor that can have a derivative."""
    return isinstance(value, Tensor) and value.is_floating_point()


@dataclass(frozen=True)
class _Slot:
    index: int


def _hashable(value: Any) -> Any:
    return tuple(_hashable(item) for item in value) if isinstance(value, list | tuple) else value


def _fill(value: Any, tensors: tuple[Tensor, ...]) -> Any:
    if isinstance(value, tuple):
        return tuple(_fill(item, tensors) for item in value)
    return tensors[value.index] if isinstance(value, _Slot) else value


def _partial(function: Function, active: tuple[int, ...], tensors: tuple[Tensor, ...]) -> Function:
    def inner(*chosen: Tensor) -> Any:
        full = list(tensors)
        for position, value in zip(active, chosen, strict=True):
            full[position] = value
        return function(*full)

    return inner
