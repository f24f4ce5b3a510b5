"""Recurrent layers and cells. A trace unrolls the steps, so a compiled layer has one length."""

from __future__ import annotations

import math
import warnings
from typing import Any

from .. import creation, dispatch, linalg, shaping
from ..tensor import Tensor
from . import functional as F
from . import init
from .module import Module
from .parameter import Parameter
from .recurrent_steps import State, gates_of, step
from .utils.rnn import PackedSequence


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if not isinstance(size, int):
            raise TypeError(f"{name} should be of type int, got: {type(size).__name__}")
        if size <= 0:
            raise ValueError(f"{name} must be greater than zero")


class RNNBase(Module):
    """What RNN, LSTM and GRU share: parameters ``weight_ih_l0``, ``weight_hh_l0``, ``bias_ih_l0``, ``bias_hh_l0``
    (``weight_hr_l0`` with projections) per layer, with ``_reverse`` behind for the second direction."""

    def __init__(
        self, mode: str, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0,
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout <= 1:
            raise ValueError("dropout should be a number in range [0, 1] representing the probability of an element "
                             "being zeroed")  # fmt: skip
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
                f"num_layers greater than 1, but got dropout={dropout} and num_layers={num_layers}", stacklevel=3,
            )  # fmt: skip
        for name, flag in (("bias", bias), ("batch_first", batch_first)):
            if not isinstance(flag, bool):
                raise TypeError(f"{name} should be of type bool, got: {type(flag).__name__}")
        _check_sizes(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        if proj_size < 0:
            raise ValueError("proj_size should be a positive integer or zero to disable projections")
        if proj_size >= hidden_size:
            raise ValueError("proj_size has to be smaller than hidden_size")
        self.mode = mode
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self._all_weights: list[list[str]] = []
        rows, out = gates_of(mode) * hidden_size, proj_size or hidden_size
        for layer in range(num_layers):
            for suffix in ("", "_reverse")[: 1 + bidirectional]:
                width = input_size if layer == 0 else out * (1 + bidirectional)
                shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, width), "weight_hh": (rows, out)}
                if bias:
                    shapes.update(bias_ih=(rows,), bias_hh=(rows,))
                if proj_size:
                    shapes["weight_hr"] = (proj_size, hidden_size)
                self._all_weights.append([f"{name}_l{layer}{suffix}" for name in shapes])
                for name, shape in zip(self._all_weights[-1], shapes.values(), strict=True):
                    setattr(self, name, Parameter(creation.empty(*shape, dtype=dtype, device=device)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Everything uniform in +-1 / sqrt(hidden_size)."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for weight in self.parameters():
            init.uniform_(weight, -bound, bound)

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The parameters per layer and direction."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    def flatten_parameters(self) -> None:
        """Nothing: the parameters need no common memory here."""

    def extra_repr(self) -> str:
        out = f"{self.input_size}, {self.hidden_size}"
        if self.proj_size:
            out += f", proj_size={self.proj_size}"
        if self.num_layers != 1:
            out += f", num_layers={self.num_layers}"
        if not self.bias:
            out += ", bias=False"
        if self.batch_first:
            out += ", batch_first=True"
        if self.dropout:
            out += f", dropout={self.dropout}"
        return out + (", bidirectional=True" if self.bidirectional else "")

    # -- running --------------------------------------------------------------------------------------
    def forward(self, input: Any, hx: Any = None) -> Any:
        """(outputs, last state): outputs [T, N, D * H] ([N, T, D * H] with ``batch_first``; [T, D * H] for unbatched
        input; packed for packed input), states [layers * D, N, H] (a pair for LSTM)."""
        packed = isinstance(input, PackedSequence)
        x = input.data if packed else input
        batched = packed or self._check_rank(x, hx)
        if not batched:
            x = shaping.unsqueeze(x, 0 if self.batch_first else 1)
        if not packed and self.batch_first:
            x = shaping.transpose(x, 0, 1)
        self._check_input(x, 2 if packed else 3)
        sizes = [int(n) for n in input.batch_sizes._concrete("PackedSequence")] if packed else None
        batch = sizes[0] if sizes else x.shape[1]
        state = self._start(x, batch, hx, batched, input.sorted_indices if packed else None)
        outputs, last = self._layers(x, state, sizes)
        if packed:
            back = input.unsorted_indices
            if back is not None:
                last = tuple(dispatch.apply("index_select", s, back, axis=1) for s in last)
            result: Any = PackedSequence(outputs, *input[1:])
        else:
            if self.batch_first:
                outputs = shaping.transpose(outputs, 0, 1)
            result = outputs if batched else shaping.squeeze(outputs, 0 if self.batch_first else 1)
            if not batched:
                last = tuple(shaping.squeeze(s, 1) for s in last)
        return result, last if self.mode == "LSTM" else last[0]

    def _check_rank(self, x: Tensor, hx: Any) -> bool:
        """Whether the input has a batch axis; the state must have one then, too."""
        lstm = self.mode == "LSTM"
        if x.dim() not in (2, 3):
            raise ValueError(f"{type(self).__name__}: Expected input to be 2D or 3D, got {x.dim()}D instead")
        ranks = [] if hx is None else [t.dim() for t in hx] if lstm else [hx.dim()]
        if any(r != x.dim() for r in ranks):
            got = f"({ranks[0]}-D, {ranks[1]}-D) tensors" if lstm else f"{ranks[0]}-D tensor"
            raise RuntimeError(
                f"For {'batched' if x.dim() == 3 else 'unbatched'} {x.dim()}-D input, hx {'and cx ' if lstm else ''}"
                f"should also be {x.dim()}-D but got {got}"
            )
        return x.dim() == 3

    def _check_input(self, x: Tensor, rank: int) -> None:
        dtype = getattr(self, self._all_weights[0][0]).dtype
        if x.dtype is not dtype:
            raise ValueError(f"RNN input dtype ({x.dtype}) does not match weight dtype ({dtype}). Convert input: "
                             f"input.to({dtype}), or convert model: model.to({x.dtype})")  # fmt: skip
        if x.dim() != rank:
            raise RuntimeError(f"input must have {rank} dimensions, got {x.dim()}")
        if x.shape[-1] != self.input_size:
            raise RuntimeError("input.size(-1) must be equal to input_size. Expected "
                               f"{self.input_size}, got {x.shape[-1]}")  # fmt: skip

    def _start(self, x: Tensor, batch: Any, hx: Any, batched: bool, order: Tensor | None) -> State:
        """The states that all layers begin with, [layers * D, N, H] each."""
        widths = (self.proj_size or self.hidden_size, self.hidden_size)[: 1 + (self.mode == "LSTM")]
        count = self.num_layers * (1 + self.bidirectional)
        if hx is None:
            return tuple(creation.zeros(count, batch, w, dtype=x.dtype) for w in widths)
        given = tuple(hx) if self.mode == "LSTM" else (hx,)
        if not batched:
            given = tuple(shaping.unsqueeze(s, 1) for s in given)
        for s, width, word in zip(given, widths, ("hidden[0]", "hidden[1]"), strict=False):
            want = (count, batch, width)
            if tuple(s.shape) != want:
                word = f"Expected {word} size" if self.mode == "LSTM" else "Expected hidden size"
                raise RuntimeError(f"{word} {want}, got {list(s.shape)}")
        if order is not None:
            given = tuple(dispatch.apply("index_select", s, order, axis=1) for s in given)
        return given

    def _layers(self, x: Tensor, start: State, sizes: list[int] | None) -> tuple[Tensor, State]:
        last: list[State] = []
        directions = 1 + self.bidirectional
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                k = layer * directions + direction
                out, state = self._run(x, tuple(s[k] for s in start), sizes, k, bool(direction))
                outputs.append(out)
                last.append(state)
            x = outputs[0] if len(outputs) == 1 else shaping.cat(outputs, -1)
            if self.dropout and layer + 1 < self.num_layers:
                x = F.dropout(x, self.dropout, self.training)
        return x, tuple(shaping.stack(list(part)) for part in zip(*last, strict=True))

    def _run(
        self, x: Tensor, state: State, sizes: list[int] | None, k: int, reverse: bool
    ) -> tuple[Tensor, State]:
        """One layer in one direction: (outputs, state after its last step)."""
        weights: dict[str, Any] = {name.rpartition("_l")[0]: getattr(self, name) for name in self._all_weights[k]}
        gates = linalg.linear(x, weights["weight_ih"], weights.get("bias_ih"))
        parts = shaping.unbind(gates, 0) if sizes is None else shaping.split(gates, sizes, 0)
        outputs: list[Tensor] = []
        ended: list[State] = []  # states of sequences whose last step is over, longest sequence last
        start = state
        if sizes is not None and reverse:
            state = tuple(s[: sizes[-1]] for s in start)
        for t in reversed(range(len(parts))) if reverse else range(len(parts)):
            if sizes is not None:
                have, now = state[0].shape[0], sizes[t]
                if now < have:
                    ended.append(tuple(s[now:] for s in state))
                    state = tuple(s[:now] for s in state)
                elif now > have:
                    state = tuple(shaping.cat([s, f[have:now]]) for s, f in zip(state, start, strict=True))
            state = step(self.mode, parts[t], state, weights["weight_hh"], weights.get("bias_hh"),
                         weights.get("weight_hr"))  # fmt: skip
            outputs.append(state[0])
        if reverse:
            outputs.reverse()
        if ended:
            state = tuple(shaping.cat([s, *rest]) for s, rest in
                          zip(state, zip(*reversed(ended), strict=True), strict=True))  # fmt: skip
        return shaping.stack(outputs) if sizes is None else shaping.cat(outputs), state


class RNN(RNNBase):
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu with ``nonlinearity="relu"``."""

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
        super().__init__(
            f"RNN_{nonlinearity.upper()}", input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, 0, device, dtype,
        )  # fmt: skip
        self.nonlinearity = nonlinearity


class LSTM(RNNBase):
    """Long short-term memory; the state is the pair (h, c). ``proj_size`` projects h."""

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device,
            dtype,
        )  # fmt: skip


class GRU(RNNBase):
    """Gated recurrent units."""

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(
            "GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype
        )


class RNNCellBase(Module):
    """What the cells share: one step, with parameters ``weight_ih``, ``weight_hh``, ``bias_ih``, ``bias_hh``."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool, num_chunks: int, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        rows = num_chunks * hidden_size
        self.weight_ih = Parameter(creation.empty(rows, input_size, dtype=dtype, device=device))
        self.weight_hh = Parameter(creation.empty(rows, hidden_size, dtype=dtype, device=device))
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, Parameter(creation.empty(rows, dtype=dtype)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Everything uniform in +-1 / sqrt(hidden_size)."""
        bound = 1.0 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0
        for weight in self.parameters():
            init.uniform_(weight, -bound, bound)

    def extra_repr(self) -> str:
        out = f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")
        nonlinearity = getattr(self, "nonlinearity", "tanh")
        return out + ("" if nonlinearity == "tanh" else f", nonlinearity={nonlinearity}")

    def _step(self, mode: str, input: Tensor, state: tuple[Tensor, ...] | None) -> State:
        name = type(self).__name__
        if input.dim() not in (1, 2):
            raise ValueError(f"{name}: Expected input to be 1D or 2D, got {input.dim()}D instead")
        for i, s in enumerate(state or ()):
            if s.dim() not in (1, 2):
                what = f"hx[{i}]" if mode == "LSTM" else "hidden"
                raise ValueError(f"{name}: Expected {what} to be 1D or 2D, got {s.dim()}D instead")
        single = input.dim() == 1
        if single:
            input = shaping.unsqueeze(input, 0)
            state = None if state is None else tuple(shaping.unsqueeze(s, 0) for s in state)
        if state is None:
            zeros = creation.zeros(input.shape[0], self.hidden_size, dtype=input.dtype)
            state = (zeros, zeros)[: 1 + (mode == "LSTM")]
        gates = linalg.linear(input, self.weight_ih, self.bias_ih)
        out = step(mode, gates, state, self.weight_hh, self.bias_hh)
        return tuple(shaping.squeeze(s, 0) for s in out) if single else out


class RNNCell(RNNCellBase):
    """One step of ``RNN``: input [N, input_size] or [input_size], state alike."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        return self._step(f"RNN_{self.nonlinearity.upper()}", input, None if hx is None else (hx,))[0]


class LSTMCell(RNNCellBase):
    """One step of ``LSTM``; the state is a pair (h, c)."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        return self._step("LSTM", input, None if hx is None else tuple(hx))  # type: ignore[return-value]


class GRUCell(RNNCellBase):
    """One step of ``GRU``."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._step("GRU", input, None if hx is None else (hx,))[0]


__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNBase", "RNNCell", "RNNCellBase"]
