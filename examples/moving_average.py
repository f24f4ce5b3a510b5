"""Train LeNet and keep an exponential moving average of its weights beside it; the average is what is tested and saved.

    python examples/moving_average.py DATA [--steps 300] [--save average.pt]

DATA holds ``fashion-mnist/*.gz`` (default: INGOT_DATA; without either, noise in place of pictures).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import ingot as torch
from ingot import nn, optim
from ingot.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from ingot.utils.data import DataLoader
from ingot.vision import models
from training_loop import evaluate, load


def main(arguments: list[str] | None = None) -> tuple[float, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default=os.environ.get("INGOT_DATA"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--decay", type=float, default=0.98)
    parser.add_argument("--save", type=Path, default=Path("average.pt"))
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    train_set, test_set = load(options.data, 60_000)
    loader = DataLoader(train_set, 64, shuffle=True, drop_last=True)
    model, loss_fn = models.lenet(), nn.CrossEntropyLoss()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(options.decay), use_buffers=True)
    optimizer = optim.AdamW(model.parameters(), lr=2e-3)
    done = 0
    while done < options.steps:
        for x, y in loader:
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
            average.update_parameters(model)
            done += 1
            if done == options.steps:
                break
    found = []
    for name, net in (("model", model), ("average", average)):
        loss, accuracy = evaluate(DataLoader(test_set, 256), net, loss_fn)
        print(f"{name}: accuracy {100 * accuracy:.1f}%, avg loss {loss:.4f}")
        found.append(loss)
    torch.save(average.module.state_dict(), options.save)  # an ordinary LeNet loads it
    return found[0], found[1]


if __name__ == "__main__":
    main()
