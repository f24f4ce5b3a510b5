"""Products, determinants, inverses, norms and einsum against NumPy; gradients against finite differences."""

from __future__ import annotations

from collections.abc import Callable

import ingot as torch
import numpy as np
import pytest
from ingot.ir.errors import UnsupportedError

SEED = 72


def array(t: torch.Tensor) -> np.ndarray:
    return t.detach().numpy()


def sample(*shape: int, seed: int = SEED) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


# -- products -------------------------------------------------------------------------------------------
def test_products_of_vectors_and_matrices() -> None:
    a, b, v, w = sample(3, 4), sample(4, 2, seed=1), sample(4, seed=2), sample(3, seed=3)
    ta, tb, tv, tw = map(torch.from_numpy, (a, b, v, w))
    for ours, want in (
        (torch.dot(tv, tv), v @ v), (torch.vdot(tv, tv), v @ v), (torch.mm(ta, tb), a @ b), (torch.mv(ta, tv), a @ v),
        (ta @ tb, a @ b), (tv @ tb, v @ b), (ta @ tv, a @ v), (tv @ tv, v @ v), (torch.outer(tw, tv), np.outer(w, v)),
        (torch.inner(ta, tv), np.inner(a, v)), (torch.kron(ta, tb), np.kron(a, b)),
        (torch.matmul(ta.expand(5, 3, 4), tb), np.matmul(np.broadcast_to(a, (5, 3, 4)), b)),
        (torch.tensordot(ta, tb, 1), a @ b), (torch.tensordot(ta, ta, ([0, 1], [0, 1])), np.tensordot(a, a)),
        (torch.chain_matmul(ta, tb, tb.t()), a @ b @ b.T), (torch.linalg.multi_dot([tw, ta, tb]), w @ a @ b),
    ):  # fmt: skip
        np.testing.assert_allclose(array(ours), want, rtol=1e-12)
    with pytest.raises(RuntimeError, match="mat2 must be a matrix"):
        torch.mm(ta, tv)
    with pytest.raises(RuntimeError, match="1D tensors expected"):
        torch.dot(ta, ta)
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        torch.dot(tv, tw)


def test_numpy_products_take_tensors() -> None:
    a, v = sample(3, 3), sample(3, seed=1)
    ta, tv = torch.from_numpy(a), torch.from_numpy(v)
    for product in (np.matmul, np.dot, np.inner):
        np.testing.assert_allclose(np.asarray(product(array(ta), array(tv))), product(a, v))
        np.testing.assert_allclose(np.asarray(product(np.asarray(ta), tv)), product(a, v))
    np.testing.assert_allclose(np.vdot(tv, tv), v @ v)


def test_addmm_and_its_relatives() -> None:
    bias, a, b = sample(2), sample(3, 4, seed=1), sample(4, 2, seed=2)
    got = torch.addmm(torch.from_numpy(bias), torch.from_numpy(a), torch.from_numpy(b), beta=0.5, alpha=2)
    np.testing.assert_allclose(array(got), 0.5 * bias + 2 * a @ b)
    x, y = sample(2, 3, 4), sample(2, 4, 2, seed=3)
    tx, ty = torch.from_numpy(x), torch.from_numpy(y)
    np.testing.assert_allclose(array(torch.baddbmm(torch.zeros(2).double(), tx, ty)), x @ y)
    np.testing.assert_allclose(array(torch.addbmm(torch.zeros(2).double(), tx, ty)), (x @ y).sum(0))
    one = torch.ones(3, 4, dtype=torch.float64)
    np.testing.assert_allclose(array(torch.addr(one, tx[0, :, 0], ty[0, :, 0])), 1 + np.outer(x[0, :, 0], y[0, :, 0]))
    nan = torch.full((2,), float("nan"), dtype=torch.float64)
    assert torch.addmm(nan, tx[0], ty[0], beta=0).isfinite().all()


def test_the_old_order_of_addmm_in_place_keeps_gradients() -> None:
    x, centers = torch.from_numpy(sample(3, 2)), torch.from_numpy(sample(4, 2, seed=1)).requires_grad_()
    distances = (x * x).sum(1, keepdim=True).expand(3, 4) + (centers * centers).sum(1, keepdim=True).expand(4, 3).t()
    with pytest.warns(UserWarning, match="deprecated"):
        assert distances.addmm_(1, -2, x, centers.t()) is distances
    want = ((array(x)[:, None] - array(centers)[None]) ** 2).sum(-1)
    np.testing.assert_allclose(array(distances), want)
    distances.sum().backward()
    np.testing.assert_allclose(array(centers.grad), 2 * (3 * array(centers) - array(x).sum(0)))


EQUATIONS = [
    ("ij,jk->ik", (3, 4), (4, 2)), ("bij,bjk->bik", (2, 3, 4), (2, 4, 5)), ("ii", (3, 3)), ("ii->i", (3, 3)),
    ("ij->ji", (3, 4)), ("ij,kj", (3, 4), (2, 4)), ("i,j->ij", (3,), (4,)), ("...ij,...jk->...ik", (5, 3, 4), (4, 2)),
    ("bhqd,bhkd->bhqk", (2, 2, 3, 4), (2, 2, 5, 4)), ("ij,jk,kl->il", (2, 3), (3, 4), (4, 2)),
    ("ij,ij->", (3, 4), (3, 4)),
    ("iij->j", (2, 2, 3)), ("ij,j->i", (3, 1), (4,)), ("...,...", (2, 3), (3,)), ("ijk->", (2, 3, 4)),
]  # fmt: skip


@pytest.mark.parametrize("case", EQUATIONS, ids=lambda c: c[0])
def test_einsum(case: tuple) -> None:
    equation, *shapes = case
    operands = [sample(*s, seed=k) for k, s in enumerate(shapes)]
    ours = torch.einsum(equation, *map(torch.from_numpy, operands))
    spread = operands if equation != "ij,j->i" else [np.broadcast_to(operands[0], (3, 4)), operands[1]]
    np.testing.assert_allclose(array(ours), np.einsum(equation, *spread), rtol=1e-12)


def test_einsum_by_lists_and_its_refusals() -> None:
    a, b = torch.from_numpy(sample(3, 4)), torch.from_numpy(sample(4, 2))
    np.testing.assert_allclose(array(torch.einsum(a, [0, 1], b, [1, 2], [0, 2])), array(a) @ array(b))
    for equation, operands, message in (
        ("ij,jk", (a,), "fewer operands"), ("ij", (a, b), "more operands"), ("ijk", (a,), "does not match"),
        ("ij->iik", (a,), "more than once"), ("ij->ik", (a,), "does not appear"), ("ij,ij", (a, b), "do not broadcast"),
        ("i1", (a,), "invalid subscript"),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match=message):
            torch.einsum(equation, *operands)


# -- functions of matrices ------------------------------------------------------------------------------
def test_trace_diag_inverse_and_determinant() -> None:
    x = sample(3, 3)
    t = torch.from_numpy(x)
    np.testing.assert_allclose(array(torch.trace(t)), np.trace(x))
    np.testing.assert_array_equal(array(torch.diag(t)), np.diag(x))
    np.testing.assert_array_equal(array(torch.diag(t[0])), np.diag(x[0]))
    np.testing.assert_allclose(array(torch.inverse(t) @ t), np.eye(3), atol=1e-12)
    np.testing.assert_allclose(array(torch.det(t)), np.linalg.det(x))
    for many in (sample(2, 3, 3), sample(2, 2, 4, 4)):
        s = torch.from_numpy(many)
        np.testing.assert_allclose(array(torch.linalg.inv(s)), np.linalg.inv(many))
        sign, logarithm = torch.slogdet(s)
        np.testing.assert_allclose(array(sign * logarithm.exp()), np.linalg.det(many))
        np.testing.assert_allclose(array(torch.linalg.matrix_power(s, -2)), np.linalg.matrix_power(many, -2))
        np.testing.assert_allclose(array(torch.pinverse(s[..., :2])), np.linalg.pinv(many[..., :2]))
    with pytest.raises(torch.linalg.LinAlgError, match="singular"):
        torch.inverse(torch.zeros(2, 2))
    with pytest.raises(RuntimeError, match="square matrices"):
        torch.det(torch.zeros(2, 3))
    assert torch.logdet(torch.tensor([[0.0, 1], [1, 0]])).isnan()


def test_solve_and_decompositions() -> None:
    a, b, v = sample(2, 3, 3), sample(3, 2, seed=1), sample(2, 3, seed=2)
    ta, tb, tv = map(torch.from_numpy, (a, b, v))
    np.testing.assert_allclose(array(ta @ torch.linalg.solve(ta, tb)), np.broadcast_to(b, (2, 3, 2)), atol=1e-10)
    np.testing.assert_allclose(array(torch.linalg.solve(ta, tv)), np.linalg.solve(a, v[..., None])[..., 0])
    row = sample(1, 3, seed=3)
    left = torch.linalg.solve(ta, torch.from_numpy(row), left=False)
    np.testing.assert_allclose(array(left @ ta), np.broadcast_to(row, (2, 1, 3)), atol=1e-10)
    u, s, vh = torch.linalg.svd(ta, full_matrices=False)
    np.testing.assert_allclose(array(u @ torch.diag_embed(s) @ vh), a, atol=1e-12)
    q, r = torch.linalg.qr(ta)
    np.testing.assert_allclose(array(q @ r), a, atol=1e-12)
    definite = ta @ ta.mT + torch.eye(3)
    low = torch.linalg.cholesky(definite)
    np.testing.assert_allclose(array(low @ low.mT), array(definite), atol=1e-12)
    values, vectors = torch.linalg.eigh(definite)
    np.testing.assert_allclose(array(vectors @ torch.diag_embed(values) @ vectors.mT), array(definite), atol=1e-10)
    with pytest.raises(torch.linalg.LinAlgError, match="positive-definite"):
        torch.linalg.cholesky(-definite)
    assert torch.linalg.matrix_rank(torch.ones(3, 3)) == 1


def test_triangular_systems_inverses_of_tensors_and_condition_numbers() -> None:
    a, b = sample(3, 3) + 3 * np.eye(3), sample(3, 2, seed=1)
    ta, tb = torch.from_numpy(a), torch.from_numpy(b)
    for upper in (True, False):
        part = np.triu(a) if upper else np.tril(a)
        x = torch.linalg.solve_triangular(ta, tb, upper=upper)
        np.testing.assert_allclose(part @ array(x), b, atol=1e-12)
        unit = part - np.diag(np.diag(part)) + np.eye(3)
        x = torch.linalg.solve_triangular(ta, tb.t(), upper=upper, left=False, unitriangular=True)
        np.testing.assert_allclose(array(x) @ unit, b.T, atol=1e-12)
    definite = ta @ ta.mT
    low = torch.cholesky(definite)
    np.testing.assert_allclose(array(torch.cholesky_solve(tb, low)), np.linalg.solve(array(definite), b), rtol=1e-8)
    np.testing.assert_allclose(array(torch.cholesky_inverse(low)), np.linalg.inv(array(definite)), rtol=1e-8)
    for p in (None, 1, "fro", -2):
        np.testing.assert_allclose(array(torch.linalg.cond(ta, p)), np.linalg.cond(a, p), rtol=1e-10)
    many, right = sample(4, 6, 2, 3, 4), sample(4, 6, seed=2)
    np.testing.assert_allclose(array(torch.linalg.tensorinv(torch.from_numpy(many))), np.linalg.tensorinv(many))
    np.testing.assert_allclose(
        array(torch.linalg.tensorsolve(torch.from_numpy(many), torch.from_numpy(right))),
        np.linalg.tensorsolve(many, right), rtol=1e-8,
    )  # fmt: skip
    inverse, info = torch.linalg.inv_ex(torch.zeros(2, 2))
    assert info == 1 and inverse.isnan().all()
    assert torch.linalg.inv_ex(ta).info == 0


def test_names_of_recorded_nodes_are_pytorchs() -> None:
    x = torch.ones(3, 3, requires_grad=True)
    for made, name in (
        (x[0], "Select"), (x[1:], "Slice"), (x[x > 0], "Index"), (x.t(), "T"), (x.transpose(0, 1), "Transpose"),
        (x.unsqueeze(0), "Unsqueeze"), (x.diagonal(), "Diagonal"), (x.unfold(0, 2, 1), "Unfold"), (x.tril(), "Tril"),
        (torch.stack([x, x]), "Stack"), (torch.mv(x, x[0]), "Mv"), (torch.dot(x[0], x[1]), "Dot"),
        (torch.addmm(x, x, x), "Addmm"), (torch.det(x), "LinalgDet"), (torch.trace(x), "Trace"),
        (x.index_add(0, torch.tensor([0]), x[:1]), "IndexAdd"), (x.roll(1, 0), "Roll"),
    ):  # fmt: skip
        assert made.grad_fn.name == f"{name}Backward0"


def test_matrix_exp() -> None:
    x = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    for angle in (0.0, 0.3, 2.0, 30.0):
        want = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
        np.testing.assert_allclose(array(torch.matrix_exp(x * angle)), want, atol=1e-12)


@pytest.mark.parametrize("order", [None, "fro", "nuc", 1, -1, 2, -2, np.inf, -np.inf])
def test_matrix_norms(order: object) -> None:
    x = sample(2, 3, 4)
    for dim in ((1, 2), (0, 2)):
        np.testing.assert_allclose(
            array(torch.linalg.norm(torch.from_numpy(x), order, dim)), np.linalg.norm(x, order, dim), rtol=1e-12
        )


@pytest.mark.parametrize("order", [0, 0.5, 1, 2, 3, -1, np.inf, -np.inf])
def test_vector_norms(order: float) -> None:
    x = sample(3, 4)
    got = torch.linalg.vector_norm(torch.from_numpy(x), order, 1, keepdim=True)
    np.testing.assert_allclose(array(got), np.linalg.norm(x, order, 1, keepdims=True), rtol=1e-12)
    zero = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    torch.linalg.vector_norm(zero, order).backward()
    assert zero.grad.isfinite().all()


def test_cross_products() -> None:
    a, b = sample(4, 3), sample(4, 3, seed=1)
    np.testing.assert_allclose(array(torch.cross(torch.from_numpy(a), torch.from_numpy(b))), np.cross(a, b))
    np.testing.assert_allclose(array(torch.linalg.vecdot(torch.from_numpy(a), torch.from_numpy(b))), (a * b).sum(1))


FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "inverse": torch.inverse, "det": torch.det, "logdet": lambda x: torch.logdet(x @ x.mT), "einsum": lambda x:
    torch.einsum("ij,kj,ki->i", x, x, x), "matrix_exp": torch.matrix_exp,
    "solve": lambda x: torch.linalg.solve(x, x.mT),
    "nuclear norm": lambda x: torch.linalg.norm(x, "nuc"), "pinverse": lambda x: torch.pinverse(x[:, :2]),
    "diagonal": lambda x: torch.diag_embed(x.diagonal(1), -1), "kron": lambda x: torch.kron(x, x[:2]),
    "cholesky": lambda x: torch.linalg.cholesky(x @ x.mT + torch.eye(3)), "power": lambda x: torch.matrix_power(x, 3),
    "unfold": lambda x: x.unfold(1, 2, 1) ** 2,
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_first_and_second_gradients(name: str) -> None:
    x = torch.from_numpy(sample(3, 3) + 2 * np.eye(3)).requires_grad_()
    assert torch.autograd.gradcheck(FUNCTIONS[name], (x,))
    assert torch.autograd.gradgradcheck(FUNCTIONS[name], (x,))


def test_the_gradient_of_a_singular_determinant_is_its_cofactors() -> None:
    x = torch.tensor([[1.0, 2], [2, 4]], requires_grad=True)
    torch.det(x).backward()
    np.testing.assert_allclose(array(x.grad), [[4, -2], [-2, 1]], rtol=1e-5)


def test_compiled_functions_say_which_matrix_functions_have_no_kernel() -> None:
    with pytest.raises(torch.IngotError, match="inverse"):
        torch.compile(torch.inverse, torch.eye(3))
    x = torch.from_numpy(sample(3, 4).astype(np.float32))
    compiled = torch.compile(lambda t: torch.tril(torch.einsum("ij,kj->ik", t, t)).diagonal(-1), x)
    np.testing.assert_allclose(array(compiled(x)), np.diagonal(array(x) @ array(x).T, -1), rtol=1e-5)


def test_the_largest_of_no_numbers_is_zero() -> None:
    for ord in (1, float("inf"), 2, "nuc", "fro"):
        for shape in ((0, 0), (2, 0), (0, 2)):
            out = torch.linalg.norm(torch.ones(shape), ord, keepdim=True)
            assert (tuple(out.shape), out.item()) == ((1, 1), 0.0), (ord, shape)
    with pytest.raises(IndexError, match="non-zero size"):
        torch.linalg.norm(torch.ones(0, 2), -float("inf"))
    with pytest.raises(RuntimeError, match="on the dimension -1because"):
        torch.linalg.vector_norm(torch.ones(2, 0), float("inf"), -1)


def test_norms_of_16_bit_floats_do_not_overflow_on_the_way() -> None:
    x = torch.full((4,), 300.0, dtype=torch.float16)
    assert torch.linalg.vector_norm(x).item() == 600 and torch.linalg.vector_norm(x, 6).dtype is torch.float16
    assert abs(torch.linalg.vector_norm(x, 6).item() - 300 * 4 ** (1 / 6)) < 0.5


def test_einsum_sums_integers_in_int64_and_multiplies_bools() -> None:
    x = torch.full((2, 3), 100, dtype=torch.int8)
    assert torch.einsum("ij->i", x).tolist() == [300, 300] and torch.einsum("ij->i", x).dtype is torch.int64
    assert torch.einsum("ij,ij->ij", x, x).dtype is torch.int8
    seen = torch.tensor([True, False])
    assert torch.einsum("i,j->ij", seen, seen).tolist() == [[True, False], [False, False]]


def test_two_numbers_are_operands() -> None:
    assert torch.add(2, 3).item() == 5 and torch.add(2, 3).dtype is torch.int64
    assert torch.div(1, 4).item() == 0.25
    with pytest.raises(TypeError, match="must be Tensor"):
        torch.maximum(2, 3)


def test_ranges_of_integers() -> None:
    assert torch.arange(-2.9, 0, dtype=torch.int32).tolist() == [-2, -1, 0]
    assert torch.arange(-2.9, 0, dtype=torch.int64).tolist() == [-2, -1]
    assert torch.logspace(0.5, 1.2, 2, dtype=torch.int64).tolist() == [1, 10]
    with pytest.raises(RuntimeError, match="without overflow"):
        torch.linspace(-0.5, 3, 3, dtype=torch.uint8)


def test_as_strided_of_a_leaf_that_is_a_view() -> None:
    x = torch.arange(20.0)[10:].requires_grad_()
    x.as_strided((2,), (2,), 11).sum().backward()
    assert x.grad.tolist() == [0, 1, 0, 1, 0, 0, 0, 0, 0, 0]
    with pytest.raises(UnsupportedError, match="leaf"):
        x.as_strided((2,), (2,), 0)
