"""The derivative of a network's outputs, and the tangent kernel: matrices that need no loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from hesslab.data import DataLike
from hesslab.errors import NotFinite
from hesslab.linalg.matrix import all_finite
from hesslab.operators.base import Operator
from hesslab.operators.ggn import GaussNewton
from hesslab.operators.plan import Plan
from hesslab.operators.space import Space


class Jacobian(Operator):
    r"""The Jacobian J of all outputs, ``[N C, P]``, as a matrix that multiplies.

    Row :math:`(n, c)` is :math:`\nabla_\theta f_c(x_n; \theta)`; rows stand in the order of the
    data, those of one example together (outputs ``[N, ..., C]`` flattened). ``J @ v`` takes what
    `Operator` takes and gives ``[N C]``, ``J.T @ u`` gives ``[P]``.

    Args:
        model: as for `Curvature`.
        data: a tensor of inputs ``[N, ...]``, or data as for `Curvature`, whose targets play no
            part.
        **options: those of `Curvature`, but for ``process_group``, since rows are of one process,
            and ``block_size="calibrate"``.

    Raises:
        ValueError: model and data do not fit together, or an output depends on other examples.
        NotFinite: a parameter, an input or a product is NaN or infinite.

    Cost: a pass forward (with its derivative) for each column of ``J @ V``; for ``J.T @ U`` a
    forward pass, and a backward pass for each column. Memory: the outputs of all data.

    >>> import hesslab as hl, torch
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> J = hl.Jacobian(model, torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    >>> J @ torch.tensor([1.0, 1.0])  # the outputs x w are linear in w: J is x
    tensor([1., 2.])
    """

    def __init__(self, model: nn.Module, data: DataLike | Tensor, **options: Any) -> None:
        if options.get("process_group"):
            raise ValueError(
                "process_group is given, but the rows of a Jacobian are the outputs of all the "
                "data, and each process has only a shard of it; leave the group out and build it "
                "on all the data, or take products J^T M J with a GGN or Fisher"
            )
        if options.get("block_size") == "calibrate":
            raise ValueError(
                'block_size="calibrate" is of a Hessian or a GGN; give a number or None'
            )
        if isinstance(data, Tensor):
            if data.ndim == 0:
                raise ValueError("the inputs have no dimension; expected [N, ...]")
            data = (data, torch.zeros(len(data), device=data.device))
        self._gram = _OutputGram(model, data, **options)
        columns = self._gram._columns
        rows = Space(self._gram.outputs(), columns.dtype, columns.device, what="outputs")
        super().__init__(columns, rows)

    def __repr__(self) -> str:
        return (
            f"Jacobian({self._rows!r} by {self._columns!r}, {self.dtype} on {self.device}, "
            f"{self.plan})"
        )

    @property
    def plan(self) -> Plan:
        """The route that products take, and why."""
        return self._gram.plan

    def _matmat(self, V: Tensor) -> Tensor:
        return self._gram.push(V)

    def _rmatmat(self, U: Tensor) -> Tensor:
        return self._gram.pull(U)

    def _restrict(self, names: Sequence[str]) -> Jacobian:
        other = object.__new__(Jacobian)
        other._gram = cast("_OutputGram", self._gram._restrict(names))
        Operator.__init__(other, other._gram._columns, self._rows)
        return other


class NTK(Operator):
    r"""The neural tangent kernel :math:`J J^T`, ``[N C, N C]``, of all outputs of the data.

    It shares its non-zero eigenvalues with :math:`J^T J`, which for a `GaussianLikelihood` is N
    times the noise variance times the `GGN`. Rows and arguments are those of `Jacobian`. A
    restriction is the kernel of some of the parameters.

    Cost: one product with the Jacobian's transpose, then one with the Jacobian: two passes.
    Source: Jacot, Gabriel and Hongler (2018), Neural tangent kernel.
    """

    def __init__(self, model: nn.Module, data: DataLike | Tensor, **options: Any) -> None:
        self.jacobian = Jacobian(model, data, **options)
        super().__init__(self.jacobian._rows)

    def __repr__(self) -> str:
        return (
            f"NTK({self._rows!r}, of {self.jacobian._columns!r}, {self.dtype} on {self.device}, "
            f"{self.jacobian.plan})"
        )

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The names of the parameters whose kernel it is."""
        return self.jacobian.parameter_names

    def _matmat(self, V: Tensor) -> Tensor:
        return self.jacobian._matmat(self.jacobian._rmatmat(V))

    def restrict(self, parameters: str | Sequence[str]) -> NTK:
        """The kernel of some parameters, the others held fixed.

        Args:
            parameters: names or shell patterns, such as ``"layer3.*"``.

        Returns:
            A kernel of the same shape.

        Raises:
            ValueError: a name or pattern matches no parameter.
        """
        other = object.__new__(NTK)
        other.jacobian = self.jacobian._restrict(self.jacobian._columns.choose(parameters))
        Operator.__init__(other, self._columns)
        return other


class _Outputs:
    """In the place of a loss: the sum of all outputs, whose Gauss-Newton matrix is J^T J."""

    def __repr__(self) -> str:
        return "no loss"

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        pass

    def count(self, outputs: Tensor) -> int:
        return outputs.numel()

    def sum(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.sum()

    def mean(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.mean()

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.ones_like(outputs)

    def hessian_product(self, outputs: Tensor, u: Tensor, targets: Tensor | None = None) -> Tensor:
        return torch.zeros_like(u)


class _OutputGram(GaussNewton):
    """J^T J over the number of outputs: it brings the checks at construction, and both halves."""

    def __init__(self, model: nn.Module, data: DataLike, **options: Any) -> None:
        self._sizes: dict[torch.Size, int] = {}
        super().__init__(model, _Outputs(), data, **options)

    def _output_product(self, outputs: Tensor, u: Tensor, y: Tensor) -> Tensor:
        return u

    def outputs(self) -> int:
        """N C, from a pass over the data with one evaluation for each shape of a batch."""
        total = 0
        with self._recording(), torch.no_grad():
            for x, _ in self._batches:
                total += self._size(x)
        return total

    def _size(self, x: Tensor) -> int:
        """B C of a batch, evaluated for the first of each shape."""
        if x.shape not in self._sizes:
            with torch.no_grad():
                self._sizes[x.shape] = self._network.outputs(self._network.point, x).numel()
        return self._sizes[x.shape]

    def push(self, V: Tensor) -> Tensor:
        """J V, ``[N C, K]``: the rows of one batch after those of the other."""
        product = self._by_trace(lambda traced: traced.push(V))
        if product is not None and all_finite(product):
            return product
        pieces = []
        with self._recording():
            for number, (x, _) in enumerate(self._batches):
                rows = V.new_zeros(self._size(x), V.shape[1])
                for k in range(V.shape[1]):
                    rows[:, k] = self._push(x, V[:, k]).reshape(-1)
                if not all_finite(rows):
                    raise NotFinite(
                        f"the change of the outputs of batch {number} is NaN or infinite; look at "
                        "its inputs, or take the product in float64 if it overflowed"
                    )
                pieces.append(rows)
        return torch.cat(pieces)

    def pull(self, U: Tensor) -> Tensor:
        """J^T U, ``[P, K]``: each batch takes its rows of U."""
        product = self._by_trace(lambda traced: traced.pull(U))
        if product is not None and all_finite(product):
            return product.to(self.dtype)
        start = 0

        def contribution(x: Tensor, y: Tensor) -> tuple[Tensor, int]:
            nonlocal start
            leaves, outputs = self._forward(x, y)
            count = outputs.numel()
            block = U[start : start + count].T.reshape(U.shape[1], *outputs.shape)
            start += count
            product = U.new_zeros(self.shape[0], len(block))
            for k, u in enumerate(block):
                product[:, k] = self._pull(leaves, outputs, u, again=k + 1 < len(block))
            return product, count

        # A sum: the mean over outputs times their number.
        return (self._mean(contribution) * len(U)).to(self.dtype)
