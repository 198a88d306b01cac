"""Every derivative rule of the engine on its own, against torch's double backward in float64."""

import operator

import pytest
import torch

import hesslab as hl
from hesslab.operators.engine import forward, reverse
from hesslab.operators.engine.graph import Graph, module
from hesslab.operators.engine.net import LossGradient
from hesslab.operators.engine.operations import (
    UNARY,
    aten,
    conv_input_grad,
    conv_weight_grad,
    slice_input_grad,
)
from tests.operators.engine.graphs import Call, Reference, assert_equal, randn

CE = hl.losses.CrossEntropy()
MATRIX, VECTOR, IMAGE = randn(3, 4), randn(4), randn(2, 2, 5, 4)
POSITIVE = {"log", "log1p", "sqrt", "rsqrt", "reciprocal"}
INDEX = torch.tensor([[0, 3], [2, 3]])
PLAIN = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)
GEOMETRIES = {
    "plain": ((2, 2, 5, 4), (3, 2, 3, 2), True, PLAIN),
    "without bias": ((2, 2, 5, 4), (3, 2, 3, 2), False, PLAIN),
    "strided": ((1, 2, 6, 5), (3, 2, 3, 2), True, ([2, 1], [1, 0], [1, 2], False, [0, 0], 1)),
    "grouped": ((1, 4, 4, 3), (6, 2, 2, 2), True, ([1, 1], [1, 1], [1, 1], False, [0, 0], 2)),
    "transposed": ((1, 2, 3, 3), (2, 3, 2, 2), True, ([2, 2], [1, 0], [1, 1], True, [0, 0], 1)),
    "transposed, padded": (
        (1, 2, 3, 3),
        (2, 3, 2, 2),
        False,
        ([2, 2], [0, 0], [1, 1], True, [1, 0], 1),
    ),
    "1d": ((2, 2, 6), (3, 2, 3), True, ([1], [1], [1], False, [0], 1)),
    "3d": ((1, 1, 3, 3, 3), (2, 1, 2, 2, 2), True, ([1] * 3, [0] * 3, [1] * 3, False, [0] * 3, 1)),
}


def convolutions():
    for name, (x, w, bias, geometry) in GEOMETRIES.items():
        x, w = randn(*x), randn(*w)
        channels = w.shape[1] if geometry[3] else w.shape[0]
        shift = randn(channels) if bias else None
        yield f"convolution {name}", Call(aten.convolution.default, (x, w, shift, *geometry))
        if any(geometry[4]):
            continue  # torch cannot differentiate that gradient, which takes no third order
        g = torch.randn_like(aten.convolution(x, w, shift, *geometry))
        yield f"conv_input_grad {name}", Call(conv_input_grad, (g, x, w, geometry))
        yield f"conv_weight_grad {name}", Call(conv_weight_grad, (g, x, w, geometry, bias))


def unary():
    options = {"pow": (2.5,), "softplus": (2.0, 3.0), "elu": (1.3,), "leaky_relu": (0.2,)}
    options |= {"hardtanh": (-0.4, 0.6)}
    for op in sorted(UNARY, key=str):
        name = str(op).split(".")[1]
        x = MATRIX.abs() + 0.1 if name in POSITIVE | {"pow"} else MATRIX
        yield f"unary {op}", Call(op, (x,)) if name != "pow" else Call(op, (x, 2))
        if name in options:
            yield f"unary {op} with options", Call(op, (x, *options[name]))
    yield "unary gelu by tanh", Call(aten.gelu.default, (MATRIX,), {"approximate": "tanh"})
    yield "unary of what shares memory", Call(aten.tanh.default, (randn(3, 1).expand(3, 4),))


def plain():
    x, y, v = MATRIX, randn(3, 4, seed=5), VECTOR
    yield "add", Call(aten.add.Tensor, (x, y))
    yield "add broadcast", Call(aten.add.Tensor, (v, x))
    yield "add broadcast inside", Call(aten.add.Tensor, (randn(2, 1, 4), randn(3, 1)))
    yield "add number", Call(aten.add.Tensor, (x, 0.5))
    yield "add itself", Call(aten.add.Tensor, (x, x))
    yield "add scalar tensor", Call(aten.add.Tensor, (x, randn()))
    yield "sub", Call(aten.sub.Tensor, (x, y))
    yield "sub broadcast", Call(aten.sub.Tensor, (v, x))
    yield "sub number", Call(aten.sub.Tensor, (x, 0.5))
    yield "mul", Call(aten.mul.Tensor, (x, y))
    yield "mul broadcast", Call(aten.mul.Tensor, (x, v))
    yield "mul number", Call(aten.mul.Tensor, (x, -0.5))
    yield "mul itself", Call(aten.mul.Tensor, (x, x))
    yield "mul of two dtypes", Call(aten.mul.Tensor, (randn(3, 4, dtype=torch.float32), v))
    yield "mul by whole numbers", Call(aten.mul.Tensor, (x, torch.arange(4)))
    yield "neg", Call(aten.neg.default, (x,))
    yield "relu", Call(aten.relu.default, (x,))
    yield "threshold_backward", Call(aten.threshold_backward.default, (x, y, 0))
    yield "where", Call(aten.where.self, (x > 0, x, y))
    yield "where broadcast", Call(aten.where.self, (VECTOR > 0, randn(3, 1), v))
    yield "where of a mask", Call(aten.where.self, (x > 0, x, torch.zeros(3, 4).double()))
    yield "masked_fill", Call(aten.masked_fill.Scalar, (x, VECTOR > 0, 0.3))
    yield "masked_fill broadcast", Call(aten.masked_fill.Scalar, (randn(3, 1), x > 0, 0.3))
    yield "clone", Call(aten.clone.default, (x,))
    yield "cast", Call(aten._to_copy.default, (x,), {"dtype": torch.float32})
    yield "mm", Call(aten.mm.default, (x, randn(4, 2)))
    yield "mm with its transpose", Call(aten.mm.default, (randn(3, 3),) * 2)
    yield "bmm", Call(aten.bmm.default, (randn(2, 3, 4), randn(2, 4, 1)))
    yield "softmax", Call(aten._softmax.default, (x, 0, False))
    yield "safe softmax", Call(aten._safe_softmax.default, (x, -1))
    yield "loss gradient", Call(LossGradient(CE), (randn(4, 3), torch.tensor([0, 2, 1, 1])))


def shapes():
    x, y = MATRIX, randn(2, 3, 4)
    yield "reshape", Call(aten.reshape.default, (x, [2, 6]))
    yield "t", Call(aten.t.default, (x,))
    yield "transpose", Call(aten.transpose.int, (y, 0, -1))
    yield "permute", Call(aten.permute.default, (y, [2, 0, 1]))
    yield "permute from behind", Call(aten.permute.default, (y, [-1, 0, -2]))
    yield "expand", Call(aten.expand.default, (randn(3, 1), [2, 3, 4]))
    yield "expand, some as they are", Call(aten.expand.default, (randn(3, 1), [-1, 4]))
    yield "sum", Call(aten.sum.dim_IntList, (y, [0, 2]))
    yield "sum from behind", Call(aten.sum.dim_IntList, (y, [-1], True))
    yield "slice", Call(aten.slice.Tensor, (y, 2, 1, 4, 2))
    yield "slice_input_grad", Call(slice_input_grad, (randn(2, 3), [2, 7], 1, 1, 6, 2))
    images = randn(2, 3, 2, 4).contiguous(memory_format=torch.channels_last)
    yield "slice_input_grad of images", Call(slice_input_grad, (images, [2, 3, 4, 4], 2, 0, 4, 2))
    yield "pad", Call(aten.constant_pad_nd.default, (x, [1, -1, 0, 2], 0.7))
    yield "cat", Call(aten.cat.default, ([x, randn(3, 2), x], -1))
    yield "cat of rows", Call(aten.cat.default, ([x, randn(1, 4)],))
    yield "cat with nothing", Call(aten.cat.default, ([randn(0), x, randn(3, 1)], 1))
    yield "embedding", Call(aten.embedding.default, (x.T.contiguous(), INDEX))
    yield (
        "embedding_dense_backward",
        Call(aten.embedding_dense_backward.default, (randn(2, 2, 3), INDEX, 4, -1, False)),
    )


def pools():
    window = ([3, 2], [2, 1], [1, 0], [1, 1], True)
    yield "max_pool", Call(aten.max_pool2d_with_indices.default, (IMAGE, [2, 2]))
    yield "max_pool overlapping", Call(aten.max_pool2d_with_indices.default, (IMAGE, *window))
    yield "max_pool of matrices", Call(aten.max_pool2d_with_indices.default, (IMAGE[0], [2, 2]))
    picked, indices = aten.max_pool2d_with_indices(IMAGE, *window)
    back = (torch.randn_like(picked), IMAGE, *window, indices)
    yield "max_pool backward", Call(aten.max_pool2d_with_indices_backward.default, back)
    borders = ([3, 2], [2, 1], [1, 0], True, False, 5)
    yield "avg_pool", Call(aten.avg_pool2d.default, (IMAGE, [2, 2]))
    yield "avg_pool of borders", Call(aten.avg_pool2d.default, (IMAGE, *borders))
    g = torch.randn_like(aten.avg_pool2d(IMAGE, *borders))
    yield "avg_pool backward", Call(aten.avg_pool2d_backward.default, (g, IMAGE, *borders))
    yield "adaptive_avg_pool", Call(aten._adaptive_avg_pool2d.default, (IMAGE, [2, 3]))
    g = torch.randn_like(aten._adaptive_avg_pool2d(IMAGE, [2, 3]))
    yield "adaptive_avg_pool backward", Call(aten._adaptive_avg_pool2d_backward.default, (g, IMAGE))


def without_rule():
    """Operations that go by torch.func, one at a time."""
    x = MATRIX
    yield "cumsum", Call(aten.cumsum.default, (x, 1))
    yield "two outputs of which one is whole numbers", Call(aten.sort.default, (x,))
    yield "two outputs", Call(aten.var_mean.correction, (x, [1]), {"correction": 1})
    yield "gather", Call(aten.gather.default, (x, 1, torch.tensor([[0], [3], [1]])))
    yield "index", Call(aten.index.Tensor, (x, [None, torch.tensor([0, 3, 3])]))
    yield "atan2", Call(aten.atan2.default, (x, x.abs() + 1))
    yield "solve", Call(torch.linalg.solve, (randn(3, 3) + 4 * torch.eye(3), randn(3, 2)))
    yield "of what shares memory", Call(aten.cumsum.default, (randn(3, 1).expand(3, 4), 1))


CASES = dict(
    case for group in (convolutions, unary, plain, shapes, pools, without_rule) for case in group()
)


def weights(tensors, seed):
    return [randn(*t.shape, dtype=t.dtype, seed=seed + i) for i, t in enumerate(tensors)]


@pytest.mark.parametrize("name", CASES)
def test_forward_mode_equals_double_backward(name):
    call = CASES[name]
    tangents = weights(call.floats, 10)
    assert_equal(call.jvp(tangents), Reference(call).jvp(tangents))


@pytest.mark.parametrize("name", CASES)
def test_reverse_mode_equals_backward(name):
    call = CASES[name]
    cotangents = weights(call(*call.floats), 20)
    assert_equal(call.vjp(cotangents), Reference(call).vjp(cotangents))


@pytest.mark.parametrize("name", CASES)
def test_forward_over_reverse_equals_double_backward(name):
    call = CASES[name]
    cotangents = weights(call(*call.floats), 20)
    directions = weights(call.floats, 10), weights(cotangents, 30)
    assert_equal(
        call.change(cotangents, *directions), Reference(call).change(cotangents, *directions)
    )


def test_every_rule_has_a_case():
    tested = {call.op for call in CASES.values()} | {type(call.op) for call in CASES.values()}
    ruled = {*forward.RULES, *forward.MULTILINEAR, *reverse.RULES, *UNARY}
    assert not ruled - tested


def test_the_operations_without_rule_have_none():
    ruled = {*forward.RULES, *forward.MULTILINEAR, *reverse.RULES, *UNARY}
    assert not {call.op for _, call in without_rule()} & ruled


def test_what_does_not_depend_on_the_inputs_has_no_derivative():
    call = Call(aten.detach.default, (MATRIX,))
    assert call.jvp([MATRIX]) == [None]
    assert call.vjp([MATRIX]) == [None]


@pytest.mark.parametrize("op", [aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor])
@pytest.mark.parametrize("first", [True, False])
def test_the_tangent_of_the_shorter_float_has_the_longer_dtype(op, first):
    b = Graph()
    x, v = b.input("x", MATRIX.float()), b.input("v", VECTOR)
    dx = b.input("dx", MATRIX.float())
    node = b.call(op, *((x, v) if first else (v, x)))
    found = forward.pushforward(b, [node], {x: dx}, lambda node: node)
    run = module([x, v, dx], [found[node]])
    (tangent,) = run(MATRIX.float(), VECTOR, MATRIX.cos().float())
    assert tangent.dtype == found[node].meta["val"].dtype == torch.float64
    assert tangent.shape == MATRIX.shape


def test_an_item_that_nothing_reads_has_a_zero_cotangent():
    x = MATRIX
    call = Call(aten.var_mean.correction, (x, [1]), {"correction": 1})
    b, inputs, outputs = call.graph()
    c = b.input("c", outputs[1].meta["val"])
    gradient = reverse.pullback(b, {outputs[1]: c}, inputs)
    assert [node.target for node in gradient] == [operator.getitem]
    leaf = x.clone().requires_grad_()
    expected = torch.autograd.grad((call(leaf)[1] * randn(3)).sum(), leaf)[0]
    found = module([*inputs, c], gradient)(x, randn(3))
    assert_equal(list(found), [expected])
