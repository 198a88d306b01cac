"""A graph's sums and products written into operands that nothing reads again."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch.fx import Node

from hesslab.operators.engine.generic import Slope
from hesslab.operators.engine.graph import dependent, operands
from hesslab.operators.engine.operations import (
    VIEWS,
    aten,
    conv_input_grad,
    conv_weight_grad,
    gather_pooled,
    slice_input_grad,
)

SHARING = VIEWS | {aten.slice.Tensor, aten.detach.default}  # results that are operands' memory
# Operations whose result is memory of its own, and may be overwritten.
FRESH = {
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.neg.default,
    aten.mm.default,
    aten.bmm.default,
    aten.convolution.default,
    aten.threshold_backward.default,
    slice_input_grad,
    aten.cat.default,
    aten.embedding.default,
    aten.embedding_dense_backward.default,
    aten.max_pool2d_with_indices_backward.default,
    conv_input_grad,
    gather_pooled,
}
IN_PLACE = {
    aten.add.Tensor: aten.add_.Tensor,
    aten.mul.Tensor: aten.mul_.Tensor,
    aten.sub.Tensor: aten.sub_.Tensor,
    aten.threshold_backward.default: aten.threshold_backward.grad_input,
}
NOT_BATCHED = {aten.threshold_backward.default}
SMALL = 4096  # below, writing in place saves nothing


def in_place(module: fx.GraphModule, *, batched: int = 0) -> fx.GraphModule:
    """Let operations overwrite operands after whose last use nothing reads their memory.

    Args:
        module: a graph; it stays as it is.
        batched: so many of the last arguments carry a dimension that ``torch.func.vmap`` hides.
            What does not depend on them has no room for it, and is left alone.

    Returns:
        The same function, whose arguments are not written to.
    """
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    nodes = list(graph.nodes)
    shown = _shown(nodes)
    last = {of: node for node in nodes for read in node.all_input_nodes for of in shown[read]}
    arguments = [node for node in nodes if node.op == "placeholder"]
    wide = dependent(nodes, arguments[-batched:]) if batched else set(nodes)
    for node in nodes:
        if node.target not in IN_PLACE or (batched and node.target in NOT_BATCHED):
            continue
        first_only = node.target in (aten.sub.Tensor, aten.threshold_backward.default)
        for place, operand in enumerate(node.args[: 1 if first_only else 2]):
            if operand in wide and _may_overwrite(node, operand, shown, last):
                _overwrite(node, place)
                break
    return fx.GraphModule(module, graph)


def _shown(nodes: list[Node]) -> dict[Node, set[Node]]:
    """The nodes whose memory each node may show, itself included."""
    shown: dict[Node, set[Node]] = {}
    for node in nodes:
        sources = node.all_input_nodes if _may_alias(node) else []
        shown[node] = {node}.union(*(shown[source] for source in sources))
    return shown


def _may_alias(node: Node) -> bool:
    target = node.target
    if node.op != "call_function" or target in FRESH or target is conv_weight_grad:
        return False
    if target is operator.getitem:
        return operands(node)[0].target is not conv_weight_grad
    if isinstance(target, torch._ops.OpOverload):
        return any(value.alias_info is not None for value in target._schema.returns)
    return not isinstance(target, Slope)  # torch.func may hand an operand through


def owners(nodes: list[Node]) -> dict[Node, Node]:
    """The node whose memory each node shows."""
    owner: dict[Node, Node] = {}
    for node in nodes:
        source = node.args[0] if node.target in SHARING else None
        owner[node] = owner[source] if isinstance(source, Node) else node
    return owner


def _may_overwrite(
    node: Node, operand: object, shown: dict[Node, set[Node]], last: dict[Node, Node]
) -> bool:
    if not isinstance(operand, Node) or operand.op != "call_function":
        return False
    fresh = (
        operand.target in FRESH
        or operand.target in IN_PLACE.values()
        or (operand.target is operator.getitem and operands(operand)[0].target is conv_weight_grad)
    )
    others = [x for x in node.all_input_nodes if x is not operand]
    value, result = operand.meta["val"], node.meta["val"]
    return (
        fresh
        and last[operand] is node
        and value.shape == result.shape
        and value.dtype == result.dtype
        and value.numel() > SMALL
        and all(operand not in shown[x] for x in others)
        and node.args.count(operand) == 1
    )


def _overwrite(node: Node, place: int) -> None:
    operand = node.args[place]
    if node.target is aten.threshold_backward.default:
        node.kwargs = {"grad_input": operand}
    else:
        node.args = (operand, node.args[1 - place])
    target: Any = node.target
    node.target = IN_PLACE[target]
