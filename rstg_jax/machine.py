"""The machine that the process runs on, and accelerators whose speed is published."""

import ctypes
import dataclasses
import os
import platform
import resource

# Parameters of `mallopt`, from malloc.h, and of `madvise`.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_MADV_HUGEPAGE = 14
_HUGE_PAGE = 1 << 21  # bytes


def num_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Lets glibc's `malloc` keep what is freed and give it out again: one heap, of huge pages.

    Else it returns every array of more than 32 MB to the system, which clears all its pages when
    the next step asks for it again: a third to a half of the time that a small network's training
    step takes on a CPU. Besides, every new thread gets a heap of its own, which keeps much of what
    is freed in it; saving starts new threads for every checkpoint, and memory would grow with them.

    Nothing happens with another `malloc`, or if an environment variable MALLOC_... chooses.
    Memory that was in use once stays with the process.
    """
    chosen = any(name.startswith("MALLOC_") for name in os.environ)
    if chosen or platform.libc_ver()[0] != "glibc" or "malloc" in os.environ.get("LD_PRELOAD", ""):
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_ARENA_MAX, 1)
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never
    # The heap grows into addresses that are advised before. They take no memory until in use.
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.free.argtypes = [ctypes.c_void_p]
    limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    if not limited and (address := libc.malloc(size)) is not None:
        begin = -(-address // _HUGE_PAGE) * _HUGE_PAGE
        libc.madvise(begin, address + size - begin, _MADV_HUGEPAGE)
        libc.free(address)


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published figures of an accelerator: operations and bytes a second.

    Attributes:
      name: for people.
      kind: JAX's `device_kind` begins with it.
      flops: dense products in bfloat16.
      bandwidth: of its memory.
      link: to its neighbours, both directions together.
    """

    name: str
    kind: str
    flops: float
    bandwidth: float
    link: float


CHIPS = (
    Chip("H100 SXM", "NVIDIA H100 80GB HBM3", 989e12, 3.35e12, 900e9),
    Chip("TPU v5e", "TPU v5 lite", 197e12, 819e9, 200e9),
    Chip("H200 SXM", "NVIDIA H200", 989e12, 4.8e12, 900e9),
)


def chip(device_kind: str) -> Chip | None:
    """The accelerator of a `device_kind`, or None if its figures are not known here."""
    return next((chip for chip in CHIPS if device_kind.startswith(chip.kind)), None)
