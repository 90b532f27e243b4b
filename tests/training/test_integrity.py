"""Damage of every kind in every file of a checkpoint is found, and said in one line."""

import json
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rstg_jax.errors import UserError
from rstg_jax.training import checkpoint, integrity, train_loop
from tests import standins


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with checkpoints of steps 1 and 2; step 1 has a score."""
    workdir = tmp_path_factory.mktemp("run")
    state = {"a": jnp.arange(1000.0), "b": {"c": jnp.ones((3, 4))}}
    with checkpoint.Checkpoints(workdir) as checkpoints:
        checkpoints.save(1, state, {"step": 1}, {"top1": 0.5})
        checkpoints.save(2, jax.tree.map(lambda x: 2 * x, state), {"step": 2}, None)
    return workdir


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "cut": (cut, "bytes of"),
    "flipped bit": (flip, "differs from its checksum"),
    "missing": (lambda path: path.unlink(), "is missing"),
}


def listed(saved):
    return sorted(json.loads((saved / "checkpoints/2" / integrity.MANIFEST).read_text()))


def test_the_manifest_lists_every_file(saved):
    directory = saved / "checkpoints/2"
    there = {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()}
    assert set(listed(saved)) == there - {integrity.MANIFEST, *integrity.UNLISTED}
    assert any(name.startswith("state/d/") for name in there)
    assert "metrics/metrics" in json.loads(
        (saved / "checkpoints/1" / integrity.MANIFEST).read_text()
    )
    assert integrity.damage(directory) is None


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_of_every_file_is_found(saved, tmp_path, kind):
    harm, words = DAMAGES[kind]
    names = [n for n in listed(saved) if (saved / "checkpoints/2" / n).stat().st_size]
    assert len(names) > 5
    for number, name in enumerate(names):
        directory = tmp_path / str(number)
        shutil.copytree(saved / "checkpoints/2", directory)
        harm(directory / name)
        reason = integrity.damage(directory)
        assert reason and reason.startswith(f"{name} ") and words in reason


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": 1}', '{"a": ["x", "y"]}'])
def test_a_damaged_manifest_is_damage(saved, tmp_path, content):
    directory = shutil.copytree(saved / "checkpoints/2", tmp_path / "2")
    (directory / integrity.MANIFEST).write_text(content)
    assert "manifest.json is unreadable" in integrity.damage(directory)


def test_checkpoints_of_earlier_versions_have_no_manifest(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "old")
    for step in (1, 2):
        (tmp_path / "old/checkpoints" / str(step) / integrity.MANIFEST).unlink()
    with checkpoint.Checkpoints(tmp_path / "old") as checkpoints:
        assert checkpoints.meta(2) == {"step": 2}


def test_readers_refuse_and_name_the_whole_ones(saved, tmp_path):
    workdir = shutil.copytree(saved, tmp_path / "run")
    flip(workdir / "checkpoints/2/meta/metadata")
    with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
        assert checkpoints.meta(1) == {"step": 1}
        with pytest.raises(UserError) as error:
            checkpoints.meta(2)
    assert str(error.value) == (
        f"checkpoint {workdir}/checkpoints/2 is damaged: meta/metadata differs from its checksum; "
        "choose --step=1, or start the training again, which goes on from the newest whole one"
    )
    assert sorted(p.name for p in workdir.iterdir()) == ["checkpoints"]


def test_writers_go_on_from_the_newest_whole_one(saved, tmp_path, caplog):
    workdir = shutil.copytree(saved, tmp_path / "run")
    cut(workdir / "checkpoints/2/state/_METADATA")
    with checkpoint.Checkpoints(workdir) as checkpoints:
        assert checkpoints.latest == 1
    assert "checkpoint 2 is damaged: state/_METADATA has" in caplog.text
    (aside,) = (workdir / "damaged").iterdir()
    assert aside.name.startswith("2-") and (aside / "meta").is_dir()


def test_nothing_is_begun_anew_when_all_are_damaged(saved, tmp_path):
    workdir = shutil.copytree(saved, tmp_path / "run")
    for step in (1, 2):
        flip(workdir / "checkpoints" / str(step) / "meta/metadata")
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged \(1: meta/metadata"):
        checkpoint.Checkpoints(workdir)
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["1", "2"]


def test_a_score_that_is_added_later_is_listed(saved, tmp_path):
    workdir = shutil.copytree(saved, tmp_path / "run")
    with checkpoint.Checkpoints(workdir) as checkpoints:
        checkpoints.add_score(2, {"top1": 0.75})
        assert (checkpoints.best, checkpoints.score(2)) == (2, 0.75)
    directory = workdir / "checkpoints/2"
    assert integrity.damage(directory) is None
    flip(directory / "metrics/metrics")
    assert "metrics/metrics differs" in integrity.damage(directory)


def test_only_the_first_process_lists_files(saved, tmp_path, monkeypatch):
    """What another one is just writing would be listed, and then be missing for ever."""
    monkeypatch.setattr(integrity, "write_manifest", lambda directory: calls.append(directory.name))
    for number, expected in ((0, ["2"]), (1, [])):
        workdir, calls = shutil.copytree(saved, tmp_path / str(number)), []
        with checkpoint.Checkpoints(workdir) as checkpoints, monkeypatch.context() as patch:
            patch.setattr(checkpoint, "jax", SimpleNamespace(process_index=lambda n=number: n))
            checkpoints.add_score(2, {"top1": 0.75})
        assert calls == expected


def test_a_run_with_a_damaged_checkpoint_ends_as_without(tmp_path, monkeypatch):
    standins.install(monkeypatch)
    experiment = standins.experiment(total_steps=9, checkpoint_every=3, eval_every=0, log_every=1)
    whole = train_loop.train(experiment, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    assert integrity.steps(tmp_path / "cut/checkpoints") == [6, 9]
    flip(next((tmp_path / "cut/checkpoints/9/state/d").iterdir()))
    again = train_loop.train(experiment, tmp_path / "cut")
    for key in ("loss", "top1", "confusion", "best"):
        np.testing.assert_equal(again[key], whole[key])
    assert standins.records(tmp_path / "cut") == standins.records(tmp_path / "whole")
