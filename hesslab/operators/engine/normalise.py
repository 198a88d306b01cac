"""A traced forward in fewer kinds of operation, with norms folded into convolutions."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx import Node
from torch.fx.node import map_arg

from hesslab.operators.engine.graph import Graph, Untraceable, operands, shape
from hesslab.operators.engine.operations import aten, cast, expand_to, reshape

Rewrite = Callable[..., Any]
REWRITES: dict[Any, Rewrite] = {}
DATA = "x"  # the name of the input that belongs to a batch
SHAPE_ONLY = {
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.flatten.using_ints,
}
SAME = {
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.lift_fresh_copy.default,
}


def normalise(traced: fx.GraphModule, names: Sequence[str]) -> tuple[Graph, dict[str, Node], Node]:
    """Rewrite a traced forward.

    Returns:
        The graph, its inputs by name (constants that the forward has captured included, whose
        names begin with a dot), and the node of the outputs.

    Raises:
        AssertionError: the graph has no output.
    """
    b = Graph()
    inputs: dict[str, Node] = {}
    new: dict[Node, Any] = {}
    places = iter(names)
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            name = next(places)
            value = node.meta["val"]
            new[node] = inputs[name] = b.input(f"in_{len(inputs)}", value, data=name == DATA)
        elif node.op == "get_attr":
            name = f".{node.target}"
            new[node] = inputs[name] = b.input(f"in_{len(inputs)}", getattr(traced, node.target))
        elif node.op == "output":
            output = node.args[0]
            return b, inputs, new[output[0] if isinstance(output, tuple | list) else output]
        else:
            new[node] = _rewrite(b, node, new)
    raise AssertionError("a graph without output")


def _rewrite(b: Graph, node: Node, new: dict[Node, Any]) -> Any:
    def take(argument: Node) -> Any:
        return new[argument]

    args: Any = map_arg(node.args, take)
    kwargs: Any = map_arg(node.kwargs, take)
    op: Any = node.target
    if torch.Tag.nondeterministic_seeded in getattr(op, "tags", ()):
        raise Untraceable(f"{op} draws random numbers")
    if op is operator.getitem and isinstance(args[0], tuple | list):
        return args[0][args[1]]
    if op in SHAPE_ONLY:
        return reshape(b, args[0], list(node.meta["val"].shape))
    if op in SAME:
        return args[0]
    if op in REWRITES:
        return REWRITES[op](b, node, *args, **kwargs)
    return b.call(op, *args, **kwargs)


def rewrite(*ops: Any) -> Callable[[Rewrite], Rewrite]:
    """Register how an operation is written with simpler ones."""

    def register(function: Rewrite) -> Rewrite:
        for op in ops:
            REWRITES[op] = function
        return function

    return register


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
    return _folded_shift(b, x, y) if _per_channel(node, x, y) else b.call(aten.add.Tensor, x, y)


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
    return _folded_scale(b, x, y) if _per_channel(node, x, y) else b.call(aten.mul.Tensor, x, y)


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
    return b.call(aten.slice.Tensor, x, dim, start or 0, 2**63 - 1 if end is None else end, step)


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


def _per_channel(node: Node, x: Any, s: Any) -> bool:
    """Whether a sum or product changes each channel of a convolution that nothing else reads."""
    if not (isinstance(x, Node) and isinstance(s, Node)) or s.meta["data"] or _readers(node) > 1:
        return False
    if x.target is not aten.convolution.default or operands(x)[6]:  # a transposed one
        return False
    if s.meta["val"].dtype != x.meta["val"].dtype:
        return False
    channels, spatial = shape(x)[1], len(shape(x)) - 2
    return shape(s) in ([channels] + [1] * spatial, [1, channels] + [1] * spatial)


def _readers(node: Node) -> int:
    """How many nodes read a tensor that a sum or product reads."""
    return max(len(argument.users) for argument in node.all_input_nodes)


def _folded_scale(b: Graph, x: Node, s: Node) -> Node:
    """A scale per channel behind a convolution goes into its weight and bias."""
    data, w, bias, *geometry = operands(x)
    w = b.call(aten.mul.Tensor, w, reshape(b, s, [-1] + [1] * (len(shape(w)) - 1)))
    if bias is not None:
        bias = b.call(aten.mul.Tensor, bias, reshape(b, s, shape(bias)))
    return b.call(aten.convolution.default, data, w, bias, *geometry)


def _folded_shift(b: Graph, x: Node, t: Node) -> Node:
    """A shift per channel behind a convolution goes into its bias."""
    data, w, bias, *geometry = operands(x)
    t = reshape(b, t, [shape(w)[0]])
    bias = t if bias is None else b.call(aten.add.Tensor, bias, t)
    return b.call(aten.convolution.default, data, w, bias, *geometry)
