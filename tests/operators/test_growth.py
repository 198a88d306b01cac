"""A thousand products leave nothing behind, and what an operator has kept goes with it."""

import gc
import resource
import statistics
import sys
import tracemalloc
import weakref
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

import hesslab as hl
from hesslab.operators.engine import programs
from tests.cases import lap_times

X = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(8) % 2
CE = hl.losses.CrossEntropy()
ROUTES = {"stream": {"mode": "stream"}, "cache": {"mode": "cache"}, "auto": {}, "autograd": {}}
OPERATORS = ["Hessian", "GGN"]
COVERED = [
    *(("Hessian", route) for route in ("stream", "auto", "autograd")),
    ("GGN", "cache"),
]


def net(width=4):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 2))


def operator(name, route, model=None, data=(X, Y), **options):
    options = {"batch_size": 5, **ROUTES[route], **options}
    A = getattr(hl, name)(model or net(), CE, data, **options)
    if route == "autograd":
        A.plan.untraced("for comparison")
    return A


def tensors():
    """The tensors that are alive once the collector finds nothing more."""
    while gc.collect():
        pass
    return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())


def resident():
    """Bytes of the process that are in memory."""
    if sys.platform.startswith("linux"):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # of macOS, in bytes


@pytest.mark.parametrize(("name", "route"), COVERED)
def test_a_thousand_products_leave_memory_as_it_was(name, route):
    A = operator(name, route, batch_size=8)
    v = torch.ones(A.shape[1])
    tracemalloc.start()
    try:
        for _ in range(100):
            A @ v
        gc.collect()
        alive, sizes, objects = tensors(), [resident()], tracemalloc.get_traced_memory()[0]
        for _ in range(3):
            for _ in range(300):
                A @ v
            sizes.append(resident())
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - objects < 50_000
    finally:
        tracemalloc.stop()
    growth = [after - before for before, after in pairwise(sizes)]
    assert min(growth) < 1 << 18, growth  # what leaks grows each time, the allocator's pools once
    assert tensors() == alive


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", [*OPERATORS, "GradientCovariance"])
def test_no_tensor_of_a_product_waits_for_the_collector(name, route):
    A = operator(name, route)
    V = torch.ones(A.shape[1], 2)
    for _ in range(3):
        A @ V
        A @ V[:, 0]
    gc.collect()
    flags = gc.get_debug()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(5):
            A @ V
            A @ V[:, 0]
        gc.collect()
        found = [thing for thing in gc.garbage if isinstance(thing, torch.Tensor | nn.Module)]
    finally:
        gc.set_debug(flags)
        gc.garbage.clear()
        gc.enable()
    assert not found  # torch's own bookkeeping of arguments may


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", OPERATORS)
def test_results_carry_no_graph(name, route):
    model = net()
    A = operator(name, route, model)
    V = torch.ones(A.shape[1], 2, requires_grad=True)
    for _ in range(3):
        assert not (A @ V).requires_grad
        assert not (A @ V[:, 0]).requires_grad
        assert not any(t.requires_grad for t in (A @ dict(model.named_parameters())).values())
    assert not A.gradient().requires_grad
    found = hl.linalg.eigsh(A, k=2)
    assert not found.vectors.requires_grad
    with pytest.raises(RuntimeError, match="does not require grad"):
        found.values.sum().backward()
    assert V.grad is None
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("route", ROUTES)
def test_the_last_products_are_no_slower_than_the_first(route):
    A = operator("Hessian", route)
    v = torch.ones(A.shape[1])
    for _ in range(3):
        A @ v
    seconds = lap_times(A, v, 50)
    assert statistics.median(seconds[-10:]) < 3 * statistics.median(seconds[:10])


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_takes_its_residuals_along(name, route):
    model = net(width=64)
    data = [(torch.cat([X] * 8), torch.cat([Y] * 8)) for _ in range(4)]
    first = operator(name, route, model, data)
    v = torch.ones(first.shape[1])
    first @ v
    first @ v
    del first
    alive = tensors()
    A = operator(name, route, model, data)
    A @ v
    A @ v
    kept = A.plan.traced and A.plan.traced._kept
    assert bool(kept) == (route in ("cache", "auto"))
    ours = {x.data_ptr() for x, _ in data} | {y.data_ptr() for _, y in data}
    references = [
        weakref.ref(t) for batch in kept or () for t in batch.kept if t.data_ptr() not in ours
    ]
    point = [weakref.ref(t) for t in A._network.point.values()]
    assert len(references) >= 4 * bool(kept)
    del A, kept
    assert not [r for r in [*references, *point] if r() is not None]  # without the collector
    assert tensors() == alive


def test_restricting_and_forgetting():
    model = net()
    A = operator("Hessian", "cache", model)
    v = torch.ones(A.shape[1])
    A @ v
    alive = []
    for _ in range(3):
        part = A.restrict("0.*")
        part @ torch.ones(part.shape[1])
        blocks = A.block_diagonal()
        blocks @ v
        del part, blocks
        alive.append(tensors())
    assert alive[1:] == alive[:-1]  # the first time traces the functions of fewer parameters


def graphs(model):
    return sum(len(p._hessians) for p in programs._PROGRAMS[model].values())


def test_operators_of_one_model_share_their_graphs():
    model = net()
    found = []
    for _ in range(6):
        A = operator("Hessian", "cache", model)
        A @ torch.ones(A.shape[1])
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1)
        found.append(graphs(model))
    assert found[1:] == found[:-1]


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss,
        hl.losses.CrossEntropy,
        lambda: hl.losses.GaussianLikelihood(0.5),
        lambda: nn.functional.cross_entropy,
    ],
    ids=["torch", "ours", "gaussian", "function"],
)
def test_operators_with_equal_losses_share_their_graphs(loss):
    model = net()
    y = X[:, :2] if isinstance(loss(), hl.losses.GaussianLikelihood) else Y
    for _ in range(4):
        hl.Hessian(model, loss(), (X, y), mode="cache") @ torch.ones(26)
    assert graphs(model) <= 1  # those of a plain function need not outlive their operator


class Learner(nn.Module):
    """A model that brings its own loss."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        return self.net(x)

    def loss(self, f, y):
        return nn.functional.cross_entropy(f, y)


def test_a_model_whose_loss_is_its_own_method_is_freed():
    model = Learner()
    kept = weakref.ref(model)
    A = hl.Hessian(model, model.loss, (X, Y))
    A @ torch.ones(A.shape[1])
    del A, model
    gc.collect()
    assert kept() is None


class Remembering(Learner):
    """A model that keeps its last activation and counts its calls."""

    last, calls = None, 0

    def forward(self, x):
        self.last, self.calls = self.net(x), self.calls + 1
        return self.last


def test_a_model_that_writes_attributes_gathers_few_programs(monkeypatch):
    monkeypatch.setattr(programs, "PROGRAMS", 3)
    model = Remembering()
    for _ in range(4):
        A = operator("Hessian", "cache", model)
        A @ torch.ones(A.shape[1])
        model(X)
        assert len(programs._PROGRAMS[model]) <= 3
