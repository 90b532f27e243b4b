"""Draws a network's predictions, region activity and attention over the frames of a video.

The region graph covers the part of the frame that the network receives: colours of cells and dots
show the activity of the regions, lines the messages with the most attention. If the nodes are
objects, there are dots where these are, and no cells. A panel beside the
frame lists the three most likely labels so far.

Only one view of a video is shown, the centred crop of one sampling of frames. The rest of the frame
is dimmed, and frames that are not sampled show the values of the nearest sampled one.
"""

import fractions
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from rstg_jax.data import Placement
from rstg_jax.data.video import decode
from rstg_jax.errors import UserError
from rstg_jax.rstg.region_graph import Graph
from rstg_jax.training import losses, trained_model
from rstg_jax.viz import draw_graph, output_files, panels, prediction_page, video_writer

SIDE = 480  # height of the drawn frames in pixels
WIDEST = 854  # largest width; wider frames are lower
PANEL = 330  # width of the panel
EDGES = 8  # messages drawn per frame
TOP = 3  # labels listed
OUTSIDE = 0.45  # brightness of the part that the network does not receive
SEEN_COLOR = (230, 232, 236)
BAR_COLOR = (76, 201, 240)


class ClipOutputs(NamedTuple):
    """Outputs of the network for a clip. Temporal pooling makes `t` smaller than in the clip.

    Attributes:
      running: Probabilities of all classes given the frames up to t, float `[t classes]`; the last
        row is the prediction.
      activity: Norm of each node's features, from 0 for the least to 1 for the most active region
        of its scale in this clip, float `[t n]`; None without a graph.
      attention: Mean over rounds, float `[t i j]`; None without messages.
      objects: Where the nodes are, if they are objects, see `draw_graph.object_places`; else None.
    """

    running: np.ndarray
    activity: np.ndarray | None
    attention: np.ndarray | None
    objects: np.ndarray | None = None


class Visualiser:
    """Annotates videos with a checkpoint. Compiles once per shape of clips."""

    def __init__(self, loaded: trained_model.TrainedModel):
        self._config, self._names = loaded.data.single_view(), loaded.label_names
        self._variables, block = loaded.variables, loaded.experiment.model.rstg
        readout, kind = loaded.experiment.model.readout, loaded.experiment.loss.kind

        def forward(variables: Mapping[str, Any], video: jax.Array) -> dict[str, jax.Array]:
            _, out = loaded.module.apply(variables, video[None], train=False)
            logits = out["frame_logits"][0]  # [t classes]
            if readout == "mean":
                logits = jnp.cumsum(logits, 0) / jnp.arange(1, len(logits) + 1)[:, None]
            outputs = {"running": losses.probabilities(logits, kind)}
            if "nodes" in out:
                nodes = out["nodes"][0].astype(jnp.float32)  # [t n d]
                outputs["activity"] = jnp.linalg.norm(nodes, axis=-1)
            if "attention" in out:
                outputs["attention"] = out["attention"][:, 0].mean(axis=0)
            if "objects" in out:
                outputs |= {"found": out["objects"].found[0], "places": out["objects"].places[0]}
            return outputs

        self._forward = jax.jit(forward)
        spec = jax.ShapeDtypeStruct(tuple(loaded.meta["video_shape"]), np.uint8)
        self._graph = None
        if "activity" in jax.eval_shape(forward, loaded.abstract, spec):
            self._graph = block.graph()

    @property
    def has_graph(self) -> bool:
        """Whether the network has regions to draw."""
        return self._graph is not None

    def run_model(self, video: np.ndarray) -> ClipOutputs:
        """Runs the network on one clip, uint8 `[t h w c]`."""
        out = jax.device_get(self._forward(self._variables, video))
        activity = out.get("activity")
        if activity is not None and self._graph is not None:
            activity = relative(activity, self._graph)
        objects = None
        if "found" in out:
            objects = draw_graph.object_places(out["found"], out["places"])
        return ClipOutputs(out["running"], activity, out.get("attention"), objects)

    def write(self, source: decode.Encoded | np.ndarray, out: Path) -> None:
        """Annotates one video.

        Args:
          source: An encoded video such as the path of a file, or a clip, uint8 `[t h w c]`, that
            the network receives unchanged.
          out: Ends in .mp4, .webm, .gif or .webp.

        Raises:
          UserError: The video cannot be read, or `out` cannot be written; no part of it is left.
        """
        if isinstance(source, np.ndarray):
            images = (panels.draw_frame(frame, len(frame)) for frame in source)
            outputs = self.run_model(source)
            self._save(images, outputs, Placement.whole(len(source)), out, None)
            return
        with decode.opened(source) as frames:
            outputs = self.run_model(self._config.read_video(frames))
            placement = self._config.placement(len(frames), next(frames.images([0])).size)
            self._save(frames.images(range(len(frames))), outputs, placement, out, frames.fps)

    def _save(
        self,
        images: Iterator[Image.Image],
        outputs: ClipOutputs,
        placement: Placement,
        out: Path,
        fps: fractions.Fraction | None,
    ) -> None:
        """Writes the annotated frames of a video at its own frame rate, where that is known."""
        drawn = draw(images, outputs, placement, self._graph, self._names)
        video_writer.write(drawn, out, fps or self._config.fps)


def network_time(frame: int, frames: int, times: int) -> int:
    """Index of the network output for a frame of its clip; temporal pooling makes fewer of them."""
    return frame * times // frames


def relative(activity: np.ndarray, graph: Graph) -> np.ndarray:
    """Rescales the activities `[t n]` of one clip to 0..1, separately for each scale.

    Norms always differ between scales; the drawing compares regions of the same scale over time.
    """
    stretched = np.empty(activity.shape)
    for nodes in graph.scale_slices:
        values = activity[:, nodes]
        low, high = values.min(), values.max()
        stretched[:, nodes] = (values - low) / max(high - low, 1e-9)
    return stretched


def draw(
    images: Iterator[Image.Image],
    outputs: ClipOutputs,
    placement: Placement,
    graph: Graph | None,
    names: Sequence[str],
) -> Iterator[Image.Image]:
    """Yields the annotated frames of a video, one after the other.

    Args:
      images: All frames, RGB.
      outputs: Outputs of the network for the clip.
      placement: Position of the clip in the video.
      graph: The regions; None to draw labels only.
      names: Of the labels.
    """
    boxes: dict[tuple[int, int], tuple[int, int, int, int]] = {}

    @functools.lru_cache(maxsize=4)
    def layer(time: int, size: tuple[int, int]) -> Image.Image:
        assert graph is not None and outputs.activity is not None
        attention = None if outputs.attention is None else outputs.attention[time]
        objects = None if outputs.objects is None else outputs.objects[time]
        return draw_graph.graph_layer(
            size, graph, attention, edges=EDGES, activity=outputs.activity[time], objects=objects
        )

    for number, image in enumerate(images):
        image = _shrunk(image)
        box = boxes.setdefault(image.size, _pixels(placement.box, image.size))
        time = network_time(int(placement.nearest[number]), placement.frames, len(outputs.running))
        picture = ImageEnhance.Brightness(image).enhance(OUTSIDE)
        inside = image.crop(box).convert("RGBA")
        if graph is not None and outputs.activity is not None:
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
        _panel(panel, image.width + 18, outputs.running[time], names, place_in_time)
        if graph is not None:
            _legend(panel, image.width + 18, sheet.height, outputs.attention is not None)
        yield sheet


def _shrunk(image: Image.Image) -> Image.Image:
    """Resizes a frame to the size in which it is drawn."""
    scale = min(SIDE / image.height, WIDEST / image.width)
    size = (max(2, round(image.width * scale)), max(2, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC)


def _pixels(
    box: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Converts a box `y0 x0 y1 x1` in fractions of a frame to left, top, right, bottom pixels."""
    y0, x0, y1, x1 = box
    width, height = size
    return round(x0 * width), round(y0 * height), round(x1 * width), round(y1 * height)


def _panel(
    draw: ImageDraw.ImageDraw, x: int, running: np.ndarray, names: Sequence[str], text: str
) -> None:
    """Writes the most likely labels with their probabilities as bars."""
    width, y = PANEL - 36, 18
    draw.text((x, y), text, fill=panels.MUTED, font=ImageFont.load_default(13))
    draw.text((x, y + 28), "most likely so far", fill=panels.TEXT, font=ImageFont.load_default(15))
    y += 58
    for rank, label in enumerate(np.argsort(-running, kind="stable")[:TOP]):
        color = panels.TEXT if rank == 0 else panels.MUTED
        probability = float(running[label])
        for line in panels.fit_text(names[label], 15, width, lines=3):
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
    """Explains the colours at the bottom of the panel."""
    font, width, y = ImageFont.load_default(13), PANEL - 36, height - 74
    for step in range(width):
        draw.line((x + step, y, x + step, y + 8), fill=draw_graph.heat(step / (width - 1)))
    draw.text((x, y + 13), "at rest", fill=panels.MUTED, font=font)
    end = draw.textlength("active", font=font)
    draw.text((x + width - end, y + 13), "active", fill=panels.MUTED, font=font)
    if messages:
        draw.polygon([(x, y + 46), (x + 30, y + 42), (x + 30, y + 50)], fill=panels.TEXT)
        text = "message, thick end at the receiver"
        draw.text((x + 40, y + 38), text, fill=panels.MUTED, font=font)


def output_paths(out: Path, names: Sequence[str]) -> list[Path]:
    """Returns the file for each annotated video: `out` itself, or files in the directory `out`.

    Raises:
      UserError: `out` is one file but there are several videos, it cannot be created, or it has
        somebody else's file of such a name.
    """
    if out.suffix and not out.is_dir():
        video_writer.check_suffix(out)
        if len(names) > 1:
            raise UserError(
                f"--visualise={out} is one file for {len(names)} videos; name a directory"
            )
        if not out.absolute().parent.is_dir():
            raise UserError(f"--visualise={out}: there is no such directory")
        return _not_among([out], names)
    paths = output_files.paths_in(out, names, "--visualise", [".mp4"], prediction_page.NAME)
    return _not_among(paths, names)


def _not_among(paths: list[Path], names: Sequence[str]) -> list[Path]:
    """Refuses to overwrite one of the videos."""
    known = {Path(name).resolve() for name in names}
    for path in paths:
        if path.resolve() in known:
            raise UserError(f"--visualise: {path} is one of the videos; name another place")
    return paths
