"""What mirroring does to labels, by name."""

import numpy as np
import pytest

from rstg_jax.data.video import label_flip
from rstg_jax.errors import UserError

# Every label of Something-Something v2 that contains "left" or "right" in any form, with its
# published number; what it becomes is what the released training codes of others agree on.
V2 = {
    21: "Laying something on the table on its side, not upright",
    50: "Plugging something into something but pulling it right out as you remove your hand",
    86: "Pulling something from left to right",
    87: "Pulling something from right to left",
    93: "Pushing something from left to right",
    94: "Pushing something from right to left",
    117: "Putting something that cannot actually stand upright upright on the table, so it falls "
    "on its side",
    119: "Putting something upright on the table",
    166: "Turning the camera left while filming something",
    167: "Turning the camera right while filming something",
}
V2_SWAPS = {86: 87, 87: 86, 93: 94, 94: 93, 166: 167, 167: 166}
# The same names have other numbers in v1; there is also a label with "right" as an adverb.
V1 = [
    "Turning the camera right while filming something",
    "Moving something up",
    "Pushing something from right to left",
    "Pulling something from left to right",
    "Plugging something into something but pulling it right out as you remove your hand",
    "Pushing something from left to right",
    "Moving something and something so they pass each other",
    "Pulling something from right to left",
    "Turning the camera left while filming something",
    "Putting something upright on the table",
]


def test_something_something_v2():
    names = [V2.get(number, f"Doing something {number} times") for number in range(174)]
    labels = label_flip.mirrored_labels(names)
    assert labels.dtype == np.int32
    wanted = [V2_SWAPS.get(number, number) for number in range(174)]
    wanted[50] = label_flip.NOT_MIRRORED  # mirrored it would be "... pulling it left out ..."
    assert labels.tolist() == wanted


def test_something_something_v1_has_other_numbers():
    labels = label_flip.mirrored_labels(V1)
    assert labels.tolist() == [8, 1, 5, 7, -1, 2, 6, 3, 0, 9]


@pytest.mark.parametrize(
    ("name", "mirrored"),
    [
        ("Swiping Left", "Swiping Right"),
        ("swipe_left", "swipe_right"),
        ("SwipeLeft", "SwipeRight"),
        ("LEFT TURN", "RIGHT TURN"),
        ("left-to-right", "right-to-left"),
        ("moving leftwards", "moving rightwards"),
        ("rightward", "leftward"),
        ("Turning Hand Clockwise", "Turning Hand Counterclockwise"),
        ("Turning Hand Counterclockwise", "Turning Hand Clockwise"),
        ("swipeleft", "swiperight"),
        ("lefthand", "righthand"),
        ("LEFTHAND", "RIGHTHAND"),
        ("turnLeft2", "turnRight2"),
        ("lefty", "righty"),
        ("turn_cw", "turn_ccw"),
        ("turnCW", "turnCCW"),
        ("StandUpright", "StandUpright"),
        ("UpRight", "UpLeft"),
        ("standing upright in bright light", "standing upright in bright light"),
        ("cleft leftover Wright", "cleft leftover Wright"),
    ],
)
def test_mirrored_names(name, mirrored):
    assert label_flip.mirrored_name(name) == mirrored
    assert label_flip.mirrored_name(mirrored) == name


def test_every_map_is_its_own_inverse():
    words = ["left", "right", "up", "clockwise", "counterclockwise", "anti-clockwise", "both"]
    names = [f"turn {a} then {b}" for a in words for b in words]
    rng = np.random.default_rng(0)
    for _ in range(50):
        some = rng.permutation(names)[: rng.integers(2, len(names))].tolist()
        labels = label_flip.mirrored_labels(some)
        for number, label in enumerate(labels.tolist()):
            if label >= 0:
                assert labels[label] == number
            neutral = not any(w in some[number] for w in ("left", "right", "clockwise"))
            assert (label == number) or not neutral


def test_names_without_a_counterpart_are_not_mirrored():
    names = ["left hand", "right hand", "raising the right arm", "jumping", "left and right"]
    assert label_flip.mirrored_labels(names).tolist() == [1, 0, -1, 3, -1]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["swipeleft", "swiperight", "lefthand"], [1, 0, -1]),
        (["cw", "ccw", "rotate cw"], [1, 0, -1]),
        (["turn_acw", "turn_cw"], [1, 0]),
        (["Counter-Clockwise", "Clockwise"], [1, 0]),
        (["TurnCounterClockwise", "TurnClockwise"], [1, 0]),
        (["upleft", "upright", "downright", "downleft"], [1, 0, 3, 2]),
        (["bright left", "bright right", "upright", "Standing Upright"], [1, 0, 2, 3]),
        # Letters may be hands or letters.
        (["arm_l", "arm_r", "kick L", "world"], [-1, -1, -1, 3]),
    ],
)
def test_joined_and_short_words(names, labels):
    assert label_flip.mirrored_labels(names).tolist() == labels


def test_two_labels_of_one_name():
    with pytest.raises(UserError, match="two labels are named 'a'"):
        label_flip.mirrored_labels(["a", "b", "a"])


def test_what_mirrored_views_say_of_labels():
    """As in a plain loop over views and names; where "left" stays "left" it is another."""
    names = ["turn left", "stand upright", "turn right", "pull it right out"]
    mirrored = [False, True, False, True]
    logits = np.random.default_rng(0).normal(size=(4, 4))
    wanted = np.zeros((4, 4))
    for view in range(4):
        for label, name in enumerate(names):
            other = {"turn left": "turn right", "turn right": "turn left"}.get(name, name)
            if not mirrored[view]:
                wanted[view, label] = logits[view, label]
            elif name == "pull it right out":  # its mirror image has no name
                wanted[view, label] = logits[view - 1, label]
            else:
                wanted[view, label] = logits[view, names.index(other)]
    places = label_flip.logit_places(names, mirrored)
    np.testing.assert_array_equal(logits.ravel()[places], wanted)
    assert (wanted != logits).sum() == 2 * 3
