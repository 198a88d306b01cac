"""One operation as a graph, its derivatives by the engine, and the same by double backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from hesslab.operators.engine.forward import pushforward
from hesslab.operators.engine.graph import Graph, module
from hesslab.operators.engine.reverse import pullback

SEED = 3


def randn(*size: int, dtype: torch.dtype = torch.float64, seed: int = SEED) -> Tensor:
    """Values of no special kind: equal calls are told apart by their sizes and seeds."""
    generator = torch.Generator().manual_seed(seed + sum(size))
    return torch.randn(size, generator=generator, dtype=dtype)


def mapped(value: Any, tensor: Callable[[Tensor], Any]) -> Any:
    """The tensors of nested lists replaced."""
    if isinstance(value, list | tuple):
        return type(value)(mapped(item, tensor) for item in value)
    return tensor(value) if isinstance(value, Tensor) else value


@dataclass
class Call:
    """``op(*args, **kwargs)`` as a function of the float tensors among the arguments."""

    op: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def tensors(self) -> list[Tensor]:
        found: list[Tensor] = []

        def note(tensor: Tensor) -> None:
            if all(tensor is not other for other in found):
                found.append(tensor)

        mapped(self.args, note)
        return found

    @property
    def floats(self) -> list[Tensor]:
        return [tensor for tensor in self.tensors if tensor.is_floating_point()]

    def __call__(self, *floats: Tensor) -> list[Tensor]:
        """The float outputs."""
        given = dict(zip(map(id, self.floats), floats, strict=True))
        out = self.op(*mapped(self.args, lambda t: given.get(id(t), t)), **self.kwargs)
        outputs = out if isinstance(out, tuple | list) else [out]
        return [tensor for tensor in outputs if tensor is not None and tensor.is_floating_point()]

    def graph(self) -> tuple[Graph, list[Node], list[Node]]:
        """The graph, its inputs (all tensors in order), and the nodes of the float outputs."""
        b = Graph()
        inputs = [b.input(f"x{i}", tensor) for i, tensor in enumerate(self.tensors)]
        places = dict(zip(map(id, self.tensors), inputs, strict=True))
        args = mapped(self.args, lambda tensor: places[id(tensor)])
        node = b.call(self.op, *args, **self.kwargs)
        value = node.meta["val"]
        if isinstance(value, Tensor):
            return b, inputs, [node]
        return b, inputs, [
            b.item(node, i)
            for i, out in enumerate(value)
            if out is not None and out.is_floating_point()
        ]  # fmt: skip

    def jvp(self, tangents: list[Tensor]) -> list[Tensor | None]:
        """The engine's derivative of the outputs along tangents of the float inputs."""
        source, inputs, outputs = self.graph()
        b, env = Graph(), {}
        fixed = [env.setdefault(node, b.input(node.name, node.meta["val"])) for node in inputs]
        moved = [env[node] for node in inputs if node.meta["val"].is_floating_point()]
        directions = [b.input(f"d{i}", node.meta["val"]) for i, node in enumerate(moved)]
        calls = [node for node in source.nodes if node.op == "call_function"]
        found = pushforward(b, calls, dict(zip(moved, directions, strict=True)), copier(b, env))
        wanted = [found.get(env[node]) for node in outputs]
        with torch.no_grad():
            return list(module([*fixed, *directions], wanted)(*self.tensors, *tangents))

    def vjp(self, cotangents: list[Tensor]) -> list[Tensor | None]:
        """The engine's gradient of ``sum(cotangent * output)`` by the float inputs."""
        _, inputs, given, gradient = self._pulled()
        with torch.no_grad():
            return list(module([*inputs, *given], gradient)(*self.tensors, *cotangents))

    def change(
        self, cotangents: list[Tensor], tangents: list[Tensor], changes: list[Tensor]
    ) -> list[Tensor | None]:
        """How the engine's gradient changes with the float inputs and with the cotangents."""
        source, inputs, given, gradient = self._pulled()
        b, env = Graph(), {}
        old = [*inputs, *given]
        fixed = [env.setdefault(node, b.input(node.name, node.meta["val"])) for node in old]
        moved = [env[node] for node in old if node.meta["val"].is_floating_point()]
        directions = [b.input(f"d{i}", node.meta["val"]) for i, node in enumerate(moved)]
        calls = [node for node in source.nodes if node.op == "call_function"]
        found = pushforward(b, calls, dict(zip(moved, directions, strict=True)), copier(b, env))
        wanted = [None if g is None else found.get(env[g]) for g in gradient]
        function = module([*fixed, *directions], wanted)
        with torch.no_grad():
            return list(function(*self.tensors, *cotangents, *tangents, *changes))

    def _pulled(self) -> tuple[Graph, list[Node], list[Node], list[Node | None]]:
        b, inputs, outputs = self.graph()
        given = [b.input(f"c{i}", node.meta["val"]) for i, node in enumerate(outputs)]
        wanted = [node for node in inputs if node.meta["val"].is_floating_point()]
        return b, inputs, given, pullback(b, dict(zip(outputs, given, strict=True)), wanted)


def copier(b: Graph, env: dict[Node, Node]) -> Callable[[Node], Node]:
    """Copies one node after the other into a graph."""

    def copy(node: Node) -> Node:
        if node not in env:
            args = map_arg(node.args, env.__getitem__)
            kwargs = map_arg(node.kwargs, env.__getitem__)
            env[node] = b.call(node.target, *args, like=node, **kwargs)
        return env[node]

    return copy


@dataclass
class Reference:
    """The derivatives of a call by torch's backward alone."""

    call: Call

    def vjp(self, cotangents: list[Tensor]) -> list[Tensor]:
        floats = [x.clone().requires_grad_() for x in self.call.floats]
        return self._gradient(floats, cotangents, keep=False)

    def jvp(self, tangents: list[Tensor]) -> list[Tensor]:
        """By the trick: the gradient of a vjp, linear in its cotangent."""
        floats = [x.clone().requires_grad_() for x in self.call.floats]
        outputs = self.call(*floats)
        u = [torch.zeros_like(out).requires_grad_() for out in outputs]
        gradient = self._gradient(floats, u, keep=True)
        return self._by(gradient, u, tangents)

    def change(
        self, cotangents: list[Tensor], tangents: list[Tensor], changes: list[Tensor]
    ) -> list[Tensor]:
        floats = [x.clone().requires_grad_() for x in self.call.floats]
        gradient = self._gradient(floats, cotangents, keep=True)
        pairs = zip(self._by(gradient, floats, tangents), self.vjp(changes), strict=True)
        return [curved + linear for curved, linear in pairs]

    def _gradient(self, floats: list[Tensor], c: list[Tensor], *, keep: bool) -> list[Tensor]:
        outputs = self.call(*floats)
        total = sum((out * weight).sum() for out, weight in zip(outputs, c, strict=True))
        return list(
            torch.autograd.grad(
                total, floats, create_graph=keep, allow_unused=True, materialize_grads=True
            )
        )

    @staticmethod
    def _by(values: list[Tensor], by: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
        pairs = zip(values, weights, strict=True)
        terms = [(value * weight).sum() for value, weight in pairs if value.requires_grad]
        if not terms:
            return [torch.zeros_like(x) for x in by]
        return list(torch.autograd.grad(sum(terms), by, allow_unused=True, materialize_grads=True))


def assert_equal(found: list[Tensor | None], expected: list[Tensor]) -> None:
    """To rounding in their dtype; None is zero."""
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        ours = torch.zeros_like(theirs) if ours is None else ours
        assert ours.dtype == theirs.dtype
        rtol, atol = (1e-11, 1e-12) if theirs.dtype == torch.float64 else (1e-6, 1e-6)
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)
