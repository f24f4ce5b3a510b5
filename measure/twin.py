"""PyTorch in place of Ingot: a model's own file gives its PyTorch twin."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import Any

from .._aliases import AliasLoader

_OURS = __name__.partition(".")[0]


class _Finder:
    """Answers for ``ingot.x`` with ``torch.x``, before finders that know where Ingot lies."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if not fullname.startswith(_OURS + "."):
            return None
        real = "torch" + fullname.removeprefix(_OURS)
        if find_spec(real) is None:
            raise ModuleNotFoundError(f"PyTorch has no {real}", name=fullname)
        return ModuleSpec(fullname, AliasLoader(real), origin=real)  # type: ignore[arg-type]


@contextmanager
def torch_in_place() -> Iterator[None]:
    """Meanwhile ``import ingot`` gives PyTorch, ``ingot.nn`` its ``torch.nn``; nothing of Ingot can be imported.

    Modules that are loaded already, and what they have imported, stay as they are.
    """
    import torch

    def pop() -> dict[str, Any]:
        names = [n for n in sys.modules if n == _OURS or n.startswith(_OURS + ".")]
        return {n: sys.modules.pop(n) for n in names}

    own, finder = pop(), _Finder()
    sys.modules[_OURS] = torch
    sys.meta_path.insert(0, finder)  # type: ignore[arg-type]
    try:
        yield
    finally:
        sys.meta_path.remove(finder)  # type: ignore[arg-type]
        pop()
        sys.modules.update(own)
