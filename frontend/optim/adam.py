"""Adam and its relatives: first and second moments of the gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from ..tensor import Tensor
from .arithmetic import choose, exp, maximum, number, sqrt
from .first_order import (
    FirstOrder,
    Hyper,
    blend,
    check_at_least_0,
    check_betas,
    check_implementation,
    check_lr,
    correction,
    descent,
    moment_numbers,
)

Betas = tuple[Any, Any]


class _Moments(FirstOrder):
    """What these optimizers have in common: betas and the two moments."""

    FIXED = ("eps", "maximize")

    def derived(self, group: Hyper) -> dict[str, float]:
        return moment_numbers(group)

    def buffers(self, group: Hyper) -> dict[str, Any]:
        return {"exp_avg": 0, "exp_avg_sq": 0}


def _check(lr: Any, eps: float, betas: Betas, weight_decay: float) -> None:
    check_lr(lr)
    check_at_least_0("epsilon value", eps)
    check_betas(betas)
    check_at_least_0("weight_decay value", weight_decay)


def _moments(grad: Any, state: Mapping[str, Any], hyper: Hyper) -> dict[str, Any]:
    """The new step count and moments."""
    return {
        "step": state["step"] + 1,
        "exp_avg": blend(state["exp_avg"], grad, hyper["share1"]),
        "exp_avg_sq": state["exp_avg_sq"] * hyper["beta2"] + grad * grad * hyper["share2"],
    }


class Adam(_Moments):
    """p -= lr m / (sqrt(v) + eps) with bias-corrected running means m of g and v of g². ``amsgrad`` uses the largest v
    so far; ``decoupled_weight_decay`` shrinks p by lr * weight_decay instead of adding to g (AdamW).

    State: ``step`` (0-d float32), ``exp_avg``, ``exp_avg_sq`` and, with amsgrad, ``max_exp_avg_sq``.
    ``foreach``, ``fused`` and ``capturable`` are accepted and change nothing. ValueError for options out of range.
    """

    FIXED = ("eps", "amsgrad", "maximize", "decoupled_weight_decay")

    def __init__(
        self, params: Iterable[Any], lr: Any = 1e-3, betas: Betas = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0, amsgrad: bool = False, *, foreach: bool | None = None, maximize: bool = False,
        capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:  # fmt: skip
        if isinstance(lr, Tensor) and foreach and not capturable:
            raise ValueError("lr as a Tensor is not supported for capturable=False and foreach=True")
        _check(lr, eps, betas, weight_decay)
        if not (all(isinstance(b, float) for b in betas) or all(isinstance(b, Tensor) for b in betas)):
            raise ValueError("betas must be either both floats or both Tensors")
        for i, beta in enumerate(betas):
            if isinstance(beta, Tensor):
                if foreach and not capturable:
                    raise ValueError(f"betas[{i}] as a Tensor is not supported for capturable=False and foreach=True")
                if beta.numel() != 1:
                    raise ValueError(f"Tensor betas[{i}] must be 1-element")
        check_implementation(fused, foreach, differentiable)
        defaults = {
            "lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad,
            "maximize": maximize, "foreach": foreach, "capturable": capturable, "differentiable": differentiable,
            "fused": fused, "decoupled_weight_decay": decoupled_weight_decay,
        }  # fmt: skip
        super().__init__(params, defaults)

    def buffers(self, group: Hyper) -> dict[str, Any]:
        more = {"max_exp_avg_sq": 0} if group["amsgrad"] else {}
        return {**super().buffers(group), **more}

    @staticmethod
    def _update(param: Any, grad: Any, state: Mapping[str, Any], hyper: Hyper) -> tuple[Any, dict[str, Any]]:
        param, grad = descent(param, grad, hyper)
        new = _moments(grad, state, hyper)
        largest = new["exp_avg_sq"]
        if hyper["amsgrad"]:
            largest = new["max_exp_avg_sq"] = maximum(state["max_exp_avg_sq"], largest)
        step = number(new["step"])
        size = hyper["lr"] / correction(step, hyper["log_beta1"])
        scale = sqrt(correction(step, hyper["log_beta2"]))
        return param - new["exp_avg"] / (sqrt(largest) / scale + hyper["eps"]) * size, new


class AdamW(Adam):
    """Adam with ``decoupled_weight_decay``: p shrinks by lr * weight_decay before each update."""

    def __init__(
        self, params: Iterable[Any], lr: Any = 1e-3, betas: Betas = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 1e-2, amsgrad: bool = False, *, maximize: bool = False, foreach: bool | None = None,
        capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, foreach=foreach, maximize=maximize, capturable=capturable,
            differentiable=differentiable, fused=fused, decoupled_weight_decay=True,
        )  # fmt: skip

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Whatever is loaded, the decay stays decoupled."""
        super().__setstate__(state)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True


class Adamax(_Moments):
    """p -= lr m / u with the bias-corrected running mean m of g and u = max(beta2 u, |g| + eps)."""

    def __init__(
        self, params: Iterable[Any], lr: Any = 2e-3, betas: Betas = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0, foreach: bool | None = None, *, maximize: bool = False, differentiable: bool = False,
        capturable: bool = False,
    ) -> None:  # fmt: skip
        _check(lr, eps, betas, weight_decay)
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "foreach": foreach,
            "maximize": maximize, "differentiable": differentiable, "capturable": capturable,
        }  # fmt: skip
        super().__init__(params, defaults)

    def buffers(self, group: Hyper) -> dict[str, Any]:
        return {"exp_avg": 0, "exp_inf": 0}

    @staticmethod
    def _update(param: Any, grad: Any, state: Mapping[str, Any], hyper: Hyper) -> tuple[Any, dict[str, Any]]:
        param, grad = descent(param, grad, hyper)
        step = state["step"] + 1
        mean = blend(state["exp_avg"], grad, hyper["share1"])
        peak = maximum(state["exp_inf"] * hyper["beta2"], abs(grad) + hyper["eps"])
        size = hyper["lr"] / correction(number(step), hyper["log_beta1"])
        return param - mean / peak * size, {"step": step, "exp_avg": mean, "exp_inf": peak}


class NAdam(_Moments):
    """Adam with Nesterov momentum whose momentum grows as mu = beta1 (1 - 0.96**(step * momentum_decay) / 2)."""

    COUNTERS: ClassVar[dict[str, float]] = {"step": 0.0, "mu_product": 1.0}
    FIXED = ("eps", "maximize", "decoupled_weight_decay")

    def __init__(
        self, params: Iterable[Any], lr: Any = 2e-3, betas: Betas = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0, momentum_decay: float = 4e-3, decoupled_weight_decay: bool = False, *,
        foreach: bool | None = None, maximize: bool = False, capturable: bool = False, differentiable: bool = False,
    ) -> None:  # fmt: skip
        _check(lr, eps, betas, weight_decay)
        check_at_least_0("momentum_decay value", momentum_decay)
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize, "foreach": foreach,
            "capturable": capturable, "differentiable": differentiable,
        }  # fmt: skip
        super().__init__(params, defaults)

    def derived(self, group: Hyper) -> dict[str, float]:
        return {**super().derived(group), "log_mu_decay": math.log(0.96) * group["momentum_decay"]}

    @staticmethod
    def _update(param: Any, grad: Any, state: Mapping[str, Any], hyper: Hyper) -> tuple[Any, dict[str, Any]]:
        param, grad = descent(param, grad, hyper)
        new = _moments(grad, state, hyper)
        step = number(new["step"])
        mu, mu_next = ((1 - exp(n * hyper["log_mu_decay"]) * 0.5) * hyper["beta1"] for n in (step, step + 1))
        new["mu_product"] = state["mu_product"] * mu
        product = number(new["mu_product"])
        denominator = sqrt(new["exp_avg_sq"] / correction(step, hyper["log_beta2"])) + hyper["eps"]
        of_grad = hyper["lr"] * (1 - mu) / (1 - product)
        of_mean = hyper["lr"] * mu_next / (1 - product * mu_next)
        return param - (grad * of_grad + new["exp_avg"] * of_mean) / denominator, new


class RAdam(_Moments):
    """Adam whose adaptive rate is rectified by the length of the average behind it, and left out while that is short
    (the first few steps)."""

    FIXED = ("eps", "maximize", "decoupled_weight_decay")

    def __init__(
        self, params: Iterable[Any], lr: Any = 1e-3, betas: Betas = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0, decoupled_weight_decay: bool = False, *, foreach: bool | None = None,
        maximize: bool = False, capturable: bool = False, differentiable: bool = False,
    ) -> None:  # fmt: skip
        _check(lr, eps, betas, weight_decay)
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize,
            "foreach": foreach, "capturable": capturable, "decoupled_weight_decay": decoupled_weight_decay,
            "differentiable": differentiable,
        }  # fmt: skip
        super().__init__(params, defaults)

    @staticmethod
    def _update(param: Any, grad: Any, state: Mapping[str, Any], hyper: Hyper) -> tuple[Any, dict[str, Any]]:
        param, grad = descent(param, grad, hyper)
        new = _moments(grad, state, hyper)
        step = number(new["step"])
        correction2 = correction(step, hyper["log_beta2"])
        longest = 2 / hyper["share2"] - 1
        length = longest - step * (1 - correction2) * 2 / correction2
        update = new["exp_avg"] * (hyper["lr"] / correction(step, hyper["log_beta1"]))

        def rectified() -> Any:
            # Below 5 (traced, both branches are computed) the root could be of a negative number.
            n = maximum(length, 5.0)
            rectifier = sqrt((n - 4) * (n - 2) * longest / ((longest - 4) * (longest - 2) * n))
            return update * (rectifier * sqrt(correction2)) / (sqrt(new["exp_avg_sq"]) + hyper["eps"])

        return param - choose(length > 5, rectified, lambda: update), new
