"""The benchmark of loading clips measures what training does."""

import argparse

import pytest

from benchmarks import clip_loading


@pytest.mark.parametrize("number", [0, 4])
def test_rows_are_of_the_same_clips(number):
    case = clip_loading.CASES[number]
    flags = argparse.Namespace(clips=1, length=5, frames=4, repeats=1)
    row = clip_loading.measured(case, flags)
    # Loading is compared with the plain way, which resizes whole frames before it cuts.
    assert row["largest_difference"] <= 2
    assert row["clips_per_second"] == pytest.approx(1e3 / row["milliseconds"])
    assert row["plain_clips_per_second"] > 0
    lines = list(clip_loading.table([row]))
    assert len(lines) == 2 and len(lines[0]) == len(lines[1]) and case.name in lines[1]


@pytest.mark.parametrize("processes", [0, 1])
def test_batches_are_timed_by_the_number_of_processes(processes):
    flags = argparse.Namespace(clips=1, length=5, frames=4, batch_size=2, batches=2)
    row = clip_loading.measured_workers(processes, flags)
    assert row["processes"] == processes
    assert row["clips_per_second"] > 0 and row["first_batch_seconds"] > 0
    assert (row["worker_megabytes"] > 50) == bool(processes)
    assert len(list(clip_loading.workers_table([row, row]))) == 3
