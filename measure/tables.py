"""Profiles and comparisons as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .comparison import Results, fastest_peer, median_ms, ratio
from .profiling import KernelTime, Profile
from .systems import System


def print_profile(profile: Profile, console: Console, *, by_time: bool = False, top: int | None = None) -> None:
    """One row per kernel, slowest first if ``by_time``, at most ``top``; then totals and the machine's limits."""
    kernels = sorted(profile.kernels, key=lambda k: -k.seconds) if by_time else profile.kernels
    shown, total = kernels[:top], max(profile.kernel_seconds, 1e-12)
    both = any(k.direct and k.flops and abs(k.direct / k.flops - 1) > 1e-3 for k in profile.kernels)
    table = Table(title=None, pad_edge=False)
    for name in ("#", "kernel", "us", "%", "MFLOP", "GFLOP/s", "direct", "MB", "GB/s", "bound", "roof"):
        if name != "direct" or both:
            table.add_column(name, justify="left" if name in ("kernel", "bound") else "right",
                             overflow="fold", no_wrap=name != "kernel")  # fmt: skip
    for k in shown:
        cells = [str(k.index), _name(k), _us(k.seconds), f"{100 * k.seconds / total:.1f}"]
        cells += _rates(k.flops, k.direct, k.bytes, k.seconds, both)
        table.add_row(*cells, k.bound, f"{100 * k.share:.0f}%" if k.bound else "-")
    if len(shown) < len(kernels):
        rest = kernels[len(shown) :]
        seconds = sum(k.seconds for k in rest)
        blank = [""] * (len(table.columns) - 4)
        table.add_row("", f"{len(rest)} more", _us(seconds), f"{100 * seconds / total:.1f}", *blank)
    table.add_section()
    sums = tuple(_total([getattr(k, what) for k in kernels]) for what in ("flops", "direct", "bytes"))
    limit = sum(k.limit_seconds for k in kernels)
    known = None not in sums
    cells = ["", f"all {len(kernels)} kernels", _us(total), "100"]
    cells += _rates(*sums, total, both)
    table.add_row(*cells, "", f"{100 * limit / total:.0f}%" if known else "-", style="bold")
    table.add_row("", "outside kernels", _us(profile.outside_seconds), *[""] * (len(table.columns) - 3))
    console.print(table)
    for line in _footer(profile, known):
        console.print(Text(line))


def _name(k: KernelTime) -> Text:
    text = Text()
    if k.layers:
        text.append(k.layers, style="bold").append("\n")
    text.append(k.operators)
    if k.schedule:
        text.append("\n").append(k.schedule, style="dim")
    return text


def _rates(
    flops: float | None, direct: float | None, moved: float | None, seconds: float, both: bool
) -> list[str]:  # fmt: skip
    """MFLOP, GFLOP/s, with ``both`` also GFLOP/s in direct form, MB and GB/s."""
    work = [_number(flops, 1e6), _number(flops, 1e9 * seconds)]
    work += [_number(direct, 1e9 * seconds)] if both else []
    return [*work, _number(moved, 1e6), _number(moved, 1e9 * seconds)]


def _number(value: float | None, unit: float) -> str:
    if value is None:
        return "-"
    scaled = value / unit
    return f"{scaled:.0f}" if scaled >= 100 else f"{scaled:.3g}"


def _total(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) if len(known) == len(values) else None


def _us(seconds: float) -> str:
    us = seconds * 1e6
    return f"{us:.0f}" if us >= 1000 else f"{us:.1f}"


def _footer(profile: Profile, known: bool) -> list[str]:
    limits = profile.limits
    rates = ", ".join(f"{name} {rate / 1e9:.1f} GB/s" for name, rate in limits.bandwidth.items())
    unit = f", {limits.bf16_flops / 1e9:.0f} GFLOP/s bfloat16 products" if limits.bf16_flops else ""
    lines = [
        f"{profile.runs} calls with {profile.threads} threads, medians; "
        f"a call from Python: {_us(profile.call_seconds)} us",
        f"limits measured in between: {limits.flops / 1e9:.0f} GFLOP/s float32 multiply-add{unit}, reading {rates}",
    ]
    if not known:
        lines.append("work is recorded for the upper bounds of symbolic extents; give those (--extent) to see rates")
    return lines


def print_comparison(results: Results, systems: Sequence[System], console: Console) -> None:
    """One row per system, then what could not run and why, and Ingot beside the fastest peer."""
    ours = next((s.name for s in systems if s.is_ingot and median_ms(results, s.name)), None)
    table = Table(pad_edge=False)
    for name in (
        "system",
        "median ms",
        "p10",
        "p90",
        "calls",
        "Ingot is faster by",
        "L2 error",
        "set up s",
        "peak MiB",
    ):
        table.add_column(name, justify="left" if name == "system" else "right")
    for s in systems:
        entry = results[s.name]
        measured = results.get(entry.get("same_as", s.name), entry)
        if "median_ms" not in measured:
            continue
        facts = measured["facts"]
        speed = ratio(results, ours, s.name) if ours is not None and not s.is_ingot else None
        error = entry.get("l2_error")
        table.add_row(
            s.title + (" (the same)" if "same_as" in entry else ""),
            *(f"{measured[k]:.3f}" for k in ("median_ms", "p10_ms", "p90_ms")), str(measured["calls"]),
            "" if speed is None else f"{speed:.2f}", "-" if error is None else f"{error:.1e}",
            f"{facts['compile_seconds']:.2f}", f"{facts['peak_mib']:.0f}",
        )  # fmt: skip
    console.print(table)
    for s in systems:
        if "failed" in results[s.name]:
            console.print(Text(f"{s.title}: {results[s.name]['failed']}"))
    for text in _verdicts(results, systems):
        console.print(Text(text))


def _verdicts(results: Results, systems: Sequence[System]) -> list[str]:
    """Per precision of Ingot, the fastest peer of the same accuracy class."""
    titles = {s.name: s.title for s in systems}
    lines = []
    for s in systems:
        if not s.is_ingot or "same_as" in results[s.name]:
            continue
        peers = [p for p in systems if not p.is_ingot and (p.exact or not s.exact)]
        fastest = fastest_peer(results, peers)
        speed = ratio(results, s.name, fastest)
        if fastest is not None and speed is not None:
            lines.append(f"{s.title} is {speed:.2f} times as fast as the fastest comparable peer, {titles[fastest]}")
    return lines
