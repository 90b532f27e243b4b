"""CLEVRER, read from a fabricated tree of the published layout."""

import json

import numpy as np
import pytest

from rstg_jax.data.video import clevrer
from rstg_jax.errors import UserError
from tests.data.video.test_cater import sets
from tests.data.video.test_published import config

OBJECTS = [("red", "metal", "cube"), ("gray", "rubber", "sphere"), ("cyan", "metal", "cube")]


def annotation(number, *pairs, objects=OBJECTS):
    """An annotation; one object is out of view from the second frame on."""
    keys = ("color", "material", "shape")
    moving = ("location", "orientation", "velocity", "angular_velocity")
    frames = [
        {
            "frame_id": frame,
            "objects": [
                {"object_id": i, **{key: [0.0, 0.1, 0.2] for key in moving}}
                | {"inside_camera_view": not (i and frame)}
                for i in range(len(objects))
            ],
        }
        for frame in range(2)
    ]
    return {
        "scene_index": number,
        "video_filename": f"video_{number:05}.mp4",
        "object_property": [
            {"object_id": i, **dict(zip(keys, object_, strict=True))}
            for i, object_ in enumerate(objects)
        ],
        "motion_trajectory": frames,
        "collision": [
            {"object_ids": list(pair), "frame_id": 57, "location": [0.4, -1.1, 0.2]}
            for pair in pairs
        ],
    }


@pytest.fixture
def tree(write, tmp_path):
    """Videos on both sides of a thousand; of training, validation and test."""
    collisions = {
        999: [(0, 1), (1, 0), (0, 2)],  # one pair repeated, two objects of a kind
        1000: [],
        10_000: [(2, 1)],
        14_999: [(0, 2)],
    }
    for number, pairs in collisions.items():
        split = "train" if number < 10_000 else "validation"
        first = number // 1000 * 1000
        folder = f"{first:05}-{first + 1000:05}"
        write(f"videos/{split}/video_{folder}/video_{number:05}.mp4")
        file = f"lists/{split}/annotation_{folder}/annotation_{number:05}.json"
        write(file, json.dumps(annotation(number, *pairs)))
    write("videos/test/video_15000-16000/video_15000.mp4")
    write("lists/train/sim_00001.json", "{}")  # of other code
    return tmp_path


def test_labels_are_pairs_of_kinds_that_collide(tree, caplog):
    it = config(tree, "clevrer_collisions")
    assert it.multi_label and it.num_classes == 21
    source = it.open("train")
    assert sets(source) == {
        "video_00999.mp4": ["metal cube hits metal cube", "metal cube hits rubber sphere"],
        "video_01000.mp4": [],
    }
    assert "has 2 of 10000 annotations of the train split" in caplog.text
    assert sets(it.open("test")) == {
        "video_10000.mp4": ["metal cube hits rubber sphere"],
        "video_14999.mp4": ["metal cube hits metal cube"],
    }
    assert len(set(clevrer.COLLISIONS)) == 6 * 7 // 2
    assert source.batch(np.array([1]))["label"].sum() == 0


def test_an_annotation_that_is_there_twice_is_refused(tree, write):
    write("lists/copy/annotation_00999.json", json.dumps(annotation(999)))
    with pytest.raises(UserError, match=r"_00999\.json and .*_00999\.json are both there: remove"):
        config(tree, "clevrer_collisions").open("train")


def test_missing_videos_are_named(tree):
    (tree / "videos/validation/video_14000-15000/video_14999.mp4").unlink()
    with pytest.raises(UserError, match=r"1 of 2 .*\(video_14999.mp4: no such file"):
        config(tree, "clevrer_collisions").open("test")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"collision": None}, "is no annotation of CLEVRER"),
        ({"object_property": []}, "is no annotation of CLEVRER"),
        ({"collision": [{"object_ids": [0, 1, 2]}]}, "is no annotation of CLEVRER"),
        ({"collision": [{"objects": [0, 1]}]}, "is no annotation of CLEVRER: .*object_ids"),
    ],
)
def test_other_annotations_are_refused(tree, write, change, sentence):
    content = annotation(999, (0, 1)) | change
    write("lists/train/annotation_00000-01000/annotation_00999.json", json.dumps(content))
    with pytest.raises(UserError, match=rf"annotation_00999.json: {sentence}"):
        config(tree, "clevrer_collisions").open("train")


def test_other_kinds_of_objects_are_refused(tree, write):
    objects = [("red", "wood", "cube"), *OBJECTS[1:]]
    content = annotation(999, (0, 1), objects=objects)
    write("lists/train/annotation_00000-01000/annotation_00999.json", json.dumps(content))
    with pytest.raises(UserError, match="no kinds of objects are 'rubber sphere hits wood cube'"):
        config(tree, "clevrer_collisions").open("train")


def test_a_directory_without_annotations_is_refused(tree):
    with pytest.raises(UserError, match=r"has no annotation_NNNNN\.json of the train"):
        config(tree, "clevrer_collisions", lists=str(tree / "videos")).open("train")
