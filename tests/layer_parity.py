"""One layer against its PyTorch twin: eager, compiled, trained for a step, exported to ONNX."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ingot
import numpy as np
from ingot import nn, optim
from ingot.ir.dtypes import dtype_from_numpy, tolerance


def values(shape: Sequence[int], seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(tuple(shape)).astype(dtype)


def close(got: Any, want: Any, depth: int = 64, what: str = "") -> None:
    """``got`` (an array or one of our tensors) equals PyTorch's tensor within the tolerance of its dtype."""
    got = np.asarray(got.detach().numpy() if hasattr(got, "detach") else got)
    want = want.detach().numpy()
    assert got.dtype == want.dtype and got.shape == want.shape, f"{what}: {got.dtype}{got.shape}, {want.shape}"
    rtol, atol = tolerance(dtype_from_numpy(got.dtype), depth)
    np.testing.assert_allclose(got, want, rtol, atol * 4, err_msg=what)


def copy_state(mine: Any, twin: Any) -> None:
    """The twin's parameters and buffers in ``mine``, whose names and shapes must be the same."""
    ours, theirs = mine.state_dict(), twin.state_dict()
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert tuple(ours[name].shape) == tuple(value.shape), name
        ours[name].copy_(ingot.tensor(value.numpy().copy()))


def check_compiled(mine: Any, twin: Any, x: np.ndarray, **options: Any) -> None:
    import torch

    exe = ingot.compile(mine.eval(), ingot.from_numpy(x), **options)
    close(exe(x), twin(torch.from_numpy(x)), what=f"{mine} on {x.shape}, compiled {options}")


def check_training(make: Any, x: np.ndarray, steps: int = 2) -> None:
    """``make(nn)`` behind a parameter of the input's shape, so that both gradients count; MSE against a constant."""
    import torch

    def network(library: Any, parameter: Any) -> Any:
        class Network(library.Module):
            def __init__(self) -> None:
                super().__init__()
                self.shift = library.Parameter(parameter)
                self.layer = make(library)

            def forward(self, x: Any) -> Any:
                return self.layer(x * self.shift)

        return Network()

    start = values(x.shape[1:], 9)
    twin = network(torch.nn, torch.from_numpy(start.copy()))
    mine = network(nn, ingot.tensor(start.copy()))
    copy_state(mine, twin)
    step = ingot.compile_step(mine, nn.MSELoss(), optim.SGD(mine.parameters(), lr=0.5), threads=1)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.5)
    target = values(tuple(twin(torch.from_numpy(x)).shape), 11)
    for _ in range(steps):
        ours = step(x, target).item()
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(twin(torch.from_numpy(x)), torch.from_numpy(target))
        loss.backward()
        optimizer.step()
        np.testing.assert_allclose(ours, loss.item(), rtol=1e-5)
    for name, value in twin.state_dict().items():
        np.testing.assert_allclose(mine.state_dict()[name].numpy(), value.numpy(), rtol=2e-4, atol=2e-5, err_msg=name)


def check_onnx(mine: Any, x: np.ndarray, folder: Path, depth: int = 64) -> Any:
    """onnxruntime on the exported layer, with the batch free if there is one, against eager; returns the model."""
    import onnx
    import onnxruntime

    path = folder / "layer.onnx"
    ingot.onnx.export(mine.eval(), (ingot.from_numpy(x[:1]),), path, input_names=["x"], dynamic_axes={"x": {0: "N"}})
    model = onnx.load(str(path))
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(io.BytesIO(model.SerializeToString()).getvalue(),
                                           providers=["CPUExecutionProvider"])  # fmt: skip
    (got,) = session.run(None, {"x": x})
    want = mine(ingot.from_numpy(x)).detach().numpy()
    rtol, atol = tolerance(dtype_from_numpy(want.dtype), depth)
    np.testing.assert_allclose(got, want, rtol, atol * 4, err_msg=str(mine))
    return model
