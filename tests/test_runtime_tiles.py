"""Permission for matrix tiles: asked for before a program with tile kernels runs, and what happens without it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import ingot
import numpy as np
import pytest
from ingot import nn
from ingot.codegen.host import target_named
from ingot.driver import Options, Report, build, optimise, trace_inference
from ingot.ir.errors import UnsupportedError
from ingot.runtime import artifact, cpu, encoding

pytestmark = pytest.mark.isa("x86_64")


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    cpu.tile_refusal.cache_clear()
    yield
    cpu.tile_refusal.cache_clear()


def pretend(monkeypatch: pytest.MonkeyPatch, answer: int | None) -> list[tuple[int, ...]]:
    """A CPU with tiles whose system answers ``answer`` (None: a CPU without); returns what it is asked."""
    asked: list[tuple[int, ...]] = []
    features = cpu.host_features() - {"amx-tile", "amx-bf16", "avx512bf16"}
    if answer is not None:
        features |= set(target_named("x86-64-amx").features)

    def syscall(*args: int) -> int:
        asked.append(args)
        return answer or 0

    monkeypatch.setattr(cpu, "host_features", lambda: features)
    monkeypatch.setattr(cpu.sys, "platform", "linux")
    monkeypatch.setattr(cpu.ctypes, "CDLL", lambda *_, **__: SimpleNamespace(syscall=syscall))
    return asked


def model() -> tuple[nn.Module, np.ndarray]:
    rng = np.random.default_rng(0)
    layers = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 64))
    return layers, rng.standard_normal((64, 256)).astype(np.float32)


def test_permission_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pretend(monkeypatch, 0)
    assert cpu.tile_refusal() is None and cpu.tile_refusal() is None
    assert asked == [(158, 0x1023, 18)]


def test_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, -1)
    assert "refuses this process the matrix tiles" in (cpu.tile_refusal() or "")
    cpu.tile_refusal.cache_clear()
    asked = pretend(monkeypatch, None)
    assert "has no matrix tile unit" in (cpu.tile_refusal() or "") and asked == []


def test_programs_record_that_they_use_tiles() -> None:
    layers, x = model()
    target = target_named("x86-64-amx")
    program = build(trace_inference(layers, [x]).graph, Options(target=target, precision="bfloat16", cache=False))
    assert program.uses_tiles
    assert encoding.decode(encoding.encode(program)).uses_tiles
    assert not encoding.decode({k: v for k, v in encoding.encode(program).items() if k != "uses_tiles"}).uses_tiles
    with pytest.raises(ValueError, match="uses_tiles: expected true or false"):
        encoding.decode({**encoding.encode(program), "uses_tiles": "no"})
    plain = build(trace_inference(layers, [x]).graph, Options(target=target, precision="float32", cache=False))
    emulated = Options(target="x86-64-amx-emulated", precision="bfloat16", cache=False)
    assert not plain.uses_tiles and not build(trace_inference(layers, [x]).graph, emulated).uses_tiles


def test_kernels_from_the_cache_still_need_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGOT_CACHE_DIR", str(tmp_path))
    layers, x = model()
    for _ in range(2):
        program = build(trace_inference(layers, [x]).graph, Options(target="x86-64-amx", precision="bfloat16"))
        assert program.uses_tiles


def test_a_program_with_tiles_is_refused_without_permission(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    layers, x = model()
    compiled = ingot.compile(layers, x, target="x86-64-amx", precision="bfloat16", cache=False)
    compiled.save(tmp_path / "tiles.ingot")
    pretend(monkeypatch, -1)
    with pytest.raises(UnsupportedError, match=r"refuses this process the matrix tiles.*precision='float32'"):
        ingot.load_executable(tmp_path / "tiles.ingot")(x)
    assert artifact.load(tmp_path / "tiles.ingot").uses_tiles


def test_compiling_falls_back_with_one_log_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU with tiles that the system withholds, and one without: float32 kernels, and a line that says why."""
    layers, x = model()
    amx, avx512 = (target_named(f"x86-64-{level}") for level in ("amx", "avx512"))
    for answer, host, why in ((-1, amx, "refuses this process"), (None, avx512, "no bfloat16 matrix tiles")):
        cpu.tile_refusal.cache_clear()
        pretend(monkeypatch, answer)
        monkeypatch.setattr("ingot.codegen.host.host_target", lambda host=host: host)
        options = Options(precision="bfloat16", cache=False)
        assert not options.resolve_target().has_tiles
        report = Report()
        graph = optimise(trace_inference(layers, [x]).graph, options, report)
        lines = [line for line in report.log if "precision bfloat16" in line]
        assert len(lines) == 1 and why in lines[0], report.log
        assert not any(v.type.layout.form for v in graph.values())
