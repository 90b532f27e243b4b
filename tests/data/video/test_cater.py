"""CATER, read from a fabricated tree of the published layout."""

import itertools
import json

import numpy as np
import pytest

import train
from rstg_jax import data, evaluate
from rstg_jax.data.video import cater, label_flip
from rstg_jax.errors import UserError
from tests.data.video.test_published import config, read

NUMBERS = (1, 2, 17, 4998, 5500, 5781)  # ids pass 5500, with gaps
TASKS = {
    "actions_present": ["0,13", "3", "1,2,3", "5", "9,10", "0"],
    "actions_order_uniq": ["0,300", "1", "28,29,30", "2", "299", "4,5"],
    "localize": ["0", "35", "7", "6", "1", "20"],
}


@pytest.fixture
def tree(write, tmp_path):
    """Four videos for training and two for testing; a video that is in no list."""
    names = [f"CATER_new_{number:06}.avi" for number in NUMBERS]
    for name in [*names, "CATER_new_000003.avi"]:
        write(f"videos/{name}")
    for task, labels in TASKS.items():
        rows = [f"{name} {text}\n" for name, text in zip(names, labels, strict=True)]
        rows[1] = f"/data/max2action/videos/{rows[1]}"  # the code that made them writes paths
        write(f"lists/{task}/train.txt", "".join(rows[:4]))
        write(f"lists/{task}/val.txt", "".join(rows[4:]))
        write(f"lists/{task}/train_subsetT.txt", rows[0])
    scene = {"movements": {"Spl_0": [], "Cone_1": [["_contain", "Cone_2", 3, 40]]}}
    write("scenes/CATER_new_000001.json", json.dumps(scene))
    return tmp_path


def sets(source):
    """Id -> names of the labels."""
    batch = source.batch(np.arange(len(source)))
    assert batch["label"].shape == (len(source), len(source.label_names))
    return {
        str(name): [source.label_names[k] for k in data.labels_of(label)]
        for name, label in zip(batch["id"], batch["label"], strict=True)
    }


def test_labels_are_those_of_the_published_numbering():
    assert len(cater.ACTIONS) == 14 and cater.ACTIONS[5:7] == (
        "cylinder pick_place",
        "cylinder slide",
    )
    numbered = []
    for i, j in itertools.combinations_with_replacement(range(14), 2):
        numbered += [(i, "before", j), (i, "during", j)]
        if i != j:
            numbered.append((i, "after", j))
    names = [f"{cater.ACTIONS[i]} {order} {cater.ACTIONS[j]}" for i, order, j in numbered]
    assert list(cater.ORDERS) == names and len(set(names)) == 301
    for x, y in itertools.product(np.arange(-2.9, 3, 0.7), repeat=2):
        label = 6 * (int(np.floor(y)) + 3) + int(np.floor(x)) + 3
        assert cater.CELLS[label] == f"x={int(np.floor(x))} y={int(np.floor(y))}"
    unchanged = list(range(301))
    assert label_flip.mirrored_labels(cater.ORDERS).tolist() == unchanged  # safe to mirror


def test_actions_present(tree):
    it = config(tree, "cater_actions_present")
    assert it.multi_label and it.num_classes == 14
    assert sets(it.open("train")) == {
        "CATER_new_000001.avi": ["sphere slide", "cone slide"],
        "CATER_new_000002.avi": ["spl pick_place"],
        "CATER_new_000017.avi": ["sphere pick_place", "spl slide", "spl pick_place"],
        "CATER_new_004998.avi": ["cylinder pick_place"],
    }
    assert list(sets(it.open("test"))) == ["CATER_new_005500.avi", "CATER_new_005781.avi"]


def test_orders_of_actions(tree):
    found = sets(config(tree, "cater_actions_order_uniq").open("train"))
    assert found["CATER_new_000001.avi"] == [
        "sphere slide before sphere slide",
        "cone slide during cone slide",
    ]
    assert found["CATER_new_004998.avi"] == ["sphere slide before sphere pick_place"]


def test_places(tree):
    it = config(tree, "cater_localize")
    assert not it.multi_label and it.num_classes == 36
    assert list(read(it.open("train")).values()) == [
        "x=-3 y=-3",
        "x=2 y=2",
        "x=-2 y=-2",
        "x=-3 y=-2",
    ]
    mirrored = data.ClipConfig(frames=2, resize=40, crop=32, flip=True)
    with pytest.raises(UserError, match="a mirrored video of cater_localize has no label: set cl"):
        config(tree, "cater_localize", clip=mirrored)
    assert config(tree, "cater_actions_present", clip=mirrored).clip.flip
    with pytest.raises(UserError, match="cater_localize has no label: test other views, or 5 corn"):
        it.with_protocol("tsn")
    assert it.with_protocol("5x1-corners").views == 5


def test_a_damaged_video_is_named(tree):
    (tree / "videos/CATER_new_000002.avi").write_bytes(b"RIFF")
    with pytest.raises(UserError, match=r"1 of 4 videos cannot be used \(CATER_new_000002.avi: "):
        config(tree, "cater_localize").open("train")
    (tree / "videos/CATER_new_000017.avi").unlink()
    it = config(tree, "cater_localize", max_broken=0.5).open("train")
    assert len(it) == 2 and it.provenance["broken"] == 2


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("actions_present", "CATER_new_000001.avi 14"),
        ("actions_present", "CATER_new_000001.avi"),
        ("actions_present", "CATER_new_000001.avi 1,x"),
        ("actions_present", "CATER_new_000001.avi 1, 2"),
        ("localize", "CATER_new_000001.avi 36"),
        ("localize", "CATER_new_000001.avi 1,2"),
        ("actions_order_uniq", "CATER_new_000001.avi -1"),
        ("actions_order_uniq", "CATER_new_000001.avi " + "1" * 5000),
    ],
)
def test_lists_that_do_not_fit_are_refused(tree, write, task, text):
    write(f"lists/{task}/train.txt", f"CATER_new_000001.avi 1\n{text}\n")
    with pytest.raises(UserError, match=rf"{task}/train.txt: line 2 is not `FILE LABEL"):
        config(tree, f"cater_{task}").open("train")


def test_sets_of_labels_may_be_in_any_order_but_not_differ(tree, write):
    rows = "CATER_new_000001.avi 0,13\nCATER_new_000001.avi 13,0\n"
    write("lists/actions_present/train.txt", rows)
    it = config(tree, "cater_actions_present")
    assert sets(it.open("train")) == {"CATER_new_000001.avi": ["sphere slide", "cone slide"]}
    write("lists/actions_present/train.txt", f"{rows}CATER_new_000001.avi 13\n")
    with pytest.raises(UserError, match=r"line 1 has 'sphere slide, .*, line 3 'cone slide': rem"):
        it.open("train")


def test_another_layout_is_refused(tree):
    (tree / "lists/localize/train.txt").unlink()
    with pytest.raises(UserError, match=r"cannot read .*localize/train\.txt: No such file"):
        config(tree, "cater_localize").open("train")


def test_it_is_trained_and_tested_by_mean_average_precision(tree):
    """The smallest network on the tree, mirrored clips included."""
    small = {
        **{"model.backbone.features": "8", "model.backbone.kernels": "5"},
        **{"model.backbone.strides": "4", "model.rstg.dim": "8", "model.rstg.stages": "time,space"},
        **{"data.clip.frames": "2", "data.clip.resize": "40", "data.clip.crop": "32"},
        **{"train.total_epochs": "none", "train.total_steps": "2", "train.batch_size": "4"},
        **{"data.path": f"{tree}/videos", "data.lists": f"{tree}/lists", "mesh.data": "1"},
    }
    words = [f"--config.{key}={value}" for key, value in small.items()]
    run = tree / "run"
    words += ["--config=configs/folder.py:cater_actions_present", f"--workdir={run}"]
    assert train.main(words) == 0
    result = json.loads((run / "result.json").read_text())
    assert result["positives"] == [1, *[0] * 8, 1, 1, *[0] * 3]
    assert result["label_names"] == list(cater.ACTIONS) and 0 < result["mAP"] <= 1
    assert evaluate.main([f"--workdir={run}"]) == 0
    again = json.loads((run / "evaluation-test-last-center.json").read_text())
    assert again["mAP"] == pytest.approx(result["mAP"], rel=1e-5)
