"""How much the gradients of examples, or of mini-batches, scatter around their mean."""

from __future__ import annotations

import time
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hesslab.data import DataLike
from hesslab.linalg import Eigenpairs
from hesslab.losses import LossLike
from hesslab.operators.engine.graph import Untraceable
from hesslab.operators.engine.traced import Traced
from hesslab.operators.ggn import GaussNewton


class GradientCovariance(GaussNewton):
    r"""The covariance of gradients, ``[P, P]``, at one point.

    :math:`C = \sum_i w_i (g_i - \bar g)(g_i - \bar g)^T` with :math:`\bar g = \sum_i w_i g_i` the
    gradient of the mean loss over all data; ``centered=False`` leaves :math:`\bar g` out (the
    second moment, which is larger by :math:`\bar g \bar g^T`: far from a minimum an outlier).

    - per="example": :math:`g_i` of the mean loss of example i, all of its positions together,
      and :math:`w_i = 1/N`. (Positions weigh the same in all examples; where their number differs,
      an example's gradient is its share of the whole.)
    - per="batch": :math:`g_i` of the mean loss of batch i of the data's own cut into M batches,
      weighted by its terms: :math:`w_i = N_i/N`, which is 1/M for equal batches. (Unweighted, the
      mean of ragged batches would not be the gradient.) `gram` gives its spectrum exactly.

    For batches of b examples drawn without replacement the second is on average
    :math:`\frac1b \frac{N-b}{N-1}` times the first.

    Args:
        model: as for `Curvature`.
        loss: as for `Curvature`.
        data: as for `Curvature`; with per="batch" its batches are what is compared.
        per: whose gradients.
        centered: whether the mean is subtracted.
        **options: those of `Curvature`.

    Raises:
        ValueError: ``per`` is unknown.

    Cost: per example as for the `GGN`, and one pass for the mean; per batch one gradient pass for
    any number of columns, and one for the mean.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: LossLike,
        data: DataLike,
        *,
        per: Literal["example", "batch"] = "example",
        centered: bool = True,
        **options: Any,
    ) -> None:
        if per not in ("example", "batch"):
            raise ValueError(f'per={per!r} is unknown; expected "example" or "batch"')
        self.per = per
        self.centered = centered
        self._moment: Tensor | None = None
        super().__init__(model, loss, data, **options)

    def __repr__(self) -> str:
        start = f'GradientCovariance(per="{self.per}", centered={self.centered}, '
        return super().__repr__().replace("GradientCovariance(", start, 1)

    def gram(self) -> Tensor:
        r"""The small matrix :math:`X X^T` with rows :math:`\sqrt{w_i} (g_i - \bar g)`.

        Its non-zero eigenvalues are those of the covariance :math:`X^T X`.

        Returns:
            ``[M, M]`` float64 for M batches.

        Raises:
            ValueError: gradients are per example (those are batches with ``batch_size=1``), or
                the data is divided among processes.

        Cost: one gradient pass; memory for M gradients.
        """
        return _gram(self._rows_of_batches())

    def eigenvalues(self) -> Tensor:
        """All eigenvalues that may differ from zero, ``[min(M, P)]`` float64, descending.

        Returns:
            The eigenvalues of `gram`; the other P - M of the covariance are zero.

        Cost: that of `gram`.
        """
        values: Tensor = torch.linalg.eigvalsh(self.gram()).flip(0).clamp(min=0)
        return values[: self.shape[0]]

    def eigenpairs(self, k: int | None = None) -> Eigenpairs:
        """The k largest eigenvalues and their vectors, through `gram`.

        Args:
            k: how many, at most the rank; None means all up to the rank.

        Returns:
            `Eigenpairs`, with the residuals of a real product.

        Raises:
            ValueError: k is out of range, or there is no `gram`.

        Cost: that of `gram`, one pass to verify, and memory for M + k vectors.
        """
        start = time.perf_counter()
        rows = self._rows_of_batches()
        values, weights = torch.linalg.eigh(_gram(rows))
        values, weights = values.flip(0), weights.flip(1)
        rounding = torch.finfo(self.dtype).eps * len(values) * values[0]
        rank = min(int((values > rounding).sum()), self.shape[0])
        k = rank if k is None else k
        if not 0 <= k <= rank:
            raise ValueError(
                f"k={k} is out of range: the gradients of {len(values)} batches have a covariance "
                f"of rank {rank}, expected 0 <= k <= {rank}"
            )
        values = values[:k]
        vectors = rows.T @ (weights[:, :k] / values.sqrt()).to(self.dtype)
        largest = vectors.abs().argmax(0, keepdim=True) if k else vectors[:1].long()
        vectors = vectors * vectors.gather(0, largest).sign()
        errors = ((self @ vectors).double() - vectors.double() * values).norm(dim=0)
        rtol = torch.finfo(self.dtype).eps ** 0.5
        return Eigenpairs(
            values=values,
            vectors=vectors,
            residuals=errors,
            converged=errors <= rtol * values[:1],
            products=k,
            seconds=time.perf_counter() - start,
            seed=0,
        )

    def _depends_on_cut(self) -> bool:
        return self.per == "batch" or super()._depends_on_cut()

    def _matmat(self, V: Tensor) -> Tensor:
        if self.per == "batch":
            centre = self._first_moment()[0] if self.centered else None
            return self._overall(
                lambda: self._mean(lambda x, y: self._between(x, y, V, centre)), V.shape, V
            )
        gradient, examples_per_term = self._first_moment()
        product = super()._matmat(V) * examples_per_term
        if self.centered:
            product -= gradient.unsqueeze(1) * (gradient @ V)
        return product

    def _traced_product(self, traced: Traced, V: Tensor) -> tuple[Tensor, int]:
        if self.per == "batch":
            raise Untraceable("a product needs one gradient of each batch")
        return super()._traced_product(traced, V)

    def _batch_product(
        self, x: Tensor, y: Tensor, V: Tensor, number: int = 0
    ) -> tuple[Tensor, int]:
        """The part of the uncentred matrix, in units of terms."""
        if self.per == "batch":
            return self._between(x, y, V, None)
        return super()._batch_product(x, y, V, number)

    def _output_data(self, number: int, outputs: Tensor, y: Tensor) -> Tensor:
        return self._loss.gradient(outputs, y)

    def _output_product(self, outputs: Tensor, u: Tensor, y: Tensor) -> Tensor:
        # y are the loss gradients r of _output_data: each example contributes r (r.u).
        inner = (y * u).reshape(len(y), -1).sum(1)
        return y * inner.view(-1, *[1] * (y.ndim - 1))

    def _between(
        self, x: Tensor, y: Tensor, V: Tensor, centre: Tensor | None
    ) -> tuple[Tensor, int]:
        total, terms = self._batch_gradient(x, y)
        apart = total / terms if centre is None else total / terms - centre.unsqueeze(1)
        return terms * (apart @ (apart.T @ V)), terms

    def _first_moment(self) -> tuple[Tensor, Tensor]:
        """The gradient of the mean loss ``[P]``, and examples per term of that mean; kept."""
        if self._moment is None:

            def contribution(x: Tensor, y: Tensor) -> tuple[Tensor, int]:
                total, terms = self._batch_gradient(x, y)
                return torch.cat([total, total.new_full((1, 1), len(x))]), terms

            shape = (self.shape[0] + 1, 1)
            self._moment = self._overall(lambda: self._mean(contribution), shape).squeeze(1)
        return self._moment[:-1], self._moment[-1]

    def _rows_of_batches(self) -> Tensor:
        r"""The rows :math:`\sqrt{w_i} (g_i - \bar g)`, ``[M, P]``."""
        if self.per != "batch":
            raise ValueError(
                'the small Gram matrix is one of mini-batches: build the operator with per="batch" '
                "(and batch_size=1 for the gradients of examples)"
            )
        if self._ranks.together:
            raise ValueError(
                "the small Gram matrix takes the gradients of all batches in one process, and each "
                "process of process_group has only its own; build the operator without a group, or "
                "take eigenpairs from products with hesslab.linalg.eigsh"
            )
        rows: list[Tensor] = []
        counts: list[int] = []

        def keep(x: Tensor, y: Tensor) -> tuple[Tensor, int]:
            total, terms = self._batch_gradient(x, y)
            rows.append(total.squeeze(1) / terms)
            counts.append(terms)
            return total, terms

        mean = self._mean(keep).to(self.dtype).squeeze(1)
        apart = torch.stack(rows)
        if self.centered:
            apart -= mean
        weights = torch.tensor(counts, dtype=torch.float64, device=self.device)
        return apart.mul_((weights / weights.sum()).sqrt().to(self.dtype).unsqueeze(1))

    def _forget(self) -> None:
        super()._forget()
        self._moment = None


def _gram(rows: Tensor) -> Tensor:
    """Inner products of all rows in float64, without a float64 copy of all of them."""
    pieces = rows.split(1 << 16, dim=1)
    return torch.stack([(p := piece.double()) @ p.T for piece in pieces]).sum(0)
