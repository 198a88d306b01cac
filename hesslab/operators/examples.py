"""The few examples on which an operator is checked when it is built."""

from __future__ import annotations

import copy
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hesslab.operators.base import Operator
from hesslab.operators.checks import (
    ALLOWED,
    check_fixed,
    check_loss,
    check_sum,
    check_symmetric,
    largest_difference,
)
from hesslab.operators.engine.graph import Untraceable
from hesslab.operators.engine.traced import Traced

if TYPE_CHECKING:  # it imports this module
    from hesslab.operators.curvature import Curvature


class Examples:
    """A few examples of an operator's data, and products with them by autograd.

    Args:
        operator: its matrix A, of these examples alone, is looked at.
        x: inputs ``[B, ...]``.
        y: targets.
        v: a vector ``[P]``.

    Attributes:
        V: the block ``[v, A v]``, ``[P, 2]``.
        AV: the product with it.
    """

    def __init__(self, operator: Curvature, x: Tensor, y: Tensor, v: Tensor) -> None:
        self._operator, self.x, self.y = operator, x, y
        product, terms = operator._batch_product(x, y, v.unsqueeze(1))
        self.V = torch.stack([v, product[:, 0] / terms], dim=1)
        self.AV = operator._batch_product(x, y, self.V)[0] / terms

    def check(self) -> None:
        """Refuse an operator that is not fixed, not symmetric, or no sum over examples.

        Raises:
            NotDeterministic: two products of one vector differ.
            ValueError: it is not symmetric, or no sum.
        """
        check_fixed(self.V[:, 1], self.AV[:, 0])
        network, loss = self._operator._network, self._operator._loss
        with self._operator._recording():
            check_loss(loss, lambda: network.outputs(network.point, self.x), self.y)
        try:
            self._check()
        except ValueError:
            try:  # rounding may cancel what is left of a sum
                exact = self._in_float64
            except Exception:  # the model cannot be evaluated in float64
                exact = self
            if exact is self:
                raise
            exact._check()

    def _check(self) -> None:
        operator = self._operator
        check_symmetric(type(operator).__name__, self.V[:, 0], self.V[:, 1], self.AV[:, 1])
        network, loss, x, y = operator._network, operator._loss, self.x, self.y
        with operator._recording():
            if network.depends_on_batch:  # then only the loss is a sum over examples
                outputs = network.outputs(network.point, x).detach()
                check_sum(lambda part: loss.gradient(outputs[part], y[part]), len(x), along=0)
            else:
                check_sum(lambda part: operator._batch_gradient(x[part], y[part])[0], len(x))

    def traced(self, block_size: int = 1) -> Traced:
        """The traced network over these examples."""
        operator = self._operator
        batches = [(self.x, self.y)]
        return Traced(operator._network, operator._loss, batches, block_size=block_size)

    def hold(self, traced: Traced) -> None:
        """Compare traced products with autograd's; in float64, where float32 leaves a doubt.

        Raises:
            Untraceable: they differ.
        """
        ours, _ = self._operator._traced_product(traced, self.V)
        named = self._operator.vector_to_dict
        columns = zip(ours.T, self.AV.T, strict=True)
        apart, name = max(largest_difference(named(one), named(other)) for one, other in columns)
        if apart <= ALLOWED[ours.dtype]:
            return
        # One ReLU that falls on the other side of zero moves a small tensor by some percent.
        exact = self._in_float64
        if exact is self:
            raise Untraceable(
                f"the traced product differs from autograd's in {name}, by {apart:.0e}"
            )
        exact.hold(exact.traced(traced.block_size))

    @cached_property
    def _in_float64(self) -> Examples:
        """The same in double precision."""
        operator = self._operator
        if operator.dtype == torch.float64:
            return self
        twin = copy.copy(operator)
        twin._network = operator._network.in_float64()
        Operator.__init__(twin, twin._network.point)
        x, y = (t.double() if t.is_floating_point() else t for t in (self.x, self.y))
        with operator._recording():
            return Examples(twin, x, y, self.V[:, 0].double())
