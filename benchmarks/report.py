"""The results file of run.py as markdown tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ingot.measure.comparison import EQUAL, fastest_peer, geometric_mean, median_ms, ratio
from ingot.measure.systems import System, ingot_systems, peer_systems

Row = dict[str, Any]
MODELS = ("mlp", "lenet", "resnet20", "resnet18", "resnet50", "vgg16", "mobilenet_v2", "unet", "encoder")
LARGE = ("resnet18", "resnet50", "vgg16", "unet", "encoder")
INGOT, ALL_PEERS = ingot_systems(), peer_systems()
EXACT = [s for s in ALL_PEERS if s.exact]
FREE = [s for s in ALL_PEERS if not s.exact]


def key(row: Row) -> tuple[str, int, int]:
    return row["model"], row["batch"], row["threads"]


def read(path: Path) -> list[Row]:
    """The rows in ``path``; a line that an abrupt end cut short is left out."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def summary(row: Row) -> str:
    """One line for the log."""
    results = row["results"]
    fastest = fastest_peer(results, EXACT)
    speed = ratio(results, "ingot-float32", fastest)
    failed = [name for name, entry in results.items() if "failed" in entry]
    text = f"{row['model']} batch {row['batch']}, {row['threads']} threads: Ingot {_ms(results, 'ingot-float32')} ms, "
    text += f"{fastest} {_ms(results, fastest or '')} ms" + ("" if speed is None else f", ratio {speed:.2f}")
    return text + (f"; failed: {', '.join(failed)}" if failed else "")


def markdown(rows: Sequence[Row]) -> str:
    """Times and ratios per number of threads, what they amount to, errors, and what failed."""
    rows = sorted(rows, key=lambda r: (-r["threads"], MODELS.index(r["model"]), r["batch"]))
    parts = []
    for threads in sorted({r["threads"] for r in rows}, reverse=True):
        some = [r for r in rows if r["threads"] == threads]
        parts += [f"### {threads} thread{'s' if threads > 1 else ''}", _times(some), *_verdicts(some)]
    if rows:
        parts += ["### Errors", _errors(rows), _facts(rows)]
    failures = sorted({f"- {r['model']} batch {r['batch']}: {name}: {e['failed']}" for r in rows
                       for name, e in r["results"].items() if "failed" in e})  # fmt: skip
    return "\n\n".join([*parts, *(["Not measured:\n" + "\n".join(failures)] if failures else [])])


def _times(rows: Sequence[Row]) -> str:
    columns = _present(rows, [*INGOT, *ALL_PEERS])
    ours = [s for s in columns if s.is_ingot]
    head = ["model", "batch", *(f"{s.title} ms" for s in columns), *(f"ratio {s.settings['precision']}" for s in ours)]
    lines = []
    for r in rows:
        results = r["results"]
        fastest = fastest_peer(results, EXACT)
        cells = [r["model"], str(r["batch"])]
        for s in columns:
            text = _ms(results, s.name)
            cells.append(f"**{text}**" if s.name == fastest else text)
        cells += [_number(ratio(results, s.name, _rival(results, s))) for s in ours]
        lines.append(cells)
    return _table(head, lines)


def _rival(results: Any, system: System) -> str | None:
    """Whom a precision is compared with: the fastest peer in float32, bfloat16 the one at its default setting."""
    return fastest_peer(results, EXACT if system.exact else FREE)


def _verdicts(rows: Sequence[Row]) -> list[str]:
    lines = []
    for s in _present(rows, INGOT):
        ratios = [ratio(r["results"], s.name, _rival(r["results"], s)) for r in rows]
        large = [x for x, r in zip(ratios, rows, strict=True) if r["model"] in LARGE]
        known = [x for x in ratios if x is not None]
        if not known:
            continue
        text = f"- {s.settings['precision']} beside the fastest peer {'in float32' if s.exact else 'at its default'}: "
        text += f"geometric mean {geometric_mean(known):.2f}, least {min(known):.2f}, "
        text += f"{sum(x >= EQUAL for x in known)} of {len(known)} rows at least as fast ({EQUAL} counts)"
        mean = geometric_mean(large)
        lines.append(text + ("" if mean is None else f"; over {', '.join(LARGE)}: {mean:.2f}"))
    return ["\n".join(lines)] if lines else []


def _errors(rows: Sequence[Row]) -> str:
    """Of batch 1 with the most threads that were measured; huge pages and threads change no bit of it."""
    columns = _present(rows, [s for s in [*INGOT, *ALL_PEERS] if not s.huge_pages])
    lines = []
    for model in MODELS:
        found = [r for r in rows if r["model"] == model]
        if found:
            results = min(found, key=lambda r: (r["batch"], -r["threads"]))["results"]
            errors = [results.get(s.name, {}).get("l2_error") for s in columns]
            lines.append([model, *("" if e is None else f"{e:.1e}" for e in errors)])
    return _table(["model", *(s.title for s in columns)], lines)


def _facts(rows: Sequence[Row]) -> str:
    versions = {
        f"{name.split('-')[0]} {entry['facts']['version']}"
        for r in rows
        for name, entry in r["results"].items()
        if "version" in entry.get("facts", {})
    }
    dates = sorted(r["date"] for r in rows)
    machines = ", ".join(sorted({r["machine"] for r in rows}))
    return f"{machines}; {', '.join(sorted(versions))}; {dates[0]} to {dates[-1]}."


def _present(rows: Sequence[Row], systems: Iterable[System]) -> list[System]:
    """The systems that some row measured, and not only as the same as another."""
    used: Callable[[System], bool] = lambda s: any("median_ms" in r["results"].get(s.name, {}) for r in rows)  # noqa: E731
    return [s for s in systems if used(s)]


def _ms(results: Any, name: str) -> str:
    value = median_ms(results, name)
    return "" if value is None else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
