"""DataLoader's worker processes: the same batches, errors that arrive, and no process that stays behind."""

from __future__ import annotations

import os
import random as python_random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import ingot
import numpy as np
import pytest
from ingot.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="worker processes are tested on Linux")


class Images(Dataset):
    """Large enough arrays to travel as shared memory."""

    def __len__(self) -> int:
        return 13

    def __getitem__(self, i: int) -> Any:
        image, half = np.full((3, 20, 20), i, np.float32), ingot.ones(3).bfloat16()
        return {"image": image, "label": i, "name": f"n{i}", "half": half}


class Fails(Dataset):
    def __init__(self, error: Any) -> None:
        self.error = error

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> int:
        if i == 2:
            self.error()
        return i


class Draws(Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> Any:
        return python_random.random(), float(np.random.rand()), ingot.rand(1).item(), get_worker_info().seed


class Shares(IterableDataset):
    def __iter__(self) -> Any:
        info = get_worker_info()
        return iter(range(info.id, 11, info.num_workers))


def value_error() -> None:
    raise ValueError("no such picture")


def key_error() -> None:
    raise KeyError("key")


def local_error() -> None:
    class Local(Exception):
        pass

    raise Local("here")


def leave() -> None:
    os._exit(3)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep() -> None:
    time.sleep(60)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_the_same_batches_as_without_workers(context: str) -> None:
    def batches(**options: Any) -> list[Any]:
        loader = DataLoader(Images(), 4, shuffle=True, generator=ingot.Generator().manual_seed(7), **options)
        return [b for _ in range(2) for b in loader]

    alone, shared = batches(), batches(num_workers=2, multiprocessing_context=context)
    assert len(alone) == len(shared) == 8
    for a, b in zip(alone, shared, strict=True):
        assert np.array_equal(a["image"].numpy(), b["image"].numpy()) and a["label"].tolist() == b["label"].tolist()
        assert list(a["name"]) == list(b["name"]) and b["half"].dtype is ingot.bfloat16
    shared[0]["image"].mul_(2)  # arrays that arrived are writable
    assert np.array_equal(shared[0]["image"].numpy(), 2 * alone[0]["image"].numpy())


def test_an_error_arrives_with_its_traceback() -> None:
    seen = []
    with pytest.raises(ValueError) as caught:
        for x in DataLoader(Fails(value_error), num_workers=2):
            seen.append(x.item())
    assert seen == [0, 1]
    text = str(caught.value)
    assert text.startswith("Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call")
    assert "in value_error" in text and "no such picture" in text
    with pytest.raises(KeyError, match=r"Caught KeyError in DataLoader worker process 0\.\nOriginal"):
        list(DataLoader(Fails(key_error), num_workers=1))
    with pytest.raises(RuntimeError, match=r"Caught Local in DataLoader worker process 0"):
        list(DataLoader(Fails(local_error), num_workers=1))


def test_a_batch_that_cannot_travel_is_an_error() -> None:
    with pytest.raises(Exception, match="in DataLoader worker process 0"):
        list(DataLoader(range(2), num_workers=1, collate_fn=lambda b: lambda: b))


def test_worker_init_errors_arrive() -> None:
    def init(worker: int) -> None:
        raise OSError(f"worker {worker} found no file")

    with pytest.raises(OSError, match="Caught OSError in DataLoader worker process 0"):
        list(DataLoader(range(4), num_workers=2, worker_init_fn=init))


def test_workers_that_end_are_noticed() -> None:
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid\(s\) \d+\) exited unexpectedly"):
        list(DataLoader(Fails(leave), num_workers=2))
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid \d+\) is killed by signal: Killed"):
        list(DataLoader(Fails(die), num_workers=2))


def test_timeout() -> None:
    loader = DataLoader(Fails(sleep), num_workers=2, timeout=1)
    batches = iter(loader)
    assert [next(batches).item() for _ in range(2)] == [0, 1]
    with pytest.raises(RuntimeError, match="DataLoader timed out after 1 seconds"):
        next(batches)
    for p in batches._processes:
        p.kill()


def test_random_streams_of_workers() -> None:
    def draws(seed: int) -> list[Any]:
        g = ingot.Generator().manual_seed(seed)
        return [[x.item() for x in b] for b in DataLoader(Draws(), num_workers=2, generator=g)]

    first = draws(1)
    assert draws(1) == first != draws(2)
    for column in zip(*first, strict=True):
        assert column[0] != column[1]  # two workers
    assert first[1][3] == first[0][3] + 1
    assert get_worker_info() is None


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_streams_are_shared_out_and_start_again(persistent: bool) -> None:
    loader = DataLoader(Shares(), 2, num_workers=3, persistent_workers=persistent)
    for _ in range(3):
        batches = [b.tolist() for b in loader]
        assert sorted(x for b in batches for x in b) == list(range(11))
        assert batches[:3] == [[0, 3], [1, 4], [2, 5]]


def test_persistent_workers_stay_and_forget_an_epoch_left_early() -> None:
    loader = DataLoader(range(20), num_workers=2, persistent_workers=True, prefetch_factor=3)
    assert [x.item() for x in loader] == list(range(20))
    pids = [p.pid for p in loader._iterator._processes]
    for x in loader:
        if x == 3:
            break
    assert [x.item() for x in loader] == list(range(20))
    assert [p.pid for p in loader._iterator._processes] == pids


def test_out_of_order_gives_every_batch_once() -> None:
    assert sorted(x.item() for x in DataLoader(range(30), num_workers=2, in_order=False)) == list(range(30))


def test_workers_end_with_the_loop() -> None:
    batches = iter(DataLoader(range(100), num_workers=2))
    next(batches)
    processes = list(batches._processes)
    assert all(p.is_alive() for p in processes)
    del batches
    assert not any(p.is_alive() for p in processes)


def test_indices_and_texts_beyond_any_buffer_do_not_block() -> None:
    class Texts(Dataset):
        def __len__(self) -> int:
            return 60_000

        def __getitem__(self, i: int) -> str:
            return str(i) * 20

    batches = list(DataLoader(Texts(), 20_000, num_workers=1, prefetch_factor=4, timeout=60))
    assert [len(b) for b in batches] == [20_000] * 3 and batches[2][-1] == "59999" * 20


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


PROGRAM = """
import sys, time
from ingot.utils.data import DataLoader, Dataset

class Slow(Dataset):
    def __len__(self):
        return 1000
    def __getitem__(self, i):
        time.sleep({sleep} if i > 3 else 0)
        return i

if __name__ == "__main__":
    loader = DataLoader(Slow(), num_workers=2)
    batches = iter(loader)
    next(batches)
    print(*(p.pid for p in batches._processes), flush=True)
    {then}
"""


def started(folder: Path, sleep: float, then: str) -> tuple[subprocess.Popen[str], list[int]]:
    script = folder / "program.py"
    script.write_text(textwrap.dedent(PROGRAM).format(sleep=sleep, then=then))
    program = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               start_new_session=True)  # fmt: skip
    assert program.stdout is not None
    return program, [int(p) for p in program.stdout.readline().split()]


def gone(pids: list[int], seconds: float) -> bool:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if not any(map(alive, pids)):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("sleep", [0.01, 300])
def test_workers_do_not_outlive_a_killed_program(tmp_path: Path, sleep: float) -> None:
    program, pids = started(tmp_path, sleep, "time.sleep(300)")
    assert len(pids) == 2 and all(map(alive, pids))
    program.kill()
    program.communicate()
    assert gone(pids, 15)


def test_ctrl_c_ends_everything_with_one_traceback(tmp_path: Path) -> None:
    program, pids = started(tmp_path, 0.05, "[None for _ in batches]")
    time.sleep(0.3)
    os.killpg(program.pid, signal.SIGINT)  # what a terminal does
    _, errors = program.communicate(timeout=30)
    assert program.returncode != 0 and errors.count("Traceback") == 1 and errors.rstrip().endswith("KeyboardInterrupt")
    assert gone(pids, 15)


def test_a_program_that_ends_in_the_middle(tmp_path: Path) -> None:
    program, pids = started(tmp_path, 0.01, "sys.exit(0)")
    _, errors = program.communicate(timeout=30)
    assert (program.returncode, errors) == (0, "") and gone(pids, 15)
