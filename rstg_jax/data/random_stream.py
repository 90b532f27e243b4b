"""The random numbers of generated data: example i of (seed, split) owns a stretch of one stream.

So an example is a function of those three alone, and no order, batch size or sharding changes a
byte. The stream is NumPy's raw Philox, which no release may change.
"""

import numpy as np

from rstg_jax.errors import UserError

_KEYS = {"train": 0, "test": 1}  # each split has a stream of its own


def check_seed(seed: int) -> None:
    """Raises `UserError` unless a seed is a key of the stream."""
    if not 0 <= seed < 1 << 64:
        raise UserError(f"seed={seed} must lie in 0..2**64 - 1")


def words(seed: int, split: str, indices: np.ndarray, count: int) -> np.ndarray:
    """The 32-bit random numbers of examples, uint64 [b count], each below 2**32.

    Example i owns words [i * w, (i + 1) * w) of the Philox stream of (seed, split), where w is
    `count / 2` rounded up to the four 64-bit words that one step of Philox's counter yields. A run
    of indices is one call.
    """
    check_seed(seed)
    if split not in _KEYS:
        raise UserError(f"unknown split {split!r}: one of {', '.join(_KEYS)}")
    blocks = -(-count // 8)
    indices = np.asarray(indices, np.int64)
    bits = np.empty((len(indices), 4 * blocks), np.uint64)
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    for first, end in zip([0, *breaks], [*breaks, len(indices)], strict=True):
        if end > first:
            key = np.array([seed, _KEYS[split]], np.uint64)
            stream = np.random.Philox(key=key, counter=int(indices[first]) * blocks)
            bits[first:end] = stream.random_raw((end - first) * 4 * blocks).reshape(-1, 4 * blocks)
    halves = bits.astype("<u8", copy=False).view("<u4").reshape(len(indices), 8 * blocks)
    return halves[:, :count].astype(np.uint64)


def below(words: np.ndarray, bound: np.ndarray | int) -> np.ndarray:
    """Random 32-bit words -> integers of 0..bound-1 (a bias of bound / 2**32 is left)."""
    return ((words * np.asarray(bound).astype(np.uint64)) >> np.uint64(32)).astype(np.int64)
