"""Several processes with a shard of the data each, against one process with all of it."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

import hesslab as hl
from tests.cases import N, case
from tests.operators.group_worker import BATCH, EQUAL, OPERATORS, SHARDS, vectors

ROOT = Path(__file__).parents[2]
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
# The batches are the same in one process and in two: only the order of the float64 sums differs.
SUMS = 1e-12


def launch(scenario, folder, *, processes=2, limit=200):
    """Run group_worker.py on so many ranks; what the launcher printed, and its return code."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    worker = Path(__file__).with_name("group_worker.py")
    return subprocess.run(
        [*command, f"--nproc-per-node={processes}", str(worker), scenario, str(folder)],
        cwd=ROOT,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": LOOPBACK,
            "PYTHONPATH": str(ROOT),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit,
        check=False,
    )


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two ranks found, from one launch even where pytest runs in several processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "ranks"
    done = folder / "done"
    try:
        folder.mkdir()
    except FileExistsError:
        deadline = time.monotonic() + 250
        while not done.exists() and time.monotonic() < deadline:
            time.sleep(0.2)
    else:
        try:
            log = launch("all", folder).stdout
        finally:
            done.touch()
        (folder / "log").write_text(log)
    files = [folder / f"{rank}.pt" for rank in range(2)]
    if not all(file.exists() for file in files):
        pytest.fail("the ranks came to no end:\n" + (folder / "log").read_text()[-4000:])
    return [torch.load(file) for file in files]


def apart(found, expected):
    return float((found - expected).norm() / expected.norm())


def equal_on_all(ranks, *keys):
    """The tensor under these keys, once it is the same to the bit on all ranks."""
    found = list(ranks)
    for key in keys:
        found = [each[key] for each in found]
    assert torch.equal(*found)
    return found[0]


@pytest.mark.parametrize(("model", "name", "cut"), EQUAL)
def test_two_ranks_give_what_one_process_gives(ranks, model, name, cut):
    c = case(model, "cross-entropy")
    A = OPERATORS[name](c.model, c.loss, (c.x, c.y), batch_size=BATCH)
    V = vectors(A.shape[0])
    place = ("equality", (model, name, cut))
    for number in range(3):  # streamed, streamed with residuals kept, from residuals
        assert apart(equal_on_all(ranks, *place, "products", number), A @ V[:, 0]) < SUMS
    assert apart(equal_on_all(ranks, *place, "block"), A @ V) < SUMS
    assert apart(equal_on_all(ranks, *place, "gradient"), A.gradient()) < SUMS


@pytest.mark.parametrize("cut", SHARDS)
@pytest.mark.parametrize("name", ["hessian", "ggn"])
def test_two_ranks_give_the_dense_product(ranks, name, cut):
    c = case("mlp", "cross-entropy")
    expected = getattr(c, name) @ vectors(len(c.flat()))
    assert apart(equal_on_all(ranks, "equality", ("mlp", name, cut), "block"), expected) < 1e-10


def test_repr_says_which_rank_and_whether_it_has_data(ranks):
    empty, whole = (each["equality"]["mlp", "hessian", "empty"]["repr"] for each in ranks)
    assert empty.endswith("(this rank has no data), rank 0, one of 2)")
    assert whole.endswith("of residuals, rank 1, one of 2)")
    assert "cached" in whole


@pytest.mark.parametrize("route", ["eager", "stream"])
def test_every_route_gives_the_same(ranks, route):
    c = case("mlp", "cross-entropy")
    A = (hl.GGN if route == "stream" else hl.Hessian)(c.model, c.loss, (c.x, c.y), batch_size=BATCH)
    assert apart(equal_on_all(ranks, "variants", route), A @ vectors(A.shape[0])) < SUMS


@pytest.mark.parametrize("route", ["float32", "float32 by autograd"])
def test_float32(ranks, route):
    c = case("mlp", "cross-entropy")
    found = equal_on_all(ranks, "variants", route)
    assert found.dtype == torch.float32
    assert apart(found.double(), c.hessian @ vectors(len(c.flat()))) < 1e-6


def test_an_empty_stream_adds_nothing(ranks):
    c = case("mlp", "cross-entropy")
    last = slice(SHARDS["unequal"][0], N)
    A = hl.GGN(c.model, c.loss, (c.x[last], c.y[last]))
    found = equal_on_all(ranks, "variants", "half of the data")
    assert apart(found, A @ vectors(A.shape[0])) < SUMS


def test_restriction_and_gradient_under_inference_mode(ranks):
    c = case("mlp", "cross-entropy")
    H = hl.Hessian(c.model, c.loss, (c.x, c.y), batch_size=BATCH)
    expected = H.restrict("*.bias").to_dense()
    assert apart(equal_on_all(ranks, "variants", "restricted"), expected) < SUMS
    assert apart(equal_on_all(ranks, "variants", "inference"), H.gradient()) < SUMS


def test_statistics_of_the_batch_are_those_of_each_rank_s_batches(ranks):
    c = case("mlp", "cross-entropy")
    model = nn.Sequential(c.model, nn.BatchNorm1d(3).double())
    H = hl.Hessian(model, c.loss, (c.x, c.y), batch_size=BATCH, batchnorm="batch")
    assert apart(equal_on_all(ranks, "variants", "norms"), H.to_dense()) < SUMS


def test_eigenpairs_are_the_same_on_all_ranks(ranks):
    values = equal_on_all(ranks, "variants", "values")
    equal_on_all(ranks, "variants", "vectors")
    dense = torch.linalg.eigvalsh(case("mlp", "cross-entropy").hessian).flip(0)
    torch.testing.assert_close(values, dense[[0, 1, -1]], rtol=1e-7, atol=1e-10)


def test_drawn_labels_do_not_repeat_on_another_rank(ranks):
    # Both ranks hold the same examples: repeated draws would give the matrix of one of them.
    c = case("mlp", "cross-entropy")
    both = equal_on_all(ranks, "variants", "mc")
    first = hl.Fisher(c.model, c.loss, (c.x, c.y), batch_size=BATCH, kind="mc", seed=3).to_dense()
    second = 2 * both - first
    assert apart(second, first) > 0.1
    assert float(torch.linalg.eigvalsh(second)[0]) > -1e-12  # a second moment as well


AGREED = {
    "parameters": r"ValueError: output.bias of rank 1 differ from those of rank 0: load the same",
    "chosen": r"ValueError: the ranks differ in the parameters: 64 .* on rank 0, 12 .* on rank 1",
    "option": r"ValueError: the ranks differ in seed: 0 on rank 0, 1 on rank 1",
    "matrix": r"ValueError: the ranks differ in the kind of matrix: Hessian on rank 0, GGN on",
    "vector": r"ValueError: v is not the same on all ranks: rank 1 took another product than rank",
    "mixed": r"ValueError: v is not the same on all ranks",
    "all empty": r"ValueError: the data is empty on all ranks",
    "population": r'ValueError: batchnorm="population" takes the statistics of all the data',
    "jacobian": r"ValueError: process_group is given, but the rows of a Jacobian",
    "ntk": r"ValueError: process_group is given, but the rows of a Jacobian",
    "gram": r"ValueError: the small Gram matrix takes the gradients of all batches in one process",
}


@pytest.mark.parametrize("what", AGREED)
def test_what_concerns_all_is_raised_by_all(ranks, what):
    for each in ranks:
        assert re.match(AGREED[what], each["errors"][what])


ONE = {
    "damaged": (1, "NotFinite: the data: the inputs hold NaN .*first in example 2"),
    "overflow": (0, "NotFinite: the contribution of batch 1 is NaN or infinite"),
    "changing": (1, "NotDeterministic: batch 0 is not the same as in an earlier pass"),
    "memory": (1, 'MemoryError: mode="cache": .* of residuals exceed memory_limit'),
}


@pytest.mark.parametrize("what", ONE)
def test_what_one_rank_raises_all_raise(ranks, what):
    culprit, text = ONE[what]
    kind = text.partition(":")[0]
    told = f"{kind}: rank {1 - culprit}, one of 2, stopped because of rank {culprit}: {text}"
    assert re.match(text, ranks[culprit]["errors"][what])
    assert re.match(told, ranks[1 - culprit]["errors"][what])


def test_a_group_of_some_ranks(ranks):
    c = case("mlp", "cross-entropy")
    inside, outside = (each["errors"]["subgroup"] for each in ranks)
    assert apart(inside, c.hessian @ vectors(len(c.flat()))) < 1e-10
    assert outside.startswith("ValueError: this process is no member of process_group")


def test_the_group_outlives_errors(ranks):
    c = case("mlp", "cross-entropy")
    expected = c.hessian @ vectors(len(c.flat()))
    assert apart(equal_on_all(ranks, "errors", "after"), expected) < 1e-10


def test_the_survivor_of_a_killed_rank_says_so(tmp_path):
    run = launch("killed", tmp_path, limit=100)
    assert run.returncode != 0
    assert not (tmp_path / "1.pt").exists()
    found = torch.load(tmp_path / "0.pt")["killed"]
    c = case("mlp", "cross-entropy")
    assert apart(found["first"], c.hessian @ vectors(len(c.flat()))[:, 0]) < 1e-10
    text = "RuntimeError: rank 0, one of 2, did not get the sums of the others"
    assert found["second"].startswith(text), found["second"]
    assert "start all ranks again" in found["second"]
    assert found["seconds"] < 20  # the timeout of its group


@pytest.mark.slow
def test_a_rank_that_stays_away_is_waited_for_until_the_timeout(tmp_path):
    run = launch("absent", tmp_path, limit=100)
    waited, away = (torch.load(tmp_path / f"{rank}.pt")["absent"] for rank in range(2))
    assert waited["found"].startswith("RuntimeError: rank 0, one of 2, did not get"), run.stdout
    assert 4 < waited["seconds"] < 11
    assert away["found"].startswith("ValueError: v has 65 rows")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_nccl_gives_what_one_process_gives(tmp_path):
    processes = min(2, torch.cuda.device_count())
    run = launch("nccl", tmp_path, processes=processes)
    assert run.returncode == 0, run.stdout[-4000:]
    c = case("residual", "cross-entropy")
    H = hl.Hessian(c.model, c.loss, (c.x, c.y), batch_size=BATCH)
    V = vectors(H.shape[0])
    for rank in range(processes):
        found = torch.load(tmp_path / f"{rank}.pt")["nccl"]
        assert apart(found["block"], H @ V) < 1e-10  # other kernels than on the CPU
        assert apart(found["gradient"], H.gradient()) < 1e-10
        assert found["refused"].startswith("ValueError: the process group moves tensors by NCCL")
        if processes == 2:
            assert found["vector"].startswith("ValueError: v is not the same on all ranks")


@pytest.fixture
def alone(monkeypatch):
    """A group of this process alone."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", LOOPBACK)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_group_of_one(alone):
    c = case("mlp", "cross-entropy")
    data = hl.data.Dataset(c.x, c.y, "random")
    v = vectors(len(c.flat()))[:, 0]
    for group in (True, dist.group.WORLD):
        H = hl.Hessian(c.model, c.loss, data, process_group=group)
        assert repr(H).endswith("rank 0, one of 1)")
        assert apart(H @ v, c.hessian @ v) < 1e-10
    J = hl.Jacobian(c.model, data, process_group=False)
    assert apart(J @ v, c.jacobian @ v) < 1e-10


def test_running_statistics_are_part_of_what_is_compared(alone):
    from hesslab.operators.group import traits
    from hesslab.operators.network import Network

    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval()
    found = [traits({}, Network(model, None, batchnorm=mode)) for mode in ("running", "batch")]
    model[1].running_var += 1
    model[1].num_batches_tracked += 1
    then = [traits({}, Network(model, None, batchnorm=mode)) for mode in ("running", "batch")]
    assert found[0] != then[0]
    assert found[1] == then[1]


def test_something_that_is_no_group(alone):
    c = case("mlp", "cross-entropy")
    with pytest.raises(TypeError, match="process_group is a str; expected True"):
        hl.Hessian(c.model, c.loss, (c.x, c.y), process_group="gloo")
    with pytest.raises(ValueError, match="this process is no member of process_group"):
        hl.GGN(c.model, c.loss, (c.x, c.y), process_group=dist.GroupMember.NON_GROUP_MEMBER)


def test_group_before_it_is_there():
    c = case("mlp", "cross-entropy")
    with pytest.raises(ValueError, match=r"start the script with torchrun and call torch.distri"):
        hl.Hessian(c.model, c.loss, (c.x, c.y), process_group=True)
    assert "rank" not in repr(hl.Hessian(c.model, c.loss, (c.x, c.y), process_group=False))
