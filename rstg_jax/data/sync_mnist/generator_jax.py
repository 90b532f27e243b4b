"""The SyncMNIST process as a pure JAX function: videos made where the network runs.

The spec and every byte of the pixels are those of `rstg_jax.data.sync_mnist.generator`: the same
random bits give the same video. Only where the bits come from differs, `jax.random` here.
Everything has a static shape, so that `make_video` can be jitted, mapped over keys and sharded.

Frames are resized by products with the small integers of `rstg_jax.data.sync_mnist.pillow_resize`.
Factors are at most 2**8 and sums below 2**24, so that products of bfloat16 numbers summed in
float32, as on TPUs, are exact.

Axes: t frame, n digit (the pair that may move together first), h w rows and columns of a frame, y x
those of the canvas.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rstg_jax.data import object_maps
from rstg_jax.data.sync_mnist import delayed, generator, pillow_resize, renderer
from rstg_jax.data.sync_mnist.canvas import (
    CANVAS,
    MAX_CORNER,
    MAX_STEP,
    SPRITE,
    TRANSPARENT_BELOW,
    map_places,
)
from rstg_jax.data.sync_mnist.generator import VideoSpec
from rstg_jax.data.sync_mnist.objects import object_arrays
from rstg_jax.errors import UserError

MAX_IMAGES = (1 << 16) - 1  # `_below` splits its products at 16 bits


class Sprites(NamedTuple):
    """The digit images that a spec can use, class after class in the order of `spec.classes`.

    Attributes:
      images: uint8 [image 28 28], transparent pixels 0.
      starts: int32 [class], the first image of each class.
      counts: int32 [class], the number of its images.
      source: int32 [image], which image of the `Digits` it is.
    """

    images: jax.Array
    starts: jax.Array
    counts: jax.Array
    source: jax.Array


class Trajectories(NamedTuple):
    """Everything about a video but its pixels.

    Attributes:
      images: int32 [n], index into `Sprites`.
      positions: int32 [n], positions of the digits' classes in `spec.classes`.
      coords: int32 [t n 2], (row, column) of the sprite's corner on the canvas.
      label: int32 [].
    """

    images: jax.Array
    positions: jax.Array
    coords: jax.Array
    label: jax.Array


def sprites(spec: VideoSpec, digits: generator.Digits) -> Sprites:
    """Collects a spec's digit images.

    Raises:
      UserError: A class has no image, or there are more than `MAX_IMAGES`.
    """
    chosen = [digits.by_class[c] for c in spec.classes]
    for c, images in zip(spec.classes, chosen, strict=True):
        if not len(images):
            raise UserError(f"no image of digit {c}: give other classes or other digits")
    source, count = np.concatenate(chosen), np.array([len(images) for images in chosen])
    if len(source) > MAX_IMAGES:
        raise UserError(f"{len(source)} digit images are too many: at most {MAX_IMAGES}")
    images = digits.images[source]
    visible = np.where(images >= TRANSPARENT_BELOW, images, 0).astype(np.uint8)
    arrays = (np.cumsum(count) - count, count, source)
    return Sprites(jnp.asarray(visible), *(jnp.asarray(a, jnp.int32) for a in arrays))


def make_video(
    key: jax.Array, sprites: Sprites, spec: VideoSpec, frame_size: int = 64, maps: bool = False
) -> dict[str, jax.Array]:
    """Draws and renders one video.

    Args:
      key: random key; the video is a function of it and the other arguments.
      sprites: from the function of the same name.
      spec: what to draw.
      frame_size: rows and columns of a frame.
      maps: draw maps of classes, see `rstg_jax.data.object_maps`, instead of pictures.

    Returns:
      video uint8 [t h w 1], of maps [t h w class], and label int32 []; and `object_arrays`.
    """
    bits = jax.random.bits(key, (1 + spec.num_draws,), jnp.uint32)
    lead = _below(bits[0], jnp.int32(len(sprites.images)))
    trajectories = draw(spec, sprites, lead, bits[1:])
    if maps:
        places = map_places(trajectories.coords, frame_size)
        kinds = (trajectories.positions, len(spec.classes))
        video = object_maps.draw(jnp, places, *kinds, frame_size)
    else:
        video = render(sprites.images[trajectories.images], trajectories.coords, frame_size)
    digits = jnp.asarray(spec.classes, jnp.int32)[trajectories.positions]
    objects = object_arrays(jnp, spec, digits, trajectories.coords, trajectories.label)
    return {"video": video, "label": trajectories.label, **objects}


# --- drawing --------------------------------------------------------------------------------------


def draw(spec: VideoSpec, sprites: Sprites, lead: jax.Array, bits: jax.Array) -> Trajectories:
    """Trajectories from random bits, as in `generator.sample`.

    Args:
      spec: what to draw.
      sprites: to choose from.
      lead: int32 [], the first digit's image.
      bits: uint32 [spec.num_draws].
    """
    n = spec.num_digits
    none, which_class, which_image, moves = jnp.split(bits, np.cumsum([1, n - 1, n - 1]))
    below = round(spec.none_probability * 2**32)  # of 2**32 values; one more than uint32 may hold
    is_none = none[0] <= np.uint32(below - 1) if below else jnp.bool_(False)
    positions = _positions(spec, sprites, lead, which_class)
    others = positions[1:]
    drawn = sprites.starts[others] + _below(which_image, sprites.counts[others])
    pair = generator.pair_label(positions[0], positions[1], jnp)
    return Trajectories(
        images=jnp.concatenate([lead[None], drawn]),
        positions=positions,
        coords=_corners(spec, moves.reshape(-1, n, 2), is_none),
        label=jnp.where(is_none, len(spec.label_names) - 1, pair),
    )


def _below(bits: jax.Array, bound: jax.Array) -> jax.Array:
    """Random bits uint32 -> int32 of 0..bound-1: `bits * bound >> 32`, bound below 2**16."""
    bound = bound.astype(jnp.uint32)
    low = (bits & 0xFFFF) * bound >> 16
    return ((bits >> 16) * bound + low >> 16).astype(jnp.int32)


def _positions(spec: VideoSpec, sprites: Sprites, lead: jax.Array, bits: jax.Array) -> jax.Array:
    """Positions of the digits' classes, int32 [n]: the leading image's, then others by chance."""
    place = jnp.arange(len(spec.classes))
    chosen = (sprites.starts <= lead).sum() - 1
    shuffled = place
    for k in range(spec.num_digits):  # Fisher-Yates
        if k:
            chosen = k + _below(bits[k - 1], jnp.int32(len(place) - k))
        swapped = jnp.where(place == chosen, shuffled[k], shuffled)
        shuffled = jnp.where(place == k, shuffled[chosen], swapped)
    return shuffled[: spec.num_digits].astype(jnp.int32)


def _corners(spec: VideoSpec, bits: jax.Array, is_none: jax.Array) -> jax.Array:
    """Random bits [moves n 2] -> corners int32 [t n 2] by the law of motion of a spec."""
    if spec.delay is None:
        return _move(bits[0], bits[1:], is_none)

    def below(bits: jax.Array, bound: int) -> jax.Array:
        return _below(bits, jnp.int32(bound))

    return delayed.move(jnp, below, bits[0], bits[1], bits[2:], ~is_none, spec.delay)


def _move(start: jax.Array, steps: jax.Array, is_none: jax.Array) -> jax.Array:
    """Random bits of starts [n 2] and steps [t n 2] -> corners int32 [t n 2]."""
    pair = ~is_none & (jnp.arange(len(start)) < 2)[:, None]

    def move(position: jax.Array, bits: jax.Array) -> tuple[jax.Array, jax.Array]:
        low = jnp.maximum(-MAX_STEP, -position)
        high = jnp.minimum(MAX_STEP, MAX_CORNER - position)
        bits = jnp.where(pair, bits[0], bits)
        low = jnp.where(pair, low[:2].max(0), low)
        high = jnp.where(pair, high[:2].min(0), high)
        span = high - low
        step = low + _below(bits, jnp.maximum(span, 0))
        position += jnp.where(span > 0, step, 0)
        return position, position

    return jax.lax.scan(move, _below(start, jnp.int32(MAX_CORNER + 1)), steps)[1]


# --- the pixels -----------------------------------------------------------------------------------


def render(images: jax.Array, coords: jax.Array, frame_size: int = 64) -> jax.Array:
    """Draws sprites uint8 [n 28 28], transparent where 0, at corners int32 [t n 2].

    Returns:
      uint8 [t h w 1], byte for byte what `renderer.Renderer` draws.
    """
    frame = functools.partial(_frame, images.astype(jnp.float32), frame_size)
    return jax.vmap(frame)(coords)[..., None]


def _frame(images: jax.Array, frame_size: int, corners: jax.Array) -> jax.Array:
    """One frame uint8 [h w] of images float32 [n 28 28] at corners [n 2]."""
    # Measured on a CPU: pasting is 20 times faster there. Elsewhere it would be one small write
    # after the other, and the products are nothing.
    paste = _pasted if jax.default_backend() == "cpu" else _placed
    rows = _resized(_stretched(paste(images, corners)), frame_size)  # [y w]
    return _resized(rows.T, frame_size).T.astype(jnp.uint8)


def _pasted(images: jax.Array, corners: jax.Array) -> jax.Array:
    """Images [n 28 28] one over the other on a canvas [y x]."""
    canvas = jnp.zeros((CANVAS, CANVAS), images.dtype)
    for image, corner in zip(images, corners, strict=True):
        under = jax.lax.dynamic_slice(canvas, corner, image.shape)
        canvas = jax.lax.dynamic_update_slice(canvas, jnp.where(image > 0, image, under), corner)
    return canvas


def _placed(images: jax.Array, corners: jax.Array) -> jax.Array:
    """The same by products with 0/1 matrices."""
    pixel = jnp.arange(CANVAS)[:, None] - jnp.arange(SPRITE)
    at = (pixel == corners[:, :, None, None]).astype(images.dtype)  # [n 2 canvas sprite]
    canvas, *others = jnp.einsum("nyr,nrc,nxc->nyx", at[:, 0], images, at[:, 1])
    for layer in others:
        canvas = jnp.where(layer > 0, layer, canvas)
    return canvas


def _stretched(canvas: jax.Array) -> jax.Array:
    """Values 0..maximum of a canvas to 0..255, as `renderer.STRETCH` has them."""
    maximum = jnp.maximum(canvas.max(), 1)
    # Away from ties every quotient is at least 1 / 510 away from where rounding changes.
    up = jnp.floor(canvas * (255 / maximum) + (0.5 + 1e-4))
    down = jnp.asarray(_rounded_down(), jnp.float32)[maximum.astype(jnp.int32)]
    return up - (canvas[..., None] == down).any(-1)


@functools.cache
def _rounded_down() -> np.ndarray:
    """For each maximum the values that lie between two bytes and are rounded down, int [256 few].

    The official float64 arithmetic rounds most ties up; rows are filled up with -1.
    """
    value, maximum = np.arange(256), np.arange(1, 256)[:, None]
    up = (510 * value + maximum) // (2 * maximum)
    down = (renderer.STRETCH[1:] < up) & (value <= maximum)
    rows = [np.zeros(0, int), *(np.flatnonzero(row) for row in down)]
    width = max(map(len, rows))
    return np.stack([np.pad(row, (0, width - len(row)), constant_values=-1) for row in rows])


def _resized(pixels: jax.Array, size: int) -> jax.Array:
    """One pass of Pillow's filter along the last axis, float32 [a canvas] -> [a size]."""
    one = pillow_resize.one_pass(CANVAS, size)
    if not one.groups:  # coefficients of 22 bits
        sums = pixels.astype(jnp.int32) @ jnp.asarray(one.matrix.T, jnp.int32)
        half = 1 << (pillow_resize.BITS - 1)
        return ((sums + half) >> pillow_resize.BITS).astype(jnp.float32)
    sums = pixels @ jnp.asarray(one.matrix.T, jnp.float32)
    sums, errors = jnp.split(sums, [size], axis=1)
    sums = sums.at[:, : one.ties].add(-(errors < 0).astype(jnp.float32))
    divisor = np.repeat(*np.array([(d, end - first) for first, end, d in one.groups]).T)
    # The half keeps quotients away from integers, where float32 might fall to the other side.
    values = jnp.floor((sums + (divisor // 2 + 0.5)) / divisor.astype(np.float32))
    return values[:, np.argsort(one.order)]
