"""``ingot.onnx.export``: whole modules, names, dynamic axes, refusals."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ingot
import ingot.nn.functional as F
import numpy as np
import onnx
import pytest
from ingot import nn
from ingot.codegen.onnx_export import graph_to_onnx
from ingot.ir import dtypes
from ingot.ir.builder import GraphBuilder
from ingot.ir.dims import Dim
from ingot.ir.dtypes import tolerance
from ingot.ir.errors import UnsupportedError
from ingot.ir.graph import Graph
from ingot.ir.interpreter import interpret
from ingot.ir.source import Source
from ingot.ir.types import TensorType

ort = pytest.importorskip("onnxruntime")


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(400, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x: Any) -> Any:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.view(x.size(0), -1))))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.bn2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return self.head(F.relu(y + short).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)

    def forward(self, x: Any) -> Any:
        b, s, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, s, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        scores = F.softmax(q @ k.transpose(-2, -1) / 2.0, -1)
        return x + self.out(F.gelu((scores @ v).transpose(1, 2).reshape(b, s, 16)))


MODELS: dict[str, tuple[Any, tuple[int, ...], list[str] | None]] = {
    "lenet": (LeNet, (1, 28, 28), "Conv Relu MaxPool Conv Relu MaxPool Reshape Gemm Relu Gemm".split()),  # noqa: SIM905
    "residual": (Residual, (4, 8, 8), None),
    "attention": (Attention, (5, 16), None),
    "mlp": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Dropout(), nn.Linear(8, 2), nn.Softmax(1)),
        (3, 4),
        ["Flatten or Reshape", "Gemm", "Tanh", "Gemm", "Softmax"],
    ),
}  # fmt: skip


def session(path: Path) -> Any:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", MODELS)
def test_models_at_two_batch_sizes(name: str, tmp_path: Path) -> None:
    make, shape, operators = MODELS[name]
    ingot.manual_seed(1)
    model = make()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.data = ingot.randn(*module.running_mean.shape)
            module.running_var.data = ingot.rand(*module.running_var.shape) + 0.5
    path = tmp_path / "model.onnx"
    proto = ingot.onnx.export(
        model, ingot.randn(2, *shape), path, ["image"], ["score"], dynamic_axes={"image": {0: "batch"}, "score": [0]}
    )
    assert model.training, "export must leave the mode as it was"
    assert os.listdir(tmp_path) == ["model.onnx"]
    onnx.checker.check_model(str(path), full_check=True)
    model.eval()
    rtol, atol = tolerance(dtypes.float32, depth=400)
    run = session(path)
    for batch in (1, 5):
        x = ingot.randn(batch, *shape)
        (actual,) = run.run(["score"], {"image": x.numpy()})
        np.testing.assert_allclose(actual, model(x).detach().numpy(), rtol=rtol, atol=atol)
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert proto.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    # Parameters under their own names, bit for bit.
    initializers = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    for key, value in model.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert np.array_equal(initializers[key], value.numpy()), key
    if operators is not None:
        for node, wanted in zip(proto.graph.node, operators, strict=True):
            assert node.op_type in wanted


def test_node_names_follow_the_modules(tmp_path: Path) -> None:
    proto = ingot.onnx.export(LeNet(), np.zeros((1, 1, 28, 28), np.float32))
    names = [n.name for n in proto.graph.node]
    assert names[0] == "conv1/Conv" and "fc1/Gemm" in names and len(set(names)) == len(names)
    assert list(proto.graph.node[0].input) == ["x", "conv1.weight", "conv1.bias"]
    assert __file__ in proto.graph.node[0].doc_string
    assert proto.producer_name == "ingot" and proto.producer_version == ingot.__version__


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    def f(a: Any, b: Any) -> Any:
        return {"sum": a + b, "same": a, "twice": [a * b, a * b]}

    proto = ingot.onnx.export(f, (ingot.ones(2, 3), ingot.ones(2, 3)), tmp_path / "f.onnx",
                              dynamic_axes={"a": {0: "n", 1: "m"}, "b": {0: "n", 1: "m"}})  # fmt: skip
    assert [i.name for i in proto.graph.input] == ["a", "b"]
    assert len(proto.graph.output) == 4
    a, b = np.full((4, 5), 2, np.float32), np.full((4, 5), 3, np.float32)
    total, same, *products = session(tmp_path / "f.onnx").run(None, {"a": a, "b": b})
    assert np.all(total == 5) and np.array_equal(same, a) and all(np.all(p == 6) for p in products)


def test_dims_and_lists_of_axes(tmp_path: Path) -> None:
    def f(x: Any) -> Any:
        return x.reshape(x.shape[0] * x.shape[1], -1)

    for axes in ({"x": {0: Dim("N", 1, 16), 1: Dim("M")}}, {"x": [0, 1]}):
        proto = ingot.onnx.export(f, ingot.ones(2, 3, 4), tmp_path / "f.onnx", dynamic_axes=axes)
        dims = [d.dim_param for d in proto.graph.input[0].type.tensor_type.shape.dim]
        assert dims == (["N", "M", ""] if isinstance(axes["x"], dict) else ["x_dynamic_axes_0", "x_dynamic_axes_1", ""])
        (y,) = session(tmp_path / "f.onnx").run(None, {"x": np.zeros((5, 6, 4), np.float32)})
        assert y.shape == (30, 4)


def test_refusals(tmp_path: Path) -> None:
    x = ingot.ones(2, 1, 28, 28)
    net = LeNet()
    for options, text in [
        ({"input_names": ["a", "b"]}, "input_names has 2"),
        ({"output_names": []}, "output_names has 0"),
        ({"input_names": ["a"], "output_names": ["a"]}, "differ"),
        ({"input_names": ["conv1.weight"]}, "differ"),
        ({"dynamic_axes": {"y": {0: "n"}}}, "none of them is an input"),
        ({"dynamic_axes": {"y": {0: "n"}}, "output_names": ["z"]}, "names 'y'"),
        ({"dynamic_axes": {"x": {7: "n"}}}, "no axis 7"),
        ({"opset_version": 9}, "opset_version"),
        ({"opset_version": 999}, "opset_version"),
    ]:
        with pytest.raises(ValueError, match=text):
            ingot.onnx.export(net, x, tmp_path / "a.onnx", **options)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ingot.onnx.export(net, x, tmp_path / "nowhere" / "a.onnx")
    assert os.listdir(tmp_path) == []


def test_everything_that_cannot_be_exported_is_listed() -> None:
    graph = Graph("g")
    x = graph.add_input(TensorType(dtypes.int32, (4,)), "x")
    state = graph.add_input(TensorType(dtypes.int64, (2,)), "rng_state", "rng")
    g = GraphBuilder(graph, source=Source("net.py", 12, "layer.drop"))
    noise = g.random_uniform(state, shape=(4,), dtype=dtypes.float32)
    more = g.random_uniform(state, shape=(4,), dtype=dtypes.float64)
    graph.add_output(noise)
    graph.add_output(more)
    graph.add_output(g.bitwise_not(x))
    with pytest.raises(UnsupportedError) as caught:
        graph_to_onnx(graph, {"rng_state": np.zeros(2, np.int64)})
    assert len(caught.value.items) == 2
    assert all("random_uniform" in i and "net.py:12" in i and "layer.drop" in i for i in caught.value.items)
    other = Graph("h")
    x = other.add_input(TensorType(dtypes.int32, (4,)), "x")
    g = GraphBuilder(other, source=Source("net.py", 13))
    other.add_output(g.bitwise_and(g.bitwise_not(x), x))
    with pytest.raises(UnsupportedError, match=r"opset 18(.|\n)*opset 18"):
        graph_to_onnx(other, opset_version=17)


def test_states_may_be_passed_as_arrays() -> None:
    graph = Graph("g")
    x = graph.add_input(TensorType(dtypes.float32, (Dim("N").expr, 4)), "x")
    w = graph.add_input(TensorType(dtypes.float32, (3, 4)), "fc.weight", "parameter")
    b = graph.add_input(TensorType(dtypes.float32, (3,)), "fc.bias", "parameter")
    g = GraphBuilder(graph)
    graph.add_output(g.add(g.matmul(x, w, transpose_b=True), b), "y")
    states = {"fc.weight": np.ones((3, 4), np.float32), "fc.bias": np.arange(3, dtype=np.float32)}
    model = graph_to_onnx(graph, states)
    assert [n.op_type for n in model.graph.node] == ["Gemm"]
    assert [i.name for i in model.graph.input] == ["x"]
    run = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    data = np.ones((2, 4), np.float32)
    assert np.array_equal(run.run(None, {"x": data})[0], interpret(graph, {"x": data, **states})[0])
    with pytest.raises(ValueError, match=r"fc\.bias"):
        graph_to_onnx(graph, {"fc.weight": states["fc.weight"]})
    with pytest.raises(ValueError, match=r"fc\.bias"):
        graph_to_onnx(graph, {**states, "fc.bias": np.ones(4, np.float32)})


@pytest.mark.parametrize("shape", [(3,), (1, 3, 1), (1, 1, 3), (2, 3, 5), ()])
def test_only_channel_vectors_become_a_bias(shape: tuple[int, ...]) -> None:
    """Other additions stay additions; a convolution that is used twice keeps its value."""
    for twice in (False, True):
        graph = Graph("g")
        x = graph.add_input(TensorType(dtypes.float32, (2, 4, 5)), "x")
        w = graph.add_input(TensorType(dtypes.float32, (3, 4, 1)), "w")
        b = graph.add_input(TensorType(dtypes.float32, shape if shape != (3,) else (3,)), "b")
        g = GraphBuilder(graph)
        y = g.conv(x, w, stride=(1,), padding=((0, 0),), dilation=(1,), groups=1)
        if shape == (3,):
            b = g.reshape(b, shape=(3, 1))
        elif shape == (1, 1, 3):
            b = g.reshape(b, shape=(1, 3, 1))
        graph.add_output(g.add(y, b), "z")
        if twice:
            graph.add_output(g.relu(y), "r")
        model = graph_to_onnx(graph)
        operators = [n.op_type for n in model.graph.node]
        assert ("Add" not in operators) == (shape == (3,) and not twice)
        rng = np.random.default_rng(0)
        arrays = [rng.standard_normal(v.shape).astype(np.float32) for v in graph.inputs]
        run = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        actual = run.run(None, {v.name: a for v, a in zip(graph.inputs, arrays, strict=True)})
        for a, e in zip(actual, interpret(graph, arrays), strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5)


def test_a_long_graph_is_linear() -> None:
    graph = Graph("g")
    x = graph.add_input(TensorType(dtypes.float32, (Dim("N").expr, 2)), "x")
    g = GraphBuilder(graph)
    for _ in range(5000):
        x = g.relu(g.add(x, 1.0))
    graph.add_output(x, "y")
    model = graph_to_onnx(graph)
    assert len(model.graph.node) == 10_000
    assert len(model.graph.initializer) == 1
