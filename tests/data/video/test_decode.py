"""Single frames: equal to those of a full decode, and only what is needed is decoded."""

import io
import pathlib
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFile, ImageSequence

from rstg_jax import limits
from rstg_jax.data.video import decode, seek
from rstg_jax.errors import UserError
from tests import clip_files, video_corpus

FAST = {"deadline": "realtime", "cpu-used": "8"}
VIDEO_EXTENSIONS = {
    "vp9": ("libvpx-vp9", "webm", {**FAST, "g": "10"}),
    "vp9 with hidden frames": (
        *("libvpx-vp9", "webm"),
        {"lag-in-frames": "16", "auto-alt-ref": "1", "cpu-used": "6", "g": "20"},
    ),
    "vp8 with hidden packets": (
        *("libvpx", "webm"),
        {"lag-in-frames": "16", "auto-alt-ref": "1", "g": "20"},
    ),
    "h264": ("libx264", "mp4", {"g": "10", "bf": "3"}),
    "h264, open groups": (
        *("libx264", "matroska"),
        {"x264-params": "open-gop=1:keyint=12:bframes=3"},
    ),
    "h264, transport stream": ("libx264", "mpegts", {"g": "15"}),
    "h265": ("libx265", "mp4", {"x265-params": "log-level=none:keyint=12"}),
    "mpeg4 in avi": ("mpeg4", "avi", {"g": "10"}),
}


def arrays(frames, indices):
    return [np.asarray(image) for image in frames.images(indices)]


@pytest.mark.parametrize("kind", VIDEO_EXTENSIONS)
def test_frames_equal_those_of_a_full_decode(kind):
    codec, container, options = VIDEO_EXTENSIONS[kind]
    content = clip_files.film(clip_files.pictures(45), codec, container, **options)
    every = clip_files.decode_all(content)
    assert len(every) == 45
    rng = np.random.default_rng(0)
    choices = [[0], [44], [22], [0, 44], [19, 20, 21], list(range(45))]
    choices += [np.sort(rng.choice(45, 6, replace=False)).tolist() for _ in range(5)]
    with decode.opened(content) as frames:
        assert len(frames) == 45
        for indices in choices:
            for index, got in zip(indices, arrays(frames, indices), strict=True):
                np.testing.assert_array_equal(got, every[index], err_msg=f"{kind} {indices}")


def decoded(content, indices):
    """How many frames are decoded for the wanted ones."""
    with decode.opened(content) as frames:
        assert len(arrays(frames, indices)) == len(indices)
        return frames.decoded


def test_only_groups_with_wanted_frames_are_decoded():
    content = clip_files.film(clip_files.pictures(45), "libvpx-vp9", "webm", **FAST, g="10")
    assert decoded(content, [0]) == 1
    assert decoded(content, [10]) == 1
    assert decoded(content, [25]) == 6  # 20..25
    assert decoded(content, [9, 30, 31]) == 10 + 2
    assert decoded(content, [4, 44]) == 5 + 5
    assert decoded(content, [9, 10]) == 11


def test_frames_that_nothing_needs_are_not_decoded():
    content = clip_files.film(clip_files.pictures(40), "libx264", "mp4", g="100", bf="3")
    assert decoded(content, list(range(40))) == 40
    assert decoded(content, [39]) < 25


def test_large_files_are_read_twice_and_not_held(monkeypatch, tmp_path):
    path = tmp_path / "a.webm"
    path.write_bytes(clip_files.film(clip_files.pictures(30), **FAST, g="10"))
    every = clip_files.decode_all(path)
    monkeypatch.setattr(seek, "_KEEP_PACKETS", 100)
    for source in (path, path.read_bytes()):
        with decode.opened(source) as frames:
            assert frames._packets is None
            for index, got in zip([3, 12, 29], arrays(frames, [3, 12, 29]), strict=True):
                np.testing.assert_array_equal(got, every[index])


@pytest.mark.parametrize("name", clip_files.REAL)
def test_real_videos(name):
    path = clip_files.real(name)
    every = clip_files.decode_all(path)
    indices = np.linspace(0, len(every) - 1, 9).astype(int).tolist()
    with decode.opened(path) as frames:
        assert len(frames) == len(every)
        for index, got in zip(indices, arrays(frames, indices), strict=True):
            np.testing.assert_array_equal(got, every[index])


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (180, 2), (-90, 3)])
def test_rotated_films_are_turned_upright(rotation, turns):
    frames = clip_files.pictures(3)
    plain = clip_files.decode_all(clip_files.film(frames, "libx264", "mp4"))
    with decode.opened(clip_files.film(frames, "libx264", "mp4", rotation)) as turned:
        got = arrays(turned, [0, 2])
    for a, b in zip(got, (plain[0], plain[2]), strict=True):
        np.testing.assert_array_equal(a, np.rot90(b, turns))


def test_stills_in_memory_and_in_a_directory(tmp_path):
    images = clip_files.pictures(12)
    for number, image in enumerate(images, 1):
        (tmp_path / f"{number:05d}.jpg").write_bytes(clip_files.jpeg(image))
    (tmp_path / "notes.txt").write_text("no frame")
    (tmp_path / "._00001.jpg").write_text("of macOS")
    wanted = [np.asarray(Image.open(tmp_path / f"{n:05d}.jpg")) for n in (1, 3, 12)]
    in_memory = tuple(clip_files.jpeg(image) for image in images)
    for source in (tmp_path, in_memory):
        with decode.opened(source) as frames:
            assert len(frames) == 12
            for a, b in zip(arrays(frames, [0, 2, 11]), wanted, strict=True):
                np.testing.assert_array_equal(a, b)


def test_other_stills_are_not_even_looked_at():
    images = [clip_files.jpeg(image) for image in clip_files.pictures(3)]
    images[1] = b"damage"
    with decode.opened(tuple(images)) as frames:
        assert len(arrays(frames, [0, 2])) == 2
        with pytest.raises(UserError, match="frame 1 of 3 is damaged"):
            arrays(frames, [1])


def test_grey_and_transparent_stills_become_rgb():
    image = clip_files.pictures(1)[0]
    grey, clear = image.convert("L"), image.convert("RGBA")
    encoded = []
    for still in (grey, clear):
        buffer = io.BytesIO()
        still.save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    with decode.opened(tuple(encoded)) as frames:
        got = arrays(frames, [0, 1])
    np.testing.assert_array_equal(got[0], np.asarray(grey)[..., None].repeat(3, -1))
    np.testing.assert_array_equal(got[1], np.asarray(image))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.webm", b"this is not a video" * 50, "cannot be read as a video: Invalid data"),
        ("a.mp4", b"", "cannot be read as a video"),
        ("a.gif", b"GIF89a and no more", "cannot be read as a video"),
        ("a.npy", b"no array", "cannot be read as an npy video"),
        ("a.doc", b"text", "unknown kind of file; the known ones are .npy, .apng"),
        ("a.webm", None, "no such file"),
        ("a.gif", None, "no such file"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, name, content, message):
    path: pathlib.Path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message), decode.opened(path) as frames:
        arrays(frames, [0])


def test_sound_alone_and_no_frames(tmp_path):
    with pytest.raises(UserError, match="holds no frame"), decode.opened(()):
        pass
    with pytest.raises(UserError, match="directory without images"), decode.opened(tmp_path):
        pass
    import av

    with av.open(str(tmp_path / "a.mkv"), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        samples.sample_rate = 8000
        out.mux(stream.encode(samples))
        out.mux(stream.encode())
    with pytest.raises(UserError, match="has no video stream"), decode.opened(tmp_path / "a.mkv"):
        pass


def test_film_that_is_cut_off():
    content = clip_files.film(clip_files.pictures(40), "libx264", "mpegts", g="10")
    cut = content[: len(content) * 2 // 3]
    with decode.opened(cut) as frames:
        n = len(frames)
        assert 15 < n < 40
        whole = clip_files.decode_all(content)
        np.testing.assert_array_equal(arrays(frames, [n // 2])[0], whole[n // 2])
    with pytest.raises(UserError, match="cannot be read as a video"):
        mp4 = clip_files.film(clip_files.pictures(40), "libx264", "mp4")
        with decode.opened(mp4[: len(mp4) // 2]):
            pass


@pytest.mark.parametrize("name", ["12:30.mp4", "a.MTS", "%03d.mp4", "http:x.MP4", "ä\udce4.webm"])
def test_any_name_of_a_file(tmp_path, monkeypatch, name):
    container = "webm" if name.endswith("webm") else "mpegts" if name == "a.MTS" else "mp4"
    codec = "libvpx-vp9" if container == "webm" else "libx264"
    content = clip_files.film(clip_files.pictures(5), codec, container)
    (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    with decode.opened(pathlib.Path(name)) as frames:
        np.testing.assert_array_equal(arrays(frames, [3])[0], clip_files.decode_all(content)[3])


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_frames_of_an_animated_image_are_decoded_one_by_one(tmp_path, monkeypatch, kind):
    images = clip_files.pictures(12)
    path = tmp_path / f"a.{kind.lower()}"
    images[0].save(path, kind, save_all=True, append_images=images[1:], duration=80)
    with Image.open(path) as image:
        every = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    with decode.opened(path) as frames:
        assert len(frames) == 12
        for indices in ([0], [11], [3, 4, 9], [2]):
            for index, got in zip(indices, arrays(frames, indices), strict=True):
                np.testing.assert_array_equal(got, every[index])
    loaded = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: loaded.append(0) or load(self))
    with decode.opened(path) as frames:
        assert not loaded
        assert len(arrays(frames, [1])) == 1
    assert len(loaded) < 8  # several times for each of two frames


def gif_that_claims(width, height):
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "GIF")
    content = bytearray(buffer.getvalue())
    content[6:10] = struct.pack("<HH", width, height)
    return bytes(content)


def png_that_claims(width, height):
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + header
        + struct.pack(">I", zlib.crc32(header))
        + struct.pack(">I4sI", 0, b"IDAT", zlib.crc32(b"IDAT"))
    )


def test_huge_claims_are_refused(tmp_path):
    (tmp_path / "a.gif").write_bytes(gif_that_claims(30000, 30000))
    (tmp_path / "a.png").write_bytes(png_that_claims(30000, 30000))
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "1.png").write_bytes(png_that_claims(30000, 30000))
    for name in ("a.gif", "a.png", "frames"):
        with (
            pytest.raises(UserError, match=r"Image size \(900000000 pixels\) exceeds limit"),
            decode.opened(tmp_path / name) as frames,
        ):
            arrays(frames, [0])
    video = video_corpus.make(video_corpus.KINDS["quicktime animation"], 2)
    size, claim = struct.pack(">hh", 64, 48), struct.pack(">hh", 15000, 15000)
    assert size in video
    with (
        pytest.raises(UserError, match="has frames of 15000x15000 pixels, too many"),
        decode.opened(video.replace(size, claim)),
    ):
        pass


def test_claims_that_pillow_allows_are_bounded_too(tmp_path):
    (tmp_path / "a.png").write_bytes(png_that_claims(9000, 9000))
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "1.png").write_bytes(png_that_claims(9000, 9000))
    for name in ("a.png", "frames"):
        with (
            pytest.raises(UserError, match="has frames of 9000x9000 pixels, too many"),
            decode.opened(tmp_path / name) as frames,
        ):
            arrays(frames, [0])


def test_sizes_in_the_stream_are_bounded(monkeypatch):
    """They may be others than in the container."""
    content = video_corpus.make(video_corpus.KINDS["h264, mp4"], 2)
    monkeypatch.setattr(limits, "check_pixels", lambda *size: None)
    monkeypatch.setattr(limits, "PIXELS", 1000)
    with pytest.raises(UserError, match="holds no frame"), decode.opened(content) as frames:
        arrays(frames, [0])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("(9, 40000, 40000)", "cannot be read as an npy video: mmap length is greater"),
        ("(0, 40000, 40000)", "has frames of 40000x40000 pixels, too many"),
        ("(9, 0, 4)", "has frames without pixels"),
    ],
)
def test_arrays_that_claim_what_they_do_not_hold(tmp_path, shape, message):
    np.save(tmp_path / "a.npy", np.zeros((9, 4, 4), np.uint8))
    content = (tmp_path / "a.npy").read_bytes()
    claim = content.replace(b"(9, 4, 4), }".ljust(28), f"{shape}, }}".ljust(28).encode())
    assert claim != content and len(claim) == len(content)
    (tmp_path / "a.npy").write_bytes(claim)
    with pytest.raises(UserError, match=message), decode.opened(tmp_path / "a.npy"):
        pass


def test_number_of_frames_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "FRAMES", 8)
    np.save(tmp_path / "a.npy", np.zeros((9, 4, 4), np.uint8))
    with pytest.raises(UserError, match="has 9 frames, more than 8: cut it up"):
        decode.check(tmp_path / "a.npy")


def test_stills_are_turned_and_have_eight_bits(tmp_path):
    image = clip_files.pictures(1)[0]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # a phone held upright
    image.save(tmp_path / "1.png", exif=exif)
    with decode.opened(tmp_path) as frames:
        np.testing.assert_array_equal(arrays(frames, [0])[0], np.rot90(np.asarray(image), -1))
    grey = np.asarray(image.convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "1.png")
    for path in (tmp_path, tmp_path / "1.png"):
        with decode.opened(path) as frames:
            np.testing.assert_array_equal(arrays(frames, [0])[0], grey[..., None].repeat(3, -1))


def test_every_frame_is_checked(tmp_path):
    content = video_corpus.make(video_corpus.KINDS["h264, mp4"])
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    decode.check(path)
    start, end = video_corpus.places(content)[10:12]
    path.write_bytes(content[:start] + bytes(end - start) + content[end:])
    with decode.opened(path) as frames:
        assert len(frames) == video_corpus.COUNT and len(arrays(frames, [0])) == 1
    with pytest.raises(UserError, match="is damaged after frame 7: Invalid data found"):
        decode.check(path)


def test_frames_of_which_no_clip_can_be_made_are_found(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 1, 20), np.uint8))
    decode.check(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.zeros((2, 10, 330), np.uint8))
    with pytest.raises(UserError, match="has frames of 330x10 pixels, too narrow"):
        decode.check(tmp_path / "a.npy")


@pytest.mark.parametrize("name", ["h264, mp4", "h264, avi", "vp8, hidden packets", "mpeg2, mpg"])
def test_damage_of_any_kind_is_one_line(tmp_path, name):
    content = video_corpus.make(video_corpus.KINDS[name], 12)
    rng = np.random.default_rng(0)
    for number in range(12):
        damaged = np.frombuffer(content, np.uint8).copy()
        places = rng.integers(0, len(content), 4 ** (number % 4))
        damaged[places] = rng.integers(0, 256, len(places))
        path = tmp_path / "a.mp4"
        path.write_bytes(damaged.tobytes()[: len(content) if number % 3 else rng.integers(1000)])
        try:
            decode.check(path)
        except UserError as error:
            assert "\n" not in str(error)


def test_a_segment_is_some_frames_of_a_file(tmp_path):
    file = tmp_path / "film.webm"
    file.write_bytes(clip_files.film(clip_files.pictures(8)))
    every = clip_files.decode_all(file)
    with decode.opened(decode.Segment(file, range(2, 100))) as frames, decode.opened(file) as whole:
        assert len(frames) == 6 and frames.fps == whole.fps
        for index, image in zip((0, 3, 5), frames.images((0, 3, 5)), strict=True):
            np.testing.assert_array_equal(np.asarray(image), every[2 + index])
    with (
        pytest.raises(UserError, match="holds no frame"),
        decode.opened(decode.Segment(file, range(8, 12))),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "choices", "fps"),
    [
        ("a.gif", {"duration": 80}, 12.5),
        ("a.webp", {"duration": 40}, 25),
        ("a.png", {"duration": 100}, 10),
        ("a.gif", {}, None),
    ],
)
def test_animated_images_have_the_pace_that_they_say(tmp_path, name, choices, fps):
    first, *others = (Image.fromarray(np.full((8, 9, 3), 50 * k, np.uint8)) for k in range(3))
    first.save(tmp_path / name, save_all=True, append_images=others, **choices)
    with decode.opened(tmp_path / name) as frames:
        assert len(frames) == 3 and frames.fps == fps
