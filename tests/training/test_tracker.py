"""A tracker shows what the matrix is at each visit, and leaves the training alone."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import hesslab as hl
from hesslab.errors import DamagedFile
from hesslab.training import CurvatureTracker, Eigenvalues, read_visits


def parts(dropout=0.0, norm=False):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 4, generator=generator)
    y = (x[:, 0] * x[:, 1] > 0).long()
    torch.manual_seed(3)
    middle = [nn.BatchNorm1d(12)] if norm else []
    model = nn.Sequential(
        nn.Linear(4, 12), *middle, nn.Tanh(), nn.Dropout(dropout), nn.Linear(12, 2)
    )
    return model, nn.CrossEntropyLoss(), (x, y)


def run(path=None, *, epochs=4, every=5, follow=None, norm=True, **options):
    model, loss, data = parts(dropout=0.2, norm=norm)
    tracker = None
    if path is not None:
        follow = follow or {"top": Eigenvalues(2, rtol=1e-3)}
        tracker = CurvatureTracker(
            lambda m: hl.Hessian(m, loss, data), follow, path=path, every=every
        )
    settings = {"lr": 0.02, "batch_size": 16, "seed": 1, "epochs": epochs, **options}
    hl.training.fit(model, loss, data, tracker=tracker, **settings)
    return torch.cat([p.detach().flatten() for p in model.parameters()]), tracker


def test_the_training_is_the_same_to_the_bit(tmp_path):
    watched, tracker = run(tmp_path / "visits.jsonl")
    alone, _ = run()
    assert torch.equal(watched, alone)
    assert tracker.seconds > 0


def test_each_visit_tells_what_the_matrix_is_there(tmp_path):
    model, loss, data = parts()
    path = tmp_path / "visits.jsonl"
    dense = {}

    def exact(H):
        dense[len(dense)] = torch.linalg.eigvalsh(H.to_dense().double()).flip(0)
        return dense[len(dense) - 1][:2]

    follow = {
        "top": Eigenvalues(2, rtol=1e-5),
        "exact": exact,
        "trace": lambda H: hl.linalg.trace(H, products=30),
        "energies": lambda H: hl.linalg.spectral_density(H).energies(),
        "ratio": lambda H: hl.metrics.eigenvalue_ratio(dense[len(dense) - 1], 2),
    }
    tracker = CurvatureTracker(lambda m: hl.Hessian(m, loss, data), follow, path=path, every=4)
    hl.training.fit(model, loss, data, tracker=tracker, lr=0.02, batch_size=16, epochs=3)
    about, visits = read_visits(path)
    assert list(about["follow"]) == list(follow)
    assert about["follow"]["top"].startswith("Eigenvalues(2, which='largest'")
    assert about["every"] == 4
    assert [visit["step"] for visit in visits] == [0, 4, 8, 12]
    for i, visit in enumerate(visits):
        np.testing.assert_allclose(visit["top"], visit["exact"], rtol=1e-4)
        trace = float(dense[i].sum())
        assert abs(visit["trace"] - trace) <= 5 * visit["trace_error"] + 1e-4 * abs(trace)
        L2 = float(dense[i].square().mean())
        assert visit["energies.L2"] == pytest.approx(L2, rel=0.02)
        assert visit["energies.L2_low"] <= visit["energies.L2"] <= visit["energies.L2_high"]
        assert visit["ratio"] == pytest.approx(float(dense[i][0] / dense[i][1]), rel=1e-6)
        assert visit["ratio_error"] is None  # there are no residuals


def test_another_eigenvalue_that_becomes_the_largest_is_seen(tmp_path):
    values = torch.linspace(0, 0.5, 400)
    path = tmp_path / "visits.jsonl"

    def matrix(model):
        values[-2:] = torch.tensor([2.0 - 0.1 * matrix.visits, 1.2 + 0.1 * matrix.visits])
        matrix.visits += 1
        return torch.diag(values)

    matrix.visits = 0
    tracker = CurvatureTracker(matrix, {"top": Eigenvalues(1)}, path=path, every=1)
    for step in range(12):
        tracker(nn.Linear(1, 1), step)
    found = [visit["top"][0] for visit in read_visits(path)[1]]
    expected = [max(2.0 - 0.1 * i, 1.2 + 0.1 * i) for i in range(12)]
    np.testing.assert_allclose(found, expected, rtol=1e-2)


def test_a_density_is_told_by_its_energies_and_long_arrays_are_refused(tmp_path):
    model, loss, data = parts()
    path = tmp_path / "visits.jsonl"
    follow = {"density": lambda H: hl.linalg.spectral_density(H, steps=8, probes=2)}
    tracker = CurvatureTracker(lambda m: hl.Hessian(m, loss, data), follow, path=path)
    tracker(model, 0)
    (visit,) = read_visits(path)[1]
    assert {"density.eigenvalues", "density.energies.L1_negative", "density.products"} <= set(visit)
    assert len(visit["density.weights"]) == 2  # a row a probe
    assert path.stat().st_size < 8000
    follow = {"all": lambda H: torch.zeros(10_001)}
    long = CurvatureTracker(lambda m: None, follow, path=tmp_path / "b.jsonl")
    with pytest.raises(ValueError, match="all gave 10001 numbers, and a visit keeps at most 10000"):
        long(model, 0)


def test_the_file_of_another_training_is_refused(tmp_path):
    path = tmp_path / "visits.jsonl"
    run(path, epochs=2)
    before = path.read_bytes()
    run(path, epochs=2)  # once more: nothing is left to do
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match=r"visits.jsonl is of another training: .* at step 5, and"):
        run(path, epochs=2, lr=0.03)
    assert path.read_bytes() == before
    with pytest.raises(TypeError, match=r"follow\['top'\] is a int; expected a function"):
        CurvatureTracker(lambda m: None, {"top": 3}, path=path)


def test_a_killed_training_goes_on_with_its_visits(tmp_path):
    whole, _ = run(tmp_path / "whole.jsonl", every=3, epochs=6)
    path, checkpoint = tmp_path / "visits.jsonl", tmp_path / "run.pt"

    class PowerCut(Exception):
        pass

    class Cut(Eigenvalues):
        calls = 0

        def __call__(self, A):
            self.calls += 1
            if self.calls == 5:
                raise PowerCut
            return super().__call__(A)

    with pytest.raises(PowerCut):
        run(path, follow={"top": Cut(2, rtol=1e-3)}, every=3, epochs=6, checkpoint=checkpoint)
    with path.open("a") as file:
        file.write('{"step": 12, "top": [0.')  # a line that the power cut broke
    assert len(read_visits(path)[1]) == 4  # a broken line is no visit
    resumed, _ = run(path, every=3, epochs=6, checkpoint=checkpoint)
    assert torch.equal(whole, resumed)
    expected, found = read_visits(tmp_path / "whole.jsonl")[1], read_visits(path)[1]
    assert [visit["step"] for visit in found] == [visit["step"] for visit in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["top"] == theirs["top"], ours["step"]


def test_a_logarithmic_grid(tmp_path):
    tracker = CurvatureTracker(lambda m: None, {"a": float}, path=tmp_path / "a", every="log")
    due = [step for step in range(200) if tracker.is_due(step)]
    assert due == [0, 1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181]


def test_a_table_of_visits_can_be_recorded(tmp_path):
    run(tmp_path / "visits.jsonl", every=8)
    table = hl.report.visits(tmp_path / "visits.jsonl")
    assert list(table["step"]) == [0, 8, 16]
    assert {"top.0", "top.1", "top_residual.0", "top_products", "seconds"} <= set(table.columns)
    made = hl.report.record("visits", table, parameters={"every": 8}, seed=1, folder=tmp_path)
    assert made.suffix == ".parquet"
    loaded = hl.report.load("visits", folder=tmp_path)
    assert loaded.data.equals(table)


def test_other_loops_call_it_themselves(tmp_path):
    model, loss, data = parts(norm=True)
    model.train()
    before = torch.get_rng_state()
    path = tmp_path / "a.jsonl"
    tracker = CurvatureTracker(
        lambda m: hl.Hessian(m, loss, data), {"size": lambda H: H.shape[0]}, path=path, every=10
    )
    for step in range(21):
        tracker(model, step)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert [visit["step"] for visit in read_visits(path)[1]] == [0, 10, 20]
    assert read_visits(path)[1][0]["size"] == sum(p.numel() for p in model.parameters())


def test_bad_arguments_and_files(tmp_path):
    path = tmp_path / "a.jsonl"

    def make(**options):
        settings = {"follow": {"a": lambda A: 1.0}, "path": path, "every": 5, **options}
        return CurvatureTracker(lambda m: None, **settings)

    with pytest.raises(ValueError, match="follow is empty"):
        make(follow={})
    for every in (0, 2.5, "linear"):
        with pytest.raises(ValueError, match=r"every=.*expected a number of steps"):
            make(every=every)
    make()
    with pytest.raises(ValueError, match=r"is of a tracker with .*, and this one has"):
        make(follow={"a": Eigenvalues(1)})
    with pytest.raises(ValueError, match=r"is of a tracker with .*'every': 5.*, and this one has"):
        make(every=7)
    with pytest.raises(TypeError, match="a gave a object; expected a number"):
        make(path=tmp_path / "b", follow={"a": lambda A: object()})(nn.Linear(1, 1), 0)
    for text in ("", "no json\n", json.dumps([1, 2]) + "\n"):
        path.write_text(text)
        with pytest.raises(DamagedFile, match="is no file of a CurvatureTracker"):
            make()
