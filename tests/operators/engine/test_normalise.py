"""Rewriting a traced forward: the same values in fewer kinds of operation, norms folded away."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hesslab.operators.engine.graph import Untraceable, module, shape
from hesslab.operators.engine.normalise import DATA, SAME, SHAPE_ONLY, normalise
from hesslab.operators.engine.operations import aten
from hesslab.operators.engine.rewrites import REWRITES
from hesslab.operators.engine.trace import trace
from tests.operators.engine.graphs import randn

X, V = randn(3, 4), randn(4)
POSITIVE = X.abs() + 0.5
COUNTS = torch.arange(1, 5)
SINGLE = {"dtype": torch.float32}

# Each operation in the ways in which a forward may call it.
FUNCTIONS = {
    aten.addmm.default: [
        lambda x: torch.addmm(V[:3], x, POSITIVE.T),
        lambda x: torch.addmm(V[:3], x, POSITIVE.T, beta=0.5, alpha=2),
        lambda x: torch.addmm(V[:3] * torch.inf, x, POSITIVE.T, beta=0),
    ],
    aten.baddbmm.default: [
        lambda x: torch.baddbmm(V, x[:, :, None], x[:, None]),
        lambda x: torch.baddbmm(V, x[:, :, None], x[:, None], beta=0.3, alpha=-1),
        lambda x: torch.baddbmm(V * torch.nan, x[:, :, None], x[:, None], beta=0),
    ],
    aten.add.Tensor: [lambda x: x + V, lambda x: 2 + x, lambda x: torch.add(x, V, alpha=0.3)],
    aten.sub.Tensor: [lambda x: x - V, lambda x: x - 2, lambda x: torch.sub(x, V, alpha=0.3)],
    aten.add.Scalar: [lambda x: aten.add.Scalar(x, 2, 3)],
    aten.sub.Scalar: [lambda x: aten.sub.Scalar(x, 2, 3)],
    aten.mul.Scalar: [lambda x: aten.mul.Scalar(x, 2)],
    aten.rsub.Scalar: [lambda x: 1 - x, lambda x: torch.rsub(x, 2, alpha=3)],
    aten.rsub.Tensor: [lambda x: torch.rsub(x, V, alpha=3)],
    aten.mul.Tensor: [lambda x: x * V, lambda x: x * x, lambda x: 3 * x],
    aten.div.Tensor: [
        lambda x: x / V,
        lambda x: x / 7,
        lambda x: x / COUNTS,
        lambda x: x / V.float(),
        lambda x: x / 0.0,
        lambda x: (x > 0) / COUNTS,
    ],
    aten.div.Scalar: [lambda x: aten.div.Scalar(x, 7)],
    aten.silu.default: [F.silu, lambda x: F.silu(30 * x)],
    aten.mish.default: [F.mish, lambda x: F.mish(30 * x)],
    aten.copy.default: [lambda x: aten.copy(x, V), lambda x: aten.copy(x, V.float())],
    aten.mean.dim: [
        lambda x: x.mean(1),
        lambda x: x.mean((0, -1), keepdim=True),
        lambda x: x.mean([]),
        lambda x: x.float().mean(1, dtype=torch.float64),
    ],
    aten.mean.default: [lambda x: x.mean(), lambda x: x.float().mean(dtype=torch.float64)],
    aten.sum.default: [lambda x: x.sum(), lambda x: (x > 0).sum(), lambda x: x.sum(**SINGLE)],
    aten.sum.dim_IntList: [
        lambda x: x.sum(-1),
        lambda x: x.sum((0, 1), keepdim=True),
        lambda x: aten.sum.dim_IntList(x, None),
        lambda x: x.sum(0, **SINGLE),
        lambda x: x.sum().sum(0),
        lambda x: (x > 0).sum(1),
    ],
    aten.native_batch_norm.default: [
        lambda x: F.instance_norm(x.view(2, 2, 3), weight=V[:2], bias=V[1:3]),
        lambda x: F.batch_norm(x, None, None, V, training=True, eps=0.3),
        lambda x: F.batch_norm(x, V, POSITIVE[0], training=False),
    ],
    aten.select.int: [lambda x: x[1], lambda x: x[:, -1], lambda x: x.select(-1, 2)],
    aten.slice.Tensor: [
        lambda x: x[1:],
        lambda x: x[:, -3:-1],
        lambda x: x[:, 1:9:2],
        lambda x: x[5:],
    ],
    aten.slice_scatter.default: [
        lambda x: x.slice_scatter(V[None], 0, 1, 2),
        lambda x: x.slice_scatter(V[:3, None], 1, -1),
        lambda x: x.slice_scatter(POSITIVE[:, ::2], -1, 0, None, 2),
        lambda x: x.slice_scatter(POSITIVE),
    ],
    aten.split.Tensor: [lambda x: x.split(3, 1)[0] * x.split(3, -1)[1]],
    aten.unsafe_split.Tensor: [lambda x: aten.unsafe_split(x, 3, 1)[1]],
    aten.split_with_sizes.default: [lambda x: x.split([1, 2], 0)[1]],
    aten.unsafe_split_with_sizes.default: [lambda x: aten.unsafe_split_with_sizes(x, [1, 2])[1]],
    aten.unbind.int: [lambda x: x.unbind()[2], lambda x: x.unbind(-1)[0]],
    aten.stack.default: [lambda x: torch.stack([x, 2 * x]), lambda x: torch.stack([x, x], -1)],
    aten.native_layer_norm.default: [
        lambda x: F.layer_norm(x, [4]),
        lambda x: F.layer_norm(x, [4], V, None, 0.1),
        lambda x: F.layer_norm(x, [3, 4], POSITIVE, X),
    ],
    aten.native_group_norm.default: [
        lambda x: F.group_norm(x, 2, V, V),
        lambda x: F.group_norm(x.view(1, 4, 3, 1), 2, None, V, 0.1),
    ],
}
VIEWS = {
    aten.view.default: lambda x: x.view(2, 6),
    aten._unsafe_view.default: lambda x: aten._unsafe_view(x, [2, 6]),
    aten.reshape.default: lambda x: x.t().reshape(6, 2),
    aten.unsqueeze.default: lambda x: x.unsqueeze(-1),
    aten.squeeze.default: lambda x: x[None].squeeze(),
    aten.squeeze.dim: lambda x: x[None].squeeze(0),
    aten.squeeze.dims: lambda x: x[None].squeeze((0, 1)),
    aten.alias.default: aten.alias,
    aten.clone.default: lambda x: x.clone() * 2,
    aten.lift_fresh_copy.default: lambda x: x * torch.tensor([2.0, 1.0, 0.0, 3.0]),
}
CASES = [
    (op, f) for op, functions in FUNCTIONS.items() for f in functions
] + list(VIEWS.items())  # fmt: skip


def rewritten(function, x, state=None):
    """The traced graph, the rewritten one as a function, and its nodes."""
    graph, names = trace(lambda given, x: function(*given.values(), x), state or {}, x)
    _, inputs, output = normalise(graph, [*names, DATA])
    constants = {name: getattr(graph, name[1:]) for name in inputs if name.startswith(".")}
    run = module(list(inputs.values()), [output])

    def evaluate(x):
        given = {**(state or {}), DATA: x, **constants}
        return run(*(given[name] for name in inputs))[0]

    needed = [node for node in run.graph.nodes if node.op == "call_function"]
    return graph, evaluate, needed


@pytest.mark.parametrize(("op", "function"), CASES, ids=[str(op) for op, _ in CASES])
def test_rewriting_changes_no_value(op, function):
    graph, evaluate, _ = rewritten(function, X)
    decomposed = {aten.reshape.default, aten.squeeze.default}  # by the trace itself, at times
    assert op in decomposed or op in {node.target for node in graph.graph.nodes}
    for x in (X, randn(3, 4, seed=8)):
        found, expected = evaluate(x), function(x)
        assert found.dtype == expected.dtype
        tolerance = 1e-12 if expected.dtype == torch.float64 else 1e-6
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_every_rewrite_has_a_case():
    assert set(FUNCTIONS) == set(REWRITES)
    # These two are never recorded by a trace, which writes views and clones instead.
    assert (SHAPE_ONLY | SAME) - set(VIEWS) == {aten.flatten.using_ints, aten.contiguous.default}


def test_the_kinds_of_operation_become_fewer():
    _, _, nodes = rewritten(
        lambda x: F.layer_norm(torch.stack(x.split(2, 1)).mean(0).view(2, 3) / 3, [3]), X
    )
    kept = {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.sum.dim_IntList}
    kept |= {aten.slice.Tensor}
    assert not {node.target for node in nodes} & (set(REWRITES) - kept)


def test_random_numbers_are_refused():
    with pytest.raises(Untraceable, match="draws random numbers"):
        rewritten(lambda x: x + torch.rand_like(x), X)


# Folding

IMAGE = randn(2, 3, 5, 5)
STATE = {
    "w": randn(4, 3, 2, 2),
    "b": randn(4),
    "s": randn(4, 1, 1),
    "t": randn(1, 4, 1, 1),
}


def conv(x, w, b=None, **options):
    return F.conv2d(x, w, b, **options)


def kinds(nodes, *, behind=None):
    return [node.target for node in nodes if behind is None or node.meta["data"] is behind]


def two(w):
    """A second weight out of the first."""
    return torch.cat([w, w[:, :1].exp()], 1)


FOLDED = {
    "scale and shift": lambda w, b, s, t, x: conv(x, w, b) * s + t,
    "without bias": lambda w, b, s, t, x: conv(x, w) * s + t,
    "shift first": lambda w, b, s, t, x: (conv(x, w) + t) * s,
    "strided and dilated": lambda w, b, s, t, x: conv(x, w, b, stride=2, dilation=2) * s + t,
    "scale computed": lambda w, b, s, t, x: conv(x, w) * (s.exp() + b.sum()),
    "an argument swapped": lambda w, b, s, t, x: torch.add(conv(x, w) * s, t),
    "two layers": lambda w, b, s, t, x: conv(conv(x, w) * s + t, two(w)) * s + t,
}  # fmt: skip
KEPT = {
    "two readers": lambda w, b, s, t, x: (h := conv(x, w)) * s + h.tanh(),
    "scale of the data": lambda w, b, s, t, x: conv(x, w) * x[0, 0, :4, :1, None],
    "scale per place": lambda w, b, s, t, x: conv(x, w) * s.expand(4, 4, 4),
    "scale per example": lambda w, b, s, t, x: conv(x, w) * b[:2].view(2, 1, 1, 1),
    "one number": lambda w, b, s, t, x: conv(x, w) * 2.0,
    "transposed": lambda w, b, s, t, x: F.conv_transpose2d(x, w.transpose(0, 1)) * s + t,
    "another dtype": lambda w, b, s, t, x: conv(x.float(), w.float()) * s,
}


@pytest.mark.parametrize("name", FOLDED)
def test_a_scale_or_shift_per_channel_goes_into_the_convolution(name):
    _, evaluate, nodes = rewritten(FOLDED[name], IMAGE, STATE)
    behind = kinds(nodes, behind=True)
    assert set(behind) == {aten.convolution.default}
    found, expected = evaluate(IMAGE), FOLDED[name](*STATE.values(), IMAGE)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", KEPT)
def test_what_is_not_per_channel_or_read_twice_stays(name):
    _, evaluate, nodes = rewritten(KEPT[name], IMAGE, STATE)
    assert aten.mul.Tensor in kinds(nodes, behind=True)
    (weight,) = (node.args[1] for node in nodes if node.target is aten.convolution.default)
    assert not weight.meta["data"]
    found, expected = evaluate(IMAGE), KEPT[name](*STATE.values(), IMAGE)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("layer", "size"),
    [(nn.Conv1d, (2, 7)), (nn.Conv2d, (2, 5, 5)), (nn.Conv3d, (2, 3, 3, 3))],
)
def test_frozen_batch_norm_folds_in_every_dimension(layer, size):
    conv = layer(2, 4, 2, groups=2).double().requires_grad_(False)
    one = [4] + [1] * (len(size) - 1)
    state = {"w": conv.weight, "b": conv.bias, "s": randn(4), "t": randn(4, seed=1)}

    def function(w, b, s, t, x):
        h = torch.func.functional_call(conv, {"weight": w, "bias": b}, (x,))
        return h * s.view(one) + t.view(one)

    x = randn(3, *size)
    _, evaluate, nodes = rewritten(function, x, state)
    assert kinds(nodes, behind=True) == [aten.convolution.default]
    expected = function(*state.values(), x)
    torch.testing.assert_close(evaluate(x), expected, rtol=1e-12, atol=1e-12)


def test_a_constant_that_is_read_twice_is_one_input():
    _, evaluate, _ = rewritten(lambda x: x * V + V.exp(), X)
    torch.testing.assert_close(evaluate(X), X * V + V.exp(), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("function", [lambda x: x[x > 0], lambda x: x * x.sum().item()])
def test_what_depends_on_values_is_refused(function):
    with pytest.raises(Untraceable, match="depends on the values of a tensor"):
        rewritten(function, X)


def test_equal_slices_are_one_node():
    _, _, nodes = rewritten(lambda x: x[:, 1:] * x[:, 1:4] * x[:, -3:], X)
    slices = [node for node in nodes if node.target is aten.slice.Tensor]
    assert len(slices) == 1
    assert shape(slices[0]) == [3, 3]
