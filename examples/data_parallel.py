"""One network trained by several processes, each on its part of every batch; the result is that of one process.

    pip install -e '.[mpi]'
    mpiexec -n 2 python examples/data_parallel.py      # the same numbers as: python examples/data_parallel.py
"""

from __future__ import annotations

from pathlib import Path

import ingot as torch
import numpy as np
from ingot import distributed as dist
from ingot import nn, optim

DATA = Path(__file__).parent / "data" / "digits.npz"
EPOCHS, BATCH = 4, 48


def main() -> float:
    dist.init_process_group()
    rank, size = dist.get_rank(), dist.get_world_size()
    with np.load(DATA) as file:
        images = file["images"].reshape(-1, 1, 8, 8).astype(np.float64) / 16
        labels = file["labels"].astype(np.int64)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10)
    ).double()
    model = nn.parallel.DistributedDataParallel(nn.SyncBatchNorm.convert_sync_batchnorm(net))
    opt = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    order = np.random.default_rng(0)  # the same on every process
    for epoch in range(EPOCHS):
        total = torch.zeros(1, dtype=torch.float64)
        rows = order.permutation(len(images))
        steps = len(rows) // BATCH
        for step in range(steps):
            mine = rows[step * BATCH : (step + 1) * BATCH][rank * BATCH // size : (rank + 1) * BATCH // size]
            opt.zero_grad()
            loss = nn.functional.cross_entropy(model(torch.from_numpy(images[mine])), torch.from_numpy(labels[mine]))
            loss.backward()
            opt.step()
            total += loss.detach()
        dist.all_reduce(total, dist.ReduceOp.AVG)
        mean = total.item() / steps
        if rank == 0:
            print(f"epoch {epoch + 1}: loss {mean:.10f} with {size} process(es)")
    dist.destroy_process_group()
    return mean


if __name__ == "__main__":
    main()
