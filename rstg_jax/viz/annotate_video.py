"""Draws over the frames of a film what a network makes of them.

Over the part of the frame that the network sees lies its region graph: the cells of the finest grid
and the dots of all regions have the colour of the region's activity, lines are the messages that
get the most attention. A panel beside it names the three likeliest labels so far.

A clip model is shown in one view, the centred crop of one sampling of frames; the rest of the frame
is dimmed, and a frame that the clip leaves out shows the values of the nearest one that it has.
"""

import fractions
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from rstg_jax import animate
from rstg_jax.data import DataConfig, SyncMNISTConfig
from rstg_jax.data.video import crops, decode, frame_sampling
from rstg_jax.data.video.seek import readable
from rstg_jax.errors import UserError
from rstg_jax.inference import protocols, video_input
from rstg_jax.rstg.region_graph import RegionGraph
from rstg_jax.training import checkpoint
from rstg_jax.viz import draw_graph, panels

SIDE = 480  # height of the drawn frames in pixels
WIDEST = 854  # and the largest width; wider frames are lower
PANEL = 330  # width of the panel
EDGES = 8  # messages drawn in a frame
TOP = 3  # labels named
OUTSIDE = 0.45  # brightness of what the network does not see
SEEN_COLOR = (230, 232, 236)
BAR_COLOR = (76, 201, 240)
STILLS_FPS, DIGITS_FPS = 12, 5  # pace where a file does not say it: of clips, of SyncMNIST
MOST_FPS = 120  # a file that says more does not know it


class ClipOutputs(NamedTuple):
    """What the network made of a clip, `t` being its own frames (fewer after temporal pooling).

    Attributes:
      running: probabilities of all classes as far as frame t, float `[t classes]`; the last are
        those of the prediction.
      activity: norm of each node's features, from 0 for the least to 1 for the most active region
        of its scale in this clip, float `[t n]`; None without a graph.
      attention: mean over rounds, float `[t i j]`; None without messages.
    """

    running: np.ndarray
    activity: np.ndarray | None
    attention: np.ndarray | None


class Placement(NamedTuple):
    """Where a clip is in its video.

    Attributes:
      nearest: for each frame of the video the nearest frame of the clip, int64 `[frames]`.
      sampled: whether it is that frame itself, bool `[frames]`.
      frames: of the clip.
      box: what the network sees, `y0 x0 y1 x1` in fractions of the frame.
    """

    nearest: np.ndarray
    sampled: np.ndarray
    frames: int
    box: tuple[float, float, float, float]

    @classmethod
    def whole(cls, frames: int) -> "Placement":
        """A clip that is all of its video."""
        return cls(np.arange(frames), np.ones(frames, bool), frames, (0.0, 0.0, 1.0, 1.0))


class Visualiser:
    """A checkpoint ready to be watched. Compiles once a shape of clips."""

    def __init__(self, loaded: checkpoint.Loaded):
        config = loaded.experiment.data
        if not isinstance(config, SyncMNISTConfig):
            config = protocols.with_protocol(config, protocols.CENTER)
        self._config, self._names = config, loaded.label_names
        self._shape = tuple(loaded.meta["video_shape"])
        self._variables, scales = loaded.variables, loaded.experiment.model.rstg.scales
        readout = loaded.experiment.model.readout

        def look(variables: Mapping[str, Any], video: jax.Array) -> dict[str, jax.Array]:
            _, out = loaded.module.apply(variables, video[None], train=False)
            logits = out["frame_logits"][0]  # [t classes]
            if readout == "mean":
                logits = jnp.cumsum(logits, 0) / jnp.arange(1, len(logits) + 1)[:, None]
            seen = {"running": jax.nn.softmax(logits)}
            if "nodes" in out:
                nodes = out["nodes"][0].astype(jnp.float32)  # [t n d]
                seen["activity"] = jnp.linalg.norm(nodes, axis=-1)
            if "attention" in out:
                seen["attention"] = out["attention"][:, 0].mean(axis=0)
            return seen

        self._look = jax.jit(look)
        spec = jax.ShapeDtypeStruct(self._shape, np.uint8)
        self._graph = None
        if "activity" in jax.eval_shape(look, loaded.abstract.variables, spec):
            self._graph = RegionGraph(scales)

    @property
    def has_graph(self) -> bool:
        """Whether there are regions to draw."""
        return self._graph is not None

    def run_model(self, video: np.ndarray) -> ClipOutputs:
        """Runs one clip, uint8 `[t h w c]`, through the network."""
        out = jax.device_get(self._look(self._variables, video))
        activity = out.get("activity")
        if activity is not None and self._graph is not None:
            activity = relative(activity, self._graph)
        return ClipOutputs(out["running"], activity, out.get("attention"))

    def write(self, source: decode.Encoded | np.ndarray, out: Path) -> None:
        """Draws one video.

        Args:
          source: an encoded video such as the path of a file, or one uint8 `[t h w c]` that the
            network sees as it is.
          out: ends in .mp4, .webm, .gif or .webp.

        Raises:
          UserError: the video cannot be read, or the film not be written; nothing is left of it.
        """
        if isinstance(source, np.ndarray):
            images = (panels.draw_frame(frame, len(frame)) for frame in source)
            self._save(images, self.run_model(source), Placement.whole(len(source)), out, source)
            return
        with decode.opened(source) as frames:
            seen = self.run_model(video_input.of_frames(frames, self._config, self._shape))
            placement = place(self._config, len(frames), next(frames.images([0])).size)
            self._save(frames.images(range(len(frames))), seen, placement, out, source)

    def _save(
        self,
        images: Iterator[Image.Image],
        seen: ClipOutputs,
        placement: Placement,
        out: Path,
        source: decode.Encoded | np.ndarray,
    ) -> None:
        """Draws the frames of a source, at its own pace."""
        slow = isinstance(self._config, SyncMNISTConfig)
        fps = pace(source) or fractions.Fraction(DIGITS_FPS if slow else STILLS_FPS)
        drawn = draw(images, seen, placement, self._graph, self._names)
        animate.write(drawn, out, fps, frame_ms=round(1000 / fps))


def pace(source: decode.Encoded | np.ndarray) -> fractions.Fraction | None:
    """Frames a second of a film; None if it does not say, or is none."""
    if isinstance(source, Path) and source.suffix.lower() not in decode.VIDEO_EXTENSIONS:
        return None
    if isinstance(source, tuple | np.ndarray):
        return None
    with av.open(readable(source), "r") as container:
        rate = container.streams.video[0].average_rate
    return fractions.Fraction(rate) if rate and rate <= MOST_FPS else None


def relative(activity: np.ndarray, graph: RegionGraph) -> np.ndarray:
    """Stretches the activities `[t n]` of each scale of one clip to 0..1.

    Regions of different sizes differ in norm in every frame of every video; what is of interest is
    which of the same size is active, and when.
    """
    stretched = np.empty(activity.shape)
    for nodes in graph.scale_slices:
        values = activity[:, nodes]
        low, high = values.min(), values.max()
        stretched[:, nodes] = (values - low) / max(high - low, 1e-9)
    return stretched


def place(config: DataConfig, length: int, size: crops.Size) -> Placement:
    """Finds the centred view of a video, as testing takes it.

    Args:
      config: of the data.
      length: frames of the video.
      size: width and height of its frames.
    """
    if isinstance(config, SyncMNISTConfig):
        return Placement.whole(length)
    clip = config.clip
    chosen = frame_sampling.view_frames(clip.sampling, length, clip.frames, stride=clip.stride)
    distance = np.abs(np.arange(length)[:, None] - chosen)  # [frames t]
    latest = clip.frames - 1 - distance[:, ::-1].argmin(axis=1)  # of frames as near as each other
    width, height = crops.resized(size, clip.resize)
    box = crops.view_boxes((width, height), clip.view_size or clip.crop, 1)[0]
    return Placement(
        latest,
        distance.min(axis=1) == 0,
        clip.frames,
        (
            box.top / height,
            box.left / width,
            (box.top + box.height) / height,
            (box.left + box.width) / width,
        ),
    )


def draw(
    images: Iterator[Image.Image],
    seen: ClipOutputs,
    placement: Placement,
    graph: RegionGraph | None,
    names: Sequence[str],
) -> Iterator[Image.Image]:
    """Draws the frames of a video, one after the other.

    Args:
      images: all frames, RGB.
      seen: what the network made of the clip.
      placement: where the clip is.
      graph: the regions; None to draw labels only.
      names: of the labels.
    """
    boxes: dict[tuple[int, int], tuple[int, int, int, int]] = {}

    @functools.lru_cache(maxsize=4)
    def layer(time: int, size: tuple[int, int]) -> Image.Image:
        assert graph is not None and seen.activity is not None
        attention = None if seen.attention is None else seen.attention[time]
        return draw_graph.graph_layer(
            size, graph, attention, edges=EDGES, activity=seen.activity[time]
        )

    for number, image in enumerate(images):
        image = _shrunk(image)
        box = boxes.setdefault(image.size, _pixels(placement.box, image.size))
        time = network_time(int(placement.nearest[number]), placement.frames, len(seen.running))
        picture = ImageEnhance.Brightness(image).enhance(OUTSIDE)
        inside = image.crop(box).convert("RGBA")
        if graph is not None and seen.activity is not None:
            inside = Image.alpha_composite(inside, layer(time, inside.size))
        picture.paste(inside.convert("RGB"), box)
        if (box[2] - box[0], box[3] - box[1]) != image.size:
            edge = (box[0], box[1], box[2] - 1, box[3] - 1)
            ImageDraw.Draw(picture).rectangle(edge, outline=SEEN_COLOR, width=2)
        sheet = Image.new("RGB", (image.width + PANEL, max(image.height, SIDE)), draw_graph.GROUND)
        sheet.paste(picture, (0, (sheet.height - image.height) // 2))
        place_in_time = f"frame {number + 1} of {len(placement.nearest)}"
        if placement.sampled[number]:
            place_in_time += ", seen by the network"
        panel = ImageDraw.Draw(sheet)
        _panel(panel, image.width + 18, seen.running[time], names, place_in_time)
        if graph is not None:
            _legend(panel, image.width + 18, sheet.height, seen.attention is not None)
        yield sheet


def network_time(frame: int, frames: int, times: int) -> int:
    """The network's own frame for a frame of its clip; temporal pooling makes fewer of them."""
    return frame * times // frames


def _shrunk(image: Image.Image) -> Image.Image:
    """A frame at the size in which it is drawn."""
    scale = min(SIDE / image.height, WIDEST / image.width)
    size = (max(2, round(image.width * scale)), max(2, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC)


def _pixels(
    box: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """A box `y0 x0 y1 x1` in fractions of a frame as left, top, right, bottom in its pixels."""
    y0, x0, y1, x1 = box
    width, height = size
    return round(x0 * width), round(y0 * height), round(x1 * width), round(y1 * height)


def _panel(
    draw: ImageDraw.ImageDraw, x: int, running: np.ndarray, names: Sequence[str], text: str
) -> None:
    """Writes the likeliest labels with their probabilities as bars."""
    width, y = PANEL - 36, 18
    draw.text((x, y), text, fill=panels.MUTED, font=ImageFont.load_default(13))
    draw.text((x, y + 28), "likeliest so far", fill=panels.TEXT, font=ImageFont.load_default(15))
    y += 58
    for rank, label in enumerate(np.argsort(-running, kind="stable")[:TOP]):
        color = panels.TEXT if rank == 0 else panels.MUTED
        probability = float(running[label])
        for line in panels.wrapped(draw, names[label], 15, width, lines=3):
            draw.text((x, y), line, fill=color, font=ImageFont.load_default(15))
            y += 20
        draw.rectangle((x, y + 5, x + width - 52, y + 13), fill=(44, 48, 56))
        if round((width - 52) * probability):
            end = x + round((width - 52) * probability)
            draw.rectangle((x, y + 5, end, y + 13), fill=BAR_COLOR if rank == 0 else color)
        percent = f"{probability:.0%}"
        font = ImageFont.load_default(13)
        draw.text((x + width - 44, y + 1), percent, fill=color, font=font)
        y += 34


def _legend(draw: ImageDraw.ImageDraw, x: int, height: int, messages: bool) -> None:
    """Says what the colours mean, at the foot of the panel."""
    font, width, y = ImageFont.load_default(13), PANEL - 36, height - 74
    for step in range(width):
        draw.line((x + step, y, x + step, y + 8), fill=draw_graph.heat(step / (width - 1)))
    draw.text((x, y + 13), "region at rest", fill=panels.MUTED, font=font)
    end = draw.textlength("active", font=font)
    draw.text((x + width - end, y + 13), "active", fill=panels.MUTED, font=font)
    if messages:
        draw.polygon([(x, y + 46), (x + 30, y + 42), (x + 30, y + 50)], fill=panels.TEXT)
        text = "message, thick end at the receiver"
        draw.text((x + 40, y + 38), text, fill=panels.MUTED, font=font)


def output_paths(out: Path, names: Sequence[str]) -> list[Path]:
    """Where each video is drawn to: to `out` itself, or several into a directory of that name.

    Raises:
      UserError: `out` names one film, but there are several videos; or it cannot be made.
    """
    if out.suffix and not out.is_dir():
        animate.check_kind(out)
        if len(names) > 1:
            raise UserError(
                f"--visualise={out} is one film for {len(names)} videos; name a directory"
            )
        if not out.absolute().parent.is_dir():
            raise UserError(f"--visualise={out}: there is no such directory")
        return _not_among([out], names)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--visualise={out}: {error.strerror}") from error
    paths: list[Path] = []
    for name in names:
        stem = Path(name).stem.replace(":", "-") or "video"
        same = sum(path.stem == stem or path.stem.startswith(f"{stem}~") for path in paths)
        paths.append(out / (f"{stem}~{same + 1}.mp4" if same else f"{stem}.mp4"))
    return _not_among(paths, names)


def _not_among(paths: list[Path], names: Sequence[str]) -> list[Path]:
    """Refuses to draw a video onto itself or onto another one."""
    known = {Path(name).resolve() for name in names}
    for path in paths:
        if path.resolve() in known:
            raise UserError(f"--visualise: {path} is one of the videos; name another place")
    return paths
