"""The worker pool and the native executor's protocol: stress, idling, fork, exit, Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from ingot.ir.dtypes import int64
from ingot.ir.plan import BufferRef, Step
from ingot.runtime.executable import Executable
from ingot.runtime.pool import POOL, SUPPORTED
from native_programs import COUNT, counter_program, expected_rowsum, loop_ir, port, program, scale_rowsum

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="worker threads exist on Linux only")

# Spins for x0 rounds, then adds 1: long chunks, so that workers surely take part.
SLOW = loop_ir(
    "slow",
    """  br label %wait
wait:
  %n = phi i64 [0, %body], [%n1, %wait]
  %n1 = add i64 %n, 1
  store volatile i64 %n1, ptr %scratch
  %go = icmp slt i64 %n1, %x0
  br i1 %go, label %wait, label %count
count:
  %pc = getelementptr i64, ptr %p0, i64 %i
  %c = load i64, ptr %pc
  %c1 = add i64 %c, 1
  store i64 %c1, ptr %pc""",
    pointers=1,
    extents=1,
)


def counters(size: int, steps: int, threads: int, rounds: int = 0) -> Executable:
    """``steps`` parallel steps that each add 1 to all of the int64 state, slowly if ``rounds`` are given."""
    name, ir = ("slow", SLOW) if rounds else ("count", COUNT)
    step = Step(name, (BufferRef("output", 0),), (rounds,) if rounds else (), size, 1, 64)
    ports = [port("state", size, dtype=int64)], [port("state", size, dtype=int64, updates=0)]
    return Executable(program(*ports, [step] * steps, {name: ir}), threads=threads)


@pytest.mark.parametrize("threads", [2, 3, 4])
def test_many_tiny_jobs(threads: int) -> None:
    """A chunk run twice, dropped, or run for the wrong job would change a count."""
    exe = counters(8, 1000, threads=threads)
    state = np.zeros(8, np.int64)
    before = POOL.trace()[:, 0].sum()
    for _ in range(40):
        exe.run([state])
    assert (state == 40000).all()
    assert POOL.trace()[:, 0].sum() - before == 40000 * 8


def test_jobs_of_changing_shape_and_limit() -> None:
    """Different kernels, chunk counts and limits in turn: late workers meet a job that is not theirs."""
    exes = [counters(n, 50, threads=t) for n, t in [(2, 2), (3, 4), (40, 3), (7, 2), (17, 4)]]
    states = [np.zeros(n, np.int64) for n in (2, 3, 40, 7, 17)]
    for _ in range(100):
        for exe, state in zip(exes, states, strict=True):
            exe.run([state])
    assert all((state == 5000).all() for state in states)


def test_concurrent_callers_share_the_pool() -> None:
    exes = [counters(16, 1000, threads=3) for _ in range(4)]
    states = [np.zeros(16, np.int64) for _ in exes]

    def work(i: int) -> None:
        for _ in range(50):
            exes[i].run([states[i]])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all((state == 50000).all() for state in states)


def test_workers_take_part() -> None:
    exe = counters(64, 1, rounds=20000, threads=3)
    state = np.zeros(64, np.int64)
    exe.run([state])
    before, runs = POOL.trace()[:, 0], 1
    deadline = time.monotonic() + 20
    while not (POOL.trace()[1:, 0] > before[1:]).any():
        assert time.monotonic() < deadline, "only the caller worked"
        exe.run([state])
        runs += 1
    assert (state == runs).all()


def alternate_limits(rounds: int, pause: float, work: int = 500) -> None:
    """Jobs for four and for two threads in turn; the latter must be done by the caller and worker 0."""
    wide, exe = counters(64, 1, threads=4, rounds=work), counters(64, 1, threads=2, rounds=work)
    state, other = np.zeros(64, np.int64), np.zeros(64, np.int64)
    ran = np.zeros(4, np.int64)
    for _ in range(rounds):
        wide.run([other])
        time.sleep(pause)
        before = POOL.trace()[:4, 0]
        exe.run([state])
        ran += POOL.trace()[:4, 0] - before
    assert (state == rounds).all() and (other == rounds).all()
    # On a busy machine one of the two may do it all.
    assert ran[:2].sum() == rounds * 64 and (ran[2:] == 0).all(), f"workers beyond the limit took part: {ran}"


def test_limit_keeps_sleeping_workers_out() -> None:
    alternate_limits(100, 0.0005)


def test_limit_keeps_spinning_workers_out() -> None:
    run_script("""
        import sys
        sys.path.insert(0, TESTS)
        from ingot.runtime import pool
        pool.SPIN_SECONDS = 0.1  # and jobs long enough for all workers to get hold of a CPU
        from test_runtime_pool import alternate_limits
        alternate_limits(10, 0, 500_000)
    """)


def test_idle_workers_sleep() -> None:
    """No CPU time while nothing is to do, and work is found again afterwards."""
    exe = counters(64, 1, rounds=2000, threads=3)
    state = np.zeros(64, np.int64)
    exe.run([state])
    time.sleep(0.05)
    started = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - started < 0.05
    exe.run([state])
    assert (state == 2).all()


def test_serial_programs_start_no_threads() -> None:
    code = """
        import sys, threading
        sys.path.insert(0, TESTS)
        import numpy as np
        from native_programs import counter_program
        from ingot.runtime.executable import Executable
        Executable(counter_program(8), threads=1).run([np.zeros(8, np.int64)])
        assert threading.active_count() == 1
    """
    run_script(code)


def run_script(code: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    text = textwrap.dedent(code).replace("TESTS", repr(str(Path(__file__).parent)))
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_exit_with_idle_and_busy_workers() -> None:
    run_script("""
        import sys
        sys.path.insert(0, TESTS)
        import numpy as np
        from native_programs import scale_rowsum, expected_rowsum
        from ingot.runtime.executable import Executable
        exe = Executable(scale_rowsum(), threads=4)
        x = np.ones((64, 8), np.float32)
        assert (exe.run([x])[0] == expected_rowsum(x)).all()
    """)


def test_exit_while_a_daemon_thread_is_calling() -> None:
    run_script("""
        import sys, threading, time
        sys.path.insert(0, TESTS)
        import numpy as np
        from native_programs import scale_rowsum
        from ingot.runtime.executable import Executable
        exe = Executable(scale_rowsum(), threads=3)
        x = np.ones((64, 8), np.float32)
        def forever():
            while True:
                exe.run([x])
        threading.Thread(target=forever, daemon=True).start()
        time.sleep(0.1)
    """)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_fork() -> None:
    """The child starts its own workers; the parent's go on. Also with a caller thread in flight at the fork."""
    exe = Executable(scale_rowsum(), threads=3)
    x = np.random.default_rng(5).standard_normal((64, 8)).astype(np.float32)
    expected = expected_rowsum(x)
    exe.run([x])
    stop = threading.Event()

    def background() -> None:
        while not stop.is_set():
            exe.run([x])

    thread = threading.Thread(target=background)
    thread.start()
    try:
        for _ in range(5):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    good = all((exe.run([x])[0] == expected).all() for _ in range(200))
                    status = 0 if good and POOL.size == 2 else 2
                finally:
                    os._exit(status)
            deadline = time.monotonic() + 30
            while True:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    break
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    pytest.fail("the forked child hangs")
                time.sleep(0.005)
            assert os.waitstatus_to_exitcode(status) == 0
            assert (exe.run([x])[0] == expected).all()
    finally:
        stop.set()
        thread.join()


def test_keyboard_interrupt() -> None:
    """Ctrl-C during a native call arrives right after it; executable and pool work on."""
    exe = counters(64, 20, rounds=20000, threads=2)
    state = np.zeros(64, np.int64)
    caught = 0
    for delay in (0.001, 0.004, 0.009, 0.02):
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            while True:
                exe.run([state])
        except KeyboardInterrupt:
            caught += 1
        timer.join()
    assert caught == 4
    assert (state == state[0]).all() and state[0] % 20 == 0  # whole runs only
    before = int(state[0])
    exe.run([state])
    assert (state == before + 20).all()


def test_counter_program_is_shared_between_executables() -> None:
    made = counter_program(32)
    a, b = Executable(made, threads=2), Executable(made, threads=3)
    state = np.zeros(32, np.int64)
    for _ in range(50):
        a.run([state])
        b.run([state])
    assert (state == 100).all()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_workers_stay_off_the_callers_cpu() -> None:
    """A caller that is pinned to a CPU finds the workers on the others, wherever it is pinned."""
    import ingot

    x = np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32)
    exe = ingot.compile(lambda x: x @ x.T, x, threads=2)
    allowed = os.sched_getaffinity(0)
    try:
        for cpu in sorted(allowed)[:2]:
            os.sched_setaffinity(0, {cpu})
            exe(x)
            workers = [t for t in threading.enumerate() if t.name.startswith("ingot-worker")]
            assert workers
            # A pinned caller allows its workers no other CPU, so they are left where they are.
            os.sched_setaffinity(0, allowed)
            POOL._caller_cpu = -1
            exe(x)
            here = POOL._caller_cpu
            assert all(here not in os.sched_getaffinity(t.native_id) for t in workers)
    finally:
        os.sched_setaffinity(0, allowed)
