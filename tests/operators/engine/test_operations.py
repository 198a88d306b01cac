"""Networks of plain tensor operations, in place and by views included; and in float32."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesslab as hl
from hesslab.operators.engine.operations import aten
from tests.operators.engine.graphs import randn
from tests.operators.engine.networks import LOSS, Plain, built, check, examples, without_rule

PICKED = torch.tensor([0, 3, 3])
COLUMNS = torch.tensor([[5, 1, 3]])


def pooled(h):
    return F.avg_pool2d(h.view(-1, 1, 2, 3), 2, 1).repeat(1, 1, 1, 3)


def assigned(s, x):
    h = torch.zeros_like(s.a(x))
    h[:, ::2] = s.a(x)[:, 1::2].tanh()
    h[:, 1] += s.v[0]
    return s.b(h)


def added_in_place(s, x):
    h = s.a(x)
    y = 2 * h
    y += h.tanh()
    y[:, 1:] -= h[:, :-1]
    return s.b(y.sin())


def view_written_to(s, x):
    h = s.a(x).clone()
    h.view(-1, 2, 3)[:, 1].mul_(s.v)
    return s.b(h.tanh())


# a: 4 -> 6, b: 6 -> 3, v [3], w [2, 3, 4]
FUNCTIONS = {
    "einsum": lambda s, x: torch.einsum("bi,jki,bk->bk", torch.tanh(x), s.w, s.a(x)[:, :3]),
    "matmul": lambda s, x: (
        (s.w.transpose(1, 2) @ s.a(x).view(-1, 3, 2)[:, None]).tanh().sum((1, 3)) @ s.w[0].T
    ),
    "cat": lambda s, x: s.b(torch.cat([s.a(x), x.sin()], -1).tanh()[:, 2:8]),
    "split": lambda s, x: s.b(torch.cat(s.a(x).tanh().split([2, 4], 1)[::-1], 1)),
    "chunk, unbind, stack": lambda s, x: s.b(
        torch.stack([h.sin() for h in torch.stack(s.a(x).chunk(2, 1), 1).unbind(1)], -1).flatten(1)
    ),
    "roll and flip": lambda s, x: s.b(s.a(x).tanh().roll(1, -1) * s.a(x).flip(1)),
    "index_select": lambda s, x: s.a(x).tanh().index_select(1, PICKED) * s.v,
    "indexing": lambda s, x: s.a(x).tanh()[:, PICKED] * s.v[[0, 1, 1]],
    "gather": lambda s, x: s.a(x).tanh().gather(1, (x[:, :3] > 0).long()) * s.v,
    "where": lambda s, x: s.b(torch.where(x.sum(1, True) > 0, s.a(x).tanh(), s.a(x) ** 2)),
    "masked_fill": lambda s, x: s.b(s.a(x).tanh().masked_fill(x[:, :1] > 0, 0.5)),
    "clamp": lambda s, x: s.b(s.a(x).clamp(-0.5, 0.7) * s.a(x).clamp(min=0.1)),
    "maximum": lambda s, x: s.b(torch.maximum(s.a(x), s.a(x) ** 2)),
    "largest": lambda s, x: s.b(s.a(x)) * s.a(x).amax(1, True) * s.a(x).max(1, True)[0],
    "sort and topk": lambda s, x: s.a(x).sort(1)[0][:, :3] * s.a(x).topk(3, 1)[0] * s.v,
    "normalize": lambda s, x: s.b(F.normalize(s.a(x), dim=-1)),
    "cosine": lambda s, x: s.b(s.a(x)) * F.cosine_similarity(s.a(x)[:, :4], x)[:, None],
    "distances": lambda s, x: -(s.a(x)[:, None, :4] - s.w[0]).square().sum(-1),
    "logsumexp": lambda s, x: s.b(s.a(x) - s.a(x).logsumexp(1, True)),
    "cumsum and cumprod": lambda s, x: s.b(s.a(x).tanh().cumsum(1) + s.a(x).cumprod(1)),
    "variance": lambda s, x: s.b(s.a(x) / (s.a(x).var(1, keepdim=True) + 1).sqrt()),
    "powers": lambda s, x: s.b(s.a(x).square() + s.a(x).pow(3) + s.a(x).abs().pow(1.5)),
    "quotients": lambda s, x: s.b(s.a(x) / (1 + s.a(x).abs()) / 3 - 1 / s.a(x).exp()),
    "quotient of counts": lambda s, x: s.b(s.a(x).tanh() / ((x > 0).sum(1, True) + 3)),
    "elementary functions": lambda s, x: s.b(
        torch.erf(s.a(x)) + s.a(x).exp().log1p() + s.a(x).expm1() * s.a(x).cos() + s.a(x).atan()
    ),
    "combined": lambda s, x: s.b(
        torch.addcmul(s.a(x), s.a(x).tanh(), s.a(x).sin(), value=0.5)
        + torch.addcdiv(s.a(x), s.a(x).tanh(), s.a(x).exp(), value=-1)
        + torch.lerp(s.a(x), s.a(x).tanh(), 0.3)
    ),
    "addmm": lambda s, x: s.b(torch.addmm(s.a.bias, x, s.a.weight.t(), beta=0.5, alpha=2).tanh()),
    "two dtypes": lambda s, x: s.b(s.a(x) * s.a(x).float().mean(1, True, dtype=x.dtype).detach()),
    "expand and repeat": lambda s, x: (
        s.b(s.a(x)[:, None].expand(-1, 2, -1).tanh().mean(1))
        + s.v.repeat(1, 1) * s.v.expand(len(x), 3).sin()
    ),
    "permute": lambda s, x: s.b(
        s.a(x).view(-1, 2, 3).permute(2, 0, -2).tanh().movedim(0, 1).flatten(1)
    ),
    "unfold": lambda s, x: s.a(x).tanh().unfold(1, 4, 1).sum(2).tanh() * s.v,
    "diagonal and tril": lambda s, x: torch.diagonal(
        torch.tril(s.a(x)[:, :3, None] * s.a(x)[:, None, 3:]).cumsum(1), dim1=1, dim2=2
    ),
    "pad": lambda s, x: s.b(F.pad(s.a(x), (1, -1), value=0.3).tanh()),
    "scatter": lambda s, x: s.b(
        s.a(x).scatter(1, COLUMNS.expand(len(x), 3), s.a(x)[:, :3].tanh())
        + s.a(x).scatter_add(1, COLUMNS.expand(len(x), 3), s.a(x)[:, :3].sin())
    ),
    "index_add": lambda s, x: s.b(s.a(x).index_add(1, PICKED, s.a(x)[:, :3].tanh())),
    "solve": lambda s, x: torch.linalg.solve(
        s.a(x)[:, :3, None] * s.a(x)[:, None, :3] + torch.eye(3), s.v
    ),
    "detach": lambda s, x: s.b(s.a(x).tanh() * s.a(x).detach()),
    "rounded": lambda s, x: s.b(s.a(x) + s.a(x).round() * s.a(x).sign()),
    "in place": lambda s, x: s.b(F.relu(s.a(x) + 0, inplace=True).add(1).add_(s.v[0]).mul_(2)),
    "+=": added_in_place,
    "assigned slices": assigned,
    "a view written to": view_written_to,
}
# The value of one parameter alone is bent before it meets the data.
CURVED = {
    "exp": lambda s, x: s.b(s.a(x)) / s.v.exp().sum(),
    "reverse difference": lambda s, x: s.b(s.a(x).tanh()) + torch.rsub(s.v, s.v.tanh(), alpha=2),
    "product of weights": lambda s, x: s.a(x)[:, :3] @ (s.w[0] @ s.w[1].T).tanh(),
}


def network(function):
    return built(
        lambda: Plain(
            function, a=nn.Linear(4, 6), b=nn.Linear(6, 3), v=torch.rand(3), w=torch.randn(2, 3, 4)
        )
    )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operations(name):
    check(network(FUNCTIONS[name]), *examples((4,)))


@pytest.mark.parametrize("name", CURVED)
def test_parameters_that_are_bent_before_they_meet_the_data(name):
    check(network(CURVED[name]), *examples((4,)))


@pytest.mark.parametrize(
    ("function", "missing"),
    [
        (lambda s, x: s.b(F.layer_norm(s.a(x).tanh().view(-1, 2, 3), [3]).flatten(1)), set()),
        (lambda s, x: s.b(F.instance_norm(s.a(x).tanh().view(-1, 2, 3)).flatten(1)), set()),
        (
            lambda s, x: s.b(
                F.avg_pool2d(s.a(x).view(-1, 1, 2, 3), 2, 1).repeat(1, 1, 1, 3).flatten(1)
            ),
            {"aten.repeat.default"},
        ),
        (lambda s, x: s.b(s.a(x).tanh().masked_fill(x[:, :1] > 0, 0.3)), set()),
        (lambda s, x: s.b(s.a(x).roll(1, 1)), {"aten.roll.default"}),
    ],
)
def test_what_has_no_rule_is_counted(function, missing):
    H, G = check(network(function), *examples((4,)))
    assert without_rule(H) == without_rule(G) == missing


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda s, x: s.b(s.a(x) if s.v.sum() > 0 else s.a(x).tanh()), "("),
        (lambda s, x: s.b(s.a(x) * s.v.sum().item()), "depends on the values of a tensor"),
    ],
)
def test_what_cannot_be_traced_streams_by_autograd(function, reason):
    for A in check(network(function), *examples((4,)), traced=False):
        assert "streaming by autograd" in repr(A)
        assert reason in repr(A)


# Float32


class Norms(nn.Module):
    """Batch norm as it folds into a convolution, in plain operations."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(c, 8, 3, bias=False) for c in (2, 8))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(2))
        self.head = nn.Linear(8, 3)
        for norm in self.norms:
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 2)

    def signs(self, x, *, folded):
        """Which ReLUs are open, as torch rounds, or with each norm folded into its weight."""
        found = []
        for conv, norm in zip(self.convs, self.norms, strict=True):
            scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            shift = norm.bias - norm.running_mean * scale
            if folded:
                h = F.conv2d(x, conv.weight * scale[:, None, None, None], shift)
            else:
                h = norm(conv(x))
            found.append((h > 0).flatten())
            x = torch.relu(h)
        return torch.cat(found)

    def forward(self, x):
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = torch.relu(norm(conv(x)))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("operator", ["Hessian", "GGN"])
def test_float32_differs_from_autograd_by_rounding_unless_a_relu_flips(operator):
    model = built(Norms).float().eval()
    images = randn(40, 2, 7, 7).float()
    with torch.no_grad():
        native = torch.stack([model.signs(x[None], folded=False) for x in images])
        folded = torch.stack([model.signs(x[None], folded=True) for x in images])
    flips = (native != folded).sum(1)
    assert flips.sum() < 1e-3 * native.numel()
    x = images[flips == 0][:16]
    y = torch.arange(len(x)) % 3
    A = getattr(hl, operator)(model, LOSS, (x, y))
    v = randn(A.shape[1]).float()
    traced = [A @ v for _ in range(3)]
    assert A.plan.traced is not None, A.plan
    A.plan.untraced("for comparison")
    eager = A @ v
    for product in traced:
        assert (product - eager).norm() < 1e-5 * eager.norm()


def test_the_folded_network_is_in_the_graph():
    model = built(Norms).eval()
    x = randn(4, 2, 7, 7)
    A = hl.GGN(model, LOSS, (x, torch.zeros(4, dtype=torch.int64)))
    A @ A.gradient()
    (point,) = A.plan.traced._points.values()
    convolutions = [n for n in point.program._head.nodes if n.target is aten.convolution.default]
    read = [node for node in convolutions if node.users]
    assert len(read) == 2
    assert all(node.args[2] is not None for node in read)
