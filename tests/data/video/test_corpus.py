"""Single frames of every kind of video are those of a plain decode of the whole file."""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from rstg_jax.data.video import decode
from rstg_jax.errors import UserError
from tests import video_corpus as corpus


def assert_like_plain(content, count=None, *, cut=False):
    """Compares the length, all frames at once and some alone.

    If the file was `cut` in the middle of its last frame, the pixels of that are left out: FFmpeg
    fills them with whatever was in memory.
    """
    every = corpus.plain(content)
    assert count is None or len(every) == count
    if not every:
        with pytest.raises(UserError, match="holds no frame"), decode.opened(content):
            pass
        return
    last = len(every) - 1
    damaged = corpus.stored_last(content) if cut else None
    choices = [list(range(len(every))), [last], [last // 3, last - last // 4]]
    if count is not None:
        choices += [[index] for index in range(0, last, 6)]
    with decode.opened(content) as frames:
        assert len(frames) == len(every)
        for indices in choices:
            indices = sorted(set(indices))
            for index, image in zip(indices, frames.images(indices), strict=True):
                if index != damaged:
                    name = f"{index} of {indices}"
                    np.testing.assert_array_equal(np.asarray(image), every[index], err_msg=name)


@pytest.mark.parametrize("name", corpus.KINDS)
def test_every_container_codec_and_group(name):
    assert_like_plain(corpus.make(corpus.KINDS[name]), corpus.COUNT)


@pytest.mark.parametrize("name", ["h264, mp4", "h264, mkv", "h265, mp4", "av1, mp4", "vp9, webm"])
def test_usual_files_are_not_decoded_to_be_counted(name):
    with decode.opened(corpus.make(corpus.KINDS[name])) as frames:
        assert frames.decoded == 0
        next(frames.images([10]))
        assert 0 < frames.decoded < 10


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
@pytest.mark.parametrize("name", ["h264, open groups", "h265, mp4"])
def test_cut_at_every_packet_by_an_editor(name, container):
    content = corpus.make(corpus.KINDS[name]._replace(container="mp4"))
    for packet in range(1, 12):
        assert_like_plain(corpus.remuxed(content, container, packet))
    for packet in range(14, corpus.COUNT, 2):
        assert_like_plain(corpus.remuxed(content, container, 0, packet))


@pytest.mark.parametrize("name", ["h264, ts", "h265, ts", "mpeg2, ts"])
def test_stream_that_starts_at_any_packet(name):
    content = corpus.make(corpus.KINDS[name])
    for place in corpus.places(content)[1:12]:
        assert_like_plain(content[place:])


@pytest.mark.parametrize("name", ["h264, ts", "h264, mkv", "h264, flv", "vp9, webm"])
def test_recording_that_stops_anywhere(name):
    content = corpus.make(corpus.KINDS[name])
    for size in np.linspace(len(content) // 2, len(content), 8).astype(int):
        assert_like_plain(content[:size], cut=True)


def test_first_frames_that_an_edit_list_hides():
    content = corpus.make(corpus.KINDS["h264, mp4"])
    cut = corpus.remuxed(content, "mp4", shift=3 * 1024)  # quarter seconds
    assert len(corpus.plain(cut)) < corpus.COUNT
    assert_like_plain(cut)


@pytest.mark.parametrize("name", ["h264, mkv", "vp9, webm", "h264, ts", "mpeg4, avi"])
def test_variable_rate(name):
    times = np.cumsum([1, 1, 4, 1, 2, 9] * 4).tolist()
    assert_like_plain(corpus.make(corpus.KINDS[name], times=times))


def test_recordings_one_after_the_other():
    """Cameras split a recording into files that `cat` joins; times start again."""
    kind = corpus.KINDS["h264, ts"]
    assert_like_plain(corpus.make(kind) + corpus.make(kind, 12), corpus.COUNT + 12)


@pytest.mark.parametrize("size", [(63, 47), (2, 2), (17, 201), (640, 16)])
def test_any_size(size):
    kind = corpus.KINDS["vp9, webm"]
    assert_like_plain(corpus.make(kind, 6, size=size), 6)


@pytest.mark.parametrize("orientation", corpus.ORIENTATIONS)
def test_any_orientation(orientation):
    content = corpus.make(corpus.KINDS["h264, mp4"], 3)
    turn = corpus.ORIENTATIONS[orientation][1]
    with decode.opened(corpus.oriented(content, orientation)) as frames:
        for image, frame in zip(frames.images(range(3)), corpus.plain(content), strict=True):
            np.testing.assert_array_equal(np.asarray(image), turn(frame))


@pytest.mark.parametrize(
    ("aspect", "size"),
    [
        (Fraction(2), (128, 48)),
        (Fraction(1, 2), (64, 96)),
        (Fraction(16, 11), (93, 48)),
        (Fraction(1), (64, 48)),
        (Fraction(1000), (64, 48)),  # a mistake
    ],
)
def test_pixels_that_are_not_square(aspect, size):
    content = corpus.make(corpus.KINDS["h264, mp4"], 3, aspect=aspect)
    want = Image.fromarray(corpus.plain(content)[2]).resize(size, Image.Resampling.BICUBIC)
    with decode.opened(content) as frames:
        np.testing.assert_array_equal(np.asarray(next(frames.images([2]))), np.asarray(want))
    with decode.opened(corpus.oriented(content, "turned left")) as frames:
        assert next(frames.images([2])).size == size[::-1]


def test_size_that_changes_on_the_way():
    """Browsers record a shared screen like that. A player keeps the size of its window."""
    kind = corpus.KINDS["h264, ts"]
    with decode.opened(corpus.make(kind) + corpus.make(kind, 12, size=(32, 80))) as frames:
        assert len(frames) == corpus.COUNT + 12
        assert {image.size for image in frames.images(range(len(frames)))} == {(64, 48)}


def test_title_in_another_encoding():
    title = "Käse!".encode("latin-1")
    content = corpus.make(corpus.KINDS["mpeg4, avi"], title=title)
    assert title in content
    assert_like_plain(content, corpus.COUNT)
