"""A linear map cut into residuals and the rest: every way of running it gives the same."""

import pytest
import torch

from hesslab.operators.engine.graph import Graph, dependent
from hesslab.operators.engine.linear import Linear, memory
from hesslab.operators.engine.operations import aten
from tests.operators.engine.graphs import randn

A, B, V = randn(70, 80), randn(70, 80, seed=9), randn(70, 80, seed=7)
EXPECTED = [(A.sin() * B) * V + V, torch.zeros(()), V.T @ (A.sin() * B).cos()]


def build(*, recomputed=False):
    """Maps v to [(sin(a) b) v + v, nothing, v' cos(sin(a) b)]."""
    b = Graph()
    x, y, v = (b.input(name, t) for name, t in (("x", A), ("y", B), ("v", V)))
    slope = b.call(aten.mul.Tensor, b.call(aten.sin.default, x), y)
    cosine = b.call(aten.cos.default, slope)
    first = b.call(aten.add.Tensor, b.call(aten.mul.Tensor, slope, v), v)
    third = b.call(aten.mm.default, b.call(aten.t.default, v), cosine)
    again = frozenset(dependent(b.nodes, [y]) & {slope, cosine}) if recomputed else frozenset()
    outputs = [first, None, third]
    return Linear([x, y], [v], outputs, extra=[slope, None], recomputed=again), slope, cosine


@pytest.mark.parametrize("recomputed", [False, True])
def test_every_way_of_running_gives_the_same(recomputed):
    linear, slope, cosine = build(recomputed=recomputed)
    assert linear.places == [0, 2]
    assert (slope in linear.kept, cosine in linear.kept) == (not recomputed, not recomputed)
    expected = [EXPECTED[0], EXPECTED[2]]
    kept = linear.prepare(A, B)
    before = [x.clone() for x in (*kept, A, B, V)]
    for _ in range(2):
        applied = linear.run(False, kept, [V])
        once = linear.once(A, B, V)
        for ours, same, theirs in zip(applied, once, expected, strict=True):
            assert torch.equal(ours, same)
            torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)
    assert all(map(torch.equal, before, (*kept, A, B, V)))


@pytest.mark.parametrize("recomputed", [False, True])
def test_a_block_is_its_columns(recomputed):
    linear, _, _ = build(recomputed=recomputed)
    kept = linear.prepare(A, B)
    block = torch.stack([V, 2 * V, V.sin()])
    before = [x.clone() for x in (*kept, block)]
    found = linear.run(True, kept, [block])
    columns = [linear.run(False, kept, [column]) for column in block]
    for place, outputs in enumerate(zip(*columns, strict=True)):
        torch.testing.assert_close(found[place], torch.stack(outputs), rtol=1e-13, atol=1e-13)
    assert all(map(torch.equal, before, (*kept, block)))


def test_extras_come_along_in_order():
    linear, _, _ = build()
    kept = linear.prepare(A, B)
    both = linear.prepare_with_extra(A, B)
    assert all(map(torch.equal, kept, both))
    assert torch.equal(both[len(kept)], A.sin() * B)
    assert both[len(kept) + 1] is None
    *outputs, extra, nothing = linear.once_with_extra(A, B, V)
    assert all(map(torch.equal, outputs, linear.once(A, B, V)))
    assert torch.equal(extra, A.sin() * B)
    assert nothing is None


def test_a_map_without_outputs_keeps_nothing():
    b = Graph()
    x, v = b.input("x", A), b.input("v", V)
    linear = Linear([x], [v], [None, None])
    assert linear.places == linear.kept == []
    assert linear.prepare(A) == linear.run(False, (), [V]) == linear.once(A, V) == ()
    assert linear.run(True, (), [V[None]]) == ()


def test_memory_counts_what_is_shared_once_and_what_is_given_not_at_all():
    linear, slope, cosine = build()
    size = A.numel() * 8
    assert memory([slope, cosine], linear.fixed) == 2 * size
    assert memory([slope, linear.fixed[0]], linear.fixed) == size
    b = Graph()
    x = b.input("x", A)
    h = b.call(aten.sin.default, x)
    views = [b.call(aten.t.default, h), b.call(aten.reshape.default, h, [5600]), h]
    assert memory(views, [x]) == size
    assert memory([b.call(aten.t.default, x)], [x]) == 0
    assert memory([], [x]) == 0
