"""Public data sets, read from fabricated trees of exactly the published layout."""

import json
import shutil
import typing

import numpy as np
import pytest
from PIL import Image

from configs import folder
from rstg_jax import data
from rstg_jax.config import from_dict, to_dict
from rstg_jax.data.video import label_flip, published
from rstg_jax.errors import UserError
from rstg_jax.training.experiment import Experiment
from tests import clip_files

CLIP = data.ClipConfig(frames=2, resize=40, crop=32)


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


def test_a_start_reads_the_list_of_each_split_once(ucf101, monkeypatch):
    root, reader, splits = ucf101[0], published.READERS["ucf101"], []

    def counted(videos, lists, split, fold):
        splits.append(split)
        return reader.read(videos, lists, split, fold)

    monkeypatch.setitem(published.READERS, "ucf101", reader._replace(read=counted))
    found = config(root, "ucf101")
    with data.read_once():
        found.check_lists()
        assert found.num_classes == 3
        assert [len(found.open(split)) for split in ("train", "test")] == [3, 1]
        assert config(root, "ucf101", max_broken=0.5).num_classes == 3
    assert splits == ["train", "test"]
    assert found.num_classes == 3 and splits == ["train", "test", "train"]


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


def test_a_clip_that_a_list_names_twice_is_used_once(ucf101, write, caplog):
    root, train, _ = ucf101
    rows = [f"{name} {number}" for number, name in enumerate(train, start=1)]
    write("lists/trainlist01.txt", "\n".join([*rows, "", rows[0], rows[0], rows[2]]))
    assert list(read(config(root, "ucf101").open("train"))) == train
    (said,) = [line for line in caplog.messages if "named again" in line]
    lines = [f"{train[0]} in line 5", f"{train[0]} in line 6", f"{train[2]} in line 7"]
    assert said.endswith(f"trainlist01.txt: named again, and used once: {', '.join(lines)}")


def test_a_fold_without_lists_is_named(ucf101):
    with pytest.raises(UserError, match=r"cannot read .*trainlist02\.txt: No such file"):
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
    write("lists/._wave_test_split3.txt", "of macOS")
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
    write("lists/Diving48_V2_train.json", json.dumps([*dives, dives[0] | {"label": 0}]))
    with pytest.raises(UserError, match=r"entry 0 has 'Forward.*' for -aBc_00042.mp4, entry 1 'B"):
        it.open("train")


# --- Jester ---------------------------------------------------------------------------------------

GESTURES = (
    *("Swiping Left", "Swiping Right", "Swiping Down", "Swiping Up"),
    *("Pulling Hand In", "Pushing Hand Away"),
    *("Sliding Two Fingers Left", "Sliding Two Fingers Right"),
    *("Sliding Two Fingers Down", "Sliding Two Fingers Up"),
    *("Pushing Two Fingers Away", "Pulling Two Fingers In"),
    *("Rolling Hand Forward", "Rolling Hand Backward"),
    *("Turning Hand Clockwise", "Turning Hand Counterclockwise"),
    *("Zooming In With Full Hand", "Zooming Out With Full Hand"),
    *("Zooming In With Two Fingers", "Zooming Out With Two Fingers"),
    *("Thumb Up", "Thumb Down", "Shaking Hand", "Stop Sign", "Drumming Fingers"),
    *("No gesture", "Doing other things"),
)


def write_images(folder, numbers, name="{:05}.jpg"):
    """Images of one colour each: ten times their number."""
    folder.mkdir(parents=True)
    for number in numbers:
        image = Image.new("RGB", (48, 40), (10 * number,) * 3)
        (folder / name.format(number)).write_bytes(clip_files.jpeg(image))


@pytest.fixture
def jester(write, tmp_path):
    write("lists/jester-v1-labels.csv", "\n".join(GESTURES) + "\n")
    rows = ["148092;Swiping Right", "9;Doing other things", "70511;Turning Hand Clockwise"]
    write("lists/jester-v1-train.csv", "\n".join(rows) + "\n")
    write("lists/jester-v1-validation.csv", "10;Stop Sign\n")
    write("lists/jester-v1-test.csv", "11\n")
    for name in ("9", "10", "70511", "148092", "11"):
        write_images(tmp_path / "videos" / name, range(1, 5))
    return tmp_path


def test_jester(jester):
    source = config(jester, "jester").open("train")
    assert source.label_names == GESTURES and config(jester, "jester").num_classes == 27
    wanted = {"148092": GESTURES[1], "9": GESTURES[-1], "70511": GESTURES[14]}
    assert read(source) == wanted
    video = source.batch(np.array([1]))["video"][0]
    assert video.mean((1, 2, 3)) == pytest.approx([10, 40], abs=1)  # the first and the last
    assert read(config(jester, "jester").open("test")) == {"10": "Stop Sign"}


def test_gestures_that_a_mirror_changes_are_swapped():
    mirrored = label_flip.mirrored_labels(GESTURES)
    swapped = {number: other for number, other in enumerate(mirrored) if number != other}
    assert swapped == {0: 1, 1: 0, 6: 7, 7: 6, 14: 15, 15: 14}
    # Without the other of a pair it is not mirrored at all.
    assert label_flip.mirrored_labels(GESTURES[1:])[0] == label_flip.NOT_MIRRORED


@pytest.mark.parametrize("text", ["12,Stop Sign", "Stop Sign", "12;Waving", "x;Stop Sign", "12"])
def test_lists_of_jester_that_do_not_fit_are_refused(jester, write, text):
    write("lists/jester-v1-train.csv", f"9;Stop Sign\n{text}\n")
    with pytest.raises(UserError, match=r"train.csv: line 2 is not `ID;LABEL` of a label"):
        config(jester, "jester").open("train")


def test_a_clip_of_two_labels_is_refused(jester, write):
    write("lists/jester-v1-train.csv", "9;Stop Sign\n10;Stop Sign\n9;No gesture\n")
    said = r"train\.csv: line 1 has 'Stop Sign' for 9, line 3 'No gesture': remove the wrong one"
    with pytest.raises(UserError, match=said):
        config(jester, "jester").open("train")


def test_a_gesture_without_its_images_is_named(jester):
    (jester / "videos" / "9" / "00003.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"1 of 3 .*9: frame 2 of 4 is damaged"):
        config(jester, "jester").open("train")
    shutil.rmtree(jester / "videos" / "70511")
    with pytest.raises(UserError, match=r"1 of 3 .*\(70511: no such file\)"):
        config(jester, "jester").open("train")  # before any is decoded
    with pytest.raises(UserError, match=r"2 of 3 .*\(70511: no such file; 9: frame 2 of 4 is dam"):
        config(jester, "jester", max_broken=0.4).open("train")


def test_mistakes_in_lists_are_found_before_videos_are_decoded(jester, write, caplog):
    it = config(jester, "jester")
    it.check_lists()
    write("lists/jester-v1-validation.csv", "10;Stop Sign\n9;Doing other things\n")
    it.check_lists()
    said = "1 of 2 videos to test on are also trained on, so that scores say little about new vid"
    assert caplog.messages[-1].startswith(said) and caplog.messages[-1].endswith("videos: 9")
    write("lists/jester-v1-validation.csv", "10;Stop Sign\n12;Stop Sign\n")
    with pytest.raises(UserError, match=r"1 of 2 videos cannot be used \(12: no such file\)"):
        it.check_lists()
    write("lists/jester-v1-labels.csv", "\n".join([*GESTURES, GESTURES[0]]))
    with pytest.raises(UserError, match="two labels are named 'Swiping Left'"):
        it.check_lists()
    (jester / "lists/jester-v1-validation.csv").unlink()
    with pytest.raises(UserError, match=r"cannot read .*jester-v1-validation\.csv"):
        it.check_lists()
    assert not (jester / "videos/.rstg_jax_index.json").exists()


# --- EPIC-KITCHENS-100 ----------------------------------------------------------------------------

SEGMENTS = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,"
    "start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
)


@pytest.fixture
def epic_kitchens(write, tmp_path):
    """One video of either numbering; segments overlap, and one narration has no time."""
    rows = [
        'P01_05_0,P01,P01_05,00:00:00.1,00:00:00.05,00:00:00.13,3,8,"wash cup, tap",wash,1,cup,0,'
        "\"['cup', 'tap']\",\"[0, 2]\"",
        "P01_05_1,P01,P01_05,,00:00:00.10,00:00:00.2,6,12,take tap,take,0,tap,2,['tap'],[2]",
        "P30_105_0,P30,P30_105,00:00:00,00:00:00,00:00:00.0,1,1,take cup,take,0,cup,0,['cup'],[0]",
    ]
    write("lists/EPIC_100_train.csv", SEGMENTS + "\n".join(rows) + "\n")
    write("lists/EPIC_100_validation.csv", SEGMENTS + rows[1].replace("take,0", "put-on,2") + "\n")
    keys = "id,key,instances,category\n"
    write(
        "lists/EPIC_100_verb_classes.csv", f"{keys}0,take,\"['a']\",x\n1,wash,[],x\n2,put-on,[],y\n"
    )
    write("lists/EPIC_100_noun_classes.csv", f"{keys}0,cup,[],x\n1,lid,[],x\n2,tap,[],x\n")
    for name in ("P01_05", "P30_105"):
        folder = tmp_path / "videos" / name[:3] / "rgb_frames" / name
        write_images(folder, range(1, 15), "frame_{:010}.jpg")
    return tmp_path


def test_epic_kitchens(epic_kitchens):
    source = config(epic_kitchens, "epic_kitchens_verbs").open("train")
    assert source.label_names == ("take", "wash", "put-on")
    assert read(source) == {"P01_05_0": "wash", "P01_05_1": "take", "P30_105_0": "take"}
    first, second, third = source.batch(np.arange(3))["video"].mean((2, 3, 4))
    assert first == pytest.approx([30, 70], abs=1)  # frames 3 and 7: 8 is behind its end
    assert second == pytest.approx([60, 110], abs=1)
    assert third == pytest.approx([10, 10], abs=1)  # no segment is empty
    test = config(epic_kitchens, "epic_kitchens_verbs").open("test")
    assert read(test) == {"P01_05_1": "put-on"}
    nouns = config(epic_kitchens, "epic_kitchens_nouns").open("train")
    assert read(nouns) == {"P01_05_0": "cup", "P01_05_1": "tap", "P30_105_0": "cup"}


def test_segments_without_their_frames_are_named(epic_kitchens):
    for number in (11, 12):
        (epic_kitchens / f"videos/P01/rgb_frames/P01_05/frame_{number:010}.jpg").unlink()
    first = "P01/rgb_frames/P01_05/frame_0000000011.jpg: no such file"
    with pytest.raises(UserError, match=rf"1 of 3 videos cannot be used \(P01_05_1: .*{first}\)"):
        config(epic_kitchens, "epic_kitchens_verbs").open("train")
    shutil.rmtree(epic_kitchens / "videos/P30")
    first = "P30/rgb_frames/P30_105/frame_0000000001.jpg: no such file"
    with pytest.raises(UserError, match=rf"1 of 3 videos .*P30_105_0: .*{first}"):
        config(epic_kitchens, "epic_kitchens_verbs").open("train")


@pytest.mark.parametrize(
    ("file", "row", "sentence"),
    [
        ("train", "a,P01,P01_05,,,,3,8,n,v,3,n,0,[],[]", "line 2 is no segment"),
        ("train", "a,P01,P01_05,,,,3,8,n,v,-1,n,0,[],[]", "line 2 is no segment"),
        ("train", "a,P01,P01_05,,,,8,7,n,v,1,n,0,[],[]", "line 2: stop_frame=7 is before start"),
        (
            "train",
            "a,P01,P01_05,,,,3,8,n,v,1,n,0,[],[]\na,P01,P01_05,,,,3,9,n,v,1,n,0,[],[]",
            "line 2 has 'wash' of frames 3 to 8 for a, line 3 'wash' of frames 3 to 9: remove",
        ),
        ("train", "a,P01,P01_05,,,,x,8,n,v,1,n,0,[],[]", "line 2 is no segment"),
        ("train", "a,P01,P01_05,,,,3", "line 2 is no segment"),
        ("train", 'a,P01,P01_05,,,,3,8,"n,v,0,n,0,[],[]\nb', r"line 2 cannot be read \(unexpected"),
        ("verb_classes", "0,take,1,1\n2,wash,1,1", "line 3 is not class 1: '2'"),
        ("verb_classes", "0,take,1,1\n \n\n2,wash,1,1", "line 5 is not class 1: '2'"),
    ],
)
def test_lists_of_epic_kitchens_that_do_not_fit_are_refused(
    epic_kitchens, write, file, row, sentence
):
    head = SEGMENTS if file == "train" else "id,key,instances,category\n"
    write(f"lists/EPIC_100_{file}.csv", f"{head}{row}\n")
    with pytest.raises(UserError, match=sentence):
        config(epic_kitchens, "epic_kitchens_verbs").open("train")


# --- the configuration ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"dataset": "ucf100"}, "'dataset': 'ucf100' is not one of ucf101, hmdb51"),
        ({"fold": 4}, "fold=4 must be 1, 2 or 3"),
        ({"dataset": "kinetics", "fold": 3}, "fold=3: kinetics has one split only"),
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


@pytest.mark.parametrize("dataset", ["kinetics", "clevrer_collisions", "perception_test_actions"])
def test_directories_below_that_cannot_be_read_are_named(dataset, write, tmp_path, monkeypatch):
    write("lists/train.csv", "label,youtube_id,time_start,time_end\na,ccccccccccc,5,15\n")
    write("lists/annotation_00000.json", "{}")
    place = "lists" if dataset.startswith("perception") else "videos"
    (tmp_path / place / "lost+found").mkdir(parents=True)
    (tmp_path / "videos").mkdir(exist_ok=True)
    clip_files.refuse_to_list(monkeypatch, "lost+found")
    with pytest.raises(UserError, match=r"lost\+found: cannot be read: Permission denied"):
        config(tmp_path, dataset).open("train")


@pytest.mark.parametrize("dataset", typing.get_args(published.DataSet))
def test_every_data_set_has_a_variant(dataset):
    experiment = folder.get_config(dataset)
    assert from_dict(Experiment, json.loads(json.dumps(to_dict(experiment)))) == experiment
    reader = published.READERS[dataset]
    assert experiment.data.dataset == dataset and experiment.data.clip.flip == reader.mirrors
    assert (experiment.loss.kind == "sigmoid") == experiment.data.multi_label == reader.multi_label
    names = reader.label_names or ("a", "b")
    (text,) = experiment.data.describe(names, {})
    count = "any number" if reader.multi_label else "one"
    assert text.startswith(f"Every video shows {count} of {len(names)} {reader.label_noun}s, such")
