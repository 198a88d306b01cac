"""The Lanczos factorisation against its definition, and what interrupts it."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import hesslab as hl
from hesslab.errors import NotFinite
from hesslab.linalg.vectors import PIECE
from tests.linalg.matrices import Failing, Rotated, like_a_network, symmetric

lanczos = hl.linalg.lanczos


def netlike(P):
    return like_a_network(np.random.default_rng(0), P)


@pytest.mark.parametrize("memory_limit", [None, 4 * 31 * 400], ids=["float64", "float32"])
def test_the_factorisation_is_what_its_definition_says(memory_limit):
    A = symmetric(netlike(400))
    f = lanczos(A, 30, memory_limit=memory_limit)
    V, T = f.vectors.double(), f.to_dense()
    last = torch.zeros(30, dtype=torch.float64)
    last[-1] = f.coupling
    rounding = 1e-12 if memory_limit is None else 1e-5  # half a unit of float32, 30 steps
    expected = V @ T + torch.outer(f.next_vector, last)
    torch.testing.assert_close(A @ V, expected, rtol=0, atol=rounding * float(A.norm()))
    measured = torch.linalg.matrix_norm(V.T @ V - torch.eye(30), ord=2)
    assert f.orthogonality == pytest.approx(float(measured), rel=0.01, abs=1e-15)
    assert f.orthogonality < rounding
    assert f.vectors.dtype == (torch.float64 if memory_limit is None else torch.float32)


def test_200_steps_are_orthogonal_and_no_eigenvalue_appears_twice():
    values = netlike(20_000)
    f = lanczos(Rotated(values, dtype=torch.float32), 200)
    assert f.orthogonality <= 1e-10
    found, residuals = f.ritz()
    top = np.sort(values)[::-1][:5]
    assert (residuals[:5] < 1e-5).all()
    # products in float32: relative errors of about 1e-6
    np.testing.assert_allclose(found[:5], top, rtol=1e-5)


def test_a_float32_basis_of_many_pieces_shows_no_ghosts():
    values = np.concatenate([[100.0, 50.0], np.linspace(0, 1, PIECE)])
    f = lanczos(Rotated(values), 40, memory_limit=4 * 41 * len(values))
    assert f.vectors.dtype == torch.float32
    assert f.orthogonality < 1e-5
    found, _ = f.ritz()
    assert int((found > 10).sum()) == 2


def test_moments_of_the_first_vector():
    A = symmetric(netlike(300))
    start = torch.randn(300, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    f = lanczos(A, 8, start=start)
    v = start / start.norm()
    T = f.to_dense()
    x, power = v.clone(), torch.eye(8, dtype=torch.float64)
    for _ in range(15):  # eight steps are exact up to degree 15
        x, power = A @ x, power @ T
        torch.testing.assert_close(power[0, 0], v @ x, rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    "values",
    [np.zeros(50), np.ones(50), np.repeat([3.0, 0.0, -2.0], [5, 40, 5]), np.arange(50) % 7],
    ids=["zero", "identity", "three", "seven"],
)
def test_an_invariant_space_is_left_by_another_direction(values):
    f = lanczos(symmetric(values), 50)
    found, residuals = f.ritz()
    np.testing.assert_allclose(found, np.sort(values)[::-1], atol=1e-12)
    assert f.orthogonality < 1e-12
    assert f.coupling == 0
    assert (f.off_diagonal == 0).any()
    assert (residuals == 0).all()


def killed_at(A, product, saved, **options):
    """Run until a product raises, keeping a copy of the last state handed out."""

    def save(state):
        torch.save(state, saved)

    with pytest.raises(RuntimeError, match="power cut"):
        lanczos(
            Failing(A, product, RuntimeError("power cut")),
            on_checkpoint=save,
            checkpoint_every=5,
            **options,
        )
    return torch.load(saved, weights_only=True)


@pytest.mark.parametrize("values", [netlike(500), np.arange(500) % 4], ids=["netlike", "four"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_resumed_run_equals_the_unbroken_one_to_the_bit(values, dtype, tmp_path):
    A = symmetric(values).to(dtype)
    whole = lanczos(A, 40, seed=3)
    state = killed_at(A, 28, tmp_path / "state.pt", steps=40, seed=3)
    assert state["products"] == 25
    resumed = lanczos(A, 40, seed=3, state=state)
    for name in ("diagonal", "off_diagonal", "vectors", "next_vector"):
        assert torch.equal(getattr(whole, name), getattr(resumed, name)), name
    assert resumed.coupling == whole.coupling
    assert resumed.products == 40


def test_a_killed_process_leaves_a_state_that_another_one_resumes(tmp_path):
    program = """
import os, signal, sys, torch
import hesslab as hl
from hesslab._files import write_aside
from tests.linalg.matrices import symmetric
A = symmetric(torch.linspace(-1, 5, 300))
def save(state):
    with write_aside(sys.argv[1]) as path:
        torch.save(state, path)
    if state["products"] == 20:
        os.kill(os.getpid(), signal.SIGKILL)
hl.linalg.lanczos(A, 35, seed=1, on_checkpoint=save)
"""
    saved = tmp_path / "state.pt"
    done = subprocess.run([sys.executable, "-c", program, str(saved)], check=False)
    assert done.returncode == -9
    A = symmetric(torch.linspace(-1, 5, 300))
    resumed = lanczos(A, 35, seed=1, state=torch.load(saved, weights_only=True))
    assert resumed.products == 35
    assert torch.equal(resumed.vectors, lanczos(A, 35, seed=1).vectors)


def test_an_interruption_hands_out_the_state_and_goes_on():
    A = symmetric(netlike(200))
    states = []
    with pytest.raises(KeyboardInterrupt):
        lanczos(
            Failing(A, 14, None),
            30,
            on_checkpoint=lambda s: states.append({**s, "work": dict(s["work"])}),
            checkpoint_every=100,
        )
    assert [s["work"]["size"] for s in states] == [14]  # the step is finished first
    assert torch.equal(lanczos(A, 30, state=states[0]).vectors, lanczos(A, 30).vectors)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, "state was made with seed=0, and this is seed=1"),
        ({"P": 201}, "state was made with P=200, and this is P=201"),
        ({"state": {"V": 1}}, "state is not one that an estimator of hesslab.linalg handed out"),
        ({"steps": 9}, "the basis has room for 10 of 200 in torch.float64; resume"),
        (
            {"memory_limit": 4 * 21 * 200},
            "the state holds 11 vectors of 200 numbers",
        ),
    ],
)
def test_states_of_other_runs_are_refused(options, message):
    states = []
    lanczos(symmetric(netlike(200)), 20, on_checkpoint=states.append)
    A = symmetric(netlike(options.pop("P", 200)))
    with pytest.raises(ValueError, match=message):
        lanczos(A, **{"steps": 20, "state": states[0], **options})


@pytest.mark.parametrize(
    ("A", "options", "message"),
    [
        (torch.eye(4), {"steps": 5}, "steps=5 is out of range: expected 1 <= steps <= 4"),
        (torch.eye(4), {"steps": 0}, "steps=0 is out of range"),
        (torch.eye(4), {"steps": 2, "start": torch.ones(3)}, r"start has shape \(3,\); expected"),
        (torch.eye(4), {"steps": 2, "start": torch.zeros(4)}, "start is zero, or holds NaN"),
        (torch.eye(4), {"steps": 2, "checkpoint_every": 0}, "checkpoint_every=0 is out of range"),
        (torch.ones(4, 4) * 1j, {"steps": 2}, "A is torch.complex64; expected a real floating"),
        (torch.eye(60) + torch.ones(60, 60).triu(), {"steps": 9}, "A is not symmetric: u.Av - v"),
    ],
)
def test_bad_arguments(A, options, message):
    with pytest.raises(ValueError, match=message):
        lanczos(A, **options)


def test_a_basis_that_fits_nowhere_says_how_many_vectors_would():
    with pytest.raises(MemoryError, match=r"21 basis .* take 33.6 kB .* which hold 6; take fewer"):
        lanczos(torch.eye(400), 20, memory_limit=10_000)


def test_nan_names_the_product():
    class Late:
        shape, dtype, device, products = (50, 50), torch.float64, torch.device("cpu"), 0

        def __matmul__(self, v):
            self.products += 1
            scale = torch.linspace(0, 1, 50, dtype=torch.float64)
            return scale * v if self.products < 7 else v * torch.nan

    with pytest.raises(NotFinite, match="product 7 with A is NaN or infinite"):
        lanczos(Late(), 20)
