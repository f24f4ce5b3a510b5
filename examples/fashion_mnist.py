"""Train LeNet-5 on Fashion-MNIST for one epoch with a compiled training step, then classify the test set natively.

    python examples/fashion_mnist.py DATA      (or set INGOT_DATA)

DATA holds ``fashion-mnist/*.gz``, the four files of github.com/zalandoresearch/fashion-mnist.
"""

from __future__ import annotations

import gzip
import os
import struct
import sys
import time
from pathlib import Path

import ingot
import numpy as np
from ingot import nn, optim

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
from models import LeNet5

BATCH = 64


def read_idx(path: Path) -> np.ndarray:
    """An IDX file of bytes (gzipped) as an array."""
    raw = gzip.decompress(path.read_bytes())
    zeros, kind, rank = struct.unpack_from(">HBB", raw)
    if zeros != 0 or kind != 8:
        raise SystemExit(f"{path} is not an IDX file of unsigned bytes")
    shape = struct.unpack_from(f">{rank}I", raw, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def load(data: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """(images float32 [n, 1, 28, 28] in 0..1, labels int64 [n]) of ``part``: "train" or "t10k"."""
    images = read_idx(data / "fashion-mnist" / f"{part}-images-idx3-ubyte.gz")
    labels = read_idx(data / "fashion-mnist" / f"{part}-labels-idx1-ubyte.gz")
    return images[:, None].astype(np.float32) / np.float32(255), labels.astype(np.int64)


def train_epoch(model, images: np.ndarray, labels: np.ndarray, *, lr: float = 0.02, seed: int = 0):
    """One pass over the data in random order; returns the loss of every step and the step itself."""
    optimizer = optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    step = ingot.compile_step(model, nn.CrossEntropyLoss(), optimizer)
    order = np.random.default_rng(seed).permutation(len(images))
    losses = []
    for i in range(0, len(images) - BATCH + 1, BATCH):
        batch = order[i : i + BATCH]
        losses.append(step(images[batch], labels[batch]).item())
    return np.array(losses), step


def accuracy(model, images: np.ndarray, labels: np.ndarray, batch: int = 500) -> float:
    """Share of right answers of the compiled network."""
    exe = ingot.compile(model, images[:batch], dynamic=ingot.Dim("N", 1, batch))
    right = sum(int((exe(images[i : i + batch]).argmax(1) == labels[i : i + batch]).sum())
                for i in range(0, len(images), batch))  # fmt: skip
    return right / len(images)


def plot(losses: np.ndarray, rows: int = 20) -> None:
    """The loss curve as text, averaged over equal stretches."""
    for k, part in enumerate(np.array_split(losses, rows)):
        mean = part.mean()
        bar = "#" * max(1, round(50 * min(mean / 2.3, 1)))
        print(f"  step {(k + 1) * len(losses) // rows:4d}  loss {mean:6.4f}  {bar}")


def main() -> None:
    folder = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("INGOT_DATA")
    if not folder:
        raise SystemExit(__doc__)
    data = Path(folder)
    ingot.manual_seed(0)
    model = LeNet5()
    start = time.perf_counter()
    losses, step = train_epoch(model, *load(data, "train"))
    seconds = time.perf_counter() - start
    plot(losses)
    (variant,) = step.variants
    print(
        f"{len(losses)} steps of {BATCH} images in {seconds:.1f} s; one step is {len(variant.program.steps)} kernels "
        f"in an arena of {variant.program.memory.arena / 1024:.0f} KiB"
    )
    print(f"accuracy on the 10,000 test images: {accuracy(model.eval(), *load(data, 't10k')):.2%}")


if __name__ == "__main__":
    main()
