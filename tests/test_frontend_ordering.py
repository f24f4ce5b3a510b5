"""Reductions, scans, sorting and statistics as users call them: values, printed forms, gradients, errors."""

from __future__ import annotations

import math

import ingot as torch
import numpy as np
import pytest

nan, inf = float("nan"), float("inf")


def same(t: torch.Tensor, expected: object, dtype: object = None) -> None:
    np.testing.assert_allclose(t.detach().numpy(), expected, rtol=1e-6)
    assert dtype is None or t.dtype is dtype


def gradient_of(fn, *values: object) -> list[np.ndarray]:
    xs = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values]
    fn(*xs).sum().backward()
    return [x.grad.numpy() for x in xs]


M = [[3.0, 1.0, 2.0], [4.0, 4.0, -1.0]]


# -- reductions ---------------------------------------------------------------------------------------
def test_sum_mean_and_their_gradients() -> None:
    x = torch.tensor(M, requires_grad=True)
    same(x.sum(), 13)
    same(x.sum(dim=1, keepdim=True), [[6], [7]])
    same(torch.sum(x, (0, 1)), 13)
    same(torch.tensor([1, 2, 3]).sum(), 6, torch.int64)
    same(torch.mean(x, 0), [3.5, 2.5, 0.5])
    x.mean().backward()
    same(x.grad, np.full((2, 3), 1 / 6))
    x.grad = None
    x.sum().backward()
    same(x.grad, np.ones((2, 3)))


def test_max_has_three_forms() -> None:
    x = torch.tensor(M)
    assert torch.max(x).item() == 4
    values, indices = torch.max(x, 1)
    assert values.tolist() == [3, 4] and indices.tolist() == [0, 0]
    assert torch.max(x, torch.tensor(2.0)).tolist() == [[3, 2, 2], [4, 4, 2]]
    assert x.min(dim=1).indices.tolist() == [1, 2]
    assert repr(torch.max(torch.tensor([1.0, 3.0]), 0)) == (
        "torch.return_types.max(\nvalues=tensor(3.),\nindices=tensor(1))"
    )


def test_ties_share_the_gradient_of_max_but_not_of_max_along_an_axis() -> None:
    (all_,) = gradient_of(torch.max, [1.0, 3.0, 3.0])
    (one,) = gradient_of(lambda x: torch.max(x, 0).values, [1.0, 3.0, 3.0])
    assert all_.tolist() == [0, 0.5, 0.5] and one.tolist() == [0, 1, 0]


def test_argmax_counts_in_the_flat_tensor_without_dim() -> None:
    x = torch.tensor(M)
    assert x.argmax().item() == 3 and x.argmin().item() == 5
    assert x.argmax(1).tolist() == [0, 0] and torch.argmin(x, dim=0, keepdim=True).tolist() == [[0, 0, 1]]


def test_variance_divides_by_n_minus_1() -> None:
    x = torch.tensor([1.0, 2.0, 4.0])
    same(torch.var(x), 7 / 3)
    same(torch.std(x), math.sqrt(7 / 3))
    same(x.var(unbiased=False), 14 / 9)
    same(torch.var(x, 0, correction=2), 14 / 3)
    for spread, centre in (torch.std_mean(x), (torch.var_mean(x)[0].sqrt(), torch.var_mean(x)[1])):
        same(spread, math.sqrt(7 / 3))
        same(centre, 7 / 3)
    assert gradient_of(torch.std, [2.0, 2.0])[0].tolist() == [0, 0]
    with pytest.warns(UserWarning, match=r"var\(\): degrees of freedom is <= 0"):
        assert math.isnan(torch.var(torch.ones(1)).item())


def test_prod_and_its_gradient_at_zeros() -> None:
    same(torch.prod(torch.tensor([2.0, 3.0, 4.0])), 24)
    same(torch.prod(torch.tensor(M), dim=1), [6, -16])
    assert gradient_of(torch.prod, [2.0, 0.0, 4.0])[0].tolist() == [0, 8, 0]
    assert gradient_of(torch.prod, [0.0, 0.0, 4.0])[0].tolist() == [0, 0, 0]
    assert gradient_of(lambda x: torch.cumprod(x, 0), [2.0, 0.0, 4.0])[0].tolist() == [1, 10, 0]


def test_norms() -> None:
    x = torch.tensor([[3.0, -4.0], [0.0, 0.0]])
    same(torch.norm(x), 5)
    same(torch.norm(x, dim=1), [5, 0])
    same(torch.norm(x, p=1, dim=0), [3, 4])
    same(x.norm(inf), 4)
    same(x.norm(0), 2)
    same(x.norm("nuc"), 5)
    for p in (0.5, 1, 1.5, 2, 3, inf):
        assert gradient_of(lambda x, p=p: x.norm(p, 1), [[0.0, 0.0]])[0].tolist() == [[0, 0]], p
    same(torch.dist(torch.tensor([1.0, 5.0]), torch.tensor([4.0, 1.0])), 5)


def test_pdist_takes_every_pair_of_rows_once() -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 8.0]])
    same(torch.nn.functional.pdist(x), [5, 8, 5])
    same(torch.nn.functional.pdist(x, p=1), [7, 8, 7])
    assert torch.pdist(x).tolist() == [5, 8, 5]
    same(torch.cdist(x, x), [[0, 5, 8], [5, 0, 5], [8, 5, 0]])
    assert gradient_of(torch.pdist, [[1.0, 2.0], [1.0, 2.0]])[0].tolist() == [[0, 0], [0, 0]]


def test_logic_counts_and_nan() -> None:
    x = torch.tensor([[0.0, nan], [2.0, 0.0]])
    assert torch.any(x).item() and not torch.all(x, dim=1).any()
    assert torch.count_nonzero(x, 0).tolist() == [1, 1]
    same(torch.nansum(x), 2)
    same(torch.nanmean(x, 1), [0, 1])
    assert gradient_of(torch.nanmean, [[0.0, nan], [2.0, 4.0]])[0].tolist() == [[1 / 3, 0], [1 / 3, 1 / 3]]
    low, high = torch.aminmax(torch.tensor(M), dim=1)
    assert low.tolist() == [1, -1] and high.tolist() == [3, 4]


def test_logsumexp_neither_overflows_nor_meets_infinities_badly() -> None:
    same(torch.logsumexp(torch.tensor([1000.0, 1000.0]), 0), 1000 + math.log(2))
    same(torch.logsumexp(torch.tensor([-inf, -inf]), 0), -inf)
    same(torch.logcumsumexp(torch.tensor([-inf, 0.0, 800.0]), 0), [-inf, 0, 800])
    assert gradient_of(lambda x: torch.logcumsumexp(x, 0), [-inf, 0.0])[0].tolist() == [0, 1]


# -- order --------------------------------------------------------------------------------------------
def test_sort_keeps_the_order_of_equals_and_puts_nan_last() -> None:
    values, indices = torch.sort(torch.tensor([2.0, nan, 1.0, 2.0]))
    np.testing.assert_array_equal(values.numpy(), [1, 2, 2, nan])
    assert indices.tolist() == [2, 0, 3, 1]
    assert torch.argsort(torch.tensor([2, 1, 2]), descending=True).tolist() == [0, 2, 1]
    assert torch.tensor(M).sort(dim=0).indices.tolist() == [[0, 0, 1], [1, 1, 0]]
    assert torch.topk(torch.tensor([1, 5, 3]), 2).values.tolist() == [5, 3]
    assert torch.topk(torch.tensor([1, 5, 3]), 1, largest=False).indices.tolist() == [0]
    assert torch.kthvalue(torch.tensor([4.0, 1.0, 3.0]), 2).values.item() == 3
    assert torch.msort(torch.tensor([[2, 1], [1, 3]])).tolist() == [[1, 1], [2, 3]]


def test_median_is_the_lower_middle_value() -> None:
    assert torch.median(torch.tensor([4.0, 1.0, 3.0, 2.0])).item() == 2
    values, indices = torch.median(torch.tensor(M), 1)
    assert values.tolist() == [2, 4] and indices.tolist() == [2, 0]
    assert math.isnan(torch.median(torch.tensor([1.0, nan])).item())
    assert torch.nanmedian(torch.tensor([3.0, nan, 1.0])).item() == 1
    assert gradient_of(torch.median, [2.0, 2.0, 5.0])[0].tolist() == [0.5, 0.5, 0]


def test_mode_is_the_smallest_of_the_most_frequent() -> None:
    values, indices = torch.mode(torch.tensor([[3, 1, 3, 1, 2], [5, 5, 5, 0, 0]]))
    assert values.tolist() == [1, 5] and indices.tolist() == [3, 2]


def test_quantiles() -> None:
    x = torch.tensor([0.0, 1.0, 2.0, 10.0])
    same(torch.quantile(x, 0.5), 1.5)
    same(torch.quantile(x, torch.tensor([0.0, 0.25, 1.0])), [0, 0.75, 10])
    same(torch.quantile(x, 0.4, interpolation="lower"), 1)
    same(torch.quantile(x, 0.4, interpolation="higher"), 2)
    same(torch.quantile(x, 0.4, interpolation="midpoint"), 1.5)
    same(torch.nanquantile(torch.tensor([nan, 1.0, 3.0]), 0.5), 2)
    assert torch.quantile(torch.tensor(M), 0.5, dim=1, keepdim=True).shape == (2, 1)


def test_ranks_in_sorted_sequences() -> None:
    edges = torch.tensor([1.0, 3.0, 5.0])
    x = torch.tensor([[0.0, 1.0, 2.0], [5.0, 9.0, nan]])
    assert torch.searchsorted(edges, x).tolist() == [[0, 0, 1], [2, 3, 3]]
    assert torch.bucketize(x, edges, right=True).tolist() == [[0, 1, 1], [3, 3, 3]]
    assert torch.searchsorted(edges, 3.0, side="right").item() == 2
    order = torch.tensor([1, 2, 0])
    assert torch.searchsorted(torch.tensor([5, 1, 3]), torch.tensor([3, 4]), sorter=order).tolist() == [1, 2]
    assert torch.isin(torch.tensor([1, 2, 5]), torch.tensor([5, 1])).tolist() == [True, False, True]
    assert torch.isin(torch.tensor([1, 2]), 2, invert=True).tolist() == [True, False]


def test_distinct_elements() -> None:
    values, inverse, counts = torch.unique(torch.tensor([3, 1, 1]), return_inverse=True, return_counts=True)
    assert (values.tolist(), inverse.tolist(), counts.tolist()) == ([1, 3], [1, 0, 0], [2, 1])
    assert torch.unique(torch.tensor([[1, 2], [1, 2], [0, 3]]), dim=0).tolist() == [[0, 3], [1, 2]]
    runs = torch.unique_consecutive(torch.tensor([1, 1, 2, 1]), return_inverse=True, return_counts=True)
    assert [r.tolist() for r in runs] == [[1, 2, 1], [0, 0, 1, 2], [2, 1, 1]]


# -- scans, statistics --------------------------------------------------------------------------------
def test_scans_and_differences() -> None:
    x = torch.tensor([3, 1, 4])
    assert torch.cumsum(x, 0).tolist() == [3, 4, 8] and torch.cumprod(x, 0).tolist() == [3, 3, 12]
    assert repr(torch.cummax(x, 0)) == (
        "torch.return_types.cummax(\nvalues=tensor([3, 3, 4]),\nindices=tensor([0, 0, 2]))"
    )
    assert torch.cummin(torch.tensor([2.0, 2.0, nan, 1.0]), 0).indices.tolist() == [0, 1, 2, 2]
    assert torch.diff(x, n=2).tolist() == [5] and torch.diff(x, prepend=torch.tensor([0])).tolist() == [3, -2, 3]
    same(torch.trapezoid(torch.tensor([1.0, 5.0, 10.0])), 10.5)
    same(torch.cumulative_trapezoid(torch.tensor([1.0, 5.0, 10.0]), torch.tensor([1.0, 3.0, 6.0])), [6, 28.5])
    squares = torch.tensor([0.0, 1.0, 4.0, 9.0])
    same(torch.gradient(squares, edge_order=2)[0], [0, 2, 4, 6])
    same(torch.gradient(squares, spacing=(torch.tensor([0.0, 1.0, 2.0, 3.0]),))[0], [1, 2, 4, 5])


def test_second_gradients_of_scans() -> None:
    for fn in (lambda x: torch.cumprod(x, 0), lambda x: torch.logcumsumexp(x, 0), lambda x: torch.cumsum(x * x, 0)):
        x = torch.tensor([0.5, 0.0, -1.5, 2.0], dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(fn, (x,)) and torch.autograd.gradgradcheck(fn, (x,))


def test_covariance_and_correlation() -> None:
    x = torch.tensor([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]])
    assert torch.cov(x).tolist() == [[1, -1], [-1, 1]] and torch.corrcoef(x).tolist() == [[1, -1], [-1, 1]]
    same(torch.cov(x[0], fweights=torch.tensor([1, 2, 1])), 2 / 3)


def test_histograms_and_counts() -> None:
    assert torch.bincount(torch.tensor([1, 1, 3]), minlength=5).tolist() == [0, 2, 0, 1, 0]
    assert torch.bincount(torch.tensor([0, 1]), torch.tensor([0.5, 2.0])).tolist() == [0.5, 2]
    assert torch.histc(torch.tensor([1.0, 2.0, 1.0]), bins=4, min=0, max=3).tolist() == [0, 2, 1, 0]
    hist, edges = torch.histogram(torch.tensor([1.0, 2.0, 1.0]), bins=4, range=(0.0, 3.0))
    assert hist.tolist() == [0, 2, 1, 0] and edges.tolist() == [0, 0.75, 1.5, 2.25, 3]
    grid = torch.histogramdd(torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]]), bins=[3, 3], range=[0, 3, 0, 3])
    assert grid.hist.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    same(torch.histogram(torch.tensor([0.0, 1.0]), bins=2, density=True).hist, [1, 1])


def test_renorm_scales_down_only_what_is_too_long() -> None:
    same(torch.renorm(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), 2, 0, 1), [[0.6, 0.8], [0.3, 0.4]])


# -- keywords and errors ------------------------------------------------------------------------------
def test_numpy_names_and_out() -> None:
    x = torch.tensor(M)
    assert x.sum(axis=1, keepdims=True).shape == (2, 1)
    out = torch.zeros(3)
    assert torch.sum(x, 0, out=out) is out and out.tolist() == [7, 5, 1]
    values, indices = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    torch.sort(x, out=(values, indices))
    assert values.shape == (2, 3) and indices.tolist() == [[1, 2, 0], [2, 0, 1]]
    with pytest.warns(UserWarning, match="An output with one or more elements was resized"):
        torch.sum(x, out=out)
    with pytest.raises(RuntimeError, match="don't support automatic differentiation"):
        torch.sum(x.requires_grad_(), out=out)


EMPTY, ROWS = "torch.zeros(0)", "torch.zeros(0, 2)"


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (f"torch.max({EMPTY})", RuntimeError, r"max\(\): Expected reduction dim to be specified for "
         r"input.numel\(\) == 0. Specify the reduction dim with the 'dim' argument."),
        (f"torch.argmax({EMPTY})", IndexError, r"argmax\(\): Expected reduction dim to be specified"),
        (f"torch.amin({ROWS}, 0)", IndexError, r"amin\(\): Expected reduction dim 0 to have non-zero size"),
        (f"torch.median({ROWS}, 0)", IndexError, r"median\(\): Expected reduction dim 0 to have non-zero size"),
        (f"torch.mode({ROWS}, 0)", IndexError, r"mode\(\): Expected reduction dim 0"),
        (f"torch.aminmax({EMPTY})", RuntimeError, "cannot compute aminmax over an empty dimension"),
        ("torch.sum(torch.ones(3), 5)", IndexError, r"Dimension out of range \(expected to be in range of \[-1, 0\], "
         r"but got 5\)"),
        ("torch.cumsum(torch.ones(3), 3)", IndexError, "Dimension out of range"),
        ("torch.sum(torch.ones(3), (0, 0))", RuntimeError, "dim 0 appears multiple times in the list of dims"),
        ("torch.mean(torch.tensor([1]))", RuntimeError, "Input dtype must be either a floating point or complex dtype"),
        ("torch.std(torch.tensor([1]))", RuntimeError, "std and var only support floating point"),
        ("torch.topk(torch.ones(3), 4)", RuntimeError, "selected index k out of range"),
        ("torch.kthvalue(torch.ones(3), 4)", RuntimeError, "selected number k out of range for dimension 0"),
        ("torch.quantile(torch.ones(3), 2.0)", RuntimeError, r"q must be in the range \[0, 1\] but got 2"),
        ("torch.quantile(torch.tensor([1]), 0.5)", RuntimeError, "must be either float or double dtype"),
        ("torch.bincount(torch.tensor([-1]))", RuntimeError, "only supports 1-d non-negative integral inputs"),
        ("torch.histc(torch.ones(3), min=2, max=1)", RuntimeError, "max must be larger than min"),
        ("torch.cdist(torch.ones(3, 2), torch.ones(3, 3))", RuntimeError, "same number of columns. X1: 2 X2: 3"),
        ("torch.pdist(torch.ones(3))", RuntimeError, "pdist only supports 2D tensors, got: 1D"),
        ("torch.cov(torch.ones(2, 2, 2))", RuntimeError, r"cov\(\): expected input to have two or fewer dimensions"),
        ("torch.trapezoid(torch.ones(3), torch.ones(2))", RuntimeError, "one `x` value for each sample point"),
        ("torch.gradient(torch.ones(1))", RuntimeError, r"each dimension size to be at least edge_order\+1"),
        ("torch.renorm(torch.ones(3), 2, 0, 1)", RuntimeError, "needs at least 2 dimensions, got 1 dimensions"),
        ("torch.searchsorted(torch.ones(3, 2), torch.ones(2, 2))", RuntimeError, "should be 1 dimension or the first"),
        ("torch.norm(torch.ones(2, 2), 'x')", RuntimeError, "linalg.matrix_norm: Order x not supported"),
        ("torch.norm(torch.tensor([1]))", RuntimeError, "linalg.vector_norm: Expected a floating point or complex"),
    ],
)
def test_errors(call: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        eval(call)


def test_what_depends_on_values_is_refused_while_tracing() -> None:
    from ingot.ir.errors import DataDependentError

    with pytest.raises(DataDependentError, match=r"unique\(\)"):
        torch.compile(lambda x: torch.unique(x), torch.ones(3))


@pytest.mark.parity
def test_stable_sorts_agree_with_pytorch() -> None:
    """Where order is defined: distinct or stably sorted elements."""
    theirs = pytest.importorskip("torch")
    seed = 7
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 4, (5, 30, 2))
    for descending in (False, True):
        ours = torch.sort(torch.from_numpy(a), 1, descending, stable=True)
        want = theirs.sort(theirs.from_numpy(a), dim=1, descending=descending, stable=True)
        for o, w in zip(ours, want, strict=True):
            np.testing.assert_array_equal(o.numpy(), w.numpy(), err_msg=f"seed {seed}")
    b = rng.permutation(60).reshape(3, 20).astype(np.float64)
    for name, args in (("topk", (5,)), ("kthvalue", (7,)), ("argsort", ()), ("msort", ()), ("median", (1,))):
        ours = getattr(torch, name)(torch.from_numpy(b), *args)
        want = getattr(theirs, name)(theirs.from_numpy(b), *args)
        pairs = zip(ours, want, strict=True) if isinstance(want, tuple) else [(ours, want)]
        for o, w in pairs:
            np.testing.assert_array_equal(o.numpy(), w.numpy(), err_msg=f"{name}, seed {seed}")


@pytest.mark.parity
@pytest.mark.parametrize(
    "call",
    ["std()", "var()", "norm()", "cumsum(0)", "cumprod(0)", "logcumsumexp(0)", "cummax(0)[0]", "sort()[0]",
     "topk(1)[0]", "kthvalue(1)[0]", "mode()[0]", "median()", "median(1)[0]", "nanmedian(1)[0]", "logsumexp(1)",
     "max()", "max(1)[0]",
     "min()", "min(0)[0]", "amax()", "prod()", "mean()", "sum(1)",
     "sum(1, True)", "sum()", "mean(0)", "prod(1)"],
)  # fmt: skip
def test_names_of_grad_fn(call: str) -> None:
    theirs = pytest.importorskip("torch")
    ours = eval(f"x.{call}", {"x": torch.tensor(M, requires_grad=True)})
    want = eval(f"x.{call}", {"x": theirs.tensor(M, requires_grad=True)})
    assert str(ours.grad_fn).split()[0] == str(want.grad_fn).split()[0]
