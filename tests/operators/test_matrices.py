"""Fisher, gradient covariance, Jacobian and tangent kernel against dense references in float64."""

import copy
import functools
import itertools

import pytest
import scipy.sparse.linalg
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import hesslab as hl
from tests.cases import LOSSES, MODELS, Case, N, case

# float64 products of networks with entries of order one: rounding is some 1e-15 a sum
TOLERANCE = {"rtol": 1e-9, "atol": 1e-12}


@functools.cache
def example_gradients(c):
    """``[N, P]``: the gradient of the mean loss of each example alone, by autograd."""
    pairs = zip(c.x.split(1), c.y.split(1), strict=True)
    return torch.stack([Case(c.model, c.loss, x, y).gradient for x, y in pairs])


def batch_gradients(c, batches):
    return torch.stack([Case(c.model, c.loss, x, y).gradient for x, y in batches])


def covariance(rows, weights=None):
    if weights is None:
        weights = torch.full((len(rows),), 1 / len(rows), dtype=torch.float64)
    apart = rows - weights @ rows
    return apart.T @ (weights.unsqueeze(1) * apart)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tokens():
    """Inputs ``[N, T, 3]`` and class numbers ``[N, T]`` of a network that reads each position."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 5, 3, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 2, (N, 5), generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    return model, x, y


MATRICES = {
    "fisher": (lambda c, **o: hl.Fisher(c.model, c.loss, (c.x, c.y), **o), lambda c: c.ggn),
    "empirical": (
        lambda c, **o: hl.Fisher(c.model, c.loss, (c.x, c.y), kind="empirical", **o),
        lambda c: (g := example_gradients(c)).T @ g / N,
    ),
    "covariance": (
        lambda c, **o: hl.GradientCovariance(c.model, c.loss, (c.x, c.y), **o),
        lambda c: covariance(example_gradients(c)),
    ),
    "moment": (
        lambda c, **o: hl.GradientCovariance(c.model, c.loss, (c.x, c.y), centered=False, **o),
        lambda c: (g := example_gradients(c)).T @ g / N,
    ),
    "batches": (
        lambda c, **o: hl.GradientCovariance(c.model, c.loss, (c.x, c.y), per="batch", **o),
        lambda c: covariance(
            batch_gradients(c, zip(c.x.split(4), c.y.split(4), strict=True)),
            torch.tensor([4, 4, 3]).double() / N,
        ),
    ),
    "jacobian": (lambda c, **o: hl.Jacobian(c.model, (c.x, c.y), **o), lambda c: c.jacobian),
    "transpose": (lambda c, **o: hl.Jacobian(c.model, c.x, **o).T, lambda c: c.jacobian.T),
    "kernel": (lambda c, **o: hl.NTK(c.model, c.x, **o), lambda c: c.jacobian @ c.jacobian.T),
}
WITHOUT_LOSS = {"jacobian", "transpose", "kernel"}
CASES = [
    (matrix, model, loss)
    for matrix, model, loss in itertools.product(MATRICES, MODELS, LOSSES)
    if (loss == "cross-entropy" or matrix not in WITHOUT_LOSS)
    and (model == "mlp" or loss == "cross-entropy")
    and not (matrix == "fisher" and loss == "callable")
]


@pytest.mark.parametrize(("matrix", "model", "loss"), CASES)
def test_product_equals_dense_reference(matrix, model, loss):
    c = case(model, loss)
    build, reference = MATRICES[matrix]
    A, dense = build(c, batch_size=4), reference(c)
    assert A.shape == tuple(dense.shape)
    V = random(A.shape[1], 3)
    torch.testing.assert_close(A @ V, dense @ V, **TOLERANCE)
    torch.testing.assert_close(A.T @ (A @ V), dense.T @ (dense @ V), **TOLERANCE)


@pytest.mark.parametrize("matrix", MATRICES)
def test_vector_block_dict_array_and_scipy_agree(matrix):
    c = case("mlp", "cross-entropy")
    build, reference = MATRICES[matrix]
    A, dense = build(c, batch_size=4), reference(c)
    V = random(A.shape[1], 3)
    torch.testing.assert_close(A.to_dense(), dense, **TOLERANCE)
    torch.testing.assert_close(A @ V[:, 0], dense @ V[:, 0], **TOLERANCE)
    torch.testing.assert_close(torch.from_numpy(A @ V.numpy()), dense @ V, **TOLERANCE)
    assert (A @ V[:, :0]).shape == (A.shape[0], 0)
    assert not (A @ V[:, :1].clone().requires_grad_()).requires_grad
    S, V, U = A.to_scipy(), V.detach(), random(A.shape[0], 2)
    torch.testing.assert_close(torch.from_numpy(S @ V.numpy()), dense @ V, **TOLERANCE)
    torch.testing.assert_close(torch.from_numpy(S.rmatmat(U.numpy())), dense.T @ U, **TOLERANCE)
    u, expected = U[:, 0].numpy(), dense.T @ U[:, 0]
    torch.testing.assert_close(torch.from_numpy(S.H @ u), expected, **TOLERANCE)
    torch.testing.assert_close(torch.from_numpy(A.rmatvec(u)), expected, **TOLERANCE)


@pytest.mark.parametrize("matrix", ["fisher", "covariance", "batches", "jacobian", "transpose"])
def test_dictionaries_stand_for_the_side_of_the_parameters(matrix):
    c = case("mlp", "cross-entropy")
    build, reference = MATRICES[matrix]
    A, dense = build(c, batch_size=4), reference(c)
    assert A.parameter_names == tuple(c.names())
    if matrix == "transpose":
        with pytest.raises(ValueError, match=r"side of the operator has 33 outputs, which have no"):
            A @ A.vector_to_dict(torch.ones(A.shape[0]))
        return
    v = random(A.shape[1])
    product = A @ A.vector_to_dict(v)
    if matrix == "jacobian":
        torch.testing.assert_close(product, dense @ v, **TOLERANCE)
    else:
        assert [t.shape for t in product.values()] == [p.shape for p in c.model.parameters()]
        torch.testing.assert_close(A.dict_to_vector(product), dense @ v, **TOLERANCE)


@pytest.mark.parametrize("batch_size", [1, 100])
@pytest.mark.parametrize("matrix", sorted(set(MATRICES) - {"batches"}))
def test_every_batch_size_gives_the_same_matrix(matrix, batch_size):
    c = case("mlp", "torch-mse")
    build, reference = MATRICES[matrix]
    A, dense = build(c, batch_size=batch_size), reference(c)
    v = random(A.shape[1])
    torch.testing.assert_close(A @ v, dense @ v, **TOLERANCE)


@pytest.mark.parametrize("matrix", MATRICES)
def test_restriction_is_the_submatrix_and_works_on_fewer_parameters(matrix):
    c = case("attention", "cross-entropy")
    build, reference = MATRICES[matrix]
    A, dense = build(c, batch_size=4), reference(c)
    A @ random(A.shape[1])  # what it keeps is not the part's
    part = A.restrict(["norm.*", "head.bias"])
    chosen = ("norm.weight", "norm.bias", "head.bias")
    pieces = torch.arange(len(c.flat())).split([p.numel() for p in c.model.parameters()])
    rows = torch.cat([r for n, r in zip(c.names(), pieces, strict=True) if n in chosen])
    assert part.parameter_names == chosen
    if matrix == "kernel":
        J = c.jacobian[:, rows]
        expected = J @ J.T
    else:
        dense = dense if matrix == "jacobian" else dense[rows]
        expected = dense if matrix == "transpose" else dense[:, rows]
    torch.testing.assert_close(part.to_dense(), expected, **TOLERANCE)
    with pytest.raises(ValueError, match=r"'conv\*' matches no parameter of the operator, which h"):
        A.restrict("conv*")


# Fisher


def test_exact_fisher_is_the_mean_over_all_labels():
    c = case("mlp", "cross-entropy")
    p = c.outputs(c.flat()).detach().softmax(1)
    expected = torch.zeros(len(c.flat()), len(c.flat()), dtype=torch.float64)
    for label in range(3):
        g = example_gradients(Case(c.model, c.loss, c.x, torch.full_like(c.y, label)))
        expected += g.T @ (p[:, label, None] * g) / N
    torch.testing.assert_close(hl.Fisher(c.model, c.loss, (c.x, c.y)).to_dense(), expected)


class Recorded(hl.losses.CrossEntropy):
    """Cross-entropy that remembers which labels were drawn."""

    def __init__(self):
        self.drawn = []

    def sample_targets(self, outputs, generator):
        self.drawn.append(super().sample_targets(outputs, generator))
        return self.drawn[-1]


def test_sampled_fisher_is_that_of_the_labels_drawn():
    c = case("cnn", "cross-entropy")
    loss = Recorded()
    F = hl.Fisher(c.model, loss, (c.x, c.y), kind="mc", samples=2, seed=3, batch_size=4)
    loss.drawn.clear()
    v = random(F.shape[1])
    product = F @ v
    assert [len(labels) for labels in loss.drawn] == [4, 4, 4, 4, 3, 3]
    expected = torch.zeros_like(v)
    for draw in (0, 1):
        g = example_gradients(Case(c.model, c.loss, c.x, torch.cat(loss.drawn[draw::2])))
        expected += g.T @ (g @ v) / (2 * N)
    torch.testing.assert_close(product, expected, **TOLERANCE)


@pytest.mark.parametrize("loss", ["cross-entropy", "gaussian", "torch-mse"])
def test_sampled_fisher_is_one_matrix(loss):
    c = case("mlp", loss)
    options = {"kind": "mc", "samples": 2, "batch_size": 4}
    F = hl.Fisher(c.model, c.loss, (c.x, c.y), seed=1, **options)
    V = random(F.shape[1], 3)
    block = F @ V
    for k in (2, 0, 2):  # whatever was multiplied before
        torch.testing.assert_close(F @ V[:, k], block[:, k], rtol=1e-12, atol=1e-14)
    again = hl.Fisher(c.model, c.loss, (c.x, c.y), seed=1, **options)
    assert torch.equal(again @ V, block)
    other = hl.Fisher(c.model, c.loss, (c.x, c.y), seed=2, **options)
    assert (other @ V - block).norm() > 1e-2 * block.norm()


def test_batches_draw_apart():
    c = case("mlp", "cross-entropy")
    loss = Recorded()
    F = hl.Fisher(c.model, loss, [(c.x[:1], c.y[:1])] * 40, kind="mc")
    loss.drawn.clear()
    F @ random(F.shape[1])
    assert len(set(torch.cat(loss.drawn).tolist())) > 1


@pytest.mark.parametrize("loss", ["cross-entropy", "gaussian", "torch-mse"])
def test_mean_of_sampled_fishers_is_the_exact_one(loss):
    c = case("mlp", loss)
    data, v = (c.x, c.y), random(len(c.flat()))
    draws = torch.stack(
        [
            v @ (hl.Fisher(c.model, c.loss, data, kind="mc", samples=20, seed=s) @ v)
            for s in range(20)
        ]
    )
    exact = v @ c.ggn @ v
    # a fixed outcome: the mean of 20 lies within 3 standard errors of the truth
    assert abs(draws.mean() - exact) < 3 * draws.std() / 20**0.5
    assert draws.std() < 0.5 * exact


@pytest.mark.parametrize("kind", ["exact", "mc", "empirical"])
def test_positions_are_terms_of_their_own(kind):
    model, x, y = tokens()
    loss = Recorded()
    F = hl.Fisher(model, loss, (x, y), kind=kind, batch_size=4)
    loss.drawn.clear()
    v = random(F.shape[1])
    product = F @ v
    labels = torch.cat(loss.drawn) if kind == "mc" else y
    flat = Case(model, hl.losses.CrossEntropy(), x.flatten(0, 1), labels.flatten())
    g = example_gradients(flat)
    expected = flat.ggn if kind == "exact" else g.T @ g / len(g)
    torch.testing.assert_close(product, expected @ v, **TOLERANCE)


def test_mean_squared_error_is_a_gaussian_of_half_its_outputs():
    c = case("mlp", "torch-mse")
    gaussian = hl.losses.GaussianLikelihood(noise_variance=3 / 2)  # D = 3
    v = random(len(c.flat()))
    for kind in ("exact", "mc", "empirical"):
        one, two = (
            hl.Fisher(c.model, loss, (c.x, c.y), kind=kind, seed=5, batch_size=4) @ v
            for loss in (c.loss, gaussian)
        )
        torch.testing.assert_close(one, two, **TOLERANCE)


def test_empirical_fisher_is_the_second_moment_of_gradients():
    for loss in LOSSES:
        c = case("mlp", loss)
        F = hl.Fisher(c.model, c.loss, (c.x, c.y), kind="empirical", batch_size=4)
        M = hl.GradientCovariance(c.model, c.loss, (c.x, c.y), centered=False, batch_size=3)
        v = random(F.shape[1])
        torch.testing.assert_close(F @ v, M @ v, **TOLERANCE)


def test_fisher_that_is_not_defined():
    c = case("mlp", "callable")
    data = (c.x, c.y)
    with pytest.raises(ValueError, match=r'exact Fisher of <lambda> .* kind="empirical"'):
        hl.Fisher(c.model, c.loss, data)
    with pytest.raises(ValueError, match=r"labels cannot be drawn from <lambda>.*no sample_target"):
        hl.Fisher(c.model, c.loss, data, kind="mc")
    with pytest.raises(ValueError, match=r'kind=\'full\' is unknown; expected "exact", "mc" or'):
        hl.Fisher(c.model, c.loss, data, kind="full")
    with pytest.raises(ValueError, match="samples=0; expected a whole number of at least 1"):
        hl.Fisher(c.model, nn.MSELoss(), data, kind="mc", samples=0)
    with pytest.raises(ValueError, match="seed=-1; expected a whole number of at least 0"):
        hl.Fisher(c.model, nn.MSELoss(), data, kind="mc", seed=-1)


def test_repr_says_which_fisher():
    c = case("mlp", "cross-entropy")
    F = hl.Fisher(c.model, c.loss, (c.x, c.y), kind="mc", samples=3, seed=7)
    assert repr(F).startswith('Fisher(kind="mc", samples=3, seed=7, 64 parameters (')
    C = hl.GradientCovariance(c.model, c.loss, (c.x, c.y), per="batch", centered=False)
    assert repr(C).startswith('GradientCovariance(per="batch", centered=False, 64 parameters (')


# covariance


def test_covariance_of_all_batches_follows_from_that_of_examples():
    c = case("mlp", "cross-entropy")
    n, b = 6, 2
    x, y = c.x[:n], c.y[:n]
    subsets = [list(s) for s in itertools.combinations(range(n), b)]
    batches = [(x[s], y[s]) for s in subsets]
    between = hl.GradientCovariance(c.model, c.loss, batches, per="batch")
    examples = hl.GradientCovariance(c.model, c.loss, (x, y), per="example")
    factor = (n - b) / (b * (n - 1))
    torch.testing.assert_close(between.to_dense(), factor * examples.to_dense(), **TOLERANCE)


def test_batches_of_one_example_are_examples():
    model, x, y = tokens()
    for loss in (hl.losses.CrossEntropy(), lambda f, y: f.logsumexp(-1).mean()):
        for centered in (True, False):
            options = {"centered": centered}
            one = hl.GradientCovariance(model, loss, (x, y), per="batch", batch_size=1, **options)
            two = hl.GradientCovariance(model, loss, (x, y), batch_size=4, **options)
            v = random(one.shape[1])
            torch.testing.assert_close(one @ v, two @ v, **TOLERANCE)


def test_positions_belong_to_their_example():
    model, x, y = tokens()
    loss = hl.losses.CrossEntropy()
    C = hl.GradientCovariance(model, loss, (x, y), batch_size=4)
    pairs = zip(x, y, strict=True)  # an example is a batch of its positions
    expected = covariance(torch.stack([Case(model, loss, *pair).gradient for pair in pairs]))
    torch.testing.assert_close(C.to_dense(), expected, **TOLERANCE)


def test_examples_of_different_length_keep_the_gradient_as_their_mean():
    model, x, y = tokens()
    batches = [(x[:4], y[:4]), (x[4:, :2], y[4:, :2])]
    loss = hl.losses.CrossEntropy()
    C = hl.GradientCovariance(model, loss, batches, centered=False)
    pairs = [pair for batch in batches for pair in zip(*batch, strict=True)]
    terms = torch.tensor([len(b) for _, b in pairs]).double()
    rows = torch.stack([Case(model, loss, *pair).gradient for pair in pairs])
    rows = rows * (terms * N / terms.sum()).unsqueeze(1)
    torch.testing.assert_close(rows.mean(0), C.gradient(), **TOLERANCE)
    torch.testing.assert_close(C.to_dense(), rows.T @ rows / N, **TOLERANCE)


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_gram_has_the_spectrum_of_the_large_matrix(centered, batch_size):
    c = case("mlp", "cross-entropy")
    C = hl.GradientCovariance(
        c.model, c.loss, (c.x, c.y), per="batch", centered=centered, batch_size=batch_size
    )
    M = -(-N // batch_size)
    dense = C.to_dense()
    expected = torch.linalg.eigvalsh(dense).flip(0)
    assert C.gram().shape == (M, M)
    values = C.eigenvalues()
    torch.testing.assert_close(values, expected[:M], rtol=1e-9, atol=1e-13)
    found = C.eigenpairs()
    rank = M - centered
    assert len(found.values) == rank
    assert found.converged.all()
    assert (found.residuals < 1e-12).all()
    torch.testing.assert_close(found.vectors.T @ found.vectors, torch.eye(rank).double())
    rebuilt = found.vectors @ (found.values.unsqueeze(1) * found.vectors.T)
    torch.testing.assert_close(rebuilt, dense, rtol=1e-9, atol=1e-12)
    assert C.eigenpairs(2).vectors.shape == (C.shape[0], 2)


def test_gram_of_equal_batches_is_the_double_centred_one():
    c = case("mlp", "cross-entropy")
    batches = list(zip(c.x[:9].split(3), c.y[:9].split(3), strict=True))
    C = hl.GradientCovariance(c.model, c.loss, batches, per="batch")
    G = batch_gradients(c, batches)
    centring = torch.eye(3).double() - 1 / 3
    torch.testing.assert_close(C.gram(), centring @ (G @ G.T / 3) @ centring, **TOLERANCE)


def test_more_batches_than_parameters():
    x = random(7, 1)
    model = nn.Linear(1, 1, bias=False).double()
    C = hl.GradientCovariance(model, nn.MSELoss(), (x, x**2), per="batch", batch_size=1)
    assert C.eigenvalues().shape == (1,)
    torch.testing.assert_close(C.eigenvalues(), C.to_dense()[0], **TOLERANCE)
    assert C.eigenpairs().vectors.shape == (1, 1)


def test_covariance_of_a_wrong_kind():
    c = case("mlp", "cross-entropy")
    with pytest.raises(
        ValueError, match=r'per=\'epoch\' is unknown; expected "example" or "batch"'
    ):
        hl.GradientCovariance(c.model, c.loss, (c.x, c.y), per="epoch")
    with pytest.raises(ValueError, match=r'build the operator with per="batch" \(and batch_size=1'):
        hl.GradientCovariance(c.model, c.loss, (c.x, c.y)).gram()
    C = hl.GradientCovariance(c.model, c.loss, (c.x, c.y), per="batch", batch_size=4)
    with pytest.raises(ValueError, match=r"k=3 is out of range: .* 3 batches .* of rank 2"):
        C.eigenpairs(3)


# Jacobian and kernel


@pytest.mark.parametrize("kind", ["tensor", "pair", "dataset", "batches", "loader"])
def test_jacobian_takes_data_of_every_kind(kind):
    c = case("cnn", "cross-entropy")
    data = {
        "tensor": c.x,
        "pair": (c.x, c.y),
        "dataset": hl.data.Dataset(c.x, c.y, "random"),
        "batches": [(c.x[:2], c.y[:2]), (c.x[2:], c.y[2:])],
        "loader": DataLoader(TensorDataset(c.x, c.y), batch_size=4),
    }[kind]
    J = hl.Jacobian(c.model, data)
    v, u = random(J.shape[1]), random(J.shape[0])
    torch.testing.assert_close(J @ v, c.jacobian @ v, **TOLERANCE)
    torch.testing.assert_close(J.T @ u, c.jacobian.T @ u, **TOLERANCE)
    assert J.T.T is J


def test_outputs_with_positions_are_flattened_in_order():
    model, x, y = tokens()
    J = hl.Jacobian(model, x, batch_size=4)
    flat = Case(model, None, x.flatten(0, 1), y.flatten())
    assert J.shape == (N * 5 * 2, len(flat.flat()))
    torch.testing.assert_close(J.to_dense(), flat.jacobian, **TOLERANCE)


def test_kernel_shares_its_eigenvalues_with_the_gram_of_columns():
    c = case("mlp", "cross-entropy")
    kernel = torch.linalg.eigvalsh(hl.NTK(c.model, c.x, batch_size=4).to_dense())
    J = hl.Jacobian(c.model, c.x, batch_size=3)
    gram = torch.linalg.eigvalsh(J.T @ (J @ torch.eye(J.shape[1], dtype=torch.float64)))
    shared = min(len(kernel), len(gram))
    torch.testing.assert_close(kernel[-shared:], gram[-shared:], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("loss", ["cross-entropy", "gaussian"])
def test_ggn_shares_its_eigenvalues_with_the_weighted_kernel(loss):
    c = case("mlp", loss)
    outputs = c.outputs(c.flat()).detach()
    eye = torch.eye(3, dtype=torch.float64)
    roots = [c.loss.hessian_sqrt_product(f.expand(3, 3), eye).T for f in outputs]
    S = torch.block_diag(*roots)
    small = torch.linalg.eigvalsh(S.T @ hl.NTK(c.model, c.x).to_dense() @ S / N)
    large = torch.linalg.eigvalsh(hl.GGN(c.model, c.loss, (c.x, c.y)).to_dense())
    torch.testing.assert_close(small[-20:], large[-20:], rtol=1e-9, atol=1e-12)
    rank = N * 2 if loss == "cross-entropy" else N * 3
    assert (large > 1e-12).sum() <= rank


def test_kernel_of_a_gaussian_is_the_ggn_by_its_factors():
    c = case("mlp", "gaussian")
    J = hl.Jacobian(c.model, c.x)
    dense = J.to_dense()
    G = hl.GGN(c.model, c.loss, (c.x, c.y)).to_dense()
    torch.testing.assert_close(dense.T @ dense / (N * c.loss.noise_variance), G, **TOLERANCE)


def test_solvers_of_scipy_and_ours_take_rectangular_and_square_ones():
    c = case("mlp", "cross-entropy")
    J = hl.Jacobian(c.model, c.x)
    found = scipy.sparse.linalg.svds(J.to_scipy(), k=3, return_singular_vectors=False)
    expected = torch.linalg.svdvals(c.jacobian)[:3].flip(0)
    torch.testing.assert_close(torch.tensor(sorted(found)), expected, rtol=1e-7, atol=0)
    values = hl.linalg.eigsh(hl.NTK(c.model, c.x), k=3, rtol=1e-8).values
    torch.testing.assert_close(values.sqrt(), expected.flip(0), rtol=1e-9, atol=0)


def test_a_subset_of_parameters_is_a_subset_of_columns():
    c = case("tied", "cross-entropy")
    J = hl.Jacobian(c.model, c.x, parameters="head.*")
    torch.testing.assert_close(J.to_dense(), c.jacobian[:, -15:], **TOLERANCE)
    unused = hl.Jacobian(c.model, c.x).restrict("unused")
    assert torch.equal(unused.to_dense(), torch.zeros(33, 2, dtype=torch.float64))


@pytest.mark.parametrize("mode", ["running", "batch", "population"])
def test_batch_norm_in_every_mode(mode):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)
    model = nn.Sequential(*layers).double()
    c = case("mlp", "cross-entropy")
    cuts = [slice(0, 4), slice(4, 8), slice(8, N)]
    J = hl.Jacobian(model, c.x, batchnorm=mode, batch_size=4)
    C = hl.GradientCovariance(model, c.loss, (c.x, c.y), batchnorm=mode, batch_size=4)
    B = hl.GradientCovariance(
        model, c.loss, (c.x, c.y), batchnorm=mode, batch_size=4, per="batch", centered=False
    )
    native = copy.deepcopy(model).train(mode == "batch")
    if mode == "population":
        h = model[0](c.x).detach()
        native[1].running_mean, native[1].running_var = h.mean(0), h.var(0, correction=0)
    pieces = [Case(native, c.loss, c.x[s], c.y[s]) for s in cuts]
    dense = torch.cat([piece.jacobian for piece in pieces])
    torch.testing.assert_close(J.to_dense(), dense, **TOLERANCE)
    logits = torch.cat([piece.outputs(piece.flat()) for piece in pieces]).detach()
    r = logits.softmax(1) - nn.functional.one_hot(c.y, 3)
    examples = (r.unsqueeze(1) @ dense.view(N, 3, -1)).squeeze(1)
    torch.testing.assert_close(C.to_dense(), covariance(examples), **TOLERANCE)
    means = torch.stack([examples[s].mean(0) for s in cuts])
    weights = torch.tensor([4, 4, 3]).double().unsqueeze(1) / N
    torch.testing.assert_close(B.to_dense(), means.T @ (weights * means), **TOLERANCE)


def test_float32_agrees_with_float64_to_its_precision():
    c = case("attention", "cross-entropy")
    model = MODELS["attention"][0]()
    model.load_state_dict(c.model.state_dict())
    v = random(len(c.flat()))
    expected = c.jacobian @ v
    J = hl.Jacobian(model, c.x.float(), batch_size=4)
    assert J.dtype == (J @ v.float()).dtype == torch.float32
    # single precision through five layers: a few 1e-7 of the norm
    assert ((J @ v.float()).double() - expected).norm() < 5e-6 * expected.norm()
    u = c.jacobian.T @ expected
    assert ((J.T @ expected.float()).double() - u).norm() < 5e-6 * u.norm()


def test_vectors_of_outputs_that_do_not_fit():
    c = case("mlp", "cross-entropy")
    J = hl.Jacobian(c.model, c.x)
    with pytest.raises(ValueError, match=r"v has 5 rows, but the operator has 33 outputs; v needs"):
        J.T @ torch.ones(5, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"v has 33 rows, but the operator has 64 parameters"):
        J @ torch.ones(33, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"33 outputs as rows and 64 parameters .* as columns; bl"):
        J.block_diagonal()
    with pytest.raises(ValueError, match="the inputs have no dimension"):
        hl.Jacobian(c.model, torch.tensor(1.0))
    with pytest.raises(hl.errors.NotFinite, match="inputs hold NaN"):
        hl.Jacobian(c.model, torch.full_like(c.x, torch.nan))


def test_an_output_that_overflows_names_its_batch():
    x = torch.ones(6, 1)
    x[5] = 1e38
    J = hl.Jacobian(nn.Linear(1, 1), x, batch_size=2)
    with pytest.raises(hl.errors.NotFinite, match="outputs of batch 2 is NaN or infinite"):
        J @ torch.full((2,), 1e20)
    with pytest.raises(hl.errors.NotFinite, match="contribution of batch 2 is NaN or infinite"):
        J.T @ torch.full((6,), 1e20)


def test_an_output_that_depends_on_other_examples():
    class Hidden(nn.Linear):
        def forward(self, x):
            return super().forward(x - x.mean(0)) ** 2

    with pytest.raises(ValueError, match=r"is not the sum over its parts.* depend on other"):
        hl.Jacobian(Hidden(4, 3), torch.randn(10, 4))
