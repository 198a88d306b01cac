"""Networks over sequences: attention, recurrent layers, embeddings, shared parts."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hesslab as hl
from tests.operators.engine.graphs import randn
from tests.operators.engine.networks import LOSS, N, Plain, built, check, examples

SEQUENCE = (3, 4)
TOKENS = torch.tensor([[0, 1, 2, 3], [1, 1, 4, 0], [2, 2, 2, 2], [3, 0, 1, 4], [4, 3, 1, 2]])
WINDOW = torch.ones(3, 3, dtype=torch.bool).tril()


def attended(**options):
    return lambda s, x: s.b(F.scaled_dot_product_attention(*s.a(x).chunk(3, -1), **options).mean(1))


def projections(function, **parts):
    return lambda: Plain(function, a=nn.Linear(4, 12), b=nn.Linear(4, 3), **parts)


def block(layer, *, arguments=1):
    """Two layers around one that maps a sequence to a sequence."""

    def function(s, x):
        h = s.b(*[x] * arguments)
        h = h[0] if isinstance(h, tuple) else h
        return s.c(h.mean(1))

    return lambda: Plain(function, b=layer(), c=nn.LazyLinear(3)).eval()


def lazily(make):
    """The size of the last layer is known after one forward."""

    def full():
        model = make()
        model(torch.zeros(1, *SEQUENCE))
        return model

    return full


ATTENTION = {
    "attention": projections(attended()),
    "causal attention": projections(attended(is_causal=True)),
    "masked attention": projections(attended(attn_mask=WINDOW, scale=0.3)),
    "attention with a bias": projections(
        lambda s, x: attended(attn_mask=s.bias)(s, x), bias=randn(3, 3)
    ),
    "MultiheadAttention": lazily(
        block(lambda: nn.MultiheadAttention(4, 2, batch_first=True), arguments=3)
    ),
    "TransformerEncoderLayer": lazily(
        block(lambda: nn.TransformerEncoderLayer(4, 2, 5, 0.1, batch_first=True))
    ),
    "TransformerEncoderLayer, norm first": lazily(
        block(
            lambda: nn.TransformerEncoderLayer(
                4, 1, 5, 0.0, "gelu", batch_first=True, norm_first=True
            )
        )
    ),
    "TransformerDecoderLayer": lazily(
        block(lambda: nn.TransformerDecoderLayer(4, 2, 3, batch_first=True), arguments=2)
    ),
}
RECURRENT = {
    "LSTM": lazily(block(lambda: nn.LSTM(4, 2, batch_first=True))),
    "LSTM of two directions": lazily(
        block(lambda: nn.LSTM(4, 1, batch_first=True, bidirectional=True))
    ),
    "GRU": lazily(block(lambda: nn.GRU(4, 2, batch_first=True))),
    "RNN of two layers": lazily(block(lambda: nn.RNN(4, 2, num_layers=2, batch_first=True))),
}
EMBEDDED = {
    "embedding with a padding row": lambda: nn.Sequential(
        nn.Embedding(5, 3, padding_idx=1), nn.Flatten(), nn.Tanh(), nn.Linear(12, 3)
    ),
    "tied embedding": lambda: Plain(
        lambda s, x: F.linear(torch.tanh(s.b(s.a(x).mean(1))), s.a.weight[:3]),
        a=nn.Embedding(5, 3),
        b=nn.Linear(3, 3),
    ),
    "positions": lambda: Plain(
        lambda s, x: s.b((s.a(x) * torch.sin(s.p(torch.arange(4)))).flatten(1)),
        a=nn.Embedding(5, 3),
        b=nn.Linear(12, 3),
        p=nn.Embedding(4, 3),
    ),
    "one hot": lambda: Plain(
        lambda s, x: s.b(torch.tanh(s.a(F.one_hot(x, 5).to(s.a.weight.dtype)))).mean(1),
        a=nn.Linear(5, 3),
        b=nn.Linear(3, 3),
    ),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention(name):
    check(built(ATTENTION[name]), *examples(SEQUENCE))


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers(name):
    check(built(RECURRENT[name]), *examples(SEQUENCE))


@pytest.mark.parametrize("name", EMBEDDED)
def test_embeddings(name):
    model = built(EMBEDDED[name])
    check(model, TOKENS, examples(())[1])


def test_a_layer_that_is_used_twice():
    def function(s, x):
        return s.c(torch.tanh(s.b(torch.tanh(s.b(s.a(x))))))

    layers = {"a": (4, 5), "b": (5, 5), "c": (5, 3)}
    make = lambda: Plain(function, **{k: nn.Linear(*v) for k, v in layers.items()})  # noqa: E731
    check(built(make), *examples((4,)))


def test_a_weight_that_stands_at_two_places():
    def make():
        model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 3))
        model[2].weight = model[0].weight
        return model

    check(built(make), *examples((4,)))


def test_an_embedding_of_which_backward_averages_is_refused_by_torch():
    model = built(lambda: nn.Sequential(nn.EmbeddingBag(5, 3), nn.Linear(3, 3)))
    with pytest.raises(NotImplementedError, match="_embedding_bag_backward"):
        hl.Hessian(model, LOSS, (TOKENS, torch.zeros(N, dtype=torch.int64)))
