"""How many clips one core loads a second, and what the time goes into.

    python -m benchmarks.clip_loading [--clips=4] [--length=48] [--frames=32] [--json=FILE]
    python -m benchmarks.clip_loading --processes=0,1,2 [--batch_size=8] [--batches=20]

Clips are drawn, encoded and then loaded as training loads them: official sampling of 32 frames,
short side 256, a random 224 crop, brightness. Rows are the ways of storing a clip: JPEG frames of
100 rows (V1), JPEG frames of 256 rows (prepared V2), VP9 of 240 rows (V2's own files) with
keyframes 128 apart, as libvpx puts them, and 12 apart; "2 s of 20 s" reads 32 frames, 2 apart,
anywhere in a video ten times as long. `plain` is what one writes first: decode all frames,
resize all, then choose and crop. One thread; its processor time, best of the repeats, so that
other work on the machine matters little.

Shares: `read` opens the container and parses its packets, `decode` makes RGB pictures, `cut` is
resize and crop with brightness; the rest is copying.

With `--processes`: training batches of JPEG clips of 256 rows by the number of worker processes
(`data.processes`; 0 decodes in threads of one), by the clock: clips a second, seconds to the first
batch, and the memory of a worker that it shares with no other.
"""

import argparse
import contextlib
import dataclasses
import functools
import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
from PIL import Image

from rstg_jax import cli, data, files
from rstg_jax.data import ClipConfig
from rstg_jax.data.video import clip_transforms, crops, decode, frame_sampling
from rstg_jax.data.video.clip_source import Clip, ClipSource


@dataclasses.dataclass(frozen=True)
class Case:
    """A way of storing clips, and how they are sampled."""

    name: str
    height: int
    codec: str = ""  # JPEG frames if empty
    keyframes: int = 0
    longer: int = 1
    rule: frame_sampling.Rule = "linspace"


CASES = (
    Case("JPEG, 100 rows", 100),
    Case("JPEG, 256 rows", 256),
    Case("VP9, 240 rows", 240, "libvpx-vp9", 128),
    Case("VP9, keyframes", 240, "libvpx-vp9", 12),
    Case("VP9, 2 s of 20 s", 240, "libvpx-vp9", 12, 10, "stride"),
    Case("H.264, 240 rows", 240, "libx264", 48),
)


def drawn(count: int, height: int, seed: int) -> list[Image.Image]:
    """A moving scene of 4:3 with texture and the noise of a camera."""
    rng = np.random.default_rng(seed)
    width = height * 4 // 3
    coarse = rng.integers(0, 255, (height // 8, width // 4, 3)).astype(np.uint8)
    scene = Image.fromarray(coarse).resize((2 * width, height), Image.Resampling.BICUBIC)
    frames = []
    for i in range(count):
        left = round(width / 2 * (1 + np.sin(i / 20)))
        frame = np.asarray(scene.crop((left, 0, left + width, height)), np.float32)
        noisy = frame + rng.normal(0, 4, frame.shape)
        frames.append(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)))
    return frames


def encoded(case: Case, length: int, seed: int) -> decode.Encoded:
    """One clip as it would be stored."""
    frames = drawn(length * case.longer, case.height, seed)
    if not case.codec:
        buffers = [io.BytesIO() for _ in frames]
        for frame, buffer in zip(frames, buffers, strict=True):
            frame.save(buffer, "JPEG", quality=95)
        return tuple(buffer.getvalue() for buffer in buffers)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="webm" if "vp" in case.codec else "mp4") as film:
        stream = film.add_stream(case.codec, rate=12)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        fast = {"deadline": "realtime", "cpu-used": "8"} if "vp" in case.codec else {}
        stream.options = {**fast, "crf": "30", "g": str(case.keyframes)}
        for frame in frames:
            film.mux(stream.encode(av.VideoFrame.from_image(frame)))
        film.mux(stream.encode())
    return buffer.getvalue()


def ours(source: decode.Encoded, config: ClipConfig, draws: np.ndarray) -> np.ndarray:
    """As training loads a clip."""
    with decode.opened(source) as frames:
        return clip_transforms.training_clip(frames, config, draws, mirror=False).pixels


def plain(source: decode.Encoded, config: ClipConfig, draws: np.ndarray) -> np.ndarray:
    """Everything is decoded and resized, and most of it thrown away."""
    images: list[Image.Image]
    if isinstance(source, tuple):
        contents = [content for content in source if isinstance(content, bytes)]
        images = [Image.open(io.BytesIO(content)).convert("RGB") for content in contents]
    else:
        assert isinstance(source, bytes)
        with av.open(io.BytesIO(source), "r") as film:
            film.streams.video[0].codec_context.thread_count = 1
            images = [frame.to_image() for frame in film.decode(video=0)]
    size = crops.resized(images[0].size, config.resize)
    whole = np.stack([np.asarray(im.resize(size, Image.Resampling.BICUBIC)) for im in images])
    indices = frame_sampling.train_frames(
        config.sampling, len(images), config.frames, draws[5:], stride=config.stride
    )
    box = crops.train_box(size, config.crop, (), draws[2:5])
    table = np.array(crops.brightness_table(0.2 * draws[1] - 0.1)[:256], np.uint8)
    right, bottom = box.left + config.crop, box.top + config.crop
    return table[whole[indices, box.top : bottom, box.left : right]]


def only_opened(source: decode.Encoded, config: ClipConfig, draws: np.ndarray) -> None:
    """The share `read`."""
    with decode.opened(source):
        pass


def only_decoded(source: decode.Encoded, config: ClipConfig, draws: np.ndarray) -> int:
    """The shares `read` and `decode`."""
    with decode.opened(source) as frames:
        indices = frame_sampling.train_frames(
            config.sampling, len(frames), config.frames, draws[5:], stride=config.stride
        )
        return sum(1 for _ in frames.images(np.unique(indices).tolist()))


def only_cut(source: decode.Encoded, config: ClipConfig, draws: np.ndarray) -> Callable[[], None]:
    """The share `cut`, to be timed when the frames have been decoded."""
    with decode.opened(source) as frames:
        indices = frame_sampling.train_frames(
            config.sampling, len(frames), config.frames, draws[5:], stride=config.stride
        )
        images = list(frames.images(np.unique(indices).tolist()))
    size = crops.resized(images[0].size, config.resize)
    box = crops.train_box(size, config.crop, (), draws[2:5])
    table = crops.brightness_table(0.2 * draws[1] - 0.1)

    def cut() -> None:
        for image in images:
            crops.cut(image, size, box, (config.crop, config.crop)).point(table)

    return cut


def seconds(runs: list[Callable[[], object]], repeats: int) -> float:
    """Mean time of the runs, each the best of its repeats."""
    return float(np.mean([min(_timed(run) for _ in range(repeats)) for run in runs]))


def _timed(run: Callable[[], object]) -> float:
    start = time.thread_time()
    run()
    return time.thread_time() - start


def measured(case: Case, flags: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    config = ClipConfig(frames=flags.frames, sampling=case.rule, stride=2)
    rng = np.random.default_rng(0)
    sources = [encoded(case, flags.length, seed) for seed in range(flags.clips)]
    draws = [rng.random(config.num_draws) for _ in sources]

    def time_of(run: Callable[..., object]) -> float:
        runs: list[Callable[[], object]] = [
            functools.partial(run, s, config, d) for s, d in zip(sources, draws, strict=True)
        ]
        return seconds(runs, flags.repeats)

    cuts: list[Callable[[], object]] = [
        only_cut(s, config, d) for s, d in zip(sources, draws, strict=True)
    ]
    total, opening, decoding = time_of(ours), time_of(only_opened), time_of(only_decoded)
    error = [
        int(np.abs(ours(s, config, d).astype(int) - plain(s, config, d)).max())
        for s, d in zip(sources[:2], draws, strict=False)
    ]
    stored = [sum(map(len, s)) if isinstance(s, tuple) else len(s) for s in sources]  # type: ignore
    return {
        "case": case.name,
        "clips_per_second": 1 / total,
        "milliseconds": 1e3 * total,
        "read": opening / total,
        "decode": (decoding - opening) / total,
        "cut": seconds(cuts, flags.repeats) / total,
        "plain_clips_per_second": 1 / time_of(plain),
        "kilobytes": float(np.mean(stored)) / 1e3,
        "largest_difference": max(error),
    }


class Repeated:
    """A split of a few clips that looks longer; satisfies `Clips`."""

    def __init__(self, sources: Sequence[decode.Encoded]):
        self._sources = sources

    def __len__(self) -> int:
        return 1000

    def load(self, indices: Sequence[int]) -> list[Clip]:
        count = len(self._sources)
        return [Clip(str(i), "memory", i % 2, self._sources[i % count]) for i in indices]


def measured_workers(processes: int, flags: argparse.Namespace) -> dict[str, Any]:
    """One row of `--processes`."""
    sources = [encoded(CASES[1], flags.length, seed) for seed in range(flags.clips)]
    source = ClipSource(
        Repeated(sources),
        ClipConfig(frames=flags.frames),
        name="memory",
        label_names=("a", "b"),
        provenance={},
        processes=processes,
    )
    begin = time.perf_counter()
    batches = data.train_batches(source, batch_size=flags.batch_size, seed=0)
    with contextlib.closing(batches):
        next(batches)
        first = time.perf_counter()
        for _ in range(flags.batches):
            next(batches)
        last = time.perf_counter()
        children = psutil.Process().children()
        memory = [c.memory_full_info().uss for c in children if "spawn_main" in str(c.cmdline())]
    return {
        "processes": processes,
        "clips_per_second": flags.batches * flags.batch_size / (last - first),
        "first_batch_seconds": first - begin,
        "worker_megabytes": max(memory, default=0) / 1e6,
    }


def workers_table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The lines that `--processes` prints."""
    yield f"{'processes':<12}{'clips/s':>8}{'first batch':>13}{'worker MB':>11}"
    for row in rows:
        yield (
            f"{row['processes']:<12}{row['clips_per_second']:>8.1f}"
            f"{row['first_batch_seconds']:>11.1f} s{row['worker_megabytes']:>11.0f}"
        )


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The lines that are printed."""
    yield (
        f"{'stored as':<18}{'clips/s':>8}{'ms':>7}{'read':>6}{'decode':>8}{'cut':>6}"
        f"{'plain/s':>9}{'ratio':>7}{'kB':>7}{'differs':>9}"
    )
    for row in rows:
        ratio = row["clips_per_second"] / row["plain_clips_per_second"]
        yield (
            f"{row['case']:<18}{row['clips_per_second']:>8.1f}{row['milliseconds']:>7.1f}"
            f"{row['read']:>6.0%}{row['decode']:>8.0%}{row['cut']:>6.0%}"
            f"{row['plain_clips_per_second']:>9.1f}{ratio:>7.1f}{row['kilobytes']:>7.0f}"
            f"{row['largest_difference']:>9}"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = cli.command_parser("benchmarks.clip_loading", __doc__)
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--length", type=int, default=48, help="frames of a stored clip")
    parser.add_argument("--frames", type=int, default=32, help="frames of a loaded clip")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--processes", help="numbers of worker processes, such as 0,1,2")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--batches", type=int, default=20, help="to be timed, after the first")
    flags = parser.parse_args(argv)
    if flags.processes:
        rows = [measured_workers(int(count), flags) for count in flags.processes.split(",")]
        print("\n".join(workers_table(rows)))
    else:
        rows = [measured(case, flags) for case in CASES]
        print("\n".join(table(rows)))
    if flags.json:
        files.write_json(flags.json, rows)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
