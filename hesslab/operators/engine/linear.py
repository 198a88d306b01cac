"""A graph that is linear in some inputs, cut into what depends on those and what does not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from hesslab.operators.engine.compiled import Compiled
from hesslab.operators.engine.graph import dependent, module, residuals
from hesslab.operators.engine.inplace import in_place, owners

Tensors = Sequence[Tensor]


class Linear:
    """Outputs as a linear function of ``varying`` inputs, the ``fixed`` ones given before.

    What does not depend on the varying inputs is computed once by `prepare`; `apply` reads these
    *residuals*. Outputs that are None (zero) are left out; `places` are the others.

    Args:
        fixed: inputs that stay.
        varying: inputs in which the outputs are linear.
        outputs: nodes, or None.
        extra: nodes that depend on the fixed inputs only (or None), wanted along with the outputs.
        recomputed: fixed nodes that `apply` computes again, so that they need not be kept.

    Attributes:
        compiled: whether `apply` goes through torch.compile.
    """

    def __init__(
        self,
        fixed: Sequence[Node],
        varying: Sequence[Node],
        outputs: Sequence[Node | None],
        *,
        extra: Sequence[Node | None] = (),
        recomputed: frozenset[Node] = frozenset(),
    ) -> None:
        self.fixed, self._varying, self._extra = list(fixed), list(varying), list(extra)
        self.places = [i for i, node in enumerate(outputs) if node is not None]
        self._outputs = [node for node in outputs if node is not None]
        nodes: Iterable[Node] = self._outputs[0].graph.nodes if self._outputs else ()
        changing = dependent(nodes, varying)
        self.kept = residuals(changing | recomputed, self._outputs)
        self.compiled = False

    @cached_property
    def prepare(self) -> Callable[..., tuple[Tensor, ...]]:
        """``(*fixed) -> residuals``."""
        return module(self.fixed, self.kept).forward

    @cached_property
    def prepare_with_extra(self) -> Callable[..., tuple[Tensor, ...]]:
        """``(*fixed) -> (*residuals, *extra)``."""
        return module(self.fixed, [*self.kept, *self._extra]).forward

    @cached_property
    def _applied(self) -> Any:
        return module([*self.kept, *self._varying], self._outputs)

    @cached_property
    def apply(self) -> Callable[..., tuple[Tensor, ...]]:
        """``(*residuals, *varying) -> outputs``."""
        return Compiled(self._applied) if self.compiled else in_place(self._applied).forward

    @cached_property
    def _apply_block(self) -> Callable[..., tuple[Tensor, ...]]:
        dims = (*(None for _ in self.kept), *(0 for _ in self._varying))
        function = in_place(self._applied, batched=len(self._varying)).forward
        return torch.func.vmap(function, in_dims=dims) if self._outputs else function

    def run(self, block: bool, kept: Tensors, varying: Tensors) -> tuple[Tensor, ...]:
        """`apply`; with ``block``, of varying inputs and outputs with a leading dimension K."""
        return (self._apply_block if block else self.apply)(*kept, *varying)

    @cached_property
    def once(self) -> Callable[..., tuple[Tensor, ...]]:
        """``(*fixed, *varying) -> outputs``, which keeps nothing longer than needed."""
        return in_place(module([*self.fixed, *self._varying], self._outputs)).forward

    @cached_property
    def once_with_extra(self) -> Callable[..., tuple[Tensor, ...]]:
        """``(*fixed, *varying) -> (*outputs, *extra)``."""
        both = [*self._outputs, *self._extra]
        return in_place(module([*self.fixed, *self._varying], both)).forward


def memory(nodes: Sequence[Node], given: Sequence[Node]) -> int:
    """Bytes of the tensors of some nodes; those that show the same memory count once.

    Args:
        nodes: of one graph.
        given: nodes whose memory is there anyway.

    Returns:
        The sum in bytes.
    """
    owner = owners(list(nodes[0].graph.nodes)) if nodes else {}
    values = [node.meta["val"] for node in {owner[node] for node in nodes} - set(given)]
    return sum(value.numel() * value.element_size() for value in values)
