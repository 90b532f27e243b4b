"""Films of one's own from training to prediction: what predict sees is what testing saw."""

import functools
import json
import os

import av
import jax
import numpy as np
import pytest
from PIL import Image

from configs import folder
from rstg_jax import config, data, predict
from rstg_jax.errors import UserError
from rstg_jax.inference import predictor, video_input
from rstg_jax.training import eval_loop, train_loop, trained_model
from tests import clip_files

PIECES = 10  # of each real film
LENGTH = 11  # frames of a piece


def write_pieces(root):
    """Pieces of three real films, smaller; the label is the film. Containers and sizes differ."""
    kinds = [("libx264", "mp4", "mp4"), ("libvpx-vp9", "webm", "webm"), ("mpeg4", "avi", "avi")]
    for name in ("bigbuckbunny", "bikes", "carphone_pristine"):
        with av.open(str(clip_files.real(name))) as film:
            stream = film.streams.video[0]
            width = 2 * round(32 * stream.width / stream.height)
            every = [f.to_image(width=width, height=64) for f in film.decode(stream)]
        for piece in range(PIECES):
            codec, container, ending = kinds[piece % 3]
            frames = every[piece * LENGTH : (piece + 1) * LENGTH - piece % 4]
            if piece == 4:
                frames = [frame.crop((0, 0, 48, 64)) for frame in frames]  # upright
            file = root / name / f"{piece}.{ending}"
            file.parent.mkdir(parents=True, exist_ok=True)
            fast = {"deadline": "realtime", "cpu-used": "8"} if ending == "webm" else {}
            file.write_bytes(clip_files.film(frames, codec, container, **fast))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of `configs/folder.py:tiny` on the pieces: its directory and result."""
    root = tmp_path_factory.mktemp("own")
    write_pieces(root / "videos")
    changes = {"data.path": str(root / "videos"), "data.test_share": "0.4", "mesh.data": "1"}
    experiment = config.override(folder.get_config("tiny"), changes)
    return root, train_loop.train(experiment, root / "run")


def test_small_variant_loads_and_needs_only_a_path():
    experiment = folder.get_config()
    assert config.from_dict(
        type(experiment), json.loads(json.dumps(config.to_dict(experiment)))
    ) == (experiment)
    with pytest.raises(UserError, match=r"set path to a directory of videos"):
        experiment.data.open("train")


def test_films_are_learned(trained):
    _, result = trained
    assert result["top1"] >= 0.8 and result["examples"] >= 8
    assert result["data"]["train"]["examples"] + result["examples"] == 3 * PIECES
    assert result["label_names"] == ["bigbuckbunny", "bikes", "carphone_pristine"]


def test_predict_equals_evaluate(trained, capsys):
    """Every test file as a file on the command line, and as an example of the test split."""
    root, result = trained
    loaded = trained_model.load(root / "run")
    source = eval_loop.open_split(loaded.data, "test")
    batch = source.batch(np.arange(len(source)))
    files = [str(root / "videos" / name) for name in batch["id"]]
    for file, video in zip(files, batch["video"], strict=True):
        read = video_input.read(file, loaded.data)
        np.testing.assert_array_equal(read, video)
    assert predict.main([f"--workdir={root / 'run'}", "--json", *files]) == 0
    records = json.loads(capsys.readouterr().out)
    best = [record["predictions"][0]["label"] for record in records]
    truth = [name.split("/")[0] for name in batch["id"]]
    assert np.mean([a == b for a, b in zip(best, truth, strict=True)]) == result["top1"]


def test_views_are_averaged_as_logits(trained):
    root, _ = trained
    views = {"data.clip.spatial_views": "3", "data.clip.temporal_views": "2"}
    loaded = trained_model.load(root / "run", overrides=views)
    file = root / "videos" / "bikes" / "3.mp4"
    video = video_input.read(file, loaded.data)
    assert video.shape == (6, 4, 32, 32, 3)
    apply = jax.jit(functools.partial(loaded.module.apply, train=False))
    logits = np.asarray(apply(loaded.variables, video)[0])
    exponents = np.exp(logits.mean(0))
    wanted = exponents / exponents.sum()
    videos = predictor.Videos(loaded)
    record = next(predictor.predict(loaded, videos, videos.find([str(file)])))
    for prediction in record["predictions"]:
        number = loaded.label_names.index(prediction["label"])
        assert prediction["probability"] == pytest.approx(wanted[number], rel=1e-4, abs=1e-6)


CLIPS = data.FolderConfig(clip=data.ClipConfig(frames=4, resize=32, crop=24))


def test_every_kind_of_file_gives_the_same_clip(tmp_path):
    """One clip as an array, a directory of images, and a lossless animated image."""
    images = clip_files.pictures(9, 60, 40)
    np.save(tmp_path / "a.npy", np.stack([np.asarray(image) for image in images]))
    (tmp_path / "frames").mkdir()
    for number, image in enumerate(images):
        image.save(tmp_path / "frames" / f"{number:05d}.png")
    images[0].save(
        tmp_path / "a.webp", save_all=True, append_images=images[1:], lossless=True, duration=80
    )
    first = video_input.read(tmp_path / "a.npy", CLIPS)
    assert first.shape == (4, 24, 24, 3)
    for name in ("frames", "a.webp"):
        np.testing.assert_array_equal(video_input.read(tmp_path / name, CLIPS), first)
    # 60x40 becomes 48x32; frames 0, 2, 5 and 8; the centre.
    for frame, index in zip(first, (0, 2, 5, 8), strict=True):
        whole = np.asarray(images[index].resize((48, 32), Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(whole[4:28, 12:36] - frame).max() <= 2


def test_whole_videos_keep_all_frames(tmp_path):
    images = clip_files.pictures(9, 60, 40)
    (tmp_path / "a.mp4").write_bytes(clip_files.film(images, "libx264", "mp4", bf="2"))
    got = video_input.read(tmp_path / "a.mp4", data.SyncMNISTConfig(frame_size=20))
    assert got.shape == (9, 20, 20, 1)
    every = [Image.fromarray(f) for f in clip_files.decode_all(tmp_path / "a.mp4")]
    grey = every[8].convert("L").resize((20, 20), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(got[8, ..., 0], np.asarray(grey))


def test_real_films_of_any_length(tmp_path):
    for name in clip_files.REAL:
        clip = video_input.read(clip_files.real(name), CLIPS)
        assert clip.shape == (4, 24, 24, 3) and clip.std() > 20


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no.webm", "no such file"),
        ("pipe.webm", "is a pipe or a device; save it as a file first"),
        ("a.webm", "cannot be read as a video"),
        ("b.doc", "unknown kind"),
    ],
)
def test_files_are_named(tmp_path, name, message):
    for bad in ("a.webm", "b.doc"):
        (tmp_path / bad).write_bytes(b"this is no film")
    os.mkfifo(tmp_path / "pipe.webm")
    with pytest.raises(UserError, match=f"{name}: {message}"):
        video_input.read(tmp_path / name, CLIPS)
