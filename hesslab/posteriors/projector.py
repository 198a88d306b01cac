"""The projector onto the parameter directions that no training output notices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from hesslab.data import Batches, DataLike, as_batches
from hesslab.losses import LossLike, as_loss
from hesslab.operators.kernels import differentiable_kernels
from hesslab.operators.network import Network


class NullSpaceProjector:
    r"""The orthogonal projector onto the null space of the output Jacobian over a data set.

    With :math:`J` the derivative of all N C training outputs with respect to the P parameters and
    :math:`J = U S V^T` its singular value decomposition, the directions with
    :math:`s_i^2 > \text{rtol}\, s_1^2` are *constrained*; all others are *null*:
    :math:`P_{null} = I - V_{con} V_{con}^T`. Moving along a null direction leaves every training
    output where it is, to first order (up to what the threshold lets through).

    Args:
        model: as for `hesslab.operators.Hessian`; evaluated at its present parameters.
        loss: of the model; the posterior takes from it how outputs become predictions.
        data: the examples whose outputs are to stay: a `Dataset`, tensors or fixed batches.
        constraint: "output" keeps all C outputs of each example.
        solver: "dense" decomposes J (exact); "auto" chooses "dense".
        rtol: threshold on squared singular values, relative to the largest. Below 1e-12 the
            result is rounding noise in float64, below 1e-6 in float32.
        parameters: names or patterns of the parameters that may move; None means those that
            require a gradient.
        batch_size: examples per batch while J is computed.
        memory_limit: bytes; a larger problem is refused before its Jacobian is computed.

    Attributes:
        eigenvalues: squared singular values :math:`s_i^2`, float64, descending,
            ``[min(N C, P)]``: the non-zero eigenvalues of :math:`J^T J`.
        rank: number of constrained directions R; the null space has P - R dimensions.

    Raises:
        ValueError: an unknown constraint or solver, a threshold out of range, no memory.

    Cost: C backward passes over the data and :math:`O(N C P \min(N C, P))` flops; memory about
    ``24 N C P`` bytes.
    Source: Miani, Roy and Hauberg (2025), Bayes without underfitting, section 3.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: LossLike,
        data: DataLike,
        *,
        constraint: Literal["output"] = "output",
        solver: Literal["auto", "dense"] = "auto",
        rtol: float = 1e-6,
        parameters: str | Sequence[str] | None = None,
        batch_size: int = 128,
        memory_limit: float = 4e9,
    ) -> None:
        if constraint != "output":
            raise ValueError(f'constraint={constraint!r}; expected "output"')
        if solver not in ("auto", "dense"):
            raise ValueError(f'solver={solver!r}; expected "auto" or "dense"')
        if not 0 <= rtol < 1:
            raise ValueError(f"rtol={rtol} is out of range: expected 0 <= rtol < 1")
        self.network = Network(model, parameters)
        self.loss = as_loss(loss)
        batches = as_batches(
            data, batch_size=batch_size, device=self.network.device, dtype=self.network.dtype
        )
        jacobian = _jacobian(self.network, batches, memory_limit)
        _, singular, rows = torch.linalg.svd(jacobian, full_matrices=False)
        self.eigenvalues = singular.square()
        self._rows = rows
        self._size = self.network.size
        self._set_threshold(rtol)

    def __repr__(self) -> str:
        return (
            f"NullSpaceProjector({self._size} parameters: {self.rank} constrained, "
            f"{self.null_dimension} null at rtol {self.rtol:g})"
        )

    @property
    def null_dimension(self) -> int:
        """P - R, how many dimensions the null space has."""
        return self._size - self.rank

    def at(self, rtol: float) -> NullSpaceProjector:
        """The projector of another threshold, from the same decomposition (no cost).

        Args:
            rtol: the new threshold, 0 <= rtol < 1.

        Returns:
            A new projector that shares the decomposition.

        Raises:
            ValueError: rtol is out of range.
        """
        if not 0 <= rtol < 1:
            raise ValueError(f"rtol={rtol} is out of range: expected 0 <= rtol < 1")
        other = object.__new__(NullSpaceProjector)
        other.__dict__.update(self.__dict__)
        other._set_threshold(rtol)
        return other

    def project(self, v: Tensor) -> Tensor:
        """Remove all constrained directions from ``v``.

        Args:
            v: ``[P]`` or ``[P, K]``, of any floating dtype, in the order of the model's parameters.

        Returns:
            The projected vectors, of the shape and dtype of ``v``.

        Raises:
            ValueError: ``v`` has not P rows.
        """
        if v.ndim not in (1, 2) or v.shape[0] != self._size:
            raise ValueError(
                f"v has shape {tuple(v.shape)}, but the projector has {self._size} parameters; "
                "expected [P] or [P, K]"
            )
        w = v.double()
        for _ in range(2):  # the second pass removes what the first leaves by rounding
            w = w - self._constrained.T @ (self._constrained @ w)
        return w.to(v.dtype)

    def to_dense(self) -> Tensor:
        """The projector as a matrix ``[P, P]`` in float64."""
        eye = torch.eye(self._size, dtype=torch.float64, device=self._rows.device)
        return self.project(eye)

    def _set_threshold(self, rtol: float) -> None:
        kept = self.eigenvalues > rtol * self.eigenvalues[0]
        self.rtol = rtol
        self.rank = int(kept.sum())
        self._constrained = self._rows[: self.rank]


def _jacobian(network: Network, batches: Batches, memory_limit: float) -> Tensor:
    """The stacked output Jacobian ``[N C, P]`` in float64, checked against one forward product."""
    pieces, changes = [], []
    P = network.size
    v = torch.randn(P, generator=torch.Generator().manual_seed(0)).to(network.device, network.dtype)
    direction = network.split(v)
    needed = 0.0
    with torch.inference_mode(False), torch.no_grad(), differentiable_kernels():
        for x, _ in batches:
            needed += 24.0 * len(x) * network.outputs(network.point, x[:1]).numel() * P
            if needed > memory_limit:
                raise ValueError(
                    f"the dense null space needs more than {needed / 1e9:.1f} GB for the Jacobian "
                    f"of the data's outputs by {P} parameters; the limit is "
                    f"{memory_limit / 1e9:.1f} GB: take a subset of the data, fewer parameters, "
                    "or raise memory_limit"
                )
            rows, change = _batch_jacobian(network, x, direction)
            pieces.append(rows)
            changes.append(change)
    jacobian = torch.cat(pieces)
    change = torch.cat(changes)
    error = float((jacobian @ v.double() - change).norm() / change.norm().clamp_min(1e-300))
    if not error < 1e-3:
        raise ValueError(
            f"the Jacobian disagrees with a directional derivative by {error:.1e} of its norm: an "
            "output depends on other examples of its batch, or a layer has a wrong derivative"
        )
    return jacobian


def _batch_jacobian(
    network: Network, x: Tensor, direction: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Rows ``[B C, P]`` and the directional derivative ``[B C]``."""

    def single(point: dict[str, Tensor], one: Tensor) -> Tensor:
        return network.outputs(point, one.unsqueeze(0)).reshape(-1)

    _, change = network.linearised(x, direction)
    blocks = torch.func.vmap(torch.func.jacrev(single), in_dims=(None, 0))(network.point, x)
    rows = math.prod(change.shape)
    joined = torch.cat([block.reshape(rows, -1) for block in blocks.values()], dim=1)
    return joined.double(), change.reshape(-1).double()
