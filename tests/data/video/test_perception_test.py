"""Perception Test, read from a fabricated tree of the published layout."""

import json

import numpy as np
import pytest
from PIL import Image

from rstg_jax import data
from rstg_jax.errors import UserError
from tests import clip_files
from tests.data.video.test_cater import sets
from tests.data.video.test_published import config, read

WHERE = (
    "The person uses multiple similar objects to play an occlusion game. Where is the hidden "
    "object at the end of the game from the person's point of view?"
)
PLACES = [f"Under the {number} object from the left." for number in ("first", "second", "third")]


def entry(split, name, actions=(), questions=(), cup_game=0):
    return {
        "metadata": {
            **{"split": split, "video_id": name, "frame_rate": 29.97, "num_frames": 8},
            **{"resolution": [1080, 1920], "is_cup_game": cup_game, "is_camera_moving": 0},
        },
        "object_tracking": [],
        "action_localisation": [
            {"id": i, "label": label, "label_id": number, "parent_objects": [3, -1]}
            | {"timestamps": [1200000, 2466667], "frame_ids": [2, 5]}  # they overlap
            for i, (label, number) in enumerate(actions)
        ],
        "mc_question": [
            {"id": i, "question": question, "options": options, "answer_id": answer}
            | {"area": "Memory", "reasoning": "Descriptive", "tag": ["occlusion"]}
            for i, (question, options, answer) in enumerate(questions)
        ],
        "grounded_question": [],
    }


def game(split, name, answer, options=PLACES):
    questions = [("What letter is shown?", ["a", "b", "c"], 0), (WHERE, options, answer)]
    return entry(split, name, questions=questions, cup_game=1)


PUT, TAKE = ("Putting something into something", 4), ("Taking something out of something", 2)
TRAIN = [
    entry("train", "video_1", [PUT, TAKE, PUT]),
    entry("train", "video_22", [TAKE], [(WHERE, PLACES, 1)]),  # no cup game
    game("train", "video_333", 2),
    game("train", "video_4", 0, PLACES[::-1]),
    entry("train", "video_5"),  # nothing is annotated
]
VALID = [
    entry("valid", "video_60", [PUT]),
    game("valid", "video_7", 1),
    game("valid", "video_8", 0),
]


@pytest.fixture
def tree(tmp_path, write):
    film = clip_files.film(
        [Image.new("RGB", (64, 48), (20 * i,) * 3) for i in range(8)],
        **{"deadline": "realtime", "cpu-used": "8"},
    )
    for split, entries in (("train", TRAIN), ("valid", VALID)):
        content = {each["metadata"]["video_id"]: each for each in entries}
        write(f"lists/all_{split}.json", json.dumps(content))
        for name in content:
            write(f"videos/{name}.mp4")
            (tmp_path / f"videos/{name}.mp4").write_bytes(film)
    write("lists/misc/cut_frame_mapping_train.json", '{"video_333": 5, "video_4": -1}')
    write("lists/misc/cut_frame_mapping_valid.json", '{"video_7": 100}')
    write("lists/misc/some_id_list.csv", "video_1\n")
    answerless = entry("test", "video_9", questions=[], cup_game=1)
    del answerless["action_localisation"]
    write("lists/mc_question_test.json", json.dumps({"video_9": answerless}))
    return tmp_path


def test_actions_of_a_video_are_a_set(tree):
    it = config(tree, "perception_test_actions")
    assert it.multi_label and it.num_classes == 5  # label_id is the index, with gaps
    source = it.open("train")
    assert source.label_names == ("unused 0", "unused 1", TAKE[0], "unused 3", PUT[0])
    assert sets(source) == {"video_1": [TAKE[0], PUT[0]], "video_22": [TAKE[0]]}
    assert sets(it.open("test")) == {"video_60": [PUT[0]]}


def test_cup_games_end_before_their_answer(tree, caplog):
    it = config(tree, "perception_test_cups")
    assert not it.multi_label and it.num_classes == 3
    source = it.open("train")
    assert source.label_names == tuple(text.rstrip(".") for text in PLACES)
    assert read(source) == {"video_333": source.label_names[2], "video_4": source.label_names[2]}
    brightness = source.batch(np.arange(2))["video"].mean((2, 3, 4))
    # The first and the last frame: the fifth where it is cut, else the eighth.
    assert brightness[:, 1] == pytest.approx([80, 140], abs=4)
    assert read(it.open("test")) == {"video_7": source.label_names[1]}
    assert "no cut for 1 cup games (video_8): left out" in caplog.text
    with pytest.raises(UserError, match="a mirrored video of perception_test_cups has no label"):
        config(tree, "perception_test_cups", clip=data.ClipConfig(flip=True))


def test_missing_files_are_named(tree):
    (tree / "videos/video_4.mp4").unlink()
    with pytest.raises(UserError, match=r"1 of 2 .*\(video_4: no such file"):
        config(tree, "perception_test_cups").open("train")
    (tree / "lists/misc/cut_frame_mapping_train.json").unlink()
    with pytest.raises(UserError, match=r"has no cut_frame_mapping_train\.json; uncut, a cup game"):
        config(tree, "perception_test_cups").open("train")
    (tree / "lists/all_valid.json").unlink()
    with pytest.raises(UserError, match="no JSON file has the action_localisation of videos whose"):
        config(tree, "perception_test_actions").open("test")


@pytest.mark.parametrize(
    ("dataset", "change", "sentence"),
    [
        (
            "actions",
            lambda e: e["action_localisation"][0].pop("label_id"),
            "json: video_1: is no action",
        ),
        (
            "actions",
            lambda e: e["action_localisation"][0].update(label_id=10**9),
            "json: video_1: is no action",
        ),
        (
            "actions",
            lambda e: e["action_localisation"][0].update(label="Waving"),
            "all_train.json: video_1: label_id 4 is 'Waving' and",
        ),
        ("cups", lambda e: e.pop("metadata"), "all_train.json: video_1: has no metadata"),
        ("cups", lambda e: e.update(mc_question=None), "json: video_1: mc_question is no list"),
        ("cups", lambda e: None, "no cup game of the train split has a question"),
    ],
)
def test_other_annotations_are_refused(tree, write, dataset, change, sentence):
    content = {each["metadata"]["video_id"]: json.loads(json.dumps(each)) for each in TRAIN[:2]}
    change(content["video_1"])
    write("lists/all_train.json", json.dumps(content))
    with pytest.raises(UserError, match=sentence):
        config(tree, f"perception_test_{dataset}").open("train")


def test_a_video_in_two_files_must_be_the_same_in_both(tree, write):
    write("lists/challenge.json", json.dumps({"video_1": TRAIN[0]}))
    assert len(config(tree, "perception_test_actions").open("train")) == 2
    write("lists/challenge.json", json.dumps({"video_1": entry("train", "video_1", [PUT])}))
    said = r"challenge.json: video_1: has another action_localisation than .*train.json: video_1"
    with pytest.raises(UserError, match=said):
        config(tree, "perception_test_actions").open("train")


def test_a_game_without_its_answer_is_refused(tree, write):
    broken = game("train", "video_333", 3)
    write("lists/all_train.json", json.dumps({"video_333": broken}))
    with pytest.raises(UserError, match="json: video_333: is no cup game: answer_id=3"):
        config(tree, "perception_test_cups").open("train")
