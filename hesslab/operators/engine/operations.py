"""The few operations that graphs consist of besides torch's own, and the names of those."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from hesslab.operators.engine.graph import Graph, operands, shape

aten = torch.ops.aten
Function = Callable[..., Any]

# Operations that show all of a tensor's memory in another shape or order.
VIEWS = {
    aten.reshape.default,
    aten.t.default,
    aten.transpose.int,
    aten.permute.default,
    aten.expand.default,
}
# Elementwise functions of one tensor that are smooth almost everywhere.
UNARY = frozenset(
    getattr(aten, name).default
    for name in [
        "tanh",
        "sigmoid",
        "gelu",
        "softplus",
        "elu",
        "exp",
        "log",
        "log1p",
        "expm1",
        "sin",
        "cos",
        "sqrt",
        "rsqrt",
        "reciprocal",
        "erf",
        "hardswish",
        "leaky_relu",
        "hardtanh",
        "abs",
    ]
) | {aten.pow.Tensor_Scalar}


def registrar(table: dict[Any, Function]) -> Callable[..., Callable[[Function], Function]]:
    """A decorator that enters a function into a table under each of the operations given."""

    def rule(*ops: Any) -> Callable[[Function], Function]:
        def register(function: Function) -> Function:
            table.update(dict.fromkeys(ops, function))
            return function

        return register

    return rule


def conv_input_grad(g: Tensor, x: Tensor, w: Tensor, geometry: Any) -> Tensor:
    """The gradient of a convolution by its input; of ``x`` only the shape is read."""
    mask = [True, False, False]
    gradient: Tensor = aten.convolution_backward(g, x, w, None, *geometry, mask)[0]
    return gradient


def conv_weight_grad(g: Tensor, x: Tensor, w: Tensor, geometry: Any, bias: bool) -> Any:
    """The gradients of a convolution by its weight and bias; of ``w`` only the shape is read."""
    sizes = [g.shape[1]] if bias else None
    return aten.convolution_backward(g, x, w, sizes, *geometry, [False, True, bias])[1:]


def slice_input_grad(g: Tensor, size: list[int], *where: int) -> Tensor:
    """The gradient of a slice (dimension, start, end, step) by its input, laid out as ``g``."""
    if _channels_last(g):  # torch's own would be laid out by rows, and what is added to it too
        B, C, H, W = size
        full = g.new_zeros(B, H, W, C).permute(0, 3, 1, 2)
    else:
        full = g.new_zeros(size)
    aten.slice.Tensor(full, *where).copy_(g)
    return full


def gather_pooled(x: Tensor, indices: Tensor) -> Tensor:
    """The entries of ``x [..., H, W]`` that a max-pooling with these indices has picked."""
    if _channels_last(x):
        rows, places = (t.permute(0, 2, 3, 1).flatten(1, 2) for t in (x, indices))
        B, C, H, W = indices.shape
        return rows.gather(1, places).view(B, H, W, C).permute(0, 3, 1, 2)
    picked = x.flatten(-2).gather(-1, indices.flatten(-2))
    return picked.view(indices.shape)


def _channels_last(t: Tensor) -> bool:
    # The strides, since torch.func.vmap has no is_contiguous of that layout.
    return t.ndim == 4 and t.stride(1) == 1 and t.stride(3) == t.shape[1] > 1


def reshape(b: Graph, x: Node, size: list[int]) -> Node:
    """``x`` in another shape; itself if it has it."""
    if shape(x) == list(size):
        return x
    if x.target is aten.reshape.default:
        return reshape(b, operands(x)[0], size)
    return b.call(aten.reshape.default, x, list(size))


def transpose(b: Graph, x: Node) -> Node:
    """The transpose of a matrix; of a product it is the product of the transposes."""
    if x.target is aten.t.default:
        inner: Node = operands(x)[0]
        return inner
    if x.target is aten.mm.default:
        left, right = operands(x)
        return b.call(aten.mm.default, transpose(b, right), transpose(b, left))
    return b.call(aten.t.default, x)


def sum_to(b: Graph, x: Node, size: list[int]) -> Node:
    """Sum over the dimensions along which ``size`` was broadcast to the shape of ``x``."""
    full = shape(x)
    if full == list(size):
        return x
    lead = len(full) - len(size)
    over = [i for i in range(len(full)) if i < lead or (size[i - lead] == 1 and full[i] != 1)]
    summed = b.call(aten.sum.dim_IntList, x, over, True) if over else x
    return reshape(b, summed, size)


def expand_to(b: Graph, x: Node, size: list[int]) -> Node:
    """``x`` broadcast to a shape."""
    return x if shape(x) == list(size) else b.call(aten.expand.default, x, list(size))


def cast(b: Graph, x: Node, dtype: torch.dtype) -> Node:
    """``x`` in another dtype; itself if it has it."""
    return x if x.meta["val"].dtype == dtype else b.call(aten._to_copy.default, x, dtype=dtype)


def add(b: Graph, x: Node | None, y: Node | None) -> Node | None:
    """``x + y``, where None is zero."""
    if x is None or y is None:
        return x if y is None else y
    return b.call(aten.add.Tensor, x, y)
