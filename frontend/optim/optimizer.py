"""``Optimizer``: parameter groups, per-parameter state, and how they are saved and compiled."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any

from ..grad_mode import enable_grad, no_grad
from ..tensor import Tensor, typename

Hyper = Mapping[str, Any]


class Optimizer:
    """Base class. A subclass defines ``_update`` (the rule, written once for eager and compiled steps), ``graph_hyper``
    and ``init_state``.

    Args:
        params: Parameters, (name, Parameter) pairs, or dicts with ``params`` and options of their own.
        defaults: options of groups that do not set them.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        if isinstance(params, Tensor):
            raise TypeError("params argument given to the optimizer should be an iterable of Tensors or dicts, but got "
                            + typename(params))  # fmt: skip
        self.defaults = defaults
        self.state: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[dict[str, Any]] = []
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    # -- to be defined ------------------------------------------------------------------------------
    @staticmethod
    def _update(
        param: Tensor, grad: Tensor, state: Mapping[str, Tensor], hyper: Hyper
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(new value of the parameter, new state). Pure: it may be traced.

        ``hyper`` holds the group's options; those of ``graph_hyper`` may be 0-d Tensors.
        """
        raise NotImplementedError

    def graph_hyper(self, group: Hyper) -> dict[str, float]:
        """The options that a compiled step takes as run-time numbers."""
        raise NotImplementedError

    def fixed_hyper(self, group: Hyper) -> dict[str, Any]:
        """The options that are fixed in the graph of a compiled step, which is compiled again when one changes: here
        every option with a default that is not in ``graph_hyper``. Other keys of a group are bookkeeping (of
        schedulers, say), and ``_update`` must not read them."""
        numbers = self.graph_hyper(group)
        return {name: group[name] for name in self.defaults if name not in numbers}

    def init_state(self, param: Tensor) -> dict[str, Tensor]:
        """The state of ``param`` for a compiled step: the existing tensors, created where there are none."""
        raise NotImplementedError

    # -- use ----------------------------------------------------------------------------------------
    @no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates every parameter that has a gradient, in place; returns the closure's loss."""
        if type(self)._update is Optimizer._update:
            raise NotImplementedError
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    new, state = self._update(param, param.grad, self.state.get(param, {}), group)
                    param._assign(new)
                    self._keep(param, state)
        return loss

    def _keep(self, param: Tensor, state: Mapping[str, Tensor]) -> None:
        for key, value in state.items():
            known = self.state[param].get(key)
            if known is None:
                self.state[param][key] = value
            else:
                known._assign(value)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the gradients of all parameters: None, or zeros in place."""
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    if set_to_none:
                        param.grad = None
                    else:
                        param.grad = param.grad.detach()
                        param.grad.zero_()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; options it lacks come from the defaults. Sets and repeated parameters are errors."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        params = param_group["params"]
        if isinstance(params, Tensor):
            params = [params]
        elif isinstance(params, set):
            raise TypeError("optimizer parameters need to be organized in ordered collections, but the ordering of "
                            "tensors in sets will change between runs. Please use a list instead.")  # fmt: skip
        params = list(params)
        if params and isinstance(params[0], tuple):
            param_group["param_names"] = [name for name, _ in params]
            params = [p for _, p in params]
        for param in params:
            if not isinstance(param, Tensor):
                raise TypeError(f"optimizer can only optimize Tensors, but one of the params is {typename(param)}")
        param_group["params"] = params
        for name, default in self.defaults.items():
            param_group.setdefault(name, default)
        if len({id(p) for p in params}) != len(params):
            warnings.warn("optimizer contains a parameter group with duplicate parameters; in future, this will cause "
                          "an error", stacklevel=3)  # fmt: skip
        present = {id(p) for group in self.param_groups for p in group["params"]}
        if any(id(p) in present for p in params):
            raise ValueError("some parameters appear in more than one parameter group")
        self.param_groups.append(param_group)

    # -- saving -------------------------------------------------------------------------------------
    # Keys that begin with an underscore are bookkeeping of Ingot and stay out of checkpoints.
    def state_dict(self) -> dict[str, Any]:
        """``{"state": ..., "param_groups": ...}`` with parameters named by position."""
        index = {id(p): i for i, p in enumerate(p for g in self.param_groups for p in g["params"])}
        groups = [
            {**{k: v for k, v in g.items() if k != "params"}, "params": [index[id(p)] for p in g["params"]]}
            for g in self.param_groups
        ]
        state = {
            index.get(id(p), p): {k: v for k, v in entries.items() if not k.startswith("_")}
            for p, entries in self.state.items()
        }
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes groups and state by position; state is copied and cast to its parameter's dtype.

        ValueError if the number of groups or their sizes differ.
        """
        saved = deepcopy(list(state_dict["param_groups"]))
        if len(saved) != len(self.param_groups):
            raise ValueError("loaded state dict has a different number of parameter groups")
        if any(len(g["params"]) != len(s["params"]) for g, s in zip(self.param_groups, saved, strict=True)):
            raise ValueError("loaded state dict contains a parameter group that doesn't match the size of optimizer's "
                             "group")  # fmt: skip
        by_index = {
            i: p
            for g, s in zip(self.param_groups, saved, strict=True)
            for i, p in zip(s["params"], g["params"], strict=True)
        }
        state: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        for key, entries in state_dict["state"].items():
            param = by_index.get(key, key)
            state[param] = {k: _copied(v, param) for k, v in entries.items()}
        self.state = state
        for group, new in zip(self.param_groups, saved, strict=True):
            params = group["params"]
            group.clear()
            group.update(new)
            group["params"] = params
        self.__setstate__({})

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Fills in options that old checkpoints lack."""
        self.__dict__.update(state)
        for group in self.param_groups:
            for name, default in self.defaults.items():
                group.setdefault(name, default)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {key}: {group[key]}" for key in sorted(group) if key != "params"]
        return "\n".join([*lines, ")"])


def _copied(value: Any, param: Any) -> Any:
    if not isinstance(value, Tensor):
        return deepcopy(value)
    floating = isinstance(param, Tensor) and param.is_floating_point() and value.is_floating_point()
    return value.detach().to(param.dtype if floating else value.dtype, copy=True)
