"""Resizing, crops, brightness and views, against Pillow on whole frames and plain arithmetic."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from rstg_jax.data.video import clip_transforms, crops
from rstg_jax.data.video.clip_transforms import ClipConfig
from rstg_jax.errors import UserError
from tests import clip_files


def noise(width, height, seed=0):
    """A picture with edges in every direction; no bicubic filter overshoots 0..255 there."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 196, (height // 4 + 1, width // 4 + 1, 3)).astype(np.uint8)
    fine = coarse.repeat(4, 0).repeat(4, 1)[:height, :width]
    return Image.fromarray(fine)


def test_sizes_by_hand():
    assert crops.resized((320, 240), 256) == (341, 256)
    assert crops.resized((240, 320), 256) == (256, 341)
    assert crops.resized((133, 100), 256) == (340, 256)
    assert crops.resized((427, 240), 256) == (455, 256)
    assert crops.resized((50, 50), 224) == (224, 224)
    assert crops.resized((1000, 10), 20) == (2000, 20)


def test_views_by_hand():
    def corners(size, crop, views):
        return [(box.left, box.top) for box in crops.view_boxes(size, crop, views)]

    assert corners((341, 256), 224, 1) == [(170 - 112, 128 - 112)]
    assert corners((256, 341), 224, 1) == [(16, 58)]
    # The official dense evaluation: linspace(0, 341 - 256, 11), truncated.
    eleven = [0, 8, 17, 25, 34, 42, 51, 59, 68, 76, 85]
    assert corners((341, 256), 256, 11) == [(x, 0) for x in eleven]
    assert corners((256, 341), 256, 11) == [(0, y) for y in eleven]
    assert corners((341, 256), 224, 3) == [(0, 16), (58, 16), (117, 16)]
    assert corners((256, 256), 256, 3) == [(0, 0)] * 3


@pytest.mark.parametrize("size", [(320, 240), (240, 320), (133, 100), (176, 144), (640, 272)])
def test_cut_is_resize_and_crop(size):
    image = noise(*size)
    target = crops.resized(size, 256)
    box = crops.view_boxes(target, 224, 1)[0]
    got = np.asarray(crops.cut(image, target, box, (224, 224))).astype(int)
    whole = np.asarray(image.resize(target, Image.Resampling.BICUBIC)).astype(int)
    wanted = whole[box.top : box.top + 224, box.left : box.left + 224]
    error = np.abs(got - wanted)
    assert error.max() <= 2 and error.mean() < 0.12


def test_cut_without_resizing_copies_pixels():
    image = noise(341, 256)
    got = np.asarray(crops.cut(image, (341, 256), crops.Box(7, 11, 224, 200), (224, 200)))
    np.testing.assert_array_equal(got, np.asarray(image)[11:211, 7:231])


def test_random_crops_reach_every_place():
    places = np.array(
        [
            [box.left, box.top, box.width, box.height]
            for u in np.linspace(0, 0.999, 60)
            for box in [crops.train_box((30, 24), 20, (), np.array([0.5, u, 1 - u - 1e-9]))]
        ]
    )
    assert set(places[:, 0]) == set(range(11)) and set(places[:, 1]) == set(range(5))
    assert (places[:, 2:] == 20).all()


def test_scaled_crops_have_neighbouring_scales():
    # As in TSN: pairs of the scales that are at most one step apart.
    sizes = {
        (box.width, box.height)
        for u in np.linspace(0, 0.999, 200)
        for box in [crops.train_box((300, 200), 160, (1, 0.875, 0.66), np.array([u, 0.9, 0.9]))]
        if box.left + box.width <= 300 and box.top + box.height <= 200
    }
    assert sizes == {(200, 200), (200, 175), (175, 200), (175, 175), (175, 132), (132, 175)} | {
        (132, 132)
    }


@pytest.mark.parametrize("delta", [-0.1, -0.0371, 0.0, 0.05, 0.1])
def test_brightness_as_tensorflow_computes_it(delta):
    table = crops.brightness_table(delta)
    for value in range(256):
        real = np.float32(value) * np.float32(1 / 255) + np.float32(delta)
        wanted = int(min(max(real * np.float32(255.5), 0), 255))
        assert table[value] == table[256 + value] == table[512 + value] == wanted
    if delta == 0:
        assert table == list(range(256)) * 3
    # In plain words: a tenth of the range is 25 or 26 steps.
    assert table[128] - 128 == pytest.approx(255.5 * delta, abs=1)


# ---------------------------------------------------------------- whole clips


def frames_of(count, size=(60, 40)):
    return clip_files.Images([noise(*size, seed=k) for k in range(count)])


def plain_view(images, indices, resize, box):
    """Resizes whole frames and cuts them."""
    target = crops.resized(images[0].size, resize)
    whole = [np.asarray(image.resize(target, Image.Resampling.BICUBIC)) for image in images]
    left, top, side = box
    return np.stack([whole[i][top : top + side, left : left + side] for i in indices])


def close(got, wanted):
    error = np.abs(got.astype(int) - wanted)
    assert got.shape == wanted.shape
    assert error.max() <= 2 and error.mean() < 0.12


def test_centre_crop():
    config = ClipConfig(frames=4, resize=32, crop=24)
    got = clip_transforms.testing_views(frames_of(10), config).pixels
    images = [noise(60, 40, seed=k) for k in range(10)]
    assert got.dtype == np.uint8
    close(got, plain_view(images, [0, 3, 6, 9], 32, (12, 4, 24)))


def test_dense_views_in_the_official_order():
    """Temporal samplings outside, crops inside."""
    config = ClipConfig(
        frames=3, resize=32, crop=24, spatial_views=5, temporal_views=2, view_size=32
    )
    got = clip_transforms.testing_views(frames_of(9), config).pixels
    assert got.shape == (10, 3, 32, 32, 3) == (config.views, 3, 32, 32, 3)
    images = [noise(60, 40, seed=k) for k in range(9)]
    for t, indices in enumerate(([0, 4, 8], [2, 6, 8])):  # shifted by round(9 / 6)
        for s, left in enumerate((0, 4, 8, 12, 16)):
            close(got[5 * t + s], plain_view(images, indices, 32, (left, 0, 32)))


def test_views_of_tsm_are_centres_and_then_starts():
    config = ClipConfig(
        frames=4,
        sampling="segments",
        resize=32,
        crop=24,
        spatial_views=3,
        temporal_views=2,
        view_places="starts",
        view_size=32,
    )
    got = clip_transforms.testing_views(frames_of(8), config).pixels
    images = [noise(60, 40, seed=k) for k in range(8)]
    for t, indices in enumerate(([1, 3, 5, 7], [0, 2, 4, 6])):
        for s, left in enumerate((0, 8, 16)):
            close(got[3 * t + s], plain_view(images, indices, 32, (left, 0, 32)))


def group_over_sample(images, crop):
    """What the class of that name in TSN's and TRN's public code gives, with its quarter steps."""
    pictures = [np.asarray(image) for image in images]
    height, width = pictures[0].shape[:2]
    x, y = (width - crop) // 4, (height - crop) // 4
    views = []
    for left, top in ((0, 0), (4 * x, 0), (0, 4 * y), (4 * x, 4 * y), (2 * x, 2 * y)):
        group = np.stack([p[top : top + crop, left : left + crop] for p in pictures])
        views += [group, np.stack([np.fliplr(picture) for picture in group])]
    return views


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (63, 45), (50, 50)])
def test_crops_of_tsn(size):
    """Ten, as in public code, and the five that are not mirrored; evenly spread ones are others."""
    config = ClipConfig(frames=3, resize=35, crop=24, spatial_views=10, crop_places="corners")
    frames = frames_of(5, size)
    got = clip_transforms.testing_views(frames, config).pixels
    target = crops.resized(size, 35)
    images = [noise(*size, seed=k).resize(target, Image.Resampling.BICUBIC) for k in (0, 2, 4)]
    wanted = group_over_sample(images, 24)
    assert got.shape == (10, 3, 24, 24, 3)
    for one, other in zip(got, wanted, strict=True):
        close(one, other)
    five = dataclasses.replace(config, spatial_views=5)
    np.testing.assert_array_equal(clip_transforms.testing_views(frames, five).pixels, got[::2])
    assert config.mirrored_views == [False, True] * 5 and five.mirrored_views == [False] * 5
    even = dataclasses.replace(config, crop_places="even")
    others = clip_transforms.testing_views(frames, even).pixels.astype(int)
    assert min(np.abs(o - w).mean() for o, w in zip(others, wanted, strict=True)) > 5
    two = dataclasses.replace(config, temporal_views=2)
    mirrored = clip_transforms.testing_views(frames, two).pixels[11::2]
    np.testing.assert_array_equal(
        mirrored, clip_transforms.testing_views(frames, two).pixels[10::2, :, :, ::-1]
    )


def test_portrait_views_go_down():
    config = ClipConfig(frames=1, resize=32, crop=32, spatial_views=2)
    got = clip_transforms.testing_views(frames_of(1, (40, 60)), config).pixels
    close(got[0], plain_view([noise(40, 60)], [0], 32, (0, 0, 32)))
    close(got[1], plain_view([noise(40, 60)], [0], 32, (0, 16, 32)))


def test_training_clip_is_what_the_numbers_say():
    config = ClipConfig(frames=4, resize=32, crop=24, brightness=0.1)
    draws = np.zeros(config.num_draws)
    draws[:5] = 0.3, 0.75, 0.9, 0.5, 0.25  # flip, brightness, scale, x, y
    assert config.num_draws == 9
    got = clip_transforms.training_clip(frames_of(10), config, draws, mirror=False).pixels
    images = [noise(60, 40, seed=k) for k in range(10)]
    left, top = int(0.5 * (48 - 24 + 1)), int(0.25 * (32 - 24 + 1))
    table = np.array(crops.brightness_table(0.05)[:256])
    wanted = table[plain_view(images, [0, 3, 6, 9], 32, (left, top, 24))]
    close(got, wanted)
    mirrored = clip_transforms.training_clip(frames_of(10), config, draws, mirror=True).pixels
    np.testing.assert_array_equal(mirrored, got[:, :, ::-1])


def test_scaled_training_crop_is_stretched():
    config = ClipConfig(frames=1, resize=32, crop=24, crop_scales=(1.0, 0.5), brightness=0)
    draws = np.zeros(config.num_draws)
    draws[2:5] = 0.3, 0.999, 0.0  # the second of (1, 1), (1, 0.5), (0.5, 1), (0.5, 0.5); right, top
    got = clip_transforms.training_clip(frames_of(1), config, draws, mirror=False).pixels
    image = noise(60, 40)
    part = image.resize((24, 24), Image.Resampling.BICUBIC, box=(20, 0, 60, 20))
    np.testing.assert_array_equal(got[0], np.asarray(part))


def test_short_videos_repeat_frames():
    config = ClipConfig(frames=8, resize=32, crop=24, brightness=0, sampling="segments")
    for draws in (np.zeros(config.num_draws), np.full(config.num_draws, 0.99)):
        clip = clip_transforms.training_clip(frames_of(3), config, draws, mirror=False).pixels
        assert len(clip) == 8
        repeated = [int((i + draws[-1]) * 3 / 8) for i in range(8)]
        for a in range(8):
            for b in range(8):
                assert (clip[a] == clip[b]).all() == (repeated[a] == repeated[b])
    one = clip_transforms.testing_views(frames_of(1), config).pixels
    assert (one == one[:1]).all()


def test_frames_of_two_sizes():
    mixed = clip_files.Images([noise(60, 40), noise(40, 60)])
    with pytest.raises(UserError, match="has frames of 60x40 and of 40x60 pixels"):
        clip_transforms.testing_views(mixed, ClipConfig(frames=2, resize=32, crop=24))


def test_frames_that_many_crops_would_make_huge():
    narrow = clip_files.Images([noise(1, 21)])
    with pytest.raises(UserError, match="has frames of 1x21 pixels, too narrow"):
        clip_transforms.testing_views(narrow, ClipConfig(frames=2, resize=32, crop=24))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"frames": 0}, "frames=0 must be at least 1"),
        ({"crop": 300}, "crop=300 is larger than resize=256"),
        ({"view_size": 257}, "view_size=257 is larger"),
        ({"view_size": -1}, "view_size=-1 must be at least 1"),
        ({"crop_scales": (1.0, 1.5)}, "crop_scales="),
        ({"brightness": -0.1}, "brightness=-0.1"),
        ({"temporal_views": 0}, "temporal_views=0"),
        ({"temporal_views": 2, "view_places": "starts"}, "starts needs sampling=segments and"),
        ({"sampling": "segments", "view_places": "starts"}, "view_places=starts needs"),
        ({"crop_places": "corners", "spatial_views": 3}, "corners needs spatial_views=5, or 10"),
    ],
)
def test_impossible_clips(fields, message):
    with pytest.raises(UserError, match=message):
        ClipConfig(**fields)
