"""Annotated videos: positions, and that the numbers drawn are those of the network."""

import dataclasses

import av
import jax
import numpy as np
import pytest
from PIL import Image

from rstg_jax import data, predict
from rstg_jax.errors import UserError
from rstg_jax.inference import video_input
from rstg_jax.models import classifier
from rstg_jax.models.backbones.resnet3d import ResNet3DConfig
from rstg_jax.models.backbones.simple_cnn import SimpleCNNConfig
from rstg_jax.models.config import ModelConfig
from rstg_jax.models.heads import GlobalPooling
from rstg_jax.rstg.block import RSTGConfig
from rstg_jax.rstg.region_graph import RegionGraph
from rstg_jax.training import sharding, train_state, trained_model
from rstg_jax.viz import annotate_video, draw_graph, panels, video_writer
from tests import clip_files, standins

GRAPH = RegionGraph((3, 2, 1))
CLIP = data.ClipConfig(frames=8, resize=40, crop=32, spatial_views=3, view_size=40)
NAMES = ("a", "b", "c")
BLOCK = RSTGConfig(dim=8, stages=("space", "time", "space"))


def load(model, config, shape):
    """What a checkpoint of a fresh model would give."""
    experiment = dataclasses.replace(standins.experiment(), model=model, data=config)
    mesh = sharding.make_mesh(experiment.mesh)
    module = classifier.build(model, len(NAMES))
    abstract = train_state.abstract_variables(module, shape, mesh)
    variables = jax.jit(lambda seed: train_state.init_variables(module, shape, seed))(0)
    meta = {"video_shape": list(shape)}
    return trained_model.TrainedModel(experiment, module, variables, abstract, mesh, NAMES, 0, meta)


@pytest.fixture(scope="module")
def clips():
    """A ResNet that makes every two frames one."""
    backbone = ResNet3DConfig(
        depths=(1, 1),
        width=4,
        stem_kernel=(1, 7, 7),
        temporal_kernels=((1,), (1,)),
        spatial_strides=(1, 2),
        temporal_strides=(1, 1),
    )
    model = ModelConfig(backbone, BLOCK, ("res3",), GlobalPooling())
    return load(model, data.FolderConfig(clip=CLIP), (8, 32, 32, 3))


def apply(loaded, video):
    """The network's own outputs."""
    network = jax.jit(lambda variables, x: loaded.module.apply(variables, x, train=False))
    return network(loaded.variables, video)


def frames_of(path):
    with av.open(str(path)) as film:
        rate = film.streams.video[0].average_rate
        return np.stack([f.to_ndarray(format="rgb24") for f in film.decode(video=0)]), rate


# --- where ----------------------------------------------------------------------------------------


def test_frames_of_the_film_find_the_nearest_of_the_clip():
    clip = data.ClipConfig(frames=4, sampling="linspace", resize=40, crop=32)
    found = data.FolderConfig(clip=clip).placement(10, (120, 60))
    # linspace(0, 9, 4) = 0 3 6 9
    assert found.nearest.tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3]
    assert np.flatnonzero(found.sampled).tolist() == [0, 3, 6, 9]
    assert found.frames == 4
    # 120x60 becomes 80x40, of which columns 24..56 and rows 4..36 are seen.
    np.testing.assert_allclose(found.box, (4 / 40, 24 / 80, 36 / 40, 56 / 80))
    portrait = data.FolderConfig(clip=clip).placement(10, (60, 120)).box
    np.testing.assert_allclose(portrait, (24 / 80, 4 / 40, 56 / 80, 36 / 40))
    # A film of two frames makes the clip 0 0 0 1: each of them shows the latest it was used for.
    assert data.FolderConfig(clip=clip).placement(2, (60, 60)).nearest.tolist() == [
        2,
        3,
    ]
    digits = data.SyncMNISTConfig().placement(5, (64, 64))
    assert digits.nearest.tolist() == [0, 1, 2, 3, 4] and digits.box == (0, 0, 1, 1)


def test_pooled_frames():
    assert [annotate_video.network_time(t, 8, 4) for t in range(8)] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [annotate_video.network_time(t, 5, 5) for t in range(5)] == [0, 1, 2, 3, 4]


# --- what -----------------------------------------------------------------------------------------


def test_numbers_are_those_of_the_network(clips):
    video = np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3)).astype(np.uint8)
    seen = annotate_video.Visualiser(clips).run_model(video)
    logits, out = apply(clips, video[None])
    frames = np.asarray(out["frame_logits"][0])
    assert frames.shape == (4, 3)  # pooled
    for t in range(4):
        expected = jax.nn.softmax(frames[: t + 1].mean(0))
        np.testing.assert_allclose(seen.running[t], expected, rtol=1e-5)
    np.testing.assert_allclose(seen.running[-1], jax.nn.softmax(logits[0]), rtol=1e-4)
    np.testing.assert_allclose(seen.attention, out["attention"].mean((0, 1)), rtol=1e-5)
    norms = np.sqrt((np.asarray(out["nodes"][0], np.float64) ** 2).sum(-1))  # [t n]
    for nodes in (slice(0, 9), slice(9, 13), slice(13, 14)):
        low, high = norms[:, nodes].min(), norms[:, nodes].max()
        expected = (norms[:, nodes] - low) / (high - low)
        np.testing.assert_allclose(seen.activity[:, nodes], expected, atol=1e-4)


def test_the_last_frame_speaks_alone_where_the_model_reads_it_alone():
    model = ModelConfig(
        SimpleCNNConfig(features=(4,), kernels=(3,), strides=(4,)),
        rstg_at=(),
        head=GlobalPooling(),
        readout="last",
    )
    loaded = load(model, data.SyncMNISTConfig(), (3, 32, 32, 1))
    video = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 1)).astype(np.uint8)
    seen = annotate_video.Visualiser(loaded).run_model(video)
    assert seen.activity is None and seen.attention is None  # nor is there a graph
    logits, out = apply(loaded, video[None])
    np.testing.assert_allclose(seen.running, jax.nn.softmax(out["frame_logits"][0]), rtol=1e-4)
    np.testing.assert_allclose(seen.running[-1], jax.nn.softmax(logits[0]), rtol=1e-4)


def test_objects_are_where_the_network_finds_them():
    block = RSTGConfig(dim=8, stages=("time", "space"), scales=(), objects=3, neighbours="all")
    backbone = SimpleCNNConfig(features=(4,), kernels=(3,), strides=(4,))
    model = ModelConfig(backbone, block, map_classes=3)
    loaded = load(model, data.SyncMNISTConfig(), (3, 32, 32, 1))
    head = loaded.variables["params"]["object_map"]
    head["place"]["kernel"] *= 0.001
    head["presence"]["kernel"] *= 0
    head["presence"]["bias"] = jax.numpy.array([9.0, -99.0, 9.0])  # surely there, surely not, there
    video = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 1)).astype(np.uint8)
    seen = annotate_video.Visualiser(loaded).run_model(video)
    _, out = apply(loaded, video[None])
    expected = (np.asarray(out["objects"].places[0]) + 1) / 2
    np.testing.assert_allclose(seen.objects[:, [0, 2]], expected[:, [0, 2]], rtol=1e-4)
    assert np.isnan(seen.objects[:, 1]).all()
    frames = [panels.draw_frame(frame, 200) for frame in video]
    placement = data.Placement.whole(3)
    for image in annotate_video.draw(iter(frames), seen, placement, block.graph(), NAMES):
        assert image.size == (480 + annotate_video.PANEL, 480)


def test_colours_are_those_of_the_activity():
    activity = np.linspace(0, 1, 14)
    layer = draw_graph.graph_layer((300, 300), GRAPH, None, activity=activity)
    places = draw_graph.node_places(GRAPH) * 300
    for node in range(14):
        y, x = places[node].astype(int)
        assert layer.getpixel((x, y)) == (*draw_graph.heat(activity[node]), 255), node
    for node, corner in ((0, (12, 12)), (4, (112, 112)), (8, (288, 288))):
        *color, opacity = layer.getpixel(corner)
        assert opacity == draw_graph.CELL_OPACITY
        np.testing.assert_allclose(color, draw_graph.heat(activity[node]), atol=2)
    assert draw_graph.heat(0.0) == draw_graph.HEAT_COLORS[0]
    assert draw_graph.heat(1.0) == draw_graph.HEAT_COLORS[-1]
    assert draw_graph.heat(0.375) == (164, 48, 90)  # half-way between the second and the third


# --- films ----------------------------------------------------------------------------------------


def test_a_film_is_drawn_over_its_own_frames(clips, tmp_path):
    images = clip_files.pictures(11, 96, 64)
    (tmp_path / "in.webm").write_bytes(clip_files.film(images))
    painter = annotate_video.Visualiser(clips)
    painter.write(tmp_path / "in.webm", tmp_path / "out.mp4")
    drawn, rate = frames_of(tmp_path / "out.mp4")
    assert drawn.shape == (11, 480, 720 + annotate_video.PANEL, 3) and rate == 12
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    # The clip is the central 32 of 60x40, columns 168..552 and rows 48..432 of 720x480.
    for number, image in enumerate(images):
        whole = np.asarray(image.resize((720, 480), Image.Resampling.BICUBIC), float)
        for part in (np.s_[60:420, 8:160], np.s_[60:420, 560:712], np.s_[4:44, 200:500]):
            error = np.abs(drawn[number][part] - annotate_video.OUTSIDE * whole[part]).mean()
            assert error < 5, number
        edge = drawn[number, 48:50, 200:500].astype(float)
        assert np.abs(edge - annotate_video.SEEN_COLOR).mean() < 30
    # In the middle of it lies what the layer of this frame says.
    config = dataclasses.replace(CLIP, spatial_views=1, view_size=None)
    clip = video_input.read(tmp_path / "in.webm", data.FolderConfig(clip=config))
    seen = painter.run_model(clip)
    layer = draw_graph.graph_layer(
        (384, 384),
        GRAPH,
        seen.attention[-1],
        edges=annotate_video.EDGES,
        activity=seen.activity[-1],
    )
    whole = images[-1].resize((720, 480), Image.Resampling.BICUBIC)
    expected = Image.alpha_composite(whole.crop((168, 48, 552, 432)).convert("RGBA"), layer)
    error = np.abs(np.asarray(expected.convert("RGB"), float) - drawn[-1, 48:432, 168:552])
    assert error[4:-4, 4:-4].mean() < 6


def test_several_videos_go_into_a_directory(tmp_path):
    out = tmp_path / "films"
    paths = annotate_video.output_paths(out, ["a/x.webm", "b/x.webm", "test:3", "b/x.mp4"])
    assert [path.name for path in paths] == ["x.mp4", "x~2.mp4", "test-3.mp4", "x~3.mp4"]
    assert out.is_dir() and {path.parent for path in paths} == {out}
    paths = annotate_video.output_paths(out, ["a/x~2.mp4", "b/x.mp4", "c/x.mp4"])
    assert [path.name for path in paths] == ["x~2.mp4", "x.mp4", "x~3.mp4"]
    assert annotate_video.output_paths(tmp_path / "one.gif", ["a.webm"]) == [tmp_path / "one.gif"]
    with pytest.raises(UserError, match=r"one\.mp4 is one file for 2 videos; name a directory"):
        annotate_video.output_paths(tmp_path / "one.mp4", ["a.mp4", "b.mp4"])
    with pytest.raises(UserError, match=r"cannot write '\.avi' files"):
        annotate_video.output_paths(tmp_path / "one.avi", ["a.mp4"])
    with pytest.raises(UserError, match="there is no such directory"):
        annotate_video.output_paths(tmp_path / "no" / "one.mp4", ["a.mp4"])
    with pytest.raises(UserError, match=r"x\.mp4 is one of the videos; name another place"):
        annotate_video.output_paths(out, [str(out / "x.mp4")])


@pytest.mark.parametrize("name", ["x.mp4", "index.html"])
def test_files_of_the_user_are_not_overwritten(name, tmp_path):
    (tmp_path / name).write_text("own")
    with pytest.raises(UserError, match=f"--visualise=.*: {name} is there, and was not written"):
        annotate_video.output_paths(tmp_path, ["a/x.webm"])
    (tmp_path / name).unlink()
    annotate_video.output_paths(tmp_path, ["a/x.webm"])
    (tmp_path / name).write_text("written by the command")
    assert annotate_video.output_paths(tmp_path, ["a/x.webm"]) == [tmp_path / "x.mp4"]


def test_nothing_is_left_of_a_film_whose_frames_break_off(tmp_path):
    def frames():
        yield Image.new("RGB", (32, 32))
        raise UserError("frame 1 is damaged")

    with pytest.raises(UserError, match="frame 1 is damaged"):
        video_writer.write(frames(), tmp_path / "x.mp4", 5)
    assert list(tmp_path.iterdir()) == []


def test_long_names_are_broken_and_cut():
    name = "Pretending to put something behind something without letting it drop down at all"
    lines = panels.fit_text(name, 15, 150, lines=3)
    assert len(lines) == 3 and lines[2].endswith("...")
    font = annotate_video.ImageFont.load_default(15)
    assert max(font.getlength(line) for line in lines) <= 150
    assert name.startswith(" ".join(lines).removesuffix("..."))
    assert panels.fit_text("Throwing it", 15, 200, lines=3) == ["Throwing it"]


def test_without_a_graph_the_labels_are_drawn_and_it_is_said(workdir, capsys):
    np.save(workdir / "v.npy", np.arange(5 * 32 * 32, dtype=np.uint8).reshape(5, 32, 32))
    out = workdir / "v.gif"
    argv = [f"--workdir={workdir}", "--json", f"--visualise={out}", str(workdir / "v.npy")]
    assert predict.main(argv) == 0
    text, err = capsys.readouterr()
    assert err == "stand-in has no region graph: only its labels are drawn\n"
    assert f'"drawn": "{out}"' in text
    with Image.open(out) as film:
        assert film.n_frames == 5 and film.size == (480 + annotate_video.PANEL, 480)
        assert film.info["duration"] == 200
        shown = np.asarray(film.convert("RGB").crop((0, 0, 480, 480)), float)
    expected = Image.fromarray(np.load(workdir / "v.npy")[0]).resize((480, 480), 3)
    assert np.abs(shown - np.asarray(expected)[..., None]).mean() < 4
