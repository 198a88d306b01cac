"""How many images a product on the CPU takes at once, for what it reads to be in its caches."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch.fx import Node

from hesslab.operators.engine.graph import shape, values_of
from hesslab.operators.engine.operations import aten

ACTIVATION = 1 << 21  # bytes of one activation of a batch, a core; larger ones leave its caches
USES = 2048  # of each parameter by a batch; with fewer, the parameters are what is waited for


def images_at_once(nodes: Iterable[Node], batch: int, parameters: int) -> int | None:
    """A batch size by a fixed rule, for nets with convolutions; None for others.

    As many examples as leave every activation in the caches, yet enough of them for each parameter
    to be used `USES` times. Measured for ResNets and VGG: ``benchmarks/products.py``.

    Args:
        nodes: of a forward.
        batch: examples in its batch.
        parameters: how many the net has.

    Returns:
        A power of two, or None.
    """
    nodes = list(nodes)
    weights = [
        (node, node.all_input_nodes[1])
        for node in nodes
        if node.target is aten.convolution.default and node.meta["data"]
    ]
    if not weights:
        return None
    values = [value for node in nodes if node.meta["data"] for value in values_of(node)]
    largest = max(value.nbytes for value in values) / batch
    multiplied = sum(math.prod(shape(out)) * math.prod(shape(w)[1:]) for out, w in weights)
    fit = ACTIVATION * torch.get_num_threads() / largest
    wanted = USES * parameters * batch / multiplied
    return int(2 ** max(0, math.floor(math.log2(fit)), math.ceil(math.log2(wanted))))
