"""Ingot: a graph compiler in Python. Modules in PyTorch's style become native code, on the CPU, without a C compiler.

``import ingot as torch`` reads like PyTorch; ``ingot.compile``, ``ingot.compile_step`` and ``ingot.onnx.export`` are
the compiler. Importing the package loads nothing else: every name below is looked up when first used.
"""

from __future__ import annotations

from importlib import import_module as _import_module

from . import _aliases

__version__ = "0.1.0"

# Public name -> (module, attribute). What users write with tensors comes from ``frontend.__all__`` on top of these.
_NAMES: dict[str, tuple[str, str]] = {
    "Dim": (".ir.dims", "Dim"),
    "compile": (".driver", "compile"),
    "compile_step": (".driver", "compile_step"),
    "load_executable": (".driver", "load_executable"),
    "load": (".frontend.serialization", "load"),
    "save": (".frontend.serialization", "save"),
    "dtype": (".ir.dtypes", "DType"),
    "IngotError": (".ir.errors", "IngotError"),
    "_has_compatible_shallow_copy_type": (".frontend.tensor", "_has_compatible_shallow_copy_type"),
    **{
        name: (".ir.dtypes", attribute or name)
        for name, attribute in {
            "float64": "", "double": "float64", "float32": "", "float": "float32", "float16": "", "half": "float16",
            "bfloat16": "", "int64": "", "long": "int64", "int32": "", "int": "int32", "int16": "", "short": "int16",
            "int8": "", "uint64": "", "uint32": "", "uint16": "", "uint8": "", "bool": "bool_",
        }.items()
    },
}  # fmt: skip

# Public module -> the module that it is; ``ingot.nn`` and ``ingot.frontend.nn`` are one object (see _aliases.py).
_MODULES: dict[str, str] = {
    "_C": "frontend.internals",
    "__future__": "frontend.future",
    "amp": "frontend.amp",
    "autograd": "frontend.autograd",
    "backends": "frontend.backends",
    "cpu": "frontend.cpu",
    "cuda": "frontend.cuda",
    "overrides": "frontend.overrides",
    "random": "frontend.random",
    "return_types": "frontend.return_types",
    "version": "frontend.version",
    "linalg": "frontend.linear_algebra",
    "distributed": "frontend.distributed",
    "nn": "frontend.nn",
    "optim": "frontend.optim",
    "utils": "frontend.utils",
    "vision": "frontend.vision",
    "onnx": "export",
}


def _frontend_loaded() -> None:
    """Eager mode gets native kernels as soon as there is an eager mode."""
    _import_module(".eager", __name__).install()


_aliases.install(__name__, _MODULES, _frontend_loaded)

TYPE_CHECKING = False  # typing's own constant would cost more than the rest of this import
if TYPE_CHECKING:
    from typing import Any as _Any

    from . import export as onnx
    from .driver import compile, compile_step, load_executable
    from .frontend import *  # noqa: F403
    from .frontend import amp, autograd, backends, cpu, cuda, nn, optim, overrides, random, version
    from .frontend import future as __future__
    from .frontend.serialization import load, save
    from .ir.dims import Dim
    from .ir.dtypes import DType as dtype
    from .ir.dtypes import bfloat16, float16, float32, float64, int8, int16, int32, int64, uint8, uint16, uint32, uint64
    from .ir.errors import IngotError


def __getattr__(name: str) -> _Any:
    if name in _NAMES:
        module, attribute = _NAMES[name]
        value = getattr(_import_module(module, __name__), attribute)
    elif name in _MODULES:
        return _import_module(f".{name}", __name__)  # the import system binds it here
    elif name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    else:
        frontend = _import_module(".frontend", __name__)
        if name not in getattr(frontend, "__all__", ()):
            raise _import_module(".frontend.absent", __name__).absent(__name__, name, __dir__())
        value = getattr(frontend, name)
        _frontend_loaded()
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    frontend = _import_module(".frontend", __name__)
    return sorted({"__version__", *_NAMES, *_MODULES, *getattr(frontend, "__all__", ())})
