"""What a user sees who brings something that has no curvature: the cause and the cure."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import hesslab as hl
from hesslab.errors import NotDeterministic, NotFinite
from tests.cases import Case

X = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(10) % 3
CE = nn.CrossEntropyLoss()


def mlp():
    return hl.models.mlp(4, 3, hidden=(5,), seed=0)


def test_vector_of_the_wrong_length():
    H = hl.Hessian(mlp(), CE, (X, Y))
    with pytest.raises(ValueError, match=r"v has 17 rows, but the operator has 43 parameters"):
        H @ torch.ones(17)


def test_vector_with_too_many_dimensions():
    with pytest.raises(ValueError, match="v has 3 dimensions"):
        hl.Hessian(mlp(), CE, (X, Y)) @ torch.ones(43, 1, 1)


def test_vector_of_the_wrong_dtype():
    with pytest.raises(ValueError, match=r"v is torch.float64 on cpu, but the operator is torch.f"):
        hl.Hessian(mlp(), CE, (X, Y)) @ torch.ones(43, dtype=torch.float64)


def test_vector_on_the_wrong_device():
    with pytest.raises(ValueError, match=r"v is torch.float32 on meta, but the operator is .* cpu"):
        hl.Hessian(mlp(), CE, (X, Y)) @ torch.ones(43, device="meta")


def test_vector_with_nan():
    with pytest.raises(NotFinite, match="v holds NaN"):
        hl.Hessian(mlp(), CE, (X, Y)) @ torch.full((43,), torch.nan)


def test_complex_array():
    with pytest.raises(ValueError, match="v is complex"):
        hl.Hessian(mlp(), CE, (X, Y)) @ (1j * torch.ones(43)).numpy()


def test_something_that_is_no_vector():
    with pytest.raises(TypeError, match="v is a list"):
        hl.Hessian(mlp(), CE, (X, Y)) @ [1.0] * 43


def test_dictionary_with_wrong_names_or_shapes():
    H = hl.Hessian(mlp(), CE, (X, Y))
    named = H.vector_to_dict(torch.ones(43))
    name, tensor = named.popitem()
    with pytest.raises(ValueError, match=rf"lacks \['{name}'\]"):
        H @ named
    with pytest.raises(ValueError, match=r"has unknown \['bogus'\]"):
        H @ {**named, name: tensor, "bogus": tensor}
    with pytest.raises(ValueError, match=rf"{name} has shape \(1, 3\)"):
        H @ {**named, name: tensor.unsqueeze(0)}


def test_mixed_parameter_dtypes():
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3).double())
    with pytest.raises(ValueError, match=r"mixes parameters of dtype torch.float32 \(0.weight\)"):
        hl.Hessian(model, CE, (X, Y))


def test_half_precision():
    with pytest.raises(ValueError, match=r"the parameters are torch.bfloat16; .*model.float\(\)"):
        hl.Hessian(mlp().bfloat16(), CE, (X.bfloat16(), Y))


def test_autocast():
    H = hl.Hessian(mlp(), CE, (X, Y))
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(ValueError, match="autocast is on"),
    ):
        H @ torch.ones(43)


def test_several_devices():
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3, device="meta"))
    with pytest.raises(ValueError, match=r"mixes parameters of device cpu .* and meta"):
        hl.Hessian(model, CE, (X, Y))


def test_inputs_of_another_dtype():
    with pytest.raises(ValueError, match=r"inputs of torch.float64, but the model's .*float32"):
        hl.Hessian(mlp(), CE, (X.double(), Y))


def test_dropout_in_training_mode():
    model = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, 3))
    with pytest.raises(NotDeterministic, match=r"dropout is active: 1 \(Dropout\).*model.eval"):
        hl.Hessian(model, CE, (X, Y))
    hl.Hessian(model.eval(), CE, (X, Y))


def test_functional_dropout():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return nn.functional.dropout(self.layer(x), 0.5)

    with pytest.raises(NotDeterministic, match=r"taken twice .* draws random numbers"):
        hl.Hessian(Hidden(), CE, (X, Y))


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(5), nn.BatchNorm1d(5, track_running_stats=False)])
def test_batch_norm_with_batch_statistics(norm):
    model = nn.Sequential(nn.Linear(4, 5), norm, nn.Linear(5, 3))
    with pytest.raises(ValueError, match=r"1 \(BatchNorm1d\) normalises with the statistics of"):
        hl.Hessian(model, CE, (X, Y))


def test_mode_changed_after_construction():
    model = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, 3)).eval()
    H = hl.Hessian(model, CE, (X, Y))
    model.train()
    with pytest.raises(ValueError, match="mode has changed since the operator was built"):
        H @ torch.ones(43)


def test_shuffling_loader():
    loader = DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True)
    with pytest.raises(NotDeterministic, match=r"the loader shuffles \(RandomSampler\)"):
        hl.Hessian(mlp(), CE, loader)


def test_transforming_loader():
    class Noisy(Dataset):
        def __len__(self):
            return 10

        def __getitem__(self, i):
            return X[i] + torch.randn(4), Y[i]

    with pytest.raises(NotDeterministic, match="a random transform"):
        hl.Hessian(mlp(), CE, DataLoader(Noisy(), batch_size=4))


def test_a_later_batch_changes_between_passes():
    batches = [(X[:5], Y[:5]), (X[5:].clone(), Y[5:])]
    H = hl.Hessian(mlp(), CE, batches)
    H @ torch.ones(43)
    batches[1][0].add_(1.0)
    with pytest.raises(NotDeterministic, match="batch 1 is not the same as in an earlier pass"):
        H @ torch.ones(43)
    del batches[1]
    with pytest.raises(NotDeterministic, match="had 1 batches, an earlier one at least 2"):
        H @ torch.ones(43)


def test_generator_as_data():
    with pytest.raises(TypeError, match="a generator, which can be gone through only once"):
        hl.Hessian(mlp(), CE, ((X, Y) for _ in range(2)))


def test_data_of_no_known_kind():
    with pytest.raises(TypeError, match="data is a int"):
        hl.Hessian(mlp(), CE, 3)
    with pytest.raises(TypeError, match="batch 0 is a Tensor; expected a pair"):
        hl.Hessian(mlp(), CE, [X])


@pytest.mark.parametrize("data", [(X[:0], Y[:0]), []])
def test_empty_data(data):
    with pytest.raises(ValueError, match="the data is empty"):
        hl.Hessian(mlp(), CE, data)


def test_nan_parameter():
    model = mlp()
    with torch.no_grad():
        next(model.parameters())[0, 0] = torch.nan
    name = next(iter(dict(model.named_parameters())))
    with pytest.raises(NotFinite, match=f"the parameter {name} holds NaN"):
        hl.Hessian(model, CE, (X, Y))


def test_nan_input_names_the_example():
    x = X.clone()
    x[7, 2] = torch.nan
    with pytest.raises(NotFinite, match=r"the data: the inputs hold NaN .*first in example 7"):
        hl.Hessian(mlp(), CE, (x, Y))
    batches = [(X[:5], Y[:5]), (x[5:], Y[5:])]
    H = hl.Hessian(mlp(), CE, batches)
    with pytest.raises(NotFinite, match=r"batch 1: the inputs hold NaN .*first in example 2"):
        H @ torch.ones(43)


def test_overflow_names_the_batch():
    x = X.clone()
    x[9] = 1e38
    H = hl.Hessian(mlp(), nn.MSELoss(), (x, torch.zeros(10, 3)), batch_size=4)
    with pytest.raises(NotFinite, match="the contribution of batch 2 is NaN or infinite"):
        H @ torch.full((43,), 1e30)


def test_targets_out_of_range():
    with pytest.raises(ValueError, match=r"targets are in 0..3, but the model has 3 outputs"):
        hl.Hessian(mlp(), CE, (X, torch.arange(10) % 4))
    with pytest.raises(ValueError, match=r"targets are in -100..2"):
        hl.Hessian(mlp(), CE, (X, torch.where(Y == 1, -100, Y)))


def test_targets_of_the_wrong_kind():
    with pytest.raises(ValueError, match=r"CrossEntropy takes class numbers \(int64\)"):
        hl.Hessian(mlp(), CE, (X, Y.float()))
    with pytest.raises(ValueError, match=r"targets have shape \(8,\) and the outputs \(8, 3\)"):
        hl.Hessian(mlp(), nn.MSELoss(), (X, Y.float()))
    with pytest.raises(ValueError, match=r"targets are torch.float64 and the outputs torch.float"):
        hl.Hessian(mlp(), nn.MSELoss(), (X, torch.zeros(10, 3).double()))


def test_inputs_and_targets_of_different_length():
    with pytest.raises(ValueError, match="the data has 10 inputs and 9 targets"):
        hl.Hessian(mlp(), CE, (X, Y[:9]))


def test_unknown_parameter_name():
    with pytest.raises(ValueError, match=r"parameters='conv\*' matches no parameter; the model ha"):
        hl.Hessian(mlp(), CE, (X, Y), parameters="conv*")


def test_nothing_to_differentiate():
    with pytest.raises(ValueError, match="none of the model's 4 parameters requires a gradient"):
        hl.Hessian(mlp().requires_grad_(False), CE, (X, Y))


def test_model_that_returns_a_tuple():
    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    with pytest.raises(TypeError, match="the model returned a tuple"):
        hl.Hessian(Pair(4, 3), CE, (X, Y))


def test_batch_size_zero():
    with pytest.raises(ValueError, match="batch_size=0"):
        hl.Hessian(mlp(), CE, (X, Y), batch_size=0)


def test_batch_statistics_hidden_in_the_forward():
    class Hidden(nn.Linear):
        def forward(self, x):
            return nn.functional.batch_norm(super().forward(x), None, None, training=True)

    with pytest.raises(ValueError, match=r"is not the sum over its parts.* depend on other"):
        hl.Hessian(Hidden(4, 3), CE, (X, Y))


@pytest.mark.parametrize(
    "loss",
    [
        lambda f, y: nn.functional.cross_entropy(f, y, reduction="sum"),
        lambda f, y: nn.functional.cross_entropy(f[y != 1], y[y != 1]),
    ],
    ids=["sum", "masked"],
)
def test_loss_that_is_no_mean_over_examples(loss):
    with pytest.raises(ValueError, match="the loss is no mean over examples"):
        hl.Hessian(mlp(), loss, (X, Y))


WEIGHTED = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 4.0, 9.0]))


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        # the batches of 16 that hold one class each would each be a mean
        (lambda f, y: WEIGHTED(f, y), torch.arange(3).repeat_interleave(16)),
        (
            lambda f, y: nn.functional.cross_entropy(f, y, ignore_index=-100),
            torch.where(torch.arange(48) < 40, torch.arange(48) % 3, -100),
        ),
    ],
    ids=["other weights in other batches", "masked late"],
)
@pytest.mark.parametrize("loader", [True, False])
def test_loss_that_is_no_mean_over_later_examples(loss, targets, loader):
    x = torch.randn(48, 4, generator=torch.Generator().manual_seed(0))
    batches = list(zip(x.split(16), targets.split(16), strict=True)) if loader else (x, targets)
    with pytest.raises(ValueError, match="the loss is no mean over examples"):
        hl.Hessian(mlp(), loss, batches)


class Squared(torch.autograd.Function):
    """A square, as its second derivative sees it linear in what stands above it; or not even so."""

    @staticmethod
    def forward(ctx, x, stop):
        ctx.slope, ctx.stop = 2 * x.detach(), stop
        return x.square()

    @staticmethod
    def backward(ctx, g):
        return (g.detach() if ctx.stop else g) * ctx.slope, None


class WithSquares(nn.Module):
    def __init__(self, *, stop):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)
        self.stop = stop

    def forward(self, x):
        return self.second(Squared.apply(self.first(x), self.stop))


def test_layer_with_a_wrong_second_derivative():
    with pytest.raises(ValueError, match=r"the Hessian of this model is not symmetric: .*Function"):
        hl.Hessian(WithSquares(stop=True).double(), CE, (X.double(), Y))


def test_a_wrong_part_that_is_small_in_a_large_network():  # in float32
    wide = nn.Sequential(nn.Linear(4, 400), nn.Tanh(), nn.Linear(400, 400), nn.Tanh())
    model = nn.Sequential(wide, nn.Linear(400, 4), WithSquares(stop=True))
    with pytest.raises(ValueError, match="is not symmetric"):
        hl.Hessian(model, CE, (X, Y))


def test_the_ggn_of_a_layer_without_forward_mode():
    model = WithSquares(stop=False).double()
    G = hl.GGN(model, CE, (X.double(), Y))
    assert "derivative of its own" in repr(G)
    torch.testing.assert_close(
        G @ torch.eye(G.shape[0], dtype=torch.float64),
        Case(model, CE, X.double(), Y).ggn,
        rtol=1e-9,
        atol=1e-12,
    )


def test_no_parameters_named():
    with pytest.raises(ValueError, match=r"parameters=\[\] names none"):
        hl.Hessian(mlp(), CE, (X, Y), parameters=[])


def test_things_in_the_wrong_place():
    with pytest.raises(TypeError, match=r"model is a function; expected a torch.nn.Module"):
        hl.Hessian(mlp, CE, (X, Y))
    with pytest.raises(TypeError, match="loss is the class CrossEntropyLoss; pass an instance"):
        hl.Hessian(mlp(), nn.CrossEntropyLoss, (X, Y))
    with pytest.raises(TypeError, match=r"x is a ndarray and y a ndarray; .*torch.as_tensor"):
        hl.Hessian(mlp(), CE, (X.numpy(), Y.numpy()))
    with pytest.raises(
        ValueError, match=r"batch 0 has inputs \[4\] and targets \[\]; expected a b"
    ):
        hl.Hessian(mlp(), CE, list(zip(X, Y, strict=True)))
    with pytest.raises(ValueError, match="batch 1 is empty; leave it out"):
        hl.Hessian(mlp(), CE, [(X, Y), (X[:0], Y[:0])]) @ torch.ones(43)
    with pytest.raises(ValueError, match=r"batch_size=4.0; expected a whole number"):
        hl.Hessian(mlp(), CE, (X, Y), batch_size=4.0)


def test_flat_outputs_of_a_likelihood():
    model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    with pytest.raises(ValueError, match=r"outputs have shape \(8,\); GaussianLikelihood expects"):
        hl.Hessian(model, hl.losses.GaussianLikelihood(1.0), (X, torch.zeros(10)))
