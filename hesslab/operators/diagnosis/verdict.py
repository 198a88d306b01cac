"""What was measured of an operator's products, and what follows: the bottleneck and its cure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from hesslab._memory import megabytes
from hesslab.operators.diagnosis.watch import (
    CHECKING,
    COPYING,
    HEAD,
    NETWORK,
    OTHER,
    READING,
    RESIDUALS,
    SETUP,
    STAGES,
)
from hesslab.operators.plan import Mode

Cause = Literal[
    "data loading",
    "copies",
    "set-up",
    "launches",
    "parameters",
    "autograd",
    "memory limit",
    "mode",
    "arithmetic",
]
Shares = dict[Cause, float]
RUN = 100  # products that an estimator takes of one operator, in order of magnitude
MOST, MUCH, SOME = 0.5, 0.25, 0.1  # shares of a run that outweigh a slow route, matter, are told


@dataclass(frozen=True)
class Facts:
    """What was measured.

    Attributes:
        laps: seconds by stage, by kind of product.
        sizes: examples of each batch of a pass.
        shapes: different shapes of batches.
        own_batches: the user's data comes in batches.
        mode: that the user has asked for.
        traced: products go by graphs.
        cached: and read what was kept.
        reason: why not, by the plan.
        residual_bytes: what is kept or would have to be; None by autograd.
        memory_limit: bytes that may be kept.
        fixed_share: of a batch's seconds, those that it would take without examples.
        other_seconds: the stage "other" of a product with one batch.
        growth_bytes: not freed after a product.
        growth_tensors: that a product has left behind.
        threads: of torch.
        cores: that the process may use.
        device: its type.
    """

    laps: Mapping[str, Mapping[str, float]]
    sizes: tuple[int, ...]
    shapes: int
    own_batches: bool
    mode: Mode
    traced: bool
    cached: bool
    reason: str
    residual_bytes: int | None
    memory_limit: int
    fixed_share: float
    other_seconds: float
    growth_bytes: int
    growth_tensors: int
    threads: int
    cores: int
    device: str


def shares(facts: Facts) -> Shares:
    """Of a run of products, by what would have to be cured; they sum up to 1."""
    counts = {"first": 1, "streaming": RUN - 1}
    if facts.cached:
        counts = {"first": 1, "preparing": 1, "cached": RUN - 2}
    run = {
        stage: sum(count * facts.laps[kind][stage] for kind, count in counts.items())
        for stage in STAGES
    }
    on_batches = run[RESIDUALS] + run[NETWORK]
    fixed = facts.fixed_share * on_batches
    other = min(RUN * facts.other_seconds, run[OTHER])  # what is more of it comes with the batches
    total = sum(run.values())
    parts: Shares = {
        "data loading": run[READING] + run[CHECKING],
        "copies": run[COPYING],
        "set-up": run[SETUP],
        "launches": fixed + run[OTHER] - other,
        "parameters": run[HEAD] + other,
        "arithmetic": on_batches - fixed,
    }
    return {cause: part / total for cause, part in parts.items()}


def judge(facts: Facts) -> tuple[Cause, str, tuple[str, ...]]:
    """The bottleneck, a sentence on it and its cure, and what else stands out.

    Args:
        facts: what was measured.

    Returns:
        Data that take at least half of a run; else a route that is not the fastest, which all
        other times depend on; else what takes a quarter. Then its sentence, and those of the rest.
    """
    found = shares(facts)
    causes: list[Cause] = sorted(found, key=lambda cause: -found[cause])
    waiting = [cause for cause in causes if cause != "arithmetic"]
    route = _route(facts)
    data: tuple[Cause, ...] = ("data loading", "copies")
    order: list[Cause] = [cause for cause in data if found[cause] >= MOST]
    order += [route] if route else []
    order += [c for c in waiting if found[c] >= MUCH and c not in order]
    order = order or ["arithmetic"]
    order += [c for c in waiting if SOME <= found[c] < MUCH]
    texts = [_sentence(cause, found, facts) for cause in order]
    return order[0], texts[0], (*texts[1:], *_remarks(found, facts))


def _route(facts: Facts) -> Cause | None:
    if facts.cached:
        return None
    if not facts.traced:
        return "autograd"
    assert facts.residual_bytes is not None
    return "memory limit" if facts.residual_bytes > facts.memory_limit else "mode"


def _sentence(cause: Cause, found: Shares, facts: Facts) -> str:
    share = f"{found.get(cause, 0.0):.0%} of {RUN} products"
    kept = megabytes(facts.residual_bytes or 0)
    sentences: dict[Cause, str] = {
        "data loading": f"reading the data takes {share}: {_loading(facts)}",
        "copies": f"copying batches to the device takes {share}: put all the data there first "
        f'(x.to("{facts.device}"), y.to("{facts.device}")), if it fits',
        "set-up": f"tracing and writing graphs takes {share}, for {facts.shapes} "
        f"{'shape' if facts.shapes == 1 else 'shapes'} of batches: take many products with one "
        "operator, and cut the data into batches of one size",
        "launches": f"what a batch costs whatever its size (Python, starting operations) takes "
        f"{share}: {_fewer(facts)}multiply blocks of vectors, A @ V",
        "parameters": f"work on the parameters alone, once a product, takes {share}: multiply "
        "blocks of vectors, A @ V",
        "autograd": f"products go by autograd, which keeps nothing from one to the next "
        f"({facts.reason}): if this is the model's doing, write that part of it in plain "
        "operations of torch, without decisions that depend on values",
        "memory limit": f"{_anew(facts)}, since {kept} of residuals exceed memory_limit, "
        f"{megabytes(facts.memory_limit)}: set memory_limit to at least {facts.residual_bytes} if "
        "there is so much memory, or take fewer examples",
        "mode": f'{_anew(facts)}, as mode="stream" asks; the '
        f'{kept} that could be kept are within memory_limit: take mode="auto"',
        "arithmetic": f"nothing stands in the way: {share} are the network's arithmetic",
    }
    return sentences[cause]


def _anew(facts: Facts) -> str:
    if facts.mode == "cache":
        return 'mode="cache" refuses every product'
    return "each product goes through data and network anew"


def _loading(facts: Facts) -> str:
    if not facts.own_batches:
        return "keep the tensors in memory, not in a file that is mapped"
    lap = facts.laps["streaming"]
    if lap[CHECKING] > lap[READING]:
        return (
            "most of it goes into checking that each pass brings the same finite batches; give "
            "two tensors or a Dataset, which are checked once"
        )
    return "collect the batches in a list, data = list(loader), or give the loader more workers"


def _fewer(facts: Facts) -> str:
    if len(facts.sizes) == 1:
        return ""
    if facts.own_batches:
        return f"build the batches larger than {max(facts.sizes)}, or "
    return f"raise batch_size from {max(facts.sizes)}, or "


def _remarks(found: Shares, facts: Facts) -> Iterator[str]:
    if facts.growth_bytes > 0 or facts.growth_tensors > 0:
        yield (
            f"memory grows with each product, by {megabytes(facts.growth_bytes)} and "
            f"{facts.growth_tensors} tensors: the model's forward keeps something"
        )
    if facts.device == "cpu" and 2 * facts.threads <= facts.cores and found["arithmetic"] >= MUCH:
        yield (
            f"torch works with {facts.threads} of {facts.cores} cores: raise OMP_NUM_THREADS, or "
            "torch.set_num_threads, unless other processes need them"
        )
