"""Finding the user's line: the nearest stack frame outside Ingot's own rooms."""

from __future__ import annotations

import os
import sys

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_ROOMS = tuple(os.path.join(_ROOT, room) + os.sep for room in ("frontend", "ir", "passes", "codegen", "runtime"))
_COMMAND_LINE = os.path.join(_ROOT, "cli_arguments.py")  # traces for the commands: nothing outside it is the user's
_internal: dict[str, bool] = {}


def _is_internal(filename: str) -> bool:
    # The repository root is the package, so tests and examples live below it too: only the rooms and
    # the root's own modules (driver, cli) count as Ingot's.
    known = _internal.get(filename)
    if known is None:
        path = os.path.abspath(filename)
        known = path.startswith(_ROOMS) or os.path.dirname(path) == _ROOT
        _internal[filename] = known
    return known


def user_location() -> tuple[str, int]:
    """(file, line) of the innermost frame that is the user's; ("", 0) if there is none."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_filename == _COMMAND_LINE:
            break
        if not _is_internal(code.co_filename) and not code.co_filename.startswith("<frozen"):
            return code.co_filename, frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]
    return "", 0


def user_place() -> str:
    """``file:line`` of the user's frame, for messages."""
    file, line = user_location()
    return f"{file}:{line}" if file else "unknown line"
