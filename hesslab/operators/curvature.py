"""What the Hessian and the GGN share: a network, a loss and data, summed batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hesslab.data import DataLike, as_batches
from hesslab.errors import NotDeterministic, NotFinite
from hesslab.linalg.matrix import asymmetry
from hesslab.losses import LossLike, as_loss
from hesslab.operators.base import Operator
from hesslab.operators.network import Network, differentiable_kernels

CHECKED = 32  # examples of the first batch that the checks at construction look at


class Curvature(Operator):
    r"""A second-derivative matrix of the mean loss over data, bound to one parameter point.

    :math:`L(\theta) = \frac1N \sum_n \ell(f(x_n; \theta), y_n)`. Subclasses say what a batch
    contributes to a product. The data is gone through once per product or block of products
    (*streaming*): memory does not grow with it.

    Args:
        model: any module without active dropout or batch statistics. Its parameters, buffers,
            gradients and modes are never changed, and training it later moves no operator.
        loss: one of `hesslab.losses`, ``torch.nn.CrossEntropyLoss()``, ``MSELoss()`` or a callable
            ``(outputs, targets) -> scalar mean``.
        data: a `Dataset`, a pair of tensors, or batches in a fixed order.
        parameters: names or shell patterns of the parameters to differentiate by, such as
            ``"layer3.*"``; None means those that require a gradient.
        batch_size: examples per batch, where the data does not come in batches.

    Raises:
        NotDeterministic: two products on the first examples differ; the message names the cause.
        NotFinite: a parameter, an input or a target is NaN or infinite.
        ValueError: model, loss and data do not fit together, the mean loss is no mean over
            examples, or a layer has a wrong second derivative.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: LossLike,
        data: DataLike,
        *,
        parameters: str | Sequence[str] | None = None,
        batch_size: int = 512,
    ) -> None:
        self._network = Network(model, parameters)
        super().__init__(self._network.point)
        self._loss = as_loss(loss)
        self._batches = as_batches(
            data, batch_size=batch_size, device=self.device, dtype=self.dtype
        )
        self._check_first_batch()

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.shape[0]} parameters ({self._name_list()}), "
            f"{self._loss}, {self.dtype} on {self.device}, streaming)"
        )

    def gradient(self) -> Tensor:
        """The gradient of the mean loss over all data, ``[P]``. Cost: one pass."""
        return self._mean(self._batch_gradient).squeeze(1)

    def _matmat(self, V: Tensor) -> Tensor:
        return self._mean(lambda x, y: self._batch_product(x, y, V))

    def _batch_product(self, x: Tensor, y: Tensor, V: Tensor) -> tuple[Tensor, int]:
        """The sum over a batch times ``V`` ``[P, K]``, and the number of its terms."""
        raise NotImplementedError

    def _batch_gradient(self, x: Tensor, y: Tensor) -> tuple[Tensor, int]:
        leaves, outputs = self._forward(x, y)
        total = self._loss.sum(outputs, y)
        pieces = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
        return self._join(pieces).unsqueeze(1), self._loss.count(outputs)

    def _forward(self, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Fresh leaves at the point, and the checked outputs of a batch as a function of them."""
        leaves = self._network.leaves()
        outputs = self._network.outputs(leaves, x)
        self._loss.check(outputs, y)
        return leaves, outputs

    def _mean(self, contribution: Callable[[Tensor, Tensor], tuple[Tensor, int]]) -> Tensor:
        """Sum a contribution over all batches in float64, and divide by the number of terms."""
        total: Tensor | None = None
        terms = 0
        with _recording():
            for number, (x, y) in enumerate(self._batches):
                part, count = contribution(x, y)
                if not bool(part.isfinite().all()):
                    raise NotFinite(
                        f"the contribution of batch {number} is NaN or infinite; look at its "
                        "inputs, or take the product in float64 if it overflowed"
                    )
                total = part.double() if total is None else total.add_(part)
                terms += count
        if total is None:
            raise ValueError("the data is empty: it holds no batch; at least one is needed")
        return (total / terms).to(self.dtype)

    def _join(self, pieces: Sequence[Tensor]) -> Tensor:
        return torch.cat([piece.detach().reshape(-1) for piece in pieces])

    def _check_first_batch(self) -> None:
        """Hold a few examples to what every product relies on: fixed, symmetric, a sum."""
        generator = torch.Generator().manual_seed(0)
        V = torch.randn(self.shape[0], 2, generator=generator).to(self.device, self.dtype)
        with _recording():
            first = [tensor[:CHECKED] for tensor in self._batches.first()]
            again = [tensor[:CHECKED] for tensor in self._batches.first()]
            one, _ = self._batch_product(first[0], first[1], V)
            two, _ = self._batch_product(again[0], again[1], V)
        if not bool(one.isfinite().all()):
            return  # the first product says where
        self._check_fixed(one, two)
        apart = asymmetry(V[:, 0], one[:, 0], V[:, 1], one[:, 1])
        if apart > torch.finfo(self.dtype).eps ** 0.5:
            raise ValueError(
                f"the {type(self).__name__} of this model is not symmetric: u.Av - v.Au is "
                f"{apart:.1e} of the norms. torch has a wrong second derivative for one of its "
                "layers (weight_norm is one): write that layer in plain operations"
            )
        self._check_sum(first[0], first[1])

    def _check_fixed(self, one: Tensor, two: Tensor) -> None:
        # Sums on CUDA may be reordered; on the CPU a repeated product is equal to the bit.
        allowed = 1e-5 * one.norm() if self.device.type == "cuda" else 0.0
        difference = (one - two).norm()
        if bool(difference > allowed):
            raise NotDeterministic(
                "the same product taken twice on the first batch differs by "
                f"{float(difference / one.norm()):.1e} of its norm: the model's forward draws "
                "random numbers (a functional dropout with training=True?) or keeps a state; "
                "a curvature matrix needs a fixed function"
            )

    def _check_sum(self, x: Tensor, y: Tensor) -> None:
        cut = len(x) // 3 + 1
        if cut >= len(x):
            return
        with _recording():
            whole, _ = self._batch_gradient(x, y)
            pieces = [
                self._batch_gradient(*part)[0] for part in ((x[:cut], y[:cut]), (x[cut:], y[cut:]))
            ]
        size = sum(float(piece.norm()) for piece in pieces)
        difference = float((whole - pieces[0] - pieces[1]).norm())
        if difference > torch.finfo(self.dtype).eps ** 0.5 * size:
            raise ValueError(
                f"the gradient of {len(x)} examples is not the sum over its parts: they differ by "
                f"{difference / size:.1e}. Either the outputs depend on other examples of the "
                "batch (batch statistics in forward), or the loss is no mean over examples "
                "(a sum, or a mean over those that are not masked)"
            )


@contextmanager
def _recording() -> Iterator[None]:
    """Autograd records here, whatever the caller has switched off."""
    with torch.inference_mode(False), torch.enable_grad(), differentiable_kernels():
        yield
