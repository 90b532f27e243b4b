"""What users may keep in a bucket, against a server on localhost that speaks Google's API."""

import dataclasses
import importlib.util
import json
import os
import re
import shutil
import sys
import time

import jax
import numpy as np
import pytest

from rstg_jax import evaluate, features, files, predict, report, storage, verify
from rstg_jax.data import FeaturesConfig, array_records
from rstg_jax.data.features import read_description
from rstg_jax.data.sync_mnist import prepared
from rstg_jax.errors import UserError
from rstg_jax.inference import stored_features
from rstg_jax.training import checkpoint, integrity, lock, logs, train_loop, trained_model
from tests import standins, test_features
from tests.standin_train import finish, launch, wait_for
from tests.standins import figures
from tfds_builders.sync_mnist import build

PACKAGES = ("gcsfs", "gcp_storage_emulator")

pytestmark = [
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, PACKAGES)), reason=f"needs {' and '.join(PACKAGES)}"
    ),
    pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning"),  # gcsfs does
]


@pytest.fixture(scope="module")
def down(tmp_path_factory):
    """A file that makes the server unavailable while it is there."""
    return tmp_path_factory.mktemp("server") / "down"


@pytest.fixture(scope="module")
def bucket(down):
    from tests import gcs_server

    with gcs_server.running(down) as environment, pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield storage.path(f"gs://{gcs_server.BUCKET}")


@pytest.fixture
def place(bucket, request, tmp_path, monkeypatch):
    """A directory of the test's own in the bucket; no local one may appear by its name."""
    monkeypatch.chdir(tmp_path)
    yield bucket / re.sub(r"\W+", "-", request.node.name)
    assert not list(tmp_path.glob("gs:*"))


@pytest.fixture
def run(place, monkeypatch):
    """A finished run of 20 steps of the stand-in model."""
    standins.install(monkeypatch)
    train_loop.train(standins.experiment(total_steps=20), place)
    return place


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("gs://no-such-bucket/run", "there is no bucket 'no-such-bucket'"),
        ("s3://bucket/run", "s3:// is not read or written"),
        ("hdfs://host/run", "hdfs:// is not read or written"),
    ],
)
def test_other_addresses_are_refused(bucket, address, problem):
    with pytest.raises(UserError, match=problem):
        storage.path(address)
    with pytest.raises(UserError, match=problem):
        train_loop.train(standins.experiment(), address)


def test_what_gcsfs_is_needed_for_is_said_without_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=r"needs gcsfs: pip install 'rstg-jax\[gcs\]'"):
        storage.path("gs://bucket/run")


def test_files_of_a_bucket_are_those_of_a_directory(place, tmp_path):
    contents = {"a.txt": b"1", "b/c/d.bin": bytes(range(256)) * 5000, "b/e.txt": b"a\r\nb\n"}
    for name, content in contents.items():
        path = tmp_path / "local" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    storage.copy_tree(tmp_path / "local", place / "there")
    storage.copy_tree(place / "there", tmp_path / "back")
    for root in (tmp_path / "back", place / "there"):
        found = {p.relative_to(root).as_posix(): p for p in storage.files_below(root)}
        assert {name: path.read_bytes() for name, path in found.items()} == contents
        sizes = {name: storage.size(path) for name, path in found.items()}
        assert sizes == {name: len(content) for name, content in contents.items()}
        assert storage.names_in(root) == ["a.txt"]
        assert storage.names_in(root / "b") == ["e.txt"]
        assert storage.names_in(root / "missing") == []


def test_a_file_is_written_whole_or_not_at_all(place):
    files.write_json(place / "a.json", {"a": 1})
    with pytest.raises(ZeroDivisionError), files.replacing(place / "a.json") as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert files.read_json(place / "a.json") == {"a": 1}
    with pytest.raises(UserError, match=r"cannot read gs://.*b\.json"):
        files.read_json(place / "b.json")


def test_a_second_run_is_refused(place):
    with lock.Lock(place) as first:
        with pytest.raises(UserError, match="another run is in gs://"):
            lock.Lock(place).__enter__()
        first.check()
    assert not (place / lock.NAME).exists()


def test_a_lock_whose_owner_is_gone_is_taken_over(place, caplog):
    gone = {"host": os.uname().nodename, "pid": 2**22 + 1, "started": "1", "id": "a", "beats": 3}
    files.write_json(place / lock.NAME, gone)
    with caplog.at_level("INFO"), lock.Lock(place) as ours:
        ours.check()
    assert "is gone" in caplog.text and "taken over" in caplog.text


def test_of_two_runs_that_begin_at_once_the_first_ends(place, monkeypatch):
    """Neither sees the other's lock before it writes its own."""
    with monkeypatch.context() as blind:
        blind.setattr(lock, "_read", lambda path: {})
        first, second = lock.Lock(place).__enter__(), lock.Lock(place).__enter__()
    second.check()
    with pytest.raises(UserError, match="another run has taken over"):
        first.check()
    first.__exit__()
    second.check()  # the first one has left the other's lock
    second.__exit__()
    assert not (place / lock.NAME).exists()


def test_a_run_is_that_of_a_directory(run, tmp_path, monkeypatch):
    train_loop.train(standins.experiment(total_steps=20), tmp_path)
    assert standins.records(run) == standins.records(tmp_path)
    assert figures(run) == figures(tmp_path)
    states = []
    for place in (run, tmp_path):
        with checkpoint.Checkpoints(place, read_only=True) as checkpoints:
            assert integrity.steps(checkpoints.path) == [10, 20]
            model = trained_model.load(place, "last")
            states.append(jax.device_get(checkpoints.restore(20, model.abstract_state())))
    jax.tree.map(np.testing.assert_array_equal, *states)
    events = [p for p in storage.files_below(run) if p.name.startswith("events.out")]
    assert len(events) == 1 and storage.size(events[0]) > 500
    # Every record is there at once, also of a run that goes on.
    train_loop.train(standins.experiment(total_steps=30), run)
    assert [r["step"] for r in standins.records(run) if r["split"] == "train"] == [*range(5, 35, 5)]


def altered(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("kind", ["altered", "missing", "no manifest"])
def test_damage_is_found_and_set_aside(run, caplog, kind):
    newest = run / "checkpoints" / "20"
    victim = max(storage.files_below(newest / "state" / "d"), key=storage.size)
    if kind == "altered":
        altered(victim)
    elif kind == "missing":
        victim.unlink()
    else:
        (newest / integrity.MANIFEST).unlink()
    with pytest.raises(UserError, match=r"gs://.*/20 is damaged: .*; choose --step=10"):
        trained_model.load(run, "last")
    with caplog.at_level("WARNING"):
        result = train_loop.train(standins.experiment(total_steps=20), run)
    assert "checkpoint 20 is damaged" in caplog.text and result["steps"] == 20
    assert any((run / "damaged").iterdir())
    assert integrity.steps(run / "checkpoints") == [10, 20]
    assert integrity.damage(newest) is None


def test_what_a_killed_save_leaves_is_no_checkpoint(run):
    """All but the last file of a checkpoint."""
    (run / "checkpoints" / "20" / integrity.COMMITTED).unlink()
    assert integrity.steps(run / "checkpoints") == [10]
    assert trained_model.load(run, "last").step == 10
    result = train_loop.train(standins.experiment(total_steps=20), run)
    assert result["steps"] == 20 and integrity.steps(run / "checkpoints") == [10, 20]
    assert integrity.damage(run / "checkpoints" / "20") is None


def test_profiles_need_a_local_workdir(place):
    with pytest.raises(UserError, match="--profile: a trace is written locally"):
        train_loop.train(standins.experiment(), place, profile=(3, 4))


@pytest.mark.parametrize(
    ("code", "failures", "patience", "waits"),
    [(503, 2, 60.0, 2), (429, 1, 60.0, 1), (503, 2, 0.0, 0), (400, 1, 60.0, 0)],
)
def test_a_busy_server_is_asked_again(place, monkeypatch, caplog, code, failures, patience, waits):
    from gcsfs import core, retry

    files.write_text(place / "file", "there")
    answers = [code] * failures
    ask = core.GCSFileSystem._request

    async def request(*args, **kwargs):
        if answers:
            raise retry.HttpError({"code": answers.pop(), "message": "busy"})
        return await ask(*args, **kwargs)

    monkeypatch.setattr(core.GCSFileSystem, "_request", request)
    monkeypatch.setattr(storage, "PATIENCE_SECONDS", patience)
    if waits:
        assert files.read_text(place / "file") == "there"
        assert f"does not answer (busy, {code}); it is asked again for 1 minutes" in caplog.text
    else:
        with pytest.raises(UserError, match=f"file: HttpError: busy, {code}"):
            files.read_text(place / "file")
    assert caplog.text.count("does not answer") == waits


@pytest.mark.slow
def test_a_server_that_is_away_for_a_while(place, tmp_path, down):
    """For longer than gcsfs alone would wait: half a minute."""
    process = launch(place, seconds=0.1)
    wait_for(lambda: max(integrity.steps(place / "checkpoints"), default=0) > 7, process)
    down.touch()
    try:
        time.sleep(45)
    finally:
        down.unlink()
    status, _, err = finish(process)
    assert status == 0 and "gs:// does not answer (503)" in err, err
    assert finish(launch(tmp_path / "whole"))[0] == 0
    assert standins.records(place) == standins.records(tmp_path / "whole")
    assert figures(place) == figures(tmp_path / "whole")


@pytest.mark.slow
def test_kill_9_loses_nothing_but_time(place, tmp_path):
    """Twice, at moments that the test does not choose."""
    for step in (7, 28):
        process = launch(place, seconds=0.3)
        saved = place / "checkpoints"
        wait_for(lambda saved=saved, s=step: max(integrity.steps(saved), default=0) > s, process)
        process.kill()
        finish(process)
    status, _, err = finish(launch(place))
    assert status == 0 and "resuming after step" in err, err
    assert finish(launch(tmp_path / "whole"))[0] == 0
    assert standins.records(place) == standins.records(tmp_path / "whole")
    assert figures(place) == figures(tmp_path / "whole")


@pytest.mark.slow
def test_every_command_of_a_run(place, tmp_path, capsys, monkeypatch):
    """Train from given weights, evaluate, predict, report, verify: as in a directory."""
    root = standins.__file__.rpartition("tests")[0]
    config = f"--config={root}configs/sync_mnist.py:tiny"
    import train

    printed = []
    for here in (place, tmp_path / "local"):
        first = f"--workdir={here / 'first'}"
        assert train.main([config, first]) == 0
        weights = f"--config.train.init_from={here / 'first'}:best"
        assert train.main([config, f"--workdir={here / 'run'}", weights]) == 0
        capsys.readouterr()
        of_run = f"--workdir={here / 'run'}"
        assert evaluate.main([of_run, f"--out={here / 'out'}", "--step=best"]) == 0
        assert predict.main([of_run, "test:0-5"]) == 0
        assert report.main([of_run, "--examples=2"]) == 0
        assert verify.main([of_run, "--steps=10", "--test"]) == 0
        printed.append(capsys.readouterr().out.replace(str(here), ""))
        assert b"</html>" in (here / "run" / "report.html").read_bytes()
        assert files.read_json(here / "out" / "evaluation-test-best.json")["examples"] == 37
    assert printed[0] == printed[1] and "all: identical" in printed[0]


@pytest.fixture
def in_bucket(place, tmp_path, monkeypatch):
    """A prepared SyncMNIST, locally and copied to a bucket."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    config = prepared_config(tmp_path / "data")
    build.build(config, shard_size=16)
    storage.copy_tree(tmp_path / "data", place)
    return config, dataclasses.replace(config, data_dir=str(place))


def prepared_config(data_dir):
    from rstg_jax import data

    return data.SyncMNISTConfig(
        train_source="tfds", num_digits=3, num_train=40, num_test=20, data_dir=str(data_dir)
    )


def test_prepared_data_are_read_from_a_bucket(in_bucket, monkeypatch):
    local, remote = in_bucket
    ours, theirs = remote.open("train"), local.open("train")
    found, expected = (source.batch(np.arange(40)) for source in (ours, theirs))
    assert found.keys() == expected.keys()
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert ours.provenance["directory"].startswith("gs://")
    copies = []
    monkeypatch.setattr(storage, "copy", lambda *args: copies.append(args))
    remote.open("test")
    assert not copies, "a second process has copied the data again"


def test_a_copy_that_was_cut_off_or_is_of_other_data_is_mended(in_bucket):
    local, remote = in_bucket
    expected = local.open("train").batch(np.arange(40))["video"]
    remote.open("train")
    copy = array_records.at_hand(prepared.prepared_dir(remote))
    shard = max(copy.glob("*array_record*"), key=lambda path: path.stat().st_size)
    shard.unlink()
    np.testing.assert_array_equal(remote.open("train").batch(np.arange(40))["video"], expected)
    info = json.loads((copy / array_records.INFO).read_text())
    (copy / array_records.INFO).write_text(json.dumps({**info, "version": "0.9.0"}))
    altered(shard)  # as if it were of that other version
    np.testing.assert_array_equal(remote.open("train").batch(np.arange(40))["video"], expected)


def test_a_copy_that_does_not_fit_is_refused(in_bucket, monkeypatch):
    _, remote = in_bucket
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"gs://.* has to be copied to .*GB are needed"):
        remote.open("train")


def test_feature_maps_are_stored_in_a_bucket_and_read_from_it(place, tmp_path, monkeypatch):
    """Interrupted after a shard; then the bytes are those of a directory."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(stored_features, "SHARD_CLIPS", 16)
    (tmp_path / "bars.py").write_text(test_features.CONFIG)

    def store(out, *more):
        return features.main([f"--config={tmp_path}/bars.py", f"--out={out}", *more])

    store(tmp_path / "local")
    with monkeypatch.context() as broken:
        real = array_records.shard_writer

        def full(path, *options):
            if "00001" in path.name:
                raise UserError("the disk is full")
            return real(path, *options)

        broken.setattr(array_records, "shard_writer", full)
        with pytest.raises(UserError, match="the disk is full"):
            store(place)
    there = {path.name for path in storage.files_below(place)}
    shard = "train.array_record-00000-of-00003"
    assert there == {shard, "train.json.unfinished", "network.safetensors"}
    made = (place / shard).stat().mtime
    store(place)
    assert (place / shard).stat().mtime == made

    found = {path.name: path.read_bytes() for path in storage.files_below(place)}
    local = {path.name: path.read_bytes() for path in storage.files_below(tmp_path / "local")}
    del local[".lock"]
    assert found == local
    with pytest.raises(UserError, match=r"gs://.*/test\.json: describes other feature maps"):
        store(place, "--dtype=bfloat16")

    ours, theirs = (FeaturesConfig(str(p)).open("train") for p in (place, tmp_path / "local"))
    jax.tree.map(
        np.testing.assert_array_equal,
        *({k: v for k, v in s.batch(np.arange(48)).items() if k != "id"} for s in (ours, theirs)),
    )
    (place / shard).unlink()
    with pytest.raises(UserError, match=rf"gs://.*{shard}: the shard is missing; delete it and"):
        read_description(place / "train.json").check_shards(place)
    store(place)
    assert (place / shard).read_bytes() == local[shard]


def test_records_are_copied_with_every_line(place):
    log = logs.MetricLog(place, 0, enabled=True)
    log.write(1, "train", {"loss": 1.0})
    assert logs.read(place / logs.METRICS).keys() == {("train", 1)}
    log.write(2, "train", {"loss": 2.0})
    log.close()
    assert logs.read(place / logs.METRICS).keys() == {("train", 1), ("train", 2)}
    again = logs.MetricLog(place, 1, enabled=True)
    again.write(2, "train", {"loss": 3.0})
    assert logs.read(place / logs.METRICS)["train", 2]["loss"] == 3.0
    again.go_back(1)
    again.write(3, "train", {"loss": 4.0})
    again.close()
    assert logs.read(place / logs.METRICS).keys() == {("train", 1), ("train", 3)}
