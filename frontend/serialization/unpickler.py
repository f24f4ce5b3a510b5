"""A pickle reader that builds data and calls nothing but an explicit list of our own functions.

It runs the opcodes that ``pickletools.genops`` decodes. Compared with ``pickle.Unpickler`` and a ``find_class``:
a memo index or a length in a hostile file never allocates memory by itself, BUILD cannot reach arbitrary
``__setstate__`` methods, the extension registry does not exist, nothing recurses, and messages give positions.
"""

from __future__ import annotations

import pickletools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from typing import Any, Protocol

from ...ir.errors import ParseError, UnpicklingError

_MARK = object()


class Stream(Protocol):
    """What opcodes are read from (``io.BytesIO``, ``mmap``): ``read(n)`` must not allocate more than there is."""

    def read(self, size: int = -1, /) -> bytes: ...
    def readline(self) -> bytes: ...
    def tell(self) -> int: ...


@dataclass(frozen=True)
class AllowedCall:
    """An entry of the allow-list that REDUCE and NEWOBJ may call: our own function, under the pickle's name for it."""

    name: str
    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


class Unpickler:
    """Reads one pickle from ``stream``.

    Args:
        stream: positioned at the pickle; left behind its STOP.
        find_global: ``(module, name)`` -> AllowedCall or a plain value; raises UnpicklingError for all others.
        persistent_load: what a persistent id stands for.
        where: name of the file, for messages.
        budget: how many items calls may copy altogether. A copy of a remembered list costs a few bytes of pickle,
            so without a bound a small file could ask for any amount of memory.
    """

    def __init__(
        self,
        stream: Stream,
        find_global: Callable[[str, str], Any],
        persistent_load: Callable[[Any], Any],
        where: str,
        budget: int,
    ) -> None:
        self.stream = stream
        self.find_global = find_global
        self.persistent_load = persistent_load
        self.where = where
        self.budget = budget
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The pickled object; ParseError for a damaged pickle, UnpicklingError for one that wants to run code."""
        position, name = self.stream.tell(), "start"
        try:
            for opcode, argument, at in pickletools.genops(self.stream):  # type: ignore[arg-type]
                name, position = opcode.name, position if at is None else at
                if name == "STOP":
                    break
                handler = _HANDLERS.get(name)
                if handler is None:
                    raise UnpicklingError(
                        f"{self.where}: pickle opcode {name} at byte {position} is not read by ingot.load; "
                        "no checkpoint of tensors needs it, and nothing of it was executed"
                    )
                handler(self, argument)
            result = self.stack.pop()
        except (UnpicklingError, ParseError):
            raise
        except (ValueError, TypeError, IndexError, KeyError, OverflowError, AttributeError, MemoryError) as error:
            raise ParseError(f"{self.where}: damaged pickle near byte {position} ({name}): {error}") from error
        if result is _MARK or self.stack:
            raise ParseError(f"{self.where}: damaged pickle at byte {position}: more than one value is left at its end")
        return result

    # -- stack ---------------------------------------------------------------------------------------
    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a value was expected, not a mark")
        return value

    def pop_to_mark(self) -> list[Any]:
        for i in range(len(self.stack) - 1, -1, -1):
            if self.stack[i] is _MARK:
                items = self.stack[i + 1 :]
                del self.stack[i:]
                return items
        raise ValueError("no mark on the stack")

    def top(self, *types: type) -> Any:
        value = self.stack[-1]
        if not isinstance(value, types):
            raise TypeError(f"{' or '.join(t.__name__ for t in types)} expected, not {type(value).__name__}")
        return value

    # -- calls ---------------------------------------------------------------------------------------
    def call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, AllowedCall):
            raise UnpicklingError(
                f"{self.where}: the pickle calls a {type(function).__name__}, which is not on the allow-list of "
                "ingot.load; it was not executed"
            )
        if not isinstance(arguments, tuple):
            raise TypeError(f"arguments of {function.name} are a {type(arguments).__name__}")
        self.budget -= sum(len(a) for a in arguments if isinstance(a, Sized))
        if self.budget < 0:
            raise ParseError(f"{self.where}: the pickle expands to far more than the file holds; refused")
        return function.function(*arguments)

    def set_items(self, target: Any, items: list[Any]) -> None:
        if len(items) % 2:
            raise ValueError("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[checked_key(key)] = value


def checked_key(key: Any) -> Any:
    """``key`` if it is a scalar or a flat tuple of scalars: hashing a deeply nested tuple overflows the C stack."""
    if isinstance(key, tuple) and any(isinstance(k, (tuple, frozenset)) for k in key):
        raise TypeError("a nested tuple as a dictionary key or set member")
    if isinstance(key, frozenset):
        raise TypeError("a frozenset as a dictionary key or set member")
    return key


def _global(u: Unpickler, argument: str) -> None:
    module, _, name = argument.partition(" ")
    u.push(u.find_global(module, name))


def _stack_global(u: Unpickler, _: None) -> None:
    name, module = u.pop(), u.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise TypeError("STACK_GLOBAL needs two strings")
    u.push(u.find_global(module, name))


def _reduce(u: Unpickler, _: None) -> None:
    arguments, function = u.pop(), u.pop()
    u.push(u.call(function, arguments))


def _build(u: Unpickler, _: None) -> None:
    """Only an OrderedDict takes a state: ``state_dict`` carries its ``_metadata`` that way."""
    state = u.pop()
    target = u.stack[-1]
    if not isinstance(target, OrderedDict) or not isinstance(state, dict) or set(state) - {"_metadata"}:
        raise UnpicklingError(
            f"{u.where}: the pickle sets the state of a {type(target).__name__}; ingot.load reads tensors, numbers, "
            "text and containers of them. It was not executed"
        )
    target.__dict__.update(state)


def _append(u: Unpickler, items: list[Any]) -> None:
    u.top(list).extend(items)


def _pop(u: Unpickler, _: None) -> None:
    u.stack.pop()


def _pop_mark(u: Unpickler, _: None) -> None:
    u.pop_to_mark()


def _memoize(u: Unpickler, index: int | None) -> None:
    value = u.stack[-1]
    if value is _MARK:
        raise ValueError("a mark cannot be remembered")
    u.memo[len(u.memo) if index is None else index] = value


def _text(u: Unpickler, argument: str) -> None:
    # Python 2's 8-bit strings; pickletools decodes them as latin-1, PyTorch reads them as UTF-8.
    u.push(argument.encode("latin-1").decode("utf-8"))


def _tuple(count: int) -> Callable[[Unpickler, Any], None]:
    def build(u: Unpickler, _: None) -> None:
        items = [u.pop() for _ in range(count)]
        u.push(tuple(reversed(items)))

    return build


def _pairs(items: list[Any]) -> Iterator[tuple[Any, Any]]:
    if len(items) % 2:
        raise ValueError("a key without a value")
    return ((checked_key(k), v) for k, v in zip(items[::2], items[1::2], strict=True))


def _set_item(u: Unpickler, _: None) -> None:
    value, key = u.pop(), u.pop()
    u.set_items(u.top(dict), [key, value])


def _set_items(u: Unpickler, _: None) -> None:
    items = u.pop_to_mark()
    u.set_items(u.top(dict), items)


def _appends(u: Unpickler, _: None) -> None:
    items = u.pop_to_mark()
    _append(u, items)


def _add_items(u: Unpickler, _: None) -> None:
    items = u.pop_to_mark()
    u.top(set).update(checked_key(i) for i in items)


def _protocol(u: Unpickler, version: int) -> None:
    if version > 5:
        raise ValueError(f"pickle protocol {version} is unknown")


_HANDLERS: dict[str, Callable[[Unpickler, Any], None]] = {
    "PROTO": _protocol,
    "FRAME": lambda u, a: None,
    "MARK": lambda u, a: u.push(_MARK),
    "POP": _pop,
    "POP_MARK": _pop_mark,
    "DUP": lambda u, a: u.push(u.stack[-1]),
    "NONE": lambda u, a: u.push(None),
    "NEWTRUE": lambda u, a: u.push(True),
    "NEWFALSE": lambda u, a: u.push(False),
    **{
        name: lambda u, a: u.push(a)
        for name in (
            *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
            *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
            *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        )
    },
    "STRING": _text,
    "BINSTRING": _text,
    "SHORT_BINSTRING": _text,
    "EMPTY_LIST": lambda u, a: u.push([]),
    "LIST": lambda u, a: u.push(u.pop_to_mark()),
    "APPEND": lambda u, a: _append(u, [u.pop()]),
    "APPENDS": _appends,
    "EMPTY_TUPLE": lambda u, a: u.push(()),
    "TUPLE": lambda u, a: u.push(tuple(u.pop_to_mark())),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "EMPTY_DICT": lambda u, a: u.push({}),
    "DICT": lambda u, a: u.push(dict(_pairs(u.pop_to_mark()))),
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "EMPTY_SET": lambda u, a: u.push(set()),
    "ADDITEMS": _add_items,
    "FROZENSET": lambda u, a: u.push(frozenset(map(checked_key, u.pop_to_mark()))),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "BUILD": _build,
    "BINPERSID": lambda u, a: u.push(u.persistent_load(u.pop())),
    "PUT": _memoize,
    "BINPUT": _memoize,
    "LONG_BINPUT": _memoize,
    "MEMOIZE": _memoize,
    "GET": lambda u, a: u.push(u.memo[a]),
    "BINGET": lambda u, a: u.push(u.memo[a]),
    "LONG_BINGET": lambda u, a: u.push(u.memo[a]),
}
