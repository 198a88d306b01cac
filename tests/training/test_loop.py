import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hesslab import models, training
from hesslab.data.dataset import Dataset
from hesslab.errors import NotFinite
from hesslab.losses import CrossEntropy, GaussianLikelihood
from hesslab.training.feed import Shuffled


def regression(n=23, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, dtype=dtype, generator=generator)
    return x, (x @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=dtype)) + 0.3


def classification(n=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, generator=generator)
    return x, (x[:, 0] > x[:, 1]).long()


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def small(seed=0):
    return models.mlp(2, 2, hidden=(8,), seed=seed)


# --- what it computes ---------------------------------------------------------------------------


def test_momentum_sgd_equals_a_float64_transcription():
    """Least squares by hand: ragged batches, heavy-ball momentum, cosine rate."""
    x, y = regression(dtype=torch.float64)
    model = models.mlp(3, 1, hidden=(), seed=1).double()
    w = model.output.weight.detach().numpy().copy().ravel()
    b = model.output.bias.item()
    history = training.fit(
        model,
        GaussianLikelihood(noise_variance=0.5),
        (x, y),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
        schedule="cosine",
        epochs=4,
        batch_size=10,
        seed=7,
    )
    feed = Shuffled(x, y, 10, torch.device("cpu"), 7)  # only for the order of the examples
    vw, vb, step, losses = np.zeros(3), 0.0, 0, []
    for epoch in range(1, 5):
        total = 0.0
        for bx, by in feed.epoch(epoch):
            bx, by = bx.numpy(), by.numpy().ravel()
            error = bx @ w + b - by
            total += np.sum(error**2 / (2 * 0.5) + 0.5 * np.log(2 * np.pi * 0.5))
            rate = 0.05 * 0.5 * (1 + np.cos(np.pi * step / 12))
            vw = 0.9 * vw + bx.T @ error / (0.5 * len(bx))
            vb = 0.9 * vb + np.mean(error) / 0.5
            w, b, step = w - rate * vw, b - rate * vb, step + 1
        losses.append(total / 23)
    np.testing.assert_allclose(model.output.weight.detach().numpy().ravel(), w, rtol=1e-11)
    np.testing.assert_allclose(model.output.bias.item(), b, rtol=1e-11)
    np.testing.assert_allclose(history.train_loss, losses, rtol=1e-11)


def test_each_epoch_visits_every_example_once_in_a_new_order():
    x = torch.arange(23.0).unsqueeze(1)
    feed = Shuffled(x, x, 5, torch.device("cpu"), seed=0)
    orders = [torch.cat([bx for bx, _ in feed.epoch(e)]).flatten() for e in (1, 2)]
    assert all(torch.equal(order.sort().values, x.flatten()) for order in orders)
    assert not torch.equal(*orders)
    assert all(torch.equal(bx, by) for bx, by in feed.epoch(1))
    assert [len(bx) for bx, _ in feed.epoch(1)] == [5, 5, 5, 5, 3]


def test_neighbouring_seeds_share_no_order():
    x = torch.arange(50.0)
    orders = {
        tuple(torch.cat([b for b, _ in Shuffled(x, x, 9, x.device, s).epoch(e)]).tolist())
        for s in range(4)
        for e in range(1, 5)
    }
    assert len(orders) == 16


def test_history_holds_the_losses_and_accuracies_of_the_model():
    data, test = classification(), classification(31, seed=1)
    model = small()
    history = training.fit(model, CrossEntropy(), data, test=test, lr=0.01, epochs=5, batch_size=16)
    with torch.no_grad():
        logits = model(test[0])
    expected = float(nn.functional.cross_entropy(logits, test[1]))
    assert history.epoch == (1, 2, 3, 4, 5)
    assert history.test_loss[-1] == pytest.approx(expected, rel=1e-6)
    assert history.test_accuracy[-1] == float((logits.argmax(1) == test[1]).double().mean())
    assert history.lr == (0.01,) * 5
    assert history.best_epoch == 1 + int(np.argmin(history.test_loss))
    assert not history.stopped
    assert repr(history).startswith("History: 5 epochs in ")
    assert "test loss" in repr(history)


def test_regression_has_no_accuracy_and_no_test_without_data():
    history = training.fit(models.mlp(3, 1), nn.MSELoss(), regression(), epochs=1)
    assert history.train_accuracy is None
    assert history.test_loss is None
    assert history.best_epoch is None


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_named_optimizers_lower_the_loss(optimizer):
    history = training.fit(
        models.mlp(3, 1, seed=0),
        nn.MSELoss(),
        regression(),
        optimizer=optimizer,
        lr=0.02,
        epochs=60,
        batch_size=8,
    )
    assert history.train_loss[-1] < 0.1 * history.train_loss[0]


def test_lbfgs_solves_least_squares():
    x, y = regression(dtype=torch.float64)
    model = models.mlp(3, 1, hidden=()).double()
    training.fit(
        model,
        nn.MSELoss(),
        (x, y),
        optimizer=lambda p: torch.optim.LBFGS(p, line_search_fn="strong_wolfe"),
        epochs=3,
        batch_size=23,
    )
    expected = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(model.output.weight.data, expected, rtol=1e-5, atol=1e-5)


def test_an_optimizer_that_exists_is_used():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    history = training.fit(model, CrossEntropy(), classification(), optimizer=optimizer, epochs=1)
    assert history.lr == (0.25,)


def test_a_scheduler_is_stepped_once_per_batch():
    history = training.fit(
        small(),
        CrossEntropy(),
        classification(40),
        lr=1.0,
        optimizer="sgd",
        schedule=lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=4, gamma=0.1),
        epochs=3,
        batch_size=10,
    )
    assert history.lr == pytest.approx((1.0, 0.1, 0.01))


def test_frozen_parameters_stay():
    model = small()
    model.hidden1.weight.requires_grad_(False)
    before = model.hidden1.weight.clone()
    training.fit(model, CrossEntropy(), classification(), epochs=2)
    assert torch.equal(model.hidden1.weight, before)


# --- data of all kinds --------------------------------------------------------------------------


def test_a_dataset_a_pair_and_nothing_else_are_shuffled_alike():
    x, y = classification()
    runs = []
    for data in ((x, y), [x, y], Dataset(x, y, "points", classes=("left", "right"))):
        model = small()
        training.fit(model, CrossEntropy(), data, epochs=3, batch_size=16)
        runs.append(weights(model))
    assert all(torch.equal(runs[0], run) for run in runs)


def test_batches_of_a_user_keep_their_order_and_sizes():
    x, y = classification()
    batches = [(x[:7], y[:7]), (x[7:31], y[7:31]), (x[31:], y[31:])]
    model, by_hand = small(), small()
    training.fit(model, CrossEntropy(), batches, optimizer="sgd", lr=0.1, epochs=2)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    for bx, by in batches * 2:
        optimizer.zero_grad()
        nn.functional.cross_entropy(by_hand(bx), by).backward()
        optimizer.step()
    torch.testing.assert_close(weights(model), weights(by_hand), rtol=1e-6, atol=1e-7)


def test_a_shuffling_loader_trains_and_repeats_by_seed():
    x, y = classification()
    runs = []
    for seed in (0, 0, 1):
        loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
        model = small()
        training.fit(model, CrossEntropy(), loader, schedule="cosine", epochs=2, seed=seed)
        runs.append(weights(model))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_one_output_with_counts_as_targets_has_no_accuracy():
    x, _ = regression()
    counts = torch.arange(len(x)) % 4

    def poisson(outputs, y):
        return nn.functional.poisson_nll_loss(outputs.squeeze(1), y)

    history = training.fit(
        models.mlp(3, 1), poisson, (x, counts), test=(x, counts), lr=1e-3, epochs=1
    )
    assert history.train_accuracy is None
    assert history.test_accuracy is None


# --- what it leaves alone -----------------------------------------------------------------------


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = small()
        self.dropout = nn.Dropout(0.3)

    def forward(self, x):
        return self.dropout(self.body(x))


def test_seeds_reproduce_and_differ_with_dropout():
    runs = []
    for seed, noise in ((0, 11), (0, 12), (1, 11)):
        torch.manual_seed(noise)  # of the caller; it must not matter
        model = Noisy()
        training.fit(model, CrossEntropy(), classification(), epochs=3, batch_size=16, seed=seed)
        runs.append(weights(model))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_global_random_state_is_left_alone():
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    training.fit(Noisy(), CrossEntropy(), classification(), epochs=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002


class Unsized:
    """Batches of a loader whose number is found by going through them."""

    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        return iter(self.loader)


@pytest.mark.parametrize("wrap", [lambda loader: loader, Unsized])
@pytest.mark.parametrize("shuffle", [True, False])
def test_global_random_state_is_left_alone_with_loaders(shuffle, wrap):
    data = TensorDataset(*classification())
    loader = wrap(DataLoader(data, batch_size=8, shuffle=shuffle))
    before = torch.get_rng_state()
    training.fit(
        Noisy(), CrossEntropy(), loader, test=DataLoader(data), schedule="cosine", epochs=2
    )
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_the_callers_gradient_mode_plays_no_part(mode):
    data = classification()
    expected, model = small(), small()
    training.fit(expected, CrossEntropy(), data, test=data, epochs=2)
    with mode():
        training.fit(model, CrossEntropy(), data, test=data, epochs=2)
        assert not torch.is_grad_enabled()
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
    assert torch.equal(weights(model), weights(expected))


def test_modes_are_given_back_also_after_an_error():
    model = Noisy()
    model.body.eval()
    modes = [module.training for module in model.modules()]
    data = classification()
    training.fit(model, CrossEntropy(), data, test=data, epochs=1)
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(NotFinite):
        training.fit(model, lambda f, y: f.sum() * float("nan"), data, epochs=1)
    assert [module.training for module in model.modules()] == modes


def test_no_gradient_is_left_behind():
    model = small()
    training.fit(model, CrossEntropy(), classification(), epochs=1)
    assert all(p.grad is None for p in model.parameters())


def test_the_test_data_does_not_change_the_training():
    runs = []
    for test in (None, classification(9, seed=3)):
        model = models.resnet(8, width=2, in_channels=1, classes=2)
        x = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        y = torch.arange(12) % 2
        held_out = None if test is None else (x[:5] + 1, y[:5])
        training.fit(model, CrossEntropy(), (x, y), test=held_out, epochs=2, batch_size=4)
        runs.append(torch.cat([t.flatten().double() for t in model.state_dict().values()]))
    assert torch.equal(*runs)


def test_nothing_is_printed_without_a_terminal(capfd):
    training.fit(small(), CrossEntropy(), classification(), epochs=2)
    assert capfd.readouterr() == ("", "")
    training.fit(small(), CrossEntropy(), classification(), epochs=2, progress=True)
    assert "training" in capfd.readouterr().err


# --- early stopping -----------------------------------------------------------------------------


def test_early_stop_returns_the_best_weights():
    x, y = classification(12)
    noisy = (x, torch.randint(2, (12,), generator=torch.Generator().manual_seed(1)))
    model = small()
    history = training.fit(
        model, CrossEntropy(), noisy, test=(x, y), lr=0.05, epochs=200, early_stop=3
    )
    assert history.stopped
    assert len(history.epoch) == history.best_epoch + 3
    with torch.no_grad():
        loss = float(nn.functional.cross_entropy(model(x), y))
    assert loss == pytest.approx(min(history.test_loss), rel=1e-6)
    assert "stopped early, best epoch" in repr(history)


# --- bad input ----------------------------------------------------------------------------------


class OnTwoDevices(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(2, 2)
        self.b = nn.Linear(2, 2, device="meta")


def other_optimizer():
    return torch.optim.SGD(small().parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs=0 is out of range: expected epochs >= 1"),
        ({"epochs": 1.5}, "epochs is a float"),
        ({"batch_size": 0}, "batch_size=0 is out of range"),
        ({"lr": -1.0}, "lr=-1.0 is out of range: expected 0 < lr"),
        ({"lr": float("nan")}, "lr=nan is out of range"),
        ({"seed": None}, "seed is a NoneType"),
        ({"early_stop": 2}, "early_stop=2 needs test data"),
        ({"optimizer": "adma"}, 'optimizer="adma" is unknown; expected one of "adam"'),
        ({"optimizer": 3}, "optimizer gives a int; expected a torch.optim.Optimizer"),
        ({"optimizer": other_optimizer()}, "4 parameters that are not the model's"),
        ({"optimizer": torch.optim.SGD, "lr": 0.1}, "lr=0.1 is given beside an optimizer"),
        ({"schedule": "cosin"}, 'schedule="cosin" is unknown'),
        ({"schedule": lambda o: 3}, "schedule gives a int"),
        (
            {"schedule": torch.optim.lr_scheduler.ReduceLROnPlateau},
            "ReduceLROnPlateau asks for a measurement",
        ),
        ({"train": (torch.zeros(0, 2), torch.zeros(0).long())}, "the data is empty"),
        ({"train": []}, "the data is empty"),
        ({"train": [torch.zeros(3, 2)]}, "a batch is a Tensor; expected a pair"),
        ({"train": (torch.zeros(3, 2), torch.zeros(4).long())}, "3 inputs and 4 targets"),
        ({"train": [(torch.zeros(3, 2), torch.zeros(4).long())]}, "no pair of tensors of equal"),
        ({"train": (torch.zeros(3, 2).double(), torch.zeros(3).long())}, "torch.float64, but the"),
        ({"train": (torch.zeros(3, 5), torch.zeros(3).long())}, r"inputs of shape \(3, 5\)"),
        ({"train": (torch.zeros(3, 2), torch.full((3,), 2))}, r"targets are in 2\.\.2"),
        ({"train": iter([])}, "gone through only once"),
        ({"train": 3}, "data is a int"),
        ({"test": (torch.zeros(3, 5), torch.zeros(3).long())}, r"\(3, 5\).*test data"),
        ({"model": OnTwoDevices()}, r"on several devices \(cpu, meta\)"),
        ({"model": nn.Flatten()}, "no parameter that requires a gradient"),
    ],
)
def test_unfit_arguments_are_refused_with_the_cure(options, message):
    arguments = {"model": small(), "loss": CrossEntropy(), "train": classification(), "epochs": 1}
    with pytest.raises((ValueError, TypeError), match=message):
        training.fit(**(arguments | options))


def test_nan_in_data_or_parameters_is_refused_before_training():
    x, y = classification()
    bad = x.clone()
    bad[4, 0] = float("nan")
    with pytest.raises(NotFinite, match="inputs hold NaN or infinite values, first in example 4"):
        training.fit(small(), CrossEntropy(), (bad, y), epochs=1)
    with pytest.raises(NotFinite, match="the inputs are not finite; clean the data"):
        training.fit(small(), CrossEntropy(), [(bad, y)], epochs=1)
    model = small()
    model.output.bias.data[0] = float("inf")
    with pytest.raises(NotFinite, match=r"parameter output.bias holds NaN or infinite values"):
        training.fit(model, CrossEntropy(), (x, y), epochs=1)


def test_divergence_stops_at_once_and_says_where():
    x, y = regression()
    model = models.mlp(3, 1, hidden=())
    with pytest.raises(NotFinite, match=r"in epoch \d+, batch \d+, at learning rate 1000: the"):
        training.fit(model, nn.MSELoss(), (x, y), optimizer="sgd", lr=1e3, epochs=50, batch_size=8)


def test_a_last_step_that_diverges_is_seen_and_not_saved(tmp_path):
    x, y = regression()
    model = models.mlp(3, 1, hidden=())
    options = {"optimizer": "sgd", "lr": 3e38, "epochs": 1, "batch_size": 23}
    with pytest.raises(NotFinite, match=r"output\.\w+ is not finite after epoch 1, .* rate 3e\+38"):
        training.fit(model, nn.MSELoss(), (x, y), checkpoint=tmp_path / "run.pt", **options)
    assert not list(tmp_path.iterdir())


def test_a_model_made_in_inference_mode_is_refused():
    with torch.inference_mode():
        model = small()
    with pytest.raises(ValueError, match=r"was made under torch\.inference_mode"):
        training.fit(model, CrossEntropy(), classification(), epochs=1)


def test_bad_weights_are_not_made_worse_by_a_step():
    """The loss is looked at before the step, so the last weights are those that gave it."""
    x, y = classification()
    model = small()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(NotFinite, match="epoch 1, batch 1"):
        training.fit(model, lambda f, t: (f - f).sum().log() * 0, (x, y), epochs=1)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
