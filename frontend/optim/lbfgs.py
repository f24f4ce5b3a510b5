"""L-BFGS: a quasi-Newton method that evaluates the loss several times per step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..dispatch import from_array
from ..grad_mode import enable_grad, no_grad
from ..tape import views
from ..tensor import Tensor
from .first_order import check_lr
from .optimizer import Optimizer

# (loss, flat gradient, slope along the direction) at a point of a line search
_Point = tuple[float, np.ndarray, float]


class LBFGS(Optimizer):
    """Limited-memory BFGS. ``step`` needs a closure that clears the gradients, computes the loss, calls ``backward``
    and returns the loss. One parameter group; eager only.

    Args:
        lr: length of a step without line search, first trial of a line search.
        max_iter, max_eval: iterations and evaluations per step (max_eval: 1.25 max_iter).
        tolerance_grad, tolerance_change: the step ends below this gradient, or this change of loss or parameters.
        history_size: pairs of (change of parameters, change of gradient) that are kept.
        line_search_fn: None or "strong_wolfe".
    """

    def __init__(
        self, params: Iterable[Any], lr: Any = 1, max_iter: int = 20, max_eval: int | None = None,
        tolerance_grad: float = 1e-7, tolerance_change: float = 1e-9, history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:  # fmt: skip
        check_lr(lr)
        defaults = {
            "lr": lr, "max_iter": max_iter, "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
            "tolerance_grad": tolerance_grad, "tolerance_change": tolerance_change, "history_size": history_size,
            "line_search_fn": line_search_fn,
        }  # fmt: skip
        super().__init__(params, defaults)
        if len(self.param_groups) != 1:
            raise ValueError("LBFGS doesn't support per-parameter options (parameter groups)")

    @property
    def _params(self) -> list[Tensor]:
        return self.param_groups[0]["params"]

    def _flat_grad(self) -> np.ndarray:
        parts = [
            np.zeros(p.numel(), p.dtype.numpy) if p.grad is None else p.grad._data.reshape(-1) for p in self._params
        ]
        return np.concatenate(parts)

    def _flat_params(self) -> np.ndarray:
        return np.concatenate([p._data.reshape(-1) for p in self._params])

    def _move_to(self, flat: np.ndarray) -> None:
        start = 0
        for p in self._params:
            views.check_writable(p)
            p._data[...] = flat[start : start + p.numel()].reshape(p.shape)
            views.written(p, p, computed=False, history=False)
            start += p.numel()

    @no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        """Up to ``max_iter`` iterations; returns the first loss."""
        group = self.param_groups[0]
        lr, search = float(group["lr"]), group["line_search_fn"]
        # The whole state belongs to the first parameter, as in PyTorch.
        state = self.state[self._params[0]]
        state.setdefault("func_evals", 0)
        state.setdefault("n_iter", 0)

        def evaluate() -> tuple[Any, np.ndarray]:
            with enable_grad():
                loss = closure()
            return loss, self._flat_grad()

        first_loss, grad = evaluate()
        loss, evaluations = float(first_loss), 1
        state["func_evals"] += 1
        if np.abs(grad).max() <= group["tolerance_grad"]:
            return first_loss
        memory = _Memory.of(state, group["history_size"])
        for iteration in range(1, group["max_iter"] + 1):
            state["n_iter"] += 1
            direction = memory.direction(grad, restart=state["n_iter"] == 1)
            memory.previous_grad, memory.previous_loss = grad.copy(), loss
            memory.t = min(1.0, 1.0 / float(np.abs(grad).sum())) * lr if state["n_iter"] == 1 else lr
            slope = float(grad @ direction)
            if slope > -group["tolerance_change"]:
                break
            spent = 0
            start = self._flat_params()
            if search is not None:
                if search != "strong_wolfe":
                    raise RuntimeError("only 'strong_wolfe' is supported")

                def trial(t: float, start: np.ndarray = start, direction: np.ndarray = direction) -> _Point:
                    self._move_to(start + direction * t)
                    value, gradient = evaluate()
                    return float(value), gradient, float(gradient @ direction)

                reach = float(np.abs(direction).max())
                limit = group["max_eval"] - evaluations
                memory.t, (loss, grad, _), spent = strong_wolfe(trial, memory.t, (loss, grad, slope), reach, limit)
            self._move_to(start + direction * memory.t)
            if search is None and iteration != group["max_iter"]:
                # The last iteration need not know where it ends.
                value, grad = evaluate()
                loss, spent = float(value), 1
            evaluations += spent
            state["func_evals"] += spent
            if (
                iteration == group["max_iter"]
                or evaluations >= group["max_eval"]
                or np.abs(grad).max() <= group["tolerance_grad"]
                or np.abs(direction * memory.t).max() <= group["tolerance_change"]
                or abs(loss - memory.previous_loss) < group["tolerance_change"]
            ):
                break
        memory.into(state)
        return first_loss


class _Memory:
    """What one iteration knows of those before: PyTorch's state entries, as arrays."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.d: np.ndarray | None = None
        self.t = 0.0
        self.gradient_changes: list[np.ndarray] = []
        self.moves: list[np.ndarray] = []
        self.ro: list[float] = []
        self.scale = 1.0
        self.previous_grad: np.ndarray | None = None
        self.previous_loss = 0.0

    @classmethod
    def of(cls, state: dict[str, Any], size: int) -> _Memory:
        memory = cls(size)
        if state.get("d") is not None:
            memory.d, memory.t = state["d"]._data, float(state["t"])
            memory.gradient_changes = [t._data for t in state["old_dirs"]]
            memory.moves = [t._data for t in state["old_stps"]]
            memory.ro = [float(r) for r in state["ro"]]
            memory.scale = float(state["H_diag"])
            memory.previous_grad, memory.previous_loss = state["prev_flat_grad"]._data, float(state["prev_loss"])
        return memory

    def into(self, state: dict[str, Any]) -> None:
        assert self.d is not None and self.previous_grad is not None

        def scalar(x: float) -> Tensor:
            assert self.d is not None
            return from_array(np.array(x, self.d.dtype))

        state.update(
            d=from_array(self.d), t=self.t, old_dirs=[from_array(y) for y in self.gradient_changes],
            old_stps=[from_array(s) for s in self.moves], ro=[scalar(r) for r in self.ro],
            H_diag=scalar(self.scale) if self.moves else 1, prev_flat_grad=from_array(self.previous_grad),
            prev_loss=self.previous_loss,
        )  # fmt: skip

    def direction(self, grad: np.ndarray, restart: bool) -> np.ndarray:
        """Minus the approximate inverse Hessian times the gradient, after learning from the last move."""
        if restart or self.d is None or self.previous_grad is None:
            self.gradient_changes, self.moves, self.ro, self.scale = [], [], [], 1.0
            self.d = -grad
            return self.d
        change, move = grad - self.previous_grad, self.d * self.t
        curvature = float(change @ move)
        if curvature > 1e-10:
            if len(self.moves) == self.size:
                del self.gradient_changes[0], self.moves[0], self.ro[0]
            self.gradient_changes.append(change)
            self.moves.append(move)
            self.ro.append(1.0 / curvature)
            self.scale = curvature / float(change @ change)
        out = -grad
        weights = [0.0] * len(self.moves)
        for i in reversed(range(len(self.moves))):
            weights[i] = float(self.moves[i] @ out) * self.ro[i]
            out -= self.gradient_changes[i] * weights[i]
        out *= self.scale
        for i, (change, move) in enumerate(zip(self.gradient_changes, self.moves, strict=True)):
            out += move * (weights[i] - float(change @ out) * self.ro[i])
        self.d = out
        return out


def _cubic_minimum(
    a: tuple[float, float, float], b: tuple[float, float, float], bounds: tuple[float, float] | None = None
) -> float:
    """The minimum within ``bounds`` of the cubic through two (position, value, slope); the middle if it has none."""
    if a[0] > b[0]:
        a, b = b, a
    low, high = bounds if bounds is not None else (a[0], b[0])
    (x1, f1, g1), (x2, f2, g2) = a, b
    if x1 == x2:
        return (low + high) / 2.0
    theta = g1 + g2 - 3 * (f1 - f2) / (x1 - x2)
    square = theta * theta - g1 * g2
    if not square >= 0:
        return (low + high) / 2.0
    root = math.sqrt(square)
    divisor = g2 - g1 + 2 * root
    if divisor == 0:
        return low
    return min(max(x2 - (x2 - x1) * ((g2 + root - theta) / divisor), low), high)


def strong_wolfe(
    trial: Callable[[float], _Point], t: float, origin: _Point, reach: float, max_trials: int, *, c1: float = 1e-4,
    c2: float = 0.9, tolerance: float = 1e-9,
) -> tuple[float, _Point, int]:  # fmt: skip
    """(step length, the point there, number of trials) with sufficient decrease and a flat enough slope.

    ``trial(t)`` evaluates at a step length; ``reach`` is the largest element of the direction.
    """
    loss, _, slope = origin

    def too_high(at: float, point: _Point) -> bool:
        return point[0] > loss + c1 * at * slope

    def flat(point: _Point) -> bool:
        return abs(point[2]) <= -c2 * slope

    point, trials, rounds = trial(t), 1, 0
    before: tuple[float, _Point] = (0.0, origin)
    bracket: list[tuple[float, _Point]] = []
    # Lengthen the step until a good point lies behind it.
    while rounds < max_trials:
        if too_high(t, point) or (rounds > 1 and point[0] >= before[1][0]):
            bracket = [before, (t, point)]
            break
        if flat(point):
            return t, point, trials
        if point[2] >= 0:
            bracket = [before, (t, point)]
            break
        longer = _cubic_minimum(
            (before[0], before[1][0], before[1][2]), (t, point[0], point[2]), (t + 0.01 * (t - before[0]), t * 10)
        )
        before, t = (t, point), longer
        point, trials, rounds = trial(t), trials + 1, rounds + 1
    if not bracket:
        bracket = [(0.0, origin), (t, point)]
    # Narrow the bracket; ``low`` is its end with the lower loss.
    low, high = (0, 1) if bracket[0][1][0] <= bracket[1][1][0] else (1, 0)
    stuck = False
    while rounds < max_trials:
        (ta, pa), (tb, pb) = bracket
        if abs(tb - ta) * reach < tolerance:
            break
        t = _cubic_minimum((ta, pa[0], pa[2]), (tb, pb[0], pb[2]))
        left, right = min(ta, tb), max(ta, tb)
        margin = 0.1 * (right - left)
        if min(right - t, t - left) < margin:
            # Too near an end twice in a row, or on it: a tenth of the bracket away from it.
            if stuck or t >= right or t <= left:
                t = right - margin if abs(t - right) < abs(t - left) else left + margin
                stuck = False
            else:
                stuck = True
        else:
            stuck = False
        point, trials, rounds = trial(t), trials + 1, rounds + 1
        if too_high(t, point) or point[0] >= bracket[low][1][0]:
            bracket[high] = (t, point)
            low, high = (0, 1) if bracket[0][1][0] <= bracket[1][1][0] else (1, 0)
            continue
        done = flat(point)
        if not done and point[2] * (bracket[high][0] - bracket[low][0]) >= 0:
            bracket[high] = bracket[low]
        bracket[low] = (t, point)
        if done:
            break
    t, point = bracket[low]
    return t, point, trials
