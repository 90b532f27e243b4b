"""A few hundred damaged files of all kinds; and that the fuzzer sees what it looks for."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rstg_jax.errors import UserError
from tests.fuzz import kinds, mutations


def misbehave(harm: Callable[[], object]) -> kinds.Kind:
    def read(directory: Path) -> str:
        if kinds.only(directory).read_bytes() != bytes(99):
            harm()
        return "read"

    return kinds.Kind(lambda: [{"file": bytes(99)}], read)


def wait() -> None:
    time.sleep(3600)


def hoard() -> None:
    blocks = [np.ones(1 << 24) for _ in range(1 << 20)]
    raise UserError(f"{len(blocks)} blocks")


def hide() -> None:
    """As a reader that turns any error into one of ours."""
    try:
        np.ones(1 << 40)
    except MemoryError as error:
        raise UserError("cannot be read") from error


WRONG = {
    "raises": misbehave(lambda: int("x")),
    "hangs": misbehave(wait),
    "dies": misbehave(lambda: os.kill(os.getpid(), signal.SIGSEGV)),
    "hoards": misbehave(hoard),
    "hides": misbehave(hide),
    "alters": kinds.Kind(
        lambda: [{"file": bytes(99)}], lambda path: str(kinds.only(path).read_bytes()), exact=True
    ),
}
REPORTED = {
    "raises": "ValueError: invalid literal",
    "hangs": "hangs",
    "dies": r"the process dies \(signal 11\)",
    "hoards": "too much memory",
    "hides": "too much memory: MemoryError",
    "alters": "a wrong value is accepted",
}
COMMAND = """
import sys
from tests.fuzz import __main__, kinds, test_fuzz
kinds.KINDS.update(test_fuzz.WRONG)
sys.exit(__main__.main())
"""


def fuzz(*flags):
    """Runs the command; returns its status, and the line of each kind in its table."""
    done = subprocess.run([sys.executable, "-c", COMMAND, *flags], capture_output=True, text=True)
    rows = re.findall(r"^(\w+) +(\d+) +(\d+) +(\d+) +(\d+)$", done.stdout, re.MULTILINE)
    return done, {name: tuple(map(int, numbers)) for name, *numbers in rows}


def test_damaged_files_are_read_or_refused():
    names = [name for name in kinds.KINDS if name not in WRONG]
    done, rows = fuzz("--cases=300", f"--kinds={','.join(names)}")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert set(rows) == {*names, "all"}
    cases, read, refused, failed = rows["all"]
    assert cases >= 300 and failed == 0
    assert read > 20 and refused > 100  # damage is neither always found nor always harmless


def test_wrong_readers_are_reported():
    flags = ("--cases=6", "--seconds=6", "--megabytes=200", f"--kinds={','.join(WRONG)}")
    done, rows = fuzz(*flags)
    assert done.returncode == 1, done.stdout + done.stderr
    assert rows["all"] == (6, 0, 0, 6)
    for name, message in REPORTED.items():
        assert rows[name] == (1, 0, 0, 1)
        assert re.search(f"^{name}: {message}", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.parametrize("text", [False, True])
def test_a_case_is_made_again_from_its_number_and_differs_from_what_it_was(text):
    files = {"a.json": b'{"size": [64, 48], "name": "x"}', "b.json": b""}
    for number in range(200):
        first, again = (
            mutations.mutate(files, [files], random.Random(str(number)), text) for _ in range(2)
        )
        assert first == again != files
        assert sum(first.get(name) != files[name] for name in files) == 1


def test_checksums_of_forged_files_are_right():
    (whole,), index = kinds.tensorflow(), "model_2.ckpt.index"
    assert kinds.table_sums(whole[index]) == whole[index]
    for name, content in kinds.still("png")()[0].items():
        assert mutations.png_sums(content[:-1] + b"x") == content, name
