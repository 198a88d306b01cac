"""Forward mode: from a graph to the graph of its derivative along tangents of its inputs."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from torch.fx import Node

from hesslab.operators.engine.generic import Pull, Push, Slope, close, derivative, is_float
from hesslab.operators.engine.graph import Graph, operands, shape
from hesslab.operators.engine.operations import (
    UNARY,
    add,
    aten,
    cast,
    conv_input_grad,
    conv_weight_grad,
    expand_to,
    gather_pooled,
    registrar,
    reshape,
    slice_input_grad,
)

Tangent = Any  # a node, a tuple of nodes and None for a node with several outputs, or None
Rule = Callable[..., Tangent]
RULES: dict[Any, Rule] = {}
# Operations that are linear in each of these arguments, the others held fixed.
MULTILINEAR: dict[Any, tuple[int, ...]] = {
    aten.mm.default: (0, 1),
    aten.bmm.default: (0, 1),
    aten.neg.default: (0,),
    aten.t.default: (0,),
    aten.transpose.int: (0,),
    aten.permute.default: (0,),
    aten.expand.default: (0,),
    aten.sum.dim_IntList: (0,),
    aten.slice.Tensor: (0,),
    slice_input_grad: (0,),
    aten.clone.default: (0,),
    aten._to_copy.default: (0,),
    aten.threshold_backward.default: (0,),
    aten.max_pool2d_with_indices_backward.default: (0,),
    aten.embedding.default: (0,),
    aten.embedding_dense_backward.default: (0,),
    aten.avg_pool2d.default: (0,),
    aten.avg_pool2d_backward.default: (0,),
    aten._adaptive_avg_pool2d.default: (0,),
    aten._adaptive_avg_pool2d_backward.default: (0,),
    conv_input_grad: (0, 2),
}


def pushforward(
    b: Graph, source: list[Node], tangents: Mapping[Node, Node], copy: Callable[[Node], Node]
) -> dict[Node, Tangent]:
    """Copy nodes into a graph, each followed by its tangent.

    Args:
        b: the graph to append to.
        source: nodes in an order in which they can run.
        tangents: the tangent of each varying node that is already in ``b`` (under its copy).
        copy: copies one node into ``b`` and returns the copy.

    Returns:
        The tangents of all nodes of ``b`` that vary, by node.
    """
    found: dict[Node, Tangent] = dict(tangents)
    for old in source:
        node = copy(old)
        if node in found:
            continue
        if any(found.get(argument) is not None for argument in node.all_input_nodes):
            tangent = _jvp(b, node, found)
            if isinstance(tangent, Node):  # a sum of floats of two dtypes takes the longer
                tangent = cast(b, tangent, node.meta["val"].dtype)
            if tangent is not None:
                found[node] = tangent
    return found


def _jvp(b: Graph, node: Node, tangents: Mapping[Node, Tangent]) -> Tangent:
    def t(argument: Any) -> Tangent:
        return tangents.get(argument) if isinstance(argument, Node) else None

    if node.target is operator.getitem:
        parts = t(node.args[0])
        return parts[node.args[1]]
    if node.target is aten.detach.default or not any(map(is_float, _values(node))):
        return None
    if node.target in MULTILINEAR:
        return _multilinear(b, node, t, MULTILINEAR[node.target])
    rule = RULES.get(node.target) or RULES.get(type(node.target))
    if rule is not None:
        return rule(b, node, t, *node.args)
    if node.target in UNARY or isinstance(node.target, Slope):
        return _unary(b, node, t)
    return _generic(b, node, tangents)


def _values(node: Node) -> list[Any]:
    value = node.meta["val"]
    return list(value) if isinstance(value, tuple | list) else [value]


def _multilinear(b: Graph, node: Node, t: Rule, positions: tuple[int, ...]) -> Node | None:
    total: Node | None = None
    for i in positions:
        tangent = t(node.args[i])
        if tangent is not None:
            args = [*node.args[:i], tangent, *node.args[i + 1 :]]
            target: Any = node.target
            total = add(b, total, b.call(target, *args, like=node, **node.kwargs))
    return total


def _unary(b: Graph, node: Node, t: Rule) -> Node | None:
    x = node.args[0]
    return b.call(aten.mul.Tensor, t(x), b.call(derivative(node), x, like=x))


def _generic(b: Graph, node: Node, tangents: Mapping[Node, Tangent]) -> Tangent:
    function: Any
    if isinstance(node.target, Pull):
        function, tensors, several = node.target, operands(node), True
        floating = tuple(range(len(node.target.active)))
    else:
        function, tensors = close(node)
        floating, several = function.floating, isinstance(node.meta["val"], tuple | list)
    active = tuple(i for i, x in enumerate(tensors) if tangents.get(x) is not None)
    push = Push(function, active, len(tensors))
    values = _values(node)
    moved = [tangents[tensors[i]] for i in active]
    out = b.call(push, *tensors, *moved, like=tuple(values[i] for i in floating))
    parts: list[Node | None] = [None] * len(values)
    for place, i in enumerate(floating):
        parts[i] = b.item(out, place)
    return tuple(parts) if several else parts[0]


# Enters the forward rule of an operation; ``t`` gives the tangent of an argument.
rule = registrar(RULES)


@rule(aten.add.Tensor)
def _add(b: Graph, node: Node, t: Rule, x: Any, y: Any) -> Tangent:
    total = add(b, t(x), t(y))
    return total and expand_to(b, total, shape(node))


@rule(aten.sub.Tensor)
def _sub(b: Graph, node: Node, t: Rule, x: Any, y: Any) -> Tangent:
    if t(y) is None or t(x) is None:
        one = t(x) or b.call(aten.neg.default, t(y))
        return expand_to(b, one, shape(node))
    return expand_to(b, b.call(aten.sub.Tensor, t(x), t(y)), shape(node))


@rule(aten.mul.Tensor)
def _mul(b: Graph, node: Node, t: Rule, x: Any, y: Any) -> Tangent:
    first = b.call(aten.mul.Tensor, t(x), y) if t(x) is not None else None
    second = None
    if t(y) is not None and isinstance(y.target, Slope):
        # (g f'')(x) is fixed where t(x) is not: one product less for each new direction.
        inner = y.args[0]
        curvature = b.call(derivative(y), inner, like=inner)
        second = b.call(aten.mul.Tensor, b.call(aten.mul.Tensor, x, curvature), t(inner))
    elif t(y) is not None:
        second = b.call(aten.mul.Tensor, x, t(y))
    return add(b, first, second)


@rule(aten.convolution.default)
def _convolution(
    b: Graph, node: Node, t: Rule, x: Node, w: Node, bias: Node | None, *geometry: Any
) -> Tangent:
    total, shift = None, t(bias)
    if t(w) is not None:
        total, shift = b.call(aten.convolution.default, x, t(w), shift, *geometry), None
    if t(x) is not None:
        total = add(b, b.call(aten.convolution.default, t(x), w, shift, *geometry), total)
    if total is None:
        size = shape(node)
        total = expand_to(b, reshape(b, shift, [-1] + [1] * (len(size) - 2)), size)
    return total


@rule(conv_weight_grad)
def _conv_weight_grad(
    b: Graph, node: Node, t: Rule, g: Node, x: Node, w: Node, geometry: Any, bias: bool
) -> Tangent:
    by_weight = by_bias = None
    if t(g) is not None:
        both = b.call(conv_weight_grad, t(g), x, w, geometry, bias)
        by_weight = b.item(both, 0)
        by_bias = b.item(both, 1) if bias else None
    if t(x) is not None:
        other = b.call(conv_weight_grad, g, t(x), w, geometry, False)
        by_weight = add(b, by_weight, b.item(other, 0))
    return by_weight, by_bias


@rule(aten.relu.default)
def _relu(b: Graph, node: Node, t: Rule, x: Node) -> Tangent:
    return b.call(aten.threshold_backward.default, t(x), node, 0)


@rule(aten.where.self)
def _where(b: Graph, node: Node, t: Rule, condition: Node, x: Node, y: Node) -> Tangent:
    pieces = [t(z) if t(z) is not None else b.call(aten.zeros_like.default, z) for z in (x, y)]
    return b.call(aten.where.self, condition, *pieces, like=node)


@rule(aten.masked_fill.Scalar)
def _masked_fill(b: Graph, node: Node, t: Rule, x: Node, mask: Node, _: float) -> Tangent:
    return b.call(aten.masked_fill.Scalar, t(x), mask, 0.0)


@rule(aten._softmax.default, aten._safe_softmax.default)
def _softmax(b: Graph, node: Node, t: Rule, x: Node, dim: int, *_: Any) -> Tangent:
    inner = b.call(aten.mul.Tensor, t(x), node)
    total = b.call(aten.sum.dim_IntList, inner, [dim], True)
    return b.call(aten.sub.Tensor, inner, b.call(aten.mul.Tensor, node, total))


@rule(aten.reshape.default)
def _reshape(b: Graph, node: Node, t: Rule, x: Node, size: Any) -> Tangent:
    return reshape(b, t(x), list(size))


@rule(aten.constant_pad_nd.default)
def _pad(b: Graph, node: Node, t: Rule, x: Node, pad: Any, value: float = 0.0) -> Tangent:
    return b.call(aten.constant_pad_nd.default, t(x), pad, 0.0)


@rule(aten.cat.default)
def _cat(b: Graph, node: Node, t: Rule, tensors: Any, dim: int = 0) -> Tangent:
    pieces = [t(x) if t(x) is not None else b.call(aten.zeros_like.default, x) for x in tensors]
    return b.call(aten.cat.default, pieces, dim)


@rule(aten.max_pool2d_with_indices.default)
def _max_pool(b: Graph, node: Node, t: Rule, x: Node, *window: Any) -> Tangent:
    picked = b.item(node, 0)
    return b.call(gather_pooled, t(x), b.item(node, 1), like=picked), None
