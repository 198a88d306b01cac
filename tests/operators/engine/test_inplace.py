"""Writing into operands: the same bits as out of place, and nothing else is touched."""

import pytest
import torch

from hesslab.operators.engine.generic import Push, close
from hesslab.operators.engine.graph import Graph, module
from hesslab.operators.engine.inplace import IN_PLACE, SMALL, in_place, owners
from hesslab.operators.engine.operations import aten, conv_weight_grad
from tests.operators.engine.graphs import randn

ROWS, COLUMNS = 80, 64
LARGE = (ROWS, COLUMNS)
PLAIN = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)


def fresh(b, x):
    """A node with memory of its own."""
    return b.call(aten.mul.Tensor, x, 2.0)


# Each builds the output from three inputs of the large size; those of WRITTEN have an operand
# that may be overwritten, those of TRAPS none.


def chain(b, x, y, z):
    h = b.call(aten.add.Tensor, fresh(b, x), y)
    return b.call(aten.mul.Tensor, b.call(aten.sub.Tensor, h, z), y)


def second_operand(b, x, y, z):
    return b.call(aten.add.Tensor, x, fresh(b, y))


def after_a_view_was_read(b, x, y, z):
    h = fresh(b, x)
    view = b.call(aten.slice.Tensor, b.call(aten.t.default, h), 0, 0, 1, 1)
    total = b.call(aten.sum.dim_IntList, view, [0, 1])
    return b.call(aten.add.Tensor, b.call(aten.mul.Tensor, y, total), h)


def relu_mask(b, x, y, z):
    return b.call(aten.threshold_backward.default, fresh(b, x), y, 0)


def broadcast_into(b, x, y, z):
    row = b.call(aten.sum.dim_IntList, y, [0], True)
    return b.call(aten.add.Tensor, fresh(b, x), row)


def several_sums(b, x, y, z):
    h = b.call(aten.add.Tensor, fresh(b, x), fresh(b, y))
    h = b.call(aten.add.Tensor, h, fresh(b, z))
    return b.call(aten.add.Tensor, h, b.call(aten.mm.default, y, small(b, z)))


def small(b, z):
    gram = b.call(aten.mm.default, b.call(aten.t.default, z), z)
    return b.call(aten.mul.Tensor, gram, 0.01)


WRITTEN = {
    chain: 3,
    second_operand: 1,
    after_a_view_was_read: 1,
    relu_mask: 1,
    broadcast_into: 1,
    several_sums: 3,
}


def an_input(b, x, y, z):
    return b.call(aten.add.Tensor, x, y)


def a_view_of_an_input(b, x, y, z):
    return b.call(aten.add.Tensor, b.call(aten.reshape.default, x, [COLUMNS, ROWS]), z_like(b, z))


def z_like(b, z):
    return b.call(aten.reshape.default, z, [COLUMNS, ROWS])


def read_later(b, x, y, z):
    h = fresh(b, x)
    changed = b.call(aten.add.Tensor, h, y)
    return b.call(aten.cat.default, [changed, h])


def read_later_through_a_view(b, x, y, z):
    h = fresh(b, x)
    view = b.call(aten.t.default, h)
    changed = b.call(aten.add.Tensor, h, y)
    return b.call(aten.cat.default, [changed, b.call(aten.t.default, view)])


def read_later_through_a_view_without_rule(b, x, y, z):
    h = fresh(b, x)
    view = b.call(aten.unfold.default, h, 1, 2, 1)
    changed = b.call(aten.add.Tensor, h, y)
    return b.call(aten.cat.default, [changed, sides(b, view)], 1)


def sides(b, view):
    return b.call(aten.sum.dim_IntList, view, [2])


def read_later_through_a_derivative(b, x, y, z):
    """torch.func gives a view of the tangent for the tangent of a view."""
    h = fresh(b, x)
    tangent = b.call(aten.neg.default, h)
    closed, tensors = close(b.call(aten.unfold.default, h, 1, 2, 1))
    like = (torch.empty(ROWS, COLUMNS - 1, 2, dtype=torch.float64, device="meta"),)
    push = b.call(Push(closed, (0,), 1), *tensors, tangent, like=like)
    changed = b.call(aten.add.Tensor, tangent, y)
    return b.call(aten.cat.default, [changed, sides(b, b.item(push, 0))], 1)


def both_operands_are_one(b, x, y, z):
    h = fresh(b, x)
    return b.call(aten.mul.Tensor, h, h)


def both_operands_show_one(b, x, y, z):
    h = b.call(aten.mm.default, x, b.call(aten.t.default, y))
    return b.call(aten.add.Tensor, h, b.call(aten.t.default, h))


def smaller_operand(b, x, y, z):
    return b.call(aten.add.Tensor, fresh(b, x), b.call(aten.expand.default, y, [2, *LARGE]))


def another_dtype(b, x, y, z):
    half = b.call(aten.mul.Tensor, b.call(aten._to_copy.default, x, dtype=torch.float32), 2.0)
    return b.call(aten.add.Tensor, half, y)


def subtracted(b, x, y, z):
    return b.call(aten.sub.Tensor, x, fresh(b, y))


def mask_itself(b, x, y, z):
    return b.call(aten.threshold_backward.default, x, fresh(b, y), 0)


def expanded(b, x, y, z):
    column = b.call(aten.sum.dim_IntList, x, [1], True)
    return b.call(aten.add.Tensor, b.call(aten.expand.default, column, list(LARGE)), y)


TRAPS = [
    an_input,
    a_view_of_an_input,
    read_later,
    read_later_through_a_view,
    read_later_through_a_view_without_rule,
    read_later_through_a_derivative,
    both_operands_are_one,
    both_operands_show_one,
    smaller_operand,
    another_dtype,
    subtracted,
    mask_itself,
    expanded,
]
TENSORS = [randn(*LARGE, seed=seed) for seed in range(3)]


def built(function):
    b = Graph()
    inputs = [b.input(name, x) for name, x in zip("xyz", TENSORS, strict=True)]
    out = function(b, *inputs)
    return module(inputs, [out])


def writes(graph):
    return sum(node.target in IN_PLACE.values() for node in graph.graph.nodes)


def assert_same_bits(plain, changed, tensors):
    """Twice, and nothing that was given is written to."""
    given = [x.clone() for x in tensors]
    expected = plain(*tensors)
    for _ in range(2):
        for ours, theirs in zip(changed(*given), expected, strict=True):
            assert torch.equal(ours, theirs)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(given, tensors, strict=True))


@pytest.mark.parametrize("function", WRITTEN)
def test_writing_in_place_changes_no_bit(function):
    plain = built(function)
    changed = in_place(plain)
    assert writes(changed) == WRITTEN[function]
    assert writes(plain) == 0
    assert_same_bits(plain, changed, TENSORS)


@pytest.mark.parametrize("function", TRAPS)
def test_what_is_still_needed_is_not_overwritten(function):
    plain = built(function)
    changed = in_place(plain)
    assert writes(changed) == 0
    assert_same_bits(plain, changed, TENSORS)


def test_an_output_is_not_overwritten():
    b = Graph()
    x, y, _ = (b.input(name, t) for name, t in zip("xyz", TENSORS, strict=True))
    first = fresh(b, x)
    second = b.call(aten.add.Tensor, first, y)
    plain = module([x, y], [first, second])
    assert writes(in_place(plain)) == 0
    view = module([x, y], [b.call(aten.t.default, first), second])
    assert writes(in_place(view)) == 0
    assert_same_bits(view, in_place(view), TENSORS[:2])


def test_small_tensors_are_left_alone():
    b = Graph()
    x = b.input("x", randn(SMALL))
    plain = module([x], [b.call(aten.add.Tensor, fresh(b, x), 1.0)])
    assert writes(in_place(plain)) == 0


def test_the_two_gradients_of_a_convolution_have_memory_of_their_own():
    x, w = randn(1, 16, 8, 8), randn(64, 16, 3, 3)
    g = aten.convolution(x, w, None, *PLAIN)
    b = Graph()
    inputs = [b.input(name, t) for name, t in (("g", g), ("x", x), ("w", w))]
    both = b.call(conv_weight_grad, *inputs, PLAIN, True)
    by_weight = b.call(aten.add.Tensor, b.item(both, 0), inputs[2])
    plain = module(inputs, [by_weight, b.item(both, 1)])
    assert writes(in_place(plain)) == 1
    assert_same_bits(plain, in_place(plain), [g, x, w])


@pytest.mark.parametrize("function", [*WRITTEN, *TRAPS])
def test_under_vmap_only_what_has_the_dimension_is_written_to(function):
    plain = built(function)
    changed = in_place(plain, batched=1)
    wide = torch.stack([TENSORS[2], TENSORS[1], TENSORS[0]])
    found = torch.func.vmap(changed, in_dims=(None, None, 0), out_dims=0)
    expected = torch.stack([plain(*TENSORS[:2], column)[0] for column in wide])
    given = [x.clone() for x in (*TENSORS[:2], wide)]
    torch.testing.assert_close(found(*given)[0], expected, rtol=1e-14, atol=1e-14)
    assert all(map(torch.equal, given, (*TENSORS[:2], wide)))
    assert writes(changed) <= WRITTEN.get(function, 0)


def test_owners_see_through_views():
    b = Graph()
    x = b.input("x", TENSORS[0])
    h = fresh(b, x)
    t = b.call(aten.t.default, h)
    piece = b.call(aten.slice.Tensor, t, 0, 0, 3, 1)
    owner = owners(b.nodes)
    assert owner[piece] is owner[t] is owner[h] is h
    assert owner[x] is x
