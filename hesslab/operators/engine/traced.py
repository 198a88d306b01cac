"""Products over all batches by traced programs, and what is kept from one product to the next."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from hesslab.operators.engine.batch import NOTHING, Batch
from hesslab.operators.engine.columns import Pieces, join, split
from hesslab.operators.engine.graph import Untraceable
from hesslab.operators.engine.linear import Linear, memory
from hesslab.operators.engine.point import Mean, Point, fill
from hesslab.operators.engine.programs import program_of
from hesslab.operators.network import Network

SHAPES = 8  # of batches; more of them would be traced for longer than products take
Kind = Literal["hessian", "gauss-newton"]


class Traced:
    """A network at one point over batches.

    Args:
        network: at its point.
        loss: one of our losses.
        batches: pairs (x, y); gone through once a product unless residuals are kept.
        block_size: columns that are multiplied at once by ``torch.func.vmap``; 1 takes one after
            the other.
        compiled: whether products that read residuals go through torch.compile.

    Attributes:
        keep: the next product keeps its residuals for those after it.
        lean: what is kept leaves out the cotangents, which are then computed again.
        on_host: what is kept waits in the memory of the host, and comes back for each product.
        limit: bytes that may be kept; a pass that would keep more lets go of all.
        exceeded: the bytes at which that happened, or 0.
        seen: a product has gone through all data.
    """

    def __init__(
        self,
        network: Network,
        loss: Any,
        batches: Iterable[tuple[Tensor, Tensor]],
        *,
        block_size: int = 1,
        compiled: bool = False,
    ) -> None:
        self._network, self._loss, self._source = network, loss, batches
        self._points: dict[Any, Point] = {}
        self._kept: list[Batch] | None = None
        self.block_size = block_size
        self._compiled = compiled
        self.keep = self.lean = self.on_host = self.seen = False
        self.limit, self.exceeded = sys.maxsize, 0

    def __getstate__(self) -> dict[str, Any]:
        """A copy starts anew: graphs are found again by the model, or made from it."""
        started = dict.fromkeys(("keep", "lean", "on_host", "seen"), False)
        return {**vars(self), **started, "_points": {}, "_kept": None}

    def hessian(self, V: Tensor) -> tuple[Tensor, int]:
        """The Hessian of the mean of all terms times ``V`` ``[P, K]``; and the number of terms."""

        def contribution(batch: Batch, dq: list[Pieces]) -> tuple[Linear, Iterable[Pieces]]:
            linear = batch.point.hessian(self._loss, batch.y, lean=self.lean)
            return linear, self._hessian_of_batch(batch, linear, dq, self._in_blocks(V))

        return self._product(V, contribution, Point.pull_tangent)

    def _hessian_of_batch(
        self, batch: Batch, linear: Linear, dq: list[Pieces], block: bool
    ) -> Iterable[Pieces]:
        point, kept = batch.point, batch.residuals()
        fixed = (*point.q, batch.x, batch.y)
        wants_gradient = not self.seen and point.program.head_is_curved
        if kept is None and not self.keep and len(dq) == 1 and not block:
            if not wants_gradient:
                return [linear.once(*fixed, *dq[0])]
            both = linear.once_with_extra(*fixed, *dq[0])
            point.add_gradient(both[len(linear.places) :], self._terms(point))
            return [both[: len(linear.places)]]
        if kept is None and wants_gradient:
            both = linear.prepare_with_extra(*fixed)
            kept = both[: len(linear.kept)]
            point.add_gradient(both[len(linear.kept) :], self._terms(point))
        elif kept is None:
            kept = linear.prepare(*fixed)
        if self.keep:
            batch.keep(kept, on_host=self.on_host)
        return [linear.run(block, kept, tangent) for tangent in dq]

    def gauss_newton(
        self,
        V: Tensor,
        data: Callable[[int, Tensor, Tensor], Tensor],
        middle: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> tuple[Tensor, int]:
        """The mean of all ``J^T M J`` times ``V`` ``[P, K]``; and the number of terms.

        Args:
            V: of the network's device and dtype.
            data: what M reads besides the outputs, from batch number, outputs and targets.
            middle: M, summed over a batch, times a change of the outputs, from the outputs, the
                change and that data.

        Returns:
            ``[P, K]``, and the number of terms.
        """
        block = self._in_blocks(V)

        def contribution(batch: Batch, dq: list[Pieces]) -> tuple[Linear, Iterable[Pieces]]:
            jacobian = batch.point.program.jacobian
            first, second = self._linearised(batch)
            f = batch.outputs
            if batch.data is None:
                batch.data = data(batch.number, f, batch.y)
            products = []
            for tangent in dq:
                change = jacobian.change(block, first, tangent)
                rows = [middle(f, row, batch.data) for row in (change if block else [change])]
                u = (torch.stack(rows) if block else rows[0]) / self._terms(batch.point)
                products.append(jacobian.vjp.run(block, second, [u]))
            return jacobian.vjp, products

        return self._product(V, contribution, _pull)

    def push(self, V: Tensor) -> Tensor:
        """``J V``, ``[N C, K]``: the outputs of one batch after those of the other."""
        block = self._in_blocks(V)
        dp = self._columns(V)
        dq: dict[Point, list[Pieces]] = {}
        rows = []
        for batch in self._pass():
            point, jacobian = batch.point, batch.point.program.jacobian
            if point not in dq:
                dq[point] = [point.push(tangent, block) for tangent in dp]
            kept, _ = self._linearised(batch)
            changes = [jacobian.change(block, kept, tangent) for tangent in dq[point]]
            size = point.program.output.numel()
            rows.append(torch.cat([change.reshape(-1, size) for change in changes]).T)
        self.seen = True
        return torch.cat(rows)

    def pull(self, U: Tensor) -> Tensor:
        """``J^T U``, ``[P, K]``, for ``U`` ``[N C, K]``."""
        block = self._in_blocks(U)
        start = 0

        def contribution(batch: Batch, dq: list[Pieces]) -> tuple[Linear, Iterable[Pieces]]:
            nonlocal start
            output, jacobian = batch.point.program.output, batch.point.program.jacobian
            rows = U[start : start + output.numel()].T.reshape(-1, *output.shape)
            start += output.numel()
            _, kept = self._linearised(batch)
            chunks = rows.split(self.block_size) if block else rows
            return jacobian.vjp, [jacobian.vjp.run(block, kept, [chunk]) for chunk in chunks]

        mean, batches = self._product(
            U, contribution, _pull, weigh=lambda point: 1, directions=False
        )
        return mean if batches == 1 else mean * batches

    def _linearised(self, batch: Batch) -> tuple[Pieces, Pieces]:
        """The residuals of both directions of the Jacobian; the outputs stay with the batch."""
        jacobian = batch.point.program.jacobian
        values = batch.residuals() or jacobian.prepare(*batch.point.q, batch.x)
        *kept, batch.outputs = values
        if self.keep:
            batch.keep(values, on_host=self.on_host)
        cut = len(jacobian.jvp.kept)
        return kept[:cut], kept[cut:]

    def restricted(self, network: Network) -> Traced:
        """The same for the same function of fewer parameters."""
        return Traced(
            network,
            self._loss,
            self._source,
            block_size=self.block_size,
            compiled=self._compiled,
        )

    def rows(self, x: Tensor) -> float:
        """The rows of the largest matrix product for batches like ``x``; see `Program`."""
        return self._point(x).program.rows

    def images_at_once(self, x: Tensor) -> int | None:
        """The examples of a batch that costs least on the CPU; None without convolutions."""
        images = self._point(x).program.images
        return None if images is None else images.at_once()

    def start(self, x: Tensor) -> None:
        """Make the program for batches like ``x``, or see that the one that is there serves.

        Raises:
            Untraceable: there is none.
        """
        self._point(x)

    def residual_bytes(self, kind: Kind, x: Tensor, y: Tensor, *, lean: bool) -> int:
        """The memory that a batch like ``(x, y)`` takes from one product to the next."""
        point = self._point(x)
        parameters = len(point.q)
        if kind == "hessian":
            linear = point.hessian(self._loss, y, lean=lean)
            return memory([*linear.kept, linear.fixed[-1]], linear.fixed[:parameters])
        jacobian = point.program.jacobian
        kept, fixed = [*jacobian.jvp.kept, *jacobian.vjp.kept], jacobian.jvp.fixed
        outputs: int = point.program.output.nbytes
        return memory(kept, fixed[:parameters]) + outputs + y.nbytes

    def _product(
        self,
        V: Tensor,
        contribution: Callable[[Batch, list[Pieces]], tuple[Linear, Iterable[Pieces]]],
        pull: Callable[[Point, Pieces, Pieces, bool], Pieces],
        weigh: Callable[[Point], int] | None = None,
        *,
        directions: bool = True,
    ) -> tuple[Tensor, int]:
        """The mean of what each batch contributes, and the sum of the weights."""
        # The columns of V are directions in the space of parameters, or else only counted.
        weigh = weigh or self._terms
        block, width, columns = self._in_blocks(V), self.block_size, V.shape[1]
        starts = range(0, columns, width) if block else range(columns)
        leads = [(min(width, columns - start),) if block else () for start in starts]
        dp: list[Pieces] = self._columns(V) if directions else [()] * len(leads)
        sums: dict[Point, list[Mean]] = {}
        dq: dict[Point, list[Pieces]] = {}
        terms = 0
        for batch in self._pass():
            point = batch.point
            if point not in sums:
                sums[point] = [Mean() for _ in dp]
                dq[point] = [point.push(tangent, block) for tangent in dp] if directions else dp
            linear, outputs = contribution(batch, dq[point])
            for total, lead, parts in zip(sums[point], leads, outputs, strict=True):
                total.add(fill(linear, parts, point.active, lead), weigh(point))
            terms += weigh(point)
        self.seen = True
        mean = Mean()
        for point, totals in sums.items():
            pairs = zip(dp, totals, strict=True)
            pulled = [pull(point, dv, total.parts(V.dtype), block) for dv, total in pairs]
            mean.add([self._join(pulled, V)], totals[0].weight)
        return mean.parts(V.dtype)[0], terms

    def _pass(self) -> Iterator[Batch]:
        self._network.check_unchanged(self._network.device)
        if self._kept is not None:
            for batch in self._kept:
                yield batch
                batch.outputs = NOTHING  # `kept` holds them, perhaps on the host
            return
        if not self.seen:  # a pass before may have been interrupted
            for point in self._points.values():
                point.gradient = None
        passed, held = [], 0
        for number, (x, y) in enumerate(self._source):
            if self.keep:  # a loader may fill the same memory again
                x, y = x.clone(), y.clone()
            batch = Batch(number, self._point(x), x, y)
            if not self.seen:
                output = batch.point.program.output
                zero = torch.zeros((), dtype=output.dtype, device=x.device)
                self._loss.check(zero.expand(output.shape), y)
            yield batch
            if self.keep:
                batch.x = batch.outputs = NOTHING  # what later products read is in `kept`
                passed.append(batch)
                held += batch.held()
                if held > self.limit:
                    self.keep, self.exceeded = False, held
                    passed.clear()
        if not self._points:
            raise ValueError("the data is empty: it holds no batch; at least one is needed")
        if self.keep:
            self._kept = passed

    def _point(self, x: Tensor) -> Point:
        key = (x.shape, x.dtype)
        if key not in self._points:
            if len(self._points) == SHAPES:
                raise Untraceable(f"batches of more than {SHAPES} shapes, each to be traced")
            program = program_of(self._network, x, compiled=self._compiled)
            self._points[key] = Point(program, self._network.state(), list(self._network.point))
        return self._points[key]

    def _in_blocks(self, V: Tensor) -> bool:
        return self._width(V) > 0

    def _width(self, V: Tensor) -> int:
        """How many columns are multiplied at once; 0 where each goes for itself."""
        return self.block_size if self.block_size > 1 and V.shape[1] > 1 else 0

    def _columns(self, V: Tensor) -> list[Pieces]:
        """The pieces of each column of ``V``, or of each block of columns."""
        return split(V, list(self._network.point.values()), self._width(V))

    def _join(self, columns: list[Pieces], V: Tensor) -> Tensor:
        """``[P, K]`` from what `_columns` gives."""
        return join(columns, V, self._network.size, self._width(V))

    def _terms(self, point: Point) -> int:
        count: int = self._loss.count(point.program.output)
        return count


def _pull(point: Point, dp: Pieces, dg: Pieces, block: bool) -> Pieces:
    return point.pull(dg, block)
