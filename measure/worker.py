"""``python -m ingot.measure.worker``: one system, one model, one process.

Protocol, one JSON object per line. The first line of standard input is the job (``comparison.Subject.job``); the
worker prepares, runs the model once and answers ``{"ready": facts}``. Then it answers ``{"settle": true}`` with
facts found by measuring, and every ``{"seconds": s, "least": n}`` with ``{"times": [...]}`` (seconds per call),
until end of file. While it waits it is blocked on the pipe. What the model prints goes to standard error.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..cli_arguments import Request, find_object, parse_inputs, random_inputs, takes_arguments
from ..compiled import is_data
from ..frontend.structure import flatten
from .twin import torch_in_place

Settle = Callable[[], tuple[Callable[[], Any], dict[str, Any]]]


@dataclass
class Prepared:
    """A system that is set up: ``call`` runs it once, ``arrays`` makes a list of arrays of what it returned;
    ``settle`` (if any) chooses between its variants by measuring."""

    call: Callable[[], Any]
    arrays: Callable[[Any], list[np.ndarray]]
    facts: dict[str, Any] = field(default_factory=dict)
    settle: Settle | None = None


def prepare_ingot(job: dict[str, Any], inputs: list[np.ndarray]) -> Prepared:
    for name in ("codegen.library", "codegen.assemble", "passes.pipeline", "program", "kernel_failure"):
        importlib.import_module(f"..{name}", __package__)  # imports are not part of compiling
    importlib.import_module("llvmlite.binding")
    request = Request(**job["arguments"], precision=job["settings"]["precision"], threads=job["threads"])
    start = time.perf_counter()
    exe = request.compile()
    seconds = time.perf_counter() - start
    exe.executable  # noqa: B018  loading the code is part of it
    program = exe.program
    facts = {
        "compile_seconds": seconds,
        "stages": exe.report.seconds,
        "kernels": len(program.kernels) - 1,
        "steps": len(program.steps),
        "compiled": exe.report.compiled,
        "arena": program.memory.arena,
        "arena_efficiency": program.memory.efficiency,
        "flops": sum(s.direct or s.flops for s in program.steps),
        "program": hashlib.sha256(repr(program.steps).encode()).hexdigest()[:16],  # kernels by content
    }
    if job.get("artifact"):
        exe.save(job["artifact"])
    return Prepared(lambda: exe(*inputs), lambda result: flatten(result, is_data)[0], facts)


def prepare_artifact(job: dict[str, Any], inputs: list[np.ndarray]) -> Prepared:
    """A saved program: loading and the first call are what is wanted."""
    from .. import driver
    from ..runtime import executable as _  # noqa: F401  imports are not part of loading

    start = time.perf_counter()
    executable = driver.load_executable(job["artifact"], threads=job["threads"]).executable
    return Prepared(lambda: executable.run(inputs), list, {"load_seconds": time.perf_counter() - start})


def prepare_onnxruntime(job: dict[str, Any], inputs: list[np.ndarray]) -> Prepared:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    options.inter_op_num_threads = 1
    start = time.perf_counter()
    session = ort.InferenceSession(job["onnx"], options, providers=["CPUExecutionProvider"])
    seconds = time.perf_counter() - start
    feed = {i.name: x for i, x in zip(session.get_inputs(), inputs, strict=True)}
    facts = {"compile_seconds": seconds, "version": ort.__version__}
    return Prepared(lambda: session.run(None, feed), list, facts)


def prepare_openvino(job: dict[str, Any], inputs: list[np.ndarray]) -> Prepared:
    import openvino as ov

    properties = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": str(job["threads"])}
    start = time.perf_counter()
    compiled = ov.Core().compile_model(job["onnx"], "CPU", {**properties, **job["settings"]})
    request = compiled.create_infer_request()
    seconds = time.perf_counter() - start
    feed = dict(enumerate(inputs))

    def call() -> Any:
        return request.infer(feed, share_inputs=True, share_outputs=True)

    used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    facts = {"compile_seconds": seconds, "precision": used, "version": ov.__version__.split("-")[0]}
    return Prepared(call, lambda result: [np.array(a) for a in result.to_tuple()], facts)


def prepare_torch(job: dict[str, Any], inputs: list[np.ndarray]) -> Prepared:
    """PyTorch as it is, in the faster of its two memory formats."""
    import torch

    torch.set_num_threads(job["threads"])
    model = torch_twin(job["twin"], job["arguments"]["weights"])
    plain = [torch.from_numpy(x) for x in inputs]

    def runner(given: list[Any]) -> Callable[[], Any]:
        def call() -> Any:
            with torch.inference_mode():
                return model(*given)

        return call

    first = runner(plain)

    def settle() -> tuple[Callable[[], Any], dict[str, Any]]:
        if not isinstance(model, torch.nn.Module) or not any(x.dim() == 4 for x in plain):
            return first, {"memory_format": "contiguous"}
        before = _quickest(first)
        model.to(memory_format=torch.channels_last)
        last = runner([x.to(memory_format=torch.channels_last) if x.dim() == 4 else x for x in plain])
        if _quickest(last) < before:
            return last, {"memory_format": "channels_last"}
        model.to(memory_format=torch.contiguous_format)
        return first, {"memory_format": "contiguous"}

    return Prepared(first, _torch_arrays, {"compile_seconds": 0.0, "version": torch.__version__}, settle)


def prepare_torch_compile(job: dict[str, Any], inputs: list[np.ndarray]) -> Prepared:
    """PyTorch's compiler with frozen weights; the compiled code stays for all turns of the process."""
    import torch
    import torch._inductor.config as config

    torch.set_num_threads(job["threads"])
    config.freezing = True
    model = torch_twin(job["twin"], job["arguments"]["weights"])
    given = [torch.from_numpy(x) for x in inputs]
    compiled = torch.compile(model, dynamic=False)

    def call() -> Any:
        with torch.no_grad():
            return compiled(*given)

    return Prepared(call, _torch_arrays, {"version": torch.__version__})  # the first call compiles


_FOREVER = ExitStack()
PREPARE = {
    "ingot": prepare_ingot, "artifact": prepare_artifact, "onnxruntime": prepare_onnxruntime,
    "openvino": prepare_openvino, "torch": prepare_torch, "torch.compile": prepare_torch_compile,
}  # fmt: skip


def torch_twin(spec: str, weights: str | None) -> Any:
    """The model of ``spec`` made by its own file with PyTorch in place of Ingot, in eval mode.

    That lasts: its ``forward`` may import too.
    """
    import torch

    _FOREVER.enter_context(torch_in_place())
    atexit.register(_FOREVER.close)
    found = find_object(spec)
    model = found if isinstance(found, torch.nn.Module) or takes_arguments(found) else found()
    if isinstance(model, torch.nn.Module):
        model.eval()
        if weights is not None:
            model.load_state_dict(torch.load(weights, weights_only=True))
    return model


def _torch_arrays(result: Any) -> list[np.ndarray]:
    from torch.utils._pytree import tree_leaves

    return [t.float().numpy() if str(t.dtype) == "torch.bfloat16" else t.numpy() for t in tree_leaves(result)]


def _quickest(call: Callable[[], Any]) -> float:
    """The best of a few calls: one if they are slow."""
    best, spent = float("inf"), 0.0
    for _ in range(5):
        start = time.perf_counter()
        call()
        seconds = time.perf_counter() - start
        best, spent = min(best, seconds), spent + seconds
        if spent > 0.5:
            break
    return best


def memory_facts() -> dict[str, float]:
    """Peak resident memory and what of the present one lies on huge pages, in MiB."""
    facts = {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    rollup = Path("/proc/self/smaps_rollup")
    if rollup.exists():
        for line in rollup.read_text().splitlines():
            if line.startswith("AnonHugePages:"):
                facts["huge_page_mib"] = int(line.split()[1]) / 1024
    return facts


def measure(call: Callable[[], Any], seconds: float, least: int) -> list[float]:
    """Seconds of each call, for ``seconds`` and at least ``least`` calls."""
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < deadline:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def start(job: dict[str, Any]) -> tuple[Callable[[], Any], Settle | None, dict[str, Any]]:
    """Set the system up and run it once: its call, how to settle it, and the facts."""
    specs = parse_inputs(job["arguments"]["inputs"], job["arguments"]["dims"])
    prepared = PREPARE[job["kind"]](job, random_inputs([s.type for _, s in specs], job["seed"], job["extent"]))
    started = time.perf_counter()
    result = prepared.call()
    first = time.perf_counter() - started
    if job.get("output"):
        np.savez(job["output"], *[np.asarray(a, np.float64) for a in prepared.arrays(result)])
    facts = {"compile_seconds": first, "first_call_seconds": first, **prepared.facts}
    # Slow models are not run once more for this.
    slow = first > 1.0 and "compile_seconds" in prepared.facts
    facts["call_seconds"] = first if slow else measure(prepared.call, 0.0, 1)[0]
    return prepared.call, prepared.settle, facts


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**message: Any) -> None:
        print(json.dumps(message), file=answers, flush=True)

    try:
        call, settle, facts = start(json.loads(sys.stdin.readline()))
    except Exception as error:
        traceback.print_exc()
        answer(failed=f"{type(error).__name__}: {error}".splitlines()[0])
        sys.exit(1)
    answer(ready={**facts, **memory_facts()})
    for line in sys.stdin:
        wish = json.loads(line)
        if "settle" in wish:
            found: dict[str, Any] = {}
            if settle is not None:
                call, found = settle()
            answer(settled=found)
        else:
            answer(times=measure(call, wish["seconds"], wish["least"]))


if __name__ == "__main__":
    main()
