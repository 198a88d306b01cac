"""What each rank does in test_group.py: ``torchrun group_worker.py <scenario> <folder>``."""

import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

import hesslab as hl
from tests.cases import N, case

OPERATORS = {
    "hessian": lambda *args, **options: hl.Hessian(*args, **options),
    "ggn": lambda *args, **options: hl.GGN(*args, **options),
    "empirical": lambda *args, **options: hl.Fisher(*args, kind="empirical", **options),
    "scatter": lambda *args, **options: hl.GradientCovariance(*args, **options),
    "between": lambda *args, **options: hl.GradientCovariance(*args, per="batch", **options),
}
BATCH = 4  # N = 11 is cut into 4 + 4 + 3, of which the shards take whole batches
SHARDS = {"unequal": (8, N - 8), "empty": (0, N)}
EQUAL = [("mlp", name, cut) for name in OPERATORS for cut in SHARDS]
EQUAL += [("residual", name, "unequal") for name in ("hessian", "ggn")]


def vectors(size):
    return torch.randn(size, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def shard(c, name):
    start = sum(SHARDS[name][: dist.get_rank()])
    stop = start + SHARDS[name][dist.get_rank()]
    return c.x[start:stop], c.y[start:stop]


def outcome(action):
    """What comes out of an action, or the error as text."""
    try:
        return action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def equality():
    found = {}
    for model, name, cut in EQUAL:
        c = case(model, "cross-entropy")
        data = shard(c, cut)
        A = OPERATORS[name](c.model, c.loss, data, batch_size=BATCH, process_group=True)
        V = vectors(A.shape[0])
        found[model, name, cut] = {
            "products": [A @ V[:, 0] for _ in range(3)],
            "block": A @ V,
            "gradient": A.gradient(),
            "repr": repr(A),
        }
    return found


def variants():
    c = case("mlp", "cross-entropy")
    data, options = shard(c, "unequal"), {"batch_size": BATCH, "process_group": dist.group.WORLD}
    H = hl.Hessian(c.model, c.loss, data, **options)
    V = vectors(H.shape[0])
    eager = hl.Hessian(c.model, c.loss, data, **options)
    eager.plan.untraced("for comparison")
    single = hl.Hessian(c.model.float(), c.loss, (data[0].float(), data[1]), **options)
    c.model.double()
    loader = list(zip(data[0].split(BATCH), data[1].split(BATCH), strict=True))
    streams = hl.GGN(c.model, c.loss, loader, process_group=True)
    nothing = hl.GGN(c.model, c.loss, loader if dist.get_rank() else [], process_group=True)
    ends = hl.linalg.eigsh(H, k=3, which="both", rtol=1e-8)
    mc = {"kind": "mc", "seed": 3, "batch_size": BATCH}
    with torch.inference_mode():
        inferred = H.gradient()
    return {
        "eager": eager @ V,
        "float32": single @ V.float(),
        "float32 by autograd": (single.plan.untraced(""), single @ V.float())[1],
        "stream": streams @ V,
        "half of the data": nothing @ V,
        "restricted": H.restrict("*.bias").to_dense(),
        "inference": inferred,
        "values": ends.values,
        "vectors": ends.vectors,
        "mc": hl.Fisher(c.model, c.loss, (c.x, c.y), process_group=True, **mc).to_dense(),
        "norms": norms(c),
    }


def norms(c):
    """Statistics of each batch: the loss depends on the cut, which is that of all shards."""
    model = torch.nn.Sequential(c.model, torch.nn.BatchNorm1d(3).double())
    model[1].running_mean += dist.get_rank()  # as training leaves it, and unused
    H = hl.Hessian(
        model,
        c.loss,
        shard(c, "unequal"),
        batch_size=BATCH,
        batchnorm="batch",
        process_group=True,
    )
    return H.to_dense()


def errors():
    rank = dist.get_rank()
    c = case("mlp", "cross-entropy")
    data = shard(c, "unequal")

    def build(operator=hl.Hessian, model=c.model, loss=c.loss, data=data, **options):
        return operator(
            model, loss, data, **{"batch_size": BATCH, "process_group": True, **options}
        )

    def moved():
        with torch.no_grad():
            c.model[-1].bias += 1e-9 * rank
        try:
            return build()
        finally:
            with torch.no_grad():
                c.model[-1].bias -= 1e-9 * rank

    def damaged():
        x = data[0].clone()
        x[2, 1] = torch.nan if rank == 1 else 0.0
        return build(data=(x, data[1]))

    def overflow():
        x = data[0].clone()
        x[-1] *= 1e200 if rank == 0 else 1.0
        y = torch.zeros(len(x), 3, dtype=torch.float64)
        A = build(hl.GGN, loss=torch.nn.MSELoss(), data=(x, y))
        return A @ (1e200 * torch.ones(A.shape[0], dtype=torch.float64))

    def changing():
        batches = [(data[0].clone(), data[1])]
        A = build(data=batches)
        batches[0][0].add_(rank)
        return A @ torch.ones(A.shape[0], dtype=torch.float64)

    def small():
        A = build(mode="cache", memory_limit=10 if rank == 1 else None)
        return A @ torch.ones(A.shape[0], dtype=torch.float64)

    def other_vector():
        A = build()
        return A @ torch.full((A.shape[0],), 1.0 + rank, dtype=torch.float64)

    def mixed():
        A = build()
        return A @ torch.ones(A.shape[0], dtype=torch.float64) if rank else A.gradient()

    def subgroup():
        group = dist.new_group([0])
        A = build(data=(c.x, c.y), process_group=group)
        return A @ vectors(A.shape[0])

    found = {
        "parameters": outcome(moved),
        "chosen": outcome(lambda: build(parameters="*.bias" if rank else None)),
        "option": outcome(lambda: build(hl.Fisher, kind="mc", seed=rank)),
        "matrix": outcome(lambda: build(hl.GGN if rank else hl.Hessian)),
        "damaged": outcome(damaged),
        "overflow": outcome(overflow),
        "changing": outcome(changing),
        "memory": outcome(small),
        "vector": outcome(other_vector),
        "mixed": outcome(mixed),
        "all empty": outcome(lambda: build(data=(c.x[:0], c.y[:0])).gradient()),
        "population": outcome(lambda: build(batchnorm="population")),
        "jacobian": outcome(lambda: hl.Jacobian(c.model, data, process_group=True)),
        "ntk": outcome(lambda: hl.NTK(c.model, data, process_group=True)),
        "gram": outcome(lambda: build(hl.GradientCovariance, per="batch").eigenvalues()),
        "subgroup": outcome(subgroup),
    }
    A = build()  # the group has outlived all that
    found["after"] = A @ vectors(A.shape[0])
    return found


class Deadly(list):
    """Batches that end the process, once they are armed."""

    armed = False

    def __iter__(self):
        if self.armed:
            os._exit(1)
        return super().__iter__()


def killed():
    # The launcher ends the others where one dies; the survivor is to tell first.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    c = case("mlp", "cross-entropy")
    batches = Deadly([shard(c, "unequal")])
    H = hl.Hessian(c.model, c.loss, batches, process_group=True)
    v = vectors(H.shape[0])[:, 0]
    first = H @ v
    batches.armed = dist.get_rank() == 1
    start = time.monotonic()
    return {
        "first": first,
        "second": outcome(lambda: H @ v),
        "seconds": time.monotonic() - start,
    }


def absent():
    """A rank refuses its vector before there is a product, and stays."""
    c = case("mlp", "cross-entropy")
    H = hl.Hessian(c.model, c.loss, shard(c, "unequal"), process_group=True)
    v = torch.ones(H.shape[0] + dist.get_rank(), dtype=torch.float64)
    start = time.monotonic()
    found = outcome(lambda: H @ v)
    seconds = time.monotonic() - start
    survivor = Path(sys.argv[2]) / "0.pt"
    while dist.get_rank() == 1 and not survivor.exists() and time.monotonic() < start + 60:
        time.sleep(0.1)
    return {"found": found, "seconds": seconds}


def nccl():
    c = case("residual", "cross-entropy")
    device = torch.device("cuda", dist.get_rank())
    torch.cuda.set_device(device)
    alone = dist.get_world_size() == 1
    data = (c.x, c.y) if alone else shard(c, "unequal")
    refused = outcome(lambda: hl.Hessian(c.model, c.loss, data, process_group=True))
    model = c.model.to(device)
    H = hl.Hessian(model, c.loss, data, batch_size=BATCH, process_group=True)
    V = vectors(H.shape[0]).to(device)
    return {
        "block": (H @ V).cpu(),
        "gradient": H.gradient().cpu(),
        "refused": refused,
        "vector": outcome(lambda: H @ (V + (dist.get_rank() == 1))),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    scenario, folder = sys.argv[1:]
    seconds = {"killed": 20, "absent": 5}.get(scenario, 60)
    backend = "nccl" if scenario == "nccl" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=seconds))
    run = {f.__name__: f for f in (killed, absent, nccl)}
    actions = [run[scenario]] if scenario in run else [equality, variants, errors]
    found = {action.__name__: action() for action in actions}
    torch.save(found, Path(folder) / f"{dist.get_rank()}.pt")
    if scenario not in ("killed", "absent"):
        dist.destroy_process_group()
