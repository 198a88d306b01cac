"""Sums and products per channel that go into the convolution before them: batch norm, mostly."""

from __future__ import annotations

import math
from typing import Any

from torch.fx import Node

from hesslab.operators.engine.graph import Graph, operands, shape
from hesslab.operators.engine.operations import aten, reshape

# More weights than so many for each number that they make of an example are not scaled in place of
# these numbers: for a batch of 256 that is no less work.
WEIGHTS = 256


def per_channel(node: Node, x: Any, s: Any) -> bool:
    """Whether a sum or product changes each channel of a convolution that nothing else reads."""
    if not (isinstance(x, Node) and isinstance(s, Node)) or s.meta["data"]:
        return False
    if len(node.all_input_nodes[0].users) > 1:
        return False
    if x.target is not aten.convolution.default or operands(x)[6]:  # a transposed one
        return False
    if s.meta["val"].dtype != x.meta["val"].dtype:
        return False
    if math.prod(shape(operands(x)[1])) > WEIGHTS * math.prod(shape(x)[1:]):
        return False
    channels, spatial = shape(x)[1], len(shape(x)) - 2
    return shape(s) in ([channels] + [1] * spatial, [1, channels] + [1] * spatial)


def folded_scale(b: Graph, x: Node, s: Node) -> Node:
    """A scale per channel behind a convolution goes into its weight and bias."""
    data, w, bias, *geometry = operands(x)
    w = b.call(aten.mul.Tensor, w, reshape(b, s, [-1] + [1] * (len(shape(w)) - 1)))
    if bias is not None:
        bias = b.call(aten.mul.Tensor, bias, reshape(b, s, shape(bias)))
    return b.call(aten.convolution.default, data, w, bias, *geometry)


def folded_shift(b: Graph, x: Node, t: Node) -> Node:
    """A shift per channel behind a convolution goes into its bias."""
    data, w, bias, *geometry = operands(x)
    t = reshape(b, t, [shape(w)[0]])
    bias = t if bias is None else b.call(aten.add.Tensor, bias, t)
    return b.call(aten.convolution.default, data, w, bias, *geometry)
