"""What the Hessian and the GGN share: a network, a loss and data, summed batch by batch."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Literal, TypeVar

import torch
from torch import Tensor, nn

from hesslab.data import Batches, DataLike, as_batches
from hesslab.errors import NotFinite
from hesslab.linalg.matrix import all_finite
from hesslab.losses import LossLike, as_loss
from hesslab.operators.base import Operator
from hesslab.operators.checks import check_mean
from hesslab.operators.engine.graph import Untraceable
from hesslab.operators.engine.traced import Kind, Traced
from hesslab.operators.examples import Examples
from hesslab.operators.group import Ranks, Traits, device_of, is_empty, traits
from hesslab.operators.kernels import differentiable_kernels
from hesslab.operators.network import Network
from hesslab.operators.norms import BatchNormMode
from hesslab.operators.plan import Mode, Plan, seconds_a_column
from hesslab.operators.precision import full_precision

if TYPE_CHECKING:  # a torch without torch.distributed lacks the name
    from torch.distributed import ProcessGroup

Result = TypeVar("Result")
BATCH = 512  # examples at once, unless they are images on the CPU
CHECKED = 8  # examples of the first batch that the checks at construction look at


class Curvature(Operator):
    r"""A second-derivative matrix of the mean loss over data, bound to one parameter point.

    :math:`L(\theta) = \frac1N \sum_n \ell(f(x_n; \theta), y_n)`. Subclasses say what a batch
    contributes to a product. The data is gone through once per product or block of products
    (*streaming*): memory does not grow with it. The network is traced once for each shape of batch,
    and what does not depend on the vector is kept from product to product if it fits
    (`mode`); a network that cannot be traced is differentiated by autograd.

    Args:
        model: any module without active dropout. Its parameters, buffers, gradients and modes
            are never changed, and training it later moves no operator.
        loss: one of `hesslab.losses`, ``torch.nn.CrossEntropyLoss()``, ``MSELoss()`` or a callable
            ``(outputs, targets) -> scalar mean``.
        data: a `Dataset`, a pair of tensors, or batches in a fixed order.
        parameters: names or shell patterns of the parameters to differentiate by, such as
            ``"layer3.*"``; None means those that require a gradient.
        batchnorm: where BatchNorm modules take their mean and variance from, whatever their
            train/eval mode. "running": their running statistics, as constants. "batch": the
            statistics of each batch, differentiated through; L is then another function for each
            way of cutting the data into batches (`partition`), and one pass over the data (without
            the network) finds that out. "population": mean and biased variance over all the data,
            recomputed at this point for norm after norm, then constants of the product: they are
            not differentiated through, so that this is neither the Hessian of a loss with moving
            statistics nor that of training with full batches. It costs as many passes as there are
            norms, each of the forward up to the norm (one pass if the data is one batch). None:
            running statistics, and a module in training mode is an error.
        batch_size: examples per batch, where the data does not come in batches. None means 512, but
            fewer for convolutions on the CPU that can be traced, by a fixed rule: their largest
            activation takes 2 MiB a thread, unless parameters would be read too often. Where the
            matrix depends on how the data is cut, None means 512.
        mode: "stream" goes through the data in each product; "cache" keeps what does not depend on
            the vector; "auto" streams the first product and caches from then on, if that fits
            `memory_limit`. Where it does not, what is cheapest to compute again is left out.
        memory_limit: bytes that may be kept; None means a quarter of the device's memory. What
            exceeds it on a CUDA device waits in that of the host, within the same limit.
        block_size: at most so many columns of a block are multiplied at once, which takes memory;
            None leaves it to the shapes, by a fixed rule. "calibrate" tries some numbers at the
            first product of a block and takes the fastest: two runs may then round differently.
        allow_tf32: leave float32 arithmetic as the process has it. False computes in full: TF32
            rounds each factor to 10 bits, a relative error of 1e-3 of a product.
        compile: give what is repeated in each product to torch.compile, which takes up to minutes
            once for each shape of batch, and compare it with the plain form at its first call. It
            gains nothing for convolutions on the CPU. Products of blocks are not compiled.
        process_group: True (all processes) or a group of torch.distributed, where each process has
            the same model and a shard of the data (``x[rank::size]``, say), of any size or none.
            All take the same products of the same vectors, and get the same results, those of all
            the data. What one raises, all raise. Where one dies, the others end with an error,
            after the group's timeout at the latest: it must be longer than the product of a shard.
            ``batchnorm="population"`` needs all the data in one process.

    Attributes:
        plan: the route that products take, and why.
        batchnorm: the choice above.
        allow_tf32: the choice above.

    Raises:
        NotDeterministic: two products on the first examples differ; the message names the cause.
        MemoryError: ``mode="cache"``, and what is to be kept exceeds `memory_limit`; raised by the
            first product, or by the second where the first batch is much smaller than others.
        NotFinite: a parameter, an input or a target is NaN or infinite.
        ValueError: model, loss and data do not fit together, the mean loss is no mean over
            examples, or the matrix is not symmetric, since a layer has a wrong second derivative.
    """

    _network: Network
    _kind: Kind = "gauss-newton"

    def __init__(
        self,
        model: nn.Module,
        loss: LossLike,
        data: DataLike,
        *,
        parameters: str | Sequence[str] | None = None,
        batchnorm: BatchNormMode | None = None,
        batch_size: int | None = None,
        mode: Mode = "auto",
        memory_limit: int | None = None,
        block_size: int | Literal["calibrate"] | None = None,
        allow_tf32: bool = False,
        compile: bool = False,
        process_group: ProcessGroup | bool | None = None,
    ) -> None:
        self._ranks = Ranks(process_group, device_of(model))
        with self._ranks.starting(self._traits):
            self.plan = Plan(mode, memory_limit, block_size)
            self._network = Network(model, parameters, batchnorm=batchnorm)
            super().__init__(self._network.point)
            self.batchnorm = batchnorm
            self.allow_tf32 = allow_tf32
            self._compile = compile
            self._loss = as_loss(copy.deepcopy(loss) if isinstance(loss, nn.Module) else loss)
            data = [] if self._ranks.together and is_empty(data) else data
            self._batches = as_batches(
                data,
                batch_size=BATCH if batch_size is None else batch_size,
                device=self.device,
                dtype=self.dtype,
            )
            self._batch_size = batch_size
            self._partition: tuple[int, ...] | None = None
            self._terms = 0  # of the mean, in this process; known once it has gone through its data
            self._prepare_norms()
            self._is_empty = self._ranks.together and next(iter(self._batches), None) is None
            if self._is_empty:
                self.plan.untraced("this rank has no data")
            else:
                self._check_first_batch()

    def __repr__(self) -> str:
        norms = f", batchnorm={self.batchnorm!r}" if self.batchnorm else ""
        if self._network.depends_on_batch:
            runs = [(size, len(list(run))) for size, run in itertools.groupby(self.partition)]
            norms += f" over batches of {' + '.join(f'{n} x {size}' for size, n in runs)}"
        return (
            f"{type(self).__name__}({self.shape[0]} parameters ({self._name_list()}), "
            f"{self._loss}, {self.dtype} on {self.device}{norms}"
            f"{', allow_tf32' if self.allow_tf32 else ''}, {self.plan}"
            f"{f', {self._ranks!r}' if self._ranks.together else ''})"
        )

    @property
    def partition(self) -> tuple[int, ...]:
        """Examples in each batch of this process. Cost: at first a pass over the data alone."""
        if self._partition is None:
            self._partition = tuple(len(x) for x, _ in self._batches)
        return self._partition

    def gradient(self) -> Tensor:
        """The gradient of the mean loss over all data, ``[P]``. Cost: one pass."""
        shape = (self.shape[0], 1)
        return self._overall(lambda: self._mean(self._batch_gradient), shape).squeeze(1)

    def _matmat(self, V: Tensor) -> Tensor:
        return self._overall(lambda: self._product_here(V), V.shape, V)

    def _overall(
        self, here: Callable[[], Tensor], shape: Sequence[int], V: Tensor | None = None
    ) -> Tensor:
        """The mean over all data, of ``shape``, from the mean over this process's data."""

        def shard() -> tuple[Tensor, int]:
            return (torch.zeros(()), 0) if self._is_empty else (here(), self._terms)

        with torch.inference_mode(False):
            return self._ranks.mean(shard, shape, V).to(self.dtype)

    def _product_here(self, V: Tensor) -> Tensor:
        """The product with the matrix of this process's data alone."""
        if self.plan.uncalibrated and V.shape[1] > 1:
            self._by_trace(lambda traced: self.plan.calibrated(self._seconds_a_column(V)))
        found = self._by_trace(lambda traced: self._traced_product(traced, V))
        # Where the product is not finite, autograd finds the batch.
        if found is None or not all_finite(found[0]):
            return self._eager_product(V)
        product, self._terms = found
        return product

    def _traced_product(self, traced: Traced, V: Tensor) -> tuple[Tensor, int]:
        """The product with ``V`` ``[P, K]`` by graphs, and the number of terms of the mean."""
        raise NotImplementedError

    def _seconds_a_column(self, V: Tensor) -> dict[int, float]:
        """The time of a column of a product that reads its residuals, by columns at once."""
        first = self._batches.first()

        def started(width: int) -> Callable[[Tensor], Tensor]:
            trial = Traced(self._network, self._loss, [first], block_size=width)
            trial.keep = True
            return lambda columns: self._traced_product(trial, columns)[0]

        return seconds_a_column(started, V)

    def _eager_product(self, V: Tensor) -> Tensor:
        return self._mean(lambda x, y: self._batch_product(x, y, V))

    def _by_trace(self, product: Callable[[Traced], Result]) -> Result | None:
        """What a product gives by graphs; None where the network cannot be traced."""
        if self.plan.traced is None:
            return None
        with self._recording(), torch.no_grad(), self.plan.lock:
            try:
                self.plan.decide(lambda: sum(self.partition), self._batches.first, self._kind)
                result = product(self.plan.traced)
                self.plan.review()
                return result
            except Untraceable as error:
                self.plan.untraced(str(error))
                return None

    def _forget(self) -> None:
        self.plan = self.plan.renewed(self._network)

    def _batch_product(self, x: Tensor, y: Tensor, V: Tensor) -> tuple[Tensor, int]:
        """The sum over a batch times ``V`` ``[P, K]``, and the number of its terms."""
        raise NotImplementedError

    def _batch_gradient(self, x: Tensor, y: Tensor) -> tuple[Tensor, int]:
        leaves, outputs = self._forward(x, y)
        u = self._loss.gradient(outputs.detach(), y)
        pulled = self._pull(leaves, outputs, u, again=False)
        return pulled.unsqueeze(1), self._loss.count(outputs)

    def _pull(
        self, leaves: dict[str, Tensor], outputs: Tensor, u: Tensor, *, again: bool
    ) -> Tensor:
        """J^T u: ``[P]`` from ``u`` of the outputs' shape; ``again`` keeps the graph."""
        if not outputs.requires_grad:  # no chosen parameter plays a part
            return torch.cat([torch.zeros_like(leaf).reshape(-1) for leaf in leaves.values()])
        pieces = torch.autograd.grad(
            outputs, list(leaves.values()), u, retain_graph=again, materialize_grads=True
        )
        return self._join(pieces)

    def _forward(self, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Fresh leaves at the point, and the checked outputs of a batch as a function of them."""
        leaves = self._network.leaves()
        outputs = self._network.outputs(leaves, x)
        self._loss.check(outputs, y)
        return leaves, outputs

    def _mean(self, contribution: Callable[[Tensor, Tensor], tuple[Tensor, int]]) -> Tensor:
        """The mean of a contribution over the batches of this process, summed in float64."""
        total: Tensor | None = None
        terms = 0
        with self._recording():
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
        self._terms = terms
        return total / terms

    def _join(self, pieces: Sequence[Tensor]) -> Tensor:
        return torch.cat([piece.detach().reshape(-1) for piece in pieces])

    @contextmanager
    def _recording(self) -> Iterator[None]:
        """Autograd records here, whatever the caller has switched off, in full precision."""
        precision = nullcontext() if self.allow_tf32 else full_precision(self.device)
        with torch.inference_mode(False), torch.enable_grad(), differentiable_kernels(), precision:
            yield

    def _traits(self) -> Traits:
        """What the processes of a group must have in common: what is meant, not how it is run."""
        public = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        for how in ("plan", "device"):
            del public[how]
        return traits(
            {"the kind of matrix": type(self).__name__, "the parameters": self._columns}
            | {"the loss": self._loss, **public},
            self._network,
        )

    def _prepare_norms(self) -> None:
        if self.batchnorm == "population" and self._ranks.together:
            raise ValueError(
                'batchnorm="population" takes the statistics of all the data, of which each '
                "process of process_group has only a shard; choose another, or leave out the group"
            )
        if self.batchnorm == "population":
            with self._recording():
                self._network.measure_population(self._batches, single=len(self.partition) == 1)
        if self._network.depends_on_batch and 1 in self.partition:
            x, _ = self._batches.first()
            with self._recording(), torch.no_grad():
                self._network.outputs(self._network.point, x[:1])  # a norm may refuse it

    def _check_first_batch(self) -> None:
        """Hold a few examples to what every product relies on: fixed, symmetric, a sum."""
        generator = torch.Generator().manual_seed(0)
        v = torch.randn(self.shape[0], generator=generator).to(self.device, self.dtype)
        with self._recording():
            x, y = self._batches.first()
            examples = Examples(self, x[:CHECKED], y[:CHECKED], v)
            self._batches.first()  # refused, if it is another one
        if all_finite(examples.AV):  # otherwise the first product says where
            examples.check()
            self._check_mean()
            self._start(examples, x)

    def _check_mean(self) -> None:
        network = self._network
        with self._recording(), torch.no_grad():
            check_mean(self._loss, lambda x: network.outputs(network.point, x), self._batches)

    def _start(self, examples: Examples, x: Tensor) -> None:
        """Take the traced route if it gives what autograd gives for a few examples of a batch."""
        grown = len(x) / len(examples.x)
        reason = ""
        with self._recording(), torch.no_grad():
            for blocks in (True, False):
                try:
                    trial = examples.traced()
                    rows = trial.rows(examples.x) * grown
                    width = self.plan.columns(self.device, rows) if blocks else 1
                    trial.block_size = width
                    examples.hold(trial)
                    batches = self._cut(trial.images_at_once(examples.x))
                    parts = self._network, self._loss, batches
                    traced = Traced(*parts, block_size=width, compiled=self._compile)
                    traced.start(batches.like_first(x))
                except Exception as error:  # whatever a trace cannot do, autograd may
                    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                    continue
                if batches is not self._batches:
                    self._batches, self._partition = batches, None
                return self.plan.start(traced, "" if blocks else f"columns one by one: {reason}")
        return self.plan.untraced(reason)

    def _cut(self, images: int | None) -> Batches:
        """Smaller batches, if so many images at once are faster and the choice was left to us."""
        free = self._batch_size is None and self.device.type == "cpu" and not self._depends_on_cut()
        if free and images is not None and images < BATCH:
            return self._batches.cut(images)
        return self._batches

    def _depends_on_cut(self) -> bool:
        """Whether another way of cutting the data into batches gives another matrix."""
        return self._network.depends_on_batch
