"""How operations of torch are written with simpler ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.fx import Node

from hesslab.operators.engine.fold import folded_scale, folded_shift, per_channel
from hesslab.operators.engine.graph import Graph, shape
from hesslab.operators.engine.operations import aten, cast, expand_to, registrar, reshape

Rewrite = Callable[..., Any]
REWRITES: dict[Any, Rewrite] = {}


# Enters how an operation is written with simpler ones.
rewrite = registrar(REWRITES)


@rewrite(aten.addmm.default)
def _addmm(b: Graph, node: Node, bias: Node, x: Node, w: Node, **scale: float) -> Node:
    return _weighted(b, bias, b.call(aten.mm.default, x, w), **scale)


@rewrite(aten.baddbmm.default)
def _baddbmm(b: Graph, node: Node, bias: Node, x: Node, y: Node, **scale: float) -> Node:
    return _weighted(b, bias, b.call(aten.bmm.default, x, y), **scale)


def _weighted(b: Graph, bias: Node, product: Node, beta: float = 1, alpha: float = 1) -> Node:
    product = _times(b, product, alpha)
    return product if beta == 0 else b.call(aten.add.Tensor, product, _times(b, bias, beta))


@rewrite(aten.add.Tensor)
def _add(b: Graph, node: Node, x: Any, y: Any, alpha: float = 1) -> Node:
    y = _times(b, y, alpha)
    x, y = (x, y) if isinstance(x, Node) else (y, x)
    return folded_shift(b, x, y) if per_channel(node, x, y) else b.call(aten.add.Tensor, x, y)


@rewrite(aten.sub.Tensor)
def _sub(b: Graph, node: Node, x: Node, y: Any, alpha: float = 1) -> Node:
    return b.call(aten.sub.Tensor, x, _times(b, y, alpha))


def _times(b: Graph, y: Any, alpha: float) -> Any:
    if alpha == 1:
        return y
    return b.call(aten.mul.Tensor, y, alpha) if isinstance(y, Node) else y * alpha


@rewrite(aten.add.Scalar, aten.sub.Scalar, aten.mul.Scalar)
def _scalar(b: Graph, node: Node, x: Node, y: float, alpha: float = 1) -> Node:
    name = str(node.target).split(".")[1]
    return b.call(getattr(aten, name).Tensor, x, y if name == "mul" else y * alpha)


@rewrite(aten.rsub.Scalar, aten.rsub.Tensor)
def _rsub(b: Graph, node: Node, x: Node, y: Any, alpha: float = 1) -> Node:
    minus = b.call(aten.mul.Tensor, x, -alpha)
    return b.call(aten.add.Tensor, minus, y)


@rewrite(aten.mul.Tensor)
def _mul(b: Graph, node: Node, x: Any, y: Any) -> Node:
    x, y = (x, y) if isinstance(x, Node) else (y, x)
    return folded_scale(b, x, y) if per_channel(node, x, y) else b.call(aten.mul.Tensor, x, y)


@rewrite(aten.div.Tensor, aten.div.Scalar)
def _div(b: Graph, node: Node, x: Any, y: Any) -> Node:
    if not isinstance(y, Node):
        return b.call(aten.mul.Tensor, x, 1 / y) if y else b.call(aten.div.Tensor, x, y)
    # The inverse of a whole number, or of a shorter float, would be rounded too early.
    y = cast(b, y, node.meta["val"].dtype)
    return b.call(aten.mul.Tensor, x, b.call(aten.reciprocal.default, y))


@rewrite(aten.silu.default)
def _silu(b: Graph, node: Node, x: Node) -> Node:
    return b.call(aten.mul.Tensor, x, b.call(aten.sigmoid.default, x))


@rewrite(aten.mish.default)
def _mish(b: Graph, node: Node, x: Node) -> Node:
    gate = b.call(aten.tanh.default, b.call(aten.softplus.default, x))
    return b.call(aten.mul.Tensor, x, gate)


@rewrite(aten.copy.default)
def _copy(b: Graph, node: Node, x: Node, source: Node, *_: bool) -> Node:
    return expand_to(b, cast(b, source, node.meta["val"].dtype), shape(node))


@rewrite(aten.mean.dim)
def _mean(b: Graph, node: Node, x: Node, dims: Any, keep: bool = False, **_: Any) -> Node:
    return mean(b, cast(b, x, node.meta["val"].dtype), _dims(x, dims), keep)


@rewrite(aten.mean.default)
def _mean_all(b: Graph, node: Node, x: Node, **_: Any) -> Node:
    return mean(b, cast(b, x, node.meta["val"].dtype), _dims(x, None), False)


@rewrite(aten.sum.default)
def _sum_all(b: Graph, node: Node, x: Node, **_: Any) -> Node:
    x = cast(b, x, node.meta["val"].dtype)
    return b.call(aten.sum.dim_IntList, x, _dims(x, None), False)


@rewrite(aten.sum.dim_IntList)
def _sum(b: Graph, node: Node, x: Node, dims: Any, keep: bool = False, **_: Any) -> Node:
    x = cast(b, x, node.meta["val"].dtype)
    return b.call(aten.sum.dim_IntList, x, _dims(x, dims), keep)


def _dims(x: Node, dims: Any) -> list[int]:
    """Dimensions to reduce, counted from the front; none named means all."""
    ndim = len(shape(x))
    return [d % ndim for d in dims] if dims and ndim else list(range(ndim))


@rewrite(aten.select.int)
def _select(b: Graph, node: Node, x: Node, dim: int, index: int) -> Node:
    index %= shape(x)[dim]
    piece = b.call(aten.slice.Tensor, x, dim, index, index + 1, 1)
    return reshape(b, piece, list(node.meta["val"].shape))


@rewrite(aten.slice.Tensor)
def _slice(
    b: Graph, node: Node, x: Node, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Node:
    return b.call(aten.slice.Tensor, x, dim, *_range(x, dim, start, end), step)


@rewrite(aten.slice_scatter.default)
def _slice_scatter(
    b: Graph, node: Node, x: Node, source: Node, dim: int = 0, start: Any = None, end: Any = None,
    step: int = 1,
) -> Node:  # fmt: skip
    first, last = _range(x, dim, start, end)
    if step != 1:
        return b.call(aten.slice_scatter.default, x, source, dim, first, last, step)
    size = shape(x)[dim]
    around = [(0, first), (max(first, last), size)]
    before, after = (
        [b.call(aten.slice.Tensor, x, dim, low, high, 1)] if low < high else []
        for low, high in around
    )
    return b.call(aten.cat.default, [*before, source, *after], dim)


def _range(x: Node, dim: int, start: Any, end: Any) -> tuple[int, int]:
    """Where a slice begins and ends, as numbers between 0 and the size."""
    first, last, _ = slice(start, end).indices(shape(x)[dim])
    return first, last


@rewrite(
    aten.split.Tensor,
    aten.unsafe_split.Tensor,
    aten.split_with_sizes.default,
    aten.unsafe_split_with_sizes.default,
    aten.unbind.int,
)
def _split(b: Graph, node: Node, x: Node, size: Any = 0, dim: int = 0) -> list[Node]:
    if node.target is aten.unbind.int:
        dim = size
    pieces, start = [], 0
    for value in node.meta["val"]:
        length = 1 if node.target is aten.unbind.int else value.shape[dim]
        piece = b.call(aten.slice.Tensor, x, dim, start, start + length, 1)
        pieces.append(reshape(b, piece, list(value.shape)))
        start += length
    return pieces


@rewrite(aten.stack.default)
def _stack(b: Graph, node: Node, tensors: Sequence[Node], dim: int = 0) -> Node:
    size = list(node.meta["val"].shape)
    size[dim] = 1
    return b.call(aten.cat.default, [reshape(b, x, size) for x in tensors], dim)


@rewrite(aten.native_layer_norm.default)
def _layer_norm(b: Graph, node: Node, x: Node, size: Any, w: Any, shift: Any, eps: float) -> Any:
    dims = list(range(len(shape(x)) - len(size), len(shape(x))))
    return [_affine(b, standardised(b, x, dims, eps), w, shift)]


@rewrite(aten.native_group_norm.default)
def _group_norm(
    b: Graph, node: Node, x: Node, w: Any, shift: Any, n: int, c: int, hw: int, groups: int,
    eps: float,
) -> Any:  # fmt: skip
    full = shape(x)
    grouped = reshape(b, x, [n, groups, c // groups * hw])
    normed = reshape(b, standardised(b, grouped, [2], eps), full)
    per_channel = [c] + [1] * (len(full) - 2)
    w, shift = (None if v is None else reshape(b, v, per_channel) for v in (w, shift))
    return [_affine(b, normed, w, shift)]


@rewrite(aten.native_batch_norm.default)
def _batch_norm(
    b: Graph, node: Node, x: Node, w: Any, shift: Any, average: Any, variance: Any,
    training: bool, momentum: float, eps: float,
) -> Any:  # fmt: skip
    size = shape(x)
    if not training:
        return b.call(
            aten.native_batch_norm.default, x, w, shift, average, variance, training, momentum, eps
        )
    # Of instance norm: the channels of all examples stand side by side.
    per_channel = [size[1]] + [1] * (len(size) - 2)
    w, shift = (None if v is None else reshape(b, v, per_channel) for v in (w, shift))
    others = [0, *range(2, len(size))]
    return [_affine(b, standardised(b, x, others, eps), w, shift)]


def mean(b: Graph, x: Node, dims: list[int], keep: bool) -> Node:
    """The mean over dimensions."""
    full = shape(x)
    count = 1
    for d in dims:
        count *= full[d]
    return b.call(aten.mul.Tensor, b.call(aten.sum.dim_IntList, x, dims, keep), 1 / count)


def standardised(b: Graph, x: Node, dims: list[int], eps: float) -> Node:
    """``(x - mean) / sqrt(variance + eps)`` over dimensions."""
    centred = b.call(aten.sub.Tensor, x, mean(b, x, dims, True))
    variance = mean(b, b.call(aten.mul.Tensor, centred, centred), dims, True)
    scale = b.call(aten.rsqrt.default, b.call(aten.add.Tensor, variance, eps))
    return b.call(aten.mul.Tensor, centred, scale)


def _affine(b: Graph, x: Node, w: Node | None, shift: Node | None) -> Node:
    x = x if w is None else b.call(aten.mul.Tensor, x, w)
    return x if shift is None else b.call(aten.add.Tensor, x, shift)
