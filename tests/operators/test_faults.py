"""What goes wrong around a product, and what a user sees: a right result or a clear error."""

import subprocess
import sys
import threading

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import hesslab as hl
from hesslab.errors import NotDeterministic, NotFinite
from hesslab.operators.engine.traced import Traced
from tests.batchnorms import NETS, build
from tests.cases import Case

EXACT = {"rtol": 1e-9, "atol": 1e-12}
N = 11
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(N) % 3
CE = nn.CrossEntropyLoss()
MODES = ["auto", "stream", "cache"]
PAIRS = [("Hessian", "hessian"), ("GGN", "ggn")]
WEIGHTS = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
ARRAY = WEIGHTS.numpy()
KERNELS = ("flash", "mem_efficient", "math")


def mlp():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


class Wrapped(nn.Module):
    """A small net whose forward is any function of it and of the data."""

    def __init__(self, function):
        super().__init__()
        self.net = mlp()
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def check(operator, reference, model, *, loss=CE, traced=None, reason="", **options):
    """Three products against the dense matrix; the route, where it matters; the operator."""
    A = getattr(hl, operator)(model, loss, (X, Y), batch_size=4, **options)
    dense = getattr(Case(model, loss, X, Y), reference)
    V = torch.randn(A.shape[1], 2, generator=torch.Generator().manual_seed(1), dtype=X.dtype)
    for v in (V, V[:, 0], V):
        torch.testing.assert_close(A @ v, dense @ v, **EXACT)
    if traced is not None:
        assert (A.plan.traced is not None) == traced, A.plan
    if traced is False:
        assert "streaming by autograd (" in repr(A)
        assert reason in repr(A)
    return A


def ones(A):
    return torch.ones(A.shape[1], dtype=torch.float64)


# What a trace does not see


def weighted(f, y):
    return (nn.functional.cross_entropy(f, y, reduction="none") * WEIGHTS[y]).mean()


def looking(f, y):
    return nn.functional.cross_entropy(f if f.sum() > -1e9 else -f, y)


@pytest.mark.parametrize("loss", [weighted, looking])
@pytest.mark.parametrize(("operator", "reference"), PAIRS)
def test_a_loss_that_has_captured_a_tensor_or_looks_at_values(operator, reference, loss):
    check(operator, reference, mlp(), loss=loss, traced=True)


CAPTURING = {
    "of the module": lambda net, x: net.net(x) * WEIGHTS,
    "made in the forward": lambda net, x: net.net(x) * torch.tensor([1.0, 2.0, 3.0]).double(),
    "of numpy": lambda net, x: net.net(x) * torch.from_numpy(ARRAY),
    "detached": lambda net, x: net.net(x) * (1 + net.net[0](x).detach()[:, :3]),
}


@pytest.mark.parametrize("forward", CAPTURING.values(), ids=CAPTURING)
@pytest.mark.parametrize(("operator", "reference"), PAIRS)
def test_constants_that_are_no_buffers(operator, reference, forward):
    check(operator, reference, Wrapped(forward), traced=True)


def test_a_captured_constant_that_is_replaced():
    model = Wrapped(lambda net, x: net.net(x) * net.scale)
    for scale in (1.0, 3.0):
        model.scale = scale * WEIGHTS
        check("Hessian", "hessian", model, traced=True)


LOOKING = {
    "branch": lambda net, x: net.net(x) if x.sum() > -1e9 else net.net(-x),
    "number": lambda net, x: net.net(x) * max(net.net[0].weight.sum().item(), 2),
    "mask": lambda net, x: net.net(x) * float(bool((x > -1e9).all())),
}


@pytest.mark.parametrize("forward", LOOKING.values(), ids=LOOKING)
@pytest.mark.parametrize(("operator", "reference"), PAIRS)
def test_control_flow_that_depends_on_data(operator, reference, forward):
    for mode in MODES:
        reason = "data-dependent"
        check(operator, reference, Wrapped(forward), traced=False, reason=reason, mode=mode)


@pytest.mark.parametrize(("operator", "reference"), PAIRS)
def test_a_number_taken_out_of_a_tensor_is_read_at_each_point(operator, reference):
    model = Wrapped(lambda net, x: net.net(x) * net.net[0].weight.detach().sum().item())
    for _ in range(2):
        check(operator, reference, model)
        with torch.no_grad():
            model.net[0].weight.mul_(2)


class StraightThrough(torch.autograd.Function):
    """Rounds, and lets gradients pass as if it did not."""

    @staticmethod
    def forward(x):
        return x.round()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return g

    @staticmethod
    def jvp(ctx, t):
        return t.clone()


def straight_through(net, x):
    return net.net[2](StraightThrough.apply(3 * net.net[1](net.net[0](x))))


def straight_through_by_detach(net, x):
    h = 3 * net.net[1](net.net[0](x))
    return net.net[2](h + (h.round() - h).detach())


def normed_without_gradient(net, x):
    h = net.net[1](net.net[0](x))
    with torch.no_grad():
        norm = h.norm(dim=1, keepdim=True)
    return net.net[2](h / norm)


@pytest.mark.parametrize(("operator", "reference"), PAIRS)
@pytest.mark.parametrize("forward", [straight_through, straight_through_by_detach])
def test_straight_through_estimators(operator, reference, forward):
    traced = forward is straight_through_by_detach
    check(operator, reference, Wrapped(forward), traced=traced, reason="derivative of its own")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("operator", "reference"), PAIRS)
def test_a_region_without_gradient(operator, reference, mode):
    check(operator, reference, Wrapped(normed_without_gradient), traced=True, mode=mode)


@pytest.mark.parametrize(("operator", "reference"), PAIRS)
def test_a_region_without_gradient_by_autograd(operator, reference):
    def looking(net, x):
        return normed_without_gradient(net, x if x.sum() > -1e9 else -x)

    check(operator, reference, Wrapped(looking), traced=False, reason="data-dependent")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("factor", [1 + 1e-7, float("nan")])
def test_a_trace_that_is_wrong_is_not_used(monkeypatch, factor, mode):
    original = Traced.hessian

    def wrong(self, V):
        product, terms = original(self, V)
        product = product.clone()
        product[-1] *= factor
        return product, terms

    monkeypatch.setattr(Traced, "hessian", wrong)
    reason = "the traced product differs from autograd's in 2.bias, by "
    check("Hessian", "hessian", mlp(), traced=False, reason=reason, mode=mode)


def test_a_ragged_batch_that_cannot_be_traced():
    model = Wrapped(lambda net, x: net.net(-x if len(x) == 3 and x.sum() < -1e9 else x))
    for mode in MODES:
        A = hl.Hessian(model, CE, (X, Y), batch_size=4, mode=mode)
        assert A.plan.traced is not None
        check("Hessian", "hessian", model, traced=False, reason="data-dependent", mode=mode)


def test_outputs_that_do_not_depend_on_the_data():
    model = nn.Linear(4, 3).double()
    bias = Wrapped(lambda net, x: net.net[2].bias.expand(len(x), 3))
    check("Hessian", "hessian", bias, traced=False, reason="do not depend on the data")
    check("Hessian", "hessian", model, parameters=["weight", "bias"], traced=True)


def test_a_version_of_torch_that_was_not_tested(monkeypatch):
    for version in ("2.10.1", "2.14.0a0+git1234567", "3.0"):
        monkeypatch.setattr(torch, "__version__", version)
        reason = f"torch {version}: tracing was tested with 2.11 to 2.13"
        check("Hessian", "hessian", mlp(), traced=False, reason=reason)
    for version in ("2.11.0", "2.13.1+cu130"):
        monkeypatch.setattr(torch, "__version__", version)
        check("Hessian", "hessian", mlp(), traced=True)


AFTERWARDS = """
import torch
from torch import nn
import hesslab as hl
from tests.operators import test_faults as faults

torch.set_num_threads(1)
for forward in [*faults.CAPTURING.values(), *faults.LOOKING.values(), faults.straight_through]:
    model = faults.Wrapped(forward)
    loss = faults.CE if forward in faults.LOOKING.values() else faults.weighted
    A = hl.Hessian(model, loss, (faults.X, faults.Y))
    A @ faults.ones(A)

model, x, y = faults.mlp(), faults.X, faults.Y
point = {name: p.detach() for name, p in model.named_parameters()}
def f(p):
    return nn.functional.cross_entropy(torch.func.functional_call(model, p, (x,)), y)
direction = {name: torch.ones_like(p) for name, p in point.items()}
_, forward = torch.func.jvp(torch.func.grad(f), (point,), (direction,))
loss = f(dict(model.named_parameters()))
gradient = torch.autograd.grad(loss, model.parameters(), create_graph=True)
back = torch.autograd.grad(sum(g.sum() for g in gradient), model.parameters())
for one, two in zip(forward.values(), back):
    torch.testing.assert_close(one, two)
A = hl.Hessian(model, faults.CE, (x, y))
assert A.plan.traced is not None
torch.testing.assert_close(A @ faults.ones(A), torch.cat([g.flatten() for g in back]))
print("differentiates")
"""


def test_the_process_differentiates_after_traces_that_failed():
    command = [sys.executable, "-W", "ignore", "-c", AFTERWARDS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "differentiates\n", done.stderr


# What a forward leaves behind


def storing(net, x):
    net.hidden = net.net[0](x)
    net.calls += 1
    return net.net[2](net.net[1](net.hidden))


@pytest.mark.parametrize("operator", ["Hessian", "GGN"])
def test_activations_that_a_model_stores_are_real(operator):
    model = Wrapped(storing)
    model.hidden, model.calls = None, 0
    A = getattr(hl, operator)(model, CE, (X, Y), batch_size=4)
    for _ in range(3):
        assert model.hidden is None or model.hidden.sum().isfinite()
        assert isinstance(model.calls, int)
        A @ ones(A)
    assert A.plan.traced is not None
    model(X)
    assert torch.equal(model.hidden, model.net[0](X))


def test_activations_that_a_model_collects_are_real():
    model = Wrapped(lambda net, x: net.net[2](net.net[1](net.kept.setdefault("h", net.net[0](x)))))
    model.kept = {}
    model.register_forward_pre_hook(lambda *_: model.kept.clear())
    A = hl.Hessian(model, CE, (X, Y), batch_size=4)
    A @ ones(A)
    assert all(h.sum().item() < 1e9 for h in model.kept.values())


@pytest.mark.parametrize(("operator", "reference"), PAIRS)
def test_a_hook_is_part_of_the_forward(operator, reference):
    model = mlp()
    shapes = []
    model[0].register_forward_hook(lambda module, args, output: 2 * output)
    model[1].register_forward_pre_hook(lambda module, args: shapes.append(args[0].shape))
    check(operator, reference, model, traced=True)
    assert set(shapes) > {torch.Size([4, 5]), torch.Size([3, 5])}
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    assert hooks == 2
    assert not any("forward" in vars(m) for m in model.modules())


# A model that changes


@pytest.mark.parametrize("mode", MODES)
def test_autocast(mode):
    A = hl.Hessian(mlp(), CE, (X, Y), mode=mode)
    v = ones(A)
    expected = A @ v
    for _ in range(2):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with pytest.raises(ValueError, match="autocast is on, and its rounding would be diff"):
                A @ v
            with pytest.raises(ValueError, match="autocast is on"):
                A.gradient()
            with pytest.raises(ValueError, match="autocast is on"):
                hl.Hessian(mlp(), CE, (X, Y), mode=mode)
        assert torch.equal(A @ v, expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("operator", ["Hessian", "GGN"])
def test_a_mode_that_changes_after_construction(operator, mode):
    model = mlp().eval()
    A = getattr(hl, operator)(model, CE, (X, Y), batch_size=4, mode=mode)
    v = ones(A)
    expected = A @ v
    for _ in range(2):
        model.train()
        with pytest.raises(ValueError, match="train/eval mode has changed since the operator was"):
            A @ v
        model.eval()
        assert torch.equal(A @ v, expected)


@pytest.mark.parametrize("change", ["activation", "width", "dtype", "hook"])
def test_a_model_that_is_built_anew_between_two_operators(change):
    model = mlp()
    check("Hessian", "hessian", model, traced=True)
    if change == "activation":
        model[1] = nn.Softplus()
    elif change == "width":
        model[0], model[2] = nn.Linear(4, 7).double(), nn.Linear(7, 3).double()
    elif change == "hook":
        model[0].register_forward_hook(lambda module, args, output: output.sin())
    else:
        model.float()
        product = (A := hl.Hessian(model, CE, (X.float(), Y))) @ ones(A).float()
        assert product.dtype == torch.float32
        model.double()
    check("Hessian", "hessian", model)


def test_an_attribute_that_changes_between_two_operators():
    model = Wrapped(lambda net, x: net.scale * net.net(x))
    for scale, cuts in ((1.0, [8, 3]), (3.0, [2, 8, 1])):
        model.scale = scale
        data = list(zip(X.split(cuts), Y.split(cuts), strict=True))
        H = hl.Hessian(model, CE, data)
        torch.testing.assert_close(H @ ones(H), Case(model, CE, X, Y).hessian.sum(1), **EXACT)


# Data that is no good, or changes


def batches(x=X):
    return [(a.clone(), b) for a, b in zip(x[:10].split(2), Y[:10].split(2), strict=True)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("operator", ["Hessian", "GGN"])
def test_nan_in_the_inputs_of_the_third_batch(operator, mode):
    data = batches()
    data[2][0][1, 3] = torch.nan
    A = getattr(hl, operator)(mlp(), CE, data, mode=mode)
    for _ in range(3):
        with pytest.raises(NotFinite, match=r"batch 2: the inputs hold NaN .* first in example 1"):
            A @ ones(A)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("operator", ["Hessian", "GGN", "Fisher", "GradientCovariance"])
def test_nan_that_arises_in_the_third_batch(operator, mode):
    data = batches()
    data[2][0][1] = 0
    model = Wrapped(lambda net, x: net.net(x / x.norm(dim=1, keepdim=True)))
    A = getattr(hl, operator)(model, CE, data, mode=mode)
    for _ in range(3):
        with pytest.raises(NotFinite, match="the contribution of batch 2 is NaN or infinite"):
            A @ ones(A)
    J = hl.Jacobian(model, data, mode=mode)
    for _ in range(3):
        with pytest.raises(NotFinite, match="the change of the outputs of batch 2 is NaN or"):
            J @ ones(J)
        with pytest.raises(NotFinite, match="the contribution of batch 2 is NaN or infinite"):
            J.T @ ones(J.T)


def test_nan_that_arises_in_the_first_examples():
    x = X.clone()
    x[1] = 0
    model = Wrapped(lambda net, x: net.net(x / x.norm(dim=1, keepdim=True)))
    A = hl.Hessian(model, CE, (x, Y), batch_size=4)
    assert "streaming by autograd (the product with the first examples is not finite)" in repr(A)
    with pytest.raises(NotFinite, match="the contribution of batch 0 is NaN or infinite"):
        A @ ones(A)


@pytest.mark.parametrize("passes", [0, 1])
@pytest.mark.parametrize("mode", MODES)
def test_a_batch_that_changes_between_passes(mode, passes):
    data = batches()
    A = hl.Hessian(mlp(), CE, data, mode=mode)
    assert A.partition == (2,) * 5  # one pass over the data
    for _ in range(passes):
        A @ ones(A)
    data[3] = (data[3][0] + 1, data[3][1])
    if mode == "cache" and passes:
        return  # it reads the data no more
    with pytest.raises(NotDeterministic, match="batch 3 is not the same as in an earlier pass"):
        A @ ones(A)


@pytest.mark.parametrize("operator", ["Hessian", "GGN"])
def test_data_that_is_overwritten_under_residuals(operator):
    x = X.clone()
    A = getattr(hl, operator)(mlp(), CE, (x, Y), batch_size=4, mode="cache")
    expected = A @ ones(A)
    x[5:] += 1
    try:
        product = A @ ones(A)
    except NotDeterministic:
        return
    assert torch.equal(product, expected)


@pytest.mark.parametrize("mode", MODES)
def test_a_loader_on_every_route(mode):
    loader = DataLoader(TensorDataset(X, Y), batch_size=4)
    model = mlp()
    A = hl.Hessian(model, CE, loader, mode=mode)
    expected = Case(model, CE, X, Y).hessian
    for _ in range(3):
        torch.testing.assert_close(A @ ones(A), expected.sum(1), **EXACT)


class Impatience(BaseException):
    """As a KeyboardInterrupt: no handler of errors stops it."""


class Interrupted:
    """Batches in which the user loses patience, once."""

    def __init__(self, data, at):
        self.data, self.at, self.armed = data, at, False

    def __iter__(self):
        for number, batch in enumerate(self.data):
            if self.armed and number == self.at:
                self.armed = False
                raise Impatience
            yield batch


@pytest.mark.parametrize("mode", MODES)
def test_a_first_product_that_was_interrupted(mode):
    model, x, y = build(*NETS["conv"])  # folded norms: the second derivative reads the gradient
    data = Interrupted(list(zip(x.split(4), y.split(4), strict=True)), at=1)
    A = hl.Hessian(model, CE, data, mode=mode)
    assert A.partition == (4, 4, 3)
    data.armed = True
    with pytest.raises(Impatience):
        A @ ones(A)
    expected = Case(model, CE, x, y).hessian
    for _ in range(3):
        torch.testing.assert_close(A @ ones(A), expected.sum(1), **EXACT)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("product", [2, 3])
def test_a_later_product_that_was_interrupted(mode, product):
    model, x, y = build(*NETS["conv"])
    data = Interrupted(list(zip(x.split(4), y.split(4), strict=True)), at=2)
    A = hl.Hessian(model, CE, data, mode=mode)
    expected = [A @ ones(A) for _ in range(product - 1)].pop()
    data.armed = True
    if mode == "stream" or (mode == "auto" and product == 2):
        with pytest.raises(Impatience):
            A @ ones(A)
    for _ in range(3):
        assert torch.equal(A @ ones(A), expected)


# Memory


def test_the_memory_limit_is_reached():
    model = mlp()
    A = check("Hessian", "hessian", model, memory_limit=1000)
    assert "streaming (" in repr(A)
    assert "of residuals exceed memory_limit, 1.0 kB)" in repr(A)
    B = hl.Hessian(model, CE, (X, Y), batch_size=4, memory_limit=1000, mode="cache")
    with pytest.raises(MemoryError, match=r"of residuals exceed memory_limit, 1\.0 kB; rais"):
        B @ ones(B)
    torch.testing.assert_close(B.gradient(), A.gradient(), **EXACT)  # it keeps nothing
    part = B.restrict("2.bias")
    torch.testing.assert_close(part @ ones(part), A.restrict("2.bias") @ ones(part), **EXACT)


# Threads


class Meeting:
    """Data of two products whose passes overlap: the first one ends while the other is on."""

    def __init__(self, data, entered, wait_for):
        self.data, self.entered, self.wait_for = data, entered, wait_for
        self.armed = False

    def __iter__(self):
        if self.armed:
            self.entered.set()
            assert self.wait_for.wait(20)
        yield self.data


@pytest.fixture
def kernels():
    """Which kernels of attention torch may choose; all of them at the start."""
    cuda = torch.backends.cuda
    switches = {kind: getattr(cuda, f"enable_{kind}_sdp") for kind in KERNELS}
    before = {kind: getattr(cuda, f"{kind}_sdp_enabled")() for kind in KERNELS}
    for switch in switches.values():
        switch(True)
    yield lambda: [getattr(cuda, f"{kind}_sdp_enabled")() for kind in KERNELS]
    for kind, switch in switches.items():
        switch(before[kind])


def test_products_that_overlap_restore_the_kernels_of_attention(kernels):
    first_in, second_in, first_done = (threading.Event() for _ in range(3))
    data = [Meeting((X, Y), first_in, second_in), Meeting((X, Y), second_in, first_done)]
    operators = [hl.Hessian(mlp(), CE, meeting, mode="stream") for meeting in data]
    for meeting in data:
        meeting.armed = True

    def first():
        operators[0] @ ones(operators[0])
        first_done.set()

    thread = threading.Thread(target=first)
    thread.start()
    assert first_in.wait(20)
    operators[1] @ ones(operators[1])
    thread.join()
    assert kernels() == [True] * len(KERNELS)


# A function that changes unseen


class Limited(nn.Module):
    """What no fingerprint holds: a number that the forward finds in a class."""

    limit = 10.0

    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x):
        return self.net(x.clamp(-Limited.limit, Limited.limit))


@pytest.mark.parametrize("operator", ["Hessian", "GGN"])
def test_a_class_attribute_that_changes_between_two_operators(monkeypatch, operator):
    model, x, y = Limited(), X.repeat(4, 1), Y.repeat(4)
    x[:8] *= 0.1  # the examples that construction looks at do not reach the limit
    build = getattr(hl, operator)
    first = build(model, CE, (x, y))
    monkeypatch.setattr(Limited, "limit", 0.5)
    second = build(model, CE, (x, y))
    dense = getattr(Case(model, CE, x, y), operator.lower())
    torch.testing.assert_close(second @ ones(second), dense.sum(1), **EXACT)
    monkeypatch.setattr(Limited, "limit", 10.0)
    dense = getattr(Case(model, CE, x, y), operator.lower())
    torch.testing.assert_close(first @ ones(first), dense.sum(1), **EXACT)


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.gru = nn.Embedding(7, 5), nn.GRU(5, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.gru(self.embed(x))[0][:, -1])


def test_a_model_of_tokens_that_changes_its_precision():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = Tagger(), torch.randint(0, 7, (N, 4))
    hl.Hessian(model, CE, (x, Y))
    G = hl.GGN(model.double(), CE, (x, Y))
    torch.testing.assert_close(G @ ones(G), Case(model, CE, x, Y).ggn.sum(1), **EXACT)


def test_a_frozen_bias_that_is_taken_away():
    model = mlp()
    model[0].bias.requires_grad_(False)
    hl.Hessian(model, CE, (X, Y))
    model[0].bias = None
    check("Hessian", "hessian", model)


# Losses of the user


class Weighted(hl.losses.CrossEntropy):
    def value(self, outputs, targets):
        return WEIGHTS[targets] * super().value(outputs, targets)


class Doubled(hl.losses.CrossEntropy):
    def hessian_product(self, outputs, u, targets=None):
        return 2 * super().hessian_product(outputs, u, targets)


class Careful(hl.losses.CrossEntropy):
    """All of its methods agree."""

    def value(self, outputs, targets):
        return 2 * super().value(outputs, targets)

    def gradient(self, outputs, targets):
        return 2 * super().gradient(outputs, targets)

    def hessian_product(self, outputs, u, targets=None):
        return 2 * super().hessian_product(outputs, u, targets)


@pytest.mark.parametrize(("loss", "wrong"), [(Weighted, "gradient"), (Doubled, "hessian_product")])
def test_closed_forms_that_are_not_derivatives(loss, wrong):
    message = rf"{wrong} of CrossEntropy\(\) is not the derivative of its sum: they differ by"
    with pytest.raises(ValueError, match=message):
        hl.Hessian(mlp(), loss(), (X, Y))


def test_closed_forms_that_are_derivatives():
    H, twice = (hl.Hessian(mlp(), loss(), (X, Y)) for loss in (hl.losses.CrossEntropy, Careful))
    torch.testing.assert_close(twice @ ones(H), 2 * (H @ ones(H)), **EXACT)


def in_place(outputs, targets):
    outputs -= outputs.max(1, keepdim=True).values.detach()
    return nn.functional.cross_entropy(outputs, targets)


@pytest.mark.parametrize("operator", ["Hessian", "GGN", "GradientCovariance"])
def test_a_loss_that_works_in_place(operator):
    build = getattr(hl, operator)
    A, same = (build(mlp(), loss, (X, Y)) for loss in (in_place, CE))
    torch.testing.assert_close(A @ ones(A), same @ ones(A), **EXACT)
