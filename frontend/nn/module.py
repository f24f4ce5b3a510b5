"""``Module``: the base class of layers, losses and networks."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ...ir.dtypes import DType
from .. import attributes, creation, dispatch, future, grad_mode, tracing
from ..device import require_cpu
from ..tensor import Tensor, typename
from ..tensor_types import named_dtype
from .module_hooks import (
    HooksMixin,
    _global_backward_hooks,
    _global_backward_pre_hooks,
    _global_forward_hooks,
    _global_forward_pre_hooks,
    _WrappedHook,
    register_module_backward_hook,
    register_module_buffer_registration_hook,
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
    register_module_full_backward_pre_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
    registered,
)
from .parameter import Buffer, Parameter
from .state import StateDictMixin


def _indented(text: str) -> str:
    first, *rest = text.split("\n")
    return "\n".join([first, *("  " + line for line in rest)])


_HOOK_TABLES = (
    "_backward_pre_hooks", "_backward_hooks", "_forward_hooks", "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_state_dict_hooks",
    "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip


class Module(HooksMixin, StateDictMixin):
    """Base class: subclasses call ``super().__init__()`` and define ``forward``.

    Assigning a Parameter or Module to an attribute registers it; ``register_buffer`` makes buffers. The
    tables ``_parameters``, ``_buffers`` and ``_modules`` hold them in order of definition.
    """

    training: bool
    _version: int = 1
    dump_patches: bool = False
    call_super_init: bool = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if (args or kwargs) and not self.call_super_init:
            wrong = f"got an unexpected keyword argument '{next(iter(kwargs))}'" if kwargs else \
                f"takes 1 positional argument but {len(args) + 1} were given"  # fmt: skip
            raise TypeError(f"{type(self).__name__}.__init__() {wrong}")
        put = super().__setattr__
        put("training", True)
        put("_parameters", {})
        put("_buffers", {})
        put("_non_persistent_buffers_set", set())
        put("_modules", {})
        put("_is_full_backward_hook", None)
        for name in _HOOK_TABLES:
            put(name, OrderedDict())
        tracer = tracing.current()
        if tracer is not None:
            tracer.created_module(self)
        if self.call_super_init:
            super().__init__(*args, **kwargs)

    def forward(self, *input: Any) -> Any:
        """The computation; subclasses must define it."""
        raise NotImplementedError(f'Module [{type(self).__name__}] is missing the required "forward" function')

    # -- registration -------------------------------------------------------------------------------
    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a buffer: state that is not trained; ``persistent=False`` keeps it out of ``state_dict``."""
        if "_buffers" not in self.__dict__:
            raise AttributeError("cannot assign buffer before Module.__init__() call")
        self._check_name("buffer", name, self._buffers)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"cannot assign '{typename(tensor)}' object to buffer '{name}' (torch Tensor or None "
                            "required)")  # fmt: skip
        tracer = tracing.current()
        if tracer is not None and not tracer.allows_buffer(self, name, tensor):
            return
        self._buffers[name] = registered("buffer", self, name, tensor)
        if persistent:
            self._non_persistent_buffers_set.discard(name)
        else:
            self._non_persistent_buffers_set.add(name)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter; None keeps the name free of a value."""
        if "_parameters" not in self.__dict__:
            raise AttributeError("cannot assign parameter before Module.__init__() call")
        self._check_name("parameter", name, self._parameters)
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(f"cannot assign '{typename(param)}' object to parameter '{name}' (torch.nn.Parameter or "
                            "None required)")  # fmt: skip
        if param is not None and param.grad_fn is not None:
            raise ValueError(f"Cannot assign non-leaf Tensor to parameter '{name}'. Model parameters must be created "
                             f"explicitly. To express '{name}' as a function of another Tensor, compute the value in "
                             "the forward() method.")  # fmt: skip
        self._parameters[name] = registered("parameter", self, name, param)

    def add_module(self, name: str, module: Module | None) -> None:
        """Add a child; the same as ``self.name = module``."""
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"{typename(module)} is not a Module subclass")
        self._check_name("module", name, self._modules)
        self._refuse_cycle(name, module)
        self._modules[name] = registered("module", self, name, module)

    register_module = add_module

    def _refuse_cycle(self, name: str, module: Module | None) -> None:
        stack, seen = [module], set()
        while stack:
            below = stack.pop()
            if below is self:
                raise RuntimeError(f"'{name}' would make {type(self).__name__} a part of itself: modules form a tree, "
                                   "and a module that refers back to its owner must hold it outside of the tree (in a "
                                   "list or a weak reference)")  # fmt: skip
            if below is not None and id(below) not in seen:
                seen.add(id(below))
                stack.extend(below.__dict__.get("_modules", {}).values())

    def _check_name(self, kind: str, name: Any, table: Mapping[str, Any]) -> None:
        if not isinstance(name, str):
            raise TypeError(f"{kind} name should be a string. Got {typename(name)}")
        if hasattr(self, name) and name not in table:
            raise KeyError(f"attribute '{name}' already exists")
        if "." in name:
            raise KeyError(f'{kind} name can\'t contain "."' + (f", got: {name}" if kind == "module" else ""))
        if name == "":
            raise KeyError(f'{kind} name can\'t be empty string ""')

    def __setattr__(self, name: str, value: Any) -> None:
        own = self.__dict__
        if isinstance(value, Parameter):
            if "_parameters" not in own:
                raise AttributeError("cannot assign parameters before Module.__init__() call")
            self._forget(name, own, self._buffers, self._modules, self._non_persistent_buffers_set)
            self.register_parameter(name, value)
            return
        if isinstance(value, Module):
            if "_modules" not in own:
                raise AttributeError("cannot assign module before Module.__init__() call")
            self._forget(name, own, self._parameters, self._buffers, self._non_persistent_buffers_set)
            self._refuse_cycle(name, value)
            self._modules[name] = registered("module", self, name, value)
            return
        if isinstance(value, Buffer) and "_buffers" in own:
            self._forget(name, own, self._parameters, self._modules, self._non_persistent_buffers_set)
            self.register_buffer(name, value, value.persistent)
            return
        if name in own.get("_parameters", ()):
            if value is not None:
                raise TypeError(f"cannot assign '{typename(value)}' as parameter '{name}' (torch.nn.Parameter or None "
                                "expected)")  # fmt: skip
            self._parameters[name] = None
        elif name in own.get("_modules", ()):
            if value is not None:
                raise TypeError(f"cannot assign '{typename(value)}' as child module '{name}' (torch.nn.Module or None "
                                "expected)")  # fmt: skip
            self._modules[name] = None
        elif name in own.get("_buffers", ()):
            if value is not None and not isinstance(value, Tensor):
                raise TypeError(f"cannot assign '{typename(value)}' as buffer '{name}' (torch.nn.Buffer, torch.Tensor "
                                "or None expected)")  # fmt: skip
            tracer = tracing.current()
            old = self._buffers[name]
            if tracer is not None and value is not None and old is not None and tracer.owns(old):
                # ``self.running = f(self.running)`` in forward: an update of the state.
                old._assign(value)
            elif tracer is None or tracer.allows_buffer(self, name, value):
                self._buffers[name] = value
        else:
            if isinstance(value, Tensor) and value._value is not None and (tracer := tracing.current()) is not None:
                tracer.keep_attribute(self, name)
            super().__setattr__(name, value)

    @staticmethod
    def _forget(name: str, *tables: Any) -> None:
        for table in tables:
            if isinstance(table, set):
                table.discard(name)
            else:
                table.pop(name, None)

    def __getattr__(self, name: str) -> Any:
        own = self.__dict__
        for table in ("_parameters", "_buffers", "_modules"):
            entries = own.get(table)
            if entries is not None and name in entries:
                return entries[name]
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def __delattr__(self, name: str) -> None:
        if name in self._parameters:
            del self._parameters[name]
        elif name in self._buffers:
            del self._buffers[name]
            self._non_persistent_buffers_set.discard(name)
        elif name in self._modules:
            del self._modules[name]
        else:
            super().__delattr__(name)

    def __dir__(self) -> list[str]:
        names = {*dir(type(self)), *self.__dict__, *self._parameters, *self._modules, *self._buffers}
        return sorted(n for n in names if not n[:1].isdigit())

    # -- looking up ---------------------------------------------------------------------------------
    def get_submodule(self, target: str) -> Module:
        """The module at a dotted path; AttributeError names the missing part."""
        module = self
        for part in target.split(".") if target else ():
            if not hasattr(module, part):
                raise AttributeError(f"{type(module).__name__} has no attribute `{part}`")
            module = getattr(module, part)
            if not isinstance(module, Module):
                raise AttributeError(f"`{part}` is not an nn.Module")
        return module

    def set_submodule(self, target: str, module: Module, strict: bool = False) -> None:
        """Puts ``module`` at a dotted path; with ``strict`` there must be one already."""
        path, _, name = target.rpartition(".")
        if not name:
            raise ValueError("Cannot set the submodule without a target name!")
        if not isinstance(module, Module):
            raise ValueError(f"`module` is not an nn.Module, found {type(module)}")
        owner = self.get_submodule(path)
        if strict and not hasattr(owner, name):
            raise AttributeError(f"{type(owner).__name__} has no attribute `{name}`")
        if hasattr(owner, name) and not isinstance(getattr(owner, name), Module):
            raise AttributeError(f"`{name}` is not an nn.Module")
        setattr(owner, name, module)

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at a dotted path; AttributeError if it is none."""
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if not hasattr(module, name):
            raise AttributeError(f"{type(module).__name__} has no attribute `{name}`")
        if not isinstance(getattr(module, name), Parameter):
            raise AttributeError(f"`{name}` is not an nn.Parameter")
        return getattr(module, name)

    def get_buffer(self, target: str) -> Tensor:
        """The buffer at a dotted path; AttributeError if it is none."""
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if not hasattr(module, name):
            raise AttributeError(f"{type(module).__name__} has no attribute `{name}`")
        if name not in module._buffers:
            raise AttributeError(f"`{name}` is not a buffer")
        return getattr(module, name)

    # -- iterating ----------------------------------------------------------------------------------
    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """(dotted name, module) for this module (the empty name) and all below, a shared one once."""
        seen = set() if memo is None else memo
        stack: list[tuple[str, Module]] = [(prefix, self)]
        while stack:
            name, module = stack.pop()
            if module in seen:
                continue
            if remove_duplicate:
                seen.add(module)
            yield name, module
            lead = name + "." if name else ""
            stack.extend((lead + n, m) for n, m in reversed(list(module._modules.items())) if m is not None)

    def modules(self) -> Iterator[Module]:
        """This module and all below."""
        for _, module in self.named_modules():
            yield module

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) for the direct children, a shared one once."""
        seen = set()
        for name, module in self._modules.items():
            if module is not None and module not in seen:
                seen.add(module)
                yield name, module

    def children(self) -> Iterator[Module]:
        """The direct children."""
        for _, module in self.named_children():
            yield module

    def _named_members(
        self,
        get_members: Callable[[Module], Any],
        prefix: str = "",
        recurse: bool = True,
        remove_duplicate: bool = True,
    ) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        modules = self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate) if recurse else [(prefix, self)]
        for module_name, module in modules:
            for key, value in get_members(module):
                if value is None or id(value) in seen:
                    continue
                if remove_duplicate:
                    seen.add(id(value))
                yield (module_name + "." if module_name else "") + key, value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter): own ones first, then the children's, in order of definition."""
        yield from self._named_members(lambda m: m._parameters.items(), prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Every parameter once."""
        for _, param in self.named_parameters(recurse=recurse):
            yield param

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """(dotted name, buffer), those out of ``state_dict`` included."""
        yield from self._named_members(lambda m: m._buffers.items(), prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Every buffer once."""
        for _, buffer in self.named_buffers(recurse=recurse):
            yield buffer

    # -- modes and conversion -----------------------------------------------------------------------
    def train(self, mode: bool = True) -> Any:
        """Sets ``training`` here and below; returns self."""
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        self.training = mode
        for child in self.children():
            child.train(mode)
        return self

    def eval(self) -> Any:
        """``train(False)``."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Sets the flag of every parameter; returns self."""
        for param in self.parameters():
            param.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the gradients: None, or zeros in place."""
        if getattr(self, "_is_replica", False):
            warnings.warn(
                "Calling .zero_grad() from a module created with nn.DataParallel() has no effect. The parameters are "
                "copied (in a differentiable manner) from the original module. This means they are not leaf nodes in "
                "autograd and so don't accumulate gradients. If you need gradients in your forward method, consider "
                "using autograd.grad instead.", stacklevel=2)  # fmt: skip
        for param in self.parameters():
            if param.grad is not None:
                if set_to_none:
                    param.grad = None
                else:
                    if param.grad.grad_fn is not None:
                        param.grad.detach_()
                    else:
                        param.grad.requires_grad_(False)
                    param.grad.zero_()

    def apply(self, fn: Callable[[Module], Any]) -> Any:
        """Calls ``fn`` on every module below, children first, itself last; returns self."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Replaces every parameter's value, gradient and every buffer by ``fn`` of it; Parameters stay the same
        objects."""
        if recurse:
            for child in self.children():
                child._apply(fn)
        for key, param in self._parameters.items():
            if param is None:
                continue
            with grad_mode.no_grad():
                applied = fn(param)
            if applied is param:
                applied = param.detach()
            grad = param.grad
            if future.get_overwrite_module_params_on_conversion():
                assert param.is_leaf
                self._parameters[key] = param = Parameter(applied, param.requires_grad)
            else:
                param.data = applied
            if grad is not None:
                with grad_mode.no_grad():
                    applied = fn(grad)
                param.grad = None
                param.grad = (grad if applied is grad else applied).requires_grad_(grad.requires_grad)
        for key, buffer in self._buffers.items():
            if buffer is not None:
                self._buffers[key] = fn(buffer)
        return self

    def _cast_floats(self, dtype: DType) -> Any:
        return self._apply(lambda t: dispatch.cast(t, dtype) if t.is_floating_point() else t)

    def type(self, dst_type: Any) -> Any:
        """Casts every parameter and buffer, integer ones too."""
        dtype = named_dtype(dst_type)
        return self._apply(lambda t: dispatch.cast(t, dtype))

    def float(self) -> Any:
        """Casts floating parameters and buffers to float32."""
        return self._cast_floats(named_dtype("torch.FloatTensor"))

    def double(self) -> Any:
        """Casts floating parameters and buffers to float64."""
        return self._cast_floats(named_dtype("torch.DoubleTensor"))

    def half(self) -> Any:
        """Casts floating parameters and buffers to float16."""
        return self._cast_floats(named_dtype("torch.HalfTensor"))

    def bfloat16(self) -> Any:
        """Casts floating parameters and buffers to bfloat16."""
        return self._cast_floats(named_dtype("torch.BFloat16Tensor"))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of an unpickled module: tables that its version did not have are empty."""
        self.__dict__.update(state)
        for name in _HOOK_TABLES:
            self.__dict__.setdefault(name, OrderedDict())
        self.__dict__.setdefault("_non_persistent_buffers_set", set())
        self.__dict__.setdefault("_is_full_backward_hook", None)

    def share_memory(self) -> Any:
        """Refused, as for tensors."""
        return self._apply(lambda t: t.share_memory_())

    def to_empty(self, *, device: Any, recurse: bool = True) -> Any:
        """New memory for every parameter and buffer, whose values are lost."""
        require_cpu(device)
        return self._apply(lambda t: creation.empty_like(t), recurse=recurse)

    def cpu(self) -> Any:
        """Itself."""
        return self

    def cuda(self, device: Any = None) -> Any:
        """Refused: there is no GPU."""
        require_cpu("cuda" if device is None else device)
        return self

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """``to(device)``, ``to(dtype)``, ``to(device, dtype)``, ``to(tensor)``, ``to(memory_format=...)``: in place;
        returns self."""
        dtype, _, memory_format = attributes.conversion("to", args, kwargs)
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError("nn.Module.to only accepts floating point or complex dtypes, but got desired dtype="
                            f"{dtype}")  # fmt: skip
        if memory_format is not None:
            rank = 5 if memory_format is attributes.channels_last_3d else 4
            self._apply(lambda t: attributes.in_format(t, memory_format) if t.dim() == rank else t)
        return self if dtype is None else self._cast_floats(dtype)

    # -- printing -----------------------------------------------------------------------------------
    def _get_name(self) -> str:
        return type(self).__name__

    def extra_repr(self) -> str:
        """Text for the parentheses of the printed module."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = extra.split("\n") if extra else []
        children = [f"({name}): {_indented(repr(child))}" for name, child in self._modules.items()]
        if not children and len(lines) <= 1:
            return f"{self._get_name()}({extra})"
        return "\n  ".join([f"{self._get_name()}(", *lines, *children]) + "\n)"


__all__ = [
    "Module", "register_module_backward_hook", "register_module_buffer_registration_hook",
    "register_module_forward_hook", "register_module_forward_pre_hook", "register_module_full_backward_hook",
    "register_module_full_backward_pre_hook", "register_module_module_registration_hook",
    "register_module_parameter_registration_hook",
]  # fmt: skip
_GLOBAL_TABLES = (_global_backward_hooks, _global_backward_pre_hooks, _global_forward_hooks, _global_forward_pre_hooks)
_WrappedHook = _WrappedHook  # found here by name, as in PyTorch
