"""The part of a forward that reads the data, and its derivatives as graphs of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from hesslab.operators.engine import forward
from hesslab.operators.engine.graph import (
    Copy,
    Graph,
    between,
    dependent,
    module,
)
from hesslab.operators.engine.linear import Linear
from hesslab.operators.engine.normalise import DATA
from hesslab.operators.engine.operations import aten
from hesslab.operators.engine.reverse import pullback


@dataclass(frozen=True, eq=False)
class LossGradient:
    """The gradient of a batch's mean loss by the outputs, as one node of a graph."""

    loss: Any
    __name__ = "loss_gradient"

    def __call__(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Of the outputs' shape."""
        mean: Tensor = self.loss.gradient(outputs, y) / self.loss.count(outputs)
        return mean


@dataclass(frozen=True, eq=False)
class LossHessian:
    """The Hessian of that mean loss by the outputs times a direction: the closed form."""

    loss: Any
    __name__ = "loss_hessian"

    def __call__(self, outputs: Tensor, u: Tensor, y: Tensor) -> Tensor:
        """Of the outputs' shape."""
        mean: Tensor = self.loss.hessian_product(outputs, u, y) / self.loss.count(outputs)
        return mean


@forward.rule(LossGradient)
def _loss_gradient(b: Graph, node: Node, t: Any, outputs: Node, y: Node) -> Any:
    target: Any = node.target
    return b.call(LossHessian(target.loss), outputs, t(outputs), y, like=outputs)


class Jacobian:
    """The derivative of the outputs by the active q, in both directions, from one forward.

    Attributes:
        jvp: a tangent of q to one of the outputs.
        vjp: a cotangent of the outputs to one of q.
        prepare: ``(*q, x) -> (*residuals of jvp, *residuals of vjp, outputs)``.
    """

    def __init__(self, jvp: Linear, vjp: Linear, output: Node) -> None:
        self.jvp, self.vjp = jvp, vjp
        self.prepare = module(jvp.fixed, [*jvp.kept, *vjp.kept, output]).forward
        self._shape = output.meta["val"].shape

    def change(self, block: bool, kept: Sequence[Tensor], dq: Sequence[Tensor]) -> Tensor:
        """The change of the outputs along a tangent of q, or a block of them."""
        outputs = self.jvp.run(block, kept, dq)
        if not outputs:  # nothing of q reaches the outputs
            lead = dq[0].shape[:1] if block else ()
            return torch.zeros(*lead, *self._shape, dtype=dq[0].dtype, device=dq[0].device)
        return outputs[0]


class Net:
    """The part of a forward that reads the data, as a graph of its own.

    Args:
        q: nodes of the whole forward that the net reads.
        x: the node of the data.
        output: the node of the outputs.
        channels_last: lay images out so; weights among q are.

    Attributes:
        q: the net's own arguments for them.
        x: its argument for the data.
        output: its node of the outputs.
    """

    def __init__(self, q: Sequence[Node], x: Node, output: Node, *, channels_last: bool) -> None:
        copy = Copy()
        b, env = copy.graph, copy.env
        self.x = b.input(DATA, x.meta["val"], data=True)
        self.q = [b.input(f"q{i}", node.meta["val"]) for i, node in enumerate(q)]
        env.update(zip(q, self.q, strict=True))
        env[x] = self.x
        if channels_last:
            env[x] = b.call(aten.clone.default, self.x, memory_format=torch.channels_last)
        for node in between([output], stop=set(env)):
            copy(node)
        self.output = env[output]

    @cached_property
    def outputs(self) -> Callable[..., tuple[Tensor, ...]]:
        """``(*q, x) -> (outputs,)``."""
        return module([*self.q, self.x], [self.output]).forward

    def jacobian(self, active: Sequence[int]) -> Jacobian:
        """The derivative of the outputs by the active q."""
        copy = Copy()
        b, env = copy.graph, copy.env
        fixed = copy.inputs([*self.q, self.x])
        q = [env[self.q[i]] for i in active]
        dq = [b.input(f"dq{i}", node.meta["val"]) for i, node in enumerate(q)]
        tangents = dict(zip(q, dq, strict=True))
        found = forward.pushforward(b, between([self.output]), tangents, copy)
        output = env[self.output]
        u = b.input("u", output.meta["val"], data=True)
        jvp = Linear(fixed, dq, [found.get(output)])
        return Jacobian(jvp, Linear(fixed, [u], pullback(b, {output: u}, q)), output)

    def hessian(self, active: Sequence[int], loss: Any, y: Tensor, *, lean: bool) -> Linear:
        """The tangent of the gradient of the mean loss by the active q; see `Program.hessian`."""
        first = Copy()
        source, old = first.graph, first.env
        given = first.inputs([*self.q, self.x])
        for node in between([self.output]):
            first(node)
        target = source.input("y", y, data=True)
        output = old[self.output]
        u = source.call(LossGradient(loss), output, target, like=output)
        wanted = [old[self.q[i]] for i in active]
        gradient = pullback(source, {output: u}, wanted)
        copy = Copy()
        b, env = copy.graph, copy.env
        fixed = copy.inputs([*given, target])
        dq = [b.input(f"dq{i}", q.meta["val"]) for i, q in enumerate(wanted)]
        tangents = dict(zip((env[q] for q in wanted), dq, strict=True))
        found = forward.pushforward(b, between([*gradient, output]), tangents, copy)
        primal = [None if g is None else env[g] for g in gradient]
        outputs = [None if g is None else found.get(g) for g in primal]
        again = dependent(b.nodes, [env[u]]) - {env[u]} if lean else set()
        return Linear(fixed, dq, outputs, extra=primal, recomputed=frozenset(again))
