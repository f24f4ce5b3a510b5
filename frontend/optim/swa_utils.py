"""Averages of models: stochastic weight averaging (SWA) and exponential moving averages (EMA)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import Any

from .. import creation
from ..grad_mode import no_grad
from ..nn.module import Module
from ..nn.normalization import _BatchNorm
from ..tensor import Tensor
from .optimizer import Optimizer
from .schedule import LRScheduler, per_group

__all__ = [
    "SWALR",
    "AveragedModel",
    "ModelEMA",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]  # fmt: skip


def _check_decay(decay: float) -> None:
    if decay < 0.0 or decay > 1.0:
        raise ValueError(f"Invalid decay value {decay} provided. Please provide a value in [0,1] range.")


def get_ema_avg_fn(decay: float = 0.999) -> Callable[..., Any]:
    """``avg_fn`` of an exponential moving average: decay * average + (1 - decay) * parameter."""
    _check_decay(decay)

    @no_grad()
    def ema_update(ema_param: Tensor, current_param: Tensor, num_averaged: Any) -> Any:
        return ema_param * decay + current_param * (1 - decay)

    return ema_update


def get_ema_multi_avg_fn(decay: float = 0.999) -> Callable[..., None]:
    """The same on lists of tensors, in place."""
    _check_decay(decay)

    @no_grad()
    def ema_update(ema_param_list: Sequence[Tensor], current_param_list: Sequence[Tensor], _: Any) -> None:
        for average, current in zip(ema_param_list, current_param_list, strict=True):
            if average.is_floating_point():
                average.add_((current - average) * (1 - decay))
            else:
                average.copy_(average * decay + current * (1 - decay))

    return ema_update


def get_swa_avg_fn() -> Callable[..., Any]:
    """``avg_fn`` of a plain mean over all updates."""

    @no_grad()
    def swa_update(averaged_param: Tensor, current_param: Tensor, num_averaged: Any) -> Any:
        return averaged_param + (current_param - averaged_param) / (num_averaged + 1)

    return swa_update


def get_swa_multi_avg_fn() -> Callable[..., None]:
    """The same on lists of tensors, in place."""
    average_of = get_swa_avg_fn()

    @no_grad()
    def swa_update(
        averaged_param_list: Sequence[Tensor], current_param_list: Sequence[Tensor], num_averaged: Any
    ) -> None:
        for average, current in zip(averaged_param_list, current_param_list, strict=True):
            average.copy_(average_of(average, current, num_averaged))

    return swa_update


class AveragedModel(Module):
    """A copy of a model whose parameters are averages over those of the model at each ``update_parameters``.

    Args:
        model: what is copied (deeply).
        device: the CPU, if given.
        avg_fn: ``avg_fn(average, parameter, num_averaged)`` returns the new average; the mean by default.
        multi_avg_fn: the same on lists, in place; one of the two.
        use_buffers: buffers are averaged as well; else they follow the model's.
    """

    n_averaged: Tensor

    def __init__(
        self, model: Module, device: Any = None, avg_fn: Callable[..., Any] | None = None,
        multi_avg_fn: Callable[..., None] | None = None, use_buffers: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise AssertionError("Only one of avg_fn and multi_avg_fn should be provided")
        self.module = deepcopy(model)
        if device is not None:
            self.module = self.module.to(device)
        self.register_buffer("n_averaged", creation.tensor(0))
        self.avg_fn, self.multi_avg_fn, self.use_buffers = avg_fn, multi_avg_fn, use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Takes the model's present parameters into the averages; the first time they are copied."""
        averages, currents = _tensors(self.module, self.use_buffers), _tensors(model, self.use_buffers)
        if self.n_averaged.item() == 0:
            for average, current in zip(averages, currents, strict=True):
                average.copy_(current)
        elif self.avg_fn is not None:
            for average, current in zip(averages, currents, strict=True):
                average.copy_(self.avg_fn(average, current, self.n_averaged))
        else:
            # Functions on lists may look at the dtype of the first tensor: one call per dtype.
            update = self.multi_avg_fn or get_swa_multi_avg_fn()
            for dtype in dict.fromkeys(t.dtype for t in averages):
                chosen = [i for i, t in enumerate(averages) if t.dtype is dtype]
                update([averages[i] for i in chosen], [currents[i] for i in chosen], self.n_averaged)
        if not self.use_buffers:
            _copy_buffers(self.module, model)
        self.n_averaged += 1


def _tensors(model: Module, with_buffers: bool) -> list[Tensor]:
    return [t.detach() for t in (*model.parameters(), *(model.buffers() if with_buffers else ()))]


def _copy_buffers(target: Module, source: Module) -> None:
    for mine, theirs in zip(target.buffers(), source.buffers(), strict=True):
        mine.detach().copy_(theirs.detach())


class ModelEMA:
    """Exponential moving average of a model, updated after every optimizer step and used for validation.

    ``ema`` is a copy of the model in eval mode whose parameters do not require grad. The n-th update uses
    decay * (1 - exp(-n / tau)), so that the first, random parameters are soon forgotten. Floating parameters and
    buffers are averaged; integer buffers are copied.

    Args:
        model: the model; of a wrapper with a ``module`` (DataParallel) the module is averaged.
        decay: what the decay grows to, in [0, 1].
        tau: updates until it has grown to 63 %; 0: it is ``decay`` from the start.
        updates: updates that a resumed training has behind it.
    """

    def __init__(self, model: Module, decay: float = 0.9999, tau: float = 2000.0, updates: int = 0) -> None:
        _check_decay(decay)
        self.ema = deepcopy(_unwrapped(model)).eval()
        self.ema.requires_grad_(False)
        self.updates = updates
        self._decay, self._tau = decay, tau

    def decay(self, updates: int) -> float:
        """The decay of the update with this number, counted from 1."""
        return self._decay * (1 - math.exp(-updates / self._tau)) if self._tau else self._decay

    @no_grad()
    def update(self, model: Module) -> None:
        """Moves the averages towards the present values of ``model``."""
        self.updates += 1
        share = 1 - self.decay(self.updates)
        current = _unwrapped(model).state_dict()
        for name, average in self.ema.state_dict().items():
            if average.is_floating_point():
                average.add_((current[name].detach() - average) * share)
            else:
                average.copy_(current[name])


def _unwrapped(model: Any) -> Any:
    return model.module if hasattr(model, "module") else model


@no_grad()
def update_bn(loader: Iterable[Any], model: Module, device: Any = None) -> None:
    """Sets the running statistics of the model's batch normalisations to those of the data: means over one pass.

    ``loader`` gives inputs, or tuples and lists that begin with them.
    """
    momenta = {m: m.momentum for m in model.modules() if isinstance(m, _BatchNorm)}
    if not momenta:
        return
    was_training = model.training
    model.train()
    for module in momenta:
        module.reset_running_stats()
        module.momentum = None
    for input in loader:
        if isinstance(input, (list, tuple)):
            input = input[0]
        model(input if device is None else input.to(device))
    for module, momentum in momenta.items():
        module.momentum = momentum
    model.train(was_training)


class SWALR(LRScheduler):
    """Goes from the optimizer's rates to ``swa_lr`` within ``anneal_epochs`` and stays there.

    Args:
        swa_lr: a rate, or one per group.
        anneal_strategy: "cos" or "linear".
    """

    def __init__(
        self, optimizer: Optimizer, swa_lr: Any, anneal_epochs: int = 10, anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ) -> None:  # fmt: skip
        for rate, group in zip(per_group("swa_lr", optimizer, swa_lr), optimizer.param_groups, strict=True):
            group["swa_lr"] = rate
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}")
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ValueError(f"anneal_epochs must be equal or greater than 0, got {anneal_epochs}")
        self._anneal_strategy, self.anneal_epochs = anneal_strategy, anneal_epochs
        super().__init__(optimizer, last_epoch)

    def _share(self, step: int) -> float:
        """How much of ``swa_lr`` the rate of a step is made of."""
        t = max(0.0, min(1.0, step / max(1, self.anneal_epochs)))
        return t if self._anneal_strategy == "linear" else (1 - math.cos(math.pi * t)) / 2

    def get_lr(self) -> list[Any]:
        self._check_called_within_step()
        step = self._step_count - 1
        if self.anneal_epochs == 0:
            step = max(1, step)
        before, now = self._share(step - 1), self._share(step)
        rates = []
        for group in self.optimizer.param_groups:
            target = group["swa_lr"]
            # Other schedulers may change the rate in between, so what it would be without this one is worked out anew.
            start = target if before == 1 else (group["lr"] - before * target) / (1 - before)
            rates.append(target * now + start * (1 - now))
        return rates
