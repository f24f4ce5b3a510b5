"""Parameters computed from other parameters: ``module.weight`` becomes f(original)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...grad_mode import no_grad
from ...tensor import Tensor
from ..containers import ModuleDict, ModuleList
from ..module import Module
from ..parameter import Parameter

_depth = 0
_cache: dict[tuple[int, str], Any] = {}


@contextmanager
def cached() -> Iterator[None]:
    """Inside, every parametrization is computed once; leaving forgets the values."""
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if not _depth:
            _cache.clear()


class ParametrizationList(ModuleList):
    """The parametrizations of one tensor, applied in order to ``original`` (or to ``original0``, ``original1``... where
    the first one's ``right_inverse`` gives several tensors)."""

    def __init__(self, modules: Any, original: Tensor, unsafe: bool = False) -> None:
        modules = list(modules)
        if not modules:
            raise ValueError("ParametrizationList requires one or more modules.")
        super().__init__(modules)
        self.unsafe = unsafe
        value: Any = original
        with no_grad():
            for module in reversed(modules):
                if hasattr(module, "right_inverse"):
                    value = module.right_inverse(value)
        self.is_tensor = isinstance(value, Tensor)
        if not self.is_tensor and not isinstance(value, (tuple, list)):
            raise ValueError("'right_inverse' must return a Tensor or a Sequence of tensors (list, tuple...). Got "
                             f"{type(value).__name__}")  # fmt: skip
        parts = [value] if self.is_tensor else list(value)
        self.ntensors = len(parts)
        for i, part in enumerate(parts):
            name = "original" if self.is_tensor else f"original{i}"
            if isinstance(original, Parameter):
                # ``original`` itself stays, so that an optimiser that holds it goes on.
                if self.is_tensor:
                    original.data = part.detach()
                self.register_parameter(name, original if self.is_tensor else Parameter(
                    part.detach(), original.requires_grad))  # fmt: skip
            else:
                self.register_buffer(name, part)

    def _originals(self) -> list[Tensor]:
        return [self.original] if self.is_tensor else [getattr(self, f"original{i}") for i in range(self.ntensors)]

    def right_inverse(self, value: Tensor) -> None:
        """Sets the originals so that the result is ``value``."""
        with no_grad():
            new: Any = value
            for module in reversed(list(self)):
                if not hasattr(module, "right_inverse"):
                    raise RuntimeError(f"parametrization {type(module).__name__} does not implement right_inverse.")
                new = module.right_inverse(new)
            for own, part in zip(self._originals(), [new] if self.is_tensor else new, strict=True):
                own.data = part.detach()

    def forward(self) -> Any:
        first, *rest = self
        out = first(*self._originals())
        for module in rest:
            out = module(out)
        return out


def _property(name: str) -> property:
    def get(self: Any) -> Any:
        parametrization = self.parametrizations[name]
        if not _depth:
            return parametrization()
        key = (id(self), name)
        if key not in _cache:
            _cache[key] = parametrization()
        return _cache[key]

    def put(self: Any, value: Any) -> None:
        self.parametrizations[name].right_inverse(value)

    return property(get, put)


def _inject_class(module: Any) -> None:
    cls = type(module)

    def refuse(self: Any) -> Any:
        raise RuntimeError("Serialization of parametrized modules is only supported through state_dict().")

    module.__class__ = type(f"Parametrized{cls.__name__}", (cls,), {"__getstate__": refuse, "_plain_class": cls})
    # Copies share the class; pickles do not exist.
    module.__class__.__deepcopy__ = _deepcopy


def _deepcopy(self: Any, memo: dict[int, Any]) -> Any:
    import copy

    twin = self.__new__(type(self))
    memo[id(self)] = twin
    twin.__dict__ = copy.deepcopy(self.__dict__, memo)
    # Properties belong to one module: the copy gets a class of its own.
    cls = type(self)
    twin.__class__ = type(cls.__name__, (cls._plain_class,), dict(vars(cls)))
    return twin


def register_parametrization(
    module: Module, tensor_name: str, parametrization: Module, *, unsafe: bool = False
) -> Module:
    """Makes ``module.<tensor_name>`` the result of ``parametrization`` on it; returns the module.

    A second one is applied behind the first. ValueError if it changes shape or dtype (unless ``unsafe``) or there is
    no such tensor.
    """
    parametrization.train(module.training)
    if is_parametrized(module, tensor_name):
        stack: Any = module.parametrizations[tensor_name]
        if not unsafe:
            _compare(getattr(module, tensor_name), parametrization(getattr(module, tensor_name)))
        if hasattr(parametrization, "right_inverse"):
            wanted = parametrization.right_inverse(getattr(module, tensor_name))
            stack.right_inverse(wanted)
        stack.append(parametrization)
        stack.unsafe |= unsafe
        return module
    if tensor_name not in module._parameters and tensor_name not in module._buffers:
        raise ValueError(f"Module '{module}' does not have a parameter, a buffer, or a parametrized element with name "
                         f"'{tensor_name}'")  # fmt: skip
    original = getattr(module, tensor_name)
    before = original.detach().clone()
    stack = ParametrizationList([parametrization], original, unsafe)
    if not unsafe:
        with no_grad():
            _compare(before, stack())
    delattr(module, tensor_name)
    if not is_parametrized(module):
        _inject_class(module)
        module.parametrizations = ModuleDict()
    setattr(type(module), tensor_name, _property(tensor_name))
    module.parametrizations[tensor_name] = stack
    return module


def _compare(before: Tensor, after: Any) -> None:
    if not isinstance(after, Tensor):
        raise ValueError(f"A parametrization must return a tensor. Got {type(after).__name__}.")
    if after.dtype is not before.dtype:
        raise ValueError("Registering a parametrization may not change the dtype of the tensor, unless the `unsafe` "
                         f"flag is enabled.\nunparametrized dtype: {before.dtype}\nparametrized dtype: "
                         f"{after.dtype}")  # fmt: skip
    if after.shape != before.shape:
        raise ValueError("Registering a parametrization may not change the shape of the tensor, unless the `unsafe` "
                         f"flag is enabled.\nunparametrized shape: {before.shape}\nparametrized shape: "
                         f"{after.shape}")  # fmt: skip


def is_parametrized(module: Any, tensor_name: str | None = None) -> bool:
    """Whether the module, or this tensor of it, is parametrized."""
    table = module.__dict__.get("_modules", {}).get("parametrizations")
    if not isinstance(table, ModuleDict):
        return False
    return len(table) > 0 if tensor_name is None else tensor_name in table


def remove_parametrizations(module: Module, tensor_name: str, leave_parametrized: bool = True) -> Module:
    """Makes ``module.<tensor_name>`` an ordinary tensor again: the computed value, or the original one."""
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"Module {module} does not have a parametrization on {tensor_name}")
    stack: Any = module.parametrizations[tensor_name]
    original = stack.original if stack.is_tensor else None
    if leave_parametrized:
        with no_grad():
            value = getattr(module, tensor_name).detach()
        if original is None:
            first = stack.original0
            original = Parameter(value, first.requires_grad) if isinstance(first, Parameter) else value
        else:
            original.data = value
    elif original is None:
        raise ValueError("Cannot leave unparametrized (`leave_parametrized=False`) a tensor that is parametrized in "
                         "terms of a sequence of tensors.")  # fmt: skip
    delattr(type(module), tensor_name)
    del module.parametrizations[tensor_name]
    if isinstance(original, Parameter):
        module.register_parameter(tensor_name, original)
    else:
        module.register_buffer(tensor_name, original)
    if not is_parametrized(module):
        del module.parametrizations
        module.__class__ = type(module)._plain_class  # type: ignore[attr-defined]
    return module


def type_before_parametrizations(module: Module) -> type:
    """The module's class without the one that parametrizing put in front."""
    return getattr(type(module), "_plain_class", type(module))


__all__ = [
    "ParametrizationList", "cached", "is_parametrized", "register_parametrization", "remove_parametrizations",
    "type_before_parametrizations",
]  # fmt: skip
