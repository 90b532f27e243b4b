"""Batches of clips: pure functions of (source, seed, step), labels of mirrored clips, damage."""

import dataclasses

import numpy as np
import pytest

from rstg_jax import data
from rstg_jax.data import batches
from rstg_jax.data.video import clip_transforms, decode
from rstg_jax.data.video.clip_source import Clip, ClipSource
from rstg_jax.errors import UserError
from tests import clip_files

CONFIG = data.ClipConfig(
    frames=4, sampling="segments", resize=32, crop=24, crop_scales=(1.0, 0.75), flip=True
)
NAMES = ("moving left", "moving right", "staying", "left out")
COUNT = 11


class Memory:
    """Videos of 5 to 15 frames in memory; video i has label i % 4."""

    def __init__(self, *damaged: int):
        self.clips = []
        for i in range(COUNT):
            images = clip_files.pictures(5 + i, 48, 36, seed=i)
            encoded = tuple(clip_files.jpeg(image) for image in images)
            if i in damaged:
                encoded = (encoded[0][:-300],) * len(encoded)
            self.clips.append(Clip(f"n{i}", f"shelf {i}", i % 4, encoded))

    def __len__(self):
        return COUNT

    def load(self, indices):
        return [self.clips[i] for i in indices]


def source(config=CONFIG, workers=0, split=None, broken="stop", processes=0):
    return ClipSource(
        split or Memory(),
        config,
        name="memory",
        label_names=NAMES,
        provenance={},
        workers=workers,
        processes=processes,
        broken=broken,
    )


def take(iterator, n):
    try:
        return [next(iterator) for _ in range(n)]
    finally:
        iterator.close()


def equal(a, b):
    assert a.keys() == b.keys()
    for key, value in a.items():
        np.testing.assert_array_equal(value, b[key], err_msg=key)


def test_training_resumes_exactly_whatever_the_number_of_threads():
    whole = take(data.train_batches(source(), batch_size=4, seed=9), 6)
    assert whole[0]["video"].shape == (4, 4, 24, 24, 3)
    for workers in (0, 1, 3, None):
        resumed = data.train_batches(source(workers=workers), batch_size=4, seed=9, start_step=2)
        for a, b in zip(whole[2:], take(resumed, 4), strict=True):
            equal(a, b)
    parts = [
        take(
            data.train_batches(
                source(), batch_size=4, seed=9, start_step=2, process_index=i, process_count=2
            ),
            4,
        )
        for i in range(2)
    ]
    for k, batch in enumerate(whole[2:]):
        equal(batch, {key: np.concatenate([part[k][key] for part in parts]) for key in batch})
    other = take(data.train_batches(source(), batch_size=4, seed=10), 1)[0]
    assert (other["video"] != whole[0]["video"]).any()


def test_each_epoch_varies_each_video_anew():
    made = take(data.train_batches(source(), batch_size=COUNT, seed=0), 3)
    for epoch in made:
        assert sorted(epoch["id"]) == sorted(f"n{i}" for i in range(COUNT))
    for i in range(COUNT):
        versions = [b["video"][list(b["id"]).index(f"n{i}")].tobytes() for b in made]
        assert len(set(versions)) == 3


def test_random_words():
    positions = np.array([0, 1, 2, 10**12])
    bits = batches.random_bits(positions, 5, 37)
    assert bits.shape == (4, 37) and bits.dtype == np.uint64
    assert len(set(bits.ravel().tolist())) == 4 * 37  # no two positions share a word
    np.testing.assert_array_equal(batches.random_bits(positions[2:], 5, 37), bits[2:])
    np.testing.assert_array_equal(batches.random_bits(positions, 5, 8), bits[:, :8])
    assert (batches.random_bits(positions, 6, 37) != bits).all()
    # Whoever changes this changes every training run that is resumed.
    assert bits[2, :2].tolist() == [14930193420938521911, 615654196419139105]
    shuffle = np.random.Philox(key=np.array([5, 0], np.uint64)).random_raw(100)
    assert not set(shuffle.tolist()) & set(bits.ravel().tolist())
    many = batches.random_bits(np.arange(2000), 1, 10) / 2.0**64
    assert abs(many.mean(0) - 0.5).max() < 0.03
    assert abs(np.corrcoef(many.T) - np.eye(10)).max() < 0.1


def test_clips_are_what_the_words_say():
    """The batch against one video at a time."""
    indices, bits = np.array([7, 2, 7]), batches.random_bits(np.arange(3), 3, CONFIG.num_draws)
    got = source().augmented(indices, bits)
    for row, (index, word) in enumerate(zip(indices, bits, strict=True)):
        draws = np.array([int(w) // 2**11 / 2**53 for w in word])
        clip = Memory().clips[index]
        mirror = draws[0] < 0.5 and NAMES[clip.label] != "left out"
        with decode.opened(clip.encoded) as frames:
            wanted = clip_transforms.training_clip(frames, CONFIG, draws, mirror=mirror).pixels
        np.testing.assert_array_equal(got["video"][row], wanted)
    assert (got["video"][0] != got["video"][2]).any()


def test_mirrored_clips_get_the_other_label():
    mirror, plain = np.zeros((2, COUNT, CONFIG.num_draws), np.uint64)
    plain[:, 0] = 2**63
    indices = np.arange(COUNT)
    as_they_are, mirrored = (source().augmented(indices, bits) for bits in (plain, mirror))
    for i in range(COUNT):
        name = NAMES[i % 4]
        a, b = as_they_are["video"][i], mirrored["video"][i]
        assert NAMES[as_they_are["label"][i]] == name
        if name == "left out":  # no "right out" to call its mirror image
            assert NAMES[mirrored["label"][i]] == name
            np.testing.assert_array_equal(a, b)
        else:
            swapped = {"moving left": "moving right", "moving right": "moving left"}
            assert NAMES[mirrored["label"][i]] == swapped.get(name, name)
            np.testing.assert_array_equal(a, b[:, :, ::-1])
            assert (a != b).any()
    never = source(dataclasses.replace(CONFIG, flip=False)).augmented(indices, mirror)
    equal(never, as_they_are)


def test_half_of_the_clips_are_mirrored():
    made = take(data.train_batches(source(), batch_size=COUNT, seed=4), 40)
    changed = [
        NAMES[label] != NAMES[int(name[1:]) % 4]
        for batch in made
        for name, label in zip(batch["id"], batch["label"], strict=True)
        if int(name[1:]) % 4 < 2
    ]
    assert 0.4 < np.mean(changed) < 0.6


def test_testing_varies_nothing():
    first = source().batch(np.array([3, 5]))
    equal(first, source(workers=2).batch(np.array([3, 5])))
    assert first["label"].tolist() == [3, 1] and first["id"].tolist() == ["n3", "n5"]
    with decode.opened(Memory().clips[5].encoded) as frames:
        np.testing.assert_array_equal(
            first["video"][1], clip_transforms.testing_views(frames, CONFIG).pixels
        )
    seen = list(data.eval_batches(source(), batch_size=4))
    assert np.concatenate([b["id"] for b in seen]).tolist() == [
        *(f"n{i}" for i in range(COUNT)),
        f"n{COUNT - 1}",
    ]


def test_views_add_an_axis_in_testing_only():
    config = dataclasses.replace(CONFIG, spatial_views=3, temporal_views=2, view_size=32)
    made = source(config)
    assert made.batch(np.array([0, 1]))["video"].shape == (2, 6, 4, 32, 32, 3)
    training = take(data.train_batches(made, batch_size=2, seed=0), 1)[0]
    assert training["video"].shape[1:] == config.clip_shape == (4, 24, 24, 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_video_is_named(workers):
    broken = source(workers=workers, split=Memory(6))
    message = r"memory: clip n6 \(shelf 6\): frame \d of 11 is damaged: image file is truncated"
    with pytest.raises(UserError, match=message):
        take(data.train_batches(broken, batch_size=COUNT, seed=0), 1)
    with pytest.raises(UserError, match=message):
        list(data.eval_batches(broken, batch_size=4))
    assert len(broken.batch(np.array([5, 7]))["video"]) == 2


@pytest.mark.parametrize("workers", [0, 3])
def test_the_next_whole_video_takes_the_place_of_a_damaged_one(workers, caplog):
    replacing = source(workers=workers, split=Memory(5, 6, COUNT - 1), broken="replace")
    bits = batches.random_bits(np.arange(4), 3, CONFIG.num_draws)
    made = replacing.augmented(np.array([2, 5, 6, COUNT - 1]), bits)
    assert made["id"].tolist() == ["n2", "n7", "n7", "n0"]
    equal(made, source().augmented(np.array([2, 7, 7, 0]), bits))
    assert replacing.replaced == {"n5", "n6", f"n{COUNT - 1}"}
    equal(made, replacing.augmented(np.array([2, 5, 6, COUNT - 1]), bits))
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 3  # one for each video
    assert any(
        "clip n6 (shelf 6)" in text and "another takes its place" in text for text in warnings
    )
    # Testing replaces nothing.
    with pytest.raises(UserError, match="clip n6"):
        replacing.batch(np.array([6]))
    nothing = source(split=Memory(*range(COUNT)), broken="replace")
    with pytest.raises(UserError, match="memory: no clip can be decoded"):
        nothing.augmented(np.array([1]), bits[:1])


def test_unknown_labels():
    unlabelled = Memory()
    unlabelled.clips[2] = unlabelled.clips[2]._replace(label=-1)
    with pytest.raises(UserError, match="example 2 has label -1"):
        list(data.eval_batches(source(split=unlabelled), batch_size=4))
    allowed = ClipSource(
        unlabelled, CONFIG, name="m", label_names=NAMES, provenance={}, labelled=False
    )
    labels = np.concatenate([b["label"] for b in data.eval_batches(allowed, batch_size=COUNT)])
    assert labels.tolist() == [0, 1, -1, 3, 0, 1, 2, 3, 0, 1, 2]


def test_only_sources_of_clips_vary():
    assert isinstance(source(), data.AugmentedSource)
    online = data.SyncMNISTConfig(test_source="online", num_test=5)
    assert not isinstance(online.open("test"), data.AugmentedSource)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_batches_do_not_depend_on_the_number_of_processes(processes):
    here, others = source(), source(processes=processes)
    for read in (data.train_batches, data.eval_batches):
        settings = {"seed": 9, "start_step": 2} if read is data.train_batches else {}
        wanted = take(read(here, batch_size=4, **settings), 3)
        for a, b in zip(wanted, take(read(others, batch_size=4, **settings), 3), strict=True):
            equal(a, b)
