"""The machine that the process runs on, and accelerators whose speed is published."""

import ctypes
import dataclasses
import os

_M_ARENA_MAX = -8  # a parameter of `mallopt`, from malloc.h


def num_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def bound_arenas() -> None:
    """Lets glibc's `malloc` use as many arenas as there are cores, not eight times as many.

    A new thread gets an arena that no other has yet, and an arena keeps much of what is freed in
    it. Saving starts new threads for every checkpoint: the memory of a run would grow until all
    arenas had been used. Nothing happens if MALLOC_ARENA_MAX is set, or with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, num_cores())


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
