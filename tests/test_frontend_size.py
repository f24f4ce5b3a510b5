"""Symbolic sizes: arithmetic, decided and refused comparisons, Size."""

import threading

import ingot.frontend as ig
import pytest
from ingot.frontend.size import Size, SymInt, wrap
from ingot.frontend.tracing import trace
from ingot.ir.dims import Dim
from ingot.ir.errors import DataDependentError

N, M = (SymInt(Dim(name, 1, 8).expr) for name in "NM")


def test_arithmetic_cancels_to_ints():
    assert (N + 3) - N == 3 and isinstance(N * 2 - N - N, int)
    assert (N * 6) // 3 == N * 2 and (N * 6) % 3 == 0 and (12 * N) // N == 12
    assert str(2 * N + 1) in ("2*N + 1", "1 + 2*N") and (-N) * -1 == N and divmod(N * 4, 2) == (N * 2, 0)
    assert N**2 == N * N and +N is N and hash(N + 1) == hash(1 + N)
    assert 3 + N == N + 3 and 10 - N == -(N - 10)


def test_comparisons_are_decided_by_bounds():
    assert N >= 1 and N < 9 and N <= 8 and N > 0 and N != 0 and bool(N)
    assert N == N and (N != N) is False and N + 1 > N and N * 2 >= N and N + 8 > M
    assert N > 0.5 and N < 8.5 and (N == "x") is False and (N != None)  # noqa: E711
    for undecided in (
        lambda: N > 4,
        lambda: N == M,
        lambda: N == 8,
        lambda: N < M,
        lambda: N >= 2.5,
    ):
        with pytest.raises(DataDependentError, match=r"test_frontend_size.py:\d+.*declared"):
            undecided()


@pytest.mark.parametrize(
    "use",
    [
        int,
        float,
        range,
        lambda n: [0] * n,
        lambda n: n / 2,
        lambda n: 2 / n,
        lambda n: n * 0.5,
        lambda n: n**0.5,
        lambda n: [1, 2][n],
        lambda n: min(n, 3),
    ],
)
def test_uses_that_need_the_number_are_refused(use):
    with pytest.raises(DataDependentError, match="symbolic size"):
        use(N)


def test_size_is_a_tuple_that_prints_like_pytorchs():
    s = Size((2, N, 3))
    assert repr(s) == str(s) == f"{s}" == "torch.Size([2, N, 3])" and s.numel() == N * 6
    assert repr(s[1:]) == "torch.Size([N, 3])" and isinstance(s + Size([1]), Size) and s == (2, N, 3)
    assert Size([1, 2]) == (1, 2) and wrap(3) == 3 and ig.zeros(2, 3).size() == Size((2, 3))


def test_a_trace_does_not_touch_other_threads():
    seen = []

    def fn(x):
        worker = threading.Thread(target=lambda: seen.append((ig.is_tracing(), (ig.ones(2) + 1).tolist())))
        worker.start()
        worker.join()
        return x

    trace(fn, (ig.InputSpec((2,)),))
    assert seen == [(False, [2, 2])]
