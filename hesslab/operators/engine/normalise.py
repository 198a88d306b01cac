"""A traced forward in fewer kinds of operation, with norms folded into convolutions."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx import Node
from torch.fx.node import map_arg

from hesslab.operators.engine.graph import Graph, Untraceable
from hesslab.operators.engine.operations import aten, reshape
from hesslab.operators.engine.rewrites import REWRITES

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
            if name not in inputs:
                inputs[name] = b.input(f"in_{len(inputs)}", getattr(traced, node.target))
            new[node] = inputs[name]
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
    _refuse(node)
    if op is operator.getitem and isinstance(args[0], tuple | list):
        return args[0][args[1]]
    if op in SHAPE_ONLY:
        return reshape(b, args[0], list(node.meta["val"].shape))
    if op in SAME:
        return args[0]
    if op in REWRITES:
        return REWRITES[op](b, node, *args, **kwargs)
    return b.call(op, *args, **kwargs)


def _refuse(node: Node) -> None:
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        raise Untraceable(f"{node.target} draws random numbers")
    value = node.meta.get("val")
    for part in value if isinstance(value, tuple | list) else (value,):
        sizes = part.shape if isinstance(part, Tensor) else (part,)
        if any(isinstance(size, torch.SymInt | torch.SymFloat | torch.SymBool) for size in sizes):
            raise Untraceable(f"{node.target} gives what depends on the values of a tensor")
