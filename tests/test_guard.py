"""The debug build: kernels that leave their buffers are named, and those of random graphs do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ingot
import numpy as np
import pytest
from click.testing import CliRunner
from driver_models import images, net, rows
from ingot.checking import check_graph
from ingot.codegen.library import NativeKernels
from ingot.driver import Options, optimise, refuse_unsupported, trace_inference
from ingot.guarding import run_guarded
from ingot.ir.errors import InputError, UnsupportedError
from ingot.ir.plan import BufferRef, Program, Step
from ingot.program import build_program
from ingot.runtime import guard
from ingot.runtime.executable import Executable
from ingot.runtime.guard import BoundsError, GuardedExecutable
from ingot.runtime.pool import SUPPORTED
from kernel_harness import host_targets
from native_programs import loop_ir, port, program
from network_checker import Network, compiler_for
from network_fuzzer import make_network

pytestmark = [
    pytest.mark.skipif(not SUPPORTED, reason="the guarded run needs Linux"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning"),
]
TARGETS = [t.name for t in reversed(host_targets())]


def touching(body: str, **fields: Any) -> Program:
    """x float32[6] -> intermediate 0 (24 bytes) -> y float32[6]; the second step runs ``body``.

    There %p0 is the intermediate, %p1 the output, %p2 the weight of 6 elements; offset %at is in elements.
    """
    move = """  %ps = getelementptr float, ptr %p0, i64 %i
  %v = load float, ptr %ps
  %pd = getelementptr float, ptr %p1, i64 %i
  store float %v, ptr %pd
"""
    sources = {"copy": loop_ir("copy", move, pointers=2), "stray": loop_ir("stray", move + body, pointers=3)}
    middle = BufferRef("dynamic", 0)
    steps = [
        Step("copy", (BufferRef("input", 0), middle), (), 6, 6, 0, "first"),
        Step("stray", (middle, BufferRef("output", 0), BufferRef("constant", 0)), (), 6, 6, 8, "second"),
    ]
    made = program(
        [port("x", 6)], [port("y", 6)], steps, sources, [np.ones(6, np.float32)], dynamic=[24],
        metadata={"debug": "bounds"}, **fields,
    )  # fmt: skip
    return made


def access(pointer: str, at: int, *, store: bool) -> str:
    what = "store volatile float 1.0, ptr %q" if store else "%w = load volatile float, ptr %q"
    return f"  %q = getelementptr float, ptr {pointer}, i64 {at}\n  {what}"


X = np.arange(6, dtype=np.float32)


def test_nothing_to_report() -> None:
    for place in ("end", "start"):
        assert (run_guarded(touching(""), [X], place=place)[0] == X).all()
        assert (run_guarded(touching(access("%scratch", 1, store=True)), [X], place=place)[0] == X).all()


@pytest.mark.parametrize(
    ("body", "place", "message"),
    [
        # found by the guard pages, to the byte
        (access("%p0", 6, store=False), "end", r"1 \(second; .*accessed 1 bytes beyond the end of intermediate 0"),
        (access("%p1", 7, store=True), "end", r"accessed 5 bytes beyond the end of output 'y' of 24 bytes"),
        (access("%p2", 8, store=False), "end", r"accessed 9 bytes beyond the end of weight %c0"),
        (access("%p0", -1, store=False), "start", r"accessed 4 bytes before the start of intermediate 0 \(of step 0"),
        (access("%p2", 0, store=True), "end", r"accessed 0 bytes into weight %c0"),  # weights are read only
        (access("%scratch", 16, store=False), "end", r"memory beside its scratch"),
        # found by the pattern beside the buffer
        (access("%p0", 6, store=True), "start", r"step 1 \(second; .*wrote 1 bytes beyond the end of intermediate 0"),
        (access("%p1", -3, store=True), "end", r"wrote 9 bytes before the start of output 'y'"),
        (access("%scratch", 2, store=True), "end", r"wrote 1 bytes beyond the end of the scratch of participant 0"),
    ],
)
def test_stray_accesses_are_named(body: str, place: str, message: str) -> None:
    with pytest.raises(BoundsError, match=message):
        run_guarded(touching(body), [X], place=place, threads=1)


def test_memory_that_a_step_does_not_use_is_closed() -> None:
    """The input is open after step 0, its only reader, and closed after step 1."""
    made = touching("")
    exe = GuardedExecutable(made, threads=1)
    exe.run([X])
    seen: list[int] = []
    original = exe._check_step

    def look(number: int, operands: Any, scratch: Any) -> None:
        original(number, operands, scratch)
        base = exe._guards["input", 0].base
        for line in Path("/proc/self/maps").read_text().splitlines():
            low, high = (int(x, 16) for x in line.split()[0].split("-"))
            if low <= base + guard.PAGE < high:
                seen.append(line.split()[1][:2] != "--")

    exe._check_step = look  # type: ignore[method-assign]
    exe.run([X])
    assert seen == [True, False]


def test_unwritten_results_are_named() -> None:
    made = touching("")
    made.steps[1] = Step("stray", made.steps[1].buffers, (), 5, 5, 8, "second")
    with pytest.raises(BoundsError, match=r"step 1 \(second; .*left output 'y' of 24 bytes unwritten from byte 20 on"):
        run_guarded(made, [X])


def test_only_programs_without_an_arena() -> None:
    with pytest.raises(UnsupportedError, match='debug="bounds"'):
        GuardedExecutable(ingot.compile(net(), images(1)).program)
    with pytest.raises(UnsupportedError, match="debug 'all'"):
        Options(debug="all")


@pytest.mark.parametrize("threads", [1, 2])
def test_compile_with_debug(threads: int, tmp_path: Path) -> None:
    exe = ingot.compile(net(), images(3), debug="bounds", threads=threads)
    want = ingot.compile(net(), images(3))(images(3))
    assert isinstance(exe.executable, GuardedExecutable) and exe.program.arena_bytes == 0
    for _ in range(2):
        np.testing.assert_array_equal(exe(images(3)), want)
    assert len(exe.executable.profile([images(3)], 2)) == len(exe.program.steps)
    exe.save(tmp_path / "debug.ingot")
    loaded = ingot.load_executable(tmp_path / "debug.ingot", threads=threads)
    assert isinstance(loaded.executable, GuardedExecutable)
    np.testing.assert_array_equal(loaded(images(3)), want)
    out = np.empty_like(want)
    loaded.run_into(out, images(3))
    np.testing.assert_array_equal(out, want)
    with pytest.raises(InputError):
        loaded(images(2))


def test_symbolic_sizes_and_training() -> None:
    exe = ingot.compile(net(), images(2), dynamic=ingot.Dim("N", 1, 8), debug="bounds")
    plain = ingot.compile(net(), images(2), dynamic=ingot.Dim("N", 1, 8))
    for n in (1, 5, 8, 2):
        np.testing.assert_array_equal(exe(images(n)), plain(images(n)))

    def losses(debug: str | None) -> list[float]:
        ingot.manual_seed(3)
        model = ingot.nn.Sequential(ingot.nn.Linear(6, 16), ingot.nn.BatchNorm1d(16), ingot.nn.ReLU(),
                                    ingot.nn.Linear(16, 4))  # fmt: skip
        optimizer = ingot.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        step = ingot.compile_step(model, ingot.nn.functional.cross_entropy, optimizer, debug=debug)
        x, y = rows(6), np.arange(6) % 4
        return [float(step(x, y)) for _ in range(3)]

    assert losses("bounds") == losses(None)


def test_check_and_command_line(tmp_path: Path) -> None:
    from ingot.cli import cli

    graph = trace_inference(net(), [images(2)]).graph
    assert check_graph(graph, [images(2)], Options(), guard=True).guarded > 3
    (tmp_path / "m.py").write_text("import ingot\ndef make():\n    return ingot.nn.Linear(4, 3)\n")
    done = CliRunner().invoke(cli, ["check", f"{tmp_path / 'm.py'}:make", "--input", "2x4", "--guard"])
    assert done.exit_code == 0 and "kernels keep to their buffers" in done.output, done.output


def guard_network(network: Network, target_name: str) -> None:
    """Every kernel of the network between guard pages, and the bits of the plain run."""
    target = next(t for t in host_targets() if t.name == target_name)
    graph, _ = network.graph.clone()
    optimise(graph, Options(target=target, cache=False))
    refuse_unsupported(graph, NativeKernels(target), target)
    compiler = compiler_for(target)
    plain = Executable(build_program(graph.clone()[0], compiler), threads=1)
    made = build_program(graph, compiler, arena=False, metadata={"debug": "bounds"})
    for env in (network.sizes or [{}])[:2]:
        inputs = network.inputs_at(env)
        try:
            want = plain.run([a.copy() for a in inputs])
        except InputError:  # windows that do not fit at this size
            continue
        for place, threads in (("end", 1), ("start", 3)):
            got = run_guarded(made, inputs, threads=threads, place=place)
            for name, a, b in zip(graph.output_names, got, want, strict=True):
                assert a.tobytes() == b.tobytes() or np.array_equal(a, b, equal_nan=a.dtype.kind not in "biu"), name


@pytest.mark.parametrize("seed", range(100, 124))
def test_random_networks_keep_to_their_buffers(seed: int) -> None:
    guard_network(make_network(seed), TARGETS[seed % len(TARGETS)])


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_many_random_networks_keep_to_their_buffers(request: pytest.FixtureRequest, seed: int) -> None:
    for s in range(seed, seed + request.config.getoption("--fuzz-seeds")):
        for name in TARGETS:
            try:
                guard_network(make_network(s), name)
            except Exception as error:
                raise AssertionError(f"network {s} on {name}: {error}") from error
