"""A module's forward as a graph. Everything of torch that is not public stands here.

Tested with the versions of torch from the first to the last of `TESTED`; none other is traced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from hesslab.operators.derivatives import SameDerivatives
from hesslab.operators.engine.graph import Untraceable

TESTED = ((2, 11), (2, 13))


def trace(
    forward: Callable[[Mapping[str, Tensor], Tensor], Tensor],
    state: Mapping[str, Tensor],
    x: Tensor,
) -> tuple[fx.GraphModule, list[str]]:
    """Write down the operations of ``forward(state, x)``, without in-place ones.

    Returns:
        The graph, whose arguments are the tensors of ``state`` in order and ``x``, and the names.

    Raises:
        Untraceable: the module looks at values, or does what torch cannot trace; or this is a
            version of torch with which it was not tested.
    """
    _check_version()
    names = list(state)

    def function(*values: Tensor) -> Tensor:
        with SameDerivatives():
            return forward(dict(zip(names, values[:-1], strict=True)), values[-1])

    try:
        with torch.enable_grad():
            graph = _written_down(function, (*state.values(), x))
            if _mutating(graph):  # what torch's own composite operations do in place
                graph = _written_down(graph, (*state.values(), x))
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise Untraceable(f"{type(error).__name__}: {reason[0][:120] if reason else ''}") from error
    if _mutating(graph):
        raise Untraceable(f"{_mutating(graph)[0].target} works in place")
    return graph, names


def _check_version() -> None:
    found = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if not TESTED[0] <= found <= TESTED[1]:
        first, last = (".".join(map(str, version)) for version in TESTED)
        raise Untraceable(f"torch {torch.__version__}: tracing was tested with {first} to {last}")


def _written_down(function: Callable[..., Tensor], values: tuple[Tensor, ...]) -> fx.GraphModule:
    traced = make_fx(
        torch.func.functionalize(function, remove="mutations"),
        tracing_mode="fake",
        _allow_non_fake_inputs=True,
    )
    graph: fx.GraphModule = traced(*values)
    graph.graph.eliminate_dead_code()
    return graph


def _mutating(graph: fx.GraphModule) -> list[fx.Node]:
    schemas = {node: getattr(node.target, "_schema", None) for node in graph.graph.nodes}
    return [node for node, schema in schemas.items() if schema is not None and schema.is_mutable]
