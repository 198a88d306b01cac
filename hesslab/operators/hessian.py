"""The Hessian of the mean loss."""

from __future__ import annotations

import torch
from torch import Tensor

from hesslab.operators.curvature import Curvature
from hesslab.operators.engine.traced import Kind, Traced


class Hessian(Curvature):
    r"""The Hessian :math:`H = \nabla^2_\theta L`, ``[P, P]``, as a matrix that multiplies.

    The graph of the gradient, made from the traced network, is differentiated in forward mode; a
    network that cannot be traced goes by reverse over reverse. It takes the arguments of
    `Curvature`.

    Cost: one pass. For a ResNet-20 on the CPU 2.4 gradients at first, and 1.6 from the product that
    finds residuals on, for each column; by autograd 3.3 for a vector and 2.2 for each further
    column of a block. The page "What does a product cost?" has the record.
    Source: Pearlmutter (1994), Fast exact multiplication by the Hessian.

    >>> import hesslab as hl, torch
    >>> x, y = torch.randn(10, 3), torch.randint(0, 2, (10,))
    >>> model = hl.models.mlp(3, 2, hidden=(4,), seed=0)
    >>> H = hl.Hessian(model, torch.nn.CrossEntropyLoss(), (x, y))
    >>> H.shape
    (26, 26)
    """

    _kind: Kind = "hessian"

    def _traced_product(self, traced: Traced, V: Tensor) -> tuple[Tensor, int]:
        return traced.hessian(V)

    def _batch_product(self, x: Tensor, y: Tensor, V: Tensor) -> tuple[Tensor, int]:
        leaves, outputs = self._forward(x, y)
        inputs = list(leaves.values())
        product = torch.zeros_like(V)
        if not outputs.requires_grad:  # no chosen parameter plays a part
            return product, self._loss.count(outputs)
        u = self._loss_gradient(outputs, y)
        gradient = torch.autograd.grad(
            outputs, inputs, u, create_graph=True, materialize_grads=True
        )
        curved = [i for i, piece in enumerate(gradient) if piece.requires_grad]
        if not curved:  # the loss is linear in the parameters
            return product, self._loss.count(outputs)
        for k in range(V.shape[1]):
            directions = list(self.vector_to_dict(V[:, k].contiguous()).values())
            pieces = torch.autograd.grad(
                [gradient[i] for i in curved],
                inputs,
                [directions[i] for i in curved],
                retain_graph=k + 1 < V.shape[1],
                materialize_grads=True,
            )
            product[:, k] = self._join(pieces)
        return product, self._loss.count(outputs)

    def _loss_gradient(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The gradient of the loss by the outputs, whose derivative is the closed form."""
        # Autograd twice through a loss would cancel most digits where predictions are sure.
        fixed = outputs.detach()
        gradient = outputs.clone()
        gradient.detach().copy_(self._loss.gradient(fixed, y))
        gradient.register_hook(lambda u: self._loss.hessian_product(fixed, u, y))
        return gradient
