"""Optimizers whose rule treats every element of every parameter alike: the rule is written once, for eager steps and
for ``ingot.compile_step``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from .. import grad_mode, promotion, tracing
from ..dispatch import from_array
from ..grad_mode import enable_grad
from ..tape import views
from ..tensor import Tensor
from .arithmetic import expm1, given
from .optimizer import Optimizer

Hyper = Mapping[str, Any]

# Elements per pass of an eager step: operands and temporaries of a rule then stay in the second-level cache.
BLOCK = 1 << 14


class FirstOrder(Optimizer):
    """A subclass defines ``_update`` and says in class attributes what its options and its state are."""

    NUMBERS: ClassVar[tuple[str, ...]] = ("lr",)  # options that a compiled step takes as run-time numbers
    OPTIONAL: ClassVar[tuple[str, ...]] = ("weight_decay",)  # the same, but left out of the graph while 0
    FIXED: ClassVar[tuple[str, ...]] = ("maximize",)  # options that are fixed in the graph of a compiled step
    COUNTERS: ClassVar[dict[str, float]] = {"step": 0.0}  # 0-d state with the value it starts with

    # -- to be defined ------------------------------------------------------------------------------
    @staticmethod
    def _update(param: Any, grad: Any, state: Mapping[str, Any], hyper: Hyper) -> tuple[Any, dict[str, Any]]:
        """(new value of the parameter, new state). Pure, written with operators and ``arithmetic``: operands are arrays
        and numbers, or Tensors. ``hyper`` holds the group's options and the numbers of ``graph_hyper``."""
        raise NotImplementedError

    def buffers(self, group: Hyper) -> dict[str, Any]:
        """State of the parameter's shape, with the number it is filled with at first."""
        return {}

    def derived(self, group: Hyper) -> dict[str, float]:
        """Further run-time numbers that the rule reads, computed from the group's options in float64."""
        return {}

    # -- derived from it ----------------------------------------------------------------------------
    def graph_hyper(self, group: Hyper) -> dict[str, float]:
        """The numbers that a compiled step takes at run time."""
        names = [*self.NUMBERS, *(n for n in self.OPTIONAL if group[n] != 0)]
        return {**{name: float(group[name]) for name in names}, **self.derived(group)}

    def fixed_hyper(self, group: Hyper) -> dict[str, Any]:
        """The options that are fixed in the graph of a compiled step, which is compiled again when one changes. Other
        keys of a group are bookkeeping (of schedulers, say), and ``_update`` must not read them."""
        return {name: group[name] for name in self.FIXED}

    def init_state(self, param: Tensor, group: Hyper) -> dict[str, Tensor]:
        """The state of ``param``: existing tensors, created where there are none."""
        state = self.state[param]
        for name, value in self.COUNTERS.items():
            if name not in state:
                state[name] = counter(value)
        for name, value in self.buffers(group).items():
            if name not in state:
                state[name] = from_array(np.full(param.shape, float(value), param.dtype.numpy))
        return {k: v for k, v in state.items() if isinstance(v, Tensor)}

    def eager_state(self, param: Tensor, group: Hyper) -> dict[str, Tensor]:
        """What ``_update`` gets as state in an eager step."""
        return self.init_state(param, group)

    def group_of(self, param: Tensor) -> dict[str, Any]:
        """The group that holds ``param``."""
        return next(g for g in self.param_groups if any(p is param for p in g["params"]))

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates every parameter that has a gradient, in place; returns the closure's loss."""
        with grad_mode.set_grad_enabled(bool(self.defaults.get("differentiable"))):
            loss = None
            if closure is not None:
                with enable_grad():
                    loss = closure()
            for group in self.param_groups:
                params = [p for p in group["params"] if p.grad is not None]
                if params:
                    as_tensors = bool(group.get("differentiable")) or tracing.current() is not None
                    numbers = {**group, **self.graph_hyper(group)}
                    if as_tensors:
                        numbers.update((k, v) for k, v in group.items() if isinstance(v, Tensor))
                    for param in params:
                        (self._step_tensors if as_tensors else self._step_arrays)(param, group, numbers)
        return loss

    def _step_tensors(self, param: Tensor, group: Hyper, hyper: Hyper) -> None:
        """The rule on Tensors: recorded for differentiation (``differentiable``) or by a trace."""
        grad = param.grad
        assert grad is not None
        new, state = self._update(param, grad, self.eager_state(param, group), hyper)
        kept = self.state[param]
        for key, value in state.items():
            if grad_mode.is_grad_enabled() or key not in kept:
                kept[key] = value  # the old tensor may be needed by backward
            else:
                kept[key]._assign(value)
        if grad_mode.is_grad_enabled():
            param.copy_(new)
        else:
            param._assign(new)

    def _step_arrays(self, param: Tensor, group: Hyper, hyper: Hyper) -> None:
        """The rule on the arrays, block by block."""
        grad = param.grad
        assert grad is not None
        views.check_writable(param)
        kept = self.eager_state(param, group)
        counters = {k: v._data[()] for k, v in kept.items() if k in self.COUNTERS}
        arrays = {k: v._data for k, v in kept.items() if k not in self.COUNTERS}
        new_counters = self._run(param._data, grad._data, arrays, counters, hyper)
        for key, value in new_counters.items():
            kept[key]._data[...] = value
        for key, array in arrays.items():
            if key not in kept:
                self.state[param][key] = from_array(array)
        views.written(param, param, computed=False, history=False)

    def _run(
        self, param: np.ndarray, grad: np.ndarray, arrays: dict[str, np.ndarray], counters: dict[str, Any], hyper: Hyper
    ) -> dict[str, Any]:
        """Updates ``param`` and ``arrays`` in place (adding what the rule adds); returns the new 0-d state."""
        flat = all(a.flags.c_contiguous for a in (param, grad, *arrays.values()))
        whole = {name: a.reshape(-1) if flat else a for name, a in arrays.items()}
        p, g = (param.reshape(-1), grad.reshape(-1)) if flat else (param, grad)
        pieces = [slice(i, i + BLOCK) for i in range(0, p.size, BLOCK)] if flat else [slice(None)]
        # 16-bit floats are computed in float32 and rounded once.
        work = np.dtype(np.float32) if param.dtype.itemsize < 4 else param.dtype
        new_counters: dict[str, Any] = {}
        targets = dict(whole)
        with np.errstate(all="ignore"):
            for piece in pieces:
                parts = {name: a[piece].astype(work, copy=False) for name, a in whole.items()}
                new, state = self._update(
                    p[piece].astype(work, copy=False), g[piece].astype(work, copy=False), {**parts, **counters}, hyper
                )
                for name, value in state.items():
                    if name in self.COUNTERS:
                        new_counters[name] = value
                        continue
                    if name not in targets:
                        arrays[name] = np.empty(param.shape, param.dtype)
                        targets[name] = arrays[name].reshape(-1) if flat else arrays[name]
                    np.copyto(targets[name][piece], value, casting="unsafe")
                np.copyto(p[piece], new, casting="unsafe")
        return new_counters

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Counters that old pickles hold as numbers become tensors."""
        super().__setstate__(state)
        for entries in self.state.values():
            for name in self.COUNTERS:
                if name in entries and not isinstance(entries[name], Tensor):
                    entries[name] = counter(float(entries[name]))


def counter(value: float) -> Tensor:
    """A 0-d state: float32, or float64 if that is the default dtype."""
    double = promotion.get_default_dtype().itemsize == 8
    return from_array(np.array(value, np.float64 if double else np.float32))


def descent(param: Any, grad: Any, hyper: Hyper) -> tuple[Any, Any]:
    """(parameter, gradient) after ``maximize`` and ``weight_decay``, coupled or decoupled."""
    if hyper["maximize"]:
        grad = -grad
    if given(hyper["weight_decay"]):
        if hyper.get("decoupled_weight_decay"):
            param = param * (1 - hyper["lr"] * hyper["weight_decay"])
        else:
            grad = grad + param * hyper["weight_decay"]
    return param, grad


def blend(old: Any, new: Any, share: Any) -> Any:
    """old + share (new - old)."""
    return old + (new - old) * share


def moment_numbers(group: Hyper) -> dict[str, float]:
    """``beta1``, ``beta2`` and what is computed from them in float64: 1 - beta and log beta.

    In float32 1 - 0.999 would be wrong in the fifth digit, and 1 - 0.999**step even earlier.
    """
    out: dict[str, float] = {}
    for i, beta in enumerate(map(float, group["betas"]), 1):
        out[f"beta{i}"] = beta
        out[f"share{i}"] = 1 - beta
        out[f"log_beta{i}"] = math.log(beta) if beta else -math.inf
    return out


def correction(step: Any, log_beta: Any) -> Any:
    """1 - beta**step."""
    return -expm1(step * log_beta)


def check_lr(lr: Any) -> None:
    """ValueError unless ``lr`` is a number or one-element Tensor that is not negative."""
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError("Tensor lr must be 1-element")
    check_at_least_0("learning rate", lr)


def check_at_least_0(what: str, value: Any) -> None:
    """ValueError for a negative (or NaN) option."""
    if not value >= 0.0:
        raise ValueError(f"Invalid {what}: {value}")


def check_betas(betas: Any) -> None:
    """ValueError unless both are in [0, 1)."""
    for i in (0, 1):
        if not 0.0 <= betas[i] < 1.0:
            raise ValueError(f"Invalid beta parameter at index {i}: {betas[i]}")


def check_implementation(fused: Any, foreach: Any, differentiable: Any) -> None:
    """RuntimeError for choices of an implementation that exclude each other; otherwise they change nothing here."""
    if fused and differentiable:
        raise RuntimeError("`fused` does not support `differentiable`")
    if fused and foreach:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
