"""Graphs under construction: equal calls, shapes, and cutting functions out of them."""

import operator

import pytest
import torch

from hesslab.operators.engine.graph import Graph, dependent, module, residuals, shape
from hesslab.operators.engine.operations import aten
from tests.operators.engine.graphs import randn

X, Y = randn(3, 4), randn(3, 4, seed=5)


@pytest.fixture
def b():
    return Graph()


def test_equal_calls_are_one_node(b):
    x = b.input("x", X)
    assert b.call(aten.mul.Tensor, x, x) is b.call(aten.mul.Tensor, x, x)
    assert b.call(aten.sum.dim_IntList, x, [0]) is b.call(aten.sum.dim_IntList, x, (0,))
    assert b.call(aten.gelu.default, x, approximate="tanh") is b.call(
        aten.gelu.default, x, approximate="tanh"
    )
    assert len(b.nodes) == 4


def test_calls_that_differ_are_told_apart(b):
    x, y = b.input("x", X), b.input("y", Y)
    numbers = [1, 1.0, True, 0.0, -0.0, 0, False]
    products = [b.call(aten.mul.Tensor, x, number) for number in numbers]
    others = [
        b.call(aten.mul.Tensor, x, y),
        b.call(aten.mul.Tensor, y, x),
        b.call(aten.add.Tensor, x, y),
        b.call(aten.sum.dim_IntList, x, [0]),
        b.call(aten.sum.dim_IntList, x, [0], True),
        b.call(aten.gelu.default, x),
        b.call(aten.gelu.default, x, approximate="tanh"),
    ]
    assert len({*products, *others}) == len(products) + len(others)


def test_shapes_dtypes_and_data_are_known_without_memory(b):
    x = b.input("x", X, data=True)
    w = b.input("w", randn(4, 5))
    product = b.call(aten.mm.default, x, w)
    assert shape(product) == [3, 5]
    assert product.meta["val"].device.type == "meta"
    assert product.meta["data"]
    assert not b.call(aten.t.default, w).meta["data"]
    order = b.call(aten.sort.default, x)
    assert b.item(order, 1).meta["val"].dtype == torch.int64
    assert b.item(order, 0) is b.item(order, 0)
    like = b.call(operator.add, x, 2, like=w)
    assert shape(like) == [4, 5]


def test_a_wrong_call_fails_where_it_is_made(b):
    x = b.input("x", X)
    with pytest.raises(RuntimeError, match="reduction dim"):
        b.call(aten.mm.default, x, x)


def chain(b):
    x, y = b.input("x", X), b.input("y", Y)
    first = b.call(aten.sin.default, x)
    second = b.call(aten.mul.Tensor, first, y)
    third = b.call(aten.add.Tensor, second, first)
    return x, y, first, second, third


def test_a_module_is_the_function_between_its_nodes(b):
    x, y, first, second, third = chain(b)
    whole = module([x, y], [third, None, second])
    assert torch.equal(whole(X, Y)[0], X.sin() * Y + X.sin())
    assert whole(X, Y)[1] is None
    assert torch.equal(whole(X, Y)[2], X.sin() * Y)
    # What leads to an input is left out, whatever the input is.
    cut = module([first, second], [third])
    assert torch.equal(cut(X, Y)[0], Y + X)
    assert sum(node.op == "call_function" for node in cut.graph.nodes) == 1
    assert torch.equal(module([third], [third])(X)[0], X)
    assert module([x], [None])(X) == (None,)


def test_a_module_needs_what_its_outputs_are_computed_from(b):
    x, _, _, _, third = chain(b)
    with pytest.raises(AssertionError, match="y is needed but was not given"):
        module([x], [third])


def test_a_module_leaves_the_graph_as_it_is(b):
    x, y, first, _, third = chain(b)
    before = str(b.fx)
    module([x, y], [third])
    module([first, y], [third])
    assert str(b.fx) == before


def test_dependent_nodes_are_those_computed_from_the_roots(b):
    x, y, first, second, third = chain(b)
    assert dependent(b.nodes, [y]) == {y, second, third}
    assert dependent(b.nodes, [x]) == {x, first, second, third}
    assert dependent(b.nodes, []) == set()


def test_residuals_are_the_last_fixed_nodes(b):
    x, y, first, second, third = chain(b)
    varying = dependent(b.nodes, [y])
    assert residuals(varying, [third]) == [first]
    assert residuals(varying, [None, second]) == [first]
    assert residuals(dependent(b.nodes, [x]), [third]) == [y]
    assert residuals(set(), [third]) == [third]
    assert residuals(varying, []) == []
