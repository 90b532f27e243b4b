"""Videos of one's own: directories, csv files, splits, broken files, the index."""

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import time

import numpy as np
import pytest

from rstg_jax import data, storage
from rstg_jax.config import to_dict
from rstg_jax.data.video import broken_videos, decode, folder, listing
from rstg_jax.errors import UserError
from rstg_jax.training import run, same_run
from rstg_jax.training.experiment import Experiment, TrainConfig
from tests import clip_files, standins, video_corpus

CLIP = data.ClipConfig(frames=4, resize=40, crop=32)


@pytest.fixture(scope="module")
def encoded():
    """Twelve short videos, encoded."""
    options = {"deadline": "realtime", "cpu-used": "8"}
    return [clip_files.film(clip_files.pictures(5 + i, seed=i), **options) for i in range(12)]


@pytest.fixture
def root(tmp_path, encoded):
    """jump/0.webm ... jump/5.webm, run/6.webm ... run/11.webm, and things that are no videos."""
    place = tmp_path / "videos"
    for i, content in enumerate(encoded):
        file = place / ("jump" if i < 6 else "run") / f"{i}.webm"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    (place / "README.txt").write_text("read me")
    (place / "jump" / "notes.txt").write_text("no video")
    (place / "loose.webm").write_bytes(encoded[0])
    (place / ".trash").mkdir()
    (place / ".trash" / "x.webm").write_bytes(encoded[0])
    return place


def config(root, **fields):
    return data.FolderConfig(path=str(root), clip=CLIP, **fields)


def ids(source):
    return source.batch(np.arange(len(source)))["id"].tolist()


def test_split_depends_on_names_alone(root):
    train, test = (config(root).open(split) for split in ("train", "test"))
    names = sorted(f"{'jump' if i < 6 else 'run'}/{i}.webm" for i in range(12))
    wanted = []
    for name in names:  # the first 8 bytes of SHA-256 as a fraction of 2**64
        fraction = int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) / 2**64
        wanted.append(fraction < 0.2)
    assert ids(test) == [name for name, testing in zip(names, wanted, strict=True) if testing]
    assert ids(train) == [name for name, testing in zip(names, wanted, strict=True) if not testing]
    assert 0 < len(test) < 6
    assert train.label_names == test.label_names == ("jump", "run")
    labels = train.batch(np.arange(len(train)))["label"]
    assert [train.label_names[label] for label in labels] == [i.split("/")[0] for i in ids(train)]
    shutil.copy(root / "jump" / "0.webm", root / "jump" / "another.webm")
    again = {name for split in ("train", "test") for name in ids(config(root).open(split))}
    assert again == {*names, "jump/another.webm"}
    assert set(ids(test)) <= set(ids(config(root).open("test")))


def test_videos_are_those_of_the_files(root, encoded):
    source = config(root, test_path=str(root)).open("test")
    batch = source.batch(np.array([3, 0]))
    assert batch["id"].tolist() == ["jump/3.webm", "jump/0.webm"]
    every = clip_files.decode_all(encoded[3])
    with decode.opened(encoded[3]) as frames:
        assert len(every) == len(frames) == 8
    # Official sampling 0, 2, 4, 7 of 8 frames; the centre of 53 x 40 after the resize.
    plain = data.FolderConfig(
        path=str(root), test_path=str(root), clip=data.ClipConfig(4, resize=48, crop=48)
    )
    got = plain.open("test").batch(np.array([3]))["video"][0]
    for frame, index in zip(got, (0, 2, 4, 7), strict=True):
        np.testing.assert_array_equal(frame, every[index][:, 32 - 24 : 32 + 24])


def test_csv_files(root, tmp_path):
    train, test = tmp_path / "train.csv", root / "test.csv"
    train.write_text(
        "videos/jump/0.webm;hop, or jump\nvideos/run/6.webm;run\n\nvideos/run/7.webm; run"
    )
    test.write_text(f"jump/1.webm;hop, or jump\n{root}/run/8.webm;run\n")
    settings = data.FolderConfig(path=str(train), test_path=str(test), clip=CLIP)
    assert settings.num_classes == 2
    sources = {split: settings.open(split) for split in ("train", "test")}
    assert sources["train"].label_names == ("hop, or jump", "run")
    assert ids(sources["train"]) == ["videos/jump/0.webm", "videos/run/6.webm", "videos/run/7.webm"]
    assert sorted(ids(sources["test"])) == sorted(["jump/1.webm", f"{root}/run/8.webm"])
    assert sources["train"].batch(np.arange(3))["label"].tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.webm;x\nb.webm\n", r"all\.csv: line 2 is not `path;label`: 'b\.webm'"),
        ("a.webm;x;y\n", r"line 1 is not `path;label`"),
        ("a.webm; \n", r"line 1 is not `path;label`"),
        ("a.webm;x\na.webm;y\n", r"line 2 names a\.webm a second time, after a\.webm in line 1"),
        ("\n", r"all\.csv: holds no video; expected are lines of `path;label`"),
        ("a.webm;x\nb.webm;x\n", r"has one label only, 'x'; two are needed"),
    ],
)
def test_csv_files_that_are_wrong(tmp_path, text, message):
    (tmp_path / "all.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        data.FolderConfig(path=str(tmp_path / "all.csv")).open("train")


def test_where_nothing_is(root, tmp_path):
    with pytest.raises(UserError, match=r"set path to a directory of videos or a csv file"):
        data.FolderConfig().open("train")
    with pytest.raises(UserError, match="none: no such directory or csv file"):
        config(tmp_path / "none").open("train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        UserError, match=r"empty: holds no video; expected are sub-directories, one"
    ):
        config(tmp_path / "empty").open("train")
    other = tmp_path / "other"
    shutil.copytree(root / "jump", other / "swim")
    with pytest.raises(UserError, match=r"other: label 'swim' is not in .*videos"):
        config(root, test_path=str(other)).open("test")
    with pytest.raises(UserError, match=r"test_share=0 must be between 0 and 1"):
        data.FolderConfig(test_share=0)
    with pytest.raises(UserError, match=r"0\.webm: is no directory with one sub-directory per l"):
        config(root / "jump" / "0.webm").open("train")
    with pytest.raises(UserError, match=r"extensions: 'mp4' does not begin with a dot"):
        data.FolderConfig(extensions=(".gif", "mp4"))
    with pytest.raises(UserError, match=r"max_broken=1 "):
        data.FolderConfig(max_broken=1)


def test_a_list_without_any_readable_video_says_how_paths_are_read(tmp_path):
    """It was told to raise max_broken above 1, which is refused."""
    (tmp_path / "list.csv").write_text("x.mp4;wave\ny.mp4;jump\n")
    with pytest.raises(UserError, match=r"none is left\. Paths in a csv file are relative to it$"):
        config(tmp_path / "list.csv", test_path=str(tmp_path / "list.csv")).open("train")


def test_mistakes_are_found_before_videos_are_decoded(root, tmp_path, caplog):
    (root / "all.csv").write_text("jump/0.webm;jump\nrun/77.webm;run\n")
    with pytest.raises(UserError, match=r"1 of 2 videos cannot be used \(run/77\.webm: no such"):
        config(root, test_path=str(root / "all.csv")).check_lists()
    with pytest.raises(UserError, match=r"none: no such directory or csv file"):
        config(root, test_path=str(tmp_path / "none")).check_lists()
    with pytest.raises(UserError, match=r"no video is left for the test split; change test_share"):
        config(root, test_share=1e-9).check_lists()
    config(root).check_lists()
    assert not caplog.messages
    (root / "all.csv").write_text("jump/0.webm;jump\n")
    config(root, test_path=str(root / "all.csv")).check_lists()
    assert caplog.messages[-1].startswith("1 of 1 videos to test on are also trained on")
    assert not (root / ".rstg_jax_index.json").exists()


def test_labels_that_differ_in_capitals_are_named_once(root, caplog):
    for name in ("Jump", "RUN", "swim"):
        shutil.copytree(root / "jump", root / name)
    for _ in range(2):
        assert len(folder.labels(config(root))) == 5
    (said,) = [line for line in caplog.messages if "capitals" in line]
    assert said.endswith("capitals only are different ones: 'Jump' and 'jump', 'RUN' and 'run'")


def test_broken_videos_are_named_and_counted(root, caplog):
    (root / "jump" / "2.webm").write_bytes(b"no film")
    film = (root / "run" / "9.webm").read_bytes()
    (root / "run" / "9.webm").write_bytes(film[: len(film) // 10])
    (root / "run" / "10.webm").unlink()
    (root / "run" / "10.webm").symlink_to(root / "nowhere.webm")
    whole = config(root, test_path=str(root))
    with pytest.raises(UserError) as error:
        whole.open("train")
    message = str(error.value)
    # The link that leads nowhere is no file of the directory.
    assert message.startswith(f"{root}: 2 of 11 videos cannot be used (jump/2.webm: cannot be read")
    assert "run/9.webm: " in message
    assert "raise max_broken=0.001 above 0.18" in message
    with caplog.at_level(logging.WARNING, "rstg_jax"):
        some = config(root, test_path=str(root), max_broken=0.2).open("train")
    assert "2 of 11 videos cannot be used (jump/2.webm" in caplog.text
    assert len(some) == 9 and some.provenance["broken"] == 2
    assert not {"jump/2.webm", "run/9.webm"} & set(ids(some))


def test_damage_after_the_first_frame_is_found_before_training(root):
    content = video_corpus.make(video_corpus.KINDS["h264, mp4"])
    start, end = video_corpus.places(content)[10:12]
    (root / "run" / "6.mp4").write_bytes(content)
    assert len(config(root, test_path=str(root)).open("train")) == 13
    (root / "run" / "6.mp4").write_bytes(content[:start] + bytes(end - start) + content[end:])
    with pytest.raises(UserError, match=r"\(run/6.mp4: is damaged after frame 7: Invalid data"):
        config(root, test_path=str(root)).open("train")
    kept = config(root, test_path=str(root), max_broken=0.1).open("train")
    assert len(kept) == 12


def test_a_run_resumes_with_another_limit_as_long_as_the_same_videos_are_used():
    def experiment(max_broken):
        settings = data.FolderConfig(path="videos", max_broken=max_broken)
        return Experiment("x", TrainConfig(total_steps=1), data=settings)

    there = {"config": to_dict(experiment(0.1)), "data": {"train": {"files_sha256": "a"}}}
    same_run.check(experiment(0.2), {"train": {"files_sha256": "a"}}, there, "run")
    with pytest.raises(UserError, match="files_sha256"):
        same_run.check(experiment(0.2), {"train": {"files_sha256": "b"}}, there, "run")


@pytest.mark.parametrize("key", ["workers", "processes"])
def test_numbers_of_workers(key):
    with pytest.raises(UserError, match=f"{key}=-1 cannot be negative"):
        data.FolderConfig(**{key: -1})


def test_a_run_says_that_videos_were_added():
    settings = data.FolderConfig(path="videos")
    experiment = Experiment("x", TrainConfig(total_steps=1), data=settings)
    before, now = ({"train": {"files_sha256": s, "examples": n}} for s, n in (("a", 12), ("b", 13)))
    there = {"config": to_dict(experiment), "data": before}
    with pytest.raises(UserError) as error:
        same_run.check(experiment, now, there, "run")
    said = str(error.value)
    assert said.startswith("run holds a checkpoint of other data (there != here): the set of train")
    assert "12 before and 13 now (train.files" in said and said.endswith(
        "weights: --config.train.init_from=run"
    )


def test_missing_files_of_a_csv_are_broken(root):
    (root / "all.csv").write_text("jump/0.webm;jump\nrun/77.webm;run\n")
    with pytest.raises(
        UserError, match=r"1 of 2 videos cannot be used \(run/77.webm: no such file\)"
    ):
        config(root / "all.csv", test_path=str(root)).open("train")


def test_only_new_files_are_opened(root, monkeypatch):
    opened = []
    real = broken_videos._check
    monkeypatch.setattr(broken_videos, "_check", lambda v: (opened.append(v.name), real(v))[1])
    settings = config(root, test_path=str(root))
    settings.open("train")
    assert len(opened) == 12
    settings.open("test")
    assert len(opened) == 12
    shutil.copy(root / "jump" / "0.webm", root / "run" / "6.webm")
    os.utime(root / "run" / "6.webm", (1, 1))
    settings.open("train")
    assert opened[12:] == ["run/6.webm"]
    index = root / ".rstg_jax_index.json"
    assert len(json.loads(index.read_text())) == 12
    index.write_text("damage")
    settings.open("train")
    assert len(opened) == 25


def test_a_readable_segment_says_nothing_about_the_rest(tmp_path, monkeypatch):
    checked = []
    monkeypatch.setattr(broken_videos, "_check", lambda video: checked.append(video.frames) or "")
    (tmp_path / "a.mp4").write_bytes(b"any")
    for frames in (range(5), range(5), range(9), None):
        video = listing.Video(tmp_path / "a.mp4", "a", ("label",), frames)
        broken_videos.without_broken([video], str(tmp_path), 0.0)
    assert checked == [range(5), range(9), None]


def test_failures_are_tried_again(root, monkeypatch):
    """The file itself does not change when its permissions do, or the code that reads it."""
    real = broken_videos._check
    monkeypatch.setattr(
        broken_videos,
        "_check",
        lambda v: "Permission denied" if v.name == "run/9.webm" else real(v),
    )
    settings = config(root, test_path=str(root))
    with pytest.raises(UserError, match=r"1 of 12 videos cannot be used \(run/9\.webm: Permission"):
        settings.open("train")
    monkeypatch.setattr(broken_videos, "_check", real)
    assert len(settings.open("train")) == 12


@pytest.mark.parametrize("killed", [False, True])
def test_an_interrupted_check_goes_on_where_it_was(killed, tmp_path, monkeypatch):
    """Killed: at once, so that only what was written on the way is left."""
    names = [str(number) for number in range(100)]
    videos = [listing.Video(tmp_path / name, name, ("label",)) for name in names]
    for video in videos:
        video.path.touch()
    checked = []

    def check(video):
        checked.append(video.name)
        if video.name == "5":
            raise KeyboardInterrupt
        if int(video.name) > 5:
            time.sleep(0.05)  # so that the interrupt comes before they are all checked
        return ""

    monkeypatch.setattr(broken_videos, "num_cores", lambda: 1)
    monkeypatch.setattr(broken_videos, "_check", check)
    if killed:
        written = []
        monkeypatch.setattr(broken_videos, "_SAVE_SECONDS", 0)
        monkeypatch.setattr(broken_videos.files, "write_json", lambda _, x: written.append(len(x)))
    with pytest.raises(KeyboardInterrupt):
        broken_videos.without_broken(videos, str(tmp_path), 0.0)
    if killed:
        assert written == [1, 2, 3, 4, 5, 5]
        return
    before = set(checked)
    assert len(before) < 100  # the others were not waited for
    checked.clear()
    monkeypatch.setattr(broken_videos, "_check", lambda video: checked.append(video.name) or "")
    assert broken_videos.without_broken(videos, str(tmp_path), 0.0) == videos
    assert checked == names[5:]


def test_index_moves_with_the_videos(root, monkeypatch):
    config(root, test_path=str(root)).open("train")
    moved = root.rename(root.with_name("moved"))
    monkeypatch.setattr(broken_videos, "_check", None)
    assert len(config(moved, test_path=str(moved)).open("train")) == 12


def test_index_of_an_earlier_version_is_made_anew(root):
    index = root / ".rstg_jax_index.json"
    index.write_text(json.dumps({str(root / "run" / "9.webm"): ["1 2", "Permission denied"]}))
    assert len(config(root, test_path=str(root)).open("train")) == 12
    assert len(json.loads(index.read_text())) == 12
    index.write_text("[" * 100_000)
    assert len(config(root, test_path=str(root)).open("train")) == 12


def test_every_label_is_trained_on(root, encoded, caplog):
    """By their names all videos of `swim` and `hop` would be for testing."""
    for name in ("swim/1.webm", "swim/14.webm", "hop/7.webm"):
        assert folder._fraction(name) < 0.2
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(encoded[0])
    with caplog.at_level(logging.INFO, "rstg_jax"):
        train, test = (config(root).open(split) for split in ("train", "test"))
    trained, tested = ids(train), ids(test)
    kept = max(("swim/1.webm", "swim/14.webm"), key=folder._fraction)
    assert {kept, "hop/7.webm"} <= set(trained)
    assert not set(trained) & set(tested) and len(trained) + len(tested) == 15
    assert {i for i in trained if "swim" in i} == {kept}
    assert f"swim: no name falls into the training split; {kept} is put there" in caplog.text
    assert f"{root}: the test split has no video of hop" in caplog.text
    assert "train split has no" not in caplog.text


def test_files_that_are_not_taken_are_counted_once(root, caplog):
    (root / "run" / "b.txt").touch()
    (root / "run" / "frame.JPG").touch()
    for split in ("train", "test"):
        config(root).open(split)
    (said,) = [line for line in caplog.messages if "not used" in line]
    kinds = "2 .txt, 1 .jpg, 1 .txt directly in it, 1 .webm directly in it"
    assert said.startswith(f"{root}: files that are not used: {kinds}. Videos have one of data.ext")


def test_directory_that_cannot_be_written(root, monkeypatch, caplog):
    def refuse(self, *args):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(broken_videos.Path, "write_bytes", refuse)
    with caplog.at_level(logging.WARNING, "rstg_jax"):
        assert len(config(root, test_path=str(root)).open("train")) == 12
    assert "the videos are opened anew each time" in caplog.text


def test_results_record_which_files(root):
    first = config(root).open("train").provenance
    assert first["files_sha256"] == config(root).open("train").provenance["files_sha256"]
    (root / "run" / "6.webm").rename(root / "jump" / "6.webm")
    other = config(root).open("train").provenance
    assert other["files_sha256"] != first["files_sha256"]


def test_real_videos_of_every_size(tmp_path):
    """1280x720 at 25 fps, 640x272, 176x144; nobody here made them."""
    for name in clip_files.REAL:
        place = tmp_path / name.split("_")[0] / f"{name}.mp4"
        place.parent.mkdir(exist_ok=True)
        shutil.copy(clip_files.real(name), place)
    settings = data.FolderConfig(
        path=str(tmp_path),
        test_path=str(tmp_path),
        clip=data.ClipConfig(frames=5, resize=72, crop=64, spatial_views=2, view_size=72),
    )
    test = settings.open("test")
    assert test.label_names == ("bigbuckbunny", "bikes", "carphone")
    batch = test.batch(np.arange(4))
    assert batch["video"].shape == (4, 2, 5, 72, 72, 3)
    assert batch["label"].tolist() == [0, 1, 2, 2]
    # Against a full decode and a resize of whole frames.
    for row, name in enumerate(clip_files.REAL):
        every = clip_files.decode_all(clip_files.real(name))
        frame = every[(len(every) - 1) // 2]
        height, width = frame.shape[:2]
        whole = decode.Image.fromarray(frame).resize(
            (72 * width // height, 72), decode.Image.Resampling.BICUBIC
        )
        error = np.abs(np.asarray(whole)[:, :72].astype(int) - batch["video"][row, 0, 2])
        assert error.max() <= 3 and error.mean() < 0.1, name
    trained = next(data.train_batches(settings.open("train"), batch_size=4, seed=0))
    assert trained["video"].shape == (4, 5, 64, 64, 3) and trained["video"].std() > 20


def test_a_start_lists_the_directory_once(root, monkeypatch, tmp_path):
    """Labels, both splits and the checks of both read the same list; afterwards it is forgotten."""
    standins.install(monkeypatch)
    listings = []

    def counted(path, extensions, original=listing._of_directory):
        listings.append(path)
        return original(path, extensions)

    monkeypatch.setattr(listing, "_of_directory", counted)
    experiment = dataclasses.replace(standins.experiment(), data=config(root))
    for number in (1, 2):
        if number == 2:
            shutil.copy(root / "run" / "6.webm", root / "run" / "new.webm")
        started = run.set_up(experiment, storage.path(tmp_path / "run"))
        started.checkpoints.close()
        assert listings == [root] * number
        assert len(started.train_source) + len(started.test_source) == 11 + number


def test_a_start_lists_each_of_two_directories_once(root, monkeypatch, tmp_path):
    shutil.copytree(root, tmp_path / "other")
    listings = []

    def counted(path, extensions, original=listing._of_directory):
        listings.append(path.name)
        return original(path, extensions)

    monkeypatch.setattr(listing, "_of_directory", counted)
    two = config(root, test_path=str(tmp_path / "other"))
    with data.read_once():
        two.check_lists()
        assert two.num_classes == 2
        assert [len(two.open(split)) for split in ("train", "test")] == [12, 12]
    assert listings == ["videos", "other"]
