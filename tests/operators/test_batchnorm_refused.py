"""What a user sees whose batch norms do not fit the chosen mode: the cause and the cure."""

import pytest
import torch
from torch import nn

import hesslab as hl
from hesslab.errors import NotDeterministic, NotFinite
from hesslab.operators.network import Network
from tests.batchnorms import BATCH, CE, KINDS, NETS, N, build, dense_net, mean_over, native
from tests.cases import Case

EXACT = {"rtol": 1e-9, "atol": 1e-13}


@pytest.mark.parametrize("options", [{}, {"track_running_stats": False}])
def test_no_choice_names_the_three(options):
    model, x, y = build(lambda: nn.Sequential(nn.BatchNorm1d(4, **options), nn.Linear(4, 3)), (4,))
    with pytest.raises(ValueError, match=r'0 \(BatchNorm1d\).*"running".*"batch".*"population"'):
        hl.Hessian(model.train(), CE, (x, y))


def test_unknown_choice():
    model, x, y = build(*NETS["dense"])
    with pytest.raises(ValueError, match=r"batchnorm='train' is unknown; expected .*\"running\""):
        hl.Hessian(model, CE, (x, y), batchnorm="train")


def test_dropout_stays_refused():
    model, x, y = build(lambda: nn.Sequential(nn.Dropout(0.5), *dense_net()), (4,))
    with pytest.raises(NotDeterministic, match="dropout is active"):
        hl.Hessian(model.train(), CE, (x, y), batchnorm="batch")


def test_a_batch_with_one_value_per_channel():
    model, x, y = build(*NETS["dense"])
    message = r"1 \(BatchNorm1d\) gets one value per channel from a batch of 1 .*batch_size"
    with pytest.raises(ValueError, match=message):
        hl.Hessian(model, CE, (x, y), batchnorm="batch", batch_size=5)
    network = Network(model, None, batchnorm="batch")
    with pytest.raises(ValueError, match=message):
        network.outputs(network.point, x[:1])
    model, x, y = build(*NETS["conv"])  # an example has several positions
    hl.Hessian(model, CE, (x, y), batchnorm="batch", batch_size=5).gradient()


def test_running_statistics_that_are_not_kept():
    make, shape = KINDS["without running statistics"]
    model, x, y = build(lambda: nn.Sequential(make(), nn.Flatten(), nn.Linear(6, 3)), shape)
    with pytest.raises(ValueError, match=r"0 \(BatchNorm2d\) keeps no running statistics"):
        hl.Hessian(model, CE, (x, y), batchnorm="running")


def test_batch_statistics_of_several_processes():
    model, x, y = build(lambda: nn.Sequential(nn.SyncBatchNorm(4), nn.Linear(4, 3)), (4,))
    with pytest.raises(ValueError, match=r"0 \(SyncBatchNorm\) takes its batch statistics ov"):
        hl.Hessian(model, CE, (x, y), batchnorm="batch")


def test_a_norm_with_its_own_forward():
    class Rectified(nn.BatchNorm1d):
        def forward(self, x):
            return torch.relu(super().forward(x))

    model, x, y = build(lambda: nn.Sequential(Rectified(4), nn.Linear(4, 3)), (4,))
    expected = Case(model, CE, x, y).hessian
    for choice in (None, "running"):
        H = hl.Hessian(model, CE, (x, y), batchnorm=choice)
        torch.testing.assert_close(H.to_dense(), expected, **EXACT)
    for choice in ("batch", "population"):
        with pytest.raises(ValueError, match=r"0 \(Rectified\) has a forward of its own"):
            hl.Hessian(model, CE, (x, y), batchnorm=choice)
    with pytest.raises(ValueError, match=r"0 \(Rectified\) has a forward of its own"):
        hl.Hessian(model.train(), CE, (x, y), batchnorm="running")


def test_a_norm_that_is_used_twice():
    norm = nn.BatchNorm1d(4)
    model, x, y = build(lambda: nn.Sequential(norm, nn.Tanh(), norm, nn.Linear(4, 3)), (4,))
    for size in (BATCH, N):
        with pytest.raises(ValueError, match=r"0 \(BatchNorm1d\) is used more than once"):
            hl.Hessian(model, CE, (x, y), batchnorm="population", batch_size=size)
    H = hl.Hessian(model, CE, (x, y), batchnorm="batch", batch_size=BATCH)
    expected = mean_over(native(model, x, y, "batch"), "hessian")
    torch.testing.assert_close(H.to_dense(), expected, **EXACT)


class Turns(nn.Module):
    """Runs through its norms in an order that depends on the number of examples."""

    def __init__(self, usual, ragged):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm1d(4) for _ in range(2))
        self.head = nn.Linear(4, 3)
        self.usual, self.ragged = usual, ragged

    def forward(self, x):
        for number in self.usual if len(x) == BATCH else self.ragged:
            x = torch.tanh(self.norms[number](x))
        return self.head(x)


@pytest.mark.parametrize(
    ("usual", "ragged"), [([0, 1], [1, 0]), ([0, 1], [0]), ([0], [0, 1]), ([], [0])]
)
def test_norms_whose_order_depends_on_the_data(usual, ragged):
    model, x, y = build(lambda: Turns(usual, ragged), (4,))
    with pytest.raises(ValueError, match="does not use its batch norms in the same order"):
        hl.Hessian(model, CE, (x, y), batchnorm="population", batch_size=BATCH).gradient()


def test_a_norm_that_is_never_used_is_left_alone():
    model, x, y = build(lambda: Turns([1], [1]), (4,))
    H = hl.Hessian(model, CE, (x, y), batchnorm="population", batch_size=BATCH)
    v = torch.ones(H.shape[1], dtype=torch.float64)
    expected = H.vector_to_dict(H @ v)
    assert not expected["norms.0.weight"].any()
    assert expected["norms.1.weight"].any()


def test_population_statistics_that_overflow():
    model, x, y = build(*NETS["dense"])
    model, x = model.float(), x.float()
    x[5] = 3e38
    with pytest.raises(NotFinite, match="population statistics of the batch norm 1 are NaN or inf"):
        hl.Hessian(model, CE, (x, y), batchnorm="population", batch_size=BATCH)


def test_population_statistics_of_nothing():
    model, x, _ = build(*NETS["dense"])
    with pytest.raises(ValueError, match="the data is empty"):
        hl.Hessian(model, CE, [], batchnorm="population")
    network = Network(model, None, batchnorm="population")
    with pytest.raises(RuntimeError, match=r"1 \(BatchNorm1d\) has no population statistics yet"):
        network.outputs(network.point, x)


def test_a_loss_that_is_no_mean_is_seen_in_batch_mode():
    model, x, y = build(*NETS["dense"])
    with pytest.raises(ValueError, match="the loss is no mean over examples"):
        hl.Hessian(
            model,
            lambda f, t: nn.functional.cross_entropy(f[t != 1], t[t != 1]),
            (x, y),
            batchnorm="batch",
        )


def test_batch_mode_without_batch_norms_still_sees_hidden_statistics():
    class Hidden(nn.Linear):
        def forward(self, x):
            return nn.functional.batch_norm(super().forward(x), None, None, training=True)

    model, x, y = build(lambda: Hidden(4, 3), (4,))
    with pytest.raises(ValueError, match="is not the sum over its parts"):
        hl.Hessian(model, CE, (x, y), batchnorm="batch")
