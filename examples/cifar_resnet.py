"""Published ResNets on real CIFAR-10 images: load the authors' checkpoints, compile, classify.

    python examples/cifar_resnet.py DATA      (or set INGOT_DATA)

DATA holds ``weights/resnet20-12fca82f.th`` and ``weights/resnet56-4bfd9763.th`` (github.com/akamaster/
pytorch_resnet_cifar10) and ``cifar10-test-1000/cifar10_test_1000.npz`` (1,000 test images, uint8 NHWC, and labels).
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import ingot
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
from models import CifarResNet, resnet20, resnet56

# The constants of the authors' training.
MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(1, 3, 1, 1)
STD = np.array([0.229, 0.224, 0.225], np.float32).reshape(1, 3, 1, 1)

NETWORKS = {
    "resnet20": (resnet20, "resnet20-12fca82f.th"),
    "resnet56": (resnet56, "resnet56-4bfd9763.th"),
}


def load_network(name: str, data: Path) -> CifarResNet:
    """The network with its published weights, in eval mode. The checkpoint is read without executing anything in it."""
    make, file = NETWORKS[name]
    checkpoint = ingot.load(data / "weights" / file, map_location="cpu")
    # Saved from a DataParallel wrapper, hence the prefix; older than num_batches_tracked, hence not strict.
    state = {key.removeprefix("module."): tensor for key, tensor in checkpoint["state_dict"].items()}
    model = make()
    missing, unexpected = model.load_state_dict(state, strict=False)
    wrong = [key for key in missing if not key.endswith("num_batches_tracked")]
    if wrong or unexpected:
        raise SystemExit(f"{file} is not a checkpoint of {name}: missing {wrong}, unexpected {unexpected}")
    return model.eval()


def load_images(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """(images float32 [1000, 3, 32, 32], normalised; labels int64 [1000])."""
    with np.load(data / "cifar10-test-1000" / "cifar10_test_1000.npz") as file:
        pixels, labels = file["images"], file["labels"]
    x = pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    return np.ascontiguousarray((x - MEAN) / STD), labels


def classify(exe, images: np.ndarray, batch: int) -> np.ndarray:
    """Logits of all images, ``batch`` at a time."""
    return np.concatenate([exe(images[i : i + batch]) for i in range(0, len(images), batch)])


def main() -> None:
    folder = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("INGOT_DATA")
    if not folder:
        raise SystemExit(__doc__)
    data = Path(folder)
    images, labels = load_images(data)
    for name in NETWORKS:
        start = time.perf_counter()
        model = load_network(name, data)
        loaded = time.perf_counter()
        exe = ingot.compile(model, images[:100])
        compiled = time.perf_counter()
        logits = classify(exe, images, 100)
        seconds = time.perf_counter() - compiled
        right = int((logits.argmax(1) == labels).sum())
        print(
            f"{name}: {right} of {len(labels)} right ({right / len(labels):.1%}); "
            f"checkpoint read in {loaded - start:.2f} s, compiled in {compiled - loaded:.2f} s, "
            f"{seconds / len(labels) * 1e6:.0f} us per image"
        )


if __name__ == "__main__":
    main()
