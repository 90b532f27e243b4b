"""Batches made by worker processes: the same as without, and nothing is left of the workers."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from rstg_jax.data import workers
from rstg_jax.errors import UserError

BROKEN_STEP = 12


def make(step):
    """A batch that says who made it."""
    if step == BROKEN_STEP:
        raise UserError(f"step {step} is broken")
    video = np.full((2, 300, 300, 3), step, np.uint8)  # goes through shared memory
    return {"video": video, "id": np.array(["a", f"bb{step}"]), "process": np.array(os.getpid())}


def gone(pids):
    """Waits until no process of these is there; returns those that are."""
    for _ in range(300):
        left = [pid for pid in pids if psutil.pid_exists(pid)]
        if not left:
            break
        time.sleep(0.1)
    return left


def test_workers_make_the_batches_of_this_process():
    made, seen = workers.batches(make, start=5, count=100, processes=2), set()
    for step, batch in zip(range(5, BROKEN_STEP), made, strict=False):
        wanted = make(step)
        seen.add(int(batch.pop("process")))
        assert batch.keys() == {"video", "id"}
        for key, value in batch.items():
            np.testing.assert_array_equal(value, wanted[key])
    assert len(seen) == 2 and os.getpid() not in seen
    with pytest.raises(UserError, match=r"^step 12 is broken$"):
        next(made)
    assert gone(seen) == []


@pytest.mark.slow
def test_shared_memory_is_deleted_when_the_batches_are_closed(monkeypatch):
    """Grain deletes it in a thread, here a slow one; what is left at the end would be a leak."""
    asked, deleted = [], []
    first = workers.batches(make, start=20, count=100, processes=2)
    video = next(first)["video"]
    assert type(video) is np.ndarray and video.base is None  # a copy
    array = sys.modules["grain._src.python.ipc.shared_memory_array"].SharedMemoryArray
    real_shm, real_apply = array.close_shm_async, array._del_thread_pool.apply_async

    def apply_async(function, args=(), *rest):
        asked.extend(shm.name for shm in args[:1])
        return real_apply(function, args, *rest)

    def close_shm_async(shm, unlink):
        time.sleep(0.2)
        deleted.append(shm.name)
        real_shm(shm, unlink)

    monkeypatch.setattr(array._del_thread_pool, "apply_async", apply_async)
    monkeypatch.setattr(array, "close_shm_async", close_shm_async)
    for _ in range(3):
        next(first)
    first.close()
    assert len(asked) >= 6 and deleted == asked


@pytest.mark.slow
def test_a_killed_worker_is_an_error():
    made = workers.batches(make, start=20, count=100, processes=2)
    pids = {int(batch["process"]) for batch in itertools.islice(made, 4)}
    os.kill(min(pids), signal.SIGKILL)
    with pytest.raises(UserError, match=r"worker process .* was killed.*exit code -9"):
        list(made)
    assert gone(pids) == []


@pytest.mark.slow
def test_workers_end_with_their_trainer():
    code = (
        "from rstg_jax.data import workers\n"
        "from tests.data.test_workers import make\n"
        "import time\n"
        "if __name__ == '__main__':\n"
        "    made = workers.batches(make, 20, 1000, 2)\n"
        "    print(*(int(next(made)['process']) for _ in range(4)), flush=True)\n"
        "    time.sleep(600)\n"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as trainer:
        assert trainer.stdout is not None
        pids = {int(pid) for pid in trainer.stdout.readline().split()}
        assert len(pids) == 2
        trainer.kill()
    assert gone(pids) == []
