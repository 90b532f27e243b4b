"""Frame indices: numbers written by hand, and the rules of the papers as plain loops."""

import numpy as np
import pytest

from rstg_jax.data.video import frame_sampling

# Computed from the definition with exact fractions and a pencil: floor(i * (n - 1) / (t - 1)).
LINSPACE_8 = {
    1: [0, 0, 0, 0, 0, 0, 0, 0],
    2: [0, 0, 0, 0, 0, 0, 0, 1],
    5: [0, 0, 1, 1, 2, 2, 3, 4],
    8: [0, 1, 2, 3, 4, 5, 6, 7],
    50: [0, 7, 14, 21, 28, 35, 42, 49],
    60: [0, 8, 16, 25, 33, 42, 50, 59],
}
# Of the official script's own call, for the lengths 1, 12, 32, 48 and 100.
OFFICIAL_32 = {
    length: [int(word) for word in text.split()]
    for length, text in {
        1: "0 " * 32,
        12: "0 0 0 1 1 1 2 2 2 3 3 3 4 4 4 5 5 6 6 6 7 7 7 8 8 8 9 9 9 10 10 11",
        32: " ".join(map(str, range(32))),
        48: "0 1 3 4 6 7 9 10 12 13 15 16 18 19 21 22 24 25 27 28 30 31 33 34 36 37 39 40 42 43 "
        "45 47",
        100: "0 3 6 9 12 15 19 22 25 28 31 35 38 41 44 47 51 54 57 60 63 67 70 73 76 79 83 86 89 "
        "92 95 99",
    }.items()
}
# The second sampling is shifted by round(n / 64) and stops at the last frame.
SECOND_32 = {
    1: [0] * 32,  # round(1 / 64) = 0
    12: OFFICIAL_32[12],  # round(0.1875) = 0
    32: OFFICIAL_32[32],  # round(0.5) = 0: halves go to the even number
    48: [*(i + 1 for i in OFFICIAL_32[48][:-1]), 47],  # round(0.75) = 1
    100: [*(i + 2 for i in OFFICIAL_32[100][:-1]), 99],  # round(1.5625) = 2
}


@pytest.mark.parametrize("length", LINSPACE_8)
def test_linspace_by_hand(length):
    got = frame_sampling.view_frames("linspace", length, 8)
    assert got.tolist() == LINSPACE_8[length]
    assert got.dtype == np.int64


@pytest.mark.parametrize("length", OFFICIAL_32)
def test_official_samplings(length):
    first, second = (
        frame_sampling.view_frames("linspace", length, 32, view=view, views=2).tolist()
        for view in (0, 1)
    )
    assert first == OFFICIAL_32[length]
    assert second == SECOND_32[length]
    draws = np.random.default_rng(0).random(32)
    assert frame_sampling.train_frames("linspace", length, 32, draws).tolist() == first


def official_loop(length, frames, shift):
    """NumPy's linspace in double precision, a number at a time."""
    step = (length - 1) / (frames - 1) if frames > 1 else 0.0
    places = [int(i * step + shift) for i in range(frames - 1)] + [length - 1 + shift]
    places = places if frames > 1 else [shift]
    return [min(place, length - 1) for place in places]


@pytest.mark.parametrize("frames", [1, 2, 7, 16, 32])
def test_linspace_of_every_length(frames):
    for length in range(1, 200):
        for views in (1, 2, 3):
            for view in range(views):
                got = frame_sampling.view_frames("linspace", length, frames, view=view, views=views)
                shift = round(view * length / (views * frames))  # Python's halves go to even, too
                assert got.tolist() == official_loop(length, frames, shift), (length, view, views)


def test_segments_by_hand():
    # TSN: int(tick / 2 + tick * i) with tick = n / t.
    assert frame_sampling.view_frames("segments", 80, 8).tolist() == [5, 15, 25, 35, 45, 55, 65, 75]
    assert frame_sampling.view_frames("segments", 10, 4).tolist() == [1, 3, 6, 8]
    assert frame_sampling.view_frames("segments", 3, 8).tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert frame_sampling.view_frames("segments", 1, 3).tolist() == [0, 0, 0]
    # Two views: a quarter and three quarters into each segment.
    both = [frame_sampling.view_frames("segments", 40, 2, view=v, views=2).tolist() for v in (0, 1)]
    assert both == [[5, 25], [15, 35]]


def twice_sampled(length, segments):
    """As in TSM's `_get_test_indices`, frames from 0: first the centres, then the starts."""
    tick, centres, starts = length / float(segments), [], []
    for segment in range(segments):
        centres.append(int(tick / 2.0 + tick * segment))
        starts.append(int(tick * segment))
    return centres, starts


@pytest.mark.parametrize("segments", [8, 16])
def test_second_view_of_tsm(segments):
    for length in (*range(1, 70), 117, 240):
        both = [
            frame_sampling.view_frames(
                "segments", length, segments, view=view, views=2, places="starts"
            ).tolist()
            for view in (0, 1)
        ]
        assert tuple(both) == twice_sampled(length, segments), length
    # Views that are spread evenly are others.
    even = [
        frame_sampling.view_frames("segments", 117, segments, view=v, views=2).tolist()
        for v in (0, 1)
    ]
    assert not any(view in twice_sampled(117, segments) for view in even)


def test_random_segments_take_one_frame_of_each():
    rng = np.random.default_rng(1)
    seen = [set() for _ in range(4)]
    for _ in range(300):
        got = frame_sampling.train_frames("segments", 20, 4, rng.random(4))
        for segment, frame in enumerate(got.tolist()):
            seen[segment].add(frame)
    assert seen == [set(range(5 * k, 5 * k + 5)) for k in range(4)]
    for length in (1, 2, 3, 7, 31, 33):
        for draws in (np.zeros(32), np.full(32, np.nextafter(1, 0))):
            got = frame_sampling.train_frames("segments", length, 32, draws)
            plain = [min(length - 1, int((i + draws[0]) * (length / 32))) for i in range(32)]
            assert got.tolist() == plain


def test_strides_by_hand():
    # 4 frames, 3 apart: 10 frames from first to last.
    def view(length, k=0, n=1):
        return frame_sampling.view_frames("stride", length, 4, stride=3, view=k, views=n).tolist()

    assert view(20) == [5, 8, 11, 14]
    assert view(10) == [0, 3, 6, 9]
    assert view(7) == [0, 3, 6, 6]
    assert view(1) == [0, 0, 0, 0]
    assert [view(20, k, 3)[0] for k in range(3)] == [0, 5, 10]

    def drawn(length, u):
        return frame_sampling.train_frames(
            "stride", length, 4, np.array([u, 0, 0, 0]), stride=3
        ).tolist()

    assert drawn(20, 0.0) == [0, 3, 6, 9]
    assert drawn(20, 0.9999) == [10, 13, 16, 19]
    assert drawn(7, 0.9999) == [0, 3, 6, 6]
    starts = {drawn(12, u)[0] for u in np.linspace(0, 0.999, 50)}
    assert starts == {0, 1, 2}


@pytest.mark.parametrize("rule", ["linspace", "segments", "stride"])
def test_frames_lie_in_the_video_and_in_order(rule):
    rng = np.random.default_rng(2)
    for length in (1, 2, 5, 16, 31, 240):
        clips = [
            frame_sampling.view_frames(rule, length, 16, stride=4, view=v, views=3)
            for v in range(3)
        ]
        clips += [frame_sampling.train_frames(rule, length, 16, rng.random(16), stride=4)]
        for clip in clips:
            assert len(clip) == 16
            assert (np.diff(clip) >= 0).all() and clip[0] >= 0 and clip[-1] < length
