"""Creating, reshaping, indexing, joining and splitting as the users' specification states it (rows A, C, D, E)."""

from __future__ import annotations

import itertools

import ingot as torch
import numpy as np
import pytest

SEED = 71


def array(t: torch.Tensor) -> np.ndarray:
    return t.detach().numpy()


# -- creation -------------------------------------------------------------------------------------------
def test_tensor_infers_its_dtype_and_copies() -> None:
    assert torch.tensor([1, 2]).dtype is torch.int64
    assert torch.tensor([1.0, 2]).dtype is torch.float32
    assert torch.tensor([True]).dtype is torch.bool
    source = np.zeros(3)
    made = torch.tensor(source)
    assert made.dtype is torch.float64
    source[0] = 1
    assert made.tolist() == [0, 0, 0]
    assert torch.tensor([1, 2], dtype=torch.float16, requires_grad=True).requires_grad


def test_as_tensor_and_from_numpy_share_memory() -> None:
    for make in (torch.as_tensor, torch.from_numpy):
        source = np.zeros(3, np.float32)
        made = make(source)
        made[0] = 1
        source[1] = 2
        assert made.tolist() == source.tolist() == [1, 2, 0]
    assert torch.from_numpy(np.array([1, 2], np.int16)).dtype is torch.int16


def test_the_type_makes_default_floats_and_sizes() -> None:
    assert torch.Tensor([0, 1, 2]).dtype is torch.float32
    assert torch.Tensor([0, 1]).long().dtype is torch.int64
    assert torch.Tensor(16, 5, 3, 10).shape == (16, 5, 3, 10)


def test_arange_counts_like_python() -> None:
    assert torch.arange(4).tolist() == [0, 1, 2, 3] and torch.arange(4).dtype is torch.int64
    assert torch.arange(2, 9, 3).tolist() == [2, 5, 8]
    assert torch.arange(5, 0, -2).tolist() == [5, 3, 1]
    assert torch.arange(0, 1, 0.25).tolist() == [0, 0.25, 0.5, 0.75]
    assert torch.arange(3, dtype=torch.float16).dtype is torch.float16
    with pytest.raises(RuntimeError, match="step must be nonzero"):
        torch.arange(0, 3, 0)
    with pytest.raises(RuntimeError, match="inconsistent with step sign"):
        torch.arange(3, 0)


def test_linspace_has_both_ends() -> None:
    for n in (1, 2, 5, 8):
        got = torch.linspace(-1, 2, n)
        np.testing.assert_allclose(array(got), np.linspace(-1, 2, n, dtype=np.float32), rtol=1e-6)
        assert got[0] == -1 and (n == 1 or got[-1] == 2)
    np.testing.assert_allclose(array(torch.logspace(0, 3, 4, base=2)), [1, 2, 4, 8])
    with pytest.raises(RuntimeError, match="non-negative"):
        torch.linspace(0, 1, -1)


def test_ones_and_zeros_take_sizes_in_every_form() -> None:
    for size in ((2, 3), ((2, 3),), ([2, 3],), (torch.Size([2, 3]),)):
        assert torch.ones(*size).tolist() == [[1.0] * 3] * 2
        assert torch.zeros(*size).tolist() == [[0.0] * 3] * 2
    like = torch.ones_like(torch.zeros(2, dtype=torch.int32))
    assert like.dtype is torch.int32 and like.tolist() == [1, 1]
    assert torch.full((2,), 7).dtype is torch.int64 and torch.full((2,), 1.5).tolist() == [1.5, 1.5]
    assert torch.zeros(2).new_full((1, 2), 3).tolist() == [[3.0, 3.0]]
    assert torch.eye(2, 3).tolist() == [[1, 0, 0], [0, 1, 0]]
    with pytest.raises(RuntimeError, match="negative dimension"):
        torch.zeros(2, -1)
    with pytest.raises(NotImplementedError, match="layout"):
        torch.zeros(2, layout="torch.sparse_coo")


def test_new_and_resize_as_of_the_old_zero_grad() -> None:
    data = torch.ones(2, 3, dtype=torch.float64)
    assert data.new().shape == (0,) and data.new().dtype is torch.float64
    zeros = data.new().resize_as_(data).zero_()
    assert zeros.dtype is torch.float64 and zeros.tolist() == [[0.0] * 3] * 2


def test_resize_in_place_keeps_the_first_elements() -> None:
    t = torch.arange(6.0)
    assert t.resize_(2, 2) is t and t.tolist() == [[0, 1], [2, 3]]
    t.resize_(2, 3)
    assert t.shape == (2, 3) and t[0].tolist() == [0, 1, 2]
    with pytest.raises(RuntimeError, match="cannot resize variables that require grad"):
        torch.ones(2, requires_grad=True).resize_(3)


# -- shapes ---------------------------------------------------------------------------------------------
def test_view_needs_contiguous_memory() -> None:
    x = torch.arange(6.0).view(2, 3)
    assert x.view(-1).tolist() == [0, 1, 2, 3, 4, 5] and x.view(x.size(0), -1).shape == (2, 3)
    x.view(3, 2)[0, 0] = 9
    assert x[0, 0] == 9
    assert not x.t().is_contiguous() and x.t().contiguous().is_contiguous()
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        x.t().view(-1)
    assert x.t().reshape(-1).tolist() == [9, 3, 1, 4, 2, 5]
    assert x.t().contiguous().view(-1).tolist() == x.t().reshape(-1).tolist()
    with pytest.raises(RuntimeError, match="is invalid for input of size 6"):
        x.view(4, 2)


def test_old_resize_keeps_the_elements() -> None:
    with pytest.warns(UserWarning, match="non-inplace resize is deprecated"):
        assert torch.arange(6).resize(2, 3).tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.warns(UserWarning), pytest.raises(RuntimeError, match="requested resize to 2x2"):
        torch.arange(6).resize(2, 2)


def test_unsqueeze_and_squeeze() -> None:
    x = torch.zeros(1, 3, 1)
    assert x.unsqueeze(0).shape == (1, 1, 3, 1) and x.unsqueeze(-1).shape == (1, 3, 1, 1)
    assert x.squeeze().shape == (3,) and x.squeeze(0).shape == (3, 1) and x.squeeze(1).shape == (1, 3, 1)
    assert x.squeeze((0, 2)).shape == (3,)
    with pytest.raises(IndexError, match="Dimension out of range"):
        x.unsqueeze(5)


def test_permute_and_flatten() -> None:
    x = torch.arange(24).reshape(2, 3, 4)
    assert x.permute(1, 2, 0).shape == torch.permute(x, (1, 2, 0)).shape == (3, 4, 2)
    np.testing.assert_array_equal(array(x.permute(1, 2, 0)), array(x).transpose(1, 2, 0))
    assert torch.flatten(x, 1).shape == (2, 12) and torch.flatten(x).shape == (24,)
    assert torch.movedim(x, (0, 1), (2, 0)).shape == (3, 4, 2)


def test_expand_repeats_without_copying() -> None:
    x = torch.arange(3.0)
    wide = x.expand(2, 3)
    assert wide.tolist() == [[0, 1, 2]] * 2 and wide.stride() == (0, 1)
    assert torch.zeros(2, 1).expand(-1, 4).shape == (2, 4)
    x[0] = 5
    assert wide[1, 0] == 5
    assert wide.t().shape == (3, 2)
    with pytest.raises(RuntimeError, match="must match the existing size"):
        x.expand(2, 4)


def test_transposes() -> None:
    x = torch.arange(6).reshape(2, 3)
    assert x.t().tolist() == torch.t(x).tolist() == x.T.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert torch.arange(3).t().shape == (3,)
    with pytest.raises(RuntimeError, match="2 dimensions"):
        torch.zeros(1, 2, 3).t()


def test_shapes_change_in_place_with_views_and_history() -> None:
    w = torch.ones(2, 3, requires_grad=True)
    y = w * 2
    row = y[0]
    assert y.t_() is y and y.shape == (3, 2)
    y[0].mul_(5)  # the first column of what y was
    row.add_(1)
    assert y.tolist() == [[11, 10], [3, 2], [3, 2]] and row.tolist() == [11, 3, 3]
    y.sum().backward()
    assert w.grad.tolist() == [[10, 2, 2], [10, 2, 2]]
    z = torch.zeros(3).unsqueeze_(0).transpose_(0, 1)
    assert z.shape == (3, 1) and z.squeeze_().shape == (3,)
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        w.t_()
    with torch.no_grad():
        w.t_()
    assert w.shape == (3, 2) and w.is_leaf and w.requires_grad


# -- views ----------------------------------------------------------------------------------------------
VIEWS = {
    "diagonal": lambda t: t.diagonal(1), "select": lambda t: t.select(1, 2), "narrow": lambda t: t.narrow(0, 1, 2),
    "transpose": lambda t: t.transpose(0, 1), "movedim": lambda t: torch.movedim(t, 0, 1),
    "unflatten": lambda t: t.unflatten(1, (2, 2)), "squeeze": lambda t: t.unsqueeze(0).squeeze(0),
    "chunk": lambda t: t.chunk(2, 1)[1], "split": lambda t: t.split(1)[2], "unbind": lambda t: t.unbind(1)[3],
    "as_strided": lambda t: t.as_strided((2, 2), (5, 1), 1), "unfold": lambda t: t.unfold(1, 2, 2),
    "windows of a transpose": lambda t: t.t().unfold(0, 2, 2)[1], "swapaxes": lambda t: t.swapaxes(0, 1),
    "tensor_split": lambda t: t.tensor_split(3, 1)[1], "diagonal of a part": lambda t: t[:, 1:].diagonal(),
    "hsplit": lambda t: t.hsplit(2)[0], "ravel": lambda t: t.ravel()[2:5], "mT": lambda t: t.mT[1],
}  # fmt: skip


@pytest.mark.parametrize("name", VIEWS)
def test_views_share_memory_version_and_history(name: str) -> None:
    view_of = VIEWS[name]
    t = torch.arange(16.0).reshape(4, 4)
    view = view_of(t)
    places = array(view).astype(int)  # t counts its own elements
    assert len(np.unique(places)) == places.size
    before = t._version
    view.mul_(10)
    assert t._version == view._version == before + 1
    want = np.arange(16.0)
    want[places.ravel()] *= 10
    np.testing.assert_array_equal(array(t).ravel(), want)

    leaf = torch.arange(16.0, dtype=torch.float64).reshape(4, 4).requires_grad_()
    base = leaf * 1
    other = view_of(base)
    filler = torch.full(tuple(other.shape), 3.0, dtype=torch.float64, requires_grad=True)
    other.copy_(filler)
    (base * torch.arange(16.0, dtype=torch.float64).reshape(4, 4)).sum().backward()
    grad = np.arange(16.0)
    np.testing.assert_array_equal(array(filler.grad).ravel(), grad[places.ravel()])
    grad[places.ravel()] = 0
    np.testing.assert_array_equal(array(leaf.grad).ravel(), grad)


@pytest.mark.parametrize("name", VIEWS)
def test_writes_through_views_compile(name: str) -> None:
    view_of = VIEWS[name]

    def forward(x: torch.Tensor) -> torch.Tensor:
        y = x + 0
        view_of(y).mul_(10)
        return y + view_of(y).sum()

    x = torch.arange(16.0).reshape(4, 4)
    np.testing.assert_allclose(array(torch.compile(forward, x)(x)), array(forward(x)))


def test_memory_of_chosen_strides() -> None:
    t = torch.empty_strided((2, 3), (1, 2), dtype=torch.float64)
    assert t.stride() == (1, 2) and t.dtype is torch.float64 and t.t().is_contiguous()
    assert torch.empty_permuted((2, 3, 4), (0, 2, 1)).stride() == (12, 1, 3)
    assert torch.zeros(1).new_empty_strided((0, 3), (3, 1)).shape == (0, 3)
    x = torch.arange(6.0).reshape(2, 3)
    assert x.H.tolist() == x.mH.tolist() == torch.adjoint(x).tolist() == x.t().tolist()
    with pytest.raises(RuntimeError, match="only supported on matrices"):
        _ = torch.zeros(1, 2, 3).H


def test_functions_that_write_in_place() -> None:
    x = torch.tensor([4.0, -9.0])
    assert torch.abs_(x) is x and torch.sqrt_(x).tolist() == [2, 3]
    torch.index_put_(x, (torch.tensor([1]),), torch.tensor(7.0))
    assert torch.fill_(torch.zero_(x), 1).tolist() == [1, 1]
    with pytest.raises(TypeError, match="must be Tensor"):
        torch.abs_(3)


def test_view_in_another_dtype() -> None:
    x = torch.tensor([1.0, -2.0])
    assert x.view(torch.int32).tolist() == [0x3F800000, -0x40000000]
    assert x.view(torch.uint8).shape == (8,) and x.view(torch.uint8).view(torch.float32).tolist() == [1, -2]
    x.view(torch.int32)[0] = 0
    assert x.tolist() == [0, -2]
    with pytest.raises(RuntimeError, match="must be divisible by 2"):
        torch.zeros(3).view(torch.float64)


def test_as_strided_sees_the_memory_of_the_base() -> None:
    x = torch.arange(10.0)
    assert x[5:].as_strided((2, 2), (1, 2)).tolist() == [[5, 7], [6, 8]]
    assert x[5:].as_strided((2,), (1,), 0).tolist() == [0, 1]
    assert x.reshape(2, 5).t().as_strided((3,), (2,)).tolist() == [0, 2, 4]
    with pytest.raises(RuntimeError, match="out of bounds for storage"):
        x.as_strided((4,), (4,))


# -- indexing -------------------------------------------------------------------------------------------
def test_indexing_by_integers_and_slices() -> None:
    x = torch.arange(12).reshape(3, 4)
    assert x[1].tolist() == [4, 5, 6, 7] and x[-1, -1] == 11
    assert x[:, 1:].shape == (3, 3) and x[..., 0].tolist() == [0, 4, 8] and x[None].shape == (1, 3, 4)
    assert x[torch.tensor(1)].tolist() == [4, 5, 6, 7]
    x[torch.tensor(1)][0] = 40  # a view, as with a number
    assert x[1, 0] == 40
    with pytest.raises(IndexError, match="index 3 is out of bounds for dimension 0 with size 3"):
        x[3]
    with pytest.raises(IndexError, match="too many indices"):
        x[0, 0, 0]


def test_indexing_by_masks_keeps_gradients() -> None:
    x = torch.arange(6.0).reshape(2, 3).requires_grad_()
    mask = torch.tensor([[True, False, True], [False, False, True]])
    assert x[mask].tolist() == [0, 2, 5] and x[torch.tensor([False, True])].tolist() == [[3, 4, 5]]
    x[mask].sum().backward()
    assert x.grad.tolist() == [[1, 0, 1], [0, 0, 1]]
    with pytest.raises(IndexError, match="The shape of the mask"):
        x[torch.tensor([True, False, True])]


def test_assignment() -> None:
    x = torch.zeros(3, 4)
    x[0] = 1
    x[:, 1] = torch.tensor([5.0, 6, 7])
    x[x == 0] = -1
    x[[1, 2], [2, 3]] = torch.tensor([8.0, 9])
    assert x.tolist() == [[1, 5, 1, 1], [-1, 6, 8, -1], [-1, 7, -1, 9]]


def test_gather_and_scatter() -> None:
    x = torch.arange(6).reshape(2, 3)
    index = torch.tensor([[0, 2], [1, 1]])
    assert torch.gather(x, 1, index).tolist() == x.gather(1, index).tolist() == [[0, 2], [4, 4]]
    with pytest.raises(RuntimeError, match="index 3 is out of bounds for dimension 1 with size 3"):
        x.gather(1, torch.tensor([[3]]))
    labels = torch.tensor([0, 2])
    one_hot = torch.zeros(2, 4)
    assert one_hot.scatter_(dim=1, index=labels.view(-1, 1), value=1) is one_hot
    assert one_hot.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0]]
    assert torch.zeros(3).scatter(0, torch.tensor([2, 0]), torch.tensor([5.0, 6])).tolist() == [6, 0, 5]
    with pytest.raises(RuntimeError, match=r"Expected self\.dtype to be equal to src\.dtype"):
        torch.zeros(3).scatter(0, torch.tensor([0]), torch.tensor([1]))


def test_scatter_reductions() -> None:
    rng = np.random.default_rng(SEED)
    x, src = rng.normal(size=(4, 3)), rng.normal(size=(6, 3))
    index = rng.integers(0, 4, (6, 3))
    cells = [[x[i, j], *src[index[:, j] == i, j]] for i, j in itertools.product(range(4), range(3))]
    for name, fn in {"sum": np.sum, "prod": np.prod, "mean": np.mean, "amax": np.max, "amin": np.min}.items():
        got = torch.from_numpy(x).scatter_reduce(0, torch.from_numpy(index), torch.from_numpy(src), name)
        np.testing.assert_allclose(array(got).ravel(), [fn(c) for c in cells], rtol=1e-12, err_msg=f"{name} {SEED}")
        without = [fn(c[1:]) if len(c) > 1 else c[0] for c in cells]
        got = torch.scatter_reduce(
            torch.from_numpy(x), 0, torch.from_numpy(index), torch.from_numpy(src), name, include_self=False
        )
        np.testing.assert_allclose(array(got).ravel(), without, rtol=1e-12, err_msg=f"{name} {SEED}")


def test_where_and_nonzero() -> None:
    c = torch.tensor([[True, False], [False, True]])
    assert torch.where(c, torch.tensor(1.0), torch.zeros(2, 2)).tolist() == [[1, 0], [0, 1]]
    assert torch.nonzero(c).tolist() == torch.argwhere(c).tolist() == [[0, 0], [1, 1]]
    assert [i.tolist() for i in torch.where(c)] == [[0, 1], [0, 1]]
    assert torch.nonzero_static(c, size=3).tolist() == [[0, 0], [1, 1], [-1, -1]]
    assert torch.nonzero(torch.zeros(0, 2)).shape == (0, 2)


def test_argmax_maximum_and_comparisons() -> None:
    x = torch.tensor([[1.0, 5, 5], [7, 0, 2]])
    assert x.argmax() == 3 and torch.argmin(x) == 4
    assert x.argmax(1).tolist() == [1, 0] and x.argmax(dim=0, keepdim=True).tolist() == [[1, 0, 0]]
    assert torch.maximum(x[0], x[1]).tolist() == [7, 5, 5]
    assert (x[0] == x[1]).tolist() == x[0].eq(x[1]).tolist() == [False] * 3
    assert (x > 4).dtype is torch.bool and (x != 5).tolist() == [[True, False, False], [True] * 3]
    assert (0 == torch.tensor(0)).type(torch.float).item() == 1.0  # noqa: SIM300 - that order is the point


def test_index_methods_write_in_place() -> None:
    x = torch.zeros(3, 2)
    x.index_add_(0, torch.tensor([2, 2]), torch.ones(2, 2), alpha=2)
    x.index_fill_(0, torch.tensor([0]), -1)
    x.index_copy_(0, torch.tensor([1]), torch.tensor([[7.0, 8]]))
    assert x.tolist() == [[-1, -1], [7, 8], [4, 4]]
    x.masked_scatter_(x == 4, torch.tensor([1.0, 2, 3]))
    x.put_(torch.tensor([0, -6]), torch.tensor([5.0, 6]), accumulate=True)
    assert x.tolist() == [[10, -1], [7, 8], [1, 2]]
    x.fill_diagonal_(0).tril_()
    assert x.tolist() == [[0, 0], [7, 0], [1, 2]]
    assert x.take(torch.tensor([2, -1])).tolist() == [7, 2]
    x.index_put_((torch.tensor([0]), None), torch.tensor([3.0, 4]))
    assert x[0].tolist() == [3, 4]


def test_data_dependent_shapes_are_refused_while_compiling() -> None:
    for forward in (lambda x: torch.nonzero(x), lambda x: torch.masked_select(x, x > 0), lambda x: x[x > 0]):
        with pytest.raises(torch.IngotError, match="one path"):
            torch.compile(forward, torch.ones(3))


# -- joining and splitting ------------------------------------------------------------------------------
def test_cat_promotes_and_stack_adds_an_axis() -> None:
    a, b = torch.ones(2, 2), torch.arange(2).view(2, 1)
    assert torch.cat((a, b), 1).tolist() == [[1, 1, 0], [1, 1, 1]] and torch.cat((a, b), dim=1).dtype is torch.float32
    assert torch.cat([torch.zeros(0), a]).shape == (2, 2)
    assert torch.stack([a, a], 2).shape == (2, 2, 2)
    assert torch.hstack([b, b]).shape == (2, 2) and torch.vstack([b, b]).shape == (4, 1)
    assert torch.dstack([b, b]).shape == (2, 1, 2) and torch.column_stack([torch.ones(2), b]).shape == (2, 2)
    with pytest.raises(RuntimeError, match="equal size"):
        torch.stack([a, b])


def test_split_gives_pieces() -> None:
    x = torch.arange(7)
    assert [p.tolist() for p in torch.split(x, 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [len(p) for p in x.split([2, 5])] == [2, 5]
    assert [len(p) for p in x.tensor_split(3)] == [3, 2, 2]
    assert [p.tolist() for p in x.tensor_split([2, 9])] == [[0, 1], [2, 3, 4, 5, 6], []]
    with pytest.raises(RuntimeError, match="sum exactly to 7"):
        x.split([2, 2])


def test_rearranging_against_numpy() -> None:
    rng = np.random.default_rng(SEED)
    x = rng.normal(size=(3, 4))
    t = torch.from_numpy(x)
    for ours, want in (
        (torch.roll(t, (1, -1), (0, 1)), np.roll(x, (1, -1), (0, 1))), (t.roll(5), np.roll(x, 5)),
        (torch.rot90(t), np.rot90(x)), (t.rot90(-1), np.rot90(x, -1)), (torch.flipud(t), x[::-1]),
        (t.tile((2,)), np.tile(x, 2)), (t.repeat_interleave(2, 1), np.repeat(x, 2, 1)),
        (t.repeat_interleave(torch.tensor([1, 0, 2]), dim=0), np.repeat(x, [1, 0, 2], 0)),
        (torch.tril(t, -1), np.tril(x, -1)), (t.triu(1), np.triu(x, 1)), (torch.diag(t, 1), np.diag(x, 1)),
        (torch.diag(t[0], -1), np.diag(x[0], -1)), (torch.vander(t[0], 3), np.vander(x[0], 3)),
        (torch.block_diag(t, t[0]), np.block([[x, np.zeros((3, 4))], [np.zeros((1, 4)), x[:1]]])),
        (torch.combinations(t[0]), np.array(list(itertools.combinations(x[0], 2)))),
        (torch.cartesian_prod(t[0], t[1]), np.array(list(itertools.product(x[0], x[1])))),
        (torch.take_along_dim(t, torch.argsort(t, 1), 1), np.sort(x, 1)),
    ):  # fmt: skip
        np.testing.assert_array_equal(array(ours), want, err_msg=str(SEED))
    for indexing in ("ij", "xy"):
        for ours, want in zip(
            torch.meshgrid(t[0], t[1, :2], indexing=indexing), np.meshgrid(x[0], x[1, :2], indexing=indexing),
            strict=True,
        ):  # fmt: skip
            np.testing.assert_array_equal(array(ours), want)
    assert [i.tolist() for i in torch.unravel_index(torch.tensor([5, 11]), (3, 4))] == [[1, 2], [1, 3]]
    assert torch.tril_indices(2, 3).tolist() == [[0, 1, 1], [0, 0, 1]]
    assert torch.broadcast_shapes((2, 1), (3,), 1) == (2, 3)
