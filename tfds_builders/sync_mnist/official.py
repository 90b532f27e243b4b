"""Renders the published test set of SyncMNIST from its file of paths.

    python -m tfds_builders.sync_mnist.official PATHS.npz --mnist_dir=DIR --out=DIR

writes OUT/videos.npy, uint8 [10000 10 64 64], and OUT/labels.npy, int32 [10000]. PATHS.npz holds

  coords_digits   [1 b t n 2]  (row, column) of the top left corner of each sprite, the pair first
  ind_digits      [1 b n]      index of each digit among MNIST's test images
  sincron_prob    [1 b]        1 where the pair is synchronous, 0 where there is none
  digit_position, set_digits, label_of_pair, label_random and num_classes are not used
"""

import pathlib
import sys
import zipfile
from collections.abc import Sequence

import numpy as np
import tqdm

from rstg_jax import cli
from rstg_jax.data.sync_mnist import canvas, generator, renderer
from rstg_jax.data.sync_mnist import digits as digits_lib
from rstg_jax.errors import UserError, reason

_CHUNK = 200  # videos rendered at a time


def render(paths_file: pathlib.Path, mnist_dir: str, out: pathlib.Path) -> None:
    """Writes the videos and labels of all paths in a file.

    Raises:
      UserError: A file is missing, damaged or inconsistent with the others.
    """
    images, coords, synchronous = _read_paths(paths_file)
    digits = digits_lib.load("idx", "test", mnist_dir=mnist_dir)
    if images.size and images.max() >= len(digits):
        raise UserError(
            f"{paths_file}: digit image {images.max()} is not among the {len(digits)} test images "
            f"of {mnist_dir}"
        )
    if coords.size and coords.max() > canvas.CANVAS - canvas.SPRITE:
        raise UserError(f"{paths_file}: a sprite at {coords.max()} leaves the canvas")
    pair = digits.classes[images[:, :2]]
    none = len(generator.VideoSpec().label_names) - 1
    labels = np.where(synchronous, generator.pair_label(pair[:, 0], pair[:, 1]), none)
    render = renderer.Renderer(digits.images)
    try:
        out.mkdir(parents=True, exist_ok=True)
        np.save(out / "labels.npy", labels.astype(np.int32))
        shape = (*coords.shape[:2], render.frame_size, render.frame_size)
        videos = np.lib.format.open_memmap(
            out / "videos.npy", mode="w+", dtype=np.uint8, shape=shape
        )
        for first in tqdm.trange(0, len(images), _CHUNK, unit_scale=_CHUNK, unit=" videos"):
            block = slice(first, first + _CHUNK)
            videos[block] = render(images[block], coords[block])[..., 0]
        videos.flush()
    except OSError as e:
        raise UserError(f"{e.filename or out}: {e.strerror}") from e
    print(f"{out / 'videos.npy'}: {' x '.join(map(str, shape))} bytes; {out / 'labels.npy'}")


def _read_paths(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Digit images int64 [b n], corners int64 [b t n 2], synchronous bool [b]."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            images = arrays["ind_digits"][0].astype(np.int64)
            coords = arrays["coords_digits"][0].astype(np.int64)
            synchronous = arrays["sincron_prob"][0].astype(bool)
    except KeyError as e:
        raise UserError(f"{path}: {e.args[0]}") from e
    except (OSError, ValueError, EOFError, IndexError, zipfile.BadZipFile) as e:
        raise UserError(f"{path}: cannot be read as a file of paths ({reason(e)})") from e
    b, n = images.shape
    if coords.ndim != 4 or coords.shape[::2] != (b, n) or synchronous.shape != (b,):
        raise UserError(
            f"{path}: ind_digits {images.shape}, coords_digits {coords.shape} and sincron_prob "
            f"{synchronous.shape} do not fit together"
        )
    return images, coords, synchronous


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = cli.command_parser("tfds_builders.sync_mnist.official", __doc__)
    parser.add_argument("paths", type=pathlib.Path, help="file of paths (.npz)")
    parser.add_argument("--mnist_dir", required=True, help="directory of the MNIST files")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="directory to write to")
    flags = parser.parse_args(argv)
    render(flags.paths, flags.mnist_dir, flags.out)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
