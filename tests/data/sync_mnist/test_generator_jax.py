"""The generator in JAX against the one in NumPy and against official videos."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from configs import sync_mnist as sync_mnist_config
from rstg_jax import config, data
from rstg_jax.data import random_stream
from rstg_jax.data.sync_mnist import generator, generator_jax, renderer
from rstg_jax.data.sync_mnist.objects import object_arrays
from rstg_jax.errors import UserError
from rstg_jax.models import classifier
from rstg_jax.training import run, sharding, train_loop
from rstg_jax.training.sharding import MeshConfig
from tests import standins
from tests.data.sync_mnist.test_generator import P_VALUE, check_steps
from tests.golden import load

MANY = 20_000


@pytest.fixture(scope="module")
def digits() -> generator.Digits:
    """Stand-ins of digits: 3 to 12 random blobs a class, some dim, one blank."""
    rng = np.random.default_rng(0)
    classes = rng.permutation(np.repeat(np.arange(10), np.arange(3, 13)))
    images = np.zeros((75, 28, 28), np.uint8)
    images[:, 4:24, 6:22] = rng.integers(0, 256, (75, 20, 16))
    images[3:40:4] //= 3
    images[50] = 0
    return generator.Digits(images, classes)


def many_videos(spec, sprites, count):
    """Everything but the pixels, which XLA then never draws, of many videos."""

    def one(key):
        video = generator_jax.make_video(key, sprites, spec)
        return {name: video[name] for name in video if name != "video"}

    keys = jax.random.split(jax.random.key(0), count)
    return jax.device_get(jax.jit(jax.vmap(one))(keys))


@pytest.fixture(scope="module", params=[3, 5])
def many(request, digits):
    spec = generator.VideoSpec(num_digits=request.param)
    return spec, many_videos(spec, generator_jax.sprites(spec, digits), MANY)


# ---------------------------------------------------------------- the same as in NumPy


@pytest.mark.parametrize(
    "spec",
    [
        generator.VideoSpec(num_digits=5, none_probability=0.2),
        generator.VideoSpec(num_digits=10, num_frames=3, none_probability=0.0),
        generator.VideoSpec(num_digits=2, classes=(7, 1, 4), none_probability=1.0),
    ],
    ids=lambda spec: f"{spec.num_digits} digits",
)
def test_the_same_words_are_the_same_paths(digits, spec):
    indices = np.arange(500)
    expected = generator.sample(spec, digits, indices, seed=3, split="train")
    bits = random_stream.words(3, "train", indices, spec.num_draws).astype(np.uint32)
    sprites = generator_jax.sprites(spec, digits)
    source = np.asarray(sprites.source)
    lead = np.argsort(source)[np.searchsorted(np.sort(source), expected.images[:, 0])]
    trajectories = jax.jit(jax.vmap(functools.partial(generator_jax.draw, spec, sprites)))(
        lead, bits
    )
    np.testing.assert_array_equal(source[trajectories.images], expected.images)
    np.testing.assert_array_equal(np.array(spec.classes)[trajectories.positions], expected.digits)
    np.testing.assert_array_equal(trajectories.coords, expected.coords)
    np.testing.assert_array_equal(trajectories.label, expected.labels)


@pytest.mark.parametrize("paste", ["_pasted", "_placed"])
@pytest.mark.parametrize("num_digits", [3, 5])
def test_pixels_equal_the_official_generator(num_digits, paste, monkeypatch):
    monkeypatch.setattr(generator_jax, "_pasted", getattr(generator_jax, paste))
    golden = load(f"sync_mnist_render_{num_digits}digits")
    sprites = np.where(golden["sprites"] >= 10, golden["sprites"], 0)
    videos = jax.jit(jax.vmap(generator_jax.render))(
        sprites.reshape(-1, num_digits, 28, 28), golden["coords"]
    )
    assert videos.dtype == jnp.uint8
    np.testing.assert_array_equal(videos[..., 0], golden["videos"])


@pytest.mark.parametrize("frame_size", [32, 17, 100, 128])
def test_pixels_of_other_sizes(digits, frame_size):
    rng = np.random.default_rng(1)
    images, coords = rng.integers(0, 75, (8, 4)), rng.integers(0, 73, (8, 3, 4, 2))
    images[0] = 50  # nothing at all to be seen
    expected = renderer.Renderer(digits.images, frame_size)(images, coords)
    visible = np.where(digits.images >= 10, digits.images, 0)
    render = functools.partial(generator_jax.render, frame_size=frame_size)
    videos = jax.jit(jax.vmap(render))(visible[images], coords)
    np.testing.assert_array_equal(videos, expected)


def test_stretching_of_every_value_under_every_maximum():
    values = np.minimum(np.arange(256), np.arange(256)[:, None])  # [maximum value]
    stretched = jax.jit(jax.vmap(generator_jax._stretched))(
        jnp.asarray(values[:, None], jnp.float32)
    )
    expected = np.take_along_axis(renderer.STRETCH, values, axis=1)
    np.testing.assert_array_equal(stretched[:, 0], expected)
    # Ties that are rounded down exist; without them the test above would be blind to them.
    assert (generator_jax._rounded_down() >= 0).sum() > 10


# ---------------------------------------------------------------- the same spec


def test_steps_follow_the_law(many):
    spec, videos = many
    check_steps(videos["coords"][:6000], videos["label"][:6000] != 45)


def test_labels_tell_which_pair_moves_together(many):
    spec, videos = many
    steps = np.diff(videos["coords"], axis=1)
    for a in range(spec.num_digits):
        for b in range(a):
            together = (steps[:, :, a] == steps[:, :, b]).all((1, 2))
            expected = videos["label"] != 45 if (b, a) == (0, 1) else False
            np.testing.assert_array_equal(together, np.broadcast_to(expected, together.shape))
    pair = np.sort(videos["digits"][:, :2])
    names = np.where(videos["label"] == 45, "none", [f"{a}-{b}" for a, b in pair])
    np.testing.assert_array_equal(np.array(spec.label_names)[videos["label"]], names)


@pytest.mark.parametrize("frame", [0, 4, 9])
def test_positions_are_distributed_like_the_official(many, frame):
    spec, videos = many
    golden = load(f"sync_mnist_law_{spec.num_digits}digits")["coords"]
    for digit in range(3):
        for axis in (0, 1):
            both = (videos["coords"], golden)
            bins = [np.bincount(c[:, frame, digit, axis] // 6, minlength=12) for c in both]
            assert scipy.stats.chi2_contingency(np.stack(bins)).pvalue > P_VALUE


def test_labels_digits_and_images_are_distributed_like_those_of_numpy(many, digits):
    spec, videos = many
    none = int((videos["label"] == 45).sum())
    assert scipy.stats.binomtest(none, MANY, 1 / 92).pvalue > P_VALUE
    there = generator.sample(spec, digits, np.arange(MANY), seed=1, split="train")
    for ours, theirs in (
        (videos["label"], there.labels),
        *zip(videos["digits"].T, there.digits.T, strict=True),
    ):
        bins = [np.bincount(x, minlength=46) for x in (ours, theirs)]
        seen = np.stack(bins)[:, np.sum(bins, axis=0) > 0]
        assert scipy.stats.chi2_contingency(seen).pvalue > P_VALUE
    assert (np.diff(np.sort(videos["digits"]), axis=1) > 0).all()  # all different


def test_images_are_uniform(digits):
    spec = generator.VideoSpec(num_digits=3, classes=(1, 4, 7, 8))
    sprites = generator_jax.sprites(spec, digits)

    def one(key):
        bits = jax.random.bits(key, (spec.num_draws + 1,), jnp.uint32)
        lead = generator_jax._below(bits[0], jnp.int32(len(sprites.source)))
        return generator_jax.draw(spec, sprites, lead, bits[1:])

    trajectories = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(2), MANY))
    classes = digits.classes[np.asarray(sprites.source)]
    np.testing.assert_array_equal(
        np.array(spec.classes)[trajectories.positions], classes[trajectories.images]
    )
    leads = np.bincount(trajectories.images[:, 0], minlength=len(classes))
    assert scipy.stats.chisquare(leads).pvalue > P_VALUE
    for c in spec.classes:  # the others: uniform within their class
        others = np.asarray(trajectories.images)[:, 1:]
        counts = np.bincount(others[classes[others] == c], minlength=len(classes))
        assert scipy.stats.chisquare(counts[classes == c]).pvalue > P_VALUE


# ---------------------------------------------------------------- as a function


def test_a_video_belongs_to_its_key_on_any_number_of_devices(digits):
    spec = generator.VideoSpec(num_digits=3, num_frames=4)
    sprites = generator_jax.sprites(spec, digits)
    make = functools.partial(generator_jax.make_video, sprites=sprites, spec=spec, frame_size=32)
    keys = jax.random.split(jax.random.key(4), 16)
    together = jax.jit(jax.vmap(make))(keys)
    alone = jax.jit(make)(keys[5])
    rows = sharding.batch_sharding(sharding.make_mesh(MeshConfig()))
    cut = jax.jit(jax.vmap(make), in_shardings=rows, out_shardings=rows)(keys)
    assert len(cut["video"].sharding.device_set) == 8
    for name, value in together.items():
        np.testing.assert_array_equal(value[5], alone[name], err_msg=name)
        np.testing.assert_array_equal(value, cut[name], err_msg=name)
    objects = object_arrays(
        np, spec, *(np.asarray(together[name]) for name in ("digits", "coords", "label"))
    )
    for name, value in objects.items():
        assert together[name].dtype == value.dtype
        np.testing.assert_allclose(together[name], value, rtol=1e-6, err_msg=name)


def test_bad_digits(digits):
    few = generator.Digits(digits.images, digits.classes % 9)
    with pytest.raises(UserError, match="no image of digit 9"):
        generator_jax.sprites(generator.VideoSpec(), few)
    large = np.zeros((1 << 16, 28, 28), np.uint8)
    with pytest.raises(UserError, match="65536 digit images are too many"):
        generator_jax.sprites(
            generator.VideoSpec(), generator.Digits(large, np.arange(1 << 16) % 10)
        )


# ---------------------------------------------------------------- training on it


def device_experiment(devices: int, **train):
    """The tiny configuration on videos that the devices make, 6 steps."""
    base = config.override(
        sync_mnist_config.tiny(), {"data.train_source": "device", "mesh.data": str(devices)}
    )
    settings = {"total_steps": 6, "log_every": 1, "checkpoint_every": 3, "eval_every": 0}
    return dataclasses.replace(base, train=dataclasses.replace(base.train, **settings | train))


def test_source_on_the_host_is_the_source_on_the_devices():
    settings = device_experiment(8).data
    source = settings.open("train")
    assert isinstance(source, data.OnDevice) and len(source) == data.ENDLESS
    indices = np.array([3, 2**32 + 3, 2**61 + 5, 3])
    host = source.batch(indices)
    assert not (host["coords"][0] == host["coords"][1]).all()  # both halves of a number count
    for name, value in host.items():
        np.testing.assert_array_equal(value[0], value[3], err_msg=name)

    fed = next(data.train_batches(source, batch_size=16, seed=5, start_step=7, prefetch=0))
    assert fed.keys() == {"address", "mask"}
    mesh = sharding.make_mesh(MeshConfig())
    make = run.batches_of(source, ("video", "label", "mask"), mesh)
    seen = make(sharding.put_batch(fed, mesh))
    assert seen["video"].sharding == sharding.batch_sharding(mesh)
    positions = np.arange(7 * 16, 8 * 16)
    expected = source.batch(data.batches.train_indices(data.ENDLESS, positions, 5))
    np.testing.assert_array_equal(seen["video"], expected["video"])
    np.testing.assert_array_equal(seen["label"], expected["label"])
    other = dataclasses.replace(settings, seed=2**40).open("train").batch(indices)
    assert not (other["coords"] == host["coords"]).all()


def test_training_on_it_resumes_exactly_on_any_number_of_devices(tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "build", lambda config, classes: standins.Model(classes))
    train_loop.train(device_experiment(1), tmp_path / "one")
    whole = standins.records(tmp_path / "one")
    assert len(whole) == 7  # six training steps, one test

    with monkeypatch.context() as patch:
        told = iter([False, False, False, True])
        patch.setattr(train_loop.StopSignal, "local", lambda self: next(told))
        stopped = train_loop.train(device_experiment(1), tmp_path / "stopped")
    assert stopped == {"stopped_at": 3}
    train_loop.train(device_experiment(1), tmp_path / "stopped")
    assert standins.records(tmp_path / "stopped") == whole

    train_loop.train(device_experiment(8), tmp_path / "eight")
    for here, there in zip(whole, standins.records(tmp_path / "eight"), strict=True):
        np.testing.assert_allclose(here["loss"], there["loss"], rtol=1e-5)
