"""What is compared between the processes of a job; real ones are in test_resume.py."""

import dataclasses

import pytest

from rstg_jax import data, processes
from rstg_jax.errors import UserError
from rstg_jax.training import agreement
from tests import standins


@pytest.fixture
def differing(monkeypatch):
    """Says what process 1 complains of: its sources and experiment differ from those of process 0.

    The two are asked one after the other.
    """

    def ask(first, second):
        said = []
        monkeypatch.setattr(processes, "of_the_first", lambda text: said.append(text) or said[0])
        agreement.check(*first)
        monkeypatch.setattr(agreement.jax, "process_index", lambda: 1)
        try:
            agreement.check(*second)
        except UserError as error:
            return str(error)
        return None

    return ask


class Checked(standins.Source):
    """Has a checksum, and lies somewhere."""

    provenance = {"files_sha256": "12ab", "path": "here"}


class Other(Checked):
    provenance = {"files_sha256": "34cd", "path": "there"}


FIRST = standins.experiment(), {"train": Checked(), "test": Checked("test")}


def changed(**fields):
    return dataclasses.replace(FIRST[0], **fields)


def test_equal_ones_may_have_their_data_elsewhere(differing):
    places = dataclasses.replace(FIRST[0].data, data_dir="there", mnist_dir="there")
    moved = type("Moved", (Checked,), {"provenance": {**Checked.provenance, "path": "there"}})
    assert (
        differing(FIRST, (changed(data=places), {"train": moved(), "test": moved("test")})) is None
    )


def test_what_differs_is_named(differing):
    train = dataclasses.replace(FIRST[0].train, seed=7, batch_size=16)
    second = changed(train=train), {"train": Other(size=36), "test": Checked("test", classes=6)}
    found = differing(FIRST, second)
    assert found == (
        "process 1: train.batch_size is 16, process 0 has 8; train.seed is 7, process 0 has 0; "
        "the number of train videos is 36, process 0 has 37; and 3 more; "
        "give all processes the same code, flags and data"
    )
    found = differing(FIRST, (FIRST[0], {"train": Other(), "test": Checked("test", classes=6)}))
    assert "files_sha256 of the train videos is 34cd, process 0 has 12ab" in found
    assert "the number of test labels is 6, process 0 has 7" in found
    assert "label 6 of the test videos is (absent), process 0 has g" in found


def test_the_test_views_must_be_the_same(differing):
    """Fields that choose them may differ when a run is resumed."""
    clips = data.FolderConfig(path="here")
    others = dataclasses.replace(clips.with_protocol("3x2"), path="there", processes=4)
    found = differing((changed(data=clips), FIRST[1]), (changed(data=others), FIRST[1]))
    assert found.startswith("process 1: the protocol is 3x2, process 0 has center; give all")


def test_only_whole_names_may_differ():
    first = {"data": {"path": "a", "path_order": "names", "clip": {"size": 1}}}
    here = {"data": {"path": "b", "path_order": "times", "clip": {"size": 2}}}
    found = agreement.differences(first, here, ("data.path", "data.clip"))
    assert found == ["data.path_order is times, process 0 has names"]
