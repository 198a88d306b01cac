"""What a product does for one shape of batch, as graphs made from one trace of the forward.

A traced forward falls into a *head*, which reads parameters only, and a *net*, which reads the
data as well. Between them stand the head's values q: weights with the norm folded in, or
parameters as they are. With the outputs f = net(q, x) and q = head(p):

- a tangent of p becomes a tangent of q once per product;
- every batch turns a tangent of q into one of the outputs, or into a cotangent of q;
- the sum of the cotangents over all batches is pulled back through the head once per product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from hesslab.operators.engine import forward
from hesslab.operators.engine.graph import (
    Copy,
    Graph,
    Untraceable,
    between,
    dependent,
    module,
    operands,
    shape,
    values_of,
)
from hesslab.operators.engine.images import images_of
from hesslab.operators.engine.linear import Linear
from hesslab.operators.engine.net import Jacobian, Net
from hesslab.operators.engine.normalise import DATA, normalise
from hesslab.operators.engine.operations import VIEWS, aten
from hesslab.operators.engine.reverse import pullback
from hesslab.operators.engine.trace import trace

# Numbers made of an example for each weight, from which on convolutions on the CPU take less time
# with the channels last. Measured: 0.7 with ResNet-20, which gains; 0.02 with VGG-11, which loses.
PIXELS = 0.1


class Program:
    """The graphs for one shape of batch; they hold no data and no parameter values.

    Args:
        run: the forward as a function of all parameters and buffers by name, and of a batch.
        state: these tensors; only their shapes matter.
        active: the names to differentiate by.
        x: a batch ``[B, ...]``; only its shape matters.
        compiled: whether what a batch does in each product goes through torch.compile.

    Attributes:
        rows: of the largest matrix product; infinite where there are convolutions or batches of
            products.
        active: which of q depend on the parameters to differentiate by.
        images: what its examples ask of a batch, or None.

    Raises:
        Untraceable: the forward cannot be written as a graph.
    """

    def __init__(
        self,
        run: Callable[[Mapping[str, Tensor], Tensor], Tensor],
        state: Mapping[str, Tensor],
        active: Sequence[str],
        x: Tensor,
        *,
        compiled: bool = False,
    ) -> None:
        graph, names = trace(run, state, x)
        self._compiled = compiled
        head, inputs, output = normalise(graph, [*names, DATA])
        self.constants = {name: getattr(graph, name[1:]) for name in inputs if name.startswith(".")}
        self._inputs = {name: node for name, node in inputs.items() if name != DATA}
        self._p = [inputs[name] for name in active]
        if any(torch.is_complex(value) for node in head.nodes for value in values_of(node)):
            raise Untraceable("complex numbers")
        kinds = {node.target for node in head.nodes}
        last = x.device.type == "cpu" and x.ndim == 4 and _many_pixels(between([output]))
        products = [node for node in head.nodes if node.target is aten.mm.default]
        others = {aten.convolution.default, aten.bmm.default} & kinds
        self.rows = math.inf if others else max((shape(node)[0] for node in products), default=0)
        size = sum(value.numel() for value in state.values())
        self.images = images_of(between([output]), len(x), size)
        front = _front(output)
        self._head = head
        self._q = [_channels_last(head, q) if last and len(shape(q)) == 4 else q for q in front]
        wanted = dependent(head.nodes, self._p)
        self.active = [i for i, node in enumerate(self._q) if node in wanted]
        self._net = Net(front, inputs[DATA], output, channels_last=last)
        self._hessians: dict[Any, Linear] = {}
        self.output = output.meta["val"]
        if not self.active or not output.meta["data"]:
            raise Untraceable("the outputs do not depend on the data and the parameters")

    # The head: once per point or per product.

    @cached_property
    def head(self) -> Callable[..., tuple[Tensor, ...]]:
        """``(*inputs in the order of `names`) -> q``."""
        return module(list(self._inputs.values()), self._q).forward

    @property
    def outputs(self) -> Callable[..., tuple[Tensor, ...]]:
        """``(*q, x) -> (outputs,)``."""
        return self._net.outputs

    @property
    def names(self) -> list[str]:
        """The inputs of the head; those that begin with a dot are `constants`."""
        return list(self._inputs)

    @cached_property
    def push(self) -> Linear:
        """A tangent of p to one of the active q; fixed: the inputs of the head."""
        copy = Copy()
        b, env = copy.graph, copy.env
        fixed = copy.inputs(self._inputs.values())
        dp = [b.input(f"dp{i}", p.meta["val"]) for i, p in enumerate(self._p)]
        wanted = [self._q[i] for i in self.active]
        tangents = dict(zip((env[p] for p in self._p), dp, strict=True))
        found = forward.pushforward(b, between(wanted), tangents, copy)
        return Linear(fixed, dp, [found.get(env[q]) for q in wanted])

    @cached_property
    def pull(self) -> Linear:
        """A cotangent of the active q to one of p; fixed: the inputs of the head."""
        env, cotangents, pulled = self._pulled()
        return Linear([env[node] for node in self._inputs.values()], cotangents, pulled)

    @cached_property
    def pull_tangent(self) -> Linear:
        """How the pulled back gradient of q changes along tangents of p and of that gradient.

        Fixed: the inputs of the head, the gradient of the active q; varying: the two tangents.
        """
        old, cotangents, pulled = self._pulled()
        copy = Copy()
        b, env = copy.graph, copy.env
        fixed = copy.inputs([*(old[n] for n in self._inputs.values()), *cotangents])
        dp = [b.input(f"dp{i}", p.meta["val"]) for i, p in enumerate(self._p)]
        dg = [b.input(f"dg{i}", g.meta["val"]) for i, g in enumerate(cotangents)]
        tangents = dict(zip((env[old[p]] for p in self._p), dp, strict=True))
        tangents |= dict(zip((env[g] for g in cotangents), dg, strict=True))
        found = forward.pushforward(b, between(pulled), tangents, copy)
        outputs = [None if g is None else found.get(env[g]) for g in pulled]
        return Linear(fixed, [*dp, *dg], outputs)

    @cached_property
    def head_is_curved(self) -> bool:
        """Whether `pull_tangent` reads the gradient of q."""
        gradient = self.pull_tangent.fixed[len(self._inputs) :]
        kept = self.pull_tangent.kept
        reached = dependent(kept[0].graph.nodes, gradient) if kept else set()
        return any(node in reached for node in kept)

    def _pulled(self) -> tuple[dict[Node, Node], list[Node], list[Node | None]]:
        copy = Copy()
        b, env = copy.graph, copy.env
        copy.inputs(self._inputs.values())
        active = [self._q[i] for i in self.active]
        for node in between(active):
            copy(node)
        cotangents = [b.input(f"g{i}", q.meta["val"]) for i, q in enumerate(active)]
        outputs = dict(zip((env[q] for q in active), cotangents, strict=True))
        return env, cotangents, pullback(b, outputs, [env[p] for p in self._p])

    # The net: once per batch.

    @cached_property
    def jacobian(self) -> Jacobian:
        """Tangents of the active q to tangents of the outputs, and cotangents back."""
        jacobian = self._net.jacobian(self.active)
        jacobian.jvp.compiled = jacobian.vjp.compiled = self._compiled
        return jacobian

    def hessian(self, loss: Any, y: Tensor, *, lean: bool = False) -> Linear:
        """The tangent of the gradient of the mean loss by q.

        Fixed: q, x, y; varying: a tangent of the active q; extra: the gradient.

        Args:
            loss: one of our losses.
            y: targets of a batch; only their shape matters.
            lean: keep only what the layers read, and compute their cotangents again each time.

        Returns:
            The map.
        """
        values = tuple(vars(loss).items())
        # A loss that is its numbers is shared; another may hold anything, even the model.
        shared = all(isinstance(value, bool | int | float | str) for _, value in values)
        key = (type(loss), values, y.shape, y.dtype, lean)
        if shared and key in self._hessians:
            return self._hessians[key]
        linear = self._net.hessian(self.active, loss, y, lean=lean)
        linear.compiled = self._compiled
        if shared:
            self._hessians[key] = linear
        return linear


def _many_pixels(nodes: Iterable[Node]) -> bool:
    """Whether what convolutions make of an example is much, in comparison with their weights."""
    convolutions = [n for n in nodes if n.target is aten.convolution.default and n.meta["data"]]
    made = sum(math.prod(shape(node)[1:]) for node in convolutions)
    weights = sum(math.prod(shape(operands(node)[1])) for node in convolutions)
    return bool(convolutions) and made >= PIXELS * weights


def _front(output: Node) -> list[Node]:
    """The nodes free of data that the rest reads."""
    found: dict[Node, None] = {}
    seen: set[Node] = set()
    todo = [output]
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        # A view costs nothing, and stays with its reader on the data's side of the cut.
        if node.meta["data"] or node.target in VIEWS:
            todo.extend(reversed(node.all_input_nodes))
        else:
            found[node] = None
    return list(found)


def _channels_last(b: Graph, w: Node) -> Node:
    """Weights of a convolution in the order of the images."""
    if w.target is aten.mul.Tensor:
        # Two orders in one product would cost several times as much: what is scaled is laid out.
        x, scale = operands(w)
        if shape(x) == shape(w) and shape(scale)[1:] == [1, 1, 1]:
            return b.call(aten.mul.Tensor, _channels_last(b, x), scale)
    return b.call(aten.clone.default, w, memory_format=torch.channels_last)
