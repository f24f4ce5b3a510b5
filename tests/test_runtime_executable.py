"""Calling programs: results for any number of threads, input and output checks, concurrency, profiling."""

from __future__ import annotations

import gc
import os
import threading
import time

import numpy as np
import pytest
from ingot.ir.dims import Dim
from ingot.ir.dtypes import float64, int64
from ingot.ir.errors import InputError, UnsupportedError, VerifyError
from ingot.ir.plan import BufferRef, Step
from ingot.runtime import memory
from ingot.runtime.executable import Executable, _overlap
from native_programs import COUNT, ROWSUM, SCALE, counter_program, expected_rowsum, port, program, scale_rowsum


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_same_bits_for_any_number_of_threads(threads: int) -> None:
    rng = np.random.default_rng(1)
    exe = Executable(scale_rowsum(), threads=threads)
    for n in (1, 2, 3, 17, 64):
        x = rng.standard_normal((n, 8)).astype(np.float32)
        for _ in range(20):
            (y,) = exe.run([x])
            assert y.dtype == np.float32 and (y == expected_rowsum(x)).all()


def test_dynamic_buffer_outside_the_arena() -> None:
    exe = Executable(scale_rowsum(dim=Dim("N", 0, None)), threads=2)
    rng = np.random.default_rng(2)
    for n in (5, 1000, 0, 1, 300000, 5, 7, 9, 11, 13):
        x = rng.standard_normal((n, 8)).astype(np.float32)
        (y,) = exe.run([x])
        assert y.shape == (n,) and (y == expected_rowsum(x)).all()


def test_empty_and_scalar_arrays() -> None:
    step = Step("count", (BufferRef("input", 0),), (), 0)
    exe = Executable(program([port("x", 0, dtype=int64), port("s", dtype=float64)], [], [step], {"count": COUNT}))
    assert exe.run([np.zeros(0, np.int64), np.array(1.5)]) == []
    assert exe.run([np.zeros(0, np.int64), np.float64(1.5)]) == []  # NumPy scalars are 0-d arrays
    with pytest.raises(InputError, match="'s'"):
        exe.run([np.zeros(0, np.int64), 1.5])


def test_program_without_steps() -> None:
    assert Executable(program([port("x", 2)], [], [], {}), threads=2).run([np.zeros(2, np.float32)]) == []


@pytest.mark.parametrize(
    "make,expected",
    [
        (lambda x: [], r"takes 1 inputs \(x\), got 0"),
        (lambda x: [x, x], "got 2"),
        (lambda x: [x.astype(np.float64)], r"input 'x': expected float32\[N, 8\], got float64\[4, 8\]"),
        (lambda x: [x.astype(">f4")], "expected float32"),
        (lambda x: [x.tolist()], "expected a NumPy array .* got list"),
        (lambda x: [x[:, :7]], r"expected float32\[N, 8\], got \[4, 7\]: axis 1 must be 8"),
        (lambda x: [x[0]], r"got 1 axes: \[8\]"),
        (lambda x: [np.zeros((65, 8), np.float32)], r"N = 65 is outside its declared range \[1, 64\]"),
        (lambda x: [np.zeros((0, 8), np.float32)], "N = 0 is outside"),
    ],
)
def test_wrong_inputs(make: object, expected: str) -> None:
    x = np.ones((4, 8), np.float32)
    exe = Executable(scale_rowsum(), threads=1)
    for _ in range(2):  # also when the shapes were refused before
        with pytest.raises(InputError, match=expected):
            exe.run(make(x))  # type: ignore[operator]
    (y,) = exe.run([x])
    assert (y == expected_rowsum(x)).all()


def test_symbols_from_compound_extents() -> None:
    n, m = Dim("N", 1, 8).expr, Dim("M", 1, 8).expr
    exe = Executable(
        program(
            [port("a", 2 * n + 1), port("b", n, m * n), port("c", m)], [port("y", n)],
            [Step("rowsum", (BufferRef("input", 1), BufferRef("output", 0)), (m * n,), n)], {"rowsum": ROWSUM},
        )
    )  # fmt: skip
    b = np.arange(3 * 6, dtype=np.float32).reshape(3, 6)
    a, c = np.zeros(7, np.float32), np.zeros(2, np.float32)
    assert exe.run([a, b, c])[0].tolist() == b.sum(axis=1).tolist()
    assert exe.output_shapes([(7,), (3, 6), (2,)]) == [(3,)]
    with pytest.raises(InputError, match=r"'a'.*axis 0 must be 7 \(N = 3 from axis 0 of input 'b'\)"):
        exe.run([np.zeros(8, np.float32), b, c])
    with pytest.raises(InputError, match="axis 1 must be 9"):
        exe.run([a, b, np.zeros(3, np.float32)])
    only = Executable(program([port("a", 2 * n + 1)], [port("y", n)], [], {}))
    assert only.output_shapes([(7,)]) == [(3,)]
    with pytest.raises(InputError, match="whole N"):
        only.run([np.zeros(6, np.float32)])


def test_symbol_that_no_input_determines() -> None:
    n = Dim("N", 1, 8).expr
    with pytest.raises(VerifyError, match="does not follow from the input shapes"):
        Executable(program([port("a", n * n)], [port("y", n)], [], {}))
    with pytest.raises(VerifyError, match="does not follow from the input shapes"):
        Executable(program([port("a", n * n)], [], [], {}, extents=[(n - 4, "%pool")]))


def test_negative_extents_are_refused_per_call() -> None:
    n, m = Dim("N", 1, 8).expr, Dim("M", 1, 8).expr
    exe = Executable(program([port("a", n, m)], [], [], {}, extents=[(n - 4, "%pool"), (n - m, "%rest")]))
    for _ in range(2):
        with pytest.raises(InputError, match=r"'test': N = 3 makes the extent N \+ -4 of %pool negative \(-1\)"):
            exe.run([np.zeros((3, 1), np.float32)])
    with pytest.raises(InputError, match=r"M = 6, N = 5 makes .* of %rest negative \(-1\)"):
        exe.run([np.zeros((5, 6), np.float32)])
    exe.run([np.zeros((4, 4), np.float32)])


def test_strided_and_misaligned_inputs_are_copied() -> None:
    exe = Executable(scale_rowsum(), threads=2)
    base = np.random.default_rng(3).standard_normal((8, 16)).astype(np.float32)
    for x in (base[:, ::2], base.T[:, :8][::-1], np.broadcast_to(base[0, :8], (5, 8))):
        assert (exe.run([x])[0] == expected_rowsum(np.ascontiguousarray(x))).all()
    raw = np.zeros(4 * 8 * 4 + 1, np.uint8)
    odd = raw[1:].view(np.float32).reshape(4, 8)
    odd[...] = base[:4, :8]
    assert (exe.run([odd])[0] == expected_rowsum(base[:4, :8])).all()


def test_subclass_and_readonly_inputs() -> None:
    exe = Executable(scale_rowsum(), threads=1)
    x = np.ones((2, 8), np.float32)
    x.flags.writeable = False
    assert (exe.run([x])[0] == expected_rowsum(x)).all()
    assert (exe.run([x.view(np.recarray)])[0] == expected_rowsum(x)).all()


def test_update_in_place() -> None:
    exe = Executable(counter_program(64), threads=2)
    state = np.zeros(64, np.int64)
    for _ in range(100):
        (out,) = exe.run([state])
        assert out is state
    assert (state == 100).all()
    exe.run_into([None], [state])
    exe.run_into([state], [state])
    assert (state == 102).all()
    with pytest.raises(InputError, match="pass None or that array"):
        exe.run_into([np.zeros(64, np.int64)], [state])
    with pytest.raises(InputError, match=r"'state' is updated in place and must be C-contiguous, got strides \(16,\)"):
        exe.run([np.zeros(128, np.int64)[::2]])
    fixed = state.copy()
    fixed.flags.writeable = False
    with pytest.raises(InputError, match="'state' is updated in place but is read-only"):
        exe.run([fixed])
    assert (state == 102).all()


def test_update_input_must_not_share_memory() -> None:
    step = Step("count", (BufferRef("output", 0),), (), 8)
    exe = Executable(
        program([port("s", 8, dtype=int64), port("x", 8, dtype=int64)], [port("s", 8, dtype=int64, updates=0)], [step],
                {"count": COUNT})
    )  # fmt: skip
    block = np.zeros(24, np.int64)
    exe.run([block[:8], block[8:16]])
    with pytest.raises(InputError, match="share memory"):
        exe.run([block[:8], block[4:12]])


def test_run_into() -> None:
    exe = Executable(scale_rowsum(), threads=2)
    x = np.random.default_rng(4).standard_normal((5, 8)).astype(np.float32)
    out = np.empty(5, np.float32)
    exe.run_into([out], [x])
    assert (out == expected_rowsum(x)).all()
    frozen = out.copy()
    frozen.flags.writeable = False
    cases: list[tuple[list[object], str]] = [
        ([], "has 1 outputs, got 0"),
        ([None], r"expected a NumPy array float32\[5\], got NoneType"),
        ([np.empty(6, np.float32)], r"output 'y': expected float32\[5\], got float32\[6\]"),
        ([np.empty(5, np.float64)], r"got float64\[5\]"),
        ([np.empty(10, np.float32)[::2]], "must be C-contiguous and writable, got strides"),
        ([frozen], "a read-only array"),
        ([x.reshape(-1)[3:8]], "output 'y' shares memory with 'x'"),
    ]
    for outputs, expected in cases:
        with pytest.raises(InputError, match=expected):
            exe.run_into(outputs, [x])  # type: ignore[arg-type]
    exe.run_into([out], [x])
    assert (out == expected_rowsum(x)).all()


def test_run_into_allocates_nothing() -> None:
    import tracemalloc

    exe = Executable(scale_rowsum(), threads=1)
    x, out = np.ones((64, 8), np.float32), np.empty(64, np.float32)
    for _ in range(3):
        exe.run_into([out], [x])
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(200):
        exe.run_into([out], [x])
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert after - before < 2000


def test_overlap_search_agrees_with_all_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    block = np.zeros(400, np.uint8)
    for _ in range(300):
        count = int(rng.integers(2, 12))
        starts, sizes = rng.integers(0, 380, count), rng.integers(0, 20, count)
        arrays = [block[s : s + n] for s, n in zip(starts, sizes, strict=True)]
        written = frozenset(int(i) for i in rng.integers(0, count, 3))
        expected = any(
            i != j and np.shares_memory(arrays[i], arrays[j]) for i in written for j in range(count) if arrays[j].size
        )
        found = _overlap(arrays, written)
        assert (found is not None) == expected
        if found:
            assert np.shares_memory(arrays[found[0]], arrays[found[1]]) and set(found) & written


def test_many_threads_share_one_executable() -> None:
    exe = Executable(scale_rowsum(), threads=3)
    failures: list[str] = []

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        for _ in range(200):
            x = rng.standard_normal((int(rng.integers(1, 65)), 8)).astype(np.float32)
            if not (exe.run([x])[0] == expected_rowsum(x)).all():
                failures.append(f"thread {number}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures
    assert 1 <= len(exe._free) <= 6


def test_contexts_forget_old_shapes() -> None:
    exe = Executable(scale_rowsum(dim=Dim("N", 1, 400)), threads=1)
    for n in range(1, 400):
        exe.run([np.ones((n, 8), np.float32)])
    assert len(exe._free) == 1 and len(exe._free[0]._frames) <= 64 and len(exe._bindings) <= 256
    x = np.ones((1, 8), np.float32)
    assert (exe.run([x])[0] == expected_rowsum(x)).all()


def test_memory_goes_with_the_executable() -> None:
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("needs /proc")

    def mapped() -> int:
        return int(open("/proc/self/statm").read().split()[0]) * 4096

    made = scale_rowsum(dim=Dim("N", 1, 1 << 20))  # 32 MiB arena
    Executable(made, threads=1).run([np.ones((4, 8), np.float32)])
    gc.collect()
    before = mapped()
    for _ in range(20):
        Executable(made, threads=1).run([np.ones((4, 8), np.float32)])
    gc.collect()
    assert mapped() - before < 64 << 20


def test_constants_are_aligned_and_kept() -> None:
    made = scale_rowsum()
    raw = np.zeros(8, np.float32)
    made.constants[0] = raw[1:5] if memory.address_of(raw) % 64 == 0 else raw[:4]
    made.constants[0][:] = [5, 6, 7, 8]
    exe = Executable(made, threads=1)
    assert all(memory.address_of(c) % 64 == 0 for c in made.constants)
    assert made.constants[0].tolist() == [5, 6, 7, 8]
    x = np.zeros((1, 8), np.float32)
    assert exe.run([x])[0].tolist() == [52.0]


def test_profile() -> None:
    exe = Executable(scale_rowsum(), threads=2)
    x = np.ones((64, 8), np.float32)
    started = time.perf_counter()
    times = exe.profile([x], repeat=5)
    elapsed = time.perf_counter() - started
    assert [t.label for t in times] == ["scale", "rowsum"]
    assert all(0 <= t.seconds <= t.mean < elapsed for t in times)
    assert (exe.run([x])[0] == expected_rowsum(x)).all()


def test_refusals() -> None:
    made = scale_rowsum()
    made.target_features = (*made.target_features, "avx99")
    with pytest.raises(UnsupportedError, match="avx99"):
        Executable(made)
    made = scale_rowsum()
    made.target_name = "sparc"
    with pytest.raises(UnsupportedError, match="compiled for sparc, and this machine is"):
        Executable(made)
    with pytest.raises(ValueError, match="threads"):
        Executable(scale_rowsum(), threads=0)


@pytest.mark.parametrize(
    "ref,expected",
    [
        (BufferRef("arena", 1 << 20), "arena offset"),
        (BufferRef("arena", -64), "arena offset"),
        (BufferRef("constant", 1), "constant 1 of 1"),
        (BufferRef("input", -1), "input -1 of 1"),
        (BufferRef("output", 0, 1 << 30), "offset"),
        (BufferRef("dynamic", 0), "dynamic 0 of 0"),
        (BufferRef("stack", 0), "unknown buffer kind"),
    ],
)
def test_malformed_programs(ref: BufferRef, expected: str) -> None:
    made = scale_rowsum()
    made.steps[0] = Step("scale", (ref, *made.steps[0].buffers[1:]), (), 1)
    with pytest.raises(VerifyError, match=expected):
        Executable(made)


def test_kernel_missing() -> None:
    made = scale_rowsum()
    del made.kernels["scale"]
    with pytest.raises(VerifyError, match="no kernel 'scale'"):
        Executable(made)
    made = program([port("x", 4)], [], [], {"scale": SCALE})
    del made.kernels["executor"]
    with pytest.raises(VerifyError, match="executor"):
        Executable(made)
