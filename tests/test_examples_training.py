"""The example programs of training and fine-tuning."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import ingot
import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image")
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture(autouse=True)
def examples_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.delenv("INGOT_DATA", raising=False)
    for name in ("training_loop", "finetune_resnet", "mixed_precision", "moving_average"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def weights(path: Path) -> dict[str, Any]:
    return {k: v.numpy() for k, v in ingot.load(path)["model"].items()}


def test_a_resumed_run_ends_like_one_without_a_break(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import training_loop

    def run(epochs: int, name: str) -> None:
        training_loop.main(["--epochs", str(epochs), "--limit", "100", "--checkpoint", str(tmp_path / name)])

    run(2, "whole.pt")
    run(1, "parts.pt")
    run(2, "parts.pt")
    whole, parts = weights(tmp_path / "whole.pt"), weights(tmp_path / "parts.pt")
    for name, value in whole.items():
        assert np.allclose(value, parts[name], rtol=1e-4, atol=1e-6), name
    out = capsys.readouterr().out
    assert "resuming" in out and "epoch 1: validation accuracy" in out and "Test Accuracy:" in out


@pytest.mark.slow
def test_the_loop_learns_fashion_mnist(data_dir: Path, tmp_path: Path) -> None:
    import training_loop

    options = ["--epochs", "2", "--limit", "12000", "--checkpoint", str(tmp_path / "x.pt"), "--workers", "1"]
    assert training_loop.main([str(data_dir), *options]) > 0.75


def test_fine_tuning_learns_and_saves_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import finetune_resnet

    rng = np.random.default_rng(0)
    for k, name in enumerate(("blue", "red")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(0, 120, (24, 24, 3))
            pixels[..., 2 - 2 * k] += 120
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "pictures" / name / f"{i}.png")
    # "Trained" weights with 1000 classes, as a file.
    from ingot.vision import models

    ingot.manual_seed(3)
    ingot.save(models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    accuracy = finetune_resnet.main([
        str(tmp_path / "pictures"), "--epochs", "2", "--size", "32", "--wrong", str(tmp_path / "wrong"), "--weights",
        str(tmp_path / "resnet18.pth"),
    ])  # fmt: skip
    wrong = list((tmp_path / "wrong").glob("*.png"))
    assert len(wrong) == round((1 - accuracy) * 8) and Image.open(wrong[0]).size == (32, 32) if wrong else accuracy == 1
    losses = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert len(losses) == 2 and losses[1] < losses[0]


def test_the_head_learns_faster_than_the_rest() -> None:
    import finetune_resnet

    model, optimizer = finetune_resnet.network(5, None)
    rates = [g["lr"] for g in optimizer.param_groups]
    counts = [len(g["params"]) for g in optimizer.param_groups]
    assert rates == [1e-3, 1e-2] and counts == [60, 2] and model.fc.weight.shape == (5, 512)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision(dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    import mixed_precision

    losses = mixed_precision.main(["--dtype", dtype, "--steps", "50"])
    assert len(losses) == 50 and np.isfinite(losses).all() and np.mean(losses[-10:]) < np.mean(losses[:10])
    line = capsys.readouterr().out
    assert f"logits torch.{dtype}" in line and f"scale {65536 if dtype == 'float16' else 1}" in line


def test_moving_average(tmp_path: Path) -> None:
    import moving_average
    from ingot.vision import models

    path = tmp_path / "average.pt"
    own, average = moving_average.main(["--steps", "20", "--decay", "0.8", "--save", str(path)])
    assert np.isfinite([own, average]).all() and own != average
    model = models.lenet(weights=path)
    assert sum(p.numel() for p in model.parameters()) == 61_706


@pytest.mark.slow
def test_the_average_is_at_least_as_good(data_dir: Path, tmp_path: Path) -> None:
    import moving_average

    own, average = moving_average.main([str(data_dir), "--steps", "300", "--save", str(tmp_path / "average.pt")])
    assert average < own + 0.02 and average < 0.65
