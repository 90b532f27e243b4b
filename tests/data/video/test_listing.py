"""Which files of a directory or lines of a csv file are videos; none is opened."""

import os
import unicodedata

import pytest

from rstg_jax.data.video import listing
from rstg_jax.errors import UserError
from tests import clip_files


@pytest.fixture
def root(tmp_path):
    """VIDEOS/jump/a.mp4 and VIDEOS/run/b.mp4."""
    return make(tmp_path / "VIDEOS", "jump/a.mp4", "run/b.mp4")


def make(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def names(path):
    return [video.name for video in listing.listed(str(path), [".mp4"])]


def test_links_to_directories_are_followed(root, tmp_path):
    make(tmp_path / "elsewhere", "c.mp4", "deep/d.mp4")
    (root / "swim").symlink_to(tmp_path / "elsewhere")
    (root / "run" / "more").symlink_to(tmp_path / "elsewhere")
    swim = ["swim/c.mp4", "swim/deep/d.mp4"]
    run = ["run/b.mp4", "run/more/c.mp4", "run/more/deep/d.mp4"]
    assert names(root) == ["jump/a.mp4", *run, *swim]
    labels = [video.label for video in listing.listed(str(root), [".mp4"])]
    assert labels == ["jump", *["run"] * 3, *["swim"] * 2]


def test_links_in_a_circle_end(root):
    (root / "jump" / "again").symlink_to(root)
    (root / "jump" / "other").symlink_to(root / "run")
    (root / "run" / "other").symlink_to(root / "jump")
    assert names(root) == [
        *("jump/a.mp4", "jump/other/b.mp4", "run/b.mp4", "run/other/a.mp4"),
    ]


def test_labels_that_cannot_be_read_are_named(root, monkeypatch):
    (root / "swim").symlink_to(root.parent / "unmounted")
    with pytest.raises(UserError, match=r"swim: a link to .*unmounted, which does not exist"):
        names(root)
    (root / "swim").unlink()
    clip_files.refuse_to_list(monkeypatch, "run")
    with pytest.raises(UserError, match=r"VIDEOS/run: cannot be read: Permission denied"):
        names(root)


def test_directories_without_videos(root):
    make(root, "swim/c.xyz", ".git/x", "notes/READ.ME")
    videos = listing.listed(str(root), [".mp4"])
    assert listing.without_video(str(root), videos) == ["notes", "swim"]
    (root.parent / "all.csv").write_text("VIDEOS/jump/a.mp4;jump")
    assert listing.without_video(str(root.parent / "all.csv"), videos) == []


def test_names_that_are_not_utf8_are_shown_with_their_bytes(root):
    try:
        (root / os.fsdecode(b"caf\xe9")).mkdir()
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    (root / os.fsdecode(b"caf\xe9/\xfc.mp4")).touch()
    video = listing.listed(str(root), [".mp4"])[0]
    assert (video.name, video.label) == (r"caf\xe9/\xfc.mp4", r"caf\xe9")
    assert video.path.is_file()


def test_accents_of_macos_are_the_same_label(root):
    for form in ("NFC", "NFD"):
        make(root, unicodedata.normalize(form, "café/") + f"{form}.mp4")
    videos = [v for v in listing.listed(str(root), [".mp4"]) if "caf" in v.name]
    assert {video.label for video in videos} == {"caf\N{LATIN SMALL LETTER E WITH ACUTE}"}
    assert len(videos) == 2 and all(video.path.is_file() for video in videos)


@pytest.mark.parametrize(
    "content",
    [
        "jump/a.mp4;jump\nrun/b.mp4;run\n".encode("utf-8-sig"),
        b"jump/a.mp4;jump\r\nrun/b.mp4;run\r\n;\r\n\r\n",
        b'Path;Label\njump/a.mp4;jump\n run/b.mp4 ;"run"',
    ],
)
def test_csv_files_of_excel(root, content):
    (root / "all.csv").write_bytes(content)
    videos = listing.listed(str(root / "all.csv"), [])
    assert [(video.name, video.label) for video in videos] == [
        ("jump/a.mp4", "jump"),
        ("run/b.mp4", "run"),
    ]
    assert all(video.path.is_file() for video in videos)


def test_csv_files_in_other_encodings_and_odd_names(root):
    file = root / "all.csv"
    for encoding in ("latin-1", "utf-16"):
        file.write_text("jump/ü.mp4;jump\n", encoding)
        with pytest.raises(UserError, match=r"all\.csv: is not UTF-8 .*; save it in UTF-8"):
            names(file)
    file.write_text("~a.mp4;jump\n")
    assert listing.listed(str(file), [])[0].path == root / "~a.mp4"


@pytest.mark.parametrize("closed", ["", '"'])
def test_a_quote_that_is_not_closed_swallows_no_lines(root, closed):
    """The second quote may be lines later, or nowhere."""
    lines = [f"jump/{number}.mp4;jump" for number in range(20)]
    lines[9] = f'jump/9.mp4;"{"jump" * 100}'
    lines[15] += closed
    (root / "all.csv").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"all\.csv: line 10 cannot be read \(unexpected") as error:
        names(root / "all.csv")
    assert "must end with" in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("other", ["./jump/a.mp4", "run/../jump//a.mp4", "ROOT/jump/a.mp4"])
def test_a_video_that_a_csv_file_names_in_two_ways_is_refused(root, other):
    other = other.replace("ROOT", str(root))
    (root / "all.csv").write_text(f"jump/a.mp4;jump\n\nrun/b.mp4;run\n{other};run\n")
    said = rf"line 4 names {other} a second time, after jump/a\.mp4 in line 1"
    with pytest.raises(UserError, match=said):
        names(root / "all.csv")


def test_another_header_is_taken_for_no_video(root):
    (root / "all.csv").write_text("video;class\njump/a.mp4;jump\nrun/b.mp4;run\n")
    with pytest.raises(UserError, match=r"line 1 names 'video', .*; a header must be `path;label`"):
        names(root / "all.csv")
    (root / "video").mkdir()  # a directory of images
    assert "video" in names(root / "all.csv")
