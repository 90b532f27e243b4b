"""What commands ask of `malloc`: one heap, and freed memory that is not cleared again and again."""

import json
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")

# Threads that allocate at the same time; each gets a heap of its own if it may. Then arrays of 256
# MB, as a training step needs them again and again: only the first one needs new pages.
ALLOCATE = """
import ctypes, json, resource, sys, threading
import numpy as np
from rstg_jax import machine
if sys.argv[1:]:
    machine.keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
there = threading.Barrier(9)
def allocate():
    libc.malloc(100_000)
    there.wait()
threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
there.wait()
faults = []
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(1 << 28, np.uint8)[::4096] = 1
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(json.dumps(faults), flush=True)
libc.fdopen.restype = ctypes.c_void_p
libc.malloc_info(0, ctypes.c_void_p(libc.fdopen(1, b"w")))
libc.fflush(None)
"""


def allocated(*words, **environ):
    """The number of heaps of a process with many threads; page faults of each of three arrays."""
    environ = {"PATH": "", "PYTHONPATH": ".", **environ}
    command = [sys.executable, "-c", ALLOCATE, *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environ)
    faults, heaps = done.stdout.split("\n", maxsplit=1)
    return heaps.count("<heap "), json.loads(faults)


def test_there_is_one_heap_and_it_keeps_its_pages():
    heaps, faults = allocated("keep")
    assert heaps == 1
    assert faults[1] < 100 and faults[2] < 100


def test_by_default_there_are_many_and_every_array_needs_new_pages():
    heaps, faults = allocated()
    assert heaps == 9  # one for each thread
    assert min(faults) > 100  # 128 huge pages, 65,536 of the usual ones


def test_what_the_environment_says_counts():
    heaps, faults = allocated("keep", MALLOC_ARENA_MAX="4")
    assert heaps == 4 and min(faults) > 100
