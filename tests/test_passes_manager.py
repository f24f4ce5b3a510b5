"""The pass manager: order, verification, dumps, switches, honesty and reproducers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from graph_utils import build, canonical
from ingot.ir.errors import IngotError, ParseError, PassError, ShapeError, UnsupportedError, VerifyError
from ingot.ir.graph import Graph
from ingot.ir.source import Source
from ingot.ir.target import Target
from ingot.passes.cse import CommonSubexpressions
from ingot.passes.dce import DeadCodeElimination
from ingot.passes.manager import Fixpoint, Pass, PassContext, PassManager, RewriteCounter, replay
from ingot.passes.simplify import Simplify


def sample() -> Graph:
    def make(b, x):
        big = b.constant(np.linspace(0.5, 2, 4096, dtype=np.float32).reshape(64, 64), name="weight")
        small = b.constant(np.arange(64, dtype=np.float32) - 7, name="bias")
        b.exp(x)
        return b.add(b.matmul(b.mul(x, 1.0), big), small)

    return build(make, (2, 64))


class Failing(Pass):
    name = "failing"

    def run(self, graph, ctx):
        if graph.find("matmul"):
            raise ShapeError("matmul is not my taste")
        return 0


class Breaking(Pass):
    """Puts a node in front of what it reads."""

    name = "breaking"

    def run(self, graph, ctx):
        node = graph.find("add")[0]
        graph.move_before(node, graph.nodes[0])
        return 1


class Lying(Pass):
    name = "lying"

    def __init__(self, rewrites: int) -> None:
        self.rewrites = rewrites

    def run(self, graph, ctx):
        if not self.rewrites:
            graph.prune()
        return self.rewrites


def test_records_and_dumps(tmp_path: Path) -> None:
    graph = sample()
    seen: list[tuple[str, int, int]] = []
    passes = [DeadCodeElimination(), CommonSubexpressions(), Simplify()]
    manager = PassManager(passes, dump_dir=tmp_path, on_pass=lambda *a: seen.append(a))
    records = manager.run(graph)
    assert [(r.name, r.rewrites) for r in records] == [("dce", 1), ("cse", 0), ("simplify", 1)]
    assert [(r.nodes_before, r.nodes_after) for r in records] == [(7, 6), (6, 6), (6, 4)]
    assert all(r.seconds >= 0 for r in records)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00-input.txt", "01-dce.txt", "03-simplify.txt"]
    assert "exp" in (tmp_path / "00-input.txt").read_text()
    assert "exp" not in (tmp_path / "01-dce.txt").read_text()
    assert seen == [("dce", 1, 3), ("cse", 2, 3), ("simplify", 3, 3)]


def test_switches() -> None:
    graph = sample()
    inner = Fixpoint("inner", [Simplify()])
    passes = [DeadCodeElimination(), Fixpoint("clean", [CommonSubexpressions(), inner])]
    records = PassManager(passes, disabled={"dce", "simplify"}).run(graph)
    assert [(r.name, r.rewrites) for r in records] == [("clean", 0)]
    assert [r.rewrites for r in PassManager(passes, disabled={"dce"}).run(graph)] == [1]
    with pytest.raises(IngotError, match=r"unknown pass speling; the passes are: dce, clean, cse, inner, simplify"):
        PassManager(passes, disabled={"speling"})


def test_a_failing_pass_is_named_with_its_cause() -> None:
    with pytest.raises(PassError, match="pass 'failing' failed: ShapeError: matmul is not my taste") as info:
        PassManager([DeadCodeElimination(), Failing()]).run(sample())
    assert "passes before it: dce" in str(info.value)
    assert isinstance(info.value.__cause__, ShapeError)


def test_what_the_user_must_hear_comes_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise UnsupportedError("no kernel for", ["sort", "fft"])

    monkeypatch.setattr(DeadCodeElimination, "run", refuse)
    with pytest.raises(UnsupportedError) as info:
        PassManager([DeadCodeElimination()]).run(sample())
    assert info.value.items == ("sort", "fft")


def test_a_pass_that_breaks_the_graph_is_named() -> None:
    with pytest.raises(PassError, match="pass 'breaking' failed: VerifyError") as info:
        PassManager([Breaking()]).run(sample())
    assert isinstance(info.value.__cause__, VerifyError)


def test_malformed_input_is_no_fault_of_a_pass() -> None:
    graph = sample()
    Breaking().run(graph, PassContext())
    with pytest.raises(VerifyError):
        PassManager([DeadCodeElimination()]).run(graph)


@pytest.mark.parametrize(("rewrites", "message"), [(0, "changed the graph"), (1, "left the graph alone")])
def test_dishonest_counts_are_caught(rewrites: int, message: str) -> None:
    with pytest.raises(PassError, match=f"lying reports {rewrites} rewrites but {message}"):
        PassManager([Lying(rewrites)], check_modified=True).run(sample())
    PassManager([Lying(rewrites)]).run(sample())


def test_reproducer_replays_the_failure(tmp_path: Path) -> None:
    graph = sample()
    target = Target("x86-64", "x86_64-unknown-linux-gnu", "x86-64", features=("sse2",))
    ctx = PassContext(target=target, options={"fold_limit": 10, "not plain": object()})
    with pytest.raises(PassError, match="reproducer: ") as info:
        PassManager([DeadCodeElimination(), Failing()], reproducer_dir=tmp_path).run(graph, ctx)
    (path,) = tmp_path.iterdir()
    assert str(path) in str(info.value)
    with pytest.raises(ShapeError, match="matmul is not my taste"):
        replay(path, failing=Failing())

    class Look(Pass):
        name = "look"

        def run(self, graph, ctx):
            assert ctx.target == target
            assert ctx.options == {"fold_limit": 10}
            return 0

    again = replay(path, failing=Look())
    assert canonical(again) == canonical(graph)
    arrays = {n.output.name: n.output.constant for n in again.find("constant")}
    np.testing.assert_array_equal(arrays["bias"], np.arange(64) - 7)  # small arrays are exact
    assert arrays["weight"].shape == (64, 64)
    assert arrays["weight"].min() >= 0.5  # large ones are drawn again, within the range they had
    assert path.stat().st_size < 5000


def test_reproducer_is_a_program_and_names_stay_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise ZeroDivisionError("just now")

    monkeypatch.setattr(DeadCodeElimination, "run", fail)
    for _ in range(2):
        with pytest.raises(PassError, match="just now"):
            PassManager([DeadCodeElimination()], reproducer_dir=tmp_path).run(sample())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["reproduce-dce-1.py", "reproduce-dce.py"]
    with pytest.raises(ZeroDivisionError):
        replay(tmp_path / "reproduce-dce.py")
    command = [sys.executable, tmp_path / "reproduce-dce.py"]  # a fresh process has the pass that works
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.startswith("the pass did not fail; the graph after it is\ngraph main(%x0: float32[2, 64] input)")
    assert "exp" not in done.stdout


def test_replay_executes_nothing_and_refuses_other_files(tmp_path: Path) -> None:
    path = tmp_path / "evil.py"
    path.write_text(f"open({str(tmp_path / 'made')!r}, 'w')\nINFO = __import__('os')\nCONSTANTS = {{}}\nGRAPH = ''\n")
    with pytest.raises(ParseError, match="not a pass reproducer"):
        replay(path)
    assert not (tmp_path / "made").exists()
    for found in ("json:loads", "ingot.passes.manager:PassContext", "ingot.passes.manager:Missing"):
        info = {"class": found, "pass": "x", "target": None, "options": {}}
        path.write_text(f"INFO = {info}\nCONSTANTS = {{}}\nGRAPH = 'graph main() {{ return }}'\n")
        with pytest.raises(ParseError, match="not a pass class of ingot"):
            replay(path)


class Toggling(Pass):
    """Undoes itself every other time."""

    name = "toggling"

    def run(self, graph, ctx):
        node = (graph.find("exp") or graph.find("log"))[0]
        ctx.fired("exp(x) = log(x) = exp(x)", node)
        node.op = "log" if node.op == "exp" else "exp"
        return 1


def test_fixpoints_end_or_raise() -> None:
    graph = sample()
    assert Fixpoint("clean", [DeadCodeElimination(), Simplify()]).run(graph, PassContext()) == 2
    with pytest.raises(PassError, match=r"'loop' failed: PassError: loop did not converge in 20 rounds") as info:
        PassManager([Fixpoint("loop", [Toggling()])]).run(sample())
    assert "toggling still rewrites; last rewrite: toggling: exp(x) = log(x) = exp(x) at %exp = " in str(info.value)
    counter = RewriteCounter("rules", 2)
    node = graph.nodes[0]
    counter.add("a = b", node)
    counter.add("b = a", node)
    with pytest.raises(PassError, match=r"2 rewrites done and rules still fire; the last was 'a = b' at %weight"):
        counter.add("a = b", node)


def test_log_answers_why_not() -> None:
    ctx = PassContext(pass_name="fuse")
    node = sample().find("matmul")[0]
    ctx.refused("a + b", node, "it is Tuesday")
    ctx.fired("c", node)
    assert [str(e) for e in ctx.why_not("matmul")] == [
        "fuse: not a + b at %matmul = matmul(%mul, %weight): it is Tuesday"
    ]
    assert ctx.count("c") == 1
    node.source = Source("net.py", 3, "fc")
    ctx.fired("d", node)
    assert str(ctx.log[-1]) == "fuse: d at %matmul = matmul(%mul, %weight) [fc (net.py:3)]"
