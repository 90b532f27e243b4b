"""Public data sets, read from fabricated trees of exactly the published layout."""

import json

import numpy as np
import pytest

from rstg_jax import data
from rstg_jax.errors import UserError
from tests import clip_files

CLIP = data.ClipConfig(frames=2, resize=40, crop=32)


@pytest.fixture(scope="module")
def film():
    options = {"deadline": "realtime", "cpu-used": "8"}
    return clip_files.film(clip_files.pictures(3), **options)


@pytest.fixture
def write(tmp_path, film):
    """Writes a video, or a list with CRLF line ends, below tmp_path."""

    def write(name, text=None):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(film if text is None else text.replace("\n", "\r\n").encode())

    return write


def config(tmp_path, dataset, **fields):
    places = {"path": str(tmp_path / "videos"), "lists": str(tmp_path / "lists")}
    return data.PublishedConfig(**{"dataset": dataset, "clip": CLIP} | places | fields)


def read(source):
    """Id -> name of the label, in order."""
    batch = source.batch(np.arange(len(source)))
    names = [source.label_names[label] for label in batch["label"]]
    return dict(zip(batch["id"].tolist(), names, strict=True))


# --- UCF101 ---------------------------------------------------------------------------------------

CLASSES = ("Hammering", "HammerThrow", "HandstandPushups")


@pytest.fixture
def ucf101(write, tmp_path):
    train = ["Hammering/v_Hammering_g08_c01.avi", "HammerThrow/v_HammerThrow_g08_c02.avi"]
    train.append("HandstandPushups/v_HandStandPushups_g09_c01.avi")
    test = ["HandstandPushups/v_HandStandPushups_g01_c01.avi"]
    for name in (*train, *test):
        write(f"videos/{name}")
    write("videos/Hammering/v_Hammering_g99_c01.avi")  # in no list
    numbered = [f"{name} {number}" for number, name in enumerate(train, start=1)]
    write("lists/classInd.txt", "".join(f"{n} {c}\n" for n, c in enumerate(CLASSES, start=1)))
    write("lists/trainlist01.txt", "\n".join(numbered) + "\n")
    write("lists/testlist01.txt", "\n".join(test) + "\n\n")
    return tmp_path, train, test


def test_ucf101(ucf101):
    root, train, test = ucf101
    source = config(root, "ucf101").open("train")
    assert source.label_names == CLASSES  # the order of classInd.txt, not of bytes
    assert read(source) == dict(zip(train, CLASSES, strict=True))
    assert source.batch(np.array([1]))["label"].tolist() == [1]
    assert read(config(root, "ucf101").open("test")) == {test[0]: CLASSES[2]}
    assert config(root, "ucf101").num_classes == 3
    assert source.provenance["videos_from"] == "ucf101" and source.provenance["broken"] == 0


def test_missing_clips_are_counted_and_named(ucf101, caplog):
    root, train, _ = ucf101
    (root / "videos" / train[1]).unlink()
    with pytest.raises(UserError, match=r"1 of 3 videos cannot be used \(HammerThrow/v_HammerT"):
        config(root, "ucf101").open("train")
    source = config(root, "ucf101", max_broken=0.4).open("train")
    assert list(read(source)) == [train[0], train[2]]
    assert source.label_names == CLASSES and source.provenance["broken"] == 1
    assert train[1] in caplog.text


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        ("classInd.txt", "1 Hammering\n3 HammerThrow\n", "line 2 is not `2 CLASS`: '3 Hammer"),
        ("trainlist01.txt", "Hammering/a.avi 2\n", "line 1 numbers Hammering 2, classInd.txt 1"),
        ("trainlist01.txt", "Juggling/a.avi 1\n", "line 1 is not `CLASS/FILE` of a class"),
        ("trainlist01.txt", "", "lists no video for the train split"),
    ],
)
def test_lists_that_do_not_fit_are_refused(ucf101, write, file, text, sentence):
    write(f"lists/{file}", text)
    with pytest.raises(UserError, match=sentence):
        config(ucf101[0], "ucf101").open("train")


def test_a_fold_without_lists_is_named(ucf101):
    with pytest.raises(UserError, match=r"trainlist02.txt: cannot be read"):
        config(ucf101[0], "ucf101", fold=2).open("train")


# --- HMDB51 ---------------------------------------------------------------------------------------


def test_hmdb51(write, tmp_path):
    names = {
        "brush_hair": ["a_u_nm_le_goo_0.avi", "b [1].avi", "c.avi"],
        "wave": ["d.avi", "e.avi"],
    }
    flags = {"brush_hair": "120", "wave": "21"}
    for label, some in names.items():
        listed = zip(some, flags[label], strict=True)
        write(f"lists/{label}_test_split3.txt", "".join(f"{n} {flag} \n" for n, flag in listed))
        for name in some:
            write(f"videos/{label}/{name}")
    it = config(tmp_path, "hmdb51", fold=3)
    train = {"brush_hair/a_u_nm_le_goo_0.avi": "brush_hair", "wave/e.avi": "wave"}
    assert read(it.open("train")) == train
    test = {"brush_hair/b [1].avi": "brush_hair", "wave/d.avi": "wave"}
    assert read(it.open("test")) == test
    with pytest.raises(UserError, match=r"has no lists CLASS_test_split1.txt"):
        config(tmp_path, "hmdb51").open("train")


# --- Kinetics -------------------------------------------------------------------------------------


def test_kinetics(write, tmp_path):
    head = "label,youtube_id,time_start,time_end,split,is_cc\n"
    rows = [
        '"tossing, salad",-b_x12yZ90-,17,27,train,0',
        "tying bow's tie,A__x12yZ90_,0,10,train,0",
    ]
    rows += ["abseiling,cccccccccc_,5,15,train,0", "abseiling,cccccccccc_,5,15,train,0"]
    write("lists/train.csv", head + "\n".join(rows) + "\n")
    write("lists/val.csv", head + '"tossing, salad",dddddddddd-,1,11,val,0\n')
    write("videos/train/-b_x12yZ90-_000017_000027.mp4")  # flat
    write("videos/train/tying_bow's_tie/A__x12yZ90__000000_000010.mp4", "")  # zero bytes, but
    write("videos/replacement/replacement_for_corrupted/A__x12yZ90__000000_000010.mp4")
    write("videos/train/abseiling/cccccccccc__000005_000015.webm")
    write("videos/train/abseiling/._cccccccccc__000005_000015.mp4", "of macOS")
    write("videos/val/tossing, salad/dddddddddd-_000001_000011.mp4")
    it = config(tmp_path, "kinetics")
    source = it.open("train")
    assert source.label_names == ("abseiling", "tossing, salad", "tying bow's tie")
    assert read(source) == {
        "-b_x12yZ90-_000017_000027": "tossing, salad",
        "A__x12yZ90__000000_000010": "tying bow's tie",
        "cccccccccc__000005_000015": "abseiling",
    }
    assert read(it.open("test")) == {"dddddddddd-_000001_000011": "tossing, salad"}
    write("lists/val.csv", "youtube_id,time_start,time_end,split\ndddddddddd-,1,11,test\n")
    with pytest.raises(UserError, match=r"val.csv: has no column 'label'"):
        it.open("test")
    write("lists/val.csv", f"{head}knitting,dddddddddd-,1,11,val,0\n")
    with pytest.raises(UserError, match=r"label 'knitting' is not in train.csv"):
        it.open("test")
    write("lists/val.csv", f"{head}abseiling,short,1,11,val,0\n")
    with pytest.raises(UserError, match="line 2 is no clip"):
        it.open("test")


# --- Diving48 -------------------------------------------------------------------------------------


def test_diving48(write, tmp_path):
    vocab = [["Back", "15som", "05Twis", "FREE"], ["Forward", "Dive", "NoTwis", "PIKE"]]
    write("lists/Diving48_vocab.json", json.dumps(vocab))
    dives = [{"vid_name": "-aBc_00042", "label": 1, "start_frame": 0, "end_frame": 141}]
    write("lists/Diving48_V2_train.json", json.dumps(dives))
    write("lists/Diving48_V2_test.json", json.dumps([{"vid_name": "_d_00001", "label": 2}]))
    write("videos/-aBc_00042.mp4")
    it = config(tmp_path, "diving48")
    assert read(it.open("train")) == {"-aBc_00042.mp4": "Forward+Dive+NoTwis+PIKE"}
    assert it.num_classes == 2
    with pytest.raises(UserError, match="entry 0 is no dive"):
        it.open("test")


# --- the configuration ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"dataset": "ucf100"}, "dataset='ucf100' is not one of ucf101, hmdb51"),
        ({"fold": 4}, "fold=4 must be 1, 2 or 3"),
        ({"max_broken": 1.0}, r"max_broken=1.0 must be in \[0, 1\)"),
    ],
)
def test_impossible_settings_are_refused(fields, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        config(tmp_path, **{"dataset": "ucf101"} | fields)


def test_directories_that_do_not_exist_are_named(tmp_path):
    with pytest.raises(UserError, match=r"path='.*videos': no such directory"):
        config(tmp_path, "ucf101").open("train")
    with pytest.raises(UserError, match="path='': no such directory"):
        data.PublishedConfig().num_classes  # noqa: B018
