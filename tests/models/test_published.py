import os

import pytest
import torch

from hesslab import models
from hesslab.errors import DamagedFile, MissingData
from hesslab.models.published import _TABLE, content_digest, read_weights

needs_weights = [
    pytest.mark.data,
    pytest.mark.skipif("HESSLAB_DATA" not in os.environ, reason="HESSLAB_DATA is not set"),
]
DEPTHS = (20, 32, 56)


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No local copy of anything."""
    monkeypatch.delenv("HESSLAB_DATA", raising=False)
    monkeypatch.setenv("HESSLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match='known as "cifar10-resnet21"; expected one of "cifar10-r'):
        models.pretrained("cifar10-resnet21")


@pytest.mark.parametrize("name", _TABLE)
def test_missing_weights_name_file_variable_and_alternative(nowhere, name):
    with pytest.raises(MissingData, match=r"weights/resnet.*HESSLAB_DATA.*hesslab\.models\.resnet"):
        models.pretrained(name, download=False)


@pytest.mark.parametrize("file", ["cifar10_resnet20.pt", "resnet20-12fca82f.th"])
def test_altered_files_are_refused(nowhere, file):
    folder = nowhere / "cache" / "weights"
    folder.mkdir(parents=True)
    torch.save(models.resnet(20).state_dict(), folder / file)
    with pytest.raises(DamagedFile, match=file):
        models.pretrained("cifar10-resnet20", download=False)


def test_an_altered_file_in_torchs_own_cache_is_refused(nowhere):
    folder = nowhere / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "resnet18-f37072fd.pth").write_bytes(b"half a file")
    with pytest.raises(DamagedFile, match="resnet18-f37072fd"):
        models.pretrained("imagenet-resnet18", download=False)


def test_wrappers_of_training_scripts_are_taken_off(tmp_path):
    state = models.resnet(8).state_dict()
    wrapped = {"state_dict": {f"module.{k}": v for k, v in state.items()}, "best_prec1": 91.7}
    torch.save(wrapped, tmp_path / "w.th", _use_new_zipfile_serialization=False)
    found = read_weights(tmp_path / "w.th")
    assert list(found) == list(state)
    assert content_digest(found) == content_digest(state)


def test_the_digest_sees_names_values_and_shapes_but_not_counters():
    state = models.resnet(8, width=2).state_dict()
    reference = content_digest(state)
    fewer = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    assert content_digest(dict(reversed(fewer.items()))) == reference
    altered = state | {"linear.bias": state["linear.bias"] + 1e-6}
    reshaped = state | {"linear.bias": state["linear.bias"].reshape(2, 5)}
    renamed = fewer | {"linear.shift": fewer["linear.bias"]}
    del renamed["linear.bias"]
    assert len({reference, *map(content_digest, (altered, reshaped, renamed))}) == 4


@pytest.mark.parametrize("content", [b"", b"not a file of weights", b"PK\x03\x04 cut off"])
def test_unreadable_files_are_refused(tmp_path, content):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(DamagedFile, match="cannot be read as a file of weights"):
        read_weights(tmp_path / "w.pt")


def test_files_with_code_are_not_run(tmp_path):
    torch.save({"state_dict": models.mlp}, tmp_path / "w.pt")
    with pytest.raises(DamagedFile, match="cannot be read"):
        read_weights(tmp_path / "w.pt")


def test_files_of_something_else_are_refused(tmp_path):
    torch.save([1, 2], tmp_path / "w.pt")
    with pytest.raises(DamagedFile, match="holds no dict of named tensors"):
        read_weights(tmp_path / "w.pt")


class TestRealWeights:
    pytestmark = needs_weights

    @pytest.mark.parametrize("depth", DEPTHS)
    def test_weights_load_ready_for_use(self, depth):
        model = models.pretrained(f"cifar10-resnet{depth}", download=False)
        assert not any(module.training for module in model.modules())
        assert model.normalisation.mean == (0.485, 0.456, 0.406)
        assert "akamaster" in model.source
        entry = _TABLE[f"cifar10-resnet{depth}"]
        assert content_digest(model.state_dict()) == entry.digest

    def test_the_published_wrapping_of_the_same_tensors_is_accepted(self, tmp_path):
        entry = _TABLE["cifar10-resnet20"]
        state = models.pretrained("cifar10-resnet20", download=False).state_dict()
        wrapped = {"state_dict": {f"module.{k}": v for k, v in state.items()}}
        torch.save(wrapped, tmp_path / entry.file)
        entry.verify(tmp_path / entry.file)

    @pytest.mark.slow
    @pytest.mark.timeout(300)
    def test_resnet20_reaches_the_published_accuracy_on_cifar10(self):
        from hesslab import data, metrics

        model = models.pretrained("cifar10-resnet20", download=False)
        test = data.cifar10(split="test", normalisation=model.normalisation, download=False)
        with torch.no_grad():
            logits = torch.cat([model(x) for x in test.x.split(250)])
        assert float(metrics.accuracy(logits, test.y)) == pytest.approx(0.9173, abs=2e-4)
        assert float(metrics.nll(logits, test.y, logits=True)) == pytest.approx(0.3727, abs=2e-4)
