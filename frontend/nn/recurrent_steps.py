"""One step of the recurrent layers: [N, *] inputs and states to new states. Cells and layers share them."""

from __future__ import annotations

from typing import Any

from .. import elementwise, linalg, shaping
from ..tensor import Tensor

# The state of an LSTM is (h, c); the others' is (h,).
State = tuple[Tensor, ...]


def gates_of(mode: str) -> int:
    """Rows of the weights per unit of the hidden state."""
    return {"LSTM": 4, "GRU": 3}.get(mode, 1)


def step(mode: str, x: Tensor, state: State, weight: Tensor, bias: Tensor | None, projection: Any = None) -> State:
    """The next state. ``x`` [N, gates * hidden] is the input's part of the gates, its bias included; ``weight`` and
    ``bias`` are the state's; ``projection`` [proj, hidden] shortens an LSTM's h."""
    from_state = linalg.linear(state[0], weight, bias)
    if mode == "LSTM":
        i, f, g, o = shaping.chunk(x + from_state, 4, 1)
        c = elementwise.sigmoid(f) * state[1] + elementwise.sigmoid(i) * elementwise.tanh(g)
        h = elementwise.sigmoid(o) * elementwise.tanh(c)
        return (h if projection is None else linalg.linear(h, projection)), c
    if mode == "GRU":
        xr, xz, xn = shaping.chunk(x, 3, 1)
        hr, hz, hn = shaping.chunk(from_state, 3, 1)
        r, z = elementwise.sigmoid(xr + hr), elementwise.sigmoid(xz + hz)
        n = elementwise.tanh(xn + r * hn)
        return (n + z * (state[0] - n),)
    total = x + from_state
    return (elementwise.tanh(total) if mode == "RNN_TANH" else elementwise.relu(total),)
