"""The arithmetic of products: no TF32, attention that can be differentiated twice, all restored."""

import pytest
import torch
from torch import nn

import hesslab as hl
from hesslab.operators.precision import full_precision
from tests.cases import Case

CE = hl.losses.CrossEntropy()
CUDA = torch.device("cuda")  # the switches of CUDA can be set on any machine
SWITCHES = {
    "all": lambda: torch.backends.fp32_precision,
    "convolution": lambda: torch.backends.cudnn.conv.fp32_precision,
    "recurrent": lambda: torch.backends.cudnn.rnn.fp32_precision,
    "matmul": lambda: torch.backends.cuda.matmul.fp32_precision,
    "cpu convolution": lambda: torch.backends.mkldnn.conv.fp32_precision,
    "cpu matmul": lambda: torch.backends.mkldnn.matmul.fp32_precision,
}


def switches():
    return {name: read() for name, read in SWITCHES.items()}


@pytest.fixture
def tf32():
    """TF32 wherever torch has it."""
    found = torch.backends.fp32_precision
    torch.backends.fp32_precision = "tf32"
    try:
        yield switches()
    finally:
        torch.backends.fp32_precision = found


class Recorder(nn.Linear):
    """Records the switches in each forward, and may fail."""

    def __init__(self):
        super().__init__(4, 3)
        self.seen = []
        self.broken = False

    def forward(self, x):
        self.seen.append(switches())
        if self.broken:
            raise RuntimeError("broken")
        return super().forward(x)


def recorder():
    generator = torch.Generator().manual_seed(0)
    return Recorder(), (torch.randn(7, 4, generator=generator), torch.arange(7) % 3)


@pytest.mark.parametrize("operator", ["Hessian", "GGN"])
def test_no_tf32_inside_products_and_gradients(tf32, operator):
    model, data = recorder()
    A = getattr(hl, operator)(model, CE, data, batch_size=4)
    A.plan.untraced("the forward is to be called")
    constructed = len(model.seen)
    A @ torch.ones(A.shape[1])
    multiplied = len(model.seen)
    A.gradient()
    assert 0 < constructed < multiplied < len(model.seen)
    assert all(set(seen.values()) == {"ieee"} for seen in model.seen)
    assert switches() == tf32
    assert "tf32" not in repr(A)


def test_no_tf32_while_population_statistics_are_measured(tf32):
    first, data = recorder()
    model = nn.Sequential(first, nn.BatchNorm1d(3))
    hl.Hessian(model, CE, data, batchnorm="population", batch_size=4)
    assert all(set(seen.values()) == {"ieee"} for seen in first.seen)
    assert switches() == tf32


def test_allowed_tf32_is_left_as_it_is_and_shown(tf32):
    model, data = recorder()
    H = hl.Hessian(model, CE, data, allow_tf32=True)
    H @ torch.ones(H.shape[1])
    assert all(seen == tf32 for seen in model.seen)
    assert ", allow_tf32, " in repr(H)


def test_switches_are_restored_after_an_error(tf32):
    model, data = recorder()
    H = hl.Hessian(model, CE, data)
    H.plan.untraced("the forward is to be called")
    model.broken = True
    for product in (H.gradient, lambda: H @ torch.ones(H.shape[1])):
        with pytest.raises(RuntimeError, match="broken"):
            product()
        assert switches() == tf32


def test_nothing_is_touched_where_arithmetic_is_full():
    before = switches()
    model, data = recorder()
    hl.Hessian(model, CE, data).gradient()  # on the CPU nothing is rounded by default
    assert all(seen == before for seen in model.seen)
    with torch.backends.cudnn.flags(enabled=False):  # torch's older names can be read
        pass


def test_convolutions_on_cuda_have_tf32_by_default_and_not_inside():
    before = switches()
    assert before["convolution"] == "tf32"
    with full_precision(CUDA):
        assert set(switches().values()) == {"ieee"}
        with full_precision(CUDA):
            assert set(switches().values()) == {"ieee"}
        assert set(switches().values()) == {"ieee"}
    assert switches() == before


@pytest.mark.parametrize("setting", ["none", "tf32"])
def test_what_was_inherited_is_inherited_again(tf32, setting):
    matmul = torch.backends.cuda.matmul
    found = "none"
    matmul.fp32_precision = setting
    try:
        with full_precision(CUDA):
            assert matmul.fp32_precision == "ieee"
        torch.backends.fp32_precision = "ieee"
        assert matmul.fp32_precision == ("ieee" if setting == "none" else "tf32")
    finally:
        matmul.fp32_precision = found


def test_the_older_name_is_consistent_again_afterwards():
    torch.set_float32_matmul_precision("high")
    try:
        with full_precision(CUDA):
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision("highest")
        for leaf in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul):
            leaf.fp32_precision = "none"


class Dot(nn.Module):
    """Causal attention in one call, which picks a fused kernel where it may."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(4, 12)
        self.head = nn.Linear(4, 3)
        self.seen = []
        self.broken = False

    def forward(self, x):
        self.seen.append(attention())
        if self.broken:
            raise RuntimeError("broken")
        q, k, v = self.project(x).chunk(3, dim=-1)
        h = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.head(h.mean(1))


class Encoder(nn.Module):
    """torch's encoder layer, which has a fused path in eval mode."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.layer(x).mean(1))


def attention():
    cuda = torch.backends.cuda
    return (
        cuda.flash_sdp_enabled(),
        cuda.mem_efficient_sdp_enabled(),
        cuda.cudnn_sdp_enabled(),
        cuda.math_sdp_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
    )


def sequences(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Case(make().double().eval(), CE, torch.randn(5, 3, 4).double(), torch.arange(5) % 3)


@pytest.mark.parametrize("make", [Dot, Encoder])
@pytest.mark.parametrize(("operator", "reference"), [("Hessian", "hessian"), ("GGN", "ggn")])
def test_attention_equals_its_dense_reference(operator, reference, make):
    c = sequences(make)
    expected = getattr(c, reference)
    before = attention()
    A = getattr(hl, operator)(c.model, c.loss, (c.x, c.y), batch_size=2)
    v = torch.randn(A.shape[1], 3, dtype=torch.float64)
    torch.testing.assert_close(A @ v, expected @ v, rtol=1e-9, atol=1e-12)
    assert attention() == before


def test_attention_runs_through_plain_kernels_and_others_come_back():
    c = sequences(Dot)
    H = hl.Hessian(c.model, c.loss, (c.x, c.y))
    assert set(c.model.seen) == {(False, False, False, True, False)}
    before = attention()
    assert before != c.model.seen[0]
    H.gradient()
    c.model.broken = True
    with pytest.raises(RuntimeError, match="broken"):
        H.gradient()
    assert attention() == before
