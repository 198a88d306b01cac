"""The Hessian and the GGN against dense references in float64."""

import gc
import weakref

import pytest
import scipy.sparse.linalg
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import hesslab as hl
from tests.cases import LOSSES, MODELS, N, case
from tests.operators.engine.networks import products

# float64 products of networks with entries of order one: rounding is some 1e-15 a sum
TOLERANCE = {"rtol": 1e-10, "atol": 1e-12}
PAIRS = [("Hessian", "hessian"), ("GGN", "ggn")]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("operator", "reference"), PAIRS)
def test_product_equals_dense_reference(operator, reference, model, loss):
    c = case(model, loss)
    A = getattr(hl, operator)(c.model, c.loss, (c.x, c.y), batch_size=4)
    torch.testing.assert_close(A.to_dense(), getattr(c, reference), **TOLERANCE)


@pytest.mark.parametrize("model", MODELS)
def test_gradient_equals_autograd(model):
    c = case(model, "cross-entropy")
    H = hl.Hessian(c.model, c.loss, (c.x, c.y), batch_size=3)
    torch.testing.assert_close(H.gradient(), c.gradient, **TOLERANCE)


@pytest.mark.parametrize(("operator", "reference"), PAIRS)
@pytest.mark.parametrize("batch_size", [1, 3, 5, N, 100])
def test_every_batch_size_gives_the_same_matrix(operator, reference, batch_size):
    c = case("mlp", "cross-entropy")
    A = getattr(hl, operator)(c.model, c.loss, (c.x, c.y), batch_size=batch_size)
    torch.testing.assert_close(A.to_dense(), getattr(c, reference), **TOLERANCE)


@pytest.mark.parametrize(("operator", "reference"), PAIRS)
def test_vector_block_dict_and_array_agree(operator, reference):
    c = case("mlp", "cross-entropy")
    A = getattr(hl, operator)(c.model, c.loss, (c.x, c.y), batch_size=4)
    V = torch.randn(A.shape[1], 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = getattr(c, reference) @ V
    torch.testing.assert_close(A @ V, expected, **TOLERANCE)
    torch.testing.assert_close(A @ V[:, 0], expected[:, 0], **TOLERANCE)
    named = A @ A.vector_to_dict(V[:, 1].contiguous())
    assert {n: t.shape for n, t in named.items()} == {
        n: p.shape for n, p in c.model.named_parameters()
    }
    torch.testing.assert_close(A.dict_to_vector(named), expected[:, 1], **TOLERANCE)
    torch.testing.assert_close(torch.from_numpy(A @ V.numpy()), expected, **TOLERANCE)
    assert (A @ V[:, :0]).shape == (A.shape[0], 0)


@pytest.mark.parametrize(("operator", "reference"), PAIRS)
@pytest.mark.parametrize(
    ("parameters", "chosen"),
    [("embed.*", ["embed.weight", "embed.bias"]), (["head.bias", "norm*"], None)],
)
def test_parameter_subset_is_the_submatrix(operator, reference, parameters, chosen):
    c = case("attention", "cross-entropy")
    A = getattr(hl, operator)(c.model, c.loss, (c.x, c.y), parameters=parameters)
    chosen = chosen or ["norm.weight", "norm.bias", "head.bias"]
    assert A.parameter_names == tuple(chosen)
    sizes = [p.numel() for p in c.model.parameters()]
    ranges = dict(zip(c.names(), torch.arange(sum(sizes)).split(sizes), strict=True))
    rows = torch.cat([ranges[name] for name in chosen])
    torch.testing.assert_close(A.to_dense(), getattr(c, reference)[rows][:, rows], **TOLERANCE)


def test_a_frozen_parameter_can_be_named():
    c = case("tied", "cross-entropy")
    H = hl.Hessian(c.model, c.loss, (c.x, c.y), parameters="frozen.bias")
    frozen = c.model.frozen.bias

    def loss(bias):
        state = {"frozen.bias": bias}
        return c.mean_loss(torch.func.functional_call(c.model, state, (c.x,)))

    expected = torch.autograd.functional.hessian(loss, frozen.detach())
    torch.testing.assert_close(H.to_dense(), expected, **TOLERANCE)


@pytest.mark.parametrize("operator", ["Hessian", "GGN"])
def test_scipy_finds_the_same_eigenvalues(operator):
    c = case("mlp", "cross-entropy")
    A = getattr(hl, operator)(c.model, c.loss, (c.x, c.y))
    found = scipy.sparse.linalg.eigsh(A.to_scipy(), k=4, which="LA", return_eigenvectors=False)
    expected = torch.linalg.eigvalsh(c.hessian if operator == "Hessian" else c.ggn)[-4:]
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-8, atol=1e-12)


def test_data_of_every_kind_gives_the_same_product():
    c = case("mlp", "cross-entropy")
    v = torch.ones(len(c.flat()), dtype=torch.float64)
    loader = DataLoader(TensorDataset(c.x, c.y), batch_size=4)
    batches = [(c.x[:2], c.y[:2]), (c.x[2:], c.y[2:])]
    dataset = hl.data.Dataset(c.x, c.y, "random")
    for data in (loader, batches, dataset, (c.x, c.y)):
        torch.testing.assert_close(
            hl.Hessian(c.model, c.loss, data) @ v, c.hessian @ v, **TOLERANCE
        )


def test_positions_of_a_sequence_count_as_in_torch():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 5, 3, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 2, (N, 5), generator=generator)
    model = torch.nn.Linear(3, 2).double()
    H = hl.Hessian(model, hl.losses.CrossEntropy(), (x, y), batch_size=4)
    flat = (x.reshape(-1, 3), y.reshape(-1))
    expected = hl.Hessian(model, torch.nn.CrossEntropyLoss(), flat).to_dense()
    torch.testing.assert_close(H.to_dense(), expected, **TOLERANCE)


@pytest.mark.parametrize("operator", ["Hessian", "GGN"])
def test_no_graph_survives_and_nothing_of_the_model_changes(operator):
    c = case("residual", "cross-entropy")
    before = {name: tensor.clone() for name, tensor in c.model.state_dict().items()}
    A = getattr(hl, operator)(c.model, c.loss, (c.x, c.y))
    product = A @ dict(c.model.named_parameters())  # that these require a gradient is fine
    total = A.dict_to_vector(product).sum() + (A @ torch.ones(A.shape[1]).double()).sum()
    assert not total.requires_grad
    with pytest.raises(RuntimeError, match="does not require grad"):
        total.backward()
    assert all(p.grad is None and p.requires_grad for p in c.model.parameters())
    assert not c.model.training
    for name, tensor in c.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_the_operator_is_bound_to_its_point():
    model = hl.models.mlp(4, 3, hidden=(5,), seed=0).double()
    c = case("mlp", "cross-entropy")
    H = hl.Hessian(model, c.loss, (c.x, c.y))
    v = torch.ones(H.shape[1], dtype=torch.float64)
    before = H @ v
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    assert torch.equal(H @ v, before)


def test_products_work_under_no_grad_and_leave_the_mode_of_autograd():
    c = case("mlp", "cross-entropy")
    v = torch.ones(len(c.flat()), dtype=torch.float64)
    with torch.no_grad():
        product = hl.Hessian(c.model, c.loss, (c.x, c.y)) @ v
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(product, c.hessian @ v, **TOLERANCE)
    assert torch.is_grad_enabled()


def test_a_linear_loss_of_a_linear_net_has_no_curvature():
    x = torch.randn(5, 2, dtype=torch.float64)
    model = torch.nn.Linear(2, 1).double()
    H = hl.Hessian(model, lambda f, y: f.mean(), (x, torch.zeros(5)))
    assert torch.equal(H.to_dense(), torch.zeros(3, 3, dtype=torch.float64))


def test_float32_agrees_with_float64_to_its_precision():
    c = case("attention", "cross-entropy")
    model = MODELS["attention"][0]()
    model.load_state_dict(c.model.state_dict())
    v = torch.randn(len(c.flat()), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for operator, reference in PAIRS:
        A = getattr(hl, operator)(model, c.loss, (c.x.float(), c.y), batch_size=4)
        product = A @ v.float()
        assert product.dtype == torch.float32
        expected = getattr(c, reference) @ v
        # single precision through five layers: a few 1e-7 of the norm
        assert (product.double() - expected).norm() < 5e-6 * expected.norm()


def test_relu_net_shares_its_diagonal_blocks_between_hessian_and_ggn():
    model = hl.models.mlp(4, 3, hidden=(6, 5), activation="relu", seed=0).double()
    c = case("mlp", "cross-entropy")
    for name, _ in model.named_parameters():
        H = hl.Hessian(model, c.loss, (c.x, c.y), parameters=name).to_dense()
        G = hl.GGN(model, c.loss, (c.x, c.y), parameters=name).to_dense()
        torch.testing.assert_close(H, G, rtol=0, atol=1e-14)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("operator", "reference"), PAIRS)
def test_cuda_product_equals_dense_reference(operator, reference, model):
    import copy

    c = case(model, "cross-entropy")
    network = copy.deepcopy(c.model).cuda()
    A = getattr(hl, operator)(network, c.loss, (c.x, c.y), batch_size=4)
    v = torch.ones(A.shape[1], dtype=torch.float64)
    product = A @ v.cuda()
    assert product.device.type == "cuda"
    torch.testing.assert_close(product.cpu(), getattr(c, reference) @ v, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["cross-entropy", "gaussian"])
def test_rows_of_a_real_residual_net_equal_double_backward(loss):
    c = case("residual", loss)
    model = hl.models.resnet(8, width=2, classes=3, in_channels=1, seed=0).double().eval()
    named = dict(model.named_parameters())
    outputs = model(c.x)
    gradient = torch.autograd.grad(c.mean_loss(outputs), list(named.values()), create_graph=True)
    flat = torch.cat([piece.flatten() for piece in gradient])
    H = hl.Hessian(model, c.loss, (c.x, c.y), batch_size=4)
    rows = torch.arange(0, H.shape[0], 37)
    V = torch.eye(H.shape[0], dtype=torch.float64)[:, rows]
    for i, column in zip(rows, (H @ V).T, strict=True):
        pieces = torch.autograd.grad(flat[i], list(named.values()), retain_graph=True)
        expected = torch.cat([piece.flatten() for piece in pieces])
        torch.testing.assert_close(column, expected, **TOLERANCE)


@pytest.mark.parametrize("route", ["traced", "autograd"])
@pytest.mark.parametrize("operator", ["Hessian", "GGN"])
def test_products_leave_no_tensor_behind(operator, route):
    c = case("mlp", "cross-entropy")
    other, A = (getattr(hl, operator)(c.model, c.loss, (c.x, c.y), batch_size=4) for _ in range(2))
    v = torch.ones(A.shape[1], dtype=torch.float64)
    other @ v  # traces the network for both shapes of a batch, with a look at its autograd graph
    if route == "autograd":
        A.plan.untraced("for comparison")

    def alive():
        gc.collect()
        return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())

    graph = []  # what autograd keeps while a product is taken
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: graph.append(weakref.ref(t)) or t, lambda t: t
    ):
        A @ v
    gc.collect()
    assert bool(graph) == (route == "autograd")
    kept = {id(p) for p in A._network.point.values()}
    assert not [r for r in graph if r() is not None and r().numel() > 1 and id(r()) not in kept]
    A @ v  # the second product keeps its residuals
    before = alive()
    for _ in range(50):
        A @ v
    assert alive() == before


class Recurrent(nn.Module):
    """Token ids through an embedding with a padding row and an LSTM."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(6, 3, padding_idx=0)
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.lstm(self.embed(x))[0][:, -1])


class Averaged(nn.Module):
    """An embedding of three kinds, with a head that may share its weight."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.embed = nn.Embedding(6, 3, padding_idx=0)
        nn.init.normal_(self.embed.weight)
        self.head = nn.Linear(3, 6)
        if kind == "tied":
            self.head.weight = self.embed.weight

    def forward(self, x):
        functional = nn.functional
        if self.kind == "by a function":
            h = functional.embedding(x, self.head.weight, padding_idx=-6)
            return self.head(h.mean(1).tanh())
        h = self.embed(x).mean(1).tanh()
        return (
            functional.linear(h, self.embed.weight) if self.kind == "used again" else self.head(h)
        )


@pytest.mark.parametrize("kind", ["tied", "used again", "by a function", "apart"])
@pytest.mark.parametrize("padded", [0, 8])  # what is checked at construction ends at 8
@pytest.mark.parametrize("operator", ["Hessian", "GGN"])
def test_a_padding_row_stands_still_wherever_its_weight_is_used(operator, padded, kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Averaged(kind).double()
    x = torch.randint(1, 6, (14, 5), generator=torch.Generator().manual_seed(0))
    x[padded:, -2:] = 0
    y = torch.arange(14) % 6
    A = getattr(hl, operator)(model, hl.losses.CrossEntropy(), (x, y))
    v = torch.randn(A.shape[0], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = products(model, x, y, v)[operator]
    for _ in range(2):
        torch.testing.assert_close(A @ v, expected, **TOLERANCE)
    assert A.plan.traced is not None, A.plan
    A.plan.untraced("for comparison")
    torch.testing.assert_close(A @ v, expected, **TOLERANCE)


@pytest.mark.parametrize(("margin", "seed"), [(14, 0), (15.5, 4)])
@pytest.mark.parametrize("operator", ["Hessian", "GGN"])
def test_sure_predictions_are_no_reason_to_refuse_a_network(operator, margin, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 5))
        x = torch.randn(6000, 20)
    with torch.no_grad():
        model[2].weight.mul_(60)
        top = model(x).topk(2, 1)
        margins = top.values[:, 0] - top.values[:, 1]
        few = ((margins > margin) & (margins < margin + 1)).nonzero()[:32, 0]
    x, y = x[few], top.indices[few, 0]
    A = getattr(hl, operator)(model, nn.CrossEntropyLoss(), (x, y))
    v = torch.randn(A.shape[0], generator=torch.Generator().manual_seed(1))
    assert A.plan.traced is not None, A.plan
    traced, gradient = A @ v, A.gradient()
    A.plan.untraced("for comparison")
    model, x = model.double(), x.double()
    exact = products(model, x, y, v.double())[operator]
    for product in (traced, A @ v):
        assert (product - exact).norm() < 1e-5 * exact.norm()
    loss = nn.functional.cross_entropy(model(x), y)
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
    assert (gradient - exact).norm() < 1e-5 * exact.norm()


class Normed(nn.Module):
    """A norm that computes in float32 whatever it is given."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = self.first(x).float()
        h = h * (h.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        return self.second(h.to(x.dtype))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("operator", ["Hessian", "GGN"])
def test_a_cast_to_float32_inside_a_float64_model(operator, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, x = Normed().double(), torch.randn(N, 4).double()
    y = torch.arange(N) % 3
    A = getattr(hl, operator)(model, nn.CrossEntropyLoss(), (x, y))
    v = torch.ones(A.shape[0], dtype=torch.float64)
    torch.testing.assert_close(A @ v, products(model, x, y, v)[operator], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("operator", "reference"), PAIRS)
def test_token_ids_and_a_padding_row(operator, reference):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Recurrent().double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 6, (N, 5), generator=generator)
    y = torch.randint(0, 3, (N,), generator=generator)
    named = list(model.parameters())
    outputs = model(x)
    loss = nn.functional.cross_entropy(outputs, y)
    if operator == "Hessian":
        gradient = torch.autograd.grad(loss, named, create_graph=True)
        rows = torch.cat([piece.flatten() for piece in gradient])
    else:
        rows = outputs.flatten()
    dense = torch.stack(
        [
            torch.cat([g.flatten() for g in torch.autograd.grad(
                row, named, retain_graph=True, materialize_grads=True)])
            if row.requires_grad else torch.zeros(sum(p.numel() for p in named)).double()
            for row in rows
        ]
    )  # fmt: skip
    if operator == "GGN":
        p = outputs.detach().softmax(1)
        H = torch.block_diag(*(torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1))) / N
        dense = dense.T @ H @ dense
    A = getattr(hl, operator)(model, hl.losses.CrossEntropy(), (x, y), batch_size=4)
    torch.testing.assert_close(A.to_dense(), dense, **TOLERANCE)


@pytest.mark.parametrize("operator", ["Hessian", "GGN"])
def test_a_model_that_works_in_place_leaves_the_data_alone(operator):
    c = case("mlp", "cross-entropy")
    x = c.x.clone()
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3)).double()
    plain = nn.Sequential(nn.ReLU(), model[1])
    v = torch.ones(15, dtype=torch.float64)
    product = getattr(hl, operator)(model, c.loss, (x, c.y)) @ v
    assert torch.equal(x, c.x)
    assert torch.equal(product, getattr(hl, operator)(plain, c.loss, (x, c.y)) @ v)


@pytest.mark.parametrize(("operator", "reference"), PAIRS)
def test_products_under_inference_mode(operator, reference):
    c = case("attention", "cross-entropy")
    with torch.inference_mode():
        x, v = c.x.clone(), torch.ones(len(c.flat()), dtype=torch.float64)
        product = getattr(hl, operator)(c.model, c.loss, (x, c.y.clone())) @ v
    torch.testing.assert_close(product, getattr(c, reference) @ torch.ones_like(v), **TOLERANCE)


def test_a_loader_does_not_move_the_global_random_state():
    c = case("mlp", "cross-entropy")
    state = torch.get_rng_state()
    H = hl.Hessian(c.model, c.loss, DataLoader(TensorDataset(c.x, c.y), batch_size=4))
    H @ torch.ones(H.shape[1], dtype=torch.float64)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_name_with_brackets_is_a_name():
    model = nn.Module()
    model.p = nn.ParameterDict({"a[0]": nn.Parameter(torch.ones(3, dtype=torch.float64))})
    model.forward = lambda x: x @ model.p["a[0]"].unsqueeze(1)
    x = torch.randn(5, 3, dtype=torch.float64)
    H = hl.Hessian(model, nn.MSELoss(), (x, torch.zeros(5, 1).double()), parameters="p.a[0]")
    torch.testing.assert_close(H.to_dense(), 2 * x.T @ x / 5)
