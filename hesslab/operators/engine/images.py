"""How many images a product on the CPU takes at once."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.fx import Node

from hesslab.operators.engine.graph import operands, shape, values_of
from hesslab.operators.engine.operations import aten

ACTIVATION = 1 << 21  # bytes of one activation of a batch, for each thread
USES = 2048  # of each parameter by a batch; with fewer, the parameters are what is waited for
LEAST = 8  # examples: fewer would be calls of torch more than arithmetic


@dataclass(frozen=True)
class Images:
    """What the examples of a net with convolutions ask of a batch.

    Attributes:
        activation: bytes of the largest one of an example.
        uses: how often an example uses a parameter on average.
    """

    activation: float
    uses: float

    def at_once(self) -> int:
        """Examples of a batch by a fixed rule, a power of two."""
        # Few enough for the largest activation to be at hand when it is read again, yet enough to
        # use each parameter often. Measured with ResNets and VGG.
        fit = ACTIVATION * torch.get_num_threads() / self.activation
        wanted = max(LEAST, USES / self.uses)
        return int(2 ** max(math.floor(math.log2(fit)), math.ceil(math.log2(wanted))))


def images_of(nodes: Iterable[Node], batch: int, parameters: int) -> Images | None:
    """What a forward asks of a batch; None without convolutions of the data.

    Args:
        nodes: of the forward.
        batch: examples in its batch.
        parameters: numbers that it reads besides the data.

    Returns:
        `Images`, or None.
    """
    nodes = [node for node in nodes if node.meta["data"]]
    convolutions = [node for node in nodes if node.target is aten.convolution.default]
    multiplied = 0
    for node in convolutions:
        data, w, *_ = operands(node)
        transposed = operands(node)[6]
        multiplied += math.prod(shape(data if transposed else node)) * math.prod(shape(w)[1:])
    if not multiplied:
        return None
    largest = max(value.nbytes for node in nodes for value in values_of(node))
    return Images(largest / batch, multiplied / batch / parameters)
