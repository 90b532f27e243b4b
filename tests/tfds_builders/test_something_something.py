import dataclasses
import functools
import io
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import time

import av
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from rstg_jax import cli
from rstg_jax.errors import UserError
from tfds_builders import processes, shards
from tfds_builders.something_something import (
    SomethingSomething,
    SomethingSomethingBuilderConfig,
    annotations,
    build,
    clips,
    make_demo,
)

SHARD = 10
HEIGHT = 48
V2 = "20bn-something-something-v2"
V1 = "20bn-something-something-v1"


class Encoded(tfds.decode.SkipDecoding):
    """`SkipDecoding` for a sequence, which TFDS's own is not made for without TensorFlow."""

    def decode_batch_example_np(self, example):
        return example


@pytest.fixture(scope="module")
def downloads(tmp_path_factory) -> dict[str, pathlib.Path]:
    """Directories with the same 48 clips in both layouts; not to be changed."""
    directory = tmp_path_factory.mktemp("downloads")
    for layout in ("v1", "v2"):
        make_demo.make_demo(directory / layout, layout=layout, clips=24, height=HEIGHT)
    return {layout: directory / layout for layout in ("v1", "v2")}


@pytest.fixture
def v1(downloads, tmp_path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(downloads["v1"], tmp_path / "v1"))


@pytest.fixture
def v2(downloads, tmp_path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(downloads["v2"], tmp_path / "v2"))


@pytest.fixture(scope="module")
def built(downloads, tmp_path_factory) -> pathlib.Path:
    return prepare(downloads["v2"], tmp_path_factory.mktemp("tfds"))


def prepare(manual_dir, data_dir, name="v2", *, settings=None, **options) -> pathlib.Path:
    config = SomethingSomethingBuilderConfig.of(name, **(settings or {}))
    return build.build(config, manual_dir, data_dir, **{"shard_size": SHARD, **options})


def examples(directory: pathlib.Path, split: str) -> list[dict]:
    """Of a prepared split, frames as bytes."""
    builder = tfds.builder_from_directory(directory)
    frames = {"frames": Encoded()} if "frames" in builder.info.features else None
    source = builder.as_data_source(split=split, decoders=frames)
    return [source[i] for i in range(len(source))]


def written(directory: pathlib.Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(directory.glob("*array_record*"))}


def decoded(content: bytes) -> np.ndarray:
    with av.open(io.BytesIO(content)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def pictures(frames) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(frame))) for frame in frames])


# ---------------------------------------------------------------- what is prepared


def test_v2_equals_files_and_annotations(downloads, built):
    labels = json.loads((downloads["v2"] / "labels/labels.json").read_text())
    builder = tfds.builder_from_directory(built)
    assert builder.info.features["label"].names == sorted(labels, key=lambda k: int(labels[k]))
    for split in ("train", "validation"):
        expected = json.loads((downloads["v2"] / f"labels/{split}.json").read_text())
        made = examples(built, split)
        assert len(made) == builder.info.splits[split].num_examples == len(expected)
        for example, entry in zip(made, expected, strict=True):
            assert example["id"].decode() == entry["id"]
            assert example["label"] == int(labels[entry["template"].translate({91: "", 93: ""})])
            assert example["template"].decode() == entry["template"]
            assert example["caption"].decode() == entry["label"]
            assert [p.decode() for p in example["placeholders"]] == entry["placeholders"]
            assert example["fps"] == 12
    for example in made:
        video = decoded((downloads["v2"] / V2 / f"{example['id'].decode()}.webm").read_bytes())
        assert example["num_frames"] == len(video)
        frames = pictures(example["frames"]).astype(int)
        assert frames.shape == video.shape
        # Measured: 3.0 at the most, and less than that where nothing but noise changes in a frame.
        error = np.abs(frames - video).mean()
        assert error < 4
        assert error < np.abs(frames[1:] - video[:-1]).mean()


def test_test_split_with_and_without_answers(downloads, v2, built, tmp_path):
    lines = (v2 / "labels/test-answers.csv").read_text().splitlines()
    answers = dict(line.split(";") for line in lines)
    names = tfds.builder_from_directory(built).info.features["label"].names
    made = examples(built, "test")
    assert {e["id"].decode(): names[e["label"]] for e in made} == answers
    assert all(names[e["label"]] == e["template"].decode() for e in made)
    (v2 / "labels/test-answers.csv").unlink()
    made = examples(prepare(v2, tmp_path), "test")
    assert [(e["label"], e["template"]) for e in made] == [(-1, b"")] * len(answers)


def test_v1_keeps_the_files(downloads, tmp_path):
    directory = prepare(downloads["v1"], tmp_path, "v1", processes=2)
    names = (downloads["v1"] / "something-something-v1-labels.csv").read_text().splitlines()
    builder = tfds.builder_from_directory(directory)
    assert builder.info.features["label"].names == names
    for split in ("train", "test"):
        file = downloads["v1"] / f"something-something-v1-{split}.csv"
        lines = file.read_text().splitlines()
        made = examples(directory, split)
        for example, line in zip(made, lines, strict=True):
            id_, _, name = line.partition(";")
            files = sorted((downloads["v1"] / V1 / id_).iterdir())
            assert list(example["frames"]) == [f.read_bytes() for f in files]
            assert example["num_frames"] == len(files)
            assert example["id"].decode() == id_
            assert example["label"] == (names.index(name) if split == "train" else -1)
            assert len(example["placeholders"]) == 0


def test_videos_as_they_are(downloads, tmp_path):
    directory = prepare(downloads["v2"], tmp_path, settings={"store": "video"})
    assert directory.parent.name == "v2-video"
    for example in examples(directory, "validation"):
        file = downloads["v2"] / V2 / f"{example['id'].decode()}.webm"
        assert example["video"] == file.read_bytes()
        assert example["num_frames"] == len(decoded(example["video"]))
        assert "frames" not in example


def test_short_side_reduces_and_never_enlarges(downloads, built, tmp_path):
    directory = prepare(downloads["v2"], tmp_path, settings={"short_side": 24, "quality": 80})
    assert directory.parent.name == "v2-short_side24-quality80"
    for small, full in zip(examples(directory, "test"), examples(built, "test"), strict=True):
        reduced, whole = pictures(small["frames"][:1])[0], pictures(full["frames"][:1])[0]
        assert min(whole.shape[:2]) in (HEIGHT, 28)
        assert min(reduced.shape[:2]) == 24
        scale = 24 / min(whole.shape[:2])
        assert max(reduced.shape[:2]) == round(max(whole.shape[:2]) * scale)
        expected = Image.fromarray(whole).resize(reduced.shape[1::-1], Image.Resampling.BICUBIC)
        # Another filter, another encoding: measured 6.3 at the most.
        assert np.abs(reduced.astype(int) - np.asarray(expected)).mean() < 10


def test_names_are_those_that_a_path_shows():
    of = SomethingSomethingBuilderConfig.of
    assert [of(n).name for n in ("v1", "v2", "v2_demo")] == ["v1", "v2", "v2_demo"]
    assert of("v2_demo", short_side=0).name == "v2_demo-short_side0"
    assert {"v1", "v2", "v2_demo", "v2-video"} <= set(SomethingSomething.builder_configs)
    for name, settings in (
        ("v3", {}),
        ("v1", {"store": "video"}),
        ("v1", {"quality": 80}),
        ("v2", {"store": "video", "short_side": 100}),
        ("v2", {"quality": 100}),
    ):
        with pytest.raises(UserError, match="--"):
            of(name, **settings)


def test_tfds_own_preparation_gives_the_same_examples(downloads, built, tmp_path):
    builder = tfds.builder("something_something/v2", data_dir=tmp_path)
    config = tfds.download.DownloadConfig(manual_dir=downloads["v2"])
    builder.download_and_prepare(download_config=config)
    for split in ("train", "test"):
        # TFDS shuffles what it writes.
        ours, theirs = (
            sorted(examples(directory, split), key=lambda e: e["id"])
            for directory in (built, builder.data_path)
        )
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_equal(a, b)
    assert builder.info.features["label"].names[3] == "Moving something down"


def test_metadata_tells_where_the_data_come_from(built):
    metadata = tfds.builder_from_directory(built).info.metadata
    assert (metadata["reads"], metadata["store"], metadata["short_side"]) == ("v2", "frames", 256)
    assert (metadata["jpeg_quality"], metadata["train_annotated"]) == (95, 24)
    assert (metadata["broken_clips"], metadata["tolerance"]) == (0, 0.001)
    assert len(metadata["annotations_sha256"]) == 64


# ---------------------------------------------------------------- processes, interruptions, disk


def test_processes_give_the_same_bytes(downloads, built, tmp_path):
    assert written(prepare(downloads["v2"], tmp_path, processes=2)) == written(built)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_killed_build_goes_on(downloads, built, tmp_path, how):
    """Killed after the first shard; finished shards stay, and no process is left behind."""
    code = (
        "import sys, tfds_builders.something_something.build as b\n"
        "b.build.__kwdefaults__['shard_size'] = 2\n"
        "b.main(sys.argv[1:])"
    )
    flags = [f"--manual_dir={downloads['v2']}", f"--data_dir={tmp_path}", "--processes=2"]
    command = [sys.executable, "-c", code, *flags]
    partial = tmp_path / "something_something/v2/1.0.0.partial"
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as process:
        deadline = time.monotonic() + 300
        while not list(partial.glob("[!.]*-of-000??")) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(how)
        error = process.communicate(timeout=600)[1].decode()
    assert process.returncode == (130 if how == signal.SIGTERM else -signal.SIGKILL)
    assert how == signal.SIGKILL or "run the same command again to resume" in error
    deadline = time.monotonic() + 120  # the others notice it by themselves
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.05)
    whole = {p.name: p.stat().st_mtime_ns for p in partial.glob("[!.]*-of-000??")}
    assert 0 < len(whole) < 24
    (partial / "sample.tmp").mkdir()  # as after a kill while the disk need was measured
    with pytest.raises(UserError, match="an interrupted run used other data or settings"):
        prepare(downloads["v2"], tmp_path, shard_size=3)
    target = prepare(downloads["v2"], tmp_path, shard_size=2)
    assert {n: (target / n).stat().st_mtime_ns for n in whole} == whole
    assert not [*target.glob("*.tmp"), *target.glob(".part*")] and not partial.exists()
    for split in annotations.SPLITS:
        for a, b in zip(examples(target, split), examples(built, split), strict=True):
            np.testing.assert_equal(a, b)


def test_a_process_that_dies_is_told():
    with pytest.raises(UserError, match="one of 2 processes died"):
        list(processes.in_processes(os._exit, [1, 1, 1], 2))


def test_workers_leave_signals_to_the_process_that_started_them():
    """A terminal or a queue sends them to all; the first one stops its workers."""
    sent = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    assert list(processes.in_processes(signal.raise_signal, sent, 2)) == [None] * 3


def test_disk_too_small(downloads, tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shards.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"\d\.\d\d MB do not fit; give another --data_dir"):
        prepare(downloads["v2"], tmp_path)
    assert "48 clips to make: about" in capsys.readouterr().out


@pytest.mark.parametrize("finished", [False, True])
def test_bad_command_line(downloads, built, tmp_path, capsys, finished):
    data_dir = built.parents[2] if finished else tmp_path
    ours = [f"--manual_dir={downloads['v2']}", f"--data_dir={data_dir}"]
    for flags in (["--config=v3"], ["--processes=0"], ["--tolerance=2"], ["--quality=0"]):
        assert cli.run(functools.partial(build.main, [*ours, *flags])) == 2
        assert capsys.readouterr().err.startswith(f"error: {flags[0]}")
    ours[0] = f"--manual_dir={tmp_path / 'nowhere'}"
    assert cli.run(functools.partial(build.main, ours)) == 2
    assert "nowhere is not a directory" in capsys.readouterr().err


# ---------------------------------------------------------------- clips that cannot be used


def unknown_length(content: bytes) -> bytes:
    """A video as it is written to a pipe: its header does not say how long the file is."""
    place = content.index(b"\x18\x53\x80\x67") + 4
    return content[:place] + b"\x01" + b"\xff" * 7 + content[place + 8 :]


def empty_video() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="webm") as container:
        stream = container.add_stream("libvpx-vp9", rate=12)
        stream.width = stream.height = 48
        stream.pix_fmt = "yuv420p"
        container.start_encoding()
    return buffer.getvalue()


def preallocated(content: bytes) -> bytes:
    """A file of the right length of which only the first half was ever written."""
    return content[: len(content) // 2].ljust(len(content), b"\0")


FILM_DAMAGE = {
    "one byte short": (lambda c: c[:-1], "truncated", "bytes of"),
    "half, length unknown": (lambda c: unknown_length(c)[: len(c) // 2], "truncated", "end at"),
    "empty": (lambda c: b"", "truncated", "0 bytes"),
    "no video": (lambda c: b"<html>" * 200, "unreadable", "Invalid data"),
    "no frames": (lambda c: empty_video(), "no frames", ""),
    "half, then zeros": (preallocated, "truncated", "end at"),
    "gone": (None, "missing", "no such file"),
}


@pytest.mark.parametrize("damage", FILM_DAMAGE)
def test_broken_video(downloads, tmp_path, damage):
    change, reason, detail = FILM_DAMAGE[damage]
    source = max((downloads["v2"] / V2).iterdir(), key=lambda p: p.stat().st_size)
    file = tmp_path / "1.webm"
    if change:
        file.write_bytes(change(source.read_bytes()))
    for as_video in (True, False):
        with pytest.raises(clips.BrokenClipError) as error:
            clips.read_video(file, as_video=as_video, short_side=0, quality=95)
        assert reason in error.value.reason
        assert detail in error.value.detail


def test_whole_videos_are_not_taken_for_broken_ones(downloads, tmp_path):
    for source in (downloads["v2"] / V2).iterdir():
        content = source.read_bytes()
        assert clips.segment_end(content) == len(content)
        (tmp_path / "1.webm").write_bytes(unknown_length(content))
        assert clips.segment_end(unknown_length(content)) is None
        clip = clips.read_video(tmp_path / "1.webm", as_video=True, short_side=0, quality=95)
        assert clip.num_frames == len(decoded(content))


def cut(folder):
    (folder / "00003.jpg").write_bytes((folder / "00003.jpg").read_bytes()[:-200])


def other_size(folder):
    Image.new("RGB", (20, 20)).save(folder / "00002.jpg")


def claims_more(folder):
    """Its first frame header says 60000x60000 pixels, which Pillow refuses as a bomb."""
    file = folder / "00002.jpg"
    content = bytearray(file.read_bytes())
    size = content.index(b"\xff\xc0") + 5  # behind marker, length and bits
    content[size : size + 4] = struct.pack(">HH", 60000, 60000)
    file.write_bytes(content)


FOLDER_DAMAGE = {
    "bomb": (claims_more, "unreadable", "00002.jpg"),
    "cut": (cut, "truncated", "00003.jpg"),
    "no picture": (lambda f: (f / "00002.jpg").write_text("x"), "unreadable", "00002.jpg"),
    "hole": (lambda f: (f / "00004.jpg").unlink(), "frames missing", "00004.jpg"),
    "sizes": (other_size, "unreadable", "different sizes"),
    "empty": (lambda f: [p.unlink() for p in f.iterdir()], "no frames", "00001.jpg"),
    "gone": (shutil.rmtree, "missing", "no such folder"),
}


@pytest.mark.parametrize("damage", FOLDER_DAMAGE)
def test_broken_folder(downloads, tmp_path, damage):
    change, reason, detail = FOLDER_DAMAGE[damage]
    folder = pathlib.Path(shutil.copytree(downloads["v1"] / V1 / "7", tmp_path / "7"))
    assert clips.read_folder(folder).num_frames >= 18
    change(folder)
    with pytest.raises(clips.BrokenClipError, match=detail) as error:
        clips.read_folder(folder)
    assert error.value.reason == reason


def two_clips(v2):
    """Ids and files of two clips of the training split."""
    entries = json.loads((v2 / "labels/train.json").read_text())
    ids = [entries[index]["id"] for index in (0, 11)]
    return ids, [v2 / V2 / f"{id_}.webm" for id_ in ids]


def test_broken_clips_are_counted_listed_and_tried_again(v2, built, tmp_path, capsys, monkeypatch):
    (cut_id, lost_id), (cut_file, lost_file) = two_clips(v2)
    content = cut_file.read_bytes()
    cut_file.write_bytes(content[: len(content) // 2])

    # Found while the clips are read, therefore only in the end.
    with pytest.raises(UserError) as error:
        prepare(v2, tmp_path, tolerance=0.02)
    assert (
        "1 of 48 clips (2.08%) cannot be used, more than the tolerance of 2.00%: 1 truncated"
        in (str(error.value))
    )
    assert f"id {cut_id} ({cut_file}): truncated" in str(error.value)
    # Found by a look into the directory, before any clip is read.
    lost = lost_file.read_bytes()
    lost_file.unlink()
    monkeypatch.setattr(clips, "read_video", None)
    with pytest.raises(UserError, match=r"1 of 48 clips .*: 1 missing"):
        prepare(v2, tmp_path, tolerance=0.02)
    monkeypatch.undo()
    report = tmp_path / "something_something/v2/1.0.0.partial" / build.REPORT
    assert [json.loads(line)["id"] for line in report.read_text().splitlines()] == [lost_id]

    # Repaired: one shard is made again, the others are kept.
    lost_file.write_bytes(lost)
    cut_file.write_bytes(content)
    capsys.readouterr()
    target = prepare(v2, tmp_path)
    assert f"{SHARD} clips to make" in capsys.readouterr().out
    assert written(target) == written(built)
    assert not (target / build.REPORT).exists()


def test_tolerated_clips_are_left_out_and_the_rest_is_whole(v2, tmp_path, capsys):
    (cut_id, lost_id), (cut_file, lost_file) = two_clips(v2)
    content = cut_file.read_bytes()
    cut_file.write_bytes(content[: len(content) // 2])
    lost_file.unlink()
    entries = json.loads((v2 / "labels/train.json").read_text())
    bare_id = entries[22]["id"]
    del entries[22]["template"]
    (v2 / "labels/train.json").write_text(json.dumps(entries))
    target = prepare(v2, tmp_path / "other", tolerance=0.1, processes=2)
    out = capsys.readouterr().out
    assert "1 missing, 1 truncated, 1 unlabelled of 48 clips; all listed in broken_clips" in out
    lines = [json.loads(line) for line in (target / build.REPORT).read_text().splitlines()]
    assert {(line["id"], line["reason"]) for line in lines} == {
        (cut_id, "truncated"),
        (lost_id, "missing"),
        (bare_id, "unlabelled"),
    }
    assert all(line["split"] == "train" and line["detail"] for line in lines)
    ids = [e["id"].decode() for e in examples(target, "train")]
    assert ids == [e["id"] for e in entries if e["id"] not in (cut_id, lost_id, bare_id)]
    assert tfds.builder_from_directory(target).info.metadata["broken_clips"] == 3

    # The same command on what is finished.
    assert prepare(v2, tmp_path / "other", tolerance=0.1) == target
    with pytest.raises(
        UserError, match=r"3 of 48 clips .* 0\.10%.*listed in .*broken_clips\.jsonl"
    ):
        prepare(v2, tmp_path / "other")
    cut_file.write_bytes(content)
    with pytest.raises(
        UserError, match=rf"{target} was made with 3 broken clips, 1 can be read no"
    ):
        prepare(v2, tmp_path / "other", tolerance=0.1)
    (v2 / "labels/test-answers.csv").unlink()
    with pytest.raises(
        UserError, match=rf"{target} was made of other annotations than those of {v2}"
    ):
        prepare(v2, tmp_path / "other", tolerance=0.1)


def test_nothing_readable_stops_at_once(v2, tmp_path):
    for file in (v2 / V2).iterdir():
        file.write_text("no video")
    with pytest.raises(UserError, match=r"none of the first 10 clips can be read; .*Invalid data"):
        prepare(v2, tmp_path)


# ---------------------------------------------------------------- annotation files


def test_both_schemes_of_names_say_the_same(downloads, v2):
    expected = annotations.read("v2", downloads["v2"])
    for kind in ("labels", "train", "validation", "test"):
        (v2 / f"labels/{kind}.json").rename(v2 / f"something-something-v2-{kind}.json")
    assert annotations.read("v2", v2).sha256 == expected.sha256
    for kind in ("labels", "train", "validation", "test"):
        file = v2 / f"something-something-v2-{kind}.json"
        file.rename(v2 / "labels" / file.name)
    (v2 / "labels/test-answers.csv").rename(v2 / "something-something-v2-test-answers.csv")
    assert annotations.read("v2", v2).sha256 == expected.sha256
    shutil.copy(v2 / "labels/something-something-v2-test.json", v2 / "test.json")
    with pytest.raises(UserError, match="are both there"):
        annotations.read("v2", v2)


def test_names_with_commas_in_v1(v1):
    file = v1 / "something-something-v1-labels.csv"
    name = "Lifting something up completely, then letting it drop down"
    file.write_text(f"{name}\n" + file.read_text())
    validation = v1 / "something-something-v1-validation.csv"
    validation.write_text(f"70;{name}\n90;Moving something up\n")
    found = annotations.read("v1", v1)
    assert found.label_names[0] == name
    assert [(c.id, c.label, c.template) for c in found.clips["validation"]] == [
        ("70", 0, name),
        ("90", 5, "Moving something up"),
    ]


def test_missing_files_are_shown_beside_what_is_there(v2, tmp_path):
    (v2 / "labels/test.json").rename(v2 / "tests.json")
    with pytest.raises(UserError) as error:
        prepare(v2, tmp_path)
    lines = str(error.value).splitlines()
    assert lines[0] == f"{v2}: not a whole download of Something-Something V2"
    assert lines[2].split() == [f"{V2}/<id>.webm", "found"]
    assert lines[6].split()[-2:] == ["something-something-v2-test.json", "MISSING"]
    assert lines[-1] == f"{v2} holds {V2}/, labels/, tests.json."
    with pytest.raises(UserError, match="is not a directory"):
        prepare(tmp_path / "nowhere", tmp_path)
    with pytest.raises(UserError, match=r"00001.jpg.*MISSING(.|\n)*\d+\.webm and 36 more"):
        prepare(v2 / V2, tmp_path, "v1")


def edited(split, change):
    def edit(directory):
        file = directory / f"labels/{split}.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return edit


def appended(name, text):
    def edit(directory):
        file = directory / name
        file.write_text(file.read_text() + text)

    return edit


MISTAKES = {
    "unknown template": (
        edited("train", lambda c: c[3].update(template="Moving [something] upp")),
        r"train.json: id \d+: there is no class 'Moving something upp'; .*'Moving something up'",
    ),
    "bad json": (appended("labels/validation.json", "]"), r"validation.json: line \d+: bad json"),
    "no list": (
        lambda d: (d / "labels/test.json").write_text("{}"),
        "test.json: must hold a json list",
    ),
    "no clip": (
        lambda d: (d / "labels/test.json").write_text("[]"),
        r"test\.json: names no clip; replace it by that of the download",
    ),
    "no id": (edited("train", lambda c: c[3].pop("id")), r"train.json: entry 3 has no id"),
    "twice": (
        edited("train", lambda c: c.append(c[0])),
        r"train.json: id \d+ is there twice, see .*train.json",
    ),
    "in two splits": (
        lambda d: shutil.copy(d / "labels/train.json", d / "labels/validation.json"),
        r"validation.json: id \d+ is there twice, see .*train.json",
    ),
    "hole in the indices": (
        edited("labels", lambda c: c.update({"Moving something up": "99"})),
        r"labels.json: indices must be 0\.\.11",
    ),
    "index that is none": (
        edited("labels", lambda c: c.update({"Moving something up": "one"})),
        "labels.json: an index is no number",
    ),
    "answer to nothing": (
        appended("labels/test-answers.csv", "4711;Moving something up\n"),
        r"test-answers.csv: not in .*test.json: id 4711$",
    ),
    "comma in answers": (
        appended("labels/test-answers.csv", "33,Moving something up\n"),
        r"test-answers.csv: is not `id;class`, without a header: '33,Moving something up;'",
    ),
    "answer of no class": (
        appended("labels/test-answers.csv", "4711;Moving\n"),
        "test-answers.csv: id 4711: there is no class 'Moving'",
    ),
    "nesting too deep": (
        lambda d: (d / "labels/train.json").write_text("[" * 100_000),
        r"train.json: bad json \(maximum recursion",
    ),
    "infinite index": (
        edited("labels", lambda c: c.update({"Moving something up": float("inf")})),
        "labels.json: an index is no number",
    ),
    "id that no file can have": (
        edited("train", lambda c: c[0].update(id="7\0")),
        r"train.json: id '7\\x00' is no name of a clip",
    ),
    "half of a character": (
        edited("train", lambda c: c[0].update(label="\ud800")),
        r"train.json: id \d+: a text is no Unicode",
    ),
    "class of two lines": (
        edited("labels", lambda c: c.update({"Moving\nup": "99"})),
        r"labels.json: class 'Moving\\nup' is no name",
    ),
    "path for an id": (
        edited("train", lambda c: c[0].update(id="../7")),
        r"train.json: id '../7' is no name of a clip",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_in_annotations(v2, mistake):
    make, message = MISTAKES[mistake]
    make(v2)
    with pytest.raises(UserError, match=message):
        annotations.read("v2", v2)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("labels", "Moving something up\n", "labels.csv: class 'Moving something up' is there tw"),
        ("train", "99;Moving something upp\n", "train.csv: id 99: there is no class"),
        ("train", "id;label\n", "train.csv: is not `id;class`, without a header: 'id;label'"),
        ("validation", None, r"validation.csv: names no clip"),
        ("test", "7\n7\n", r"test.csv: id 7 is there twice"),
    ],
)
def test_mistake_in_annotations_of_v1(v1, name, text, message):
    file = v1 / f"something-something-v1-{name}.csv"
    file.write_text("" if text is None else file.read_text() + text)
    with pytest.raises(UserError, match=message):
        annotations.read("v1", v1)


def test_digest_depends_on_every_annotation(downloads):
    found = annotations.read("v2", downloads["v2"])
    first = dataclasses.replace(found.clips["train"][0], caption="another")
    changed = {**found.clips, "train": [first, *found.clips["train"][1:]]}
    assert dataclasses.replace(found, clips=changed).sha256 != found.sha256
