"""Reads the text that ``ir.printer`` writes back into a graph.

A regular-expression tokenizer and a recursive-descent parser; recursion only follows nested regions and parentheses,
both limited. Nothing is evaluated as Python. The result is not verified: ``ir.verifier`` does that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np

from . import ops as _ops  # noqa: F401  (registers the operators)
from . import registry
from .dims import Dim, Extent, floordiv, maximum, mod
from .dtypes import DType, dtype_from_name
from .errors import IngotError, ParseError
from .graph import Graph, Node, Value
from .layout import DENSE, Layout
from .printer import parse_source
from .source import UNKNOWN, Source
from .types import TensorType

__all__ = ["parse_extent", "parse_graph"]

MAX_NESTING = 50
MAX_DIGITS = 40

_LAYOUT_FIELD = r"(?:(?:order|blocks|halo)=[\d:,]*\d|form=\w+)"
_TOKEN = re.compile(
    rf"""(?P<space>[ \t\r]+) | (?P<newline>\n) | (?P<comment>\#[^\n]*)
    | (?P<value>%[\w.]+) | (?P<layout>@{_LAYOUT_FIELD}(?:;{_LAYOUT_FIELD})*) | (?P<ref>@[\w.]+)
    | (?P<string>"(?:[^"\\\n]|\\.)*")
    | (?P<float>\d+\.\d+(?:e[+-]?\d+)?|\d+e[+-]?\d+) | (?P<int>\d+) | (?P<name>[^\W\d]\w*)
    | (?P<mark>\*\*|//|\.\.|[](){{}}[,:=+*%-])""",
    re.VERBOSE,
)

Token = tuple[str, str, int]  # kind, text, position


def parse_graph(text: str, constants: Mapping[str, np.ndarray] | None = None) -> Graph:
    """The graph that ``text`` describes; ``constants`` supplies the arrays behind ``@name``.

    Raises:
        ParseError: not a graph; the message gives line, column, what was expected and what was found.
    """
    return _Parser(text, constants or {}).parse()


def parse_extent(text: str, dims: Mapping[str, Dim]) -> Extent:
    """The extent that ``str`` wrote, over the given dims; ParseError otherwise."""
    return _Parser(text, {}).extent(dims)


class _Parser:
    def __init__(self, text: str, constants: Mapping[str, np.ndarray]) -> None:
        self.text = text
        self.constants = constants
        self.tokens: list[Token] = []
        self.comments: dict[int, str] = {}  # index of the token before it on its line -> comment
        self.at = 0
        self.depth = 0
        self._tokenize()

    # -- tokens -------------------------------------------------------------------------------------
    def _tokenize(self) -> None:
        position, fresh_line = 0, True
        while position < len(self.text):
            match = _TOKEN.match(self.text, position)
            if match is None:
                self._fail_at(position, f"a token, found {self.text[position]!r}")
            kind = match.lastgroup
            if kind == "newline":
                fresh_line = True
            elif kind == "comment":
                if not fresh_line:
                    self.comments[len(self.tokens) - 1] = match.group()[1:].strip()
            elif kind != "space":
                self.tokens.append((kind or "", match.group(), position))
                fresh_line = False
            position = match.end()
        self.tokens.append(("end", "end of text", len(self.text)))

    def _fail_at(self, position: int, expected: str) -> NoReturn:
        line = self.text.count("\n", 0, position) + 1
        column = position - (self.text.rfind("\n", 0, position) + 1) + 1
        raise ParseError(f"line {line}, column {column}: expected {expected}")

    def fail(self, expected: str, at: int | None = None) -> NoReturn:
        """ParseError at token ``at`` (default: the next one)."""
        _, text, position = self.tokens[self.at if at is None else at]
        self._fail_at(position, f"{expected}, found {text if text == 'end of text' else repr(text)}")

    def peek(self, text: str) -> bool:
        kind, found, _ = self.tokens[self.at]
        return found == text and kind in ("mark", "name")

    def take(self, text: str) -> bool:
        """Consume ``text`` if it is next."""
        if self.peek(text):
            self.at += 1
            return True
        return False

    def expect(self, text: str, why: str = "") -> None:
        if not self.take(text):
            self.fail(repr(text) + (f" {why}" if why else ""))

    def token(self, kind: str, what: str) -> str:
        found, text, _ = self.tokens[self.at]
        if found != kind:
            self.fail(what)
        self.at += 1
        return text

    def listing(self, item: Callable[[], Any], opening: str = "(", closing: str = ")") -> list[Any]:
        """``(item, item, ...)``, possibly empty."""
        self.expect(opening)
        out: list[Any] = []
        if self.take(closing):
            return out
        while True:
            out.append(item())
            if self.take(closing):
                return out
            if not self.take(","):
                self.fail(f"',' or {closing!r}")

    def nested(self, parse: Callable[[], Any]) -> Any:
        self.depth += 1
        if self.depth > MAX_NESTING:
            self.fail(f"at most {MAX_NESTING} levels of nesting")
        result = parse()
        self.depth -= 1
        return result

    # -- graphs -------------------------------------------------------------------------------------
    def parse(self) -> Graph:
        self.expect("graph", "at the start")
        graph = self.graph(self.name(), {})
        if self.tokens[self.at][0] != "end":
            self.fail("the end of the text after the graph's '}'")
        return graph

    def name(self) -> str:
        if self.tokens[self.at][0] == "string":
            return self.string()
        return self.token("name", "a name")

    def string(self) -> str:
        text = self.token("string", "a string in double quotes")
        try:
            return json.loads(text)
        except ValueError:
            self.fail("a string with valid escapes", self.at - 1)

    def graph(self, name: str, outer: Mapping[str, Dim]) -> Graph:
        graph = Graph(name)
        scope: dict[str, Value] = {}
        # The dims clause follows the inputs whose types use it: read it first.
        start = self.at
        self.skip_parentheses()
        declared = {d.name: d for d in self.listing(self.dim)} if self.take("dims") else {}
        after, self.at = self.at, start
        dims = {**outer, **declared}
        graph.symbols.update(declared)
        for at, input_name, type_, role in self.listing(lambda: self.input(dims)):
            if input_name in scope:
                self.fail(f"each name once (%{input_name} is an input already)", at)
            scope[input_name] = graph.add_input(type_, input_name, role)
        self.at = after
        self.expect("{")
        while not self.peek("return"):
            self.node(graph, scope, dims)
        self.results(graph, scope)
        self.expect("}")
        return graph

    def skip_parentheses(self) -> None:
        level, first = 0, self.at
        if not self.peek("("):
            self.fail("'(' and the inputs")
        while True:
            kind, text, _ = self.tokens[self.at]
            if kind == "end":
                self.fail("a ')' that closes this list", first)
            self.at += 1
            if kind == "mark":
                level += (text == "(") - (text == ")")
                if level == 0:
                    return

    def dim(self) -> Dim:
        at = self.at
        name = self.token("name", "the name of a dimension")
        self.expect("in")
        low = self.digits("the smallest extent")
        self.expect("..")
        high = self.digits("an extent") if self.tokens[self.at][0] == "int" else None
        try:
            return Dim(name, low, high)
        except ValueError as error:
            self.fail(f"a valid range ({error})", at)

    def input(self, dims: Mapping[str, Dim]) -> tuple[int, str, TensorType, str]:
        at = self.at
        name = self.token("value", "an input such as %x")[1:]
        self.expect(":")
        type_ = self.type(dims)
        role = self.token("name", "a role") if self.tokens[self.at][0] == "name" else "input"
        return at, name, type_, role

    def operand(self, scope: Mapping[str, Value]) -> Value:
        at = self.at
        name = self.token("value", "a value such as %x")[1:]
        if name not in scope:
            self.fail("a value defined above", at)
        return scope[name]

    def results(self, graph: Graph, scope: Mapping[str, Value]) -> None:
        self.expect("return")
        if self.peek("}"):
            return
        while True:
            value = self.operand(scope)
            self.expect("as")
            name = self.string()
            target = None
            if self.take("updates"):
                at = self.at
                target = self.operand(scope)
                if target.producer is not None:
                    self.fail("a graph input after 'updates'", at)
            graph.add_output(value, name, target)
            graph.output_names[-1] = name  # as written, even if empty
            if not self.take(","):
                return

    # -- nodes --------------------------------------------------------------------------------------
    def node(self, graph: Graph, scope: dict[str, Value], dims: Mapping[str, Dim]) -> None:
        names: list[str] = []
        while self.tokens[self.at][0] == "value":
            name = self.token("value", "")[1:]
            if name in scope or name in names:
                self.fail(f"each name once (%{name} is defined already)", self.at - 1)
            names.append(name)
            if not self.take(","):
                break
        if not names:
            self.fail("a node (%name = ...) or 'return'")
        self.expect("=")
        at = self.at
        op = self.token("name", "the name of an operator")
        if op not in registry.OPS:
            self.fail("the name of an operator", at)
        record = registry.get(op)
        inputs = self.listing(lambda: self.operand(scope))
        given = dict(self.listing(lambda: self.attribute(record, dims), "{", "}")) if self.peek("{") else {}
        try:
            attrs = record.complete_attrs(given)
        except IngotError as error:
            self.fail(f"all attributes ({error})", at)
        types: list[TensorType] = []
        if self.take(":"):
            types.append(self.type(dims))
            while self.take(","):
                types.append(self.type(dims))
        if len(types) != len(names):
            self.fail(f"{len(names)} result types for {len(names)} results (there are {len(types)})", at)
        regions = []
        while self.take("region"):
            regions.append(self.nested(lambda: self.graph("main" if self.peek("(") else self.name(), dims)))
        node = graph.create(op, inputs, attrs, types, names=names, source=self.source(), regions=regions)
        self.define(node, names, scope, at)

    def define(self, node: Node, names: list[str], scope: dict[str, Value], at: int) -> None:
        for value, name in zip(node.outputs, names, strict=True):
            if value.name != name:
                self.fail(f"a name that values can have (%{name} would become %{value.name})", at)
            scope[name] = value

    def source(self) -> Source:
        comment = self.comments.get(self.at - 1)
        return parse_source(comment) if comment else UNKNOWN

    def attribute(self, record: registry.OpDef, dims: Mapping[str, Dim]) -> tuple[str, Any]:
        at = self.at
        key = self.token("name", "the name of an attribute")
        if key not in record.attrs:
            self.fail(f"an attribute of {record.name} ({', '.join(record.attrs) or 'it has none'})", at)
        self.expect("=")
        return key, self.attr_value(record.attrs[key].kind, dims)

    def attr_value(self, kind: str, dims: Mapping[str, Dim]) -> Any:
        if kind == "int":
            return self.integer()
        if kind == "float":
            return float(self.number())
        if kind == "bool":
            return self.boolean()
        if kind == "str":
            return self.string()
        if kind == "dtype":
            return self.dtype()
        if kind == "layout":
            return self.layout()
        if kind == "ints":
            return tuple(self.listing(self.integer))
        if kind == "floats":
            return tuple(float(x) for x in self.listing(self.number))
        if kind == "extents":
            return tuple(self.listing(lambda: self.extent(dims)))
        if kind == "pairs":
            return tuple(self.listing(self.pair))
        if kind == "array":
            return self.array()
        if kind == "optional_int":
            return None if self.take("none") else self.integer()
        if kind == "scalar":
            return None if self.take("none") else self.element()
        raise AssertionError(f"attribute kind {kind!r} has no syntax")

    # -- literals -----------------------------------------------------------------------------------
    def digits(self, what: str) -> int:
        text = self.token("int", what)
        if len(text) > MAX_DIGITS:
            self.fail(f"a number of at most {MAX_DIGITS} digits", self.at - 1)
        return int(text)

    def integer(self) -> int:
        sign = -1 if self.take("-") else 1
        return sign * self.digits("an integer")

    def number(self) -> int | float:
        sign = -1 if self.take("-") else 1
        kind, text, _ = self.tokens[self.at]
        if kind == "int":
            return sign * self.digits("a number")
        if kind == "float" or (kind == "name" and text in ("inf", "nan")):
            self.at += 1
            return sign * float(text)
        self.fail("a number")

    def boolean(self) -> bool:
        if self.take("true"):
            return True
        self.expect("false", "or 'true'")
        return False

    def element(self) -> bool | int | float:
        return self.boolean() if self.peek("true") or self.peek("false") else self.number()

    def pair(self) -> tuple[int, int]:
        at = self.at
        values = self.listing(self.integer)
        if len(values) != 2:
            self.fail("a pair of integers", at)
        return values[0], values[1]

    def dtype(self) -> DType:
        at = self.at
        try:
            return dtype_from_name(self.token("name", "a dtype such as float32"))
        except ValueError:
            self.fail("a dtype such as float32", at)

    def layout(self) -> Layout:
        kind, text, _ = self.tokens[self.at]
        if text == "@dense":
            self.at += 1
            return DENSE
        if kind != "layout":
            self.fail("a layout such as @dense or @blocks=1:16")
        self.at += 1
        try:
            return Layout.parse(text[1:])
        except ValueError:
            self.fail("a layout such as @dense or @blocks=1:16", self.at - 1)

    def type(self, dims: Mapping[str, Dim]) -> TensorType:
        dtype = self.dtype()
        shape = tuple(self.listing(lambda: self.extent(dims), "[", "]"))
        return TensorType(dtype, shape, self.layout() if self.tokens[self.at][0] == "layout" else DENSE)

    def array(self) -> np.ndarray:
        at = self.at
        if self.tokens[at][0] == "ref":
            name = self.token("ref", "")[1:]
            if name not in self.constants:
                self.fail("an array among the given constants", at)
            return self.constants[name]
        type_ = self.type({})
        element = {"f": self.number, "b": self.boolean}.get(type_.dtype.kind, self.integer)
        values = self.listing(element)
        if any(e < 0 for e in type_.shape) or type_.elements != len(values):  # type: ignore[operator]
            self.fail(f"the elements of {type_} (there are {len(values)})", at)
        try:
            return np.array(values, type_.dtype.numpy).reshape(type_.shape)  # type: ignore[arg-type]
        except OverflowError as error:
            self.fail(f"elements that fit {type_.dtype.name} ({error})", at)

    # -- extents ------------------------------------------------------------------------------------
    def extent(self, dims: Mapping[str, Dim]) -> Extent:
        """A sum of products over dims, ``max(a, b)``, ``(a // b)`` and ``(a % b)``."""
        return self.nested(lambda: self._sum(dims))

    def _sum(self, dims: Mapping[str, Dim]) -> Extent:
        total = self._product(dims)
        while True:
            if self.take("+"):
                total = total + self._product(dims)
            elif self.take("-"):
                total = total - self._product(dims)
            else:
                return total

    def _product(self, dims: Mapping[str, Dim]) -> Extent:
        value = self._power(dims)
        while self.take("*"):
            value = value * self._power(dims)
        return value

    def _power(self, dims: Mapping[str, Dim]) -> Extent:
        sign = -1 if self.take("-") else 1
        base = self._atom(dims)
        power = 1
        if self.take("**"):
            at = self.at
            power = self.digits("an exponent")
            if not 1 <= power <= 64:
                self.fail("an exponent from 1 to 64", at)
        value: Extent = sign
        for _ in range(power):
            value = value * base
        return value

    def _atom(self, dims: Mapping[str, Dim]) -> Extent:
        kind, text, _ = self.tokens[self.at]
        if kind == "int":
            return self.digits("an extent")
        if self.take("("):
            left = self.extent(dims)
            combine = floordiv if self.take("//") else mod if self.take("%") else None
            if combine is not None:
                at = self.at
                right = self.extent(dims)
                if right == 0:
                    self.fail("a divisor other than 0", at)
                left = combine(left, right)
            self.expect(")")
            return left
        if kind == "name" and text == "max" and self.tokens[self.at + 1][1] == "(":
            self.at += 1
            at = self.at
            both = self.listing(lambda: self.extent(dims))
            if len(both) != 2:
                self.fail("max of two extents", at)
            return maximum(*both)
        if kind == "name" and text in dims:
            self.at += 1
            return dims[text].expr
        self.fail(f"an extent (a number or a declared dimension: {', '.join(dims) or 'none is declared'})")
