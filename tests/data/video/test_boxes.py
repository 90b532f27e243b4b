"""Boxes follow the pixels: a rectangle is drawn, and found again in the clips that are made."""

import json
import re

import numpy as np
import pytest

from rstg_jax import data
from rstg_jax.data import batches
from rstg_jax.data.video import boxes as boxes_lib
from rstg_jax.data.video import clip_transforms, decode
from rstg_jax.data.video.boxes import BoxesConfig, BoxesError
from rstg_jax.data.video.clip_source import Clip, ClipSource
from rstg_jax.data.video.clip_transforms import ClipConfig
from rstg_jax.errors import UserError

LENGTH, HEIGHT, WIDTH = 12, 64, 96
CONFIG = ClipConfig(
    frames=5,
    sampling="segments",
    resize=48,
    crop=40,
    crop_scales=(1.0, 0.875, 0.75, 0.66),
    flip=True,
)
PIXEL = 1.0  # of a clip; the edge of the rectangle is found to half a pixel


def corners(frame):
    """x0 y0 x1 y1 of the rectangle: it moves to the right and down."""
    x, y = 3 + 6 * frame, 2 + 3 * frame
    return [x, y, x + 22, y + 18]


def drawn():
    video = np.full((LENGTH, HEIGHT, WIDTH, 3), 30, np.uint8)
    for frame in range(LENGTH):
        x0, y0, x1, y1 = corners(frame)
        video[frame, y0:y1, x0:x1] = 220
    return video


def written(path, content):
    path.write_text(json.dumps(content))
    return str(path)


@pytest.fixture
def best(tmp_path):
    """The rectangle's boxes alone."""
    frames = {str(frame): [corners(frame)] for frame in range(LENGTH)}
    return written(tmp_path / "best.json", {"video": frames})


@pytest.fixture
def plain(tmp_path):
    """The rectangle's boxes behind one of a low score."""
    frames = {
        str(frame): [[40, 20, 60, 40, 0.1], [*corners(frame), 0.9]]
        for frame in reversed(range(LENGTH))
    }
    return written(tmp_path / "boxes.json", {"other": {}, "video": frames})


def found(frame):
    """y0 x0 y1 x1 of the bright pixels of a frame `[h w 3]`; zeros if there are none."""
    bright = frame[..., 0] > 125
    if not bright.any():
        return np.zeros(4)
    y, x = (np.flatnonzero(bright.any(axis=axis)) for axis in (1, 0))
    return np.array([y[0], x[0], y[-1] + 1, x[-1] + 1])


def deviation(clip, boxes):
    """Of boxes `[t 4]` from the rectangles of a clip, in pixels.

    Where a border leaves two pixels of one of them, it is enough that the other is as narrow.
    """
    worst = 0.0
    for frame, box in zip(clip, boxes * clip.shape[1], strict=True):
        seen = found(frame)
        widths = sorted((end - start).min() for start, end in ((b[:2], b[2:]) for b in (seen, box)))
        if widths[0] >= 2:
            worst = max(worst, np.abs(seen - box).max())
        elif widths[1] > 3:
            worst = max(worst, widths[1])
    return worst


def test_boxes_follow_the_pixels_in_training(best):
    """In 60 clips, half of them mirrored; another place, time or handedness is noticed."""
    boxes = BoxesConfig(1, best).read()
    frames = decode.ArrayFrames(drawn())
    bits = batches.random_bits(np.arange(60), 0, CONFIG.num_draws)
    draws = (bits >> np.uint64(11)) * 2.0**-53
    wrong = {"mirrored": 0.0, "frames": 0.0, "part": 0.0}
    cut_off = 0
    for draw in draws:
        mirror = CONFIG.mirrors(draw)
        pixels, (place,) = clip_transforms.training_clip(frames, CONFIG, draw, mirror=mirror)
        beside = boxes.beside("video", place)[:, 0]
        assert deviation(pixels, beside) <= PIXEL
        cut_off += np.sum((beside == 0) | (beside == 1))
        others = {
            "mirrored": not mirror,
            "frames": np.minimum(place.frames + 1, LENGTH - 1),
            "part": (0.0, 0.0, WIDTH, HEIGHT),
        }
        for key, value in others.items():
            other = boxes.beside("video", place._replace(**{key: value}))[:, 0]
            wrong[key] = max(wrong[key], deviation(pixels, other))
    assert min(wrong.values()) > 3 * PIXEL, wrong
    assert cut_off > 20


@pytest.mark.parametrize(("crop_places", "crops"), [("even", 3), ("corners", 10)])
@pytest.mark.parametrize("is_tall", [False, True])
def test_boxes_follow_the_pixels_in_testing(is_tall, crop_places, crops, tmp_path):
    """In every view of a wide and of a tall video."""
    video, order = drawn(), (0, 1, 2, 3)
    if is_tall:
        video, order = video.swapaxes(1, 2), (1, 0, 3, 2)
    frames = {str(frame): [[corners(frame)[i] for i in order]] for frame in range(LENGTH)}
    boxes = BoxesConfig(1, written(tmp_path / "boxes.json", {"video": frames})).read()
    config = ClipConfig(
        frames=4,
        sampling="stride",
        stride=2,
        resize=48,
        crop=40,
        spatial_views=crops,
        crop_places=crop_places,
        temporal_views=2,
    )
    pixels, places = clip_transforms.testing_views(decode.ArrayFrames(video), config)
    assert len(pixels) == len(places) == config.views == 2 * crops
    beside = [boxes.beside("video", place)[:, 0] for place in places]
    for view in range(6):
        assert deviation(pixels[view], beside[view]) <= PIXEL
    assert deviation(pixels[2], beside[0]) > 3 * PIXEL
    assert deviation(pixels[3], beside[0]) > 3 * PIXEL


class OneVideo:
    """A split of one video, twice."""

    def __init__(self, path, name="video"):
        self.clips = [Clip(name, "here", 0, path)] * 2

    def __len__(self):
        return 2

    def load(self, indices):
        return [self.clips[index] for index in indices]


def source(tmp_path, config, clip=CONFIG, name="video", **settings):
    np.save(tmp_path / "video.npy", drawn())
    return ClipSource(
        OneVideo(tmp_path / "video.npy", name),
        clip,
        name="test split",
        label_names=["a"],
        provenance={},
        boxes=config.read(),
        **settings,
    )


def test_batches_carry_them(tmp_path, plain, best):
    """Beside the pixels of each row, the best ones first, then boxes without area."""
    made = source(tmp_path, BoxesConfig(3, plain))
    assert re.fullmatch("[0-9a-f]{16}", made.provenance["boxes_sha256"])
    order = {"batch_size": 2, "seed": 3, "prefetch": 0}
    batch = next(data.train_batches(made, **order))
    assert batch["boxes"].shape == (2, 5, 3, 4) and batch["boxes"].dtype == np.float32
    assert not batch["boxes"][:, :, 2].any()
    only = next(data.train_batches(source(tmp_path, BoxesConfig(1, best)), **order))
    np.testing.assert_array_equal(only["video"], batch["video"])
    for clip, boxes in zip(batch["video"], only["boxes"], strict=True):
        assert deviation(clip, boxes[:, 0]) <= PIXEL
    is_seen = only["boxes"][:, :, 0].any(-1)
    np.testing.assert_array_equal(batch["boxes"][is_seen][:, 0], only["boxes"][is_seen][:, 0])
    assert is_seen.any() and batch["boxes"][:, :, 1].any()
    tested = source(tmp_path, BoxesConfig(2, plain), ClipConfig(frames=4, resize=48, crop=48))
    batch = next(data.eval_batches(tested, batch_size=2, prefetch=0))
    assert batch["boxes"].shape == (2, 4, 2, 4)
    assert deviation(batch["video"][0], batch["boxes"][0, :, 0]) <= PIXEL
    views = ClipConfig(frames=4, resize=48, crop=40, spatial_views=3)
    viewed = source(tmp_path, BoxesConfig(2, plain), views).batch(np.array([0, 1]))
    assert viewed["boxes"].shape == (2, 3, 4, 2, 4) and viewed["video"].shape[:3] == (2, 3, 4)
    assert "boxes" not in source(tmp_path, BoxesConfig()).batch(np.array([0]))


def test_something_else(tmp_path, plain):
    """The same boxes in the layout of its annotations, in two files of a directory."""
    entries = [
        {
            "gt_placeholders": ["pillow"],
            "labels": [
                {"box2d": dict(zip(("x1", "y1", "x2", "y2"), corners(frame), strict=True))}
                | {"category": "pillow"}
            ],
            "name": f"video/{frame + 1:04}.jpg",
            "nr_instances": 1,
        }
        for frame in range(LENGTH)
    ]
    parts = tmp_path / "parts"
    parts.mkdir()
    written(parts / "part1.json", {"2": []})
    written(parts / "part2.json", {"video": entries})
    (parts / "._part2.json").write_bytes(b"\xff of macOS")
    place = clip_transforms.Place(
        np.arange(LENGTH), LENGTH, (0.0, 0.0, WIDTH, HEIGHT), (WIDTH, HEIGHT)
    )
    wanted = BoxesConfig(1, plain).read().beside("video", place)
    got = BoxesConfig(1, str(parts)).read()
    np.testing.assert_array_equal(got.beside("video", place), wanted)
    assert not got.beside("2", place).any()
    by_hand = np.array(corners(3))[[1, 0, 3, 2]] / [HEIGHT, WIDTH, HEIGHT, WIDTH]
    np.testing.assert_allclose(wanted[3, 0], by_hand, atol=1e-6)
    # Found on frames of twice the size.
    half = BoxesConfig(1, plain, height=2 * HEIGHT).read().beside("video", place)
    np.testing.assert_allclose(half, wanted / 2, atol=1e-6)


PLACE = clip_transforms.Place(np.arange(3), 3, (0.0, 0.0, 10.0, 10.0), (10, 10))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"video": {"0": [[1, 2, 3]]}}', r"boxes\.json: video 'video': is neither .*ValueError"),
        ('{"video": {"0": [[1, 2, 3, 4, 5, 6]]}}', r"video 'video': is neither"),
        ('{"video": {"0": [["a", 2, 3, 4]]}}', r"video 'video': is neither"),
        ('{"video": {"one": [[1, 2, 3, 4]]}}', r"video 'video': is neither"),
        ('{"video": {"0": 5}}', r"video 'video': is neither"),
        ('{"video": 5}', r"video 'video': is neither"),
        ('{"video": [{"name": "v/0001.jpg"}]}', r"video 'video': is neither .*KeyError: 'labels'"),
        ('{"video": {"-1": [[1, 2, 3, 4]]}}', r"video 'video': a frame or a box is no usable"),
        ('{"video": {"0": [[NaN, 2, 3, 4]]}}', r"video 'video': a frame or a box is no usable"),
        ('{"video": {"0": [[1, 2, 3, 4]]}, "video": {}}', r"has video 'video' a second time"),
        ('{"video": {}\n "b": {}}', r"boxes\.json: line 2: bad json"),
        ('{"video": {"0": [[1, 2', r"boxes\.json: line 1: bad json"),
        ("[]", r"boxes\.json: line 1: bad json"),
        ("{}", r"boxes\.json: has no video"),
        ('{"video": {"3": [[1, 2, 3, 4]]}}', r"'video' has boxes of frame 3, .* frames are 0 to 2"),
        ('{"other": {"0": [[1, 2, 3, 4]]}}', r"boxes\.json: has no video 'video'; .*missing=none"),
    ],
)
def test_mistakes_are_named(content, message, tmp_path):
    file = tmp_path / "boxes.json"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        BoxesConfig(2, str(file)).read().beside("video", PLACE)


def test_other_mistakes(tmp_path, plain):
    with pytest.raises(UserError, match=r"none\.json: no such JSON file"):
        BoxesConfig(2, str(tmp_path / "none.json")).read()
    with pytest.raises(UserError, match="name a JSON file of boxes"):
        BoxesConfig(2).read()
    with pytest.raises(UserError, match="needs per_frame above 0"):
        BoxesConfig(path=plain)
    with pytest.raises(UserError, match="per_frame=-1 cannot be negative"):
        BoxesConfig(-1)
    empty = BoxesConfig(2, plain, missing="none").read()
    np.testing.assert_array_equal(empty.beside("unknown", PLACE), np.zeros((3, 2, 4)))


def test_no_other_clip_takes_the_place_of_one_without_boxes(tmp_path, plain):
    for broken in ("stop", "replace"):
        made = source(tmp_path, BoxesConfig(1, plain), name="third", broken=broken)
        with pytest.raises(BoxesError, match=r"boxes\.json: has no video 'third'"):
            next(data.train_batches(made, batch_size=2, seed=3, prefetch=0))


def test_boxes_without_area_are_counted(tmp_path, caplog):
    content = {"video": {"0": [[5, 5, 5, 9], [9, 9, 1, 1], [1, 2, 3, 4]]}}
    boxes = BoxesConfig(1, written(tmp_path / "boxes.json", content)).read()
    assert "2 of 3 boxes have no area" in caplog.text
    np.testing.assert_allclose(boxes.beside("video", PLACE)[0, 0], [0.2, 0.1, 0.4, 0.3], atol=1e-6)


def test_both_splits_read_a_file_once(plain):
    boxes_lib._read.cache_clear()
    one, two = (BoxesConfig(count, plain).read() for count in (1, 2))
    assert one._table is two._table and boxes_lib._read.cache_info().hits == 1
