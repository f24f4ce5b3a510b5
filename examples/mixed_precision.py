"""Train LeNet in mixed precision: bfloat16, or float16 with a scaled loss.

    python examples/mixed_precision.py DATA [--dtype bfloat16] [--steps 200]

DATA holds ``fashion-mnist/*.gz`` (default: INGOT_DATA; without either, noise in place of pictures).
"""

from __future__ import annotations

import argparse
import os

import ingot as torch
from ingot import nn, optim
from ingot.amp import GradScaler
from ingot.utils.data import DataLoader
from ingot.vision import models
from training_loop import load


def main(arguments: list[str] | None = None) -> list[float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default=os.environ.get("INGOT_DATA"))
    parser.add_argument("--dtype", choices=["bfloat16", "float16"], default="bfloat16")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    train_set, _ = load(options.data, 60_000)
    loader = DataLoader(train_set, 64, shuffle=True, drop_last=True)
    model, loss_fn = models.lenet(), nn.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    # float16 has no numbers below 6e-8: the loss is multiplied so that small gradients survive. bfloat16 needs none.
    scaler = GradScaler("cpu", enabled=options.dtype == "float16")
    losses: list[float] = []
    while len(losses) < options.steps:
        for x, y in loader:
            optimizer.zero_grad()
            with torch.autocast("cpu", getattr(torch, options.dtype)):
                out = model(x)
                loss = loss_fn(out, y)
            # Outside the region: the backward of an operation has the dtype of its forward.
            scaler.scale(loss).backward()
            scaler.step(optimizer)  # skipped if a gradient is inf or nan
            scaler.update()
            losses.append(loss.item())
            if len(losses) % 50 == 0:
                print(f"step {len(losses)}: loss {losses[-1]:.4f}, logits {out.dtype}, scale {scaler.get_scale():.0f}")
            if len(losses) == options.steps:
                break
    return losses


if __name__ == "__main__":
    main()
