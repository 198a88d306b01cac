import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hesslab import models, training
from hesslab.errors import DamagedFile
from hesslab.losses import CrossEntropy


def data(n=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 8, 8, generator=generator)
    return x, (x.mean((1, 2, 3)) > 0).long()


class Net(nn.Module):
    """Batch norm has buffers, dropout draws: both must resume."""

    def __init__(self, seed=0):
        super().__init__()
        self.body = models.resnet(8, width=2, in_channels=1, classes=2, seed=seed)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x):
        return self.dropout(self.body(x))


def run(model, path, *, epochs=4, train=None, **options):
    settings = {"schedule": "cosine", "test": data(16, seed=1), "batch_size": 16, "lr": 0.01}
    loss = settings.pop("loss", CrossEntropy())
    train = data() if train is None else train
    settings |= options
    return training.fit(model, loss, train, epochs=epochs, checkpoint=path, **settings)


def equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


def interrupt_in(model, epoch, batches=3):
    """Ctrl-C in the middle of an epoch."""
    calls = 0

    def hook(module, inputs):
        nonlocal calls
        calls += module.training
        if calls == (epoch - 1) * batches + 2:
            raise KeyboardInterrupt

    return model.register_forward_pre_hook(hook)


@pytest.mark.parametrize("early_stop", [None, 3])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path, optimizer, early_stop):
    options = {"optimizer": optimizer, "early_stop": early_stop, "epochs": 5}
    unbroken, broken = Net(), Net()
    expected = run(unbroken, None, **options)
    hook = interrupt_in(broken, epoch=3)
    with pytest.raises(KeyboardInterrupt):
        run(broken, tmp_path / "run.pt", **options)
    hook.remove()
    resumed = Net(seed=5)  # its weights are replaced
    history = run(resumed, tmp_path / "run.pt", **options)
    assert equal(resumed, unbroken)
    for column in ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "lr"):
        assert getattr(history, column) == getattr(expected, column)


def test_a_shuffling_loader_resumes_bit_for_bit(tmp_path):
    def loader():
        return DataLoader(TensorDataset(*data()), batch_size=16, shuffle=True)

    unbroken, broken, resumed = Net(), Net(), Net(seed=5)
    run(unbroken, None, train=loader())
    interrupt_in(broken, epoch=3)
    with pytest.raises(KeyboardInterrupt):
        run(broken, tmp_path / "run.pt", train=loader())
    torch.rand(1)  # the caller's random state plays no part
    run(resumed, tmp_path / "run.pt", train=loader())
    assert equal(resumed, unbroken)


def test_an_interruption_leaves_the_last_checkpoint_and_nothing_else(tmp_path):
    model = Net()
    interrupt_in(model, epoch=3)
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path / "run.pt")
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]
    assert len(training.load_checkpoint(tmp_path / "run.pt", Net()).epoch) == 2


def test_an_interruption_while_writing_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    run(Net(), tmp_path / "run.pt", epochs=1, schedule=None)
    before = (tmp_path / "run.pt").read_bytes()

    def half(content, file):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        run(Net(), tmp_path / "run.pt", epochs=2, schedule=None)
    assert (tmp_path / "run.pt").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_finished_run_is_read_and_not_repeated(tmp_path):
    model, again = Net(), Net(seed=3)
    history = run(model, tmp_path / "run.pt", early_stop=9)
    assert run(again, tmp_path / "run.pt", early_stop=9) == history
    assert equal(model, again)


def test_a_constant_rate_can_be_trained_for_longer(tmp_path):
    longer, once = Net(), Net()
    run(longer, tmp_path / "run.pt", epochs=2, schedule=None)
    run(longer, tmp_path / "run.pt", epochs=4, schedule=None)
    run(once, None, epochs=4, schedule=None)
    assert equal(longer, once)
    with pytest.raises(ValueError, match="has 4 epochs already, more than epochs=2"):
        run(Net(), tmp_path / "run.pt", epochs=2, schedule=None)


def test_load_checkpoint_gives_what_fit_returned(tmp_path):
    model, loaded = Net(), Net(seed=4)
    history = run(model, tmp_path / "run.pt", early_stop=2, epochs=6)
    assert training.load_checkpoint(tmp_path / "run.pt", loaded) == history
    assert equal(model, loaded)


def test_checkpoints_hold_no_code(tmp_path):
    run(Net(), tmp_path / "run.pt")
    content = torch.load(tmp_path / "run.pt", weights_only=True)
    assert content["format"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 8}, "batch_size was 16 and is now 8"),
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"lr": 0.02}, r"optimizer was Adam\(.*lr=0.01.* and is now Adam\(.*lr=0.02"),
        ({"optimizer": "sgd"}, r"optimizer was Adam\(.* and is now SGD\("),
        ({"schedule": None}, r"schedule was CosineAnnealingLR\(.* and is now constant"),
        ({"epochs": 5}, "over 4 epochs and is now .* over 5 epochs"),
        ({"early_stop": 1}, "early_stop was None and is now 1"),
        ({"train": data(seed=9)}, r"train was \(40, 1, 8, 8\) torch.float32, content"),
        ({"test": None}, "test was .* and is now none"),
        ({"seed": 2, "batch_size": 4}, "batch_size was .*; seed was 0 and is now 2. Give the set"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, change, message):
    run(Net(), tmp_path / "run.pt")
    with pytest.raises(ValueError, match=message):
        run(Net(), tmp_path / "run.pt", **change)


def test_another_model_is_refused(tmp_path):
    run(Net(), tmp_path / "run.pt")
    other = models.mlp(64, 2)
    with pytest.raises(ValueError, match=r"model was Net of .* and is now Sequential of"):
        run(other, tmp_path / "run.pt")
    with pytest.raises(ValueError, match="is of another model"):
        training.load_checkpoint(tmp_path / "run.pt", other)


def test_damaged_and_missing_checkpoints_are_refused(tmp_path):
    path = tmp_path / "run.pt"
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        training.load_checkpoint(path, Net())
    run(Net(), path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DamagedFile, match="cannot be read as a checkpoint"):
        run(Net(), path)
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(DamagedFile, match="holds no checkpoint of this version"):
        training.load_checkpoint(path, Net())
    torch.save(Net(), path)  # a pickled module would run code
    with pytest.raises(DamagedFile, match="cannot be read as a checkpoint"):
        training.load_checkpoint(path, Net())
