"""The routes of a product: streamed or kept, traced or by autograd, they are one matrix."""

import copy
import functools
import gc
import pickle
import re
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import hesslab as hl
from hesslab.operators import plan as plans
from hesslab.operators.engine import batch, program
from hesslab.operators.engine.traced import SHAPES
from hesslab.operators.plan import Plan
from tests.batchnorms import CE, NETS, N, build, mean_over, native
from tests.cases import MODELS, Case, case

# float64 products of networks with entries of order one: rounding is some 1e-15 a sum
EXACT = {"rtol": 1e-9, "atol": 1e-12}
BATCH = 4  # of N = 11 examples: two batches and a ragged one


def second_moment(c):
    pairs = zip(c.x.split(1), c.y.split(1), strict=True)
    g = torch.stack([Case(c.model, c.loss, x, y).gradient for x, y in pairs])
    return g.T @ g / len(g)


def covariance(c):
    return second_moment(c) - torch.outer(c.gradient, c.gradient)


# The operator of a case, and its dense reference.
OPERATORS = {
    "hessian": (lambda c, **o: hl.Hessian(c.model, c.loss, (c.x, c.y), **o), lambda c: c.hessian),
    "ggn": (lambda c, **o: hl.GGN(c.model, c.loss, (c.x, c.y), **o), lambda c: c.ggn),
    "fisher": (lambda c, **o: hl.Fisher(c.model, c.loss, (c.x, c.y), **o), lambda c: c.ggn),
    "empirical": (
        lambda c, **o: hl.Fisher(c.model, c.loss, (c.x, c.y), kind="empirical", **o),
        second_moment,
    ),
    "covariance": (
        lambda c, **o: hl.GradientCovariance(c.model, c.loss, (c.x, c.y), **o),
        covariance,
    ),
    "jacobian": (lambda c, **o: hl.Jacobian(c.model, (c.x, c.y), **o), lambda c: c.jacobian),
    "transpose": (lambda c, **o: hl.Jacobian(c.model, c.x, **o).T, lambda c: c.jacobian.T),
    "kernel": (lambda c, **o: hl.NTK(c.model, c.x, **o), lambda c: c.jacobian @ c.jacobian.T),
}
ROUTES = {
    "stream": {"mode": "stream"},
    "cache": {"mode": "cache"},
    "auto": {},
    "too little memory": {"memory_limit": 1},
    "autograd": {"mode": "cache"},
}


@functools.cache
def normed(net):
    """A network with batch norm and its data, as a case."""
    model, x, y = build(*NETS[net])
    return Case(model, CE, x, y)


@functools.cache
def references(net, mode):
    """The cases whose mean is the function of a mode of batch norm."""
    c = normed(net)
    return native(c.model, c.x, c.y, mode)


def plan_of(A):
    """The plan by which an operator's products are taken."""
    for name in ("_matrix", "jacobian", "_gram"):
        A = getattr(A, name, A)
    return A.plan


def operator(name, c, route, **options):
    A = OPERATORS[name][0](c, batch_size=BATCH, **ROUTES[route], **options)
    if route == "autograd":
        plan_of(A).untraced("for comparison")
    return A


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def check_three_products(A, dense):
    """A block, a vector and an array, or a dictionary: each route has then changed its state."""
    V = random(A.shape[1], 3)
    expected = dense @ V
    torch.testing.assert_close(A @ V, expected, **EXACT)
    torch.testing.assert_close(A @ V[:, 0], expected[:, 0], **EXACT)
    if A._columns.shapes:
        product = A @ A.vector_to_dict(V[:, 1].contiguous())
        joined = A.dict_to_vector(product) if isinstance(product, dict) else product
        torch.testing.assert_close(joined, expected[:, 1], **EXACT)
    torch.testing.assert_close(torch.from_numpy(A @ V.numpy()), expected, **EXACT)


# Each operator on each route; each family of models with the Hessian, the GGN and the Jacobian.
COVERED = [(name, route, "mlp") for name in OPERATORS for route in ROUTES] + [
    (name, route, model)
    for model in MODELS
    for name, route in [("hessian", "auto"), ("ggn", "cache"), ("transpose", "stream")]
    if model != "mlp"
]


@pytest.mark.parametrize(("name", "route", "model"), COVERED)
def test_every_route_equals_the_dense_reference(name, route, model):
    c = case(model, "cross-entropy")
    A = operator(name, c, route)
    check_three_products(A, OPERATORS[name][1](c))
    start = {"stream": "streaming", "too little memory": "streaming (", "autograd": "streaming by"}
    assert repr(plan_of(A)).startswith(start.get(route, "cached: "))


@pytest.mark.parametrize(
    ("name", "net", "mode", "route"),
    [
        ("hessian", "conv", "running", "auto"),
        ("hessian", "dense", "running", "too little memory"),
        ("hessian", "dense", "batch", "stream"),
        ("hessian", "dense", "batch", "autograd"),
        ("hessian", "conv", "batch", "auto"),
        ("hessian", "dense", "population", "stream"),
        ("hessian", "conv", "population", "auto"),
        ("ggn", "dense", "running", "cache"),
        ("ggn", "conv", "running", "autograd"),
        ("ggn", "dense", "batch", "cache"),
        ("ggn", "conv", "batch", "stream"),
        ("ggn", "conv", "population", "cache"),
        ("ggn", "dense", "population", "autograd"),
    ],
)
def test_every_mode_of_batch_norm(name, net, mode, route):
    A = operator(name, normed(net), route, batchnorm=mode)
    check_three_products(A, mean_over(references(net, mode), name))


@pytest.mark.parametrize("mode", ["batch", "population"])
@pytest.mark.parametrize("name", ["jacobian", "transpose"])
def test_the_jacobian_of_batch_norm(name, mode):
    J = torch.cat([c.jacobian for c in references("dense", mode)])
    A = operator(name, normed("dense"), "auto", batchnorm=mode)
    check_three_products(A, J if name == "jacobian" else J.T)


@pytest.mark.parametrize("loss", ["torch-cross-entropy", "gaussian", "torch-mse", "callable"])
@pytest.mark.parametrize("name", ["hessian", "ggn"])
def test_every_loss_streamed_and_kept(name, loss):
    c = case("mlp", loss)
    check_three_products(operator(name, c, "auto"), OPERATORS[name][1](c))


def lean_limit(c, **options):
    """Bytes that hold the residuals without cotangents, but not those with them."""
    plan = OPERATORS["hessian"][0](c, batch_size=BATCH, **options).plan
    full, lean = (
        plan.traced.residual_bytes("hessian", c.x[:BATCH], c.y[:BATCH], lean=lean) * N // BATCH
        for lean in (False, True)
    )
    assert lean < full
    return full - 1


@pytest.mark.parametrize("mode", ["cache", "auto"])
@pytest.mark.parametrize("model", ["mlp", "residual", "attention"])
def test_the_lean_plan(model, mode):
    c = case(model, "cross-entropy")
    limit = lean_limit(c)
    H = OPERATORS["hessian"][0](c, batch_size=BATCH, mode=mode, memory_limit=limit)
    check_three_products(H, c.hessian)
    assert "of residuals without cotangents" in repr(H)
    streamed, v = operator("hessian", c, "stream"), random(H.shape[1])
    assert torch.equal(H @ v, streamed @ v)


@pytest.mark.parametrize("batchnorm", ["batch", "population"])
def test_the_lean_plan_of_batch_norm(batchnorm):
    c = normed("conv")
    limit = lean_limit(c, batchnorm=batchnorm)
    options = {"mode": "cache", "batchnorm": batchnorm, "memory_limit": limit}
    H = OPERATORS["hessian"][0](c, batch_size=BATCH, **options)
    check_three_products(H, mean_over(references("conv", batchnorm), "hessian"))
    assert "without cotangents" in repr(H)


# Equal to the bit


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ["hessian", "ggn"])
def test_products_are_equal_to_the_bit_on_every_traced_route(name, model, columns):
    c = case(model, "cross-entropy")
    V = random(len(c.flat()), columns)
    V = V[:, 0] if columns == 1 else V
    found = []
    for route in ("stream", "cache", "auto"):
        A = operator(name, c, route)
        found += [A @ V for _ in range(3)]
    assert all(torch.equal(product, found[0]) for product in found)


@pytest.mark.parametrize("name", sorted(set(OPERATORS) - {"hessian", "ggn"}))
def test_products_of_the_others_are_equal_to_the_bit(name):
    c = case("mlp", "cross-entropy")
    found = []
    for route in ("stream", "cache", "auto", "auto"):  # two operators of one kind among them
        A = operator(name, c, route)
        found += [A @ random(A.shape[1], 2) for _ in range(3)]
    assert all(torch.equal(product, found[0]) for product in found)


@pytest.mark.parametrize(
    ("name", "route"),
    [*(("hessian", route) for route in ROUTES), ("ggn", "stream"), ("kernel", "cache")],
)
def test_training_the_model_moves_nothing(name, route):
    model, x, y = build(*NETS["dense"])
    A = operator(name, Case(model, CE, x, y), route)
    v = random(A.shape[1])
    expected = A @ v
    for _ in range(2):
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        model.eval()
        assert torch.equal(A @ v, expected)
    for buffer in model.buffers():
        buffer.zero_()
    assert torch.equal(A @ v, expected)


# The plan


def test_the_plan_of_each_step_stands_in_the_repr():
    c = case("mlp", "cross-entropy")
    v = random(len(c.flat()))
    first = ["streaming, residuals to be kept by the second product"] * 2
    kept = r"cached: \d\.\d kB of residuals"
    steps = {
        "stream": ["streaming"] * 3,
        "auto": [*first, kept],
        "cache": ["residuals to be kept by the first product", kept, kept],
        "autograd": [r"streaming by autograd \(for comparison\)"] * 3,
        "too little memory": [
            *first,
            r"streaming \(\d\.\d kB of residuals exceed memory_limit, 0.0 kB\)",
        ],
    }
    for route, expected in steps.items():
        H = operator("hessian", c, route)
        for step in expected:
            assert re.search(rf"torch.float64 on cpu, {step}\)$", repr(H))
            H @ v


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ["hessian", "ggn"])
def test_the_plan_counts_what_is_kept(name, model):
    c = case(model, "cross-entropy")
    A = operator(name, c, "cache")
    A @ random(A.shape[1])
    batches = A.plan.traced._kept
    there = [t for b in batches for t in (*b.point.q, *b.point._values)]
    known = {t.untyped_storage().data_ptr() for t in there}
    storages = [
        t.untyped_storage()
        for b in batches
        for t in (*b.kept, b.x, b.y, b.outputs, b.data)
        if t is not None
    ]
    kept = {storage.data_ptr(): storage.nbytes() for storage in storages}
    size = sum(nbytes for place, nbytes in kept.items() if place not in known)
    stated = float(repr(A.plan).split()[1]) * 1e3
    assert size <= 1.02 * stated
    assert stated < 1.2 * size


@pytest.mark.parametrize("mode", ["auto", "cache"])
def test_later_batches_take_more_than_the_first(mode):
    # Sequences: what the first batch takes says little of the others.
    c = case("attention", "cross-entropy")
    long = c.x.repeat(1, 8, 1)
    data = [(c.x[:4], c.y[:4]), (long[4:8], c.y[4:8]), (long[8:], c.y[8:])]

    def build(**options):
        return hl.Hessian(c.model, c.loss, data, **options)

    generous = build(mode="cache")
    expected = generous @ random(generous.shape[1])
    held = sum(batch.held() for batch in generous.plan.traced._kept)
    assert held > 2 * generous.plan.residual_bytes
    A = build(mode=mode, memory_limit=generous.plan.residual_bytes)
    for _ in range(1 if mode == "cache" else 2):
        torch.testing.assert_close(A @ random(A.shape[1]), expected, **EXACT)
    assert A.plan.traced._kept is None
    if mode == "cache":
        with pytest.raises(MemoryError, match="of residuals exceed memory_limit"):
            A @ random(A.shape[1])
    else:
        for _ in range(2):
            torch.testing.assert_close(A @ random(A.shape[1]), expected, **EXACT)
        assert "streaming (" in repr(A.plan)


@pytest.mark.parametrize("name", ["hessian", "ggn"])
def test_the_clock_chooses_the_columns_of_a_block(monkeypatch, name):
    c = case("mlp", "cross-entropy")
    A = operator(name, c, "auto", block_size="calibrate")
    V, dense = random(A.shape[1], 6), OPERATORS[name][1](c)
    torch.testing.assert_close(A @ V[:, 0], dense @ V[:, 0], **EXACT)
    assert A.plan.uncalibrated
    measured = []
    original = plans.Plan.calibrated
    monkeypatch.setattr(
        plans.Plan, "calibrated", lambda plan, s: measured.append(s) or original(plan, s)
    )
    for _ in range(2):
        torch.testing.assert_close(A @ V, dense @ V, **EXACT)
    (seconds,) = measured
    assert list(seconds) == [1, 2, 4]
    best = min(seconds, key=seconds.get)
    assert A.plan.traced.block_size == best
    assert f"; {best} columns at once, by the clock" in repr(A)
    assert "cached: " in repr(A)


def test_nothing_is_calibrated_without_a_trace():
    c = case("mlp", "cross-entropy")
    A = operator("hessian", c, "autograd", block_size="calibrate")
    V = random(A.shape[1], 3)
    torch.testing.assert_close(A @ V, c.hessian @ V, **EXACT)


@pytest.mark.parametrize("name", ["hessian", "ggn", "jacobian", "transpose"])
def test_residuals_on_the_host(monkeypatch, name):
    # As on CUDA, where both memories differ.
    copies = []

    def counted(t):
        copies.append(t.clone(memory_format=torch.preserve_format))
        return copies[-1]

    monkeypatch.setattr(batch, "_on_host", counted)
    found = plans.Residuals(lean=False, on_host=True, size=10, limit=10**6)
    monkeypatch.setattr(plans.Plan, "residuals", lambda *args: found)
    c = case("residual", "cross-entropy")
    A = operator(name, c, "cache")
    check_three_products(A, OPERATORS[name][1](c))
    assert "cached: 0.0 kB of residuals on the host" in repr(A)
    inner = A.T if name == "transpose" else A
    kept = [t for batch in inner.plan.traced._kept for t in batch.kept]
    assert len(copies) > 3
    places = {t.data_ptr() for t in kept}
    assert all(t.data_ptr() in places for t in copies)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["hessian", "ggn"])
def test_residuals_that_exceed_the_device_wait_on_the_host(monkeypatch, name):
    c = case("residual", "cross-entropy")
    expected = OPERATORS[name][1](c)
    cuda = Case(copy.deepcopy(c.model).cuda(), c.loss, c.x.cuda(), c.y.cuda())
    original = plans.quarter
    monkeypatch.setattr(plans, "quarter", lambda d: 1 if d.type == "cuda" else original(d))
    A = OPERATORS[name][0](cuda, batch_size=BATCH, mode="cache")
    for _ in range(3):
        torch.testing.assert_close(
            (A @ torch.eye(A.shape[1]).double().cuda()).cpu(), expected, **EXACT
        )
    assert "on the host" in repr(A)
    kept = [t for batch in A.plan.traced._kept for t in batch.kept if t.device.type == "cpu"]
    assert kept
    assert all(t.is_pinned() for t in kept)


@pytest.mark.parametrize("name", ["hessian", "ggn"])
def test_batches_of_many_shapes_are_not_traced(name):
    c = case("attention", "cross-entropy")
    data = [(c.x.repeat(1, n, 1)[:3], c.y[:3]) for n in range(1, SHAPES + 2)]
    A = getattr(hl, {"hessian": "Hessian", "ggn": "GGN"}[name])(c.model, c.loss, data)
    product = A @ random(A.shape[1])
    assert f"streaming by autograd (batches of more than {SHAPES} shapes" in repr(A)
    parts = [type(A)(c.model, c.loss, pair) @ random(A.shape[1]) for pair in data]
    torch.testing.assert_close(product, torch.stack(parts).mean(0), **EXACT)


@pytest.mark.parametrize("route", ["stream", "auto", "cache", "autograd"])
@pytest.mark.parametrize("how", [copy.deepcopy, lambda A: pickle.loads(pickle.dumps(A))])
def test_a_copy_of_an_operator_in_use(how, route):
    c = case("mlp", "cross-entropy")
    A = operator("hessian", c, route)
    for _ in range(2):
        A @ random(A.shape[1])
    B = how(A)
    assert B.plan.lock is not A.plan.lock
    check_three_products(B, c.hessian)
    assert (B.plan.traced is None) == (route == "autograd")
    assert ("cached: " in repr(B)) == (route in ("auto", "cache"))


@pytest.mark.parametrize("route", ["stream", "auto", "cache", "autograd"])
@pytest.mark.parametrize("name", ["hessian", "ggn"])
def test_first_products_on_several_threads(name, route):
    c = case("residual", "cross-entropy")
    A = operator(name, c, route)
    V = torch.stack([random(A.shape[1], seed=seed) for seed in range(8)], dim=1)
    with ThreadPoolExecutor(4) as pool:
        products = list(pool.map(lambda k: A @ V[:, k].contiguous(), range(8)))
    torch.testing.assert_close(torch.stack(products, 1), OPERATORS[name][1](c) @ V, **EXACT)


def test_a_plan_that_keeps_too_much_is_an_error():
    c = case("attention", "cross-entropy")
    message = (
        r'mode="cache": \d+\.\d kB of residuals exceed memory_limit, 1.0 kB; raise memory_limit, '
        'take fewer examples, or mode="stream"'
    )
    for name in OPERATORS:
        A = OPERATORS[name][0](c, batch_size=BATCH, mode="cache", memory_limit=1000)
        for _ in range(2):
            with pytest.raises(MemoryError, match=message):
                A @ random(A.shape[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "fast"}, 'mode=\'fast\' is unknown; expected "auto", "stream" or "cache"'),
        ({"memory_limit": 0}, "memory_limit=0 is out of range: expected a whole number of at le"),
        ({"memory_limit": 1e9}, "memory_limit=1000000000.0 is out of range"),
        ({"memory_limit": True}, "memory_limit=True is out of range"),
        ({"block_size": 0}, "block_size=0 is out of range"),
        ({"block_size": "many"}, "block_size='many' is out of range"),
    ],
)
@pytest.mark.parametrize("name", ["hessian", "kernel"])
def test_choices_out_of_range(name, options, message):
    c = case("mlp", "cross-entropy")
    with pytest.raises(ValueError, match=message):
        OPERATORS[name][0](c, **options)


@pytest.mark.parametrize("mode", ["stream", "cache"])
@pytest.mark.parametrize("name", sorted(set(OPERATORS) - {"fisher"}))
def test_columns_in_blocks_of_any_size(name, mode):
    c = case("mlp", "cross-entropy")
    dense = OPERATORS[name][1](c)
    V = random(dense.shape[1], 5)
    for size in (1, 2, 5, 64):
        A = OPERATORS[name][0](c, batch_size=BATCH, mode=mode, block_size=size)
        assert plan_of(A).traced.block_size == size
        torch.testing.assert_close(A @ V, dense @ V, **EXACT)


def test_blocks_are_for_small_products_of_matrices():
    cpu = torch.device("cpu")
    assert Plan("auto", None, None).columns(cpu, 128) == 32
    assert Plan("auto", None, 7).columns(cpu, 128) == 7
    assert Plan("auto", None, 7).columns(cpu, 129) == 1
    assert Plan("auto", None, None).columns(cpu, float("inf")) == 1


# Parts of an operator that has kept its residuals


@pytest.mark.parametrize(
    ("name", "route"),
    [("hessian", "stream"), ("hessian", "auto"), ("hessian", "autograd"), ("empirical", "cache")],
)
def test_parts_of_an_operator_in_use(name, route):
    c = case("mlp", "cross-entropy")
    A, dense = operator(name, c, route), OPERATORS[name][1](c)
    for _ in range(2):
        A @ random(A.shape[1])
    names = c.names()
    part = A.restrict(names[2:4])
    sizes = [p.numel() for p in c.model.parameters()]
    pieces = torch.arange(sum(sizes)).split(sizes)
    rows = torch.cat(pieces[2:4])
    check_three_products(part, dense[rows][:, rows])
    blocks = A.block_diagonal()
    check_three_products(blocks, torch.block_diag(*(dense[r][:, r] for r in pieces)))
    assert all((b.plan.traced is None) == (route == "autograd") for b in blocks.blocks)
    torch.testing.assert_close(A.to_dense(), dense, **EXACT)


def test_a_part_makes_its_own_plan():
    c = case("mlp", "cross-entropy")
    full = OPERATORS["hessian"][0](c, batch_size=BATCH, memory_limit=1200)
    for _ in range(2):
        full @ random(full.shape[1])
    assert "streaming (3.3 kB of residuals exceed" in repr(full)
    part = full.restrict(c.names()[-1])
    assert "residuals to be kept by the second product" in repr(part)
    for _ in range(2):
        part @ random(part.shape[1])
    assert "cached: " in repr(part)


def test_the_blocks_of_a_matrix_share_its_memory():
    c = case("mlp", "cross-entropy")
    whole = operator("hessian", c, "auto")
    for _ in range(2):
        whole @ random(whole.shape[1])
    limit = whole.plan.residual_bytes
    for mode in ("auto", "cache"):
        A = OPERATORS["hessian"][0](c, batch_size=BATCH, mode=mode, memory_limit=limit)
        blocks = A.block_diagonal().blocks
        for block in blocks:
            for _ in range(2):
                try:
                    block @ random(block.shape[1])
                except MemoryError:
                    assert mode == "cache"
        kept = [block.plan.residual_bytes for block in blocks]
        assert 0 < sum(kept) <= limit


# Programs


@pytest.fixture
def traces(monkeypatch):
    """The shapes of the batches for which a network is traced while a test runs."""
    shapes = []

    def counted(run, state, x):
        shapes.append(len(x))
        return original(run, state, x)

    original = program.trace
    monkeypatch.setattr(program, "trace", counted)
    return shapes


def test_programs_serve_every_operator_of_the_model(traces):
    model, x, y = build(*NETS["conv"])
    c = Case(model, CE, x, y)
    H = operator("hessian", c, "cache")
    H @ random(H.shape[1])
    assert sorted(traces) == [3, 4]  # for the checks at construction a batch of 4 is cut to itself
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.5)
        for norm in (model[1], model[4]):
            norm.running_mean.add_(1)
    for name in ("hessian", "ggn", "jacobian"):
        check_three_products(operator(name, c, "cache"), OPERATORS[name][1](Case(model, CE, x, y)))
    assert len(traces) == 2
    part = operator("hessian", c, "cache").restrict("0.weight")
    part @ random(part.shape[1])
    assert len(traces) == 4  # other parameters are another function


def test_programs_end_with_their_model():
    models = []
    for name in OPERATORS:
        model, x, y = build(*NETS["dense"])
        A = operator(name, Case(model, CE, x, y), "cache")
        A @ random(A.shape[1])
        models.append(weakref.ref(model))
    del model, A
    gc.collect()
    assert [kept() for kept in models] == [None] * len(OPERATORS)


# Threads


def in_threads(*functions):
    """The results of functions that run at the same time."""
    results = [None] * len(functions)

    def call(i):
        results[i] = functions[i]()

    threads = [threading.Thread(target=call, args=(i,)) for i in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("route", ["stream", "cache"])
def test_products_of_one_operator_on_two_threads(route):
    c = case("cnn", "cross-entropy")
    A = operator("hessian", c, route)
    V = random(A.shape[1], 8)
    expected = [A @ v for v in V.T]
    one, two = in_threads(
        lambda: [A @ v for v in V.T[:4]],
        lambda: [A @ v for v in V.T[4:]],
    )
    assert all(torch.equal(a, b) for a, b in zip([*one, *two], expected, strict=True))


def test_operators_of_two_models_on_two_threads():
    cases = []
    for seed in (1, 2):
        model, x, y = build(*NETS["conv"], seed=seed)
        cases.append(Case(model, CE, x, y))
    expected = [c.hessian for c in cases]
    found = in_threads(*(lambda c=c: operator("hessian", c, "auto").to_dense() for c in cases))
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, **EXACT)
