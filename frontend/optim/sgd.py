"""Stochastic gradient descent, plain and averaged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from .. import creation, elementwise
from ..dispatch import from_array
from ..tensor import Tensor
from .arithmetic import choose, given, maximum, number
from .first_order import FirstOrder, Hyper, check_at_least_0, check_implementation, check_lr, counter, descent


class SGD(FirstOrder):
    """g += weight_decay p; buf = momentum buf + (1 - dampening) g (first step: buf = g); with nesterov
    g += momentum buf, else g = buf; p -= lr g. ``maximize`` negates the gradient.

    Raises ValueError for negative options, and for nesterov without momentum or with dampening.
    ``foreach`` and ``fused`` are accepted for PyTorch's sake and change nothing.
    """

    FIXED = ("nesterov", "maximize")
    COUNTERS: ClassVar[dict[str, float]] = {"_started": 0.0}

    def __init__(
        self, params: Iterable[Any], lr: Any = 1e-3, momentum: float = 0, dampening: float = 0, weight_decay: float = 0,
        nesterov: bool = False, *, maximize: bool = False, foreach: bool | None = None, differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:  # fmt: skip
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        if lr < 0.0:
            raise ValueError(f"Invalid learning rate: {lr}")
        if momentum < 0.0:
            raise ValueError(f"Invalid momentum value: {momentum}")
        if weight_decay < 0.0:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        check_implementation(fused, foreach, differentiable)
        defaults = {
            "lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay, "nesterov": nesterov,
            "maximize": maximize, "foreach": foreach, "differentiable": differentiable, "fused": fused,
        }  # fmt: skip
        super().__init__(params, defaults)

    @staticmethod
    def _update(param: Any, grad: Any, state: Mapping[str, Any], hyper: Hyper) -> tuple[Any, dict[str, Any]]:
        """One step. ``state`` is empty (first step) or holds ``momentum_buffer``; ``_started``, if there, is 0
        before the first step of a compiled program, whose buffer exists from the start."""
        param, grad = descent(param, grad, hyper)
        new_state: dict[str, Any] = {}
        if given(hyper["momentum"]):
            momentum, dampening = hyper["momentum"], hyper["dampening"]
            if state.get("momentum_buffer") is None:
                buffer = grad
                if isinstance(grad, Tensor):
                    buffer = grad.clone()
            else:
                fresh = grad * (1 - dampening) if given(dampening) else grad
                buffer = state["momentum_buffer"] * momentum + fresh
                if "_started" in state:
                    started = state["_started"]
                    buffer, old = grad, buffer
                    buffer = choose(started != 0, lambda: old, lambda: grad)
                    new_state["_started"] = creation.ones_like(started) if isinstance(started, Tensor) else 1.0
            new_state["momentum_buffer"] = buffer
            grad = grad + buffer * momentum if hyper["nesterov"] else buffer
        return param - grad * hyper["lr"], new_state

    def graph_hyper(self, group: Hyper) -> dict[str, float]:
        """lr always; momentum, weight_decay and (with momentum) dampening unless they are 0."""
        names = ["lr", *(n for n in ("momentum", "weight_decay") if group[n] != 0)]
        if group["momentum"] != 0 and group["dampening"] != 0:
            names.append("dampening")
        return {name: float(group[name]) for name in names}

    def init_state(self, param: Tensor, group: Hyper) -> dict[str, Tensor]:
        """``momentum_buffer`` (zeros before the first step) and, with dampening, ``_started`` (0-d, 0 or 1)."""
        if group["momentum"] == 0:
            return {}
        state = self.state[param]
        begun = state.get("momentum_buffer") is not None
        if not begun:
            state["momentum_buffer"] = from_array(np.zeros(param.shape, param.dtype.numpy))
        # Without dampening momentum * 0 + g is g already, so no flag is needed.
        if group["dampening"] != 0 and "_started" not in state:
            state["_started"] = from_array(np.array(1.0 if begun else 0.0, np.float32))
        return {k: v for k, v in state.items() if isinstance(v, Tensor)}

    def eager_state(self, param: Tensor, group: Hyper) -> dict[str, Tensor]:
        """The buffer, once there is one."""
        if group["momentum"] == 0:
            return {}
        return {k: v for k, v in self.state[param].items() if isinstance(v, Tensor)}


class ASGD(FirstOrder):
    """Averaged SGD: p = (1 - lambd eta) p - eta g; ax is the running mean of p after step t0 (p itself before);
    eta = lr / (1 + lambd lr step)**alpha for the next step."""

    FIXED = ("lambd", "alpha", "t0", "maximize")
    COUNTERS: ClassVar[dict[str, float]] = {"step": 0.0, "eta": 0.0, "mu": 1.0}

    def __init__(
        self, params: Iterable[Any], lr: Any = 1e-2, lambd: float = 1e-4, alpha: float = 0.75, t0: float = 1e6,
        weight_decay: float = 0, foreach: bool | None = None, maximize: bool = False, differentiable: bool = False,
        capturable: bool = False,
    ) -> None:  # fmt: skip
        check_lr(lr)
        check_at_least_0("weight_decay value", weight_decay)
        defaults = {
            "lr": lr, "lambd": lambd, "alpha": alpha, "t0": t0, "weight_decay": weight_decay, "foreach": foreach,
            "maximize": maximize, "differentiable": differentiable, "capturable": capturable,
        }  # fmt: skip
        super().__init__(params, defaults)

    def init_state(self, param: Tensor, group: Hyper) -> dict[str, Tensor]:
        """``step``, ``eta`` (the learning rate at first), ``mu`` and ``ax``."""
        if "eta" not in self.state[param]:
            self.state[param].update(step=counter(0), eta=counter(float(group["lr"])))
        return super().init_state(param, group)

    def buffers(self, group: Hyper) -> dict[str, Any]:
        return {"ax": 0}

    @staticmethod
    def _update(param: Any, grad: Any, state: Mapping[str, Any], hyper: Hyper) -> tuple[Any, dict[str, Any]]:
        """One step with the rate that the last one left."""
        param, grad = descent(param, grad, hyper)
        step, eta, mu, ax = state["step"] + 1, number(state["eta"]), number(state["mu"]), state["ax"]
        lr, count = hyper["lr"], number(step)
        param = param * (1 - eta * hyper["lambd"]) - grad * eta
        mean = choose(mu == 1, lambda: param, lambda: ax + (param - ax) * mu)
        base = lr * hyper["lambd"] * count + 1
        decayed = elementwise.pow(base, hyper["alpha"]) if isinstance(base, Tensor) else base ** hyper["alpha"]
        return param, {
            "step": step, "eta": lr / decayed, "mu": 1 / maximum(count - hyper["t0"], 1.0), "ax": mean,
        }  # fmt: skip
