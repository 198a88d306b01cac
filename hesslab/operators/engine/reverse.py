"""Reverse mode: from the graph of outputs to the graph of a cotangent times their Jacobian."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from torch.fx import Node

from hesslab.operators.engine.generic import Pull, close, derivative, is_float
from hesslab.operators.engine.graph import Graph, dependent, operands, shape
from hesslab.operators.engine.operations import (
    UNARY,
    add,
    aten,
    cast,
    conv_input_grad,
    conv_weight_grad,
    expand_to,
    registrar,
    reshape,
    slice_input_grad,
    sum_to,
    transpose,
)

Rule = Callable[..., Sequence[Node | None]]
RULES: dict[Any, Rule] = {}
POOL_DEFAULTS: list[Any] = [None, [], [0, 0], [1, 1], False]


def pullback(b: Graph, outputs: dict[Node, Node], wanted: Sequence[Node]) -> list[Node | None]:
    """Append the gradient of ``sum(cotangent * output)`` by the wanted nodes to a graph.

    Args:
        b: the graph that holds the outputs.
        outputs: each output with its cotangent.
        wanted: what to differentiate by.

    Returns:
        A node per wanted one, or None where the gradient is zero.
    """
    nodes = b.nodes
    active = dependent(nodes, wanted)
    cotangents: dict[Node, Node | None] = dict(outputs)
    parts: dict[Node, dict[int, Any]] = {}  # cotangents of the items of a tuple
    for node in reversed(nodes):
        if node not in active or node in wanted:
            continue
        g: Any = parts.get(node) or cotangents.get(node)
        if g is None:
            continue
        if node.target is operator.getitem:
            source, index = operands(node)
            items = parts.setdefault(source, {})
            items[index] = add(b, items.get(index), g)
            continue
        for argument, part in _vjp(b, node, g, active):
            cotangents[argument] = add(b, cotangents.get(argument), part)
    return [cotangents.get(node) for node in wanted]


def _vjp(b: Graph, node: Node, g: Any, active: set[Node]) -> list[tuple[Node, Node]]:
    if node.target is aten.detach.default:
        return []
    if node.target in RULES:
        parts = RULES[node.target](b, node, g, *node.args)
        pairs: Any = zip(node.args, parts, strict=False)
    elif node.target in UNARY:
        pairs = zip(node.args[:1], [_unary(b, node, g)], strict=True)
    elif node.target is aten.cat.default:
        pairs = zip(operands(node)[0], _cat(b, node, g), strict=True)
    else:
        pairs = _generic(b, node, g, active)
    return [
        (a, cast(b, part, a.meta["val"].dtype))
        for a, part in pairs
        if isinstance(a, Node) and a in active and part is not None
    ]


def _generic(b: Graph, node: Node, g: Any, active: set[Node]) -> Any:
    closed, tensors = close(node)
    chosen = tuple(i for i, t in enumerate(tensors) if t in active and is_float(t.meta["val"]))
    given = g if isinstance(g, dict) else {0: g}
    cotangents = [given.get(i) or _zeros(b, node, i) for i in closed.floating]
    pull = Pull(closed, chosen, len(tensors))
    values = tuple(tensors[i].meta["val"] for i in chosen)
    out = b.call(pull, *tensors, *cotangents, like=values)
    return [(tensors[i], b.item(out, place)) for place, i in enumerate(chosen)]


def _zeros(b: Graph, node: Node, index: int) -> Node:
    value = node.meta["val"]
    return b.call(
        aten.zeros_like.default, b.item(node, index) if isinstance(value, tuple) else node
    )


# Enters the reverse rule of an operation: a cotangent for each argument.
rule = registrar(RULES)


@rule(aten.add.Tensor)
def _add(b: Graph, node: Node, g: Node, x: Any, y: Any) -> Sequence[Node | None]:
    return _to(b, g, x), _to(b, g, y)


@rule(aten.sub.Tensor)
def _sub(b: Graph, node: Node, g: Node, x: Any, y: Any) -> Sequence[Node | None]:
    minus = _to(b, b.call(aten.neg.default, g), y) if isinstance(y, Node) else None
    return _to(b, g, x), minus


@rule(aten.mul.Tensor)
def _mul(b: Graph, node: Node, g: Node, x: Any, y: Any) -> Sequence[Node | None]:
    return (
        _to(b, b.call(aten.mul.Tensor, g, y), x),
        _to(b, b.call(aten.mul.Tensor, g, x), y) if isinstance(y, Node) else None,
    )


@rule(aten.neg.default)
def _neg(b: Graph, node: Node, g: Node, x: Node) -> Sequence[Node | None]:
    return (b.call(aten.neg.default, g),)


@rule(aten.mm.default)
def _mm(b: Graph, node: Node, g: Node, x: Node, y: Node) -> Sequence[Node | None]:
    return (
        b.call(aten.mm.default, g, transpose(b, y)),
        b.call(aten.mm.default, transpose(b, x), g),
    )


@rule(aten.bmm.default)
def _bmm(b: Graph, node: Node, g: Node, x: Node, y: Node) -> Sequence[Node | None]:
    def swapped(z: Node) -> Node:
        return b.call(aten.transpose.int, z, 1, 2)

    return b.call(aten.bmm.default, g, swapped(y)), b.call(aten.bmm.default, swapped(x), g)


@rule(aten.convolution.default)
def _convolution(
    b: Graph, node: Node, g: Node, x: Node, w: Node, bias: Node | None, *geometry: Any
) -> Sequence[Node | None]:
    by_input = b.call(conv_input_grad, g, x, w, geometry, like=x)
    by_weight = b.call(conv_weight_grad, g, x, w, geometry, bias is not None)
    return by_input, b.item(by_weight, 0), b.item(by_weight, 1) if bias else None


@rule(aten.relu.default)
def _relu(b: Graph, node: Node, g: Node, x: Node) -> Sequence[Node | None]:
    return (b.call(aten.threshold_backward.default, g, node, 0),)


@rule(aten.max_pool2d_with_indices.default)
def _max_pool(
    b: Graph, node: Node, g: dict[int, Node], x: Node, *window: Any
) -> Sequence[Node | None]:
    given = [*window, *POOL_DEFAULTS[len(window) :]]
    back = aten.max_pool2d_with_indices_backward.default
    indices = b.item(node, 1)
    return (b.call(back, g[0], x, *given, indices, like=x),)


@rule(aten.avg_pool2d.default)
def _avg_pool(b: Graph, node: Node, g: Node, x: Node, *window: Any) -> Sequence[Node | None]:
    kernel = window[0]
    stride, *rest = [*window[1:], *[kernel, [0, 0], False, True, None][len(window) - 1 :]]
    back = aten.avg_pool2d_backward.default
    return (b.call(back, g, x, kernel, stride or kernel, *rest, like=x),)


@rule(aten._adaptive_avg_pool2d.default)
def _adaptive_avg_pool(b: Graph, node: Node, g: Node, x: Node, _: Any) -> Sequence[Node | None]:
    return (b.call(aten._adaptive_avg_pool2d_backward.default, g, x, like=x),)


@rule(aten.where.self)
def _where(
    b: Graph, node: Node, g: Node, condition: Node, x: Node, y: Node
) -> Sequence[Node | None]:
    zero = b.call(aten.zeros_like.default, g)
    return (
        None,
        _to(b, b.call(aten.where.self, condition, g, zero, like=g), x),
        _to(b, b.call(aten.where.self, condition, zero, g, like=g), y),
    )


@rule(aten.masked_fill.Scalar)
def _masked_fill(
    b: Graph, node: Node, g: Node, x: Node, mask: Node, _: float
) -> Sequence[Node | None]:
    return (_to(b, b.call(aten.masked_fill.Scalar, g, mask, 0.0), x),)


def _unary(b: Graph, node: Node, g: Node) -> Node:
    x = operands(node)[0]
    return b.call(aten.mul.Tensor, g, b.call(derivative(node), x, like=x))


@rule(aten._softmax.default, aten._safe_softmax.default)
def _softmax(b: Graph, node: Node, g: Node, x: Node, dim: int, *_: Any) -> Sequence[Node | None]:
    inner = b.call(aten.mul.Tensor, node, g)
    total = b.call(aten.sum.dim_IntList, inner, [dim], True)
    return (b.call(aten.sub.Tensor, inner, b.call(aten.mul.Tensor, node, total)),)


@rule(aten.clone.default, aten._to_copy.default)  # back in the dtype of x: see `_vjp`
def _clone(b: Graph, node: Node, g: Node, x: Node) -> Sequence[Node | None]:
    return (g,)


@rule(aten.reshape.default)
def _reshape(b: Graph, node: Node, g: Node, x: Node, size: Any) -> Sequence[Node | None]:
    return (reshape(b, g, shape(x)),)


@rule(aten.t.default)
def _t(b: Graph, node: Node, g: Node, x: Node) -> Sequence[Node | None]:
    return (transpose(b, g),)


@rule(aten.transpose.int)
def _transpose(b: Graph, node: Node, g: Node, x: Node, i: int, j: int) -> Sequence[Node | None]:
    return (b.call(aten.transpose.int, g, i, j),)


@rule(aten.permute.default)
def _permute(b: Graph, node: Node, g: Node, x: Node, dims: Any) -> Sequence[Node | None]:
    order = [d % len(dims) for d in dims]
    return (b.call(aten.permute.default, g, [order.index(i) for i in range(len(dims))]),)


@rule(aten.expand.default)
def _expand(b: Graph, node: Node, g: Node, x: Node, *_: Any) -> Sequence[Node | None]:
    return (sum_to(b, g, shape(x)),)


@rule(aten.sum.dim_IntList)
def _sum(
    b: Graph, node: Node, g: Node, x: Node, dims: Any, keep: bool = False
) -> Sequence[Node | None]:
    full = shape(x)
    over = {d % len(full) for d in dims}
    kept = [1 if i in over else n for i, n in enumerate(full)]
    return (expand_to(b, reshape(b, g, kept), full),)


@rule(aten.slice.Tensor)
def _slice(b: Graph, node: Node, g: Node, x: Node, *where: int) -> Sequence[Node | None]:
    return (b.call(slice_input_grad, g, shape(x), *where, like=x),)


@rule(aten.constant_pad_nd.default)
def _pad(
    b: Graph, node: Node, g: Node, x: Node, pad: Sequence[int], value: float = 0.0
) -> Sequence[Node | None]:
    return (b.call(aten.constant_pad_nd.default, g, [-n for n in pad], 0.0),)


def _cat(b: Graph, node: Node, g: Node) -> list[Node]:
    tensors, dim = [*operands(node), 0][:2]
    pieces, start = [], 0
    for tensor in tensors:
        if shape(tensor) == [0]:  # torch lets such a tensor stand beside any other
            pieces.append(b.call(aten.zeros_like.default, tensor))
            continue
        size = shape(tensor)[dim]
        pieces.append(b.call(aten.slice.Tensor, g, dim, start, start + size, 1))
        start += size
    return pieces


@rule(aten.embedding.default)
def _embedding(
    b: Graph, node: Node, g: Node, w: Node, index: Node, padding: int = -1, *scale: bool
) -> Sequence[Node | None]:
    rows = shape(w)[0]
    return (
        b.call(
            aten.embedding_dense_backward.default, g, index, rows, padding, bool(scale and scale[0])
        ),
    )


def _to(b: Graph, g: Node, x: Any) -> Node | None:
    return sum_to(b, g, shape(x)) if isinstance(x, Node) else None
