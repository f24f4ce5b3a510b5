"""Targets: this machine's, and the named portable ones."""

from __future__ import annotations

import functools
import os
import platform
import re
from dataclasses import replace
from pathlib import Path

from ..ir.target import TILE_EMULATION, Target
from .assemble import llvm

X86_TRIPLE = "x86_64-unknown-linux-gnu"
AARCH64_TRIPLE = "aarch64-unknown-linux-gnu"

_SSE2 = ("cmov", "cx8", "fxsr", "mmx", "sse", "sse2")
_AVX2 = (
    *_SSE2, "avx", "avx2", "bmi", "bmi2", "crc32", "cx16", "f16c", "fma", "lzcnt", "movbe", "popcnt", "sse3", "sse4.1",
    "sse4.2", "ssse3", "xsave",
)  # fmt: skip
_AVX512 = (*_AVX2, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")
_AMX = (*_AVX512, "amx-bf16", "amx-tile", "avx512bf16")
_REQUIRED = {
    "x86-64": frozenset(_SSE2),
    "x86-64-avx2": frozenset(_AVX2),
    "x86-64-avx512": frozenset(_AVX512),
    "x86-64-amx": frozenset(_AMX),
    "aarch64": frozenset({"fp-armv8", "neon"}),
}
_X86_LEVELS = ("x86-64", "x86-64-avx2", "x86-64-avx512", "x86-64-amx")  # ascending

_NAMED = {
    "x86-64": Target("x86-64", X86_TRIPLE, "x86-64", tuple(sorted(_SSE2)), vector_bytes=16, vector_registers=16),
    "x86-64-avx2": Target(
        "x86-64-avx2", X86_TRIPLE, "x86-64", tuple(sorted(_AVX2)), vector_bytes=32, vector_registers=16
    ),
    "x86-64-avx512": Target(
        "x86-64-avx512", X86_TRIPLE, "x86-64", tuple(sorted(_AVX512)), vector_bytes=64, vector_registers=32
    ),
    "x86-64-amx": Target(
        "x86-64-amx", X86_TRIPLE, "x86-64", tuple(sorted(_AMX)), vector_bytes=64, vector_registers=32,
        l1_bytes=48 << 10, l2_bytes=2 << 20,
    ),
    # Vectors of 64 bytes, so that layouts are those of the real unit; LLVM splits them.
    "x86-64-amx-emulated": Target(
        "x86-64-amx-emulated", X86_TRIPLE, "x86-64", tuple(sorted((*_AVX2, TILE_EMULATION))), vector_bytes=64,
        vector_registers=16, l1_bytes=48 << 10, l2_bytes=2 << 20,
    ),
    "aarch64": Target(
        "aarch64", AARCH64_TRIPLE, "generic", ("fp-armv8", "neon"), vector_bytes=16, vector_registers=32,
        l1_bytes=64 << 10,
    ),
}  # fmt: skip
NAMES = (*_NAMED, "host")
# Target.bf16_dot by LLVM's CPU name, as measured (``python benchmarks/kernels.py`` prints it). The feature alone is no
# reason to use the instruction: some CPUs run it at less than the rate of two FMAs.
_BF16_DOT = {"znver4": 2.0}
# LLVM's names of CPUs that finish one multiply-add of 64 bytes per cycle: Zen 4 halves them, clients of Intel with
# AVX-512 have a single unit. The others have two (some server models less; LLVM does not tell them apart).
_ONE_WIDE_FMA = frozenset(("cannonlake", "icelake-client", "rocketlake", "tigerlake", "znver4"))
# Newer instruction sets that kernels do not need, and whose names the system spells in its own way.
_LEFT_OUT = frozenset((
    "avx10.1", "avx10.1-256", "avx10.1-512", "avx10.2", "avx10.2-256", "avx10.2-512", "ccmp", "cf", "egpr", "jmpabs",
    "movrs", "ndd", "nf", "ppx", "push2pop2", "raoint", "zu",
))  # fmt: skip


def target_named(name: str) -> Target:
    """The Target called ``name``: ``"x86-64"``, ``"x86-64-avx2"``, ``"x86-64-avx512"``, ``"x86-64-amx"``,
    ``"x86-64-amx-emulated"``, ``"aarch64"`` or ``"host"``.

    The portable ones have fixed feature sets, so code for them is the same wherever it is compiled.
    """
    if name == "host":
        return host_target()
    try:
        return _NAMED[name]
    except KeyError:
        raise ValueError(f"unknown target {name!r}; known: {', '.join(NAMES)}") from None


def host_target(limit: str | None = None) -> Target:
    """This machine, capped at the portable target ``limit`` (default: what INGOT_TARGET says, or no cap).

    A cap that this machine cannot reach is ignored (an AVX-512 cap on an AVX2 machine gives AVX2); one for
    another architecture is a ValueError.
    """
    limit = limit or os.environ.get("INGOT_TARGET") or "host"
    return _host(limit)


@functools.cache
def _host(limit: str) -> Target:
    full = _detect()
    if limit == "host":
        return full
    cap = target_named(limit)
    if cap.is_x86 != full.is_x86:
        raise ValueError(f"this machine is {full.name}; it cannot run code for target {limit!r}")
    if limit == "x86-64-amx-emulated":
        return cap
    if full.is_x86 and _X86_LEVELS.index(limit) > _X86_LEVELS.index(full.name):
        return full
    return replace(
        cap, l1_bytes=full.l1_bytes, l2_bytes=full.l2_bytes, l3_bytes=full.l3_bytes, clock_ghz=full.clock_ghz
    )


def _detect() -> Target:
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        name, cpu, features = _x86_features()
    elif machine in ("aarch64", "arm64"):
        name, cpu, features = _arm_features()
    else:
        raise ValueError(f"no target for machine {machine!r}; Ingot generates code for x86-64 and AArch64")
    l1, l2, l3 = cache_sizes(_NAMED[name])
    return replace(
        _NAMED[name], cpu=cpu, features=features, fma_ports=fma_ports(name, cpu), l1_bytes=l1, l2_bytes=l2, l3_bytes=l3,
        clock_ghz=_clock_ghz(), bf16_dot=_BF16_DOT.get(cpu, 0.0) if "avx512bf16" in features else 0.0,
    )  # fmt: skip


def fma_ports(name: str, cpu: str) -> int:
    """Multiply-adds per cycle on the widest vectors of target ``name`` on the CPU that LLVM calls ``cpu``."""
    return 1 if _NAMED[name].vector_bytes == 64 and cpu in _ONE_WIDE_FMA else _NAMED[name].fma_ports


def _host_features() -> tuple[str, frozenset[str]]:
    binding = llvm()
    try:
        found = binding.get_host_cpu_features()
    except RuntimeError:  # LLVM cannot tell on this system
        return "", frozenset()
    return binding.get_host_cpu_name(), frozenset(name for name, on in found.items() if on) - _LEFT_OUT


def _x86_features() -> tuple[str, str, tuple[str, ...]]:
    cpu, features = _host_features()
    if not features:
        return "x86-64", "x86-64", _NAMED["x86-64"].features
    name = next((n for n in reversed(_X86_LEVELS) if _REQUIRED[n] <= features), "x86-64")
    return name, cpu if cpu not in ("", "generic") else "x86-64", tuple(sorted(features))


def _arm_features() -> tuple[str, str, tuple[str, ...]]:
    cpu, features = _host_features()
    return "aarch64", cpu or "generic", tuple(sorted(features | _REQUIRED["aarch64"]))


def cache_sizes(default: Target) -> tuple[int, int, int]:
    """(L1 data, L2, L3) of core 0 in bytes from sysfs; ``default``'s where the system does not say."""
    sizes = {1: default.l1_bytes, 2: default.l2_bytes, 3: default.l3_bytes}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            if (index / "type").read_text().strip() == "Instruction":
                continue
            level = int((index / "level").read_text())
            match = re.fullmatch(r"(\d+)([KMG]?)", (index / "size").read_text().strip())
        except (OSError, ValueError):
            continue
        if match and level in sizes and int(match[1]):
            sizes[level] = int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]
    return sizes[1], sizes[2], sizes[3]


def _clock_ghz() -> float:
    """Nominal clock for cost estimates; a guess of 3 GHz where the system does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return 3.0
    match = re.search(r"model name.*@ ([\d.]+)\s*GHz", text) or re.search(r"cpu MHz\s*: ([\d.]+)", text)
    if not match:
        return 3.0
    value = float(match[1])
    return value if value < 100 else round(value / 1000, 1)
