"""Prediction on files of every kind and on ranges of the test set."""

import dataclasses
import json
from pathlib import Path

import av
import jax
import numpy as np
import pytest
from PIL import Image

from rstg_jax import data, predict
from rstg_jax.errors import UserError
from rstg_jax.inference import predictor, video_input
from rstg_jax.training import trained_model
from tests import standins


@dataclasses.dataclass(frozen=True)
class Whole(data.DataConfig):
    """Whole videos of any size."""

    clip_shape: tuple[int, int, int, int] = (1, 1, 1, 1)
    num_classes: int = 1

    def open(self, split):
        raise NotImplementedError


def read(path, height, width, channels):
    return video_input.read(path, Whole((0, height, width, channels)))


def write(folder, video):
    """One video, grey [t h w], as every kind of file; returns the paths."""
    np.save(folder / "v.npy", video)
    images = [Image.fromarray(frame) for frame in video]
    for kind in ("gif", "webp"):
        options = {"lossless": True} if kind == "webp" else {}
        images[0].save(
            folder / f"v.{kind}", save_all=True, append_images=images[1:], duration=80, **options
        )
    for kind, codec in (("mp4", "libx264"), ("webm", "libvpx-vp9")):
        with av.open(str(folder / f"v.{kind}"), "w") as film:
            stream = film.add_stream(codec, rate=10)
            stream.height, stream.width = video.shape[1:]
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": "1"}
            for image in images:
                frame = av.VideoFrame.from_image(image.convert("RGB"))
                film.mux(stream.encode(frame))
            film.mux(stream.encode())
    return [folder / f"v.{kind}" for kind in ("npy", "gif", "webp", "mp4", "webm")]


def smooth_video(t=7, h=48, w=64):
    """Frames that differ (players merge equal ones) and survive lossy codecs."""
    y, x = np.mgrid[0:h, 0:w]
    frames = [127 + 100 * np.sin((y + 4 * i) / 9) * np.cos(x / 11) for i in range(t)]
    return np.stack(frames).astype(np.uint8)


def test_every_kind_of_file_gives_the_same_frames(tmp_path):
    video = smooth_video()
    for path in write(tmp_path, video):
        same = read(path, 48, 64, 1)
        assert same.shape == (7, 48, 64, 1) and same.dtype == np.uint8
        error = np.abs(same[..., 0].astype(int) - video)
        assert error.max() <= (0 if path.suffix in (".npy", ".gif", ".webp") else 6), path
        assert read(path, 32, 32, 3).shape == (7, 32, 32, 3)
    resized = read(tmp_path / "v.npy", 24, 32, 1)[2, ..., 0]
    wanted = np.asarray(Image.fromarray(video[2]).resize((32, 24), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(resized, wanted)
    colour = np.stack([video, 0 * video, 0 * video], -1)
    np.save(tmp_path / "c.npy", colour)
    grey = read(tmp_path / "c.npy", 48, 64, 1)[..., 0]
    np.testing.assert_allclose(grey, 0.299 * video, atol=0.51)  # ITU-R 601


def test_probabilities_are_the_softmax_of_the_logits(workdir):
    loaded = trained_model.load(workdir)
    videos = predictor.Videos(loaded)
    record = next(predictor.predict(loaded, videos, videos.find(["test:3"]), top=7))
    batch = standins.Source("test").batch(np.array([3]))
    logits, _ = loaded.module.apply(loaded.variables, batch["video"], train=False)
    p = np.asarray(jax.nn.softmax(logits[0]))
    assert record["truth"] == "abcdefg"[batch["label"][0]]
    assert [x["label"] for x in record["predictions"]] == ["abcdefg"[i] for i in np.argsort(-p)]
    np.testing.assert_allclose(
        [x["probability"] for x in record["predictions"]], np.sort(p)[::-1], rtol=1e-5
    )


def test_files_and_ranges_from_the_command_line(workdir, capsys):
    paths = list(map(str, write(workdir, smooth_video())))
    assert predict.main([f"--workdir={workdir}", "--json", *paths, "test:0-2"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [r["video"] for r in records] == [*paths, "test:0", "test:1", "test:2"]
    assert [r["frames"] for r in records] == [7] * 5 + [3] * 3  # any number of frames
    for record in records:
        assert len(record["predictions"]) == 5
        assert sum(p["probability"] for p in record["predictions"]) <= 1 + 1e-6
    best = {r["predictions"][0]["label"] for r in records[:5]}
    assert len(best) == 1
    assert predict.main([f"--workdir={workdir}", paths[0], "test:0"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 2 and out[0].startswith(paths[0]) and "%" in out[0]
    assert "truth" in out[1] or "right" in out[1]


def test_a_corrupt_file_is_named_and_the_others_are_done(workdir, capsys):
    good = write(workdir, smooth_video())[0]
    for name in ("bad.mp4", "bad.webm", "bad.gif", "bad.webp", "bad.npy", "bad.txt"):
        (workdir / name).write_bytes(b"this is not a video" * 50)
    np.save(workdir / "wrong.npy", np.zeros((3, 4), np.float32))
    np.save(workdir / "empty.npy", np.zeros((0, 4, 4), np.uint8))
    bad = [*map(str, workdir.glob("bad.*")), str(workdir / "wrong.npy"), str(workdir / "empty.npy")]
    ranges = ["test:30-40", "test:3-1"]
    argv = [f"--workdir={workdir}", *bad, str(workdir / "missing.gif"), *ranges, str(good)]
    assert predict.main(argv) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1 and out.startswith(str(good))
    errors = err.splitlines()
    assert len(errors) == 11 and all(line.startswith("error: ") for line in errors)
    for name in bad:
        assert any(name in line for line in errors), name
    assert "error: test:30-40: stripes test has the examples 0 to 36" in errors
    assert "error: test:3-1: the last example comes before the first" in errors


def test_messages_say_what_is_wrong(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match=r"a\.txt: unknown kind of file; the known ones are \.npy"):
        read(tmp_path / "a.txt", 8, 8, 1)
    np.save(tmp_path / "f.npy", np.zeros((2, 4, 4), np.float32))
    with pytest.raises(UserError, match=r"holds float32 \[2, 4, 4\]; a video is uint8"):
        read(tmp_path / "f.npy", 8, 8, 1)


def test_a_directory_stands_for_its_videos_and_one_of_images_is_a_video(workdir, capsys):
    root = workdir / "many"
    (root / "b" / "frames").mkdir(parents=True)
    (root / ".hidden").mkdir()
    video = smooth_video()
    for number, frame in enumerate(video):
        Image.fromarray(frame).save(root / "b" / "frames" / f"{number:05d}.png")
    np.save(root / "a.npy", video)
    np.save(root / "b" / "z.npy", video)
    np.save(root / ".hidden" / "no.npy", video)
    Image.fromarray(video[0]).save(root / "b" / "cover.png")  # beside a video: no video
    (root / "notes.txt").write_text("x")
    (root / "b" / "cut.mp4").write_bytes(b"nothing")
    (root / "b" / "circle").symlink_to(root)
    (workdir / "elsewhere").mkdir()
    np.save(workdir / "elsewhere" / "y.npy", video)
    (root / "c").symlink_to(workdir / "elsewhere")
    (root / "d.webm").symlink_to(root / "nothing")
    names = ("a.npy", "b/cut.mp4", "b/frames", "b/z.npy", "c/y.npy", "d.webm")
    names = [str(root / name) for name in names]
    assert predictor.expand(str(root)) == names
    assert predictor.expand(str(root / "a.npy")) == [str(root / "a.npy")]
    assert predict.main([f"--workdir={workdir}", "--json", str(root)]) == 1
    out, err = capsys.readouterr()
    records = json.loads(out)
    assert [r["video"] for r in records] == names
    first, second = err.splitlines()
    assert first.startswith(f"error: {names[1]}: cannot be read as a video")
    assert second == f"error: {names[5]}: no such file"
    best = [r["predictions"] for r in records if "predictions" in r]
    assert len(best) == 4 and best[0] == best[1] == best[2] == best[3]


def test_a_directory_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    np.save(tmp_path / "a.npy", smooth_video())
    real = predictor.listing.os.scandir

    def scandir(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(predictor.listing.os, "scandir", scandir)
    assert predictor.expand(str(tmp_path)) == [str(tmp_path / n) for n in ("a.npy", "closed")]
    (tmp_path / "again").symlink_to("again")
    names = ("a.npy", "again", "closed")
    assert predictor.expand(str(tmp_path)) == [str(tmp_path / name) for name in names]


def test_a_name_with_a_line_break_keeps_the_reason():
    request = predictor.VideoRequest("a\nb.mp4")
    with predictor.recording(request) as record:
        raise UserError("a\nb.mp4: no such file")
    assert record["error"] == "a b.mp4: no such file"
    with predictor.recording(request) as record:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no memory\nat all")
    assert record["error"] == "a b.mp4: RESOURCE_EXHAUSTED: no memory"


def test_each_result_is_printed_as_it_comes(capsys):
    best = [{"label": "a", "probability": 0.75}]

    def records():
        yield {"video": "1.mp4", "predictions": best}
        assert "1.mp4" in capsys.readouterr().out
        yield {"video": "2.mp4", "error": "2.mp4: no such file"}
        yield {"video": "3.mp4", "predictions": best, "truth": "a"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict.print_lines(records(), 6, long=False)
    assert capsys.readouterr().out == "3.mp4   a 75.0%  (right)\n"

    def some():
        for record in ({"video": "1.mp4"}, {"video": "2.mp4", "predictions": best}):
            yield record
            printed.append(capsys.readouterr().out)
        raise KeyboardInterrupt

    printed: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        predict.print_json(some())
    assert "1.mp4" in printed[0] and "2.mp4" in printed[1]
    whole = "".join(printed) + capsys.readouterr().out
    assert json.loads(whole) == [{"video": "1.mp4"}, {"video": "2.mp4", "predictions": best}]
    assert whole == json.dumps(json.loads(whole), indent=1) + "\n"


def test_no_error_takes_the_result_of_another_video(monkeypatch):
    class Fails:
        def __init__(self, model, top):
            pass

        def __call__(self, video):
            if len(video) > 1:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nand much more")
            return [{"label": "a", "probability": 1.0}]

    class Videos:
        def read(self, request):
            return {"video": np.zeros((int(request.name), 2, 2, 1), np.uint8)}, {}

    monkeypatch.setattr(predictor, "Predictor", Fails)
    requests = [predictor.VideoRequest(name) for name in "121"]
    records = list(predictor.predict(None, Videos(), requests))
    assert [record.get("error") for record in records] == [
        None,
        "2: RESOURCE_EXHAUSTED: Out of memory",
        None,
    ]


def test_a_video_that_is_too_long_to_be_seen_whole(tmp_path):
    np.save(tmp_path / "long.npy", np.zeros((1025, 2, 2), np.uint8))
    with pytest.raises(UserError, match=r"long.npy: has 1025 frames; .* up to 1024: cut out a"):
        read(tmp_path / "long.npy", 2, 2, 1)


@pytest.mark.parametrize("name", ["x" * 300 + ".mp4", "a\0b.mp4"])
def test_names_that_no_file_can_have(name):
    assert predictor.expand(name) == [name]
    with pytest.raises(UserError, match=r"cannot be read|no such file"):
        read(name, 2, 2, 1)
