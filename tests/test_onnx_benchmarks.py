"""The benchmark networks as ONNX files, run by onnxruntime at two batch sizes against eager execution."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import ingot
import numpy as np
import onnx
import pytest
from ingot.ir.dtypes import float32, tolerance

ort = pytest.importorskip("onnxruntime")

SMALL = ["mlp", "lenet", "resnet20", "mobilenet_v2"]
LARGE = ["resnet18", "resnet50", "vgg16", "unet", "unet_bilinear", "unet_transposed", "encoder"]


@pytest.fixture(scope="module")
def models() -> ModuleType:
    path = Path(__file__).resolve().parent.parent / "benchmarks" / "models.py"
    spec = importlib.util.spec_from_file_location("benchmark_models", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_model_is_left_out(models: ModuleType) -> None:
    assert set(models.MODELS) == {*SMALL, *LARGE}


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(n, marks=pytest.mark.slow) for n in LARGE)])
def test_benchmark_model(name: str, models: ModuleType, tmp_path: Path) -> None:
    make, shape, _ = models.MODELS[name]
    ingot.manual_seed(3)
    model = make().eval()
    path = tmp_path / "model.onnx"
    proto = ingot.onnx.export(model, ingot.zeros(1, *shape), path, ["x"], ["y"], dynamic_axes={"x": {0: "batch"}})
    parameters = {key for key in model.state_dict() if not key.endswith("num_batches_tracked")}
    assert parameters <= {t.name for t in proto.graph.initializer}
    onnx.checker.check_model(str(path), full_check=True)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(3)
    rtol, atol = tolerance(float32, depth=5000)
    for batch in (1, 2):
        x = rng.standard_normal((batch, *shape), np.float32)
        (actual,) = session.run(None, {"x": x})
        expected = model(ingot.from_numpy(x)).detach().numpy()
        scale = np.abs(expected).max()
        np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol * max(scale, 1e-3))
