"""Why is this slow? Where the time, the memory and the copies of an operator's products go."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from hesslab._memory import megabytes
from hesslab.operators.curvature import Curvature
from hesslab.operators.diagnosis.measure import AT_HAND, Bench, cores
from hesslab.operators.diagnosis.verdict import RUN, Cause, Facts, judge, shares
from hesslab.operators.diagnosis.watch import STAGES
from hesslab.operators.engine.programs import hidden_programs
from hesslab.operators.jacobian import NTK, Jacobian


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """Where the time, the memory and the copies of an operator's products go; prints as a table.

    Attributes:
        operator: what was looked at, and the route that its products take.
        cause: the bottleneck in a word; "arithmetic" where nothing is to be gained.
        bottleneck: the bottleneck in a sentence, and its cure.
        also: what else stands out, the same way.
        stages: seconds of one product by stage, for each kind of product: the "first", which sets
            things up, one "streaming" through the data, the one "preparing" what is kept, one that
            is "cached". "residuals" is what does not depend on the vector, where it is done apart
            from the "network"; the "head" reads parameters alone, once a product.
        product_seconds: of each kind of product: the sum of its stages.
        gradients: the same in gradients of the mean loss over the same data.
        shares: of 100 products, the first ones included, by what would have to be cured; they sum
            up to 1. "launches" is what batches without examples would take, "parameters" what is
            done once a product whatever the data; "arithmetic" grows with the examples.
        batches: of a pass.
        examples: N.
        gradient_seconds: of the gradient of the first batch's loss, the unit of `gradients`.
        batch_seconds: of a batch without examples: Python, and starting operations.
        bytes_to_device: copied from host to device by a product of the last kind; 0 on a CPU.
        bytes_to_host: the other way.
        residual_bytes: what is kept, or would have to be kept, from product to product; None where
            products go by autograd, which keeps nothing.
        memory_limit: bytes that may be kept.
        peak_bytes: allocated at once by a product with at most two batches, beyond what is kept.
        growth_bytes: allocated by such a product and not freed after it.
        growth_tensors: tensors alive after it that were not before.
        threads: of torch's operations on the CPU.
        products: taken, those with at most two batches included.
        seconds: of the diagnosis.
        seed: of the vector.
    """

    operator: str
    cause: Cause
    bottleneck: str
    also: tuple[str, ...]
    stages: Mapping[str, Mapping[str, float]]
    product_seconds: Mapping[str, float]
    gradients: Mapping[str, float]
    shares: Mapping[Cause, float]
    batches: int
    examples: int
    gradient_seconds: float
    batch_seconds: float
    bytes_to_device: int
    bytes_to_host: int
    residual_bytes: int | None
    memory_limit: int
    peak_bytes: int
    growth_bytes: int
    growth_tensors: int
    threads: int
    products: int
    seconds: float
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """All of it in dictionaries, lists, numbers and text, as JSON has them."""
        return {**asdict(self), "also": list(self.also)}

    def columns(self) -> dict[str, list[str]]:
        """The time as a table: a row for each stage, a column for each kind of product."""
        shown = [name for name in STAGES if any(lap[name] for lap in self.stages.values())]
        table = {"milliseconds": [*shown, "product", "in gradients"]}
        for kind, lap in self.stages.items():
            times = [*(lap[name] for name in shown), self.product_seconds[kind]]
            table[kind] = [f"{1e3 * value:,.2f}" if value else "" for value in times]
            table[kind].append(f"{self.gradients[kind]:.2f}")
        return table

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {share:.0%}" for name, share in self.shares.items() if share)
        kept = "nothing" if self.residual_bytes is None else megabytes(self.residual_bytes)
        return "\n".join(
            [
                f"Diagnosis of {self.operator}",
                f"{self.cause}: {self.bottleneck}",
                *(f"also: {text}" for text in self.also),
                "",
                *_aligned(self.columns()),
                "",
                f"{RUN} products: {parts}",
                f"batches: {self.batches} with {self.examples} examples; a gradient of one takes "
                f"{self.gradient_seconds:.2g} s, one without examples {self.batch_seconds:.2g} s",
                f"memory: {kept} to be kept, of at most {megabytes(self.memory_limit)}; with up to "
                f"{AT_HAND} batches a peak of {megabytes(self.peak_bytes)}, and growth by "
                f"{megabytes(self.growth_bytes)} and {self.growth_tensors} tensors a product",
                f"copies of a product: {megabytes(self.bytes_to_device)} to the device, "
                f"{megabytes(self.bytes_to_host)} to the host",
                f"found by {self.products} products in {self.seconds:.1f} s with {self.threads} "
                f"{'thread' if self.threads == 1 else 'threads'}, seed {self.seed}",
            ]
        )


def diagnose(operator: Any, *, seed: int = 0) -> Diagnosis:
    """Find out why products with an operator take as long as they do, and what would help.

    A fixed, small number of products with a random vector is timed stage by stage. A copy of the
    operator takes them: what the operator keeps, its plan and its later products are as before.
    On CUDA each stage waits for the device, so that products are a little slower than otherwise.
    Of an operator with a process group, this process's part of the data is looked at, and not the
    sum over all of them; the others need not take part.

    Args:
        operator: the matrix of a network and a loss. For a `Jacobian` J or an `NTK`, whose product
            goes through the same passes, the one with J^T J is looked at.
        seed: of the vector.

    Returns:
        A `Diagnosis`: print it.

    Raises:
        TypeError: it is a sum, a congruence or the like, whose parts are to be diagnosed.
        ValueError: this process has no part of the data.

    Cost: at most six passes over the data, some 20 products with one or two batches, and tracing
    anew, for a batch of another size as well. The copy keeps residuals of its own meanwhile, within
    the operator's `memory_limit`.

    >>> import hesslab as hl, torch
    >>> x, y = torch.randn(10, 3), torch.randint(0, 2, (10,))
    >>> model = hl.models.mlp(3, 2, hidden=(4,), seed=0)
    >>> found = hl.diagnose(hl.GGN(model, torch.nn.CrossEntropyLoss(), (x, y)))
    >>> found.examples, found.bytes_to_device
    (10, 0)
    """
    start = time.perf_counter()
    A = _of_network(operator)
    if A._is_empty:
        raise ValueError("this process has no data to look at; diagnose on a rank that has some")
    with hidden_programs(A._network.model), torch.inference_mode(False):
        bench = Bench(A, seed)
        try:
            return _found(operator, bench, seed, start)
        finally:
            bench.close()


def _of_network(operator: Any) -> Curvature:
    """The operator whose products are taken."""
    if isinstance(operator, NTK):
        operator = operator.jacobian
    if isinstance(operator, Jacobian):
        operator = operator._gram
    if isinstance(operator, Curvature):
        return operator
    kind = type(operator).__name__
    cures = {
        "Combination": ": diagnose its terms one by one: [hl.diagnose(A) for _, A in sum.terms]",
        "Congruence": ": diagnose the matrix in the middle: hl.diagnose(congruence.matrix)",
        "BlockDiagonal": ": diagnose one of its blocks, or the operator that it is the diagonal of",
        "Transposed": ": diagnose what it is the transpose of",
    }
    raise TypeError(
        f"the operator is a {kind}; expected a matrix of one network and its data, such as a "
        f"Hessian, GGN, Fisher or GradientCovariance{cures.get(kind, '')}"
    )


def _found(operator: Any, bench: Bench, seed: int, start: float) -> Diagnosis:
    A = bench.copy
    gradient = bench.gradient_seconds()
    fixed, share, other = bench.fixed_cost()
    residuals, limit = bench.residuals()
    peak, growth, tensors, there, back = bench.memory_and_copies()
    facts = Facts(
        laps=bench.laps,
        sizes=bench.sizes,
        shapes=len(set(bench.sizes)),
        own_batches=hasattr(A._batches._inner, "_source"),  # type: ignore[attr-defined]
        mode=A.plan._asked,
        traced=A.plan.traced is not None,
        cached=bench.cached,
        reason=A.plan.reason.removeprefix("streaming by autograd (").removesuffix(")"),
        residual_bytes=residuals,
        memory_limit=limit,
        fixed_share=share,
        other_seconds=other,
        growth_bytes=growth,
        growth_tensors=tensors,
        threads=torch.get_num_threads(),
        cores=cores(),
        device=A.device.type,
    )
    cause, bottleneck, also = judge(facts)
    product_seconds = {kind: sum(lap.values()) for kind, lap in bench.laps.items()}
    passes = gradient * sum(bench.sizes) / bench.sizes[0]
    return Diagnosis(
        operator=repr(A) if isinstance(operator, Curvature) else f"{operator!r}, {A.plan}",
        cause=cause,
        bottleneck=bottleneck,
        also=also,
        stages=bench.laps,
        product_seconds=product_seconds,
        gradients={kind: seconds / passes for kind, seconds in product_seconds.items()},
        shares=shares(facts),
        batches=len(bench.sizes),
        examples=sum(bench.sizes),
        gradient_seconds=gradient,
        batch_seconds=fixed,
        bytes_to_device=there,
        bytes_to_host=back,
        residual_bytes=residuals,
        memory_limit=limit,
        peak_bytes=peak,
        growth_bytes=growth,
        growth_tensors=tensors,
        threads=facts.threads,
        products=bench.products,
        seconds=time.perf_counter() - start,
        seed=seed,
    )


def _aligned(table: Mapping[str, list[str]]) -> list[str]:
    """The lines of a table, its first column to the left and the others to the right."""
    columns: list[list[str]] = []
    for name, cells in table.items():
        width = max(map(len, [name, *cells]))
        move = str.rjust if columns else str.ljust
        columns.append([move(cell, width) for cell in [name, *cells]])
    return ["  ".join(row) for row in zip(*columns, strict=True)]
