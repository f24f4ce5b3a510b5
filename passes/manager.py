"""Runs an ordered list of passes over a graph: verify, time, dump, switch off, and reproduce failures.

A pass is a small object with a ``name`` and ``run(graph, ctx) -> number of rewrites``; it edits the graph in
place and must return 0 if and only if it left the graph alone (``check_modified`` tests that).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..ir.errors import IngotError, PassError, UnsupportedError
from ..ir.graph import Graph, Node
from ..ir.kernels import KernelLibrary
from ..ir.printer import print_graph
from ..ir.target import Target
from ..ir.verifier import verify as verify_graph
from .reproducer import replay, write_reproducer

__all__ = ["Fixpoint", "LogEntry", "Pass", "PassContext", "PassManager", "PassRecord", "RewriteCounter", "replay"]


@dataclass(frozen=True)
class LogEntry:
    """One line of the compile log: a rewrite that happened, or one that did not and why.

    Attributes:
        pass_name: the pass that wrote it.
        fired: True for a rewrite, False for a refusal.
        rule: the rule's name (its equation where it has one).
        node: the node, as text.
        reason: for a refusal, the condition that failed.
        where: user source of the node.
    """

    pass_name: str
    fired: bool
    rule: str
    node: str
    reason: str = ""
    where: str = ""

    def __str__(self) -> str:
        what = f"{self.pass_name}: {self.rule}" if self.fired else f"{self.pass_name}: not {self.rule}"
        return (
            f"{what} at {self.node}"
            + (f" [{self.where}]" if self.where else "")
            + (f": {self.reason}" if self.reason else "")
        )


@dataclass
class PassContext:
    """What passes may know, and the log they write.

    Attributes:
        target: the machine, or None where no pass needs it.
        kernels: what kernels accept and cost; None means "unknown" and passes then decompose everything.
        options: settings by name (``"fold_limit"``: bytes above which constant folding may not grow the model).
        log: rewrites and refusals in order, the answer to "why was this not fused?".
        pass_name, disabled: set by the manager: the pass that runs now, and the names switched off.
    """

    target: Target | None = None
    kernels: KernelLibrary | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    log: list[LogEntry] = field(default_factory=list)
    pass_name: str = ""
    disabled: frozenset[str] = frozenset()

    def fired(self, rule: str, node: Node | str) -> None:
        """Record that ``rule`` rewrote ``node`` (call it before the node is removed)."""
        text, where = _describe(node)
        self.log.append(LogEntry(self.pass_name, True, rule, text, where=where))

    def refused(self, rule: str, node: Node | str, reason: str) -> None:
        """Record that ``rule`` matched at ``node`` but was not applied, and why."""
        text, where = _describe(node)
        self.log.append(LogEntry(self.pass_name, False, rule, text, reason, where))

    def count(self, rule: str) -> int:
        """How often ``rule`` fired so far."""
        return sum(e.fired and e.rule == rule for e in self.log)

    def why_not(self, text: str) -> list[LogEntry]:
        """Refusals whose node, source or rule contains ``text``."""
        return [e for e in self.log if not e.fired and any(text in part for part in (e.node, e.where, e.rule))]


def _describe(node: Node | str) -> tuple[str, str]:
    return (node, "") if isinstance(node, str) else (repr(node), str(node.source))


class Pass:
    """Base of all passes; subclasses set ``name`` and define ``run``."""

    name: str = ""

    def run(self, graph: Graph, ctx: PassContext) -> int:
        """Edit ``graph`` in place and return the number of rewrites (0: the graph is unchanged)."""
        raise NotImplementedError(f"{type(self).__name__} does not define run()")

    def names(self) -> Iterator[str]:
        """The switchable names in this pass: its own, and those of passes it contains."""
        yield self.name

    def __repr__(self) -> str:
        return f"<pass {self.name}>"


class RewriteCounter:
    """Counts rewrites against a limit, so that rules that undo each other raise instead of looping for ever."""

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.limit = limit
        self.count = 0

    def add(self, rule: str, node: Node) -> None:
        """Count one rewrite; PassError naming the last rewrite once the limit is passed."""
        self.count += 1
        if self.count > self.limit:
            raise PassError(
                f"{self.name} did not converge: {self.limit} rewrites done and rules still fire; the last was "
                f"{rule!r} at {node!r}" + (f" ({node.source})" if str(node.source) else "")
            )


class Fixpoint(Pass):
    """Repeats ``passes`` until a round rewrites nothing; PassError with the last rewrite after ``limit`` rounds."""

    def __init__(self, name: str, passes: Sequence[Pass], limit: int = 20) -> None:
        self.name = name
        self.passes = tuple(passes)
        self.limit = limit

    def names(self) -> Iterator[str]:
        yield self.name
        for p in self.passes:
            yield from p.names()

    def run(self, graph: Graph, ctx: PassContext) -> int:
        total, last = 0, None
        for _ in range(self.limit):
            changed = 0
            for p in self.passes:
                if p.name in ctx.disabled:
                    continue
                ctx.pass_name = p.name
                count = p.run(graph, ctx)
                if count:
                    last = p
                changed += count
            if not changed:
                ctx.pass_name = self.name
                return total
            total += changed
        fired = next((str(e) for e in reversed(ctx.log) if e.fired), "not logged")
        raise PassError(
            f"{self.name} did not converge in {self.limit} rounds over {[p.name for p in self.passes]}; "
            f"{last.name if last else '?'} still rewrites; last rewrite: {fired}"
        )


@dataclass(frozen=True)
class PassRecord:
    """What one pass did: seconds (verification excluded), number of rewrites, graph size before and after."""

    name: str
    seconds: float
    rewrites: int
    nodes_before: int
    nodes_after: int


class PassManager:
    """An ordered list of passes.

    Args:
        passes: run in this order.
        verify: verify the graph before the first pass and after each that changed it.
        disabled: names of passes to leave out; IngotError listing the known names if one is unknown.
        dump_dir: write the graph's text here as ``00-input.txt`` and, after each pass that changed it,
            ``03-fold-batch-norm.txt`` (numbers are positions in the list).
        reproducer_dir: when a pass fails, write one file here that replays the failure.
        check_modified: raise if a pass returns 0 and yet changed the printed graph, or the reverse (for tests; slow).
        on_pass: called with (name, position, count) before each pass, for progress displays.
    """

    def __init__(
        self,
        passes: Sequence[Pass],
        *,
        verify: bool = True,
        disabled: Collection[str] = frozenset(),
        dump_dir: str | Path | None = None,
        reproducer_dir: str | Path | None = None,
        check_modified: bool = False,
        on_pass: Callable[[str, int, int], None] | None = None,
    ) -> None:
        known = list(dict.fromkeys(name for p in passes for name in p.names()))
        unknown = sorted(set(disabled) - set(known))
        if unknown:
            raise IngotError(f"cannot switch off unknown pass {', '.join(unknown)}; the passes are: {', '.join(known)}")
        self.passes = tuple(passes)
        self.verify = verify
        self.disabled = frozenset(disabled)
        self.dump_dir = Path(dump_dir) if dump_dir is not None else None
        self.reproducer_dir = Path(reproducer_dir) if reproducer_dir is not None else None
        self.check_modified = check_modified
        self.on_pass = on_pass

    def run(self, graph: Graph, ctx: PassContext | None = None) -> list[PassRecord]:
        """Run every enabled pass on ``graph`` in place.

        Raises:
            VerifyError: the graph is malformed before any pass ran.
            PassError: a pass raised, broke the graph or lied about its rewrites; the message names it, the
                passes before it and the reproducer; ``__cause__`` is the original exception.
            UnsupportedError: a pass cannot handle the user's program; not an internal error, so it comes as it is.
        """
        ctx = ctx if ctx is not None else PassContext()
        ctx.disabled = self.disabled
        if self.verify:
            verify_graph(graph)
        self._dump(graph, 0, "input")
        records: list[PassRecord] = []
        for position, p in enumerate(self.passes, 1):
            if p.name in self.disabled:
                continue
            if self.on_pass is not None:
                self.on_pass(p.name, position, len(self.passes))
            records.append(self._run_one(p, graph, ctx, records))
            if records[-1].rewrites:
                self._dump(graph, position, p.name)
        return records

    def _run_one(self, p: Pass, graph: Graph, ctx: PassContext, done: list[PassRecord]) -> PassRecord:
        snapshot = graph.clone()[0] if self.reproducer_dir is not None else None
        text = print_graph(graph) if self.check_modified else ""
        ctx.pass_name = p.name
        before, start = len(graph), time.perf_counter()
        try:
            rewrites = p.run(graph, ctx)
            seconds = time.perf_counter() - start
            if self.verify and (rewrites or self.check_modified):  # an unchanged graph needs no second look
                verify_graph(graph)
            if self.check_modified and (print_graph(graph) != text) != bool(rewrites):
                did = "left the graph alone" if rewrites else "changed the graph"
                raise PassError(f"{p.name} reports {rewrites} rewrites but {did}")
        except UnsupportedError:
            raise
        except Exception as error:
            raise self._failure(p, snapshot, ctx, done, error) from error
        return PassRecord(p.name, seconds, rewrites, before, len(graph))

    def _failure(
        self, p: Pass, snapshot: Graph | None, ctx: PassContext, done: list[PassRecord], error: Exception
    ) -> PassError:
        ran = ", ".join(r.name for r in done) or "none"
        if self.reproducer_dir is None or snapshot is None:
            note = "set reproducer_dir to get a file that replays this"
        else:
            try:
                path = write_reproducer(self.reproducer_dir, p, [r.name for r in done], snapshot, ctx, error)
                note = f"reproducer: {path}"
            except Exception as trouble:  # the failure itself must reach the user whatever happens here
                note = f"the reproducer could not be written: {type(trouble).__name__}: {trouble}"
        cause = f"{type(error).__name__}: {error}"
        return PassError(f"pass {p.name!r} failed: {cause}\n  passes before it: {ran}\n  {note}")

    def _dump(self, graph: Graph, position: int, name: str) -> None:
        if self.dump_dir is None:
            return
        self.dump_dir.mkdir(parents=True, exist_ok=True)
        (self.dump_dir / f"{position:02d}-{name}.txt").write_text(print_graph(graph) + "\n", encoding="utf-8")
