"""tune=: every schedule on offer is right, the search keeps what is faster and its budget, findings last as text."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ingot
import numpy as np
import pytest
from click.testing import CliRunner
from contraction_harness import Compiled, execute, random_arrays, runnable_targets, set_layouts
from ingot import cli, driver, nn, tuner
from ingot.codegen.host import host_target
from ingot.codegen.layouts import layout_choices
from ingot.codegen.lower import table
from ingot.ir import dtypes
from ingot.ir.builder import GraphBuilder
from ingot.ir.dims import Dim
from ingot.ir.errors import ParseError, UnsupportedError
from ingot.ir.graph import Graph, Node
from ingot.ir.interpreter import eval_node
from ingot.ir.layout import FORMS
from ingot.ir.plan import Program
from ingot.ir.target import Target
from ingot.ir.types import TensorType
from ingot.program import KernelCompiler, build_program
from ingot.runtime import findings as findings_module
from ingot.runtime.executable import Executable
from ingot.runtime.findings import Finding, FindingsFile
from ingot.tuner import Tuner
from test_codegen_chain import DEPTH, POINT, conv_chain

TARGETS = runnable_targets()
each_target = pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)


# -- what is on offer -------------------------------------------------------------------------------------
def conv(
    x: tuple[Any, ...], outputs: int, kernel: int, stride: int = 1, padding: int = 0, groups: int = 1, op: str = "conv"
) -> Node:
    graph = Graph("conv")
    shape = (outputs, x[1] // groups, kernel, kernel)
    if op == "conv_transpose":
        shape = (x[1], outputs // groups, kernel, kernel)
    values = [graph.add_input(TensorType(dtypes.float32, s), n) for s, n in ((x, "x"), (shape, "w"))]
    more = {"output_padding": (0, 0)} if op == "conv_transpose" else {}
    pair = ((padding, padding),) * 2
    node = GraphBuilder(graph).emit(
        op, values, stride=(stride, stride), padding=pair, dilation=(1, 1), groups=groups, **more
    )
    graph.add_output(node.output)
    return node


def matmul(a: tuple[Any, ...], b: tuple[int, ...], transposed: bool = False) -> Node:
    graph = Graph("matmul")
    values = [graph.add_input(TensorType(dtypes.float32, s), n) for s, n in ((a, "a"), (b, "b"))]
    node = GraphBuilder(graph).emit("matmul", values, transpose_a=False, transpose_b=transposed)
    graph.add_output(node.output)
    return node


NODES: dict[str, Callable[[], Node]] = {
    "3x3": lambda: conv((1, 32, 9, 7), 40, 3, padding=1),
    "3x3, long sums": lambda: conv((2, 80, 7, 7), 160, 3, padding=1),
    "1x1": lambda: conv((1, 160, 7, 7), 256, 1),
    "stride 2": lambda: conv((1, 64, 14, 14), 128, 3, 2, 1),
    "first layer": lambda: conv((1, 3, 20, 18), 24, 7, 2, 3),
    "depthwise": lambda: conv((1, 48, 9, 11), 48, 3, padding=1, groups=48),
    "groups": lambda: conv((1, 64, 8, 8), 64, 3, padding=1, groups=2),
    "any batch": lambda: conv((Dim("N", 1, 4).expr, 32, 6, 6), 32, 3, padding=1),
    "transposed": lambda: conv((1, 32, 5, 6), 32, 2, 1, op="conv_transpose"),
    "matmul": lambda: matmul((17, 70), (70, 90)),
    "one row": lambda: matmul((1, 600), (300, 600), True),
    "any rows": lambda: matmul((Dim("N", 1, 40).expr, 64), (64, 48)),
}  # fmt: skip


def schedules_are_right(node: Node, target: Target, env: dict[str, int], seed: int) -> int:
    """Every schedule of ``node`` against float64, in one piece and in three; how many there are."""
    arrays = random_arrays(node, np.random.default_rng(seed), env)
    wanted = eval_node(node, [a.astype(np.float64) for a in arrays.values()], env, float64=True)[0]
    offered = table.schedules(node, target)
    names = [s.name for s in offered]
    assert len(set(names)) == len(names), names
    for i, schedule in enumerate(offered):
        kernel = Compiled(table.lower(node, target, schedule), target)
        if i == 0:
            assert kernel.ir == Compiled(table.lower(node, target), target).ir, f"{names[0]} is not the rule's choice"
        one, three = (execute(kernel, node, arrays, env, pieces)[0] for pieces in (1, 3))
        np.testing.assert_array_equal(one, three, err_msg=f"{schedule.name}: depends on the split")
        rtol = dtypes.tolerance(dtypes.float32, 256)[0]
        rtol = max([rtol, *(10 * FORMS[v.type.layout.form].error for v in node.inputs if v.type.layout.form)])
        error = float(np.abs(one - wanted).max()) / max(1.0, float(np.abs(wanted).max()))
        assert error <= rtol, f"{target.name} {schedule.name}: error {error}"
    return len(offered)


@each_target
@pytest.mark.parametrize("name", NODES)
def test_every_schedule_on_offer_is_right(name: str, target: Target, seed: int) -> None:
    counts = {}
    for i, choice in enumerate(layout_choices(NODES[name](), target, "float32-fast")):
        node = NODES[name]()
        set_layouts(node, choice)
        counts[choice.reason] = schedules_are_right(node, target, {"N": 3}, seed + i)
    assert max(counts.values()) > 3 or name == "transposed", counts


@each_target
def test_every_band_of_a_chain_is_right(target: Target, seed: int) -> None:
    node = conv_chain(target, (2, 24, 40, 36), [(96, *POINT), DEPTH, (24, *POINT)], residual=True)
    assert schedules_are_right(node, target, {}, seed) >= 3


def test_operators_without_a_choice_offer_nothing() -> None:
    graph = Graph("g")
    x = graph.add_input(TensorType(dtypes.float32, (4, 4)), "x")
    b = GraphBuilder(graph)
    assert list(table.schedules(b.relu(x).producer, TARGETS[-1])) == []
    assert list(table.schedules(b.emit("sum", [x], axes=(0,), keepdims=False), TARGETS[-1])) == []


# -- the search, with made-up times -------------------------------------------------------------------------
class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.fc = nn.Linear(64 * 36, 40)

    def forward(self, x: Any) -> Any:
        x = nn.functional.relu(self.conv2(nn.functional.relu(self.conv1(x))))
        return self.fc(ingot.flatten(x, 1))


def net() -> Net:
    ingot.manual_seed(0)
    return Net()


IMAGES = np.random.default_rng(7).standard_normal((2, 3, 12, 12)).astype(np.float32)


class Machine:
    """A clock and a stopwatch: a comparison takes ``cost`` seconds, a step ``time(program, step, comparison)``."""

    def __init__(self, time: Callable[[Program, int, int], float], cost: float = 1.0) -> None:
        self.now, self.comparison_seconds, self.time, self.count = 0.0, cost, time, 0

    def clock(self) -> float:
        return self.now

    def __call__(self, programs: Sequence[Program]) -> list[np.ndarray]:
        self.now += self.comparison_seconds * len(programs) / 2
        self.count += len(programs) > 1
        return [np.array([self.time(p, i, self.count) for i in range(len(p.steps))]) for p in programs]


class Subject:
    """A compiled network and its tunable kernels: ``kernels`` are (key, node, step)."""

    def __init__(self) -> None:
        self.graph = driver.trace_inference(net(), [IMAGES]).graph
        driver.optimise(self.graph, driver.Options())
        self.compiler = KernelCompiler(host_target(), None)
        self.program = build_program(self.graph, self.compiler)
        self.kernels = self.tuner(Machine(lambda *_: 1.0), 0.0).kernels
        assert len(self.kernels) >= 2

    def tuner(self, machine: Machine, seconds: float) -> Tuner:
        return Tuner(self.graph, self.program, self.compiler, threads=1, seconds=seconds, measure=machine,
                     clock=machine.clock)  # type: ignore[arg-type]  # fmt: skip

    def schedule_of(self, program: Program, step: int) -> str:
        """The name of the schedule with which ``program`` runs the step; "" where there is nothing to choose."""
        for k in self.kernels:
            for name in k.names if step in k.steps else []:
                variant = self.compiler.variant(k.key, k.node, self.graph.symbols, "" if name == k.names[0] else name)
                if variant.image.key == program.steps[step].kernel:
                    return name
        return ""


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject()


def test_the_fastest_schedule_is_found(subject: Subject) -> None:
    good = {i: k.names[-1] for k in subject.kernels for i in k.steps}

    def time(program: Program, step: int, _: int) -> float:
        return 1e-3 * (0.5 if good.get(step) and subject.schedule_of(program, step) == good[step] else 1.0)

    search = subject.tuner(Machine(time), 1e6)
    search.run()
    found = search.findings()
    assert {f.schedule for f in found.values()} == {k.names[-1] for k in subject.kernels}
    for k in subject.kernels:
        f = found[k.key]
        # A kernel whose last schedules are the same code as an earlier one is not measured twice.
        assert f.is_tuned and f.rule == k.names[0] and f.measured == len(k.names) - 1
        assert (f.rule_us, f.schedule_us) == (1000.0, 500.0)
    assert [subject.schedule_of(search.program, i) for i in good] == list(good.values())


@pytest.mark.parametrize(("lucky", "kept"), [((1,), False), ((1, 2), False), ((1, 2, 3), True)])
def test_a_schedule_has_to_win_every_time(subject: Subject, lucky: tuple[int, ...], kept: bool) -> None:
    """In its first comparison, in a second one, and beside the rule's choice in the end."""
    first = subject.kernels[0]

    def time(program: Program, step: int, comparison: int) -> float:
        if step not in first.steps:
            return 1e-9  # too short to be looked at
        tuned = subject.schedule_of(program, step) == first.names[1]
        late = comparison > max(lucky) + 10  # the last comparison comes after those of the other schedules
        return 1e-3 * (0.5 if tuned and (comparison in lucky or (kept and not late)) else 1.0)

    search = subject.tuner(Machine(time), 1e6)
    search.run()
    (finding,) = search.findings().values()
    assert finding.is_tuned == kept
    assert finding.measured == len(first.names) - 1


def test_small_gains_are_noise(subject: Subject) -> None:
    search = subject.tuner(
        Machine(lambda p, i, _: 1e-3 if p.steps[i].kernel == subject.program.steps[i].kernel else 0.98e-3), 1e6
    )
    search.run()
    assert search.findings() and not any(f.is_tuned for f in search.findings().values())


@pytest.mark.parametrize("seconds", [0.0, 0.5, 3.2, 7.0, 12.5])
def test_the_budget_is_kept(subject: Subject, seconds: float) -> None:
    """Whatever the times are: here every other schedule is faster, so that as many comparisons as possible are made."""
    steps = {i for k in subject.kernels for i in k.steps}
    held: dict[str, float] = {}

    def time(program: Program, step: int, _: int) -> float:
        return held.setdefault(program.steps[step].kernel, 0.9 ** len(held)) if step in steps else 1e-9

    machine = Machine(time)
    search = subject.tuner(machine, seconds)
    search.run()
    assert machine.now <= max(seconds, 0.5 if seconds else 0.0)  # one run before the first comparison
    assert machine.count <= seconds
    assert bool(search.findings()) == (seconds > 3.5)


def test_a_search_goes_on_where_the_last_one_stopped(subject: Subject) -> None:
    tried: list[set[str]] = []

    def time(program: Program, step: int, _: int) -> float:
        tried[-1].add(program.steps[step].kernel)
        return 1e-3

    known: dict[str, Finding] = {}
    for _ in range(40):
        compiler = KernelCompiler(host_target(), None, known)
        machine = Machine(time)
        tried.append(set())
        search = Tuner(subject.graph, build_program(subject.graph, compiler), compiler, threads=1, seconds=4.0,
                       measure=machine, clock=machine.clock)  # type: ignore[arg-type]  # fmt: skip
        search.run()
        if not tried[-1]:
            break
        assert search.findings()
        known |= search.findings()
    assert all(f.measured == len(k.names) - 1 for k in subject.kernels for f in [known[k.key]])
    rule = tried[0] & tried[1]
    assert all(not (a - rule) & (b - rule) for i, a in enumerate(tried) for b in tried[:i]), "measured twice"


# -- findings as text -----------------------------------------------------------------------------------------
def finding(key: str = "k", **changes: Any) -> Finding:
    made = Finding(key, 2, 'layer "1"\nconv+relu', "x86-64-avx2", "tile 1x2", "tile 2x1", 12.5, 10.25, 4,
                   "2026-01-02T03:04:05+00:00")  # fmt: skip
    return replace(made, **changes)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "found.toml"
    file = FindingsFile(path, named=True)
    assert file.load() == {}
    one, two = finding(kernel="layer1: conv+relu"), finding("other", schedule="tile 1x2", kernel="Ä \\ \x7f 𝄞")
    file.add({("k", 2): one})
    file.add({("other", 2): two})
    loaded = FindingsFile(path, named=True).load()
    assert loaded == {("k", 2): one, ("other", 2): replace(two, kernel="Ä \\ ? 𝄞")}
    text = path.read_text()
    assert text.startswith("# ") and 'schedule = "tile 2x1"' in text and "rule_us = 12.50" in text
    file.add({("k", 2): replace(one, measured=9)})
    assert FindingsFile(path).load()["k", 2].measured == 9
    assert sorted(p.name for p in path.parent.iterdir() if not p.name.endswith(".lock")) == ["found.toml"]


GOOD = 'version = 1\n[[finding]]\nkey = "k"\nthreads = 2\nkernel = "c"\ntarget = "t"\nrule = "a"\nschedule = "b"\n' \
       'rule_us = 2.0\nschedule_us = 1\nmeasured = 3\ndate = "2026"\n'  # fmt: skip
BAD = {
    "no text": b"\xff\xfe\x00binary",
    "cut off": GOOD[:-20].encode(),
    "no version": GOOD.replace("version = 1\n", "").encode(),
    "other version": GOOD.replace("version = 1", "version = 99").encode(),
    "a table": GOOD.replace("[[finding]]", "[finding]").encode(),
    "no tables": b"version = 1\nfinding = [1, 2]\n",
    "a field missing": GOOD.replace('rule = "a"\n', "").encode(),
    "wrong type": GOOD.replace("threads = 2", 'threads = "2"').encode(),
    "truth value": GOOD.replace("measured = 3", "measured = true").encode(),
    "negative": GOOD.replace("measured = 3", "measured = -3").encode(),
    "infinite": GOOD.replace("rule_us = 2.0", "rule_us = inf").encode(),
    "not a number": GOOD.replace("rule_us = 2.0", "rule_us = nan").encode(),
    "endless name": GOOD.replace('"a"', '"' + "a" * 5000 + '"').encode(),
    "deep": b"version = 1\nx = " + b"[" * 20000 + b"]" * 20000,
}


def test_a_good_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "f").write_text(GOOD)
    assert FindingsFile(tmp_path / "f", named=True).load()["k", 2].schedule_us == 1.0


@pytest.mark.parametrize("name", BAD)
def test_damaged_files(name: str, tmp_path: Path) -> None:
    """An error for a file that the user names, which stays as it is; a warning for the file beside the cache."""
    path = tmp_path / "findings.toml"
    path.write_bytes(BAD[name])
    named = FindingsFile(path, named=True)
    with pytest.raises(ParseError, match=r"findings\.toml"):
        named.load()
    with pytest.raises(ParseError):
        named.add({("k", 2): finding()})
    assert path.read_bytes() == BAD[name]
    with pytest.warns(RuntimeWarning, match=r"findings\.toml"):
        assert FindingsFile(path).load() == {}
    with pytest.warns(RuntimeWarning):
        FindingsFile(path).add({("k", 2): finding(kernel="c")})
    assert FindingsFile(path).load() == {("k", 2): finding(kernel="c")}


def test_too_large_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings_module, "MOST_BYTES", 50)
    (tmp_path / "f").write_text(GOOD)
    with pytest.raises(ParseError, match="MiB"):
        FindingsFile(tmp_path / "f", named=True).load()


def test_old_findings_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings_module, "MOST_FINDINGS", 2)
    file = FindingsFile(tmp_path / "f")
    for day in (1, 3, 2):
        file.add({(str(day), 2): finding(str(day), date=f"2026-01-0{day}")})
    assert set(file.load()) == {("2", 2), ("3", 2)}


def test_no_place_to_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(RuntimeWarning, match="cannot be kept"):
        FindingsFile(tmp_path / "file" / "f").add({("k", 2): finding()})
    with pytest.raises(OSError):
        FindingsFile(tmp_path / "file" / "f", named=True).add({("k", 2): finding()})


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    def write(worker: int) -> None:
        for i in range(5):
            FindingsFile(tmp_path / "f", named=True).add({(f"{worker}.{i}", 2): finding(f"{worker}.{i}")})

    writers = [threading.Thread(target=write, args=(w,)) for w in range(4)]
    for w in writers:
        w.start()
    for w in writers:
        w.join()
    assert len(FindingsFile(tmp_path / "f", named=True).load()) == 20


# -- compile ------------------------------------------------------------------------------------------------
@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INGOT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("something was measured")

    monkeypatch.setattr(tuner, "Stopwatch", refuse)


def write_findings(path: Path, subject: Subject, threads: int, pick: int = 1) -> None:
    """Findings that give every tunable kernel of ``net`` its schedule number ``pick``."""
    FindingsFile(path, named=True).add(
        {
            (k.key, threads): Finding(k.key, threads, "x", "t", k.names[0], k.names[pick], 9.0, 5.0, 3, "2026-01-02T00")
            for k in subject.kernels
        }
    )


def test_findings_are_used_only_if_asked_for(tmp_path: Path, subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "found.toml"
    write_findings(path, subject, 2)
    no_measuring(monkeypatch)
    plain = ingot.compile(net(), IMAGES, threads=2)
    tuned = ingot.compile(net(), IMAGES, threads=2, tune_file=path)
    assert plain.report.tuned == 0 and tuned.report.tuned == len(subject.kernels)
    lines = [image.description for image in tuned.program.kernels.values()]
    expected = "measured: 5.0 us, best of 4; the rule's choice ["
    assert sum(expected in line and "9.0 us (2 threads, 2026-01-02)" in line for line in lines) == len(subject.kernels)
    assert not any("measured" in image.description for image in plain.program.kernels.values())
    wanted = plain(IMAGES)
    np.testing.assert_allclose(tuned(IMAGES), wanted, rtol=1e-4, atol=1e-5)
    # A finding counts for the number of threads that it was measured with, and again from the kernel cache.
    assert ingot.compile(net(), IMAGES, threads=1, tune_file=path).report.tuned == 0
    again = ingot.compile(net(), IMAGES, threads=2, tune_file=path)
    assert again.report.compiled == 0 and list(again.program.kernels) == list(tuned.program.kernels)
    assert list(ingot.compile(net(), IMAGES, threads=2).program.kernels) == list(plain.program.kernels)


@pytest.mark.parametrize("pick", [1, -1])
def test_tuned_results_do_not_depend_on_threads(tmp_path: Path, subject: Subject, pick: int) -> None:
    write_findings(tmp_path / "f", subject, 2, pick)
    exe = ingot.compile(net(), IMAGES, threads=2, tune_file=tmp_path / "f")
    assert exe.report.tuned == len(subject.kernels)
    runs = [Executable(exe.program, threads=n).run([IMAGES])[0] for n in (1, 2, 3)]
    assert all(np.array_equal(r, runs[0]) for r in runs)
    exe.save(tmp_path / "net.ingot")
    assert np.array_equal(ingot.load_executable(tmp_path / "net.ingot")(IMAGES), runs[0])


def test_schedules_that_are_not_on_offer_are_ignored(tmp_path: Path, subject: Subject) -> None:
    path = tmp_path / "f"
    write_findings(path, subject, 1)
    path.write_text(path.read_text().replace(f'schedule = "{subject.kernels[0].names[1]}"', 'schedule = "tile 99x99"'))
    with pytest.warns(RuntimeWarning, match="no schedule 'tile 99x99'"):
        exe = ingot.compile(net(), IMAGES, threads=1, tune_file=path)
    assert exe.report.tuned < len(subject.kernels)
    np.testing.assert_allclose(exe(IMAGES), ingot.compile(net(), IMAGES)(IMAGES), rtol=1e-4, atol=1e-5)


def test_compile_measures_and_remembers(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner, "SLICE_SECONDS", 0.001)
    monkeypatch.setattr(tuner, "SHARE", 0.0)
    wanted = ingot.compile(net(), IMAGES, threads=1)(IMAGES)
    exe = ingot.compile(net(), IMAGES, threads=1, tune=60)
    assert exe.report.seconds["tune"] < 60
    np.testing.assert_allclose(exe(IMAGES), wanted, rtol=1e-4, atol=1e-5)
    found = FindingsFile(own_cache / "tuning.toml", named=True).load()
    assert found and sum(f.is_tuned for f in found.values()) == exe.report.tuned
    assert sum(line.startswith("tune: ") and "measured: " in line for line in exe.report.log) == len(found)
    no_measuring(monkeypatch)
    for seconds in (0, 60):  # everything was measured, so nothing is left to do
        again = ingot.compile(net(), IMAGES, threads=1, tune=seconds)
        assert list(again.program.kernels) == list(exe.program.kernels)
        assert [s for s in again.program.steps] == [s for s in exe.program.steps]
        assert [i.description for i in again.program.kernels.values()] == [
            i.description for i in exe.program.kernels.values()
        ]


def test_without_a_cache_nothing_is_kept(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner, "SLICE_SECONDS", 0.001)
    exe = ingot.compile(net(), IMAGES, threads=1, tune=1, cache=False)
    assert exe(IMAGES).shape == (2, 40)
    assert not own_cache.exists()


def test_an_interrupted_search_keeps_its_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the tenth comparison."""
    real = tuner.Stopwatch
    calls = []

    class Interrupted(real):  # type: ignore[misc,valid-type]
        def __call__(self, programs: Sequence[Program]) -> list[np.ndarray]:
            calls.append(programs)
            if len(calls) == 10:
                raise KeyboardInterrupt
            return super().__call__(programs)

    monkeypatch.setattr(tuner, "SLICE_SECONDS", 0.001)
    monkeypatch.setattr(tuner, "Stopwatch", Interrupted)
    path = tmp_path / "found.toml"
    with pytest.raises(KeyboardInterrupt):
        ingot.compile(net(), IMAGES, threads=1, tune=60, tune_file=path)
    assert FindingsFile(path, named=True).load()


def test_live_modules_and_steps_use_findings_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner, "SLICE_SECONDS", 0.001)
    labels = ingot.tensor([1, 2])
    losses = []
    for options in ({}, {"tune": 3, "tune_file": tmp_path / "f"}):
        model = net()
        step = ingot.compile_step(model, nn.CrossEntropyLoss(), ingot.optim.SGD(model.parameters(), lr=0.01),
                                  threads=1, **options)  # fmt: skip
        losses.append([step(ingot.from_numpy(IMAGES), labels).item() for _ in range(3)])
    # Measuring ran the step many times, on other arrays than the model's.
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    assert FindingsFile(tmp_path / "f", named=True).load()
    live = ingot.compile(net().eval(), threads=1, tune_file=tmp_path / "f")
    np.testing.assert_allclose(live(IMAGES), ingot.compile(net(), IMAGES)(IMAGES), rtol=1e-4, atol=1e-5)


def test_symbolic_extents_are_measured_at_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner, "SLICE_SECONDS", 0.001)
    exe = ingot.compile(net(), IMAGES, dynamic=Dim("N", 1, 4), threads=1, tune=2)
    np.testing.assert_allclose(exe(IMAGES[:1]), ingot.compile(net(), IMAGES)(IMAGES)[:1], rtol=1e-4, atol=1e-5)
    assert [a.shape for a in tuner.made_up_inputs(exe.program)] == [(4, 3, 12, 12)]
    with pytest.raises(UnsupportedError, match="N has no upper bound"):
        ingot.compile(net(), IMAGES, dynamic=Dim("N"), tune=2)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seconds"):
        ingot.compile(net(), IMAGES, tune=-1)
    with pytest.raises(ValueError, match="seconds"):
        ingot.compile(net(), IMAGES, tune=float("nan"))
    with pytest.raises(UnsupportedError, match="debug"):
        ingot.compile(net(), IMAGES, tune=1, debug="bounds")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        ingot.compile(net(), IMAGES, tune_file=tmp_path / "none")
    other = "aarch64" if host_target().is_x86 else "x86-64"
    with pytest.raises(UnsupportedError, match="cannot run here"):
        ingot.compile(net(), IMAGES, target=other, tune=1)
    (tmp_path / "bad").write_text("[[[")
    with pytest.raises(ParseError, match="bad is no file of findings"):
        ingot.compile(net(), IMAGES, tune_file=tmp_path / "bad")


# -- the command line -----------------------------------------------------------------------------------------
def test_commands(tmp_path: Path, subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "found_net.py").write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom test_tuning import net\n"
    )
    monkeypatch.chdir(tmp_path)
    runner, model = CliRunner(), ["found_net.py:net", "--input", "x:2x3x12x12", "--threads", "1"]
    monkeypatch.setattr(tuner, "SLICE_SECONDS", 0.001)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = runner.invoke(cli.cli, ["compile", *model, "--tune", "2", "--tune-file", "f", "-o", "net.ingot"])
    assert made.exit_code == 0, made.output
    assert " tuned), weights" in made.output
    write_findings(tmp_path / "f", subject, 1)
    lines = runner.invoke(cli.cli, ["inspect", *model, "--stage", "kernels", "--tune-file", "f"]).output
    assert lines.count("; measured: 5.0 us, best of 4; the rule's choice [") == len(subject.kernels)
    assert "measured" not in runner.invoke(cli.cli, ["inspect", *model, "--stage", "kernels"]).output
    no_measuring(monkeypatch)
    for command in (["check"], ["profile", "--seconds", "0.05"], ["bench", "--seconds", "0.05"]):
        done = runner.invoke(cli.cli, [*command, *model, "--tune-file", "f"])
        assert done.exit_code == 0, done.output
        assert ("measured: 5.0 us" in done.output.replace("\n", " ")) == (command[0] == "profile")
    wrong = runner.invoke(cli.cli, ["inspect", *model, "--tune", "2"])
    assert wrong.exit_code == 2 and "measures nothing" in wrong.output
    wrong = runner.invoke(cli.cli, ["bench", *model, "--tune", "2", "--peers", "onnxruntime"])
    assert wrong.exit_code == 2 and "--tune 0 uses" in wrong.output
    wrong = runner.invoke(cli.cli, ["bench", "net.ingot", "--tune", "2"])
    assert wrong.exit_code == 2 and "--tune is for models that are compiled" in wrong.output
