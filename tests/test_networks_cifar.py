"""ResNet-20 and ResNet-56 with their published weights on 1,000 real CIFAR-10 test images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ingot
import numpy as np
import pytest
from networks import ROOT


# The numbers of right answers and the reference logits were computed by PyTorch (the data folder's README).
@pytest.mark.parametrize(("name", "right", "batch"), [("resnet20", 914, 1000), ("resnet56", 926, 100)])
def test_published_weights_on_real_images(data_dir: Path, name: str, right: int, batch: int) -> None:
    import cifar_resnet

    images, labels = cifar_resnet.load_images(data_dir)
    model = cifar_resnet.load_network(name, data_dir)
    exe = ingot.compile(model, images[:batch])
    logits = cifar_resnet.classify(exe, images, batch)
    with np.load(data_dir / "weights" / "cifar10_reference_logits.npz") as reference:
        wanted, predictions = reference[f"{name}_logits_1000"], reference[f"{name}_pred_1000"]
        exact = reference[f"{name}_logits_first16_float64"]
    print(f"{name}: logits differ by {np.abs(logits - wanted).max():.1e}, {np.abs(logits[:16] - exact).max():.1e}")
    assert np.abs(logits - wanted).max() <= 1e-4
    assert np.abs(logits[:16] - exact).max() <= 1e-4
    assert np.array_equal(logits.argmax(1), predictions)
    assert int((logits.argmax(1) == labels).sum()) == right


@pytest.mark.slow
def test_the_example_prints_it(data_dir: Path) -> None:
    script = str(ROOT / "examples" / "cifar_resnet.py")
    done = subprocess.run([sys.executable, script, str(data_dir)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "resnet20: 914 of 1000 right" in done.stdout and "resnet56: 926 of 1000 right" in done.stdout
