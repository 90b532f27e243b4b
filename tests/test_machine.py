"""What the process asks of the machine: no more arenas of `malloc` than cores."""

import platform
import subprocess
import sys

import pytest

from rstg_jax import machine

# Threads that allocate at the same time; each gets an arena of its own if it may.
ARENAS = """
import ctypes, sys, threading
from rstg_jax import machine
if sys.argv[1:]:
    machine.bound_arenas()
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
libc.fdopen.restype = ctypes.c_void_p
libc.malloc_info(0, ctypes.c_void_p(libc.fdopen(1, b"w")))
libc.fflush(None)
"""


def arenas(*words, **environ):
    """The number of arenas of a process with many threads."""
    environ = {"PATH": "", "PYTHONPATH": ".", **environ}
    command = [sys.executable, "-c", ARENAS, *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environ)
    return done.stdout.count("<heap ")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_there_are_no_more_arenas_than_cores():
    cores = machine.num_cores()
    assert arenas() == 9 > cores  # one for each thread
    assert arenas("bounded") <= cores
    assert arenas("bounded", MALLOC_ARENA_MAX="4") == 4  # the user's choice
