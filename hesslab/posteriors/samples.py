"""Samples of a posterior, and what they predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hesslab.losses import CrossEntropy, Loss
from hesslab.operators.kernels import differentiable_kernels
from hesslab.operators.network import Network


@dataclass(frozen=True, eq=False)
class Samples:
    r"""Draws :math:`\theta + \delta_s` of a posterior around the trained parameters.

    Attributes:
        directions: :math:`\delta_s` as columns ``[P, S]``, in the order of the model's parameters.
        prior_precision: the precision that they were drawn with, 1 / parameter^2.
        relative_size: root mean square of :math:`\|\delta_s\| / \|\theta\|`; above about 0.5 the
            network itself (mode "network") is far from its linearisation.
        seed: of the draws.
        network: the trained network.
        loss: says how outputs become predictions.
    """

    directions: Tensor
    prior_precision: float
    relative_size: float
    seed: int
    network: Network
    loss: Loss

    def __repr__(self) -> str:
        P, S = self.directions.shape
        return (
            f"Samples({S} of {P} parameters, prior precision {self.prior_precision:.4g}, "
            f"relative size {self.relative_size:.3g}, seed {self.seed})"
        )

    def outputs(
        self, x: Tensor, *, mode: Literal["linearised", "network"] = "linearised"
    ) -> Tensor:
        r"""The outputs of every sample.

        "linearised": :math:`f(x; \theta) + J(x) \delta_s`, what the null-space guarantee speaks
        of. "network": :math:`f(x; \theta + \delta_s)`.

        Args:
            x: inputs ``[N, ...]``.
            mode: which of the two.

        Returns:
            ``[S, N, ...]``, without a graph.

        Raises:
            ValueError: an unknown mode.

        Cost: a forward pass per sample for "network", about two for "linearised".
        """
        if mode not in ("linearised", "network"):
            raise ValueError(f'mode={mode!r}; expected "linearised" or "network"')
        with torch.inference_mode(False), torch.no_grad(), differentiable_kernels():
            drawn = [self._output(x, delta, mode) for delta in self.directions.T]
        return torch.stack(drawn)

    def predict(
        self, x: Tensor, *, mode: Literal["linearised", "network"] = "linearised"
    ) -> Tensor:
        """What every sample predicts: class probabilities for a cross-entropy, else the outputs.

        A cross-entropy is `CrossEntropy` or ``torch.nn.CrossEntropyLoss``; what the outputs of
        another loss mean is not known here.

        Args:
            x: inputs ``[N, ...]``.
            mode: as for `outputs`.

        Returns:
            ``[S, N, C]``; for a cross-entropy the last dimension sums to one.
        """
        outputs = self.outputs(x, mode=mode)
        return outputs.softmax(-1) if isinstance(self.loss, CrossEntropy) else outputs

    def _output(self, x: Tensor, delta: Tensor, mode: str) -> Tensor:
        step = self.network.split(delta.contiguous())
        if mode == "network":
            moved = {name: value + step[name] for name, value in self.network.point.items()}
            return self.network.outputs(moved, x)
        outputs, change = self.network.linearised(x, step)
        return outputs + change
