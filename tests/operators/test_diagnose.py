"""What `diagnose` finds: the bottleneck where it is known, and figures that fit together."""

import functools
import json
import time

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import hesslab as hl
from hesslab.operators.diagnosis.measure import allocated, copied
from hesslab.operators.engine.programs import _PROGRAMS
from tests.cases import case, lap_times

SLEEP = 0.01  # seconds for each example of the slow data set
OPERATORS = [
    ("Hessian", {}),
    ("GGN", {}),
    ("Fisher", {"kind": "mc"}),
    ("GradientCovariance", {}),
    ("GradientCovariance", {"per": "batch"}),
]


class Slow(Dataset):
    """Sixteen examples that take their time."""

    def __len__(self):
        return 16

    def __getitem__(self, index):
        time.sleep(SLEEP)
        generator = torch.Generator().manual_seed(index)
        return torch.randn(4, generator=generator), index % 3


class Branching(nn.Module):
    """A forward that looks at values, which no graph can follow."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) if bool(x.sum() < 1e30) else x


def heavy(**options):
    """A product that is mostly arithmetic: some 10 ms for each of two batches."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1024, 512, generator=generator)
    y = torch.randint(0, 10, (1024,), generator=generator)
    model = options.pop("model", hl.models.mlp(512, 10, hidden=(256, 256), seed=0))
    return hl.GGN(model, nn.CrossEntropyLoss(), (x, y), **options)


def light(name="GGN", **options):
    c = case("mlp", "cross-entropy")
    return getattr(hl, name)(c.model, c.loss, (c.x, c.y), batch_size=4, **options)


@functools.cache
def ordinary():
    return hl.diagnose(heavy())


def test_nothing_stands_in_the_way_of_an_ordinary_product():
    found = ordinary()
    assert found.cause == "arithmetic"
    assert found.shares["arithmetic"] > 0.5
    assert list(found.stages) == ["first", "streaming", "preparing", "cached"]


@pytest.mark.parametrize("mode", ["auto", "stream"])
def test_slow_loader_is_named(mode):
    loader = DataLoader(Slow(), batch_size=8)
    model = hl.models.mlp(4, 3, hidden=(5,), seed=0)
    state = torch.get_rng_state()
    found = hl.diagnose(hl.Hessian(model, nn.CrossEntropyLoss(), loader, mode=mode))
    assert torch.equal(torch.get_rng_state(), state)
    assert found.cause == "data loading"
    assert "list(loader)" in found.bottleneck
    assert found.stages["streaming"]["reading data"] >= 16 * SLEEP
    if mode == "auto":
        assert found.stages["cached"]["reading data"] == 0


def test_untraceable_network_is_named_with_the_reason():
    found = hl.diagnose(heavy(model=Branching(hl.models.mlp(512, 10, hidden=(256, 256), seed=0))))
    assert found.cause == "autograd"
    assert "plain operations of torch" in found.bottleneck
    assert found.residual_bytes is None
    assert list(found.stages) == ["first", "streaming"]


@pytest.mark.parametrize(
    ("mode", "start"), [("auto", "each product goes through"), ("cache", 'mode="cache" refuses')]
)
def test_low_memory_limit_is_named(mode, start):
    found = hl.diagnose(heavy(mode=mode, memory_limit=1000))
    assert found.cause == "memory limit"
    assert found.bottleneck.startswith(start)
    assert f"at least {found.residual_bytes} " in found.bottleneck


@pytest.mark.parametrize("name", ["Hessian", "GGN"])
def test_the_memory_limit_that_is_asked_for_suffices_and_no_less(name):
    needed = hl.diagnose(light(name, memory_limit=10)).residual_bytes
    for limit, suffices in [(needed, True), (needed - 1, False)]:
        A = light(name, memory_limit=limit)
        v = torch.ones(A.shape[0], dtype=torch.float64)
        A @ v
        A @ v
        assert (A.plan.traced._kept is not None) is suffices


def test_streaming_by_choice_is_named():
    assert hl.diagnose(heavy(mode="stream")).cause == "mode"


def test_tiny_batches_are_named():
    c = case("mlp", "cross-entropy")
    x, y = c.x.repeat(6, 1), c.y.repeat(6)
    found = hl.diagnose(hl.GGN(c.model, c.loss, (x, y), batch_size=2))
    assert found.cause == "launches"
    assert "raise batch_size from 2" in found.bottleneck


@pytest.mark.parametrize(("name", "options"), OPERATORS)
def test_figures_are_consistent(name, options):
    start = time.perf_counter()
    found = hl.diagnose(light(name, **options))
    seconds = time.perf_counter() - start
    assert (found.batches, found.examples) == (3, 11)
    for kind, lap in found.stages.items():
        assert all(value >= 0 for value in lap.values())
        assert sum(lap.values()) == pytest.approx(found.product_seconds[kind], rel=1e-12)
        in_gradients = found.product_seconds[kind] / (found.gradient_seconds * 11 / 4)
        assert found.gradients[kind] == pytest.approx(in_gradients)
    assert sum(found.product_seconds.values()) < found.seconds <= seconds
    assert sum(found.shares.values()) == pytest.approx(1, abs=1e-12)
    assert min(found.shares.values()) >= 0
    assert found.bytes_to_device == found.bytes_to_host == 0
    assert found.growth_bytes == found.growth_tensors == 0
    assert found.peak_bytes > 0


def test_stages_add_up_to_the_wall_time_of_a_product():
    generator = torch.Generator().manual_seed(0)
    A, found = heavy(), ordinary()
    v = torch.randn(A.shape[0], generator=generator)
    A @ v
    A @ v
    seconds = lap_times(A, v, 10)
    # Two measurements on a machine that may do something else meanwhile.
    assert 0.2 * min(seconds) < found.product_seconds["cached"] < 5 * max(seconds)


def test_residuals_are_those_that_an_operator_keeps():
    A = light("Hessian")
    found = hl.diagnose(A)
    v = torch.ones(A.shape[0], dtype=torch.float64)
    A @ v
    A @ v
    kept = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for batch in A.plan.traced._kept
        for tensor in batch.kept
        if not any(tensor is given for given in (batch.x, batch.y, *batch.point.q))
    }
    # The estimate takes each batch for one like the first: 11 examples of 4.
    assert found.residual_bytes == pytest.approx(sum(kept.values()), rel=0.1)


@pytest.mark.parametrize(
    ("name", "options", "products"), [("GGN", {}, 0), *((*each, 3) for each in OPERATORS)]
)
def test_operator_is_as_before(name, options, products):
    v = torch.randn(64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    operator, twin = light(name, **options), light(name, **options)
    for _ in range(products):
        assert torch.equal(operator @ v, twin @ v)
    before, mode = repr(operator), operator.plan.mode
    kept = operator.plan.traced and operator.plan.traced._kept
    programs = dict(_PROGRAMS[operator._network.model])
    hl.diagnose(operator)
    assert _PROGRAMS[operator._network.model] == programs
    assert (repr(operator), operator.plan.mode) == (before, mode)
    assert (operator.plan.traced and operator.plan.traced._kept) is kept
    for _ in range(3):
        assert torch.equal(operator @ v, twin @ v)
    assert repr(operator) == repr(twin)
    assert torch.equal(operator.gradient(), twin.gradient())


def test_same_stages_under_inference_mode():
    with torch.inference_mode():
        found = hl.diagnose(light("Hessian"))
    assert "cached" in found.stages


@pytest.mark.parametrize("name", ["Jacobian", "NTK"])
def test_jacobian_and_kernel_are_looked_at_by_their_two_passes(name):
    c = case("mlp", "cross-entropy")
    found = hl.diagnose(getattr(hl, name)(c.model, c.x))
    assert found.operator.startswith(name)
    assert "cached" in found.stages


def test_a_batch_norm_over_batches_of_two_is_looked_at():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    x, y = torch.randn(4, 4), torch.tensor([0, 1, 2, 0])
    A = hl.GGN(model, nn.CrossEntropyLoss(), (x, y), batch_size=2, batchnorm="batch")
    assert hl.diagnose(A).batches == 2


def test_one_process_of_a_group_is_looked_at_alone(monkeypatch):
    dist = torch.distributed
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        A = light("Hessian", process_group=True)

        def refuse(*args, **kwargs):
            raise AssertionError("the others would have to take part")

        with monkeypatch.context() as patched:
            patched.setattr(dist, "all_reduce", refuse)
            assert hl.diagnose(A).examples == 11
        empty = hl.GGN(
            nn.Linear(4, 3), nn.MSELoss(), (torch.ones(1, 4), torch.ones(1, 3)), process_group=True
        )
        empty._is_empty = True  # as on a rank that got nothing
        with pytest.raises(ValueError, match="no data to look at; diagnose on a rank"):
            hl.diagnose(empty)
    finally:
        dist.destroy_process_group()


def test_what_it_prints_and_keeps():
    found = hl.diagnose(light("Hessian"), seed=3)
    text = repr(found)
    assert found.bottleneck in text
    header, *rows = [line for line in text.splitlines() if line.startswith(("milli", "network"))]
    assert header.split() == ["milliseconds", "first", "streaming", "preparing", "cached"]
    shown = [float(cell.replace(",", "")) for cell in rows[0].split()[1:]]
    assert shown == [round(1e3 * lap["network"], 2) for lap in found.stages.values()]
    again = json.loads(json.dumps(found.to_dict()))
    assert again == found.to_dict()
    assert (again["seed"], again["cause"]) == (3, found.cause)
    assert hl.report.table(found.columns()).data["text/html"].count("<tr>") > 4


def test_sums_and_the_like_say_what_to_diagnose():
    A = light()
    for operator, cure in [
        (A + A, r"Combination.*one by one: \[hl.diagnose\(A\) for _, A in sum.terms\]"),
        (A.congruence(torch.ones(A.shape[0], dtype=torch.float64)), "congruence.matrix"),
        (A.block_diagonal(), "one of its blocks"),
        (torch.eye(3), "is a Tensor; expected a matrix of one network"),
    ]:
        with pytest.raises(TypeError, match=cure):
            hl.diagnose(operator)


def test_failing_product_leaves_the_operator_as_it_was():
    model = hl.models.mlp(4, 3, hidden=(5,), seed=0)
    A = hl.GGN(model, nn.CrossEntropyLoss(), (torch.randn(8, 4), torch.zeros(8, dtype=int)))
    before = repr(A)
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(ValueError, match="autocast is on"),
    ):
        hl.diagnose(A)
    assert repr(A) == before
    assert torch.isfinite(A @ torch.ones(A.shape[0])).all()


def test_profiler_events_are_added_up_by_device():
    memory = {"name": "[memory]", "cat": "cpu_instant_event"}
    copies = {"cat": "gpu_memcpy"}
    events = [
        {**memory, "ts": 2.0, "args": {"Device Type": 0, "Bytes": 30}},
        {**memory, "ts": 1.0, "args": {"Device Type": 0, "Bytes": 10}},
        {**memory, "ts": 3.0, "args": {"Device Type": 0, "Bytes": -35}},
        {**memory, "ts": 2.5, "args": {"Device Type": 1, "Bytes": 1000}},
        {**copies, "name": "Memcpy HtoD (Pageable -> Device)", "args": {"bytes": 64}},
        {**copies, "name": "Memcpy HtoD (Pinned -> Device)", "args": {"bytes": 36}},
        {**copies, "name": "Memcpy DtoH (Device -> Pageable)", "args": {"bytes": 4}},
        {"name": "process_name", "ph": "M"},
    ]
    assert allocated(events, torch.device("cpu")) == (40, 5)
    assert allocated(events, torch.device("cuda")) == (1000, 1000)
    assert (copied(events, "HtoD"), copied(events, "DtoH")) == (100, 4)
