"""Reads TensorFlow checkpoints ("tensor bundles", the format of `tf.train.Saver`), no TensorFlow.

``PREFIX.index`` is a LevelDB table from variable names to protocol buffers that say type, shape
and place of each array; ``PREFIX.data-SHARD-of-SHARDS`` hold the bytes. Both carry CRC-32C sums,
all of which are checked here.

Sources: leveldb ``doc/table_format.md``; tensorflow ``core/protobuf/tensor_bundle.proto`` and
``core/util/tensor_bundle``.
"""

import dataclasses
import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import numpy as np

from rstg_jax import limits
from rstg_jax.errors import UserError

MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
FOOTER = 48  # bytes: handles of metaindex and index, padded, and the magic number
TRAILER = 5  # bytes behind a block: kind of compression and checksum
CRC_DELTA = 0xA282EAD8  # stored sums are rotated and shifted, so that sums of sums are no trouble
DTYPES = {1: "float32", 2: "float64", 3: "int32", 9: "int64", 19: "float16"}  # types.proto


@dataclasses.dataclass(frozen=True)
class _Entry:
    """Where an array lies: its `BundleEntryProto`."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    sliced: bool


class _DamagedError(ValueError):
    """Bytes that cannot be what they should be; becomes a `UserError` with the file's name."""


def read(prefix: str | Path) -> dict[str, np.ndarray]:
    """Reads all variables.

    Args:
      prefix: PREFIX, PREFIX.index, or a directory that holds one checkpoint, or several and a
        file ``checkpoint`` that names the latest.

    Returns:
      Arrays by the variables' full names.

    Raises:
      UserError: files are missing, damaged, or of a kind that this cannot read.
    """
    prefix = find(prefix)
    shards, entries = _entries(prefix)
    paths = [Path(f"{prefix}.data-{shard:05d}-of-{shards:05d}") for shard in range(shards)]
    return {
        name: _array(paths[entry.shard], name, entry) for name, entry in sorted(entries.items())
    }


def shapes(prefix: str | Path) -> dict[str, tuple[int, ...]]:
    """The shapes of all variables, from the index alone; arguments and errors as of `read`."""
    return {name: entry.shape for name, entry in sorted(_entries(find(prefix))[1].items())}


def find(path: str | Path) -> Path:
    """The PREFIX that a user's path means; see `read`."""
    path = Path(path).expanduser()
    if path.is_dir():
        return _in_directory(path)
    prefix = path.with_name(re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", path.name))
    if Path(f"{prefix}.index").is_file():
        return prefix
    if prefix.is_file():
        raise UserError(
            f"{prefix} has no {prefix.name}.index beside it: not a TensorFlow checkpoint, or one "
            "of the old single-file format, which is not supported"
        )
    raise UserError(f"no TensorFlow checkpoint {prefix}: {prefix}.index does not exist")


def _in_directory(path: Path) -> Path:
    listing = path / "checkpoint"
    if listing.is_file():
        text = listing.read_text("utf-8", errors="replace")
        if latest := re.search(r'^model_checkpoint_path: "(.+)"', text, re.MULTILINE):
            # The directory may have moved since it was written.
            return find(path / Path(latest[1]).name)
    found = sorted(file.with_suffix("") for file in path.glob("*.index"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise UserError(f"no TensorFlow checkpoint in {path}: it holds no file *.index")
    names = ", ".join(prefix.name for prefix in found)
    raise UserError(f"{path} holds several checkpoints, name one of {names}")


def _array(path: Path, name: str, entry: _Entry) -> np.ndarray:
    """Reads and checks one array."""
    if entry.sliced:
        raise UserError(f"{path}: {name} is stored in slices (partitioned), which is not supported")
    if entry.dtype not in DTYPES:
        raise UserError(
            f"{path}: {name} has TensorFlow's data type number {entry.dtype}; supported are "
            f"{', '.join(DTYPES.values())}"
        )
    dtype = np.dtype(DTYPES[entry.dtype]).newbyteorder("<")
    if entry.size != math.prod(entry.shape) * dtype.itemsize:
        raise UserError(f"{path}: {name} {list(entry.shape)} cannot have {entry.size} bytes")
    end = entry.offset + entry.size
    try:
        with path.open("rb") as file:
            if end > path.stat().st_size:
                raise UserError(f"{path} is cut off: {name} ends at byte {end}")
            file.seek(entry.offset)
            data = file.read(entry.size)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if _masked_crc(data) != entry.crc:
        raise UserError(f"{path} is damaged: wrong checksum of {name}")
    return np.frombuffer(data, dtype).reshape(entry.shape).astype(dtype.newbyteorder("="))


def _entries(prefix: Path) -> tuple[int, dict[str, _Entry]]:
    """Number of data files, and where each variable lies."""
    path = Path(f"{prefix}.index")
    try:
        table = dict(_table(path.read_bytes()))
        if b"" not in table:
            raise _DamagedError("no header")
        header = _message(table.pop(b""))
        shards, big_endian = header.get(1, [0])[-1], header.get(2, [0])[-1]
        entries = {key.decode(): _entry(value) for key, value in table.items()}
        if shards > limits.TF_FILES:
            raise _DamagedError(f"{shards} data files are too many")
        if any(entry.shard >= shards for entry in entries.values()):
            raise _DamagedError(f"a variable lies in a file beyond the {shards} that there are")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (ValueError, TypeError, IndexError, struct.error) as error:
        raise UserError(f"{path} is not a TensorFlow index, or damaged: {error}") from error
    if big_endian:
        raise UserError(f"{path} was written on a big-endian machine, which is not supported")
    return shards, entries


def _entry(data: bytes) -> _Entry:
    fields = _message(data)
    shape = _message(fields.get(2, [b""])[-1])
    sizes = [_message(axis).get(1, [0])[-1] for axis in shape.get(2, [])]
    if math.prod(max(size, 1) for size in sizes) > limits.TF_ARRAY:
        raise _DamagedError(f"an array of {sizes} is too large")
    numbers = [fields.get(key, [0])[-1] for key in (1, 3, 4, 5, 6)]
    dtype, shard, offset, size, crc = numbers
    return _Entry(dtype, tuple(sizes), shard, offset, size, crc, sliced=7 in fields)


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a LevelDB table."""
    if len(data) < FOOTER or not data.endswith(MAGIC):
        raise _DamagedError("its last bytes are wrong")
    at = len(data) - FOOTER
    meta, at = _handle(data, at)
    index, _ = _handle(data, at)
    if list(_block(data, *meta)):
        raise UserError("has meta blocks, which is not supported")
    for _, value in _block(data, *index):
        handle, _ = _handle(value, 0)
        yield from _block(data, *handle)


def _block(data: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of one block; a key shares its beginning with the one before."""
    end = start + size
    block, trailer = data[start:end], data[end : end + TRAILER]
    compression, crc = struct.unpack("<BI", trailer)
    if _masked_crc(data[start : end + 1]) != crc:
        raise _DamagedError(f"wrong checksum of the block at byte {start}")
    if compression:
        kind = "snappy" if compression == 1 else f"number {compression}"
        raise UserError(f"compressed ({kind}), which is not supported")
    (restarts,) = struct.unpack("<I", block[-4:])
    entries_end = size - 4 * (restarts + 1)
    key, at = b"", 0
    while at < entries_end:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + own]
        if len(key) > limits.TF_NAME:
            raise _DamagedError("a name is too long")
        at += own
        yield key, block[at : at + length]
        at += length


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Start and size of a block, and where to read on."""
    start, at = _varint(data, at)
    size, at = _varint(data, at)
    return (start, size), at


def _message(data: bytes) -> dict[int, list]:
    """The fields of a protocol buffer: numbers as int, nested messages as bytes, in order."""
    fields: dict[int, list] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = divmod(tag, 8)
        value: int | bytes
        if wire == 0:
            value, at = _varint(data, at)
        elif wire == 2:
            length, at = _varint(data, at)
            value, at = data[at : at + length], at + length
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
            value, at = int.from_bytes(data[at : at + length], "little"), at + length
        else:
            raise _DamagedError(f"unknown wire type {wire}")
        fields.setdefault(number, []).append(value)
    if at != len(data):
        raise _DamagedError("a message is cut off")
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number in groups of 7 bits, lowest first, and where to read on."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise _DamagedError("a number is too long")


def _masked_crc(data: bytes) -> int:
    """CRC-32C as both formats store it."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + CRC_DELTA) & 0xFFFFFFFF
