"""One system, one model, one process: prepares, then times calls whenever the parent says so.

Protocol, one JSON object per line: prints ``{"ready": facts}`` once, then answers every line ``{"seconds": s}`` on
standard input with ``{"times": [...]}`` (seconds per call) until end of file.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))


def example(shape: tuple[int, ...], batch: int) -> np.ndarray:
    """The input that every system gets."""
    return np.random.default_rng(0).standard_normal((batch, *shape)).astype(np.float32)


def seeded_model(name: str):
    """The Ingot model with reproducible weights, batch statistics included (so that folding them matters)."""
    import ingot as torch
    import models

    torch.manual_seed(0)
    model = models.MODELS[name][0]()
    rng = np.random.default_rng(1)
    for key, buffer in model.named_buffers():
        if key.endswith("running_mean"):
            buffer.numpy()[...] = rng.standard_normal(buffer.shape) * 0.1
        elif key.endswith("running_var"):
            buffer.numpy()[...] = rng.uniform(0.5, 1.5, tuple(buffer.shape))
    return model.eval()


def prepare_ingot(args, x):
    import ingot

    for name in ("codegen.library", "codegen.assemble", "passes.pipeline", "program", "kernel_failure"):
        importlib.import_module(f"ingot.{name}")  # imports are not part of compiling
    importlib.import_module("llvmlite.binding")
    model = seeded_model(args.model)
    start = time.perf_counter()
    exe = ingot.compile(model, ingot.from_numpy(x), threads=args.threads)
    compile_seconds = time.perf_counter() - start
    out = exe(x)
    executable = exe.executable
    if args.output:
        np.save(args.output, out)
    program = exe.program
    facts = {
        "compile_seconds": compile_seconds,
        "stages": exe.report.seconds,
        "kernels": len(program.kernels) - 1,
        "steps": len(program.steps),
        "compiled": exe.report.compiled,
        "arena": program.memory.arena,
        "arena_efficiency": program.memory.efficiency,
        "flops": sum(s.flops for s in program.steps),
    }
    if args.artifact:
        exe.save(args.artifact)
    return (lambda: executable.run([x])), facts


def prepare_load(args, x):
    """Load a saved artefact: the facts are what is wanted."""
    import ingot.runtime.executable  # noqa: F401  imports are not part of loading
    from ingot import driver

    start = time.perf_counter()
    exe = driver.load_executable(args.artifact, threads=args.threads)
    executable = exe.executable
    loaded = time.perf_counter()
    executable.run([x])
    first = time.perf_counter()
    return (lambda: executable.run([x])), {"load_seconds": loaded - start, "first_call_seconds": first - loaded}


def prepare_ort(args, x):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = args.threads
    options.inter_op_num_threads = 1
    start = time.perf_counter()
    session = ort.InferenceSession(args.onnx, options, providers=["CPUExecutionProvider"])
    seconds = time.perf_counter() - start
    name = session.get_inputs()[0].name
    out = session.run(None, {name: x})[0]
    if args.output:
        np.save(args.output, out)
    return (lambda: session.run(None, {name: x})), {"compile_seconds": seconds}


def prepare_torch(args, x):
    import torch
    from peers import torch_models

    torch.set_num_threads(args.threads)
    model = torch_models().MODELS[args.model][0]().eval()
    state = {k: torch.from_numpy(np.array(v.numpy())) for k, v in seeded_model(args.model).state_dict().items()}
    model.load_state_dict(state)
    given = torch.from_numpy(x)

    def call():
        with torch.inference_mode():
            return model(given)

    out = call()
    if args.output:
        np.save(args.output, out.numpy())
    return call, {"compile_seconds": 0.0}


SYSTEMS = {"ingot": prepare_ingot, "load": prepare_load, "onnxruntime": prepare_ort, "torch": prepare_torch}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--onnx")
    parser.add_argument("--artifact")
    parser.add_argument("--output", help="where to save the result of the first call (.npy)")
    args = parser.parse_args()
    import models

    x = example(models.MODELS[args.model][1], args.batch)
    call, facts = SYSTEMS[args.system](args, x)
    call()
    print(json.dumps({"ready": facts}), flush=True)
    for line in sys.stdin:
        deadline = time.perf_counter() + json.loads(line)["seconds"]
        times = []
        while time.perf_counter() < deadline or len(times) < 2:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        print(json.dumps({"times": times}), flush=True)


if __name__ == "__main__":
    main()
