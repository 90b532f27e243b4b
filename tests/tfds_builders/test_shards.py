"""A preparation that is killed anywhere is resumed, and gives the same as one that is not."""

import concurrent.futures
import contextlib
import functools
import json
import os
import pathlib
import re
import sys
import threading

import pytest
import tensorflow_datasets as tfds

from rstg_jax.data.video import something_something as reader
from rstg_jax.errors import UserError
from tfds_builders import shards
from tfds_builders.something_something import SomethingSomething, SomethingSomethingBuilderConfig
from tfds_builders.something_something import something_something as builder_module

CONFIG = SomethingSomethingBuilderConfig.of("v2_demo", store="video")
LABELS = ("a", "b")
SIZES = {"train": 5, "test": 2}
BROKEN = ("train", 3)


def examples(split, first, end):
    """Numbered examples, one of which cannot be made."""
    for i in range(first, end):
        if (split, i) == BROKEN:
            yield shards.Skipped(split, str(i), "file", "broken", "of glass")
        else:
            video = {"id": str(i), "video": b"film", "num_frames": 1, "fps": 12.0, "label": i % 2}
            yield video | {"template": "", "placeholders": [], "caption": split}


examples_of = examples


def prepare(data_dir: pathlib.Path, **description) -> pathlib.Path:
    target = reader.prepared_dir(reader.SomethingSomethingConfig(CONFIG.name, str(data_dir)))
    if shards.is_there(target):
        return target
    builder = shards.builder_of(SomethingSomething, CONFIG, data_dir)
    plan = shards.Plan(
        target=target,
        name=builder.name,
        sizes=SIZES,
        shard_size=2,
        examples=lambda *some: functools.partial(examples_of, *some),
        features=functools.partial(builder_module.features, CONFIG, LABELS),
        description=description,
    )
    builder.info.features["label"].names = list(LABELS)
    return shards.prepare(plan, builder, {})


class Killed(BaseException):
    """The process is gone."""


class Executioner:
    """Kills before the call of a number that changes a directory; nothing works after that."""

    def __init__(self, monkeypatch, number):
        self.left = number
        for name in ("rename", "replace", "unlink", "remove", "rmdir", "mkdir"):
            monkeypatch.setattr(os, name, functools.partial(self.call, getattr(os, name)))

    def call(self, function, *args, **kwargs):
        self.left -= 1
        if self.left < 0:
            raise Killed
        return function(*args, **kwargs)


def contents(directory):
    names = (file.name for file in directory.iterdir())
    records = {p.name: p.read_bytes() for p in directory.glob("*.array_record-?????-of-?????")}
    splits = json.loads((directory / "dataset_info.json").read_text())["splits"]
    return sorted(names), records, splits


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return contents(prepare(tmp_path_factory.mktemp("whole")))


def test_what_is_prepared(tmp_path):
    directory = prepare(tmp_path)
    builder = tfds.builder_from_directory(directory)
    made = [int(e["id"]) for e in builder.as_data_source(split="train")]
    assert made == [0, 1, 2, 4]
    assert not [p for p in directory.iterdir() if "skipped" in p.name or p.name == "building.json"]


@pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")
def test_killed_at_every_change_of_a_directory(tmp_path, whole, monkeypatch, capfd):
    number = 0
    while True:
        data_dir = tmp_path / str(number)
        with monkeypatch.context() as patch:
            executioner = Executioner(patch, number)
            with contextlib.suppress(Killed):
                prepare(data_dir)
        dead = executioner.left < 0
        names, records, splits = contents(prepare(data_dir))
        assert (records, splits) == whole[1:]
        # After the last step of all only notes that nobody reads may be left.
        assert set(whole[0]) <= set(names)
        assert not [
            p for p in data_dir.rglob("*") if re.search(r"\.tmp$|\.partial$|^\.part", p.name)
        ]
        if not dead:
            break
        number += 1
    assert number > 15


def test_a_second_start_waits_for_the_first(tmp_path, whole, monkeypatch):
    writing, goes_on = threading.Event(), threading.Event()

    def slow(*some):
        writing.set()
        goes_on.wait(60)
        return examples(*some)

    monkeypatch.setattr(sys.modules[__name__], "examples_of", slow)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(prepare, tmp_path)
        assert writing.wait(60)
        second = pool.submit(prepare, tmp_path)
        concurrent.futures.wait([second], 0.5)  # time to disturb the first one
        assert not second.done()
        goes_on.set()
        assert contents(first.result(60))[1:] == contents(second.result(60))[1:] == whole[1:]


def test_shards_of_unknown_origin_are_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shards, "_finish", lambda *_: None)
        partial = prepare(tmp_path).with_name("1.0.0.partial")
    with pytest.raises(UserError, match="used other data or settings; delete it first"):
        prepare(tmp_path, seed=1)
    note = partial / "building.json"
    for damage in (lambda: note.write_text("{"), note.unlink):
        damage()
        with pytest.raises(UserError, match="used other data or settings; delete it first"):
            prepare(tmp_path)


def test_place_that_is_taken(tmp_path):
    target = tmp_path / "something_something" / CONFIG.name / reader.VERSION
    target.mkdir(parents=True)
    (target / "notes.txt").touch()
    with pytest.raises(UserError, match=r"1\.0\.0 is in use but holds no prepared data"):
        prepare(tmp_path)
