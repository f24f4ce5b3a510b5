"""The errors that users meet; the class docstring is the documentation of that error (docs/errors.md).

All derive from ``IngotError``. Those that PyTorch would raise as a builtin also derive from that
builtin, so ``except RuntimeError`` in a user's program keeps working.
"""

from __future__ import annotations

from collections.abc import Iterable


class IngotError(Exception):
    """Base of all errors raised by Ingot on purpose."""


class ShapeError(IngotError, RuntimeError):
    """Operand shapes do not fit the operator. The message names the operator, shapes and the rule."""


class DTypeError(IngotError, TypeError, RuntimeError):
    """Operand dtypes do not fit the operator, or an input has another dtype than was compiled for.

    A RuntimeError too, because that is what PyTorch raises for most of them.
    """


class VerifyError(IngotError):
    """The IR is malformed. Always an internal error: a pass broke an invariant; report it."""


class UnsupportedError(IngotError, NotImplementedError):
    """The program uses something that this stage cannot handle.

    ``items`` holds one line per unsupported thing (module path, operator, shapes, source line, what
    was expected, what to try); all of them are collected before raising.
    """

    def __init__(self, message: str, items: Iterable[str] = ()) -> None:
        self.items = tuple(items)
        super().__init__("\n".join([message, *(f"  - {item}" for item in self.items)]))


class DataDependentError(IngotError, RuntimeError):
    """``forward`` branched on tensor data or on a symbolic size while being traced.

    A compiled graph has one path; use ``ingot.where`` or masks instead, or keep the decision outside
    the compiled function.
    """


class ParseError(IngotError, ValueError):
    """A text or file is not what it claims to be; the message gives the position and what was expected."""


class InputError(IngotError, RuntimeError):
    """A compiled executable was called with an input of the wrong count, name, shape, dtype or device."""


class ArtifactError(IngotError, RuntimeError):
    """An ``.ingot`` file is truncated, altered, of another version, or for another CPU."""


class UnpicklingError(IngotError, RuntimeError):
    """A checkpoint needs a global that is not on the allow-list; nothing of it was executed."""


class PassError(IngotError):
    """A compiler pass failed. Internal error; the message names the pass and the reproducer file."""


class KernelError(IngotError):
    """Code generation failed for a kernel. Internal error; the message names the operator, its source line and
    the file that replays the failure."""


class CheckError(IngotError):
    """Compiled results depart from the float64 oracle; the message names the first operator."""
