"""What the benchmarks measure with is itself held to references."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import scipy.stats
import torch

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def part(monkeypatch):
    """Imports a part of the benchmarks, which are scripts and no package."""
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module
    for name in [name for name in sys.modules if (FOLDER / f"{name}.py").is_file()]:
        del sys.modules[name]


def test_float64_references_are_the_dense_matrices(part):
    s = part("_networks").setting("tiny", 70, device="cpu", columns=3)  # two chunks
    found = part("_references").references(s)
    model, names = s.model.double(), [name for name, _ in s.model.named_parameters()]
    flat = torch.cat([p.detach().reshape(-1) for p in s.parameters])

    def outputs(flat):
        point = dict(zip(names, s.split(flat), strict=True))
        return torch.func.functional_call(model, point, (s.x.double(),))

    functional = torch.autograd.functional
    J = functional.jacobian(outputs, flat).flatten(0, 1)
    H = functional.hessian(lambda flat: s.loss(outputs(flat), s.y), flat)
    f = outputs(flat).detach()
    curved = functional.hessian(lambda f: s.loss(f, s.y), f).reshape(len(J), len(J))
    G = J.T @ curved @ J
    v, mixed, u = s.v.double(), s.V.double() @ s.mix.double(), s.u.double()
    wanted = {
        "hessian": H @ v,
        "hessian block": H @ mixed,
        "ggn": G @ v,
        "ggn block": G @ mixed,
        "jvp": J @ v,
        "vjp": J.T @ u,
        "gradient": functional.jacobian(lambda flat: s.loss(outputs(flat), s.y), flat),
    }
    assert found.keys() == wanted.keys()
    for name, exact in wanted.items():
        torch.testing.assert_close(
            found[name], exact, rtol=1e-10, atol=1e-12, msg=f"{name}: {{}}".format
        )


def test_floors_of_a_perceptron_are_those_of_its_layers(part):
    s = part("_networks").setting("mlp", 2, device="cpu", columns=1)
    found = part("_references").multiplications(s)
    first, inner = 2 * 784 * 512, 2 * (512 * 512 + 512 * 10)
    C = first + inner
    assert found == {
        "gradient": 3 * C - first,
        "hessian, first": 8 * C - 5 * first,
        "hessian": 6 * C - 4 * first,
        "ggn, first": 5 * C - 2 * first,
        "ggn": 4 * C - 2 * first,
        "jvp": 2 * C - first,
        "vjp": 2 * C - first,
    }


def test_products_of_activations_are_counted_in_attention(part):
    s = part("_networks").setting("gpt", 1, device="cpu", columns=1)
    found = part("_references").multiplications(s)
    T, D = 64, 128
    layers, attention = T * D * (12 * D + 64), 2 * T * T * D
    assert found["gradient"] == 3 * (layers + attention)
    assert found["hessian, first"] == 8 * layers + 9 * attention


def test_peak_memory_counts_what_lives_at_once(part):
    def run():
        kept = torch.ones(1 << 20)  # 4 MiB
        for _ in range(3):
            kept = kept + 1  # 4 more while it is made
        return float(kept.sum())

    peak = part("_measure").peak_bytes(run, "cpu")
    assert 8 << 20 <= peak < (8 << 20) + 10_000


def test_intervals_are_students(part):
    values = [1.0, 1.2, 0.9, 1.1, 1.05]
    found = part("_measure").interval(values)
    low, high = scipy.stats.t.interval(0.95, 4, 1.05, scipy.stats.sem(values))
    assert (found["value"], found["low"], found["high"]) == pytest.approx((1.05, low, high))
    assert part("_measure").interval([2.0]) == {"value": 2.0, "low": None, "high": None}
