"""Prepared Something-Something as the data that training reads."""

import dataclasses
import json
import pathlib
import shutil
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from rstg_jax import data
from rstg_jax.data.video import something_something as reader
from rstg_jax.errors import UserError
from tests import clip_files
from tfds_builders.something_something import build
from tfds_builders.something_something import something_something as builder
from tfds_builders.something_something.something_something import SomethingSomethingBuilderConfig

# In the order of the file, which is not the alphabetical one.
LABELS = [
    "Pushing something from right to left",
    "Moving something up",
    "Pushing something from left to right",
]
CLIP = data.ClipConfig(frames=4, resize=48, crop=40, view_size=48)
PARTS = {"train": 6, "validation": 4, "test": 3}


def films() -> dict[str, bytes]:
    """Number of a clip -> its webm file; every third is upright."""
    result = {}
    for i in range(sum(PARTS.values())):
        size = (36, 48) if i % 3 == 2 else (64, 48)
        frames = clip_files.pictures(6 + i, *size, seed=i)
        result[str(100 + i)] = clip_files.film(frames, **{"deadline": "realtime", "cpu-used": "8"})
    return result


def label_of(number: str) -> int:
    return int(number) % 3


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[pathlib.Path, dict[str, bytes]]:
    """The data directory with V2 prepared as frames and as films, and the films."""
    root = tmp_path_factory.mktemp("something")
    manual, clips = root / "manual", films()
    (manual / "20bn-something-something-v2").mkdir(parents=True)
    (manual / "labels").mkdir()
    for number, film in clips.items():
        (manual / "20bn-something-something-v2" / f"{number}.webm").write_bytes(film)
    numbers = iter(clips)
    for split, count in PARTS.items():
        entries = []
        for number in (next(numbers) for _ in range(count)):
            label = LABELS[label_of(number)]
            entry = {"id": number}
            if split != "test":
                entry |= {
                    "label": label.replace("something", "a cup").lower(),
                    "template": label.replace("something", "[something]"),
                    "placeholders": ["a cup"],
                }
            entries.append(entry)
        (manual / "labels" / f"{split}.json").write_text(json.dumps(entries))
    names = {label: str(number) for number, label in enumerate(LABELS)}
    (manual / "labels" / "labels.json").write_text(json.dumps(names))
    for store in ("frames", "video"):
        prepared = SomethingSomethingBuilderConfig.of("v2_demo", store=store)
        build.build(prepared, manual, root / "tfds", shard_size=4)
    return root / "tfds", clips


def config(made, version="v2_demo", **fields):
    return data.SomethingSomethingConfig(
        version=version, data_dir=str(made[0]), clip=CLIP, **fields
    )


def everything(source):
    return source.batch(np.arange(len(source)))


@pytest.mark.parametrize("version", ["v2_demo", "v2_demo-video"])
def test_splits_labels_and_ids(made, version):
    train, test = (config(made, version).open(split) for split in ("train", "test"))
    assert config(made, version).num_classes == 3
    assert train.label_names == test.label_names == tuple(LABELS)
    assert (len(train), len(test)) == (6, 4)
    ids = list(made[1])
    assert everything(train)["id"].tolist() == ids[:6]
    assert everything(test)["id"].tolist() == ids[6:10]
    assert everything(test)["label"].tolist() == [label_of(number) for number in ids[6:10]]
    assert train.provenance["store"] == ("video" if "video" in version else "frames")
    assert len(str(train.provenance["annotations_sha256"])) == 64


def test_films_give_the_pixels_of_the_download(made):
    """With frames as large as the clips nothing is resampled, and every byte must be equal."""
    plain = dataclasses.replace(
        config(made, "v2_demo-video"), clip=data.ClipConfig(4, resize=48, crop=48)
    )
    batch = everything(plain.open("train"))
    for row, number in enumerate(made[1]):
        if row in (2, 5) or row > 5:  # upright ones are resampled
            continue
        every = clip_files.decode_all(made[1][number])
        for k, index in enumerate(int(i * (len(every) - 1) / 3) for i in range(4)):
            np.testing.assert_array_equal(batch["video"][row, k], every[index][:, 8:56])


def test_frames_and_films_show_the_same(made):
    frames, films = (
        everything(config(made, v).open("train")) for v in ("v2_demo", "v2_demo-video")
    )
    error = np.abs(frames["video"].astype(int) - films["video"])
    assert error.mean() < 4  # JPEG of quality 95
    assert error.mean() > 0


def test_sorted_labels(made):
    by_file = config(made).open("train")
    by_name = config(made, label_order="sorted").open("train")
    assert by_name.label_names == tuple(sorted(LABELS))
    a, b = everything(by_file)["label"], everything(by_name)["label"]
    assert [by_file.label_names[i] for i in a] == [by_name.label_names[i] for i in b]
    assert a.tolist() != b.tolist()


def test_mirrored_clips_change_sides(made):
    flips = dataclasses.replace(config(made), clip=dataclasses.replace(CLIP, flip=True))
    source = flips.open("train")
    bits = np.zeros((6, source.num_draws), np.uint64)
    labels = source.augmented(np.arange(6), bits)["label"]
    assert labels.tolist() == [{0: 2, 1: 1, 2: 0}[label_of(n)] for n in list(made[1])[:6]]


def test_test_split_without_answers(made):
    source = config(made, test_split="test").open("test")
    assert not source.labelled
    seen = list(data.eval_batches(source, batch_size=2))
    assert np.concatenate([b["label"] for b in seen]).tolist() == [-1] * 4
    assert np.concatenate([b["id"] for b in seen])[:3].tolist() == list(made[1])[10:]


def test_missing_data_name_the_command(tmp_path):
    config = data.SomethingSomethingConfig("v2-short_side128-quality80", data_dir=str(tmp_path))
    with pytest.raises(
        UserError, match="no prepared Something-Something; put the official"
    ) as error:
        config.open("train")
    words = str(error.value).split("`")[1].split()
    assert words[:4] == [
        "python",
        "-m",
        "tfds_builders.something_something.build",
        "--manual_dir=DIR",
    ]
    assert words[4:] == [
        "--config=v2",
        f"--data_dir={tmp_path}",
        "--short_side=128",
        "--quality=80",
    ]
    # The command that is named prepares what is missing.
    named = SomethingSomethingBuilderConfig.of("v2", short_side=128, quality=80)
    assert named.name == config.version and builder.VERSION == reader.VERSION
    demo = dataclasses.replace(config, version="v2_demo-video")
    with pytest.raises(
        UserError, match=r"make_demo --out=DIR`, then .*--config=v2_demo .*--store=video"
    ):
        demo.open("test")
    with pytest.raises(UserError, match=r"^version='v3' must be v1, v2 or v2_demo"):
        data.SomethingSomethingConfig("v3")


def test_number_of_labels_is_known_without_data():
    assert data.SomethingSomethingConfig("v1").num_classes == 174
    assert data.SomethingSomethingConfig("v2-video").num_classes == 174
    assert data.SomethingSomethingConfig().clip_shape == (32, 224, 224, 3)


def test_empty_split_is_named(made, monkeypatch):
    """As builds of earlier versions prepared it from an empty file of annotations."""
    builder = reader.open_builder(config(made))
    empty = builder.info.splits["test"].replace(shard_lengths=[])
    splits = [empty if name == "test" else one for name, one in builder.info.splits.items()]
    builder.info.set_splits(tfds.core.splits.SplitDict(splits))
    monkeypatch.setattr(reader, "open_builder", lambda _: builder)
    with pytest.raises(UserError, match=r"the split 'test' is empty; delete it and prepare"):
        config(made, test_split="test").open("test")


def test_damaged_shard_is_named(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "tfds")
    moved = dataclasses.replace(config(made), data_dir=str(tmp_path / "tfds"))
    shard = next(reader.prepared_dir(moved).glob("*train*-00001-*"))
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(UserError, match=f"{shard.name}: the shard is damaged"):
        moved.open("train")


DESCRIPTIONS = {
    "no json": ("features.json", "[" * 100_000, r"features\.json: bad json"),
    "other code": (
        "features.json",
        '{"pythonClassName": "antigravity.Feature"}',
        r"features\.json: 'antigravity\.Feature' is no feature of TFDS",
    ),
    "no splits": ("dataset_info.json", "{}", r"1\.0\.0: cannot be read \(.*delete it and prepare"),
    "no features": ("features.json", "{}", r"1\.0\.0: cannot be read \(.*delete it and prepare"),
    "no labels": ("label.labels.txt", "up\n", r"labels\.txt has 1 names, features\.json 3 classes"),
}


@pytest.mark.parametrize("damage", DESCRIPTIONS)
def test_damaged_descriptions_are_refused_and_import_nothing(made, tmp_path, damage):
    name, content, message = DESCRIPTIONS[damage]
    shutil.copytree(made[0], tmp_path / "tfds")
    file = tmp_path / "tfds/something_something/v2_demo/1.0.0" / name
    assert file.is_file()
    file.write_text(content)
    with pytest.raises(UserError, match=message) as error:
        everything(config((tmp_path / "tfds",)).open("train"))
    assert "\n" not in str(error.value)
    assert "antigravity" not in sys.modules
