"""Ingot beside its peers on one model: separate processes that take turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..checking import relative_l2
from ..cli_arguments import Request
from ..export import export
from ..frontend.serialization import save
from ..ir.dims import Dim, symbols
from ..ir.errors import IngotError
from ..ir.interpreter import interpret
from .systems import System
from .turns import Worker, WorkerError

EQUAL = 0.97  # ratios from here on count as equally fast
SLOW = 3.0  # systems slower than the fastest by this factor take part in every third turn
TURN_SECONDS, LEAST_TURNS = 0.25, 3
Report = Callable[[str], None]


@dataclass
class Subject:
    """What is compared: a model as all workers can make it, its inputs, and files that hold it.

    Attributes:
        arguments: keywords of ``Request`` for the workers.
        twin: MODEL of the PyTorch twin: by default the same file, run with PyTorch in place of Ingot.
        onnx: the exported file, or ``onnx_error`` why there is none.
        oracle: float64 results of the first ``rows`` rows of the inputs (None: of all), None if not wanted.
    """

    arguments: dict[str, Any]
    threads: int
    seed: int
    extent: int | None
    twin: str
    folder: Path
    onnx: Path | None = None
    onnx_error: str = ""
    oracle: list[np.ndarray] | None = None
    rows: int | None = None

    def job(self, system: System) -> dict[str, Any]:
        """The worker's first line."""
        return {
            "name": system.name,
            "kind": system.kind,
            "settings": system.settings,
            "arguments": self.arguments,
            "twin": self.twin,
            "onnx": str(self.onnx),
            "threads": self.threads,
            "seed": self.seed,
            "extent": self.extent,
            "output": str(self.folder / f"{system.name}.npz"),
        }

    def obstacle(self, system: System) -> str | None:
        """Why ``system`` cannot run this model here; None if nothing is known."""
        if system.needs == "onnx" and self.onnx is None:
            return f"no ONNX file: {self.onnx_error}"
        return system.obstacle()

    def error(self, system: System) -> float | None:
        """Relative L2 error of the first results of ``system`` against the oracle (the worst of several results)."""
        path = self.folder / f"{system.name}.npz"
        if self.oracle is None or not path.exists():
            return None
        with np.load(path) as found:
            results = [found[k][: self.rows] if found[k].ndim else found[k] for k in found.files]
        if [r.shape for r in results] != [w.shape for w in self.oracle]:
            return None
        return max((relative_l2(r, w) for r, w in zip(results, self.oracle, strict=True)), default=0.0)


def prepare(
    request: Request, model: str, folder: Path, *, threads: int, seed: int = 0, extent: int | None = None,
    twin: str | None = None, oracle: bool = True,
) -> Subject:  # fmt: skip
    """Write what the workers need into ``folder``: weights and the ONNX file; compute the float64 results.

    ``model``: the MODEL argument that ``request`` was made of.
    """
    weights = None
    if hasattr(request.model, "state_dict"):
        weights = str(folder / "state.pth")
        save(dict(request.model.state_dict()), weights)
    dims = sorted({d for spec in request.specs for d in symbols(spec.shape)}, key=lambda d: d.name)
    arguments = {
        "model": model,
        "inputs": [_input_text(name, spec) for name, spec in zip(request.names, request.specs, strict=True)],
        "dims": [f"{d.name}={d.min}..{'' if d.max is None else d.max}" for d in dims],
        "weights": weights,
        "target": request.settings["target"],
        "disable": request.settings["disable"],
        "no_cache": not request.settings["cache"],
        "tune": request.settings["tune"],
        "tune_file": request.settings["tune_file"],
    }
    subject = Subject(arguments, threads, seed, extent, twin or model, folder)
    path = folder / "model.onnx"
    try:
        export(request.model, tuple(request.specs), path)
        subject.onnx = path
    except (IngotError, ValueError) as error:
        subject.onnx_error = str(error).splitlines()[0]
    if oracle:
        subject.oracle = interpret(request.trace().graph, request.examples(seed, extent), float64=True)
    return subject


def _input_text(name: str, spec: Any) -> str:
    """As ``parse_inputs`` reads it."""
    shape = "x".join(e.name if isinstance(e, Dim) else str(e) for e in spec.shape) or "scalar"
    return f"{name}:{shape}:{spec.dtype.name}" if name else f"{shape}:{spec.dtype.name}"


def compare(
    subject: Subject, systems: Sequence[System], *, seconds: float, deadline: float = float("inf"),
    report: Report = lambda text: None,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Measure every system for about ``seconds``, in turns, but at least in LEAST_TURNS and no longer than to
    ``deadline`` (``time.monotonic``). By name: ``Worker.result`` and ``"l2_error"``, or
    ``{"failed": reason}``, or ``{"same_as": name}`` where a default turns out to be another column's setting.
    """
    found: dict[str, dict[str, Any]] = {}
    workers: dict[str, Worker] = {}
    try:
        for system in systems:
            report(f"{system.title}: starting")
            obstacle = subject.obstacle(system)
            if obstacle is not None:
                found[system.name] = {"failed": obstacle}
                continue
            worker = Worker(subject.job(system), system.environment(subject.threads))
            workers[system.name] = worker
            try:
                worker.ready()
            except WorkerError as error:
                found[system.name] = {"failed": str(error)}
                workers.pop(system.name).close()
                continue
            same = _same_work(system, worker, workers)
            if same is not None:
                found[system.name] = {"same_as": same, "l2_error": subject.error(system)}
                workers.pop(system.name).close()
        _take_turns(workers, found, seconds, deadline, report)
        for system in systems:
            if system.name in workers:
                result = workers[system.name].result()
                found[system.name] = {**result, "l2_error": subject.error(system)}
    finally:
        for worker in workers.values():
            worker.close()
    return {s.name: found[s.name] for s in systems}


def _same_work(system: System, worker: Worker, workers: Mapping[str, Worker]) -> str | None:
    """A system that runs already and does the very same: a precision that changed no kernel, or OpenVINO's default
    where that is float32."""
    if system.is_ingot:
        if system.variables:
            return None
        others = (n for n, w in workers.items() if w is not worker and w.facts.get("program"))
        return next((n for n in others if workers[n].facts["program"] == worker.facts["program"]), None)
    if not system.name.startswith("openvino-default") or worker.facts.get("precision") != "f32":
        return None
    same = system.name.replace("openvino-default", "openvino")
    return same if same in workers else None


def _take_turns(
    workers: dict[str, Worker], found: dict[str, dict[str, Any]], seconds: float, deadline: float, report: Report
) -> None:  # fmt: skip
    def attempt(name: str, action: Callable[[Worker], None]) -> None:
        try:
            action(workers[name])
        except WorkerError as error:
            found[name] = {"failed": str(error)}
            workers.pop(name).close()

    for name in list(workers):
        attempt(name, Worker.settle)
    end, turn = min(deadline, time.monotonic() + seconds * len(workers)), 0
    turn_seconds = min(TURN_SECONDS, seconds / LEAST_TURNS)
    while workers and (turn < LEAST_TURNS or time.monotonic() < end):
        fastest = min(w.pace for w in workers.values())
        report(f"turn {turn + 1}")
        for name in list(workers):
            if turn % 3 == 0 or workers[name].pace < SLOW * fastest:
                attempt(name, lambda w: w.turn(turn_seconds))
        turn += 1


# -- what the numbers say ------------------------------------------------------------------------------
Results = Mapping[str, Mapping[str, Any]]


def median_ms(results: Results, name: str) -> float | None:
    """Of ``name``, or of the system that it is the same as; None if it was not measured."""
    entry = results.get(name, {})
    return results.get(entry.get("same_as", name), {}).get("median_ms")


def fastest_peer(results: Results, peers: Sequence[System]) -> str | None:
    """Name of the fastest of ``peers``."""
    times = {s.name: median_ms(results, s.name) for s in peers}
    return min((n for n, t in times.items() if t is not None), key=lambda n: times[n] or 0.0, default=None)


def ratio(results: Results, ours: str, peer: str | None) -> float | None:
    """How many times as fast as ``peer`` we are."""
    mine, theirs = median_ms(results, ours), median_ms(results, peer or "")
    return theirs / mine if mine and theirs else None


def geometric_mean(ratios: Sequence[float | None]) -> float | None:
    known = [r for r in ratios if r is not None]
    return statistics.geometric_mean(known) if known else None
