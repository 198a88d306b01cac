"""Sums, scalings, congruences, restrictions and blocks against the same algebra of dense ones."""

import copy

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from torch import nn

import hesslab as hl
from hesslab.errors import NotFinite
from tests.cases import N, case

# float64 products of networks with entries of order one: rounding is some 1e-15 a sum
TOLERANCE = {"rtol": 1e-9, "atol": 1e-12}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def operators(model="mlp", loss="cross-entropy", **options):
    c = case(model, loss)
    options = {"batch_size": 4, **options}
    H = hl.Hessian(c.model, c.loss, (c.x, c.y), **options)
    G = hl.GGN(c.model, c.loss, (c.x, c.y), **options)
    return c, H, G


def eye(A):
    return torch.eye(len(A), dtype=torch.float64)


class ThirdParty:
    """A matrix of somebody else: shape, dtype, device and @, and nothing more."""

    def __init__(self, matrix):
        self._matrix = matrix
        self.shape, self.dtype, self.device = matrix.shape, matrix.dtype, matrix.device

    def __matmul__(self, v):
        return self._matrix @ v


def symmetric(n, seed=1):
    A = random(n, n, seed=seed)
    return A + A.T


EXPRESSIONS = {
    "sum": (lambda H, G, B: H + G, lambda H, G, B: H + G),
    "difference": (lambda H, G, B: H - G, lambda H, G, B: H - G),
    "left factor": (lambda H, G, B: 2 * H, lambda H, G, B: 2 * H),
    "right factor": (lambda H, G, B: H * 0.5, lambda H, G, B: H / 2),
    "numpy factor": (lambda H, G, B: np.float64(3) * H, lambda H, G, B: 3 * H),
    "tensor factor": (lambda H, G, B: torch.tensor(3.0) * H, lambda H, G, B: 3 * H),
    "quotient": (lambda H, G, B: H / 4, lambda H, G, B: H / 4),
    "negative": (lambda H, G, B: -H, lambda H, G, B: -H),
    "shift": (lambda H, G, B: H.shift(0.7), lambda H, G, B: H + 0.7 * eye(H)),
    "tensor right": (lambda H, G, B: H + B, lambda H, G, B: H + B),
    "tensor left": (lambda H, G, B: B - H, lambda H, G, B: B - H),
    "array left": (lambda H, G, B: B.numpy() + H, lambda H, G, B: H + B),
    "sparse": (lambda H, G, B: H + B.to_sparse(), lambda H, G, B: H + B),
    "third party right": (lambda H, G, B: H - ThirdParty(B), lambda H, G, B: H - B),
    "third party left": (lambda H, G, B: ThirdParty(B) - H, lambda H, G, B: B - H),
    "of sums": (
        lambda H, G, B: 3 * (H - 2 * G).shift(0.1) - (B - H),
        lambda H, G, B: 4 * H - 6 * G + 0.3 * eye(H) - B,
    ),
    "built-in sum": (lambda H, G, B: sum([H, G, H]), lambda H, G, B: 2 * H + G),
    "congruence": (
        lambda H, G, B: H.congruence(B[0]),
        lambda H, G, B: B[0].unsqueeze(1) * H * B[0],
    ),
    "congruence of a sum": (
        lambda H, G, B: (H - B).congruence(B[0]).shift(1.0) / 2,
        lambda H, G, B: (B[0].unsqueeze(1) * (H - B) * B[0] + eye(H)) / 2,
    ),
    "unsymmetric": (
        lambda H, G, B: (H + B.tril()).congruence(B[0]),
        lambda H, G, B: B[0].unsqueeze(1) * (H + B.tril()) * B[0],
    ),
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_expression_equals_that_of_dense_matrices(name):
    c, H, G = operators()
    B = symmetric(len(c.flat()))
    ours, theirs = EXPRESSIONS[name]
    A, dense = ours(H, G, B), theirs(c.hessian, c.ggn, B)
    V = random(A.shape[1], 3)
    assert A.shape == tuple(dense.shape)
    assert (A.dtype, A.device, A.parameter_names) == (H.dtype, H.device, H.parameter_names)
    torch.testing.assert_close(A @ V, dense @ V, **TOLERANCE)
    torch.testing.assert_close(A @ V[:, 0], dense @ V[:, 0], **TOLERANCE)
    torch.testing.assert_close(A.T @ V, dense.T @ V, **TOLERANCE)
    torch.testing.assert_close(torch.from_numpy(A @ V.numpy()), dense @ V, **TOLERANCE)
    named = A @ A.vector_to_dict(V[:, 1].contiguous())
    torch.testing.assert_close(A.dict_to_vector(named), dense @ V[:, 1], **TOLERANCE)
    S = A.to_scipy()
    torch.testing.assert_close(torch.from_numpy(S.rmatmat(V.numpy())), dense.T @ V, **TOLERANCE)
    assert not (A @ V.requires_grad_()).requires_grad


PARTS = ["third party right", "sparse", "of sums", "congruence of a sum", "unsymmetric"]


@pytest.mark.parametrize("name", PARTS)
def test_restriction_goes_through_the_algebra(name):
    c, H, G = operators()
    B = symmetric(len(c.flat()))
    ours, theirs = EXPRESSIONS[name]
    A, dense = ours(H, G, B), theirs(c.hessian, c.ggn, B)
    names = c.names()[2:4]
    part = A.restrict(names)
    start = sum(p.numel() for p in list(c.model.parameters())[:2])
    rows = torch.arange(start, start + part.shape[0])
    assert part.parameter_names == tuple(names)
    torch.testing.assert_close(part.to_dense(), dense[rows][:, rows], **TOLERANCE)
    small = part.restrict(names[1])
    rows = rows[-small.shape[0] :]
    torch.testing.assert_close(small.to_dense(), dense[rows][:, rows], **TOLERANCE)
    torch.testing.assert_close(small.T.to_dense(), dense[rows][:, rows].T, **TOLERANCE)


@pytest.mark.parametrize("which", ["Hessian", "GGN"])
@pytest.mark.parametrize("model", ["attention", "residual"])
def test_blocks_are_those_on_the_diagonal(which, model):
    c = case(model, "cross-entropy")
    A = getattr(hl, which)(c.model, c.loss, (c.x, c.y), batch_size=4)
    dense = c.hessian if which == "Hessian" else c.ggn
    sizes = [p.numel() for p in c.model.parameters()]
    D = A.block_diagonal()
    assert len(D.blocks) == len(sizes)
    owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    mask = owner.unsqueeze(0) == owner.unsqueeze(1)
    v = random(len(dense))
    torch.testing.assert_close(D @ v, (dense * mask) @ v, **TOLERANCE)


def test_blocks_of_several_parameters_out_of_order():
    c, H, _ = operators()
    weights, biases = c.names()[::2], c.names()[1::2]
    D = H.block_diagonal([biases, "*weight"])
    named = c.model.named_parameters()
    kind = torch.cat([torch.full((p.numel(),), "bias" in name) for name, p in named])
    mask = kind.unsqueeze(0) == kind.unsqueeze(1)
    torch.testing.assert_close(D.to_dense(), c.hessian * mask, **TOLERANCE)
    torch.testing.assert_close(D.gradient(), c.gradient, **TOLERANCE)
    part = D.restrict([weights[0], *biases[:2]])
    assert [block.parameter_names for block in part.blocks] == [tuple(biases[:2]), (weights[0],)]
    rows = H._columns.rows(part.parameter_names)
    torch.testing.assert_close(part.to_dense(), (c.hessian * mask)[rows][:, rows], **TOLERANCE)
    both = (2 * H).block_diagonal([biases, weights]) - 2 * D
    assert both.to_dense().abs().max() < 1e-12


def test_blocks_of_an_unsymmetric_matrix():
    c, H, _ = operators()
    B = random(*c.hessian.shape)
    D = (H + B).block_diagonal()
    whole = torch.block_diag(
        *((c.hessian + B)[r][:, r] for r in (H._columns.rows([n]) for n in c.names()))
    )
    torch.testing.assert_close(D.to_dense(), whole, **TOLERANCE)
    torch.testing.assert_close(D.T.to_dense(), whole.T, **TOLERANCE)


def test_a_block_without_a_part_in_the_outputs_is_zero():
    c = case("tied", "cross-entropy")
    G = hl.GGN(c.model, c.loss, (c.x, c.y), batch_size=4)
    assert torch.equal(G.restrict("unused").to_dense(), torch.zeros(2, 2, dtype=torch.float64))


def test_restriction_does_less_work_at_the_same_point():
    c = case("mlp", "cross-entropy")
    model = copy.deepcopy(c.model)
    H = hl.Hessian(model, c.loss, (c.x, c.y), batch_size=4)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    name = c.names()[-2]
    part = H.restrict(name)
    assert type(part) is hl.Hessian
    assert part.parameter_names == (name,)
    rows = H._columns.rows([name])
    torch.testing.assert_close(part.to_dense(), c.hessian[rows][:, rows], **TOLERANCE)
    torch.testing.assert_close(part.gradient(), c.gradient[rows], **TOLERANCE)
    assert H.shape == tuple(c.hessian.shape)
    program = part.plan.traced._point(c.x[:4]).program
    assert len(program.active) == 1  # of what the data meets, only this varies
    part.plan.untraced("autograd is to be asked")
    asked = []
    leaves = part._network.leaves
    part._network.leaves = lambda: asked.append(leaves()) or asked[-1]
    part @ random(part.shape[1])
    assert all(set(point) == {name} for point in asked)
    assert len(asked) == 3


def test_padding_row_of_a_restricted_embedding():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Embedding(6, 3, padding_idx=0), nn.Flatten(), nn.Tanh(), nn.Linear(6, 2)
    model = nn.Sequential(*layers).double()
    x = torch.randint(0, 6, (N, 2), generator=torch.Generator().manual_seed(0))
    data = (x, torch.arange(N) % 2)
    G = hl.GGN(model, nn.CrossEntropyLoss(), data)
    dense = G.to_dense()
    for name in ("0.weight", "3.*"):
        part = G.restrict(name)
        rows = G._columns.rows(part.parameter_names)
        torch.testing.assert_close(part.to_dense(), dense[rows][:, rows], **TOLERANCE)


def test_gradient_distributes():
    c, H, G = operators()
    d = random(len(c.flat())).abs() + 0.1
    for A, factor in [(2 * H - G / 2, 1.5), (-H, -1.0), ((H + H).congruence(d), 2 * d)]:
        torch.testing.assert_close(A.gradient(), factor * c.gradient, **TOLERANCE)
    for A in (H + torch.eye(H.shape[0]).double(), H.shift(1.0), H.shift(1.0).congruence(d)):
        assert not hasattr(A, "gradient")
    with pytest.raises(AttributeError, match="this sum has no gradient: a shift or one of its te"):
        H.shift(1.0).gradient()


def test_eigenpairs_of_the_algebra_and_of_third_parties():
    c, H, G = operators()
    B = symmetric(len(c.flat())) / 10
    A = (H - G + ThirdParty(B)).shift(0.2)
    expected = torch.linalg.eigvalsh(c.hessian - c.ggn + B).flip(0) + 0.2
    values = hl.linalg.eigsh(A, k=6, which="both", rtol=1e-8).values
    torch.testing.assert_close(values[:3], expected[:3], rtol=1e-9, atol=0)
    torch.testing.assert_close(values[3:], expected[-3:], rtol=1e-9, atol=0)
    found = scipy.sparse.linalg.eigsh(A.to_scipy(), k=2, which="LA", return_eigenvectors=False)
    torch.testing.assert_close(torch.tensor(sorted(found)), expected[:2].flip(0), rtol=1e-9, atol=0)


def test_operators_of_different_data_add_up_to_the_whole():
    c = case("cnn", "cross-entropy")
    one = hl.Hessian(c.model, c.loss, (c.x[:4], c.y[:4]))
    two = hl.Hessian(c.model, c.loss, (c.x[4:], c.y[4:]))
    A = (4 * one + (N - 4) * two) / N
    v = random(A.shape[1])
    torch.testing.assert_close(A @ v, c.hessian @ v, **TOLERANCE)
    torch.testing.assert_close(A.gradient(), c.gradient, **TOLERANCE)


def test_rectangular_sums():
    c = case("mlp", "cross-entropy")
    J = hl.Jacobian(c.model, c.x, batch_size=4)
    B = random(*J.shape)
    A = 2 * J - B
    torch.testing.assert_close(A.to_dense(), 2 * c.jacobian - B, **TOLERANCE)
    torch.testing.assert_close(A.T.to_dense(), (2 * c.jacobian - B).T, **TOLERANCE)
    with pytest.raises(ValueError, match=r"shape \(33, 64\); a shift needs a square one"):
        J.shift(1.0)
    with pytest.raises(ValueError, match=r"shape \(33, 64\); diag\(d\) A diag\(d\) needs a squ"):
        J.congruence(torch.ones(64).double())


# scalings


def relu_net(a):
    """A ReLU network whose function does not depend on a."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv1d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6, 2)
    model = nn.Sequential(*layers).double()
    with torch.no_grad():
        model[0].weight.mul_(a)
        model[0].bias.mul_(a)
        model[3].weight.div_(a)
    return model


def test_filter_normalised_hessian_does_not_see_a_rescaling_of_layers():
    x = random(N, 1, 4)
    y = torch.arange(N) % 2
    raw, seen = [], []
    for a in (1.0, 3.0, 0.2):
        model = relu_net(a)
        H = hl.Hessian(model, nn.CrossEntropyLoss(), (x, y))
        raw.append(torch.linalg.eigvalsh(H.to_dense()))
        d = hl.operators.filter_norms(model)
        seen.append(torch.linalg.eigvalsh(H.congruence(d).to_dense()))
    torch.testing.assert_close(seen[1], seen[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(seen[2], seen[0], rtol=1e-9, atol=1e-12)
    assert abs(raw[1][-1] / raw[0][-1] - 1) > 0.5


def test_filters_are_what_makes_one_output():
    conv = nn.Conv2d(4, 6, 3, groups=2)
    up = nn.ConvTranspose2d(4, 6, 3, groups=2)
    model = nn.ModuleDict({"conv": conv, "up": up, "table": nn.Embedding(5, 3)})
    norms = hl.operators.filter_norms(model)
    for o in range(6):
        expected = conv.weight[o].square().sum().sqrt()
        assert torch.allclose(norms["conv.weight"][o], expected)
        inputs = slice(0, 2) if o < 3 else slice(2, 4)
        expected = up.weight[inputs, o % 3].square().sum().sqrt()
        assert torch.allclose(norms["up.weight"][inputs, o % 3], expected)
    expected = model["table"].weight.square().sum(1, keepdim=True).sqrt().expand(5, 3)
    assert torch.allclose(norms["table.weight"], expected)
    assert torch.equal(norms["conv.bias"], conv.bias.abs())
    assert not any(norm.requires_grad for norm in norms.values())
    assert set(hl.operators.filter_norms(model, "up.*")) == {"up.weight", "up.bias"}


@pytest.mark.parametrize("kind", ["Adam", "AdamW", "amsgrad", "NAdam"])
def test_adam_scaling_is_what_a_step_divides_by(kind):
    c = case("mlp", "cross-entropy")
    model = copy.deepcopy(c.model)
    make = {"amsgrad": lambda p: torch.optim.Adam(p, lr=1e-2, eps=1e-3, amsgrad=True)}.get(
        kind, lambda p: getattr(torch.optim, kind)(p, lr=1e-2, eps=1e-3)
    )
    optimizer = make(model.parameters())
    moments = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    largest = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    for _ in range(5):
        optimizer.zero_grad()
        c.mean_loss(model(c.x)).backward()
        for n, p in model.named_parameters():
            moments[n] = 0.999 * moments[n] + 0.001 * p.grad**2
            largest[n] = torch.maximum(largest[n], moments[n])
        optimizer.step()
    used = largest if kind == "amsgrad" else moments
    d = hl.operators.adam_scaling(optimizer, model)
    for n, moment in used.items():
        expected = 1 / ((moment / (1 - 0.999**5)).sqrt() + 1e-3)
        torch.testing.assert_close(d[n] ** 2, expected, rtol=1e-9, atol=0)
    H = hl.Hessian(model, c.loss, (c.x, c.y))
    scaled = torch.linalg.eigvalsh(H.congruence(d).to_dense())
    P = H.dict_to_vector(d).square().unsqueeze(1) * H.to_dense()
    torch.testing.assert_close(
        torch.linalg.eigvals(P).real.sort().values, scaled, rtol=1e-7, atol=1e-9
    )


def test_adam_scaling_of_an_optimizer_without_moments():
    model = nn.Linear(2, 1)
    scaling = hl.operators.adam_scaling
    with pytest.raises(ValueError, match=r"keeps no second moment of weight .* after at least one"):
        scaling(torch.optim.Adam(model.parameters()), model)
    with pytest.raises(ValueError, match="keeps no second moment of weight"):
        scaling(torch.optim.SGD(model.parameters(), lr=0.1), model)
    with pytest.raises(ValueError, match="weight is not a parameter of the optimizer; was the mod"):
        scaling(torch.optim.Adam(nn.Linear(2, 1).parameters()), model)
    with pytest.raises(TypeError, match="RAdam does not always divide by its second moment"):
        scaling(torch.optim.RAdam(model.parameters()), model)
    optimizer = torch.optim.Adam(model.parameters(), eps=0.0)
    (model(torch.zeros(3, 2)).sum()).backward()
    optimizer.step()
    with pytest.raises(
        NotFinite, match=r"the scaling of weight is infinite .* is zero and eps is 0"
    ):
        scaling(optimizer, model)
    assert set(scaling(optimizer, model, "bias")) == {"bias"}
    with pytest.raises(ValueError, match=r"none of the model's 2 parameters requires a gradient"):
        hl.operators.filter_norms(model.requires_grad_(False))
    with pytest.raises(ValueError, match="'conv' matches no parameter"):
        hl.operators.filter_norms(model, "conv")


# what is refused


def test_terms_that_do_not_fit():
    _, H, _ = operators()
    P = H.shape[0]
    with pytest.raises(ValueError, match=r"shape \(3, 3\) is added to an operator of shape \(64, "):
        H + torch.eye(3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"matrix of torch.float32 on cpu is added to an operator"):
        H + torch.eye(P)
    with pytest.raises(TypeError, match=r"added to a int, which has no .*; use A.shift\(s\) for A"):
        H + 3
    with pytest.raises(TypeError, match=r"LinearOperator, which has no device; expected an oper"):
        H + H.to_scipy()


def test_terms_of_equal_size_on_other_parameters():
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)).double()
    data = (random(5, 2), torch.arange(5) % 2)
    one, two = (hl.GGN(model, nn.CrossEntropyLoss(), data, parameters=n) for n in ("0.*", "2.*"))
    with pytest.raises(ValueError, match=r"on 6 parameters \(2.weight, 2.bias\) is added to one o"):
        one + two


def test_factors_that_are_no_numbers():
    _, H, _ = operators()
    with pytest.raises(TypeError, match=r"by a str; expected a real number \(use A @ v for a prod"):
        H * "2"
    with pytest.raises(TypeError, match="by a complex; expected a real number"):
        H * 2j
    with pytest.raises(TypeError, match=r"by a Tensor; expected a real number \(use A @ v"):
        torch.ones(64).double() * H
    with pytest.raises(NotFinite, match="multiplied by or shifted by nan"):
        H.shift(float("nan"))
    with pytest.raises(ValueError, match="the operator is divided by 0"):
        H / 0


def test_diagonals_that_do_not_fit():
    _, H, _ = operators()
    with pytest.raises(ValueError, match=r"v has 3 rows, but the operator has 64 parameters"):
        H.congruence(torch.ones(3))
    with pytest.raises(
        ValueError, match=r"d has 2 dimensions; expected the diagonal alone, \[64\]"
    ):
        H.congruence(torch.ones(64, 1))
    with pytest.raises(NotFinite):
        H.congruence(torch.full((64,), torch.inf))
    with pytest.raises(ValueError, match="the dictionary lacks"):
        H.congruence({})


def test_blocks_that_are_no_partition():
    c, H, _ = operators()
    first, *rest = c.names()
    with pytest.raises(ValueError, match=f"{first} is in more than one block"):
        H.block_diagonal([first, "*"])
    with pytest.raises(ValueError, match=f"{rest[-1]} is in no block; add a block for it, or take"):
        H.block_diagonal([[first, *rest[:-1]]])
    with pytest.raises(TypeError, match="is one text; expected a list with an entry per block"):
        H.block_diagonal("*")
    with pytest.raises(ValueError, match="an empty list names no parameter"):
        H.restrict([])


def test_transpose_of_an_unsymmetric_third_party():
    c, H, _ = operators()
    A = H + ThirdParty(random(*c.hessian.shape))
    A @ random(H.shape[0])
    with pytest.raises(ValueError, match=r"the ThirdParty \(64, 64\) is not symmetric .* no .T"):
        A.T @ random(H.shape[0])


def test_a_term_with_nan_is_named():
    _, H, _ = operators()
    A = H + ThirdParty(torch.full(H.shape, torch.nan, dtype=torch.float64))
    with pytest.raises(NotFinite, match=r"the product with the ThirdParty \(64, 64\) is NaN or"):
        A @ random(H.shape[0])


def test_products_of_the_algebra_carry_no_graph():
    c, H, _ = operators()
    B = symmetric(H.shape[0]).requires_grad_()
    with torch.enable_grad():
        product = (H + ThirdParty(B) + B).congruence(B[0]) @ random(H.shape[0])
    assert not product.requires_grad
    values = hl.linalg.eigsh((H + B).restrict(c.names()[0]), k=2).values
    with pytest.raises(RuntimeError, match="does not require grad"):
        values.sum().backward()


def test_repr_shows_the_terms():
    _, H, G = operators()
    text = repr((2 * H - G).shift(0.5))
    assert text.startswith("2 * Hessian(64 parameters (")
    assert " + -1 * GGN(64 parameters (" in text
    assert text.endswith(" + 0.5 * I")
