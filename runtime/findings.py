"""What measurements found about schedules (``tune=``), as a file that people can read.

One TOML table per kernel. A finding counts for one kernel key (which covers operator, shapes, layouts, target and the
code generator's own source) and one number of threads, and names a schedule that the code generator offers for that
kernel; nothing else in a file reaches generated code. Without a name of its own the file is ``tuning.toml`` in the
kernel cache's folder, and, like the cache, a convenience: trouble with it costs a warning. A file that the user
names must be whole.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import tomllib
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

import filelock

from ..ir.errors import ParseError

VERSION = 1
MOST_BYTES = 16 << 20
MOST_FINDINGS = 4096  # in one file; the oldest go first
_LOCK_SECONDS = 10.0
_HEAD = """# Schedules that were measured to be the fastest (ingot, tune=). A finding is used for the same kernel on the
# same target with the same number of threads, as long as the code generator stays the same. It may be deleted.
"""


@dataclass(frozen=True)
class Finding:
    """What measuring one kernel gave.

    Attributes:
        key: the kernel's key in the kernel cache, with the schedule that the rule chose.
        threads: threads that it was measured with.
        kernel: layers and operators of the first place where the kernel stood; target: its name. For people.
        rule, schedule: names of the rule's schedule and of the fastest one (equal: none was faster).
        rule_us, schedule_us: microseconds per run that both took, in turns.
        measured: how many other schedules were measured, in the order that the code generator offers them.
        date: ISO 8601, UTC.
    """

    key: str
    threads: int
    kernel: str
    target: str
    rule: str
    schedule: str
    rule_us: float
    schedule_us: float
    measured: int
    date: str

    @property
    def is_tuned(self) -> bool:
        """Whether another schedule than the rule's is to be used."""
        return self.schedule != self.rule

    def __str__(self) -> str:
        """For the log line of the kernel."""
        how = f"{self.threads} thread{'' if self.threads == 1 else 's'}, {self.date[:10]}"
        others = f"{self.measured} other{'' if self.measured == 1 else 's'}"
        if not self.is_tuned:
            return f"measured: {self.rule_us:.1f} us, {others} no faster ({how})"
        return (
            f"measured: {self.schedule_us:.1f} us, best of {self.measured + 1}; the rule's choice [{self.rule}] "
            f"{self.rule_us:.1f} us ({how})"
        )


class FindingsFile:
    """Findings on disk.

    Args:
        path: the file; None: no file, findings live as long as this object.
        named: the user named the file: what is wrong with it is an error instead of a warning.
    """

    def __init__(self, path: str | os.PathLike[str] | None, *, named: bool = False) -> None:
        self.path = None if path is None else Path(path)
        self.named = named
        self._held: dict[tuple[str, int], Finding] = {}

    def load(self) -> dict[tuple[str, int], Finding]:
        """Findings by (key, threads).

        Raises (named files only): ParseError for a file that is none of ours, OSError.
        """
        if self.path is None:
            return dict(self._held)
        try:
            return _read(self.path)
        except FileNotFoundError:
            return {}
        except (OSError, ParseError) as error:
            if self.named:
                raise
            self._warn(f"{error}; it is not used and will be written anew")
            return {}

    def add(self, found: Mapping[tuple[str, int], Finding]) -> None:
        """Adds ``found`` to what the file holds by now, replacing findings of equal key and threads.

        The file appears complete or not at all, also with several writers. Raises as ``load`` does.
        """
        self._held.update(found)
        if self.path is None or not found:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=_LOCK_SECONDS):
                _write(self.path, {**self.load(), **found})
        except (OSError, NotImplementedError) as error:  # filelock.Timeout is an OSError
            if self.named:
                raise
            self._warn(f"findings cannot be kept ({error})")

    def _warn(self, what: str) -> None:
        warnings.warn(f"{self.path}: {what}", RuntimeWarning, stacklevel=3)


def _read(path: Path) -> dict[tuple[str, int], Finding]:
    with open(path, "rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ParseError(f"{path}: more than {MOST_BYTES >> 20} MiB are no file of findings")
    try:
        content = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, nested without end
        raise ParseError(f"{path} is no file of findings: {error}") from None
    if content.get("version") != VERSION:
        raise ParseError(f"{path} is no file of findings of version {VERSION} (version = {content.get('version')!r})")
    entries = content.get("finding", [])
    if not isinstance(entries, list):
        raise ParseError(f"{path}: finding is no array of tables")
    found = [_parse(path, i, entry) for i, entry in enumerate(entries)]
    return {(f.key, f.threads): f for f in found}


def _parse(path: Path, number: int, entry: object) -> Finding:
    if not isinstance(entry, dict):
        raise ParseError(f"{path}: finding {number} is no table")
    values = {}
    for field in fields(Finding):
        value = entry.get(field.name)
        if field.type == "float" and type(value) is int:
            value = float(value)
        if type(value).__name__ != field.type:
            raise ParseError(f"{path}: {field.name} of finding {number} is {value!r:.60}, not a {field.type}")
        good = (math.isfinite(value) and value >= 0) if isinstance(value, (int, float)) else len(value) <= 2000  # type: ignore[arg-type]
        if not good:
            raise ParseError(f"{path}: {field.name} of finding {number} is out of range: {value!r:.60}")
        values[field.name] = value
    return Finding(**values)  # type: ignore[arg-type]


def _write(path: Path, found: Mapping[tuple[str, int], Finding]) -> None:
    newest = sorted(found.values(), key=lambda f: f.date)[-MOST_FINDINGS:]
    parts = [f"{_HEAD}version = {VERSION}\n"]
    for finding in newest:
        lines = [f"{field.name} = {_value(getattr(finding, field.name))}\n" for field in fields(Finding)]
        parts.append("\n[[finding]]\n" + "".join(lines))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            file.write("".join(parts))
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def _value(value: str | int | float) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, int):
        return str(value)
    # A JSON string of printable characters is a TOML string.
    return json.dumps("".join(c if c.isprintable() else "?" for c in value)[:2000], ensure_ascii=False)
