"""Optimizers with a rate per element: Adagrad, Adadelta, RMSprop, Rprop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .arithmetic import clamp, given, number, sign, sqrt, where
from .first_order import FirstOrder, Hyper, blend, check_at_least_0, check_implementation, check_lr, descent


class Adagrad(FirstOrder):
    """p -= lr / (1 + (step - 1) lr_decay) g / (sqrt(sum of g²) + eps). The state exists from the start."""

    NUMBERS = ("lr", "lr_decay")
    FIXED = ("eps", "maximize")

    def __init__(
        self, params: Iterable[Any], lr: Any = 1e-2, lr_decay: float = 0, weight_decay: float = 0,
        initial_accumulator_value: float = 0, eps: float = 1e-10, foreach: bool | None = None, *,
        maximize: bool = False, differentiable: bool = False, fused: bool | None = None,
    ) -> None:  # fmt: skip
        check_lr(lr)
        check_at_least_0("lr_decay value", lr_decay)
        check_at_least_0("weight_decay value", weight_decay)
        check_at_least_0("initial_accumulator_value value", initial_accumulator_value)
        check_at_least_0("epsilon value", eps)
        check_implementation(fused, foreach, differentiable)
        defaults = {
            "lr": lr, "lr_decay": lr_decay, "eps": eps, "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value, "foreach": foreach, "maximize": maximize,
            "differentiable": differentiable, "fused": fused,
        }  # fmt: skip
        super().__init__(params, defaults)
        for group in self.param_groups:
            for param in group["params"]:
                self.init_state(param, group)

    def buffers(self, group: Hyper) -> dict[str, Any]:
        return {"sum": self.defaults["initial_accumulator_value"]}

    @staticmethod
    def _update(param: Any, grad: Any, state: Mapping[str, Any], hyper: Hyper) -> tuple[Any, dict[str, Any]]:
        param, grad = descent(param, grad, hyper)
        step = state["step"] + 1
        total = state["sum"] + grad * grad
        rate = hyper["lr"] / ((number(step) - 1) * hyper["lr_decay"] + 1)
        return param - grad / (sqrt(total) + hyper["eps"]) * rate, {"step": step, "sum": total}


class Adadelta(FirstOrder):
    """p -= lr d with d = g sqrt(mean of d² + eps) / sqrt(mean of g² + eps); means decay with ``rho``."""

    FIXED = ("eps", "rho", "maximize")

    def __init__(
        self, params: Iterable[Any], lr: Any = 1.0, rho: float = 0.9, eps: float = 1e-6, weight_decay: float = 0,
        foreach: bool | None = None, *, capturable: bool = False, maximize: bool = False, differentiable: bool = False,
    ) -> None:  # fmt: skip
        check_lr(lr)
        if not 0.0 <= rho <= 1.0:
            raise ValueError(f"Invalid rho value: {rho}")
        check_at_least_0("epsilon value", eps)
        check_at_least_0("weight_decay value", weight_decay)
        defaults = {
            "lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize,
            "capturable": capturable, "foreach": foreach, "differentiable": differentiable,
        }  # fmt: skip
        super().__init__(params, defaults)

    def buffers(self, group: Hyper) -> dict[str, Any]:
        return {"square_avg": 0, "acc_delta": 0}

    @staticmethod
    def _update(param: Any, grad: Any, state: Mapping[str, Any], hyper: Hyper) -> tuple[Any, dict[str, Any]]:
        param, grad = descent(param, grad, hyper)
        rho, eps = hyper["rho"], hyper["eps"]
        square = state["square_avg"] * rho + grad * grad * (1 - rho)
        delta = sqrt(state["acc_delta"] + eps) / sqrt(square + eps) * grad
        moved = state["acc_delta"] * rho + delta * delta * (1 - rho)
        return param - delta * hyper["lr"], {"step": state["step"] + 1, "square_avg": square, "acc_delta": moved}


class RMSprop(FirstOrder):
    """p -= lr g / (sqrt(mean of g²) + eps), the mean decaying with ``alpha``; ``centered`` takes the variance instead;
    with ``momentum`` the quotient goes through a buffer."""

    OPTIONAL = ("weight_decay", "momentum")
    FIXED = ("alpha", "eps", "centered", "maximize")

    def __init__(
        self, params: Iterable[Any], lr: Any = 1e-2, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0,
        momentum: float = 0, centered: bool = False, capturable: bool = False, foreach: bool | None = None,
        maximize: bool = False, differentiable: bool = False,
    ) -> None:  # fmt: skip
        check_lr(lr)
        check_at_least_0("epsilon value", eps)
        check_at_least_0("momentum value", momentum)
        check_at_least_0("weight_decay value", weight_decay)
        check_at_least_0("alpha value", alpha)
        defaults = {
            "lr": lr, "momentum": momentum, "alpha": alpha, "eps": eps, "centered": centered,
            "weight_decay": weight_decay, "capturable": capturable, "foreach": foreach, "maximize": maximize,
            "differentiable": differentiable,
        }  # fmt: skip
        super().__init__(params, defaults)

    def buffers(self, group: Hyper) -> dict[str, Any]:
        names = ["square_avg", *(["momentum_buffer"] if group["momentum"] > 0 else [])]
        return dict.fromkeys([*names, *(["grad_avg"] if group["centered"] else [])], 0)

    @staticmethod
    def _update(param: Any, grad: Any, state: Mapping[str, Any], hyper: Hyper) -> tuple[Any, dict[str, Any]]:
        param, grad = descent(param, grad, hyper)
        alpha = hyper["alpha"]
        spread = square = state["square_avg"] * alpha + grad * grad * (1 - alpha)
        new = {"step": state["step"] + 1, "square_avg": square}
        if hyper["centered"]:
            mean = new["grad_avg"] = blend(state["grad_avg"], grad, 1 - alpha)
            spread = square - mean * mean
        move = grad / (sqrt(spread) + hyper["eps"])
        if given(hyper["momentum"]):
            move = new["momentum_buffer"] = state["momentum_buffer"] * hyper["momentum"] + move
        return param - move * hyper["lr"], new


class Rprop(FirstOrder):
    """Moves every element by its own step size against the sign of its gradient. The size, ``lr`` at first, grows by
    etas[1] while the sign stays and shrinks by etas[0] when it changes (no move then), within ``step_sizes``."""

    NUMBERS = ()
    OPTIONAL = ()
    FIXED = ("etas", "step_sizes", "maximize")

    def __init__(
        self, params: Iterable[Any], lr: Any = 1e-2, etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50), *, capturable: bool = False, foreach: bool | None = None,
        maximize: bool = False, differentiable: bool = False,
    ) -> None:  # fmt: skip
        check_lr(lr)
        if not 0.0 < etas[0] < 1.0 < etas[1]:
            raise ValueError(f"Invalid eta values: {etas[0]}, {etas[1]}")
        defaults = {
            "lr": lr, "etas": etas, "step_sizes": step_sizes, "foreach": foreach, "maximize": maximize,
            "differentiable": differentiable, "capturable": capturable,
        }  # fmt: skip
        super().__init__(params, defaults)

    def buffers(self, group: Hyper) -> dict[str, Any]:
        return {"prev": 0, "step_size": group["lr"]}

    @staticmethod
    def _update(param: Any, grad: Any, state: Mapping[str, Any], hyper: Hyper) -> tuple[Any, dict[str, Any]]:
        if hyper["maximize"]:
            grad = -grad
        agreement = grad * state["prev"]
        (shrink, grow), (low, high) = hyper["etas"], hyper["step_sizes"]
        same, turned = state["step_size"], agreement < 0
        size = clamp(where(turned, same * shrink, where(agreement > 0, same * grow, same)), low, high)
        grad = where(turned, grad * 0, grad)
        return param - sign(grad) * size, {"step": state["step"] + 1, "prev": grad, "step_size": size}
