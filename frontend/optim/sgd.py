"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .. import creation, elementwise
from ..tensor import Tensor
from .optimizer import Hyper, Optimizer


def _scaled(t: Tensor, factor: Any) -> Tensor:
    return t if isinstance(factor, (int, float)) and factor == 1 else elementwise.mul(t, factor)


class SGD(Optimizer):
    """g += weight_decay p; buf = momentum buf + (1 - dampening) g (first step: buf = g); with nesterov
    g += momentum buf, else g = buf; p -= lr g. ``maximize`` negates the gradient.

    Raises ValueError for negative options, and for nesterov without momentum or with dampening.
    ``foreach``, ``differentiable`` and ``fused`` are accepted for PyTorch's sake and change nothing.
    """

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
        defaults = {
            "lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay, "nesterov": nesterov,
            "maximize": maximize, "foreach": foreach, "differentiable": differentiable, "fused": fused,
        }  # fmt: skip
        super().__init__(params, defaults)

    @staticmethod
    def _update(
        param: Tensor, grad: Tensor, state: Mapping[str, Tensor], hyper: Hyper
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One step. ``state`` is empty (first step) or holds ``momentum_buffer``; ``_started``, if there, is 0
        before the first step of a compiled program, whose buffer exists from the start."""
        if hyper["maximize"]:
            grad = elementwise.neg(grad)
        if _given(hyper["weight_decay"]):
            grad = elementwise.add(grad, _scaled(param, hyper["weight_decay"]))
        new_state: dict[str, Tensor] = {}
        if _given(hyper["momentum"]):
            momentum, dampening = hyper["momentum"], hyper["dampening"]
            if "momentum_buffer" not in state:
                buffer = grad.clone()
            else:
                fresh = _scaled(grad, 1 - dampening) if _given(dampening) else grad
                buffer = elementwise.add(_scaled(state["momentum_buffer"], momentum), fresh)
                if "_started" in state:
                    started = elementwise.ne(state["_started"], 0)
                    buffer = elementwise.where(started, buffer, grad)
                    new_state["_started"] = creation.ones_like(state["_started"])
            new_state["momentum_buffer"] = buffer
            grad = elementwise.add(grad, _scaled(buffer, momentum)) if hyper["nesterov"] else buffer
        return elementwise.sub(param, _scaled(grad, hyper["lr"])), new_state

    def graph_hyper(self, group: Hyper) -> dict[str, float]:
        """lr always; momentum, weight_decay and (with momentum) dampening unless they are 0."""
        names = ["lr", *(n for n in ("momentum", "weight_decay") if group[n] != 0)]
        if group["momentum"] != 0 and group["dampening"] != 0:
            names.append("dampening")
        return {name: float(group[name]) for name in names}

    def fixed_hyper(self, group: Hyper) -> dict[str, Any]:
        """nesterov and maximize; which numbers are 0 shows in ``graph_hyper``."""
        return {"nesterov": bool(group["nesterov"]), "maximize": bool(group["maximize"])}

    def init_state(self, param: Tensor) -> dict[str, Tensor]:
        """``momentum_buffer`` (zeros before the first step) and, with dampening, ``_started`` (0-d, 0 or 1)."""
        group = next(g for g in self.param_groups if any(p is param for p in g["params"]))
        state = self.state[param] if group["momentum"] != 0 else {}
        if group["momentum"] != 0:
            begun = "momentum_buffer" in state
            if not begun:
                state["momentum_buffer"] = creation.zeros_like(param)
            # Without dampening momentum * 0 + g is g already, so no flag is needed.
            if group["dampening"] != 0 and "_started" not in state:
                state["_started"] = Tensor._wrap(np.array(1.0 if begun else 0.0, np.float32))
        return {k: v for k, v in state.items() if isinstance(v, Tensor)}


def _given(option: Any) -> bool:
    """Whether an option takes part: a Tensor always does, a number if it is not 0."""
    return isinstance(option, Tensor) or option != 0
