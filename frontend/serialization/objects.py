"""Whole modules and other objects in checkpoints: ordinary pickles whose tensors keep their storages.

Writing one is always possible; reading one runs what the pickle names, so that ``load`` does it only with
``weights_only=False``.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from ...ir.dtypes import DType
from ...ir.errors import IngotError, ParseError, UnpicklingError, UnsupportedError
from .unpickler import Stream

_ROOT = __name__.partition(".")[0]


class _Memory:
    """Stands in a pickle for the memory of a tensor: written as a persistent id."""

    def __init__(self, pid: tuple[Any, ...]) -> None:
        self.pid = pid


def dump(obj: Any, add: Callable[[np.ndarray, DType], Any], protocol: int) -> bytes:
    """The pickle of any object; ``add(array, dtype)`` takes an array's memory and says where it is.

    UnsupportedError for what Python cannot pickle.
    """
    from ..tensor import Tensor

    class Pickler(pickle.Pickler):
        def persistent_id(self, o: Any) -> Any:
            return o.pid if isinstance(o, _Memory) else None

        def reducer_override(self, o: Any) -> Any:
            if not isinstance(o, Tensor):
                return NotImplemented
            array = np.asarray(o.detach()._concrete("saving"))
            key, offset, strides, elements = add(array, o.dtype)
            memory = _Memory(("storage", o.dtype, str(key), "cpu", elements))
            return rebuild, (type(o), memory, offset, array.shape, strides, o.requires_grad)

    buffer = io.BytesIO()
    try:
        Pickler(buffer, protocol).dump(obj)
    except (pickle.PicklingError, AttributeError, TypeError, RecursionError) as error:
        raise UnsupportedError(f"Python cannot pickle it: {error}") from error
    return buffer.getvalue()


def rebuild(cls: Any, view: Any, offset: int, shape: Any, strides: Any, requires_grad: bool) -> Any:
    """A tensor on the memory that ``view(offset, shape, strides)`` gives."""
    out = cls._wrap(view(offset, shape, strides))
    out._requires_grad = requires_grad
    return out


class TrustedUnpickler:
    """Reads one pickle of a file that the caller trusts: every class and function it names is imported and used.

    Names of PyTorch become Ingot's. The arguments are ``Unpickler``'s.
    """

    def __init__(
        self, stream: Stream, find_global: Callable[[str, str], Any], persistent_load: Callable[[Any], Any], where: str,
        budget: int,
    ) -> None:  # fmt: skip
        self.stream, self.where = stream, where
        self.find_global, self.persistent_load = find_global, persistent_load

    def load(self) -> Any:
        outer = self

        class Reader(pickle.Unpickler):
            def find_class(self, module: str, name: str) -> Any:
                if module.partition(".")[0] != "torch":
                    return super().find_class(module, name)
                try:
                    return outer.find_global(module, name)
                except UnpicklingError:
                    return outer.named_as_in_pytorch(module, name)

            def persistent_load(self, pid: Any) -> Any:
                if isinstance(pid, tuple) and pid and pid[0] == "module":
                    return pid[1]  # the old format wrote a module's class with its source
                return outer.persistent_load(pid)

        try:
            return Reader(self.stream).load()  # type: ignore[arg-type]
        except IngotError:
            raise
        except (pickle.UnpicklingError, EOFError, IndexError, UnicodeDecodeError) as error:
            raise ParseError(f"{self.where}: damaged pickle: {error}") from error

    def named_as_in_pytorch(self, module: str, name: str) -> Any:
        places = [module.replace("torch", _ROOT, 1)]
        if module.startswith(("torch.nn.modules.", "torch.nn.parallel")):
            places.append(f"{_ROOT}.nn")
        for place in places:
            try:
                return getattr(import_module(place), name)
            except (ImportError, AttributeError):
                continue
        raise UnsupportedError(f"{self.where}: holds a {module}.{name}, which Ingot does not have")
