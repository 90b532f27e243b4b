"""Pillow's antialiased bilinear resize of 8-bit grey images, byte for byte, many images at once.

Pillow (`Image.resize(size, BILINEAR)`) filters along x, rounds to uint8, filters along y and rounds
again. Both passes have integer coefficients of 22 bits: `out = (sum_k coefficient_k * pixel_k +
2**21) >> 22`.

The triangle filter between two integer sizes has RATIONAL weights `m_k / D` with small integers m_k
and D (for 100 -> 64 at most 50 and 85), of which Pillow's coefficients are a rounding. The same
byte comes out of 16-bit arithmetic, four times cheaper than 32-bit arithmetic,

    s = sum_k m_k * pixel_k            out = (s + D // 2) // D

provided that rounding the coefficients cannot carry the sum across a rounding boundary. The sums
lie on a grid of 1/D, so this can happen only ON a boundary, `s = D/2 mod D`, which exists for even
D alone. There the sign of the coefficients' rounding errors decides, and that too is a small
integer form `e = sum_k e_k * pixel_k`:

    out = (s + D // 2 - (e < 0)) // D

`_small_pass` proves these conditions for a pair of sizes or refuses; then 32-bit arithmetic with
Pillow's own coefficients is used. The image axis is innermost, so that products with one small
sparse matrix serve all images.
"""

import dataclasses
import functools

import numpy as np
import scipy.sparse

BITS = 32 - 8 - 2  # PRECISION_BITS of Pillow, src/libImaging/Resample.c


def coefficients(in_size: int, out_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Filter weights from `in_size` pixels to `out_size`: as Pillow rounds them, and exactly.

    Args:
      in_size: Pixels of the input axis.
      out_size: Pixels of the output axis.

    Returns:
      Pillow's 22-bit coefficients, int64 [out, in], and integers in proportion to the exact weights
      of each output, int64 [out, in].
    """
    fixed = np.zeros((out_size, in_size), np.int64)
    exact = np.zeros((out_size, in_size), np.int64)
    scale = in_size / out_size
    support = max(scale, 1.0)
    half_width = 2 * max(in_size, out_size)  # of the triangle, in 1 / (2 * out_size) pixels
    for o in range(out_size):
        centre = (o + 0.5) * scale
        first = max(int(centre - support + 0.5), 0)
        last = min(int(centre + support + 0.5), in_size)
        # The order of these float64 operations is Pillow's.
        weights = [
            max(0.0, 1.0 - abs((k - centre + 0.5) * (1.0 / support))) for k in range(first, last)
        ]
        inverse = 1.0 / sum(weights)
        for k, weight in zip(range(first, last), weights, strict=True):
            fixed[o, k] = int(0.5 + weight * inverse * (1 << BITS))
            distance = abs(2 * out_size * k + out_size - in_size * (2 * o + 1))
            exact[o, k] = max(0, half_width - distance)
        exact[o] //= np.gcd.reduce(exact[o])
    return fixed, exact


@dataclasses.dataclass(frozen=True)
class Pass:
    """One pass along one axis; its outputs may be permuted, so that equal divisors lie together.

    Attributes:
      matrix: [out + ties, in] integers; the rows past `out` are the forms e of the first `ties`
        outputs.
      order: int [out], which output each of the first `out` rows makes.
      groups: (first row, end row, divisor D) of 16-bit passes; empty with 22-bit coefficients.
    """

    matrix: np.ndarray
    order: np.ndarray
    groups: tuple[tuple[int, int, int], ...]

    @property
    def ties(self) -> int:
        return len(self.matrix) - len(self.order)

    def round(self, sums: np.ndarray) -> np.ndarray:
        """Sums [a, out + ties, b] -> pixel values 0..255 [a, out, b], in place."""
        out: np.ndarray = sums[:, : len(self.order)]
        if not self.groups:
            # No clipping: a row of coefficients sums to 2**22 within half its length, far from
            # another byte.
            out += 1 << (BITS - 1)
            out >>= BITS
            return out
        if self.ties:
            errors = sums[:, len(self.order) :]
            errors >>= 15  # -1 where negative, else 0
            sums[:, : self.ties] += errors
        unsigned = np.uint16 if out.dtype == np.int16 else np.uint32
        for first, end, divisor in self.groups:
            rows = out[:, first:end].view(unsigned)
            np.add(rows, unsigned(divisor // 2), out=rows)
            np.floor_divide(rows, unsigned(divisor), out=rows)
        return out


def _small_pass(fixed: np.ndarray, exact: np.ndarray) -> Pass | None:
    """The pass in 16-bit arithmetic, or None when it is not proved equal to Pillow's."""
    divisors = exact.sum(1)
    # Rounding errors of Pillow's coefficients in units of 2**-22 / D; together they must stay below
    # half a grid step.
    errors = divisors[:, None] * fixed - (exact << BITS)
    if (255 * divisors + divisors // 2).max() >= 1 << 16:
        return None
    if (255 * abs(errors).sum(1)).max() >= 1 << (BITS - 1):
        return None
    tied = (divisors % 2 == 0) & errors.any(1)
    order = np.lexsort((divisors, ~tied))
    errors = errors[order[: tied.sum()]]
    errors //= np.maximum(np.gcd.reduce(errors, axis=1, keepdims=True), 1)
    if (255 * abs(errors).sum(1)).max(initial=0) >= 1 << 15:
        return None
    ends = [*(np.flatnonzero(np.diff(divisors[order])) + 1), len(order)]
    groups = tuple(
        (int(first), int(end), int(divisors[order[first]]))
        for first, end in zip([0, *ends], ends, strict=False)
    )
    return Pass(np.concatenate([exact[order], errors]).astype(np.int16), order, groups)


@functools.cache
def one_pass(in_size: int, out_size: int) -> Pass:
    """The pass between two sizes, in 16-bit arithmetic where that is proved to be the same."""
    fixed, exact = coefficients(in_size, out_size)
    return _small_pass(fixed, exact) or Pass(fixed.astype(np.int32), np.arange(out_size), ())


class BilinearResize:
    """Resizes stacks of images from one size to another as Pillow does, each byte equal.

    Args:
      in_size: (rows, columns) of the images.
      out_size: (rows, columns) wanted.

    Attributes:
      dtype: Integer type in which `__call__` wants the pixels 0..255: int16, or int32 for unusual
        sizes.
    """

    def __init__(self, in_size: tuple[int, int], out_size: tuple[int, int]):
        self.in_size, self.out_size = in_size, out_size
        self._x = one_pass(in_size[1], out_size[1])
        self._y = one_pass(in_size[0], out_size[0])
        self.dtype = np.promote_types(self._x.matrix.dtype, self._y.matrix.dtype)
        self._x_matrix = scipy.sparse.csr_array(self._x.matrix.astype(self.dtype))
        # The second pass of every x at once, [y (permuted) x] <- [x (permuted) y].
        back = np.eye(out_size[1], dtype=self.dtype)[np.argsort(self._x.order)]
        y_matrix = scipy.sparse.csr_array(self._y.matrix.astype(self.dtype))
        both = scipy.sparse.kron(scipy.sparse.csr_array(back), y_matrix, format="csr")
        y_first = np.arange(both.shape[0]).reshape(out_size[1], -1).T.reshape(-1)
        self._y_matrix = scipy.sparse.csr_array(both.astype(self.dtype)[y_first])
        self._y_back = np.argsort(self._y.order)

    def __call__(self, pixels: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Resizes images that lie side by side along the last axis.

        Args:
          pixels: `dtype` [x, y, image] of 0..255, C-contiguous. Column first: see the module's
            docstring.
          out: uint8 [image, y, x], C-contiguous, to be filled; a new array if not given.

        Returns:
          `out`.
        """
        if out is None:
            out = np.empty((pixels.shape[2], *self.out_size), np.uint8)
        w, h, images = pixels.shape
        new_h, new_w = self.out_size
        sums = self._x_matrix @ pixels.reshape(w, h * images)
        rows = self._x.round(sums[None])[0]
        sums = self._y_matrix @ rows.reshape(new_w * h, images)
        values = self._y.round(sums.reshape(1, -1, new_w * images))
        self._to_bytes(values.reshape(new_h, new_w, images), out)
        return out

    def _to_bytes(self, values: np.ndarray, out: np.ndarray) -> None:
        """[y (permuted), x, image] integers of 0..255 -> uint8 [image, y, x].

        Two neighbours in x are joined into one wider integer (and once more) before the
        transposition, which costs per element and not per byte.
        """
        size = 1
        for wide, shift in ((np.uint16, 8), (np.uint32, 16)):
            if values.shape[1] % 2 == 0:
                joined = values[:, 1::2].astype(wide)
                np.left_shift(joined, shift, out=joined)
                np.bitwise_or(joined, values[:, 0::2].astype(wide, copy=False), out=joined)
                values, size = joined, 2 * size
            else:
                break
        words = values.astype(f"<u{size}", copy=False)[self._y_back]
        np.copyto(out.view(words.dtype), words.transpose(2, 0, 1))
