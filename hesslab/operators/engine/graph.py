"""Graphs of tensor operations in which equal calls are one node and every node knows its shape."""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx import Node
from torch.fx.node import map_arg


class Untraceable(Exception):
    """The network cannot be written as a graph; the message says why."""


class Graph:
    """A graph under construction: calls that are equal become one node.

    Nodes stand in the order of their calls, so that this order is one in which they can run.
    ``node.meta["val"]`` holds a tensor without memory (or a tuple of them) of the node's shape.
    """

    def __init__(self) -> None:
        self.fx = fx.Graph()
        self._known: dict[Hashable, Node] = {}

    def input(self, name: str, like: Tensor, *, data: bool = False) -> Node:
        """A new argument of the graph with the shape and dtype of a tensor.

        Args:
            name: of the argument.
            like: the tensor; only shape and dtype matter.
            data: marks what belongs to a batch; ``node.meta["data"]`` is true for all that is
                computed from it.

        Returns:
            Its node.
        """
        node = self.fx.placeholder(name)
        node.meta["data"] = data
        node.meta["val"] = torch.empty(like.shape, dtype=like.dtype, device="meta")
        return node

    def call(self, op: Callable[..., Any], *args: Any, like: Any = None, **kwargs: Any) -> Node:
        """The node of ``op(*args, **kwargs)``, the same one for equal calls.

        Args:
            op: an operation of torch, or any callable that is hashable.
            *args: nodes and constants.
            like: a node, or a tensor or tuple of them, whose shape it has; None infers it.
            **kwargs: nodes and constants.

        Returns:
            The node.
        """
        key = (op, _freeze(args), _freeze(tuple(sorted(kwargs.items()))))
        if key not in self._known:
            node = self.fx.call_function(op, args, kwargs)
            if like is None:
                like = _infer(op, args, kwargs)
            node.meta["val"] = like.meta["val"] if isinstance(like, Node) else like
            node.meta["data"] = any(a.meta["data"] for a in node.all_input_nodes)
            self._known[key] = node
        return self._known[key]

    def item(self, node: Node, index: int) -> Node:
        """One of the outputs of a node that has several."""
        return self.call(operator.getitem, node, index)

    @property
    def nodes(self) -> list[Node]:
        """All nodes in an order in which they can run."""
        return list(self.fx.nodes)


def operands(node: Node) -> list[Any]:
    """The positional arguments of a node."""
    return list(node.args)


def values_of(node: Node) -> list[Tensor]:
    """The tensors without memory of a node's outputs."""
    value = node.meta["val"]
    several = value if isinstance(value, tuple | list) else [value]
    return [item for item in several if isinstance(item, Tensor)]


def shape(node: Node) -> list[int]:
    """The shape of a node's tensor."""
    return list(node.meta["val"].shape)


def module(inputs: Sequence[Node], outputs: Sequence[Node | None]) -> fx.GraphModule:
    """The function of some nodes by others, with all that lies between them and nothing else.

    Args:
        inputs: any nodes of one graph; what they are computed from is left out.
        outputs: nodes of the same graph, or None.

    Returns:
        The function, which frees each value after its last use.

    Raises:
        AssertionError: an output needs an argument of the graph that is not among the inputs.
    """
    needed: set[Node] = set()
    given = set(inputs)
    todo = [node for node in outputs if node is not None]
    while todo:
        node = todo.pop()
        if node not in needed:
            needed.add(node)
            if node not in given:
                todo.extend(node.all_input_nodes)
    graph, new = fx.Graph(), {}
    for node in inputs:
        new[node] = graph.placeholder(node.name)
        new[node].meta = dict(node.meta)
    order = next(iter(needed)).graph.nodes if needed else ()
    for node in order:
        if node in needed and node not in given:
            if node.op == "placeholder":
                raise AssertionError(f"{node} is needed but was not given")
            new[node] = graph.node_copy(node, new.__getitem__)
    graph.output(tuple(None if node is None else new[node] for node in outputs))
    return fx.GraphModule({}, graph)


def dependent(nodes: Iterable[Node], roots: Iterable[Node]) -> set[Node]:
    """The nodes that are computed from any of the roots, roots included."""
    found = set(roots)
    for node in nodes:
        if any(argument in found for argument in node.all_input_nodes):
            found.add(node)
    return found


def residuals(varying: set[Node], outputs: Sequence[Node | None]) -> list[Node]:
    """The fixed nodes that the varying part of the outputs reads, in order."""
    reached: set[Node] = set()
    found: dict[Node, None] = {}
    todo = [node for node in outputs if node is not None]
    while todo:
        node = todo.pop()
        if node in reached:
            continue
        reached.add(node)
        if node in varying:
            todo.extend(node.all_input_nodes)
        else:
            found[node] = None
    return list(found)


def between(outputs: Sequence[Node | None], stop: set[Node] | None = None) -> list[Node]:
    """The calls that lead to the outputs, in order, up to those of ``stop``."""
    stop = stop or set()
    needed: set[Node] = set()
    todo = [node for node in outputs if node is not None]
    if not todo:
        return []
    graph = todo[0].graph
    while todo:
        node = todo.pop()
        if node not in needed and node not in stop:
            needed.add(node)
            todo.extend(node.all_input_nodes)
    return [node for node in graph.nodes if node in needed and node.op != "placeholder"]


class Copy:
    """A new graph that takes over nodes of another one, as far as they are wanted.

    Attributes:
        graph: the new one.
        env: where nodes of the other stand in it.
    """

    def __init__(self) -> None:
        self.graph = Graph()
        self.env: dict[Node, Node] = {}

    def inputs(self, nodes: Iterable[Node]) -> list[Node]:
        """New arguments of the graph, in place of some nodes."""
        nodes = list(nodes)
        for node in nodes:
            like, data = node.meta["val"], node.meta["data"]
            self.env[node] = self.graph.input(node.name, like, data=data)
        return [self.env[node] for node in nodes]

    def __call__(self, node: Node) -> Node:
        """The same call in the graph; what it reads is there."""
        if node not in self.env:
            args: Any = map_arg(node.args, self.env.__getitem__)
            kwargs: Any = map_arg(node.kwargs, self.env.__getitem__)
            target: Any = node.target
            self.env[node] = self.graph.call(target, *args, like=node, **kwargs)
        return self.env[node]


def _infer(op: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    values = map_arg(args, lambda node: node.meta["val"])
    options = dict(map_arg(kwargs, lambda node: node.meta["val"]))
    if "device" in options:
        options["device"] = "meta"
    return op(*values, **options)


def _freeze(value: Any) -> Hashable:
    """A key that tells 1 from 1.0 and True, and 0.0 from -0.0."""
    if isinstance(value, list | tuple):
        return tuple(_freeze(item) for item in value)
    return (type(value), repr(value) if isinstance(value, float) else value)
