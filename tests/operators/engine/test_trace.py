"""What comes out of a trace: no in-place operation, and a reason where there is no trace."""

import pytest
import torch
from torch import nn

from hesslab.operators.engine.graph import Untraceable
from hesslab.operators.engine.trace import trace
from tests.operators.engine.graphs import randn


def traced(function, x, **state):
    return trace(lambda given, x: function(given, x), state, x)


def mutating(graph):
    schemas = [getattr(node.target, "_schema", None) for node in graph.graph.nodes]
    return [schema for schema in schemas if schema is not None and schema.is_mutable]


def assigned(_, x):
    y = torch.zeros_like(x)
    y[:, ::2] = x[:, 1::2].sin()
    y[0] += x[1]
    return y.mul_(2)


FUNCTIONS = {
    "assigned slices": assigned,
    "a view written to": lambda _, x: x.clone().t().add_(1.0)[1:].sigmoid_(),
    "circular padding": lambda _, x: nn.functional.pad(x[None], (2, 1), mode="circular"),
    "rms norm": lambda _, x: nn.functional.rms_norm(x, [4]),
    "cosine": lambda _, x: nn.functional.cosine_similarity(x, x.flip(0)),
    "out of place": lambda _, x: x.sin() + 1,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_trace_is_the_function_without_writing_in_place(name):
    x = randn(3, 4)
    before = x.clone()
    graph, names = traced(FUNCTIONS[name], x)
    assert names == []
    assert not mutating(graph)
    torch.testing.assert_close(graph(x), FUNCTIONS[name](None, x), rtol=1e-14, atol=1e-14)
    assert torch.equal(x, before)
    other = randn(3, 4, seed=9)
    torch.testing.assert_close(graph(other), FUNCTIONS[name](None, other), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_trace_of_a_recurrent_layer_writes_nothing_in_place(layer):
    model = layer(4, 3).double().requires_grad_(False)
    state = dict(model.named_parameters())

    def function(given, x):
        return torch.func.functional_call(model, given, (x,))[0]

    x = randn(2, 1, 4)
    graph, names = trace(function, state, x)
    assert names == list(state)
    assert not mutating(graph)
    torch.testing.assert_close(graph(*state.values(), x), model(x)[0], rtol=1e-13, atol=1e-13)


def branch(_, x):
    return x.sin() if x.sum() > 0 else x.cos()


@pytest.mark.parametrize(
    "function",
    [branch, lambda _, x: x.missing, lambda _, x: x.numpy()],
)
def test_what_cannot_be_traced_says_why(function):
    with pytest.raises(Untraceable, match=r"\w+(Error|Value|Dependent)\w*: .{5}"):
        traced(function, randn(3, 4))
