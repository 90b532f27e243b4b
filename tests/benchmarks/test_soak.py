"""The benchmark of long runs finds growth, and none where there is none."""

from xml.etree import ElementTree

import pytest

from benchmarks import soak
from rstg_jax.errors import UserError


def samples(memory=lambda i: 100, files=lambda i: 10, threads=lambda i: 5, disk=lambda i: 7):
    return [soak.Sample(i, memory(i), files(i), threads(i), disk(i)) for i in range(60)]


def test_growth_after_the_warm_up_is_found():
    assert soak.growth(samples(lambda i: 1000 + i)) == pytest.approx(40 / 1014.5)
    # Warming up is no growth, nor is a peak.
    flat = samples(lambda i: 1 if i < 8 else 900 if i == 33 else 100, lambda i: 10 + 5 * (i == 20))
    assert soak.growth(flat) == 0 and not soak.problems(flat)
    grown = soak.problems(
        samples(
            lambda i: 1000 + i,
            lambda i: 10 + i // 10,
            lambda i: 5 + i // 30,
            lambda i: 70 * (1 + i // 10 + i % 2),  # a checkpoint in ten samples is not deleted
        )
    )
    assert grown == [
        "memory has grown by 3.9%",
        "files: 15 at the end, 12 at most before the middle",
        "threads: 6 at the end, 5 at most before the middle",
        "disk: 420 at the end, 280 at most before the middle",
    ]


def test_disk_is_all_that_is_written_but_logs(tmp_path):
    for name, size in (("a/b.bin", 5), ("c.json", 7), ("metrics.jsonl", 100), ("events.out.1", 9)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(size))
    assert soak.disk(tmp_path) == 12
    (tmp_path / "gone").symlink_to(tmp_path / "never")  # listed, but gone when it is looked at
    assert soak.disk(tmp_path) == 12


def test_a_job_is_watched_until_its_time_is_over(monkeypatch):
    code = """
import threading, time
held = []
for _ in range(10_000):
    held += [open("/dev/null"), bytearray(1 << 18)]
    threading.Thread(target=time.sleep, args=[600], daemon=True).start()
    time.sleep(0.1)
"""
    monkeypatch.setattr(soak, "SAMPLES", 30)
    seen = soak.watch("job", lambda out: ["-c", code], 6)
    assert seen[-1].files > seen[0].files and seen[-1].threads > seen[0].threads
    assert seen[-1].memory > seen[0].memory
    with pytest.raises(UserError, match="job ended with status 1: no more"):
        soak.watch("job", lambda out: ["-c", "raise SystemExit('no more')"], 600)


def test_samples_are_written_read_and_drawn(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(soak, "watch", lambda name, make, seconds: samples(lambda i: 2_000_000))
    written = [tmp_path / f"{name}.json" for name in ("stream", "predict")]
    for path in written:
        assert soak.main([f"--jobs={path.stem}", f"--out={path}"]) == 0
    monkeypatch.undo()  # nothing is run
    picture = tmp_path / "memory.svg"
    flags = [f"--read={','.join(map(str, written))}", f"--plot={picture}"]
    capsys.readouterr()
    assert soak.main(flags) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert rows == [[name, "1.0", "2", "0.0%", "10", "5", "0.00"] for name in ("stream", "predict")]
    texts = {text.text for text in ElementTree.parse(picture).iter() if text.text}
    assert {"Memory, MB", "minutes", "stream 2", "predict 2"} <= texts
