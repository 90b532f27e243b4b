"""Labels over time: against prediction of the same parts cut out, and in bounded memory."""

import contextlib
import csv
import dataclasses
import json
import logging
import tracemalloc
import weakref
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import jax
import numpy as np
import pytest
from PIL import Image

from configs import folder, sync_mnist
from rstg_jax import predict
from rstg_jax.convert import write
from rstg_jax.data.video import decode, parts
from rstg_jax.errors import UserError
from rstg_jax.inference import predictor, timeline
from rstg_jax.models import classifier, heads
from rstg_jax.rstg import presets
from rstg_jax.training import trained_model
from rstg_jax.training.weights import Weights
from rstg_jax.viz import output_files, timeline_files
from tests import clip_files

CUT = timeline.Cut(0.5, 0.25)
LABELS = ("swiping, left", "a < b & c", "none", "d --> e")


def variables_of(experiment):
    """Random weights whose predictions differ from window to window."""
    module = classifier.build(experiment.model, len(LABELS))
    shape = experiment.data.clip_shape
    variables = jax.jit(module.init)(jax.random.key(3), np.zeros((1, *shape), np.uint8))
    variables["params"]["classifier"]["kernel"] *= 30
    return variables


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the tiny SyncMNIST model, whole clips of 4 frames of 16x16."""
    workdir = tmp_path_factory.mktemp("run") / "run"
    experiment, shape = sync_mnist.tiny(), sync_mnist.tiny().data.clip_shape
    write.write(
        workdir,
        experiment,
        variables_of(experiment),
        label_names=LABELS,
        video_shape=shape,
        source={"name": "a test"},
    )
    return workdir


@pytest.fixture(scope="module")
def model(run):
    return trained_model.load(run, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def clip_model():
    """A model of clips: 4 frames of 32x32, one from each quarter of a video."""
    experiment = folder.tiny()
    return Weights(experiment, variables_of(experiment), LABELS, {}).model({}, jax.devices()[:1])


def moving_bar(frames, size=32):
    """A bright stripe that wanders down, so that the labels of the stand-in model change."""
    video = np.full((frames, size, size), 40, np.uint8)
    for number, frame in enumerate(video):
        row = 4 * (7 * number // frames)
        frame[row : row + 4] = 200
    return video


@pytest.fixture
def film(tmp_path):
    """26 frames of 12 a second."""
    images = [Image.fromarray(frame).convert("RGB") for frame in moving_bar(26)]
    path = tmp_path / "film.mp4"
    path.write_bytes(clip_files.film(images, "libx264", "mp4", bf="2", g="10"))
    return path


@pytest.mark.parametrize("kind", ["model", "clip_model"])
def test_a_window_is_predicted_as_the_film_cut_to_it(kind, film, request):
    model = request.getfixturevalue(kind)
    found = timeline.maker(model, CUT, top=7)(film)
    assert (found.frames, found.fps) == (26, 12)
    assert found.bounds.tolist() == [[k, k + 6] for k in (0, 3, 6, 9, 12, 15, 18, 20)]
    frames = clip_files.decode_all(film)
    cuts = []
    for start, stop in found.bounds:
        cuts.append(str(film.parent / f"{start:02}.npy"))
        np.save(cuts[-1], np.stack(frames[start:stop]))
    videos = predictor.Videos(model)
    wanted = predictor.predict(model, videos, videos.find(cuts), 7)
    for record, labels, probabilities in zip(wanted, *found[3:], strict=True):
        best = record["predictions"]
        assert [model.label_names[label] for label in labels] == [p["label"] for p in best]
        np.testing.assert_array_equal(probabilities, np.float32([p["probability"] for p in best]))
    # Windows differ, so that one taken for another would be seen.
    assert len({row.tobytes() for row in found.probabilities}) == len(found.bounds)


@pytest.mark.parametrize(
    ("cut", "frames", "bounds"),
    [
        (timeline.Cut(), 10, [[0, 4], [2, 6], [4, 8], [6, 10]]),
        (timeline.Cut(), 9, [[0, 4], [2, 6], [4, 8], [5, 9]]),
        (timeline.Cut(), 3, [[0, 3]]),
        (timeline.Cut(1, 2), 9, [[0, 2], [4, 6], [7, 9]]),
        (timeline.Cut(stream=True), 9, [[0, 4], [4, 8], [8, 9]]),
        (timeline.Cut(0.1, stream=True), 2, [[0, 1], [1, 2]]),
    ],
)
def test_parts(cut, frames, bounds):
    assert cut.bounds(frames, Fraction(2), clip=4).tolist() == bounds


def test_impossible_parts_are_refused():
    for fields in ({"window": 0.0}, {"every": -1.0}, {"window": float("nan")}):
        with pytest.raises(UserError, match="must be above 0"):
            timeline.Cut(**fields)
    with pytest.raises(UserError, match=r"window=1e\+09 must be above 0 and below 1e6 seconds"):
        timeline.Cut(1e9)
    with pytest.raises(UserError, match="parts of a stream follow one another"):
        timeline.Cut(every=1.0, stream=True)


# --- memory ---------------------------------------------------------------------------------------


class Counted:
    """Frames that count how many of them are in memory at once; satisfies `decode.Frames`."""

    fps = None
    alive, most, read = 0, 0, 0

    def __init__(self, length):
        self._length = length

    def __len__(self):
        return self._length

    def images(self, indices):
        for index in indices:
            image = Image.new("RGB", (8, 8), (index % 256,) * 3)
            weakref.finalize(image, self.gone)
            Counted.alive += 1
            Counted.most = max(Counted.most, Counted.alive)
            Counted.read += 1
            yield image

    @staticmethod
    def gone():
        Counted.alive -= 1


@pytest.fixture
def counted(monkeypatch):
    """Every video has 600 frames of 8x8."""
    for name in ("alive", "most", "read"):
        monkeypatch.setattr(Counted, name, 0)
    monkeypatch.setattr(decode, "opened", lambda _: contextlib.nullcontext(Counted(600)))
    return Counted


@pytest.mark.parametrize(("every", "readings"), [(0.6, 4), (2.4, 1), (9.6, 1)])
def test_few_frames_are_held_at_a_time(model, counted, every, readings):
    """Four windows over each other, or one at a time: two frames for each at most, of 600."""
    found = timeline.maker(model, timeline.Cut(2.4, every))(None)
    assert found.fps == 5 and found.bounds[-1].tolist() == [588, 600]
    assert len({stop - start for start, stop in found.bounds}) == 1
    assert counted.most <= 2 * readings
    assert counted.read <= 600 * readings


def test_a_reader_that_keeps_its_frames_is_found_out(model, counted, monkeypatch):
    """The negative control of the test above."""

    class Keeps(parts._Reader):
        def __init__(self, frames):
            super().__init__(frames)
            self._images = iter(list(self._images))

    monkeypatch.setattr(parts, "_Reader", Keeps)
    timeline.maker(model, timeline.Cut(2.4, 2.4))(None)
    assert counted.most >= 600


def test_frames_that_are_gone_are_an_error():
    with_frames = parts.Parts(lambda: Counted(10))
    part = with_frames.part(2, 5)
    assert [image.getpixel((0, 0))[0] for image in part.images([0, 2])] == [2, 4]
    with pytest.raises(ValueError, match="frame 3 is gone, the next one is 5"):
        next(part.images([1]))
    assert next(with_frames.part(3, 5).images([0])).getpixel((0, 0))[0] == 3  # read again


@pytest.mark.slow
def test_twenty_minutes(model, tmp_path):
    """A real file of 14,400 frames: the memory that Python allocates does not grow with it."""
    make = timeline.maker(model, timeline.Cut(2.0, 1.0))
    peaks = []
    for minutes in (0.1, 2, 20):
        images = [Image.fromarray(frame) for frame in moving_bar(int(minutes * 720))]
        path = tmp_path / "film.mp4"
        path.write_bytes(clip_files.film(images, "libx264", "mp4", preset="ultrafast"))
        del images
        tracemalloc.start()
        found = make(path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert found.frames == 14_400 and len(found.bounds) == 1199
    whole = 14_400 * 32 * 32 * 3
    assert peaks[2] - peaks[1] < 0.2 * whole, peaks


# --- stream ---------------------------------------------------------------------------------------


def as_array(video):
    """Frames as a file holds them, [t h w 3] or grey [t h w]."""
    return decode.ArrayFrames(video)


@pytest.mark.parametrize("seconds", [0.1, 0.5, 3.0])  # 1, 6 and all of the frames
def test_a_stream_knows_all_frames_before(model, film, seconds):
    """A part's labels are those of its frames' logits in the film as a single clip."""
    found = timeline.maker(model, timeline.Cut(seconds, stream=True), top=7)(film)
    whole = model.data.read_video(as_array(np.stack(clip_files.decode_all(film))))
    _, out = jax.jit(model.module.apply)(model.variables, whole[None])
    logits = np.asarray(out["frame_logits"][0])
    assert found.bounds[0, 0] == 0 and found.bounds[-1, 1] == 26
    for (start, stop), labels, probabilities in zip(*found[2:], strict=True):
        wanted = np.asarray(jax.nn.softmax(logits[start:stop].mean(0)))
        np.testing.assert_allclose(probabilities, wanted[labels], atol=2e-5)
    # Negative control: without the frames before, other labels come out.
    if len(found.bounds) > 1:
        alone = timeline.maker(model, timeline.Cut(seconds, seconds), top=7)(film)
        assert np.abs(alone.probabilities[1:] - found.probabilities[1:]).max() > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_stream_compiles_once(run, film, dtype, caplog):
    model = trained_model.load(run, overrides={"model.dtype": dtype}, devices=jax.devices()[:1])
    with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
        timeline.maker(model, timeline.Cut(0.5, stream=True))(film)
    assert caplog.text.count("Compiling jit(step)") == 2  # parts of 6 frames, the last of 2


def test_a_second_film_begins_anew(model, film):
    make = timeline.maker(model, timeline.Cut(0.5, stream=True))
    first, again = make(film), make(film)
    np.testing.assert_array_equal(first.probabilities, again.probabilities)


def test_models_that_cannot_stream_say_why(clip_model, model):
    def no_stream(model, **changes):
        experiment = model.experiment
        changed = dataclasses.replace(experiment.model, **changes)
        other = model._replace(experiment=dataclasses.replace(experiment, model=changed))
        with pytest.raises(UserError, match="cannot stream") as caught:
            timeline.maker(other, timeline.Cut(stream=True))
        return str(caught.value)

    backbone = dataclasses.replace(model.experiment.model.backbone, subtract_mean_frame=True)
    assert "reads several frames together" in no_stream(model, backbone=backbone)
    assert "only a single block" in no_stream(model, head=heads.GlobalPooling())
    assert "only a single block" in no_stream(model, rstg_at=("conv0", "final"))
    official = presets.official("sync_mnist", post_norm="layer")
    assert "statistics of the whole clip" in no_stream(model, rstg=official)
    assert not clip_model.experiment.model.cannot_stream_because


# --- files ----------------------------------------------------------------------------------------

FOUND = timeline.Timeline(
    frames=10,
    fps=Fraction(2),
    bounds=np.array([[0, 4], [2, 6], [4, 8], [6, 10]]),
    labels=np.int32([[0, 1], [0, 2], [3, 0], [1, 0]]),
    probabilities=np.float32([[0.6, 0.2], [0.8, 0.1], [0.5, 0.4], [0.9, 0.1]]),
)


def test_files_of_a_timeline(tmp_path):
    written = timeline_files.write(tmp_path / "a.b.json", "a.mp4", FOUND, LABELS)
    assert [path.name for path in written] == ["a.b.json", "a.b.csv", "a.b.vtt", "a.b.svg"]
    content = json.loads(written[0].read_text())
    assert (content["video"], content["frames"], content["fps"]) == ("a.mp4", 10, 2)
    part = content["parts"][2]
    assert (part["frames"], part["start"], part["end"]) == ([4, 8], 2.0, 4.0)
    assert [p["label"] for p in part["predictions"]] == ["d --> e", "swiping, left"]
    # Windows that overlap meet in the middle: at 1.5, 2.5 and 3.5 s.
    joined = [(s["start"], s["end"], s["label"]) for s in content["segments"]]
    assert joined == [(0, 2.5, LABELS[0]), (2.5, 3.5, LABELS[3]), (3.5, 5, LABELS[1])]
    mean = content["segments"][0]["probability"]
    assert mean == pytest.approx((1.5 * 0.6 + 0.8) / 2.5)
    rows = list(csv.DictReader(written[1].read_text().splitlines()))
    assert len(rows) == 8 and rows[5] == {
        "start": "2.0",
        "end": "4.0",
        "rank": "2",
        "label": "swiping, left",
        "probability": "0.4000",
    }
    assert written[2].read_text() == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:02.500\nswiping, left 68%\n\n"
        "00:00:02.500 --> 00:00:03.500\nd --&gt; e 50%\n\n"
        "00:00:03.500 --> 00:00:05.000\na &lt; b &amp; c 90%\n"
    )
    drawn = ElementTree.fromstring(written[3].read_text())
    texts = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[-3:] == [LABELS[0], LABELS[1], LABELS[3]]  # in the order of their time
    assert timeline_files.clock(3723.5004) == "01:02:03.500"


def test_all_files_are_written_or_none(tmp_path, monkeypatch):
    monkeypatch.setattr(timeline_files, "draw", lambda *_: "\ud800")  # cannot be encoded
    with pytest.raises(UnicodeEncodeError):
        timeline_files.write(tmp_path / "a.json", "a.mp4", FOUND, LABELS)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"cannot write .*nowhere/a.json: No such file"):
        monkeypatch.undo()
        timeline_files.write(tmp_path / "nowhere" / "a.json", "a.mp4", FOUND, LABELS)


def test_results_of_another_video_are_kept(tmp_path):
    """Of another call, too; the same video has the same names again."""
    videos = [str(tmp_path / folder / "clip.mp4") for folder in "ab"]
    for video in videos:
        Path(video).parent.mkdir()
        Path(video).touch()
    out = tmp_path / "out"

    def named(*videos):
        paths = output_files.paths_in(out, videos, "--timeline", timeline_files.SUFFIXES)
        for path in paths:
            timeline_files.write(path, "", FOUND, LABELS)
        return [path.name for path in paths]

    assert named(videos[0]) == ["clip.json"]
    assert named(videos[1]) == ["clip~2.json"]
    long = ["a" * 251 + ".mp4", "a" * 251 + ".avi"]
    assert named(*long) == ["a" * 240 + ".json", "a" * 240 + "~2.json"]
    assert named(*videos) == named(*videos[::-1])[::-1] == ["clip.json", "clip~2.json"]
    (out / "other.csv").write_text("own")
    with pytest.raises(UserError, match=r"--timeline=.*out: other.csv is there, and was not wr"):
        named("other.mp4")
    assert (out / "other.csv").read_text() == "own" and not (out / "other.json").exists()


def test_command(run, film, tmp_path, capsys):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no film")
    flags = [f"--workdir={run}", f"--timeline={tmp_path / 'out'}", "--window=0.5"]
    assert predict.main([*flags, str(film), str(bad), str(tmp_path / "no.mp4")]) == 1
    out, err = capsys.readouterr()
    assert out == f"{film}: 8 parts, {tmp_path / 'out' / 'film.json'}, .csv, .vtt, .svg\n"
    assert [line.split(": ")[1] for line in err.splitlines()] == [str(bad), f"{tmp_path}/no.mp4"]
    assert len(list((tmp_path / "out").glob("film.*"))) == 4
    predict.print_written([{"video": "a.mp4", "parts": 1, "written": ["a.json", "a.csv"]}])
    assert capsys.readouterr().out == "a.mp4: 1 part, a.json, .csv\n"
    assert predict.main([*flags, "--stream", "--json", str(film)]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert (record["frames"], record["parts"]) == (26, 5)
    subtitles = (tmp_path / "out" / "film.vtt").read_text()
    assert subtitles.startswith("WEBVTT\n\n00:00:00.000 --> ")
    assert "--> 00:00:02.167\n" in subtitles
    with pytest.raises(SystemExit):
        predict.main([f"--workdir={run}", "--stream", str(film)])
    assert "belong to --timeline" in capsys.readouterr().err


def test_a_window_of_more_frames_than_a_model_takes_is_refused(run, tmp_path, capsys):
    np.save(tmp_path / "long.npy", np.zeros((1100, 4, 4), np.uint8))
    flags = [f"--workdir={run}", f"--timeline={tmp_path}", str(tmp_path / "long.npy")]
    assert predict.main([*flags, "--window=210"]) == 1
    assert "has 1050 frames; a model of whole videos takes up to 1024" in capsys.readouterr().err
    assert predict.main([*flags, "--window=2"]) == 0
