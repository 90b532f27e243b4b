import hashlib
import pathlib

import numpy as np
import pytest
import scipy.stats
from PIL import Image

from benchmarks.sync_mnist_generation import plain_videos
from rstg_jax.data import random_stream
from rstg_jax.data.sync_mnist import canvas, generator, pillow_resize, renderer
from rstg_jax.errors import UserError

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
# The chance that a correct spec fails one of the statistical tests below, for one fixed seed.
P_VALUE = 1e-4


@pytest.fixture(scope="module")
def digits() -> generator.Digits:
    """Stand-ins of digits: 7 random blobs a class, some dim, one blank."""
    noise = np.random.Philox(key=0).random_raw(70 * 20 * 16) >> 56  # the same with every NumPy
    images = np.zeros((70, 28, 28), np.uint8)
    images[:, 4:24, 6:22] = noise.reshape(70, 20, 16)
    images[:, ::3] = 0
    images[3:40:4] //= 3
    images[50] = 0
    return generator.Digits(images, np.arange(70) % 10)


def pillow(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    return np.stack(
        [Image.fromarray(i).resize((width, height), Image.Resampling.BILINEAR) for i in images]
    )


# ---------------------------------------------------------------- rendering


@pytest.mark.stack
@pytest.mark.parametrize("num_digits", [3, 5])
def test_render_equals_official_generator(num_digits):
    golden = np.load(GOLDEN / f"sync_mnist_render_{num_digits}digits.npz")
    sprites = golden["sprites"].reshape(-1, 28, 28)
    images = np.arange(len(sprites)).reshape(-1, num_digits)
    videos = renderer.Renderer(sprites)(images, golden["coords"])
    np.testing.assert_array_equal(videos[..., 0], golden["videos"])


@pytest.mark.parametrize("frame_size", [64, 32])
def test_render_equals_frame_by_frame(digits, frame_size):
    rng = np.random.default_rng(1)
    images = rng.integers(0, len(digits), (21, 4))
    images[0] = 50  # nothing at all to be seen
    coords = rng.integers(0, 73, (21, 3, 4, 2))
    videos = renderer.Renderer(digits.images, frame_size)(images, coords)
    expected = plain_videos(digits.images[images], coords, frame_size)
    np.testing.assert_array_equal(videos[..., 0], expected)
    assert not videos[0].any()
    assert videos.shape == (21, 3, frame_size, frame_size, 1)


def test_render_of_many_blocks_equals_one_by_one(digits):
    spec = generator.VideoSpec(num_digits=3)
    trajectories = generator.sample(spec, digits, np.arange(37), seed=0, split="train")
    render = renderer.Renderer(digits.images)
    together = render(trajectories.images, trajectories.coords)
    for i in (0, 7, 8, 36):
        alone = render(trajectories.images[i : i + 1], trajectories.coords[i : i + 1])
        np.testing.assert_array_equal(together[i], alone[0])


@pytest.mark.stack
@pytest.mark.parametrize(
    "sizes",
    [
        ((100, 100), (64, 64)),
        ((100, 100), (32, 32)),
        ((100, 100), (48, 100)),
        ((100, 90), (37, 17)),  # too large divisors for 16 bits
        ((33, 100), (64, 128)),  # enlarging
        ((50, 60), (6, 3)),
        ((9, 5), (1, 1)),
    ],
)
def test_resize_equals_pillow(sizes):
    old, new = sizes
    rng = np.random.default_rng(2)
    noise = rng.integers(0, 256, (30, *old))
    # Few values make sums that lie exactly between two bytes, where rounding is delicate.
    steps = rng.choice([0, 1, 2, 127, 128, 254, 255], (60, *old))
    images = np.concatenate([noise, steps]).astype(np.uint8)
    resize = pillow_resize.BilinearResize(old, new)
    pixels = np.ascontiguousarray(images.transpose(2, 1, 0).astype(resize.dtype))
    np.testing.assert_array_equal(resize(pixels), pillow(images, new))


def test_resize_uses_16_bits_where_proved():
    assert pillow_resize.BilinearResize((100, 100), (64, 64)).dtype == np.int16
    assert pillow_resize.BilinearResize((100, 100), (17, 17)).dtype == np.int32


def test_resize_ties_exist_and_are_broken_like_pillow():
    # Without the tie-breaking forms some bytes differ, so the test above does see them.
    fixed, exact = pillow_resize.coefficients(100, 64)
    rows = np.random.default_rng(3).integers(0, 256, (20000, 100))
    divisors = exact.sum(1)
    naive = (rows @ exact.T + divisors // 2) // divisors
    truth = (rows @ fixed.T + (1 << 21)) >> 22
    assert 0 < (naive != truth).mean() < 0.01
    assert (np.abs(naive - truth) <= 1).all()


# ---------------------------------------------------------------- the spec


def ranges(before: np.ndarray, synchronous: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The published spec, written once more: lo and hi of the steps from `before` [b n 2]."""
    low, high = np.maximum(-10, -before), np.minimum(10, 71 - before)
    for i in np.flatnonzero(synchronous):
        low[i, :2] = low[i, :2].max(0)
        high[i, :2] = high[i, :2].min(0)
    return low, high


def check_steps(coords: np.ndarray, synchronous: np.ndarray) -> None:
    """Every step lies in its range and is uniform over it (chi-square over all ranges together)."""
    coords = coords.astype(int)
    assert coords.min() >= 0
    assert coords.max() <= 71
    statistic, freedom, samples = 0.0, 0, 0
    spans_seen = []
    for t in range(1, coords.shape[1]):
        step = coords[:, t] - coords[:, t - 1]
        shared = (step[:, 0] == step[:, 1]).all(-1)
        assert shared[synchronous].all()
        low, high = ranges(coords[:, t - 1], synchronous)
        free = high > low
        assert (step[~free] == 0).all()
        assert ((low <= step) & (step < high))[free].all()
        free[synchronous, 1] = False  # the pair's step counts once
        spans_seen.append(np.stack([(high - low)[free], (step - low)[free]], -1))
    pairs = np.concatenate(spans_seen)
    for span in np.unique(pairs[:, 0]):
        counts = np.bincount(pairs[pairs[:, 0] == span, 1], minlength=span)
        if counts.sum() >= 10 * span:
            statistic += scipy.stats.chisquare(counts).statistic
            freedom += span - 1
            samples += counts.sum()
    assert samples > 0.9 * len(pairs)
    assert scipy.stats.chi2.sf(statistic, freedom) > P_VALUE


@pytest.fixture(scope="module", params=[3, 5])
def many(request, digits):
    spec = generator.VideoSpec(num_digits=request.param)
    return generator.sample(spec, digits, np.arange(30000), seed=5, split="train")


def test_steps_follow_the_law(many):
    check_steps(many.coords[:6000], many.labels[:6000] != 45)


@pytest.mark.parametrize("num_digits", [3, 5])
def test_official_steps_follow_the_same_law(num_digits):
    golden = np.load(GOLDEN / f"sync_mnist_law_{num_digits}digits.npz")
    check_steps(golden["coords"], golden["labels"] != 45)


def test_first_frame_is_a_uniform_start_and_a_step(many):
    start = np.arange(72)
    low, high = np.maximum(-10, -start), np.minimum(10, 71 - start)
    chance = np.zeros(72)
    for s in start:
        chance[s + low[s] : s + high[s]] += 1 / 72 / (high[s] - low[s])
    free = many.coords[:, 0, 2:]
    counts = np.bincount(free.reshape(-1), minlength=72)
    seen = chance > 0
    assert not counts[~seen].any()
    assert scipy.stats.chisquare(counts[seen], chance[seen] * free.size).pvalue > P_VALUE


@pytest.mark.parametrize("frame", [0, 4, 9])
@pytest.mark.parametrize("digit", [0, 1, 2])
def test_positions_are_distributed_like_the_official(many, frame, digit):
    n = many.coords.shape[2]
    golden = np.load(GOLDEN / f"sync_mnist_law_{n}digits.npz")["coords"]
    for axis in (0, 1):
        ours, theirs = many.coords[:, frame, digit, axis], golden[:, frame, digit, axis]
        bins = np.stack([np.bincount(x // 6, minlength=12) for x in (ours, theirs)])
        assert scipy.stats.chi2_contingency(bins).pvalue > P_VALUE


def test_share_of_none(many):
    none = (many.labels == 45).sum()
    assert scipy.stats.binomtest(int(none), len(many.labels), 1 / 92).pvalue > P_VALUE
    golden = np.load(GOLDEN / f"sync_mnist_law_{many.digits.shape[1]}digits.npz")["labels"]
    assert scipy.stats.binomtest(int((golden == 45).sum()), 1000, 1 / 92).pvalue > P_VALUE


def test_labels_and_digits_are_uniform(many):
    counts = np.bincount(many.labels, minlength=46)[:45]
    assert scipy.stats.chisquare(counts).pvalue > P_VALUE
    assert (np.diff(np.sort(many.digits, axis=1), axis=1) > 0).all()  # all different
    for k in range(many.digits.shape[1]):
        assert scipy.stats.chisquare(np.bincount(many.digits[:, k])).pvalue > P_VALUE
    images = np.bincount(many.images[:, 1:].reshape(-1), minlength=70)
    assert scipy.stats.chisquare(images).pvalue > P_VALUE


def test_pair_is_not_synchronous_without_label(many):
    step = np.diff(many.coords[many.labels == 45], axis=1)
    assert not (step[:, :, 0] == step[:, :, 1]).all((1, 2)).any()


def test_images_belong_to_digits_and_lead_in_turn(digits):
    spec = generator.VideoSpec(num_digits=3, classes=(1, 4, 7, 8))
    trajectories = generator.sample(spec, digits, np.arange(280), seed=0, split="test")
    np.testing.assert_array_equal(digits.classes[trajectories.images], trajectories.digits)
    leads, counts = np.unique(trajectories.images[:, 0], return_counts=True)
    np.testing.assert_array_equal(leads, np.flatnonzero(np.isin(digits.classes, (1, 4, 7, 8))))
    assert (counts == 10).all()


def test_labels_by_hand(digits):
    spec = generator.VideoSpec()
    assert len(spec.label_names) == 46
    assert spec.label_names[45] == "none"
    assert spec.label_names[7 * 6 // 2 + 3] == "3-7"
    golden = np.load(GOLDEN / "sync_mnist_render_5digits.npz")
    pairs = np.sort(golden["digits"][:, :2].astype(int), axis=1)
    sync = golden["labels"] != 45
    ours = generator.pair_label(pairs[:, 0], pairs[:, 1])
    np.testing.assert_array_equal(ours[sync], golden["labels"][sync])
    names = [spec.label_names[label] for label in golden["labels"][sync]]
    assert names == [f"{a}-{b}" for a, b in pairs[sync]]

    few = generator.VideoSpec(num_digits=2, classes=(4, 1, 7))
    assert few.label_names == ("4-1", "4-7", "1-7", "none")
    trajectories = generator.sample(few, digits, np.arange(50), seed=0, split="train")
    for pair, label in zip(trajectories.digits, trajectories.labels, strict=True):
        assert label == 3 or set(few.label_names[label].split("-")) == set(map(str, pair))


@pytest.mark.parametrize(("probability", "none"), [(0.0, 0), (1.0, 100)])
def test_none_probability(digits, probability, none):
    spec = generator.VideoSpec(num_digits=3, none_probability=probability)
    trajectories = generator.sample(spec, digits, np.arange(100), seed=0, split="train")
    assert (trajectories.labels == 45).sum() == none


# ---------------------------------------------------------------- addressing


def test_random_words_are_one_stream():
    count = 119  # of 32 bits: 60 words of 64 bits, a multiple of 4
    bits = random_stream.words(7, "test", np.arange(6), count)
    stream = np.random.Philox(key=np.array([7, 1], np.uint64)).random_raw(6 * 60).reshape(6, 60)
    low, high = stream & 0xFFFFFFFF, stream >> 32
    np.testing.assert_array_equal(bits, np.stack([low, high], -1).reshape(6, 120)[:, :119])


def test_examples_do_not_depend_on_company_or_order(digits):
    spec = generator.VideoSpec(num_digits=3)

    def draw(indices):
        return generator.sample(spec, digits, np.array(indices), seed=3, split="train")

    far = 2**40 + 5
    alone = draw([17])
    for indices, place in (([17, 18, 19], 0), ([5, 6, 17], 2), ([far, 17, 17, 2, 1], 2)):
        other = draw(indices)
        for name in ("images", "digits", "coords", "labels"):
            np.testing.assert_array_equal(
                getattr(other, name)[place], getattr(alone, name)[0], err_msg=name
            )
    np.testing.assert_array_equal(draw([far, far + 1]).coords[1], draw([far + 1]).coords[0])
    assert len(draw(np.arange(0)).labels) == 0


def test_seed_and_split_matter(digits):
    spec = generator.VideoSpec(num_digits=3)
    draws = [
        generator.sample(spec, digits, np.arange(4), seed=seed, split=split).coords.tobytes()
        for seed, split in ((0, "train"), (1, "train"), (0, "test"), (2**64 - 1, "test"))
    ]
    assert len(set(draws)) == 4


@pytest.mark.stack
def test_bytes_are_for_ever(digits):
    # Whoever changes this number makes all prepared data and resumed runs another data set.
    trajectories = generator.sample(
        generator.VideoSpec(), digits, np.arange(64), seed=0, split="train"
    )
    videos = renderer.Renderer(digits.images)(trajectories.images, trajectories.coords)
    content = (
        trajectories.coords.astype("<i4").tobytes()
        + trajectories.labels.tobytes()
        + videos.tobytes()
    )
    assert hashlib.sha256(content).hexdigest()[:16] == "ec3f881d82182bcb"


def test_boxes():
    boxes = canvas.sprite_boxes(np.array([[0, 50], [72, 25]]))
    np.testing.assert_allclose(boxes, [[0, 32, 17.92, 49.92], [46.08, 16, 64, 33.92]], rtol=1e-6)
    assert boxes.dtype == np.float32


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_digits": 1}, "num_digits=1"),
        ({"num_digits": 4, "classes": (1, 2, 3)}, "num_digits=4"),
        ({"classes": (1, 1, 2)}, "different digits"),
        ({"classes": (1, 2, 12), "num_digits": 2}, "different digits"),
        ({"num_frames": 0}, "num_frames=0"),
        ({"none_probability": 1.5}, "none_probability=1.5"),
    ],
)
def test_impossible_laws(fields, message):
    with pytest.raises(UserError, match=message):
        generator.VideoSpec(**fields)


def test_bad_arguments(digits):
    spec = generator.VideoSpec(num_digits=2)
    with pytest.raises(UserError, match="seed=-1"):
        generator.sample(spec, digits, np.arange(2), seed=-1, split="train")
    with pytest.raises(UserError, match="'valid'"):
        generator.sample(spec, digits, np.arange(2), seed=0, split="valid")
    without_nine = generator.Digits(digits.images, np.arange(70) % 9)
    with pytest.raises(UserError, match="no image of digit 9"):
        generator.sample(spec, without_nine, np.arange(2), seed=0, split="train")
    with pytest.raises(UserError, match=r"uint8 \[3, 28, 28\]"):
        generator.Digits(np.zeros((3, 28, 27), np.uint8), np.arange(3))
