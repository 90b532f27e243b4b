"""Damages small files at random: as transfers and disks do, and as somebody hostile would.

A mutation is a function of content, random numbers and a donor, another file of the same kind.
"""

import random
import re
import zlib
from collections.abc import Callable, Sequence

Files = dict[str, bytes]  # content by name, relative to a directory

_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40)
_DIGITS = (b"0", b"-1", b"1e999", b"NaN", b"4294967296", b"1" * 400, b"9" * 5000, b"2.5", b"null")
_WORDS = (
    *(b"..", b"../../x", b"/etc/passwd", b"C:\\x", b"~", b"a/b", b"", b" ", b"\0", b"\\u0000"),
    *(b"\xff\xfe", b"\xef\xbb\xbf", b"\\ud800", b"\xf0\x9f\x98\x80", b"\r", b"\n\n", b";", b",,"),
    *(b'"', b"'", b"x" * 70_000, b"[" * 100_000, b'{"a":' * 50_000, b"[]", b"{}", b"true", b"("),
)


def mutate(files: Files, donors: Sequence[Files], rng: random.Random, text: bool) -> Files:
    """One file of several is damaged, by one to three mutations; now and then it is gone."""
    name = rng.choice(sorted(files))
    original = content = files[name]
    if len(files) > 1 and rng.random() < 0.05:
        return {other: files[other] for other in files if other != name}
    others = [donor[other] for donor in donors for other in donor if _alike(other, name)]
    while content == original:
        for _ in range(rng.choice((1, 1, 1, 3))):
            change = rng.choice(_OF_TEXT if text and rng.random() < 0.5 else _OF_BYTES)
            content = change(content, rng, rng.choice(others))
    return {**files, name: content}


def _alike(a: str, b: str) -> bool:
    return a.rpartition(".")[2] == b.rpartition(".")[2]


def _place(content: bytes, rng: random.Random) -> int:
    """Half of all places are near the start, where headers are."""
    return int(len(content) * rng.random() ** rng.choice((1, 5)))


def _span(content: bytes, rng: random.Random) -> tuple[int, int]:
    start = _place(content, rng)
    return start, start + rng.choice((1, 2, 4, 16, 256, 4096))


def _cut(content: bytes, rng: random.Random, donor: bytes) -> bytes:
    return content[: _place(content, rng)]


def _flip(content: bytes, rng: random.Random, donor: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 8)) if content else 0):
        changed[_place(content, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _number(content: bytes, rng: random.Random, donor: bytes) -> bytes:
    size, value = rng.choice((1, 2, 4, 8)), rng.choice(_NUMBERS) - rng.choice((0, 0, 1))
    order = rng.choice(("little", "big"))
    start = _place(content, rng)
    number = (value % (1 << 8 * size)).to_bytes(size, order)
    return content[:start] + number + content[start + size :]


def _insert(content: bytes, rng: random.Random, donor: bytes) -> bytes:
    start, end = _span(content, rng)
    return content[:start] + rng.randbytes(end - start) + content[start:]


def _delete(content: bytes, rng: random.Random, donor: bytes) -> bytes:
    start, end = _span(content, rng)
    return content[:start] + content[end:]


def _duplicate(content: bytes, rng: random.Random, donor: bytes) -> bytes:
    start, end = _span(content, rng)
    return content[:end] + content[start:]


def _zero(content: bytes, rng: random.Random, donor: bytes) -> bytes:
    start, end = _span(content, rng)
    return content[:start] + bytes(len(content[start:end])) + content[end:]


def _splice(content: bytes, rng: random.Random, donor: bytes) -> bytes:
    return content[: _place(content, rng)] + donor[_place(donor, rng) :]


def _digits(content: bytes, rng: random.Random, donor: bytes) -> bytes:
    return _replaced(rb"-?\d+(\.\d+)?", content, rng, _DIGITS)


def _quoted(content: bytes, rng: random.Random, donor: bytes) -> bytes:
    return _replaced(rb'(?<=")[^"\n]*(?=")', content, rng, _WORDS)


def _value(content: bytes, rng: random.Random, donor: bytes) -> bytes:
    return _replaced(rb'"[^"\n]*"|[^;=,\n]+', content, rng, (*_WORDS, *_DIGITS))


def _word(content: bytes, rng: random.Random, donor: bytes) -> bytes:
    start = _place(content, rng)
    return content[:start] + rng.choice(_WORDS) + content[start:]


def _replaced(
    pattern: bytes, content: bytes, rng: random.Random, choices: Sequence[bytes]
) -> bytes:
    found = list(re.finditer(pattern, content))
    if not found:
        return content + rng.choice(choices)
    match = rng.choice(found)
    return content[: match.start()] + rng.choice(choices) + content[match.end() :]


Change = Callable[[bytes, random.Random, bytes], bytes]
_OF_BYTES: tuple[Change, ...] = (
    *(_cut, _flip, _flip, _number, _number, _number),
    *(_insert, _delete, _duplicate, _zero, _splice),
)
_OF_TEXT: tuple[Change, ...] = (_digits, _quoted, _value, _word, _splice)


def png_sums(content: bytes) -> bytes:
    """Makes the checksums of a PNG right again, so that what the chunks claim is believed."""
    at, fixed = 8, bytearray(content)
    while at + 12 <= len(content):
        end = at + 8 + int.from_bytes(content[at : at + 4], "big")
        if end + 4 > len(content):
            break
        fixed[end : end + 4] = zlib.crc32(fixed[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(fixed)
