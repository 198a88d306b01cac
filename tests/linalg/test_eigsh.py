"""Extreme eigenpairs of matrices whose spectrum was chosen."""

import copy

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hesslab as hl
from hesslab.errors import NotFinite
from tests.linalg.matrices import Failing, Rotated, symmetric, toy

pytestmark = pytest.mark.filterwarnings("ignore:.* eigenpairs have converged")


def netlike(n, seed=0):
    """Ten outliers above a bulk around zero with two negative ones, as networks have."""
    generator = torch.Generator().manual_seed(seed)
    bulk = 0.01 * torch.randn(n - 12, generator=generator, dtype=torch.float64)
    ends = torch.logspace(1, 0, 10, dtype=torch.float64)
    return torch.cat([ends, torch.tensor([-0.2, -0.1], dtype=torch.float64), bulk])


class Counting:
    """A matrix that counts its products and shows nothing else of itself."""

    def __init__(self, A):
        self.A, self.shape, self.dtype, self.device = A, A.shape, A.dtype, A.device
        self.products = 0

    def __matmul__(self, v):
        self.products += 1 if v.ndim == 1 else v.shape[1]
        return self.A @ v


def test_no_value_is_missing_where_they_lie_closer_together_than_the_tolerance():
    values = toy(5000)
    ordered = np.sort(values)[::-1]
    ends = np.concatenate([ordered[:5], ordered[-5:]])
    for seed in range(8):
        pairs = hl.linalg.eigsh(Rotated(values, seed), 10, which="both", rtol=1e-3, seed=seed)
        assert pairs.converged.all()
        assert np.abs(pairs.values.numpy() - ends).max() <= 1e-3 * ordered[0]


@pytest.mark.parametrize("which", ["largest", "smallest", "both"])
@pytest.mark.parametrize(
    "values",
    [
        netlike(400),
        torch.cat([torch.ones(3), torch.zeros(97)]) * torch.arange(100, 0, -1),
        torch.linspace(-1, 1, 150),
    ],
    ids=["netlike", "rank 3", "uniform indefinite"],
)
def test_values_equal_dense_ones_and_residuals_bound_the_error(values, which):
    A = symmetric(values)
    k = 6
    pairs = hl.linalg.eigsh(A, k, which=which, rtol=1e-8)
    exact = torch.linalg.eigvalsh(A).flip(0)
    top = {"largest": 6, "smallest": 0, "both": 3}[which]
    expected = torch.cat([exact[:top], exact[len(exact) - (k - top) :]])
    assert pairs.converged.all()
    scale = float(exact.abs().max())
    torch.testing.assert_close(pairs.values, expected, rtol=0, atol=1e-8 * scale)
    true_residuals = (A @ pairs.vectors - pairs.vectors * pairs.values).norm(dim=0)
    torch.testing.assert_close(pairs.residuals, true_residuals, rtol=1e-2, atol=1e-13 * scale)
    nearest = (exact.unsqueeze(1) - pairs.values).abs().min(0).values
    assert (nearest <= pairs.residuals + 1e-13 * scale).all()
    gram = pairs.vectors.T @ pairs.vectors
    torch.testing.assert_close(gram, torch.eye(k, dtype=torch.float64), rtol=0, atol=1e-11)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 30),
    seed=st.integers(0, 1000),
    which=st.sampled_from(["largest", "smallest", "both"]),
    data=st.data(),
)
def test_any_small_random_matrix(n, seed, which, data):
    k = data.draw(st.integers(1, n))
    values = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    pairs = hl.linalg.eigsh(symmetric(values, seed), k, which=which, rtol=1e-10, seed=seed)
    exact = values.sort(descending=True).values
    top = {"largest": k, "smallest": 0, "both": (k + 1) // 2}[which]
    expected = torch.cat([exact[:top], exact[n - (k - top) :]])
    torch.testing.assert_close(pairs.values, expected, rtol=0, atol=1e-9)
    assert pairs.converged.all()


def test_products_are_counted_and_few():
    A = Counting(symmetric(netlike(2000)))
    pairs = hl.linalg.eigsh(A, 10, rtol=1e-3)
    assert pairs.products == A.products

    used = []
    operator = scipy.sparse.linalg.LinearOperator(
        A.shape, matvec=lambda v: used.append(1) or (A.A.numpy() @ v), dtype=np.float64
    )
    scipy.sparse.linalg.eigsh(operator, 10, which="LA", tol=1e-3)
    assert pairs.products <= len(used)  # with the one that verifies the residuals


def test_ten_decades_the_top_converges_and_the_clustered_bottom_says_that_it_has_not():
    values = torch.logspace(0, -10, 200, dtype=torch.float64)
    A = symmetric(values)
    pairs = hl.linalg.eigsh(A, 6, rtol=1e-8)
    assert pairs.converged.all()
    torch.testing.assert_close(pairs.values, values[:6], rtol=0, atol=1e-8)
    room = 8 * 200 * 33  # restarted, it takes longer than the products allow
    bottom = hl.linalg.eigsh(A, 6, which="smallest", rtol=1e-8, memory_limit=room)
    assert not bottom.converged.any()
    distance = (values.unsqueeze(1) - bottom.values).abs().min(0).values
    assert (distance <= bottom.residuals).all()


def test_no_ghost_copies_of_a_converged_eigenvalue():
    A = symmetric(torch.cat([torch.tensor([100.0]), torch.linspace(0, 1, 199)]))
    pairs = hl.linalg.eigsh(A, 20, rtol=1e-10, max_products=2000)
    assert int((pairs.values > 50).sum()) == 1


def test_float32_matrix_keeps_its_dtype_and_float64_values():
    A = symmetric(netlike(300))
    pairs = hl.linalg.eigsh(A.float(), 5, rtol=1e-5)
    assert pairs.vectors.dtype == torch.float32
    assert pairs.values.dtype == torch.float64
    # a float32 matrix differs from A by 6e-8 of its norm
    torch.testing.assert_close(
        pairs.values, torch.linalg.eigvalsh(A).flip(0)[:5], rtol=0, atol=10 * 1e-6
    )


def test_same_seed_same_bits_and_numpy_matrices():
    A = symmetric(netlike(200))
    one, two = hl.linalg.eigsh(A, 4, seed=3), hl.linalg.eigsh(A.numpy(), 4, seed=3)
    assert torch.equal(one.vectors, two.vectors)
    assert (one.vectors.gather(0, one.vectors.abs().argmax(0, keepdim=True)) > 0).all()


def test_an_exhausted_budget_is_told_and_not_hidden():
    A = symmetric(torch.linspace(0, 1, 500))
    with pytest.warns(RuntimeWarning, match="0 of 5 eigenpairs have converged: after 30 products"):
        pairs = hl.linalg.eigsh(A, 5, rtol=1e-10, max_products=30)
    assert not pairs.converged.all()
    assert pairs.products <= 30
    assert "0 of 5 converged" in repr(pairs)


def test_matrices_of_scipy():
    A = symmetric(netlike(200))
    dense = hl.linalg.eigsh(A, 4)
    operator = scipy.sparse.linalg.aslinearoperator(A.numpy())
    for other in (scipy.sparse.csr_array(A.numpy()), operator):
        torch.testing.assert_close(hl.linalg.eigsh(other, 4).values, dense.values)
        energies = hl.linalg.spectral_density(other).energies(per="total")
        assert energies.L2.estimate == pytest.approx(float(A.square().sum()))


@pytest.mark.parametrize(
    ("A", "error", "message"),
    [
        ([[1.0]], TypeError, "A is a list; expected an operator, a tensor, an array"),
        (np.eye(3, dtype=int), ValueError, "A is torch.int64; expected a real floating-point"),
        (scipy.sparse.eye_array(3, dtype=complex), ValueError, "A is torch.complex128; expected"),
        (torch.zeros(0, 0), ValueError, "A has no rows"),
        (torch.zeros(3, 2), ValueError, "need a square symmetric matrix"),
    ],
)
def test_what_is_no_matrix_is_refused(A, error, message):
    with pytest.raises(error, match=message):
        hl.linalg.eigsh(A, 1)


def test_copies_of_an_eigenvalue_are_found_by_lobpcg():
    X = torch.randn(100, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    X = X * torch.tensor([3.0, 2, 1.5, 1, 0.7, 0.3], dtype=torch.float64)
    layer = torch.nn.Linear(6, 4, dtype=torch.float64)
    H = hl.Hessian(layer, torch.nn.MSELoss(), (X, torch.zeros(100, 4, dtype=torch.float64)))
    exact = torch.linalg.eigvalsh(H.to_dense()).flip(0)
    assert exact[0] == pytest.approx(float(exact[3]))
    torch.testing.assert_close(hl.linalg.eigsh(H, 6, method="lobpcg").values, exact[:6])
    once = hl.linalg.eigsh(H, 2).values  # as it says
    torch.testing.assert_close(once, exact[[0, 4]])


def test_degenerate_and_zero_matrices():
    eye = hl.linalg.eigsh(torch.eye(40, dtype=torch.float64), 3)
    torch.testing.assert_close(eye.values, torch.ones(3, dtype=torch.float64))
    zero = hl.linalg.eigsh(torch.zeros(40, 40), 3)
    assert torch.equal(zero.values, torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("which", ["largest", "smallest", "both", "magnitude"])
@pytest.mark.parametrize("method", ["lanczos", "lobpcg"])
def test_both_methods_find_each_end(method, which):
    values = netlike(300)
    exact = values.sort(descending=True).values
    if which == "magnitude":
        expected = exact[exact.abs().argsort(descending=True)[:11]].sort(descending=True).values
    else:
        top = {"largest": 11, "smallest": 0, "both": 6}[which]
        expected = torch.cat([exact[:top], exact[len(exact) - (11 - top) :]])
    A = symmetric(values)
    options = {"which": which, "method": method, "rtol": 1e-6, "max_products": 3000}
    pairs = hl.linalg.eigsh(A, 11, **options)
    assert pairs.converged.all()
    scale = float(exact.abs().max())
    torch.testing.assert_close(pairs.values, expected, rtol=0, atol=1e-6 * scale)
    true_residuals = (A @ pairs.vectors - pairs.vectors * pairs.values).norm(dim=0)
    torch.testing.assert_close(pairs.residuals, true_residuals, rtol=1e-2, atol=1e-12 * scale)
    gram = pairs.vectors.T @ pairs.vectors
    torch.testing.assert_close(gram, torch.eye(11, dtype=torch.float64), rtol=0, atol=1e-11)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 30), seed=st.integers(0, 1000), data=st.data())
def test_any_small_random_matrix_by_blocks(n, seed, data):
    k = data.draw(st.integers(1, n))
    values = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    options = {"method": "lobpcg", "rtol": 1e-8, "seed": seed, "max_products": 20_000}
    pairs = hl.linalg.eigsh(symmetric(values, seed), k, **options)
    expected = values.sort(descending=True).values[:k]
    torch.testing.assert_close(pairs.values, expected, rtol=0, atol=1e-7)
    assert pairs.converged.all()


def test_blocks_find_the_copies_of_a_repeated_eigenvalue_and_lanczos_one():
    values = torch.cat([torch.tensor([5.0, 5.0, 5.0, 2.0]), torch.linspace(0, 1, 196)])
    A = symmetric(values)
    blocks = hl.linalg.eigsh(A, 4, method="lobpcg", rtol=1e-8)
    torch.testing.assert_close(blocks.values, values[:4].double(), rtol=0, atol=1e-7)
    single = hl.linalg.eigsh(A, 2, rtol=1e-8)
    torch.testing.assert_close(single.values, values[[0, 3]].double(), rtol=0, atol=1e-7)


def test_a_warm_start_of_blocks_needs_fewer_products():
    A = symmetric(netlike(1000))
    options = {"rtol": 1e-3, "method": "lobpcg", "seed": 7}
    before = hl.linalg.eigsh(A, 3, rtol=1e-4, method="lobpcg")
    noise = symmetric(1e-3 * torch.randn(1000, generator=torch.Generator().manual_seed(1)), seed=1)
    cold = hl.linalg.eigsh(A + noise, 3, **options)
    warm = hl.linalg.eigsh(A + noise, 3, start=before.vectors, **options)
    assert warm.converged.all()
    torch.testing.assert_close(warm.values, cold.values, rtol=1e-3, atol=0)
    assert warm.products < cold.products


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["lanczos", "lobpcg"])
def test_a_start_from_a_former_largest_eigenvector_sees_the_new_one(method, dtype):
    values = torch.cat([torch.tensor([2.4, 2.0]), torch.linspace(0, 1, 398)])
    A = torch.diag(values).to(dtype)
    old = torch.eye(400, dtype=dtype)[:, 1]
    pairs = hl.linalg.eigsh(A, 1, start=old, method=method, rtol=1e-2)
    torch.testing.assert_close(pairs.values, torch.tensor([2.4]).double(), rtol=1e-2, atol=0)
    several = hl.linalg.eigsh(A, 2, start=torch.eye(400, dtype=dtype)[:, 10:13], method=method)
    torch.testing.assert_close(several.values, values[:2].double(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_matrices_to_more_than_rounding_come_to_an_end(dtype):
    for P in range(1, 11):
        A = symmetric(torch.randn(P, generator=torch.Generator().manual_seed(P))).to(dtype)
        for k in range(1, P + 1):
            for method in ("lanczos", "lobpcg"):
                pairs = hl.linalg.eigsh(A, k, method=method, rtol=1e-15)
                expected = torch.linalg.eigvalsh(A.double()).flip(0)[:k]
                torch.testing.assert_close(pairs.values, expected, rtol=0, atol=1e-5)


def test_a_basis_in_float32_takes_its_rounding_for_no_asymmetry():
    for seed in range(8):
        A = symmetric(netlike(400, seed), seed)
        pairs = hl.linalg.eigsh(A, 3, which="both", rtol=1e-5, memory_limit=4 * 400 * 28)
        exact = torch.linalg.eigvalsh(A).flip(0)[[0, 1, -1]]
        torch.testing.assert_close(pairs.values, exact, rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", ["lanczos", "lobpcg"])
@pytest.mark.parametrize("at", [9, 21, 33, 50])
def test_ctrl_c_waits_for_the_end_of_a_step_and_the_rest_is_the_same_to_the_bit(method, at):
    A = symmetric(torch.linspace(-1, 1, 300) ** 3)
    options = {"which": "both", "method": method, "rtol": 1e-9, "memory_limit": 8 * 300 * 80}
    whole = hl.linalg.eigsh(A, 4, **options)
    states = []
    interrupting = Failing(A, at, None)
    with pytest.raises(KeyboardInterrupt):
        hl.linalg.eigsh(
            interrupting,
            4,
            on_checkpoint=lambda state: states.append(copy.deepcopy(state)),
            checkpoint_every=1000,
            **options,
        )
    assert len(states) == 1
    resumed = hl.linalg.eigsh(A, 4, state=states[0], **options)
    assert torch.equal(whole.vectors, resumed.vectors)
    assert whole.products == resumed.products


@pytest.mark.parametrize("method", ["lanczos", "lobpcg"])
def test_a_resumed_search_equals_the_unbroken_one_to_the_bit(method, tmp_path):
    A = symmetric(torch.linspace(-1, 1, 300) ** 3)
    room = 8 * 300 * (37 if method == "lanczos" else 72)  # 36 steps, then Lanczos restarts
    options = {"which": "both", "method": method, "rtol": 1e-9, "memory_limit": room}
    whole = hl.linalg.eigsh(A, 4, **options)
    assert whole.products > 60
    saved = tmp_path / "state.pt"
    with pytest.raises(RuntimeError, match="power cut"):
        hl.linalg.eigsh(
            Failing(A, 50, RuntimeError("power cut")),
            4,
            on_checkpoint=lambda state: torch.save(state, saved),
            checkpoint_every=1,
            **options,
        )
    state = torch.load(saved, weights_only=True)
    assert 36 < state["products"] < 50
    resumed = hl.linalg.eigsh(A, 4, state=state, **options)
    assert torch.equal(whole.vectors, resumed.vectors)
    assert torch.equal(whole.residuals, resumed.residuals)
    assert whole.products == resumed.products


def test_a_basis_that_is_restarted_gives_what_an_unlimited_one_gives():
    A = symmetric(netlike(600))
    free = hl.linalg.eigsh(A, 8, rtol=1e-7)
    tight = hl.linalg.eigsh(A, 8, rtol=1e-7, memory_limit=8 * 600 * 37)
    assert tight.converged.all()
    assert free.products <= tight.products
    torch.testing.assert_close(free.values, tight.values, rtol=1e-10, atol=0)
    with pytest.raises(MemoryError, match="take fewer steps, or give a larger memory_limit"):
        hl.linalg.eigsh(A, 8, memory_limit=8 * 600 * 5)
    with pytest.raises(MemoryError, match=r"120 vectors of 600 numbers .* larger memory_limit"):
        hl.linalg.eigsh(A, 8, method="lobpcg", memory_limit=8 * 600 * 37)


def test_residuals_rise_where_the_matrix_does_not_multiply_sums():
    A = symmetric(netlike(200))

    class Drifting:
        """Another matrix at each product, by a little."""

        shape, dtype, device, products = A.shape, A.dtype, A.device, 0

        def __matmul__(self, v):
            self.products += 1
            return A @ v + (1e-3 * v if self.products > 35 else 0)

    still = hl.linalg.eigsh(A, 3, rtol=1e-5)
    assert still.products < 35
    B = Drifting()
    B.products = 36 - still.products  # so that the last product alone is another
    pairs = hl.linalg.eigsh(B, 3, rtol=1e-5)
    assert not pairs.converged.any()
    assert (pairs.residuals >= 1e-3).all()


def test_unsymmetric_matrix_is_refused_with_the_measure():
    A = torch.randn(60, 60, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"A is not symmetric: u.Av - v.Au is \d.\de[-+]\d\d"):
        hl.linalg.eigsh(A, 3)


def test_nan_names_the_product():
    A = torch.eye(10)
    A[3, 3] = torch.nan
    with pytest.raises(NotFinite, match="product 1 with A is NaN or infinite"):
        hl.linalg.eigsh(A, 2)


@pytest.mark.parametrize(
    ("A", "options", "message"),
    [
        (torch.eye(4), {"k": 0}, "k=0 is out of range: A has 4 eigenvalues, expected 1 <= k <= 4"),
        (torch.eye(4), {"k": 5}, "k=5 is out of range"),
        (torch.eye(4), {"k": 2.5}, "k=2.5 is out of range"),
        (torch.eye(40), {"k": 5, "max_products": 5}, "max_products=5 .* expected at least 6"),
        (
            torch.eye(40),
            {"k": 5, "max_products": 7, "method": "lobpcg"},
            "max_products=7 .* expected at least 8",
        ),
        (
            torch.eye(40),
            {"k": 2, "start": torch.ones(2, 40), "method": "lobpcg"},
            r"start has shape \(2, 40\); expected \[40\]",
        ),
        (torch.eye(4).bfloat16(), {"k": 1}, "A is torch.bfloat16; expected a real floating"),
        (torch.eye(4), {"k": 1, "which": "LM"}, "which='LM'; expected \"largest\""),
        (torch.eye(4), {"k": 1, "method": "power"}, "method='power'; expected \"lanczos\" or"),
        (torch.eye(4), {"k": 1, "rtol": 0.0}, "rtol=0.0 is out of range: expected 0 < rtol < 1"),
        (torch.ones(4, 3), {"k": 1}, r"A has shape \(4, 3\); eigenpairs need a square"),
        (torch.ones(4, 4).long(), {"k": 1}, "A is torch.int64; expected a real floating"),
        (torch.ones(4, 4) * 1j, {"k": 1}, "A is torch.complex64; expected a real floating"),
    ],
)
def test_bad_arguments(A, options, message):
    with pytest.raises(ValueError, match=message):
        hl.linalg.eigsh(A, **options)
