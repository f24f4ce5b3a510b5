"""Nested arguments and results: flattening to numbered leaves and back.

``Spec`` is plain data. dict, list, tuple and namedtuple are opened; whatever ``is_leaf`` accepts becomes
a numbered leaf; everything else (None, numbers, strings, objects) is a constant of the structure.
"""

from __future__ import annotations

import json
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Spec:
    """One level of structure.

    ``kind``: ``leaf`` (``index`` is the leaf number), ``const`` (``value``), ``tuple``, ``list``, ``dict``
    (``keys`` run parallel to ``children``) or ``namedtuple`` (``keys`` are the fields, ``value`` its class).
    """

    kind: str
    children: tuple[Spec, ...] = ()
    keys: tuple[Any, ...] = ()
    index: int = -1
    value: Any = None

    @property
    def num_leaves(self) -> int:
        return 1 if self.kind == "leaf" else sum(c.num_leaves for c in self.children)

    def leaf_names(self, prefix: str) -> list[str]:
        """A readable name per leaf: ``prefix``, ``prefix_0``, ``prefix_key``..."""
        if self.kind == "leaf":
            return [prefix]
        labels = self.keys or range(len(self.children))
        return [
            name
            for label, child in zip(labels, self.children, strict=True)
            for name in child.leaf_names(f"{prefix}_{label}" if prefix else str(label))
        ]

    def to_json(self) -> str:
        """Text form for artefacts; TypeError if a constant or key of the structure is not plain data."""
        return json.dumps(_encode(self))

    @staticmethod
    def from_json(text: str) -> Spec:
        """Inverse of ``to_json``; namedtuples come back as classes of the same name and fields."""
        return _decode(json.loads(text))


def _encode(spec: Spec) -> Any:
    out: dict[str, Any] = {"kind": spec.kind}
    if spec.children or spec.kind not in ("leaf", "const"):
        out["children"] = [_encode(c) for c in spec.children]
    if spec.keys:
        out["keys"] = list(spec.keys)
    if spec.kind == "leaf":
        out["index"] = spec.index
    elif spec.kind == "const":
        out["value"] = spec.value
    elif spec.kind == "namedtuple":
        out["value"] = spec.value.__name__
    return out


def _decode(data: dict[str, Any]) -> Spec:
    keys = tuple(data.get("keys", ()))
    value: Any = data.get("value")
    if data["kind"] == "namedtuple":
        make_class: Any = namedtuple  # the type checker only knows classes with literal names
        value = make_class(value, keys)
    children = tuple(_decode(c) for c in data.get("children", ()))
    return Spec(data["kind"], children, keys, data.get("index", -1), value)


def flatten(obj: Any, is_leaf: Callable[[Any], bool]) -> tuple[list[Any], Spec]:
    """(leaves in order, structure)."""
    leaves: list[Any] = []

    def walk(item: Any) -> Spec:
        if is_leaf(item):
            leaves.append(item)
            return Spec("leaf", index=len(leaves) - 1)
        if isinstance(item, tuple) and hasattr(item, "_fields"):
            return Spec("namedtuple", tuple(map(walk, item)), tuple(item._fields), value=type(item))
        if type(item) in (tuple, list):
            return Spec("tuple" if isinstance(item, tuple) else "list", tuple(map(walk, item)))
        if type(item) in (dict, OrderedDict):
            return Spec("dict", tuple(map(walk, item.values())), tuple(item))
        return Spec("const", value=item)

    spec = walk(obj)
    return leaves, spec


def unflatten(spec: Spec, leaves: Sequence[Any]) -> Any:
    """The structure with leaf number i replaced by ``leaves[i]``."""
    if spec.kind == "leaf":
        return leaves[spec.index]
    if spec.kind == "const":
        return spec.value
    parts = [unflatten(c, leaves) for c in spec.children]
    if spec.kind == "dict":
        return dict(zip(spec.keys, parts, strict=True))
    if spec.kind == "namedtuple":
        return spec.value(*parts)
    return tuple(parts) if spec.kind == "tuple" else parts
