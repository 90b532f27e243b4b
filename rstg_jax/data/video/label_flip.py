"""Labels of mirrored videos.

Decided by the English words of a name, never by number, as the numbers of the two
Something-Something versions differ:

- a name without handedness is the same in the mirror;
- a name with handedness becomes the name with all of it swapped, if there is such a label:
  "Pushing something from left to right" <-> "Pushing something from right to left". It may be
  joined to other words or abbreviated: "swipeleft" <-> "swiperight", "turn_cw" <-> "turn_ccw";
- otherwise the video must not be mirrored. That also holds for "... pulling it right out ...",
  where "right" is no direction: nothing is lost but a few mirrored videos. It holds for "arm_l"
  and "arm_r", as these may be letters.
"""

import itertools
import re
from collections.abc import Mapping, Sequence

import numpy as np

from rstg_jax.errors import UserError

Label = int | np.ndarray  # a number, or a set of labels: 0/1 int32 [labels]
NOT_MIRRORED = -1
# What "clockwise" and "cw" become has several spellings; each pair is tried.
_SPELLINGS = tuple(
    (f"{word}{join}{clockwise}", short)
    for (word, short), join, clockwise in itertools.product(
        (("counter", "ccw"), ("anti", "acw")), ("", "-", " ", "_"), ("clockwise", "Clockwise")
    )
)
# Words that contain "left" or "right" and mean neither.
_NEUTRAL = (
    "alright aright birthright bright brighten brightened brightening brightens brighter brightest "
    "brightly brightness cleft clefts copyright copyrighted downright forthright fright frighten "
    "frightened frightening frightens frightful leftover leftovers outright playwright righted "
    "righteous rightful rightfully righting rightly sprightly upright uprightly uprights "
    "wright wrights"
)
_START = r"(?:(?<![A-Za-z])|(?<=[a-z])(?=[A-Z]))"  # of a word, also in camel case
_FORMS = "|".join(
    form for word in _NEUTRAL.split() for form in (word, word.capitalize(), word.upper())
)
_HANDED = "(?i:(?:counter|anti)[-_ ]?clockwise|clockwise|left|right|[ca]?cw)"
_EVERYWHERE = re.compile(_HANDED)
_NOT_IN_NEUTRAL = re.compile(rf"{_START}(?P<neutral>{_FORMS})(?![a-z])|{_HANDED}")
_LETTER = re.compile(rf"{_START}[LRlr](?![A-Za-z])")


def mirrored_name(
    name: str, spelling: tuple[str, str] = _SPELLINGS[0], *, keep_neutral: bool = True
) -> str:
    """The name with all of its handedness swapped, case kept.

    Args:
      name: Name of a label.
      spelling: What "clockwise" and "cw" become.
      keep_neutral: Whether words such as "upright" stay as they are.
    """
    becomes = {"left": "right", "right": "left", "clockwise": spelling[0], "cw": spelling[1]}

    def swap(match: re.Match[str]) -> str:
        if match.groupdict().get("neutral"):
            return match[0]
        word = match[0].lower()
        other = becomes.get(word, "cw" if word.endswith("cw") else "clockwise")
        if match[0].isupper():
            return other.upper()
        return other[0].upper() + other[1:] if match[0][0].isupper() else other

    return (_NOT_IN_NEUTRAL if keep_neutral else _EVERYWHERE).sub(swap, name)


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
    labels = np.array([_mirrored_label(name, numbers) for name in names], np.int32)
    # One direction spelt in two ways leaves no one-to-one map; such labels are not mirrored.
    one_to_one = labels[labels] == np.arange(len(names))
    return np.where((labels >= 0) & one_to_one, labels, NOT_MIRRORED).astype(np.int32)


def mirrored(label: Label, labels: np.ndarray) -> Label | None:
    """The label, or set of labels, of a video when it is mirrored.

    Args:
      label: Of the video.
      labels: See `mirrored_labels`.

    Returns:
      None if the video must not be mirrored.
    """
    others = labels[np.flatnonzero(label) if isinstance(label, np.ndarray) else [label]]
    if (others == NOT_MIRRORED).any():
        return None
    if not isinstance(label, np.ndarray):
        return int(others[0])
    swapped = np.zeros_like(label)
    swapped[others] = 1
    return swapped


def logit_places(names: Sequence[str], mirrored: Sequence[bool]) -> np.ndarray:
    """Where each view's logit of each label is, if some views are mirrored.

    What the network takes for "from left to right" in a mirrored view is "from right to left" in
    the video. A label that has no mirrored one is left to the views that are not mirrored. TSN and
    TRN take the logits of mirrored views as they are, on Something-Something, too; mmaction2 tests
    TRN without such views there.

    Args:
      names: Of the labels.
      mirrored: Of each view whether it is the mirrored one of the view before.

    Returns:
      int64 `[views labels]`, places among the logits of all views, `[views * labels]`.
    """
    labels = mirrored_labels(names)
    places = np.arange(len(mirrored) * len(names)).reshape(len(mirrored), len(names))
    for view in np.flatnonzero(mirrored):
        places[view] = np.where(labels == NOT_MIRRORED, places[view - 1], places[view][labels])
    return places


def _mirrored_label(name: str, numbers: Mapping[str, int]) -> int:
    """The number of the first label that a mirrored name may be."""
    if _LETTER.search(name):
        return NOT_MIRRORED
    # "upright" is a direction only beside a label "upleft".
    for keep_neutral, spelling in itertools.product((False, True), _SPELLINGS):
        other = numbers.get(mirrored_name(name, spelling, keep_neutral=keep_neutral))
        if other is not None:
            return other
    return NOT_MIRRORED
