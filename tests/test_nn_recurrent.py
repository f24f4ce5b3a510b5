"""Recurrent layers and cells, packed sequences: against cells by hand, gradients, compiled."""

from __future__ import annotations

import copy
from typing import Any

import ingot as torch
import ingot.nn as nn
import numpy as np
import pytest
from ingot.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    pad_sequence,
    unpack_sequence,
    unpad_sequence,
)


def random(*shape: int, seed: int = 0) -> Any:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def close(a: Any, b: Any, atol: float = 1e-10) -> None:
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), atol=atol, rtol=0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def numpy_step(kind: str, x: np.ndarray, h: np.ndarray, c: np.ndarray, p: dict[str, np.ndarray]) -> Any:
    a, b = x @ p["ih"].T + p["bih"], h @ p["hh"].T + p["bhh"]
    if kind == "RNN":
        return np.tanh(a + b), c
    if kind == "GRU":
        (ar, az, an), (br, bz, bn) = np.split(a, 3, 1), np.split(b, 3, 1)
        z = sigmoid(az + bz)
        return (1 - z) * np.tanh(an + sigmoid(ar + br) * bn) + z * h, c
    i, f, g, o = np.split(a + b, 4, 1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_layer_is_its_formula(kind: str) -> None:
    layer = getattr(nn, kind)(3, 4).double()
    p = {k: getattr(layer, f"{n}_l0").detach().numpy() for k, n in
         {"ih": "weight_ih", "hh": "weight_hh", "bih": "bias_ih", "bhh": "bias_hh"}.items()}  # fmt: skip
    x = random(5, 2, 3)
    out, last = layer(x)
    h = c = np.zeros((2, 4))
    for t in range(5):
        h, c = numpy_step(kind, x.numpy()[t], h, c, p)
        np.testing.assert_allclose(out[t].detach().numpy(), h, atol=1e-12)
    np.testing.assert_allclose((last[0] if kind == "LSTM" else last)[0].detach().numpy(), h, atol=1e-12)
    cell = getattr(nn, kind + "Cell")(3, 4).double()
    cell.load_state_dict({k[:-3]: v for k, v in layer.state_dict().items()})
    state = None
    for t in range(5):
        state = cell(x[t], state)
    close((state[0] if kind == "LSTM" else state), out[4])


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_shapes_and_order(kind: str) -> None:
    layer = getattr(nn, kind)(3, 4, num_layers=2, bidirectional=True, batch_first=True).double()
    x = random(2, 5, 3)
    out, last = layer(x)
    h = last[0] if kind == "LSTM" else last
    assert out.shape == (2, 5, 8) and h.shape == (4, 2, 4)
    close(h[2], out[:, -1, :4])  # forward ends at the last step, the reverse direction at the first
    close(h[3], out[:, 0, 4:])
    single, state = layer(x[0])
    assert single.shape == (5, 8) and (state[0] if kind == "LSTM" else state).shape == (4, 4)
    close(single, out[0])
    with pytest.raises(RuntimeError, match="Expected hidden"):
        layer(x, (torch.zeros(3, 2, 4), torch.zeros(3, 2, 4)) if kind == "LSTM" else torch.zeros(3, 2, 4))
    with pytest.raises(ValueError, match="Expected input to be 2D or 3D"):
        layer(x[None])


def test_projection_names_and_printing() -> None:
    layer = nn.LSTM(3, 4, 2, proj_size=2, dropout=0.1)
    assert repr(layer) == "LSTM(3, 4, proj_size=2, num_layers=2, dropout=0.1)"
    assert list(layer.state_dict())[:5] == ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "weight_hr_l0"]
    out, (h, c) = layer.eval()(torch.randn(5, 2, 3))
    assert out.shape == (5, 2, 2) and h.shape == (2, 2, 2) and c.shape == (2, 2, 4)
    assert repr(nn.RNNCell(3, 4, nonlinearity="relu")) == "RNNCell(3, 4, nonlinearity=relu)"
    with pytest.warns(UserWarning, match="dropout option"):
        nn.GRU(3, 4, dropout=0.5)
    with pytest.raises(ValueError, match="Unknown nonlinearity"):
        nn.RNN(3, 4, nonlinearity="elu")


def test_packing() -> None:
    x, lengths = random(4, 3, 2), torch.tensor([4, 3, 1])
    packed = pack_padded_sequence(x, lengths)
    assert packed.batch_sizes.tolist() == [3, 2, 2, 1] and packed.data.shape == (8, 2)
    padded, back = pad_packed_sequence(packed, padding_value=-1.0)
    assert back.tolist() == [4, 3, 1]
    close(padded[:3, 1], x[:3, 1])
    assert (padded[1:, 2] == -1).all()
    mixed = pack_padded_sequence(x.transpose(0, 1), [1, 4, 3], batch_first=True, enforce_sorted=False)
    assert mixed.sorted_indices.tolist() == [1, 2, 0] and mixed.unsorted_indices.tolist() == [2, 0, 1]
    padded, back = pad_packed_sequence(mixed, batch_first=True, total_length=6)
    assert padded.shape == (3, 6, 2) and back.tolist() == [1, 4, 3]
    close(padded[1, :4], x[:, 1])
    with pytest.raises(RuntimeError, match="sorted in decreasing order"):
        pack_padded_sequence(x, [1, 4, 3])
    parts = [random(n, 2, seed=n) for n in (3, 1, 2)]
    joined = pad_sequence(parts, batch_first=True, padding_value=9.0)
    assert joined.shape == (3, 3, 2) and (joined[1, 1:] == 9).all()
    assert (pad_sequence(parts, padding_side="left")[:2, 1] == 0).all()
    for a, b in zip(unpad_sequence(joined, torch.tensor([3, 1, 2]), batch_first=True), parts, strict=True):
        close(a, b)
    for a, b in zip(unpack_sequence(pack_sequence(parts, enforce_sorted=False)), parts, strict=True):
        close(a, b)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_packed_is_every_sequence_alone(kind: str, bidirectional: bool) -> None:
    layer = getattr(nn, kind)(2, 3, num_layers=2, bidirectional=bidirectional).double()
    x, lengths = random(5, 3, 2), [2, 5, 3]
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    out, last = layer(packed)
    assert isinstance(out, PackedSequence)
    padded, _ = pad_packed_sequence(out)
    for i, n in enumerate(lengths):
        alone, state = layer(x[:n, i])
        close(padded[:n, i], alone)
        for a, b in zip(*((last, state) if kind == "LSTM" else ((last,), (state,))), strict=True):
            close(a[:, i], b)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_gradients_and_compiled(kind: str) -> None:
    layer = getattr(nn, kind)(2, 3, bidirectional=True).double()
    x = random(3, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: layer(t)[0], (x,))
    with torch.no_grad():
        want, state = layer(x)
        got, compiled_state = torch.compile(layer)(x.detach())
    close(got, want)
    pairs = zip(compiled_state, state, strict=True) if kind == "LSTM" else [(compiled_state, state)]
    for a, b in pairs:
        close(a, b)


def test_training_learns_a_sum() -> None:
    torch.manual_seed(0)
    net, head = nn.GRU(1, 8, batch_first=True), nn.Linear(8, 1)
    step = torch.optim.SGD([*net.parameters(), *head.parameters()], lr=0.1)
    x = torch.from_numpy(np.random.default_rng(1).integers(0, 2, (32, 4, 1)).astype(np.float32))
    y, losses = x.sum(1) / 4, []
    for _ in range(30):
        step.zero_grad()
        loss = nn.functional.mse_loss(head(net(x)[1][0]), y)
        loss.backward()
        step.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


class Reader(nn.Module):
    """Embedding, a bidirectional LSTM, log-probabilities of labels per step."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4, padding_idx=0)
        self.lstm = nn.LSTM(4, 6, bidirectional=True, batch_first=True)
        self.scores = nn.Linear(12, 5)

    def forward(self, x: Any) -> Any:
        return nn.functional.log_softmax(self.scores(self.lstm(self.table(x))[0]), 2)


def test_compiled_training_step_with_ctc() -> None:
    torch.manual_seed(0)
    eager = Reader()
    native = copy.deepcopy(eager)
    rng = np.random.default_rng(0)
    x, y = torch.from_numpy(rng.integers(0, 10, (3, 5))), torch.from_numpy(rng.integers(1, 5, (3, 2)))

    def loss(out: Any, target: Any) -> Any:
        return nn.functional.ctc_loss(out.transpose(0, 1), target, [5, 5, 5], [2, 2, 2])

    optimiser = torch.optim.SGD(eager.parameters(), lr=0.1)
    step = torch.compile_step(native, loss, torch.optim.SGD(native.parameters(), lr=0.1))
    losses = []
    for _ in range(3):
        optimiser.zero_grad()
        want = loss(eager(x), y)
        want.backward()
        optimiser.step()
        losses.append(want.item())
        assert abs(float(step(x, y)) - want.item()) < 1e-4
    assert losses[2] < losses[0]
    for a, b in zip(eager.parameters(), native.parameters(), strict=True):
        close(a, b, 1e-5)
