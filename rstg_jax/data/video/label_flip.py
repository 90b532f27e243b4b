"""Labels of mirrored videos.

Decided by name, never by number, as the numbers of the two Something-Something versions differ:

- a name without a word of handedness is the same in the mirror;
- a name with such words becomes the name with all of them swapped, if there is such a label:
  "Pushing something from left to right" <-> "Pushing something from right to left";
- otherwise the video must not be mirrored. That also holds for "... pulling it right out ...",
  where "right" is no direction: nothing is lost but a few mirrored videos.
"""

import re
from collections.abc import Sequence

import numpy as np

from rstg_jax.errors import UserError

NOT_MIRRORED = -1
# The counterpart of "clockwise" has several spellings; each is tried.
_SPELLINGS = ("counterclockwise", "anticlockwise", "counter-clockwise", "anti-clockwise")
_SWAP = {
    "left": "right",
    "leftward": "rightward",
    "leftwards": "rightwards",
    "right": "left",
    "rightward": "leftward",
    "rightwards": "leftwards",
    **dict.fromkeys(_SPELLINGS, "clockwise"),
}
_WORDS = "|".join(sorted([*_SWAP, "clockwise"], key=len, reverse=True))
# A word ends at anything but a letter, or where camel case begins another: swipe_left, SwipeLeft.
_WORD = re.compile(rf"(?:(?<![A-Za-z])|(?<=[a-z])(?=[A-Z]))(?i:{_WORDS})(?![a-z])")


def mirrored_name(name: str, clockwise_becomes: str = _SPELLINGS[0]) -> str:
    """The name with every word of handedness swapped, its case kept."""

    def swap(match: re.Match[str]) -> str:
        word = match[0]
        other = _SWAP.get(word.lower(), clockwise_becomes)
        if word.isupper():
            return other.upper()
        return other.capitalize() if word[0].isupper() else other

    return _WORD.sub(swap, name)


def mirrored_labels(names: Sequence[str]) -> np.ndarray:
    """The label of each label's mirrored video.

    Args:
      names: Of the labels.

    Returns:
      int32 [labels], `NOT_MIRRORED` where a mirrored video would have no label. Where it is not,
      the map is its own inverse.

    Raises:
      UserError: If two labels have the same name.
    """
    if len(set(names)) != len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise UserError(f"two labels are named {twice!r}; the flip of labels needs unique names")
    numbers = {name: number for number, name in enumerate(names)}
    labels = np.full(len(names), NOT_MIRRORED, np.int32)
    for name, number in numbers.items():
        for spelling in _SPELLINGS:
            other = numbers.get(mirrored_name(name, spelling))
            if other is not None:
                labels[number] = other
                break
    # One direction spelt in two ways leaves no one-to-one map; such labels are not mirrored.
    one_to_one = labels[labels] == np.arange(len(names))
    return np.where((labels >= 0) & one_to_one, labels, NOT_MIRRORED).astype(np.int32)
