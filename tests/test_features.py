"""Stored feature maps: what the network makes, whole after a kill, and trained on like the network.

The videos are those of `tests.test_extension`, the network is a small convolutional one.
"""

import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import features as configs
from rstg_jax import cli, config, evaluate, features, predict, processes, report
from rstg_jax.convert import export
from rstg_jax.data import FeaturesConfig
from rstg_jax.data.features import NETWORK, StoredSplit
from rstg_jax.errors import UserError
from rstg_jax.inference import stored_features
from rstg_jax.models import classifier
from rstg_jax.models.backbones import IdentityConfig, SimpleCNNConfig
from rstg_jax.models.config import ModelConfig
from rstg_jax.models.heads import GlobalPooling
from rstg_jax.rstg import presets
from rstg_jax.training import init_from, train_loop, trained_model, weights_file
from rstg_jax.training.experiment import Experiment, TrainConfig
from rstg_jax.training.optim import OptimizerConfig
from rstg_jax.training.sharding import MeshConfig
from rstg_jax.training.weights import Weights
from tests import standins
from tests.test_extension import NAMES, BarsConfig

ROOT = Path(__file__).parents[1]
BLOCK = presets.modern(dim=8, scales=(2,), stages=("space", "time"))


def network(**train) -> Experiment:
    """The network that is stored, and with which training on its maps is compared."""
    train = {"total_steps": 5, "batch_size": 8, "log_every": 1, "eval_every": 5} | train
    return Experiment(
        name="bars",
        train=TrainConfig(**train),
        model=ModelConfig(
            backbone=SimpleCNNConfig((6, 6), (3, 3), (2, 2), "SAME", False, input_scale=100.0),
            rstg=BLOCK,
            head=GlobalPooling(),
        ),
        data=BarsConfig(),
        optim=OptimizerConfig(learning_rate=1e-2, frozen=("params/backbone",)),
        mesh=MeshConfig(data=1),
    )


CONFIG = """
import time
from tests import test_features
from tests.test_extension import Bars

def get_config(variant=""):
    if variant == "slow":  # leaves time to be killed
        make = Bars.batch
        Bars.batch = lambda self, indices: (time.sleep(0.3), make(self, indices))[1]
    return test_features.network()
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A config, weights in a file, and the maps of the network with these weights."""
    root = tmp_path_factory.mktemp("features")
    (root / "bars.py").write_text(CONFIG)
    other = network(seed=5)
    trained = init_from.model(other, NAMES)
    weights = Weights(other, jax.device_get(trained.variables), NAMES, {})
    weights_file.write(root / "weights.safetensors", weights)
    store(root, "maps", "--dtype=float32")
    return root


def flags(root, out, *more):
    weights = f"--config.train.init_from={root / 'weights.safetensors'}"
    return [f"--config={root / 'bars.py'}", weights, f"--out={root / out}", *more]


def store(root, out, *more):
    assert features.main(flags(root, out, *more)) == 0
    return FeaturesConfig(str(root / out))


def contents(directory):
    files = sorted(path for path in directory.iterdir() if path.suffix != ".safetensors")
    return {path.name: path.read_bytes() for path in files}


def on_the_fly(root, split, dtype):
    """Maps of all clips at once, last clip first: intermediates of the whole network."""
    weights = weights_file.read(root / "weights.safetensors")
    source = network().data.open(split)
    videos = source.batch(np.arange(len(source))[::-1])["video"]
    module = classifier.build(network().model, len(NAMES))
    apply = jax.jit(lambda video: module.apply(weights.variables, video, train=False))
    return np.asarray(apply(videos)[1]["features"].astype(dtype))[::-1]


@pytest.mark.parametrize(("dtype", "devices"), [("float16", 1), ("bfloat16", 8)])
def test_stored_maps_are_those_of_the_network_byte_for_byte(root, dtype, devices):
    data = store(root, dtype, f"--dtype={dtype}", f"--config.mesh.data={devices}")
    assert data.splits == ("test", "train")
    assert (data.clip_shape, data.num_classes) == ((4, 4, 4, 6), 3)
    for split, videos in (("train", 48), ("test", 12)):
        source, whole = data.open(split), network().data.open(split)
        everything = np.arange(len(source))
        batch, expected = source.batch(everything), on_the_fly(root, split, dtype)
        assert len(source) == videos and batch["video"].dtype.name == dtype
        assert batch["video"].tobytes() == expected.tobytes()
        np.testing.assert_array_equal(batch["label"], whole.batch(everything)["label"])
        assert batch["id"].tolist() == list(map(str, everything))
        assert source.label_names == NAMES
        again = source.batch(np.array([5, 1]))
        assert again["video"].tobytes() == expected[[5, 1]].tobytes()
        assert batch["video"].tobytes() != on_the_fly(root, split, "float32").tobytes()
    # Other weights make other maps, in every clip.
    features.main([f"--config={root / 'bars.py'}", f"--out={root / dtype}-fresh", "--split=test"])
    other = FeaturesConfig(f"{root / dtype}-fresh").open("test").batch(np.arange(12))["video"]
    assert (other.astype(np.float32) != batch["video"]).any(axis=(1, 2, 3, 4)).all()


@pytest.fixture(scope="module")
def runs(root):
    """Training behind the frozen network, behind one that is trained, and on stored maps."""
    start = {"init_from": str(root / "weights.safetensors")}
    frozen = network(**start)
    moving = dataclasses.replace(frozen, optim=OptimizerConfig(learning_rate=1e-2))
    on_maps = dataclasses.replace(
        moving,
        train=network().train,
        model=dataclasses.replace(frozen.model, backbone=IdentityConfig()),
        data=FeaturesConfig(str(root / "maps")),
    )
    # All begin with the head of seed 0: the file has one of seed 5.
    fresh = {"init_fresh": ("params/rstg", "params/classifier")}
    experiments = {
        name: dataclasses.replace(one, train=network(**start, **fresh).train)
        for name, one in {"frozen": frozen, "moving": moving}.items()
    } | {"on_maps": on_maps}
    for name, experiment in experiments.items():
        train_loop.train(experiment, root / name)
    return {name: standins.records(root / name) for name in experiments}


def test_training_on_stored_maps_has_the_losses_behind_a_frozen_network(root, runs):
    losses = {name: np.array([row["loss"] for row in rows]) for name, rows in runs.items()}
    assert losses["on_maps"].shape == (6,)  # five updates and the test
    np.testing.assert_allclose(losses["on_maps"], losses["frozen"], rtol=1e-6)
    np.testing.assert_allclose(losses["on_maps"][0], losses["moving"][0], rtol=1e-6)
    assert np.abs(losses["on_maps"] - losses["moving"])[2:].min() > 1e-3


def test_frozen_weights_do_not_move(root, runs):
    before = weights_file.read(root / "weights.safetensors").variables["params"]["backbone"]
    after = {n: trained_model.load(root / n).variables["params"] for n in ("frozen", "moving")}
    same = {n: jax.tree.map(np.array_equal, before, after[n]["backbone"]) for n in after}
    assert all(jax.tree.leaves(same["frozen"])) and not any(jax.tree.leaves(same["moving"]))
    assert "backbone" not in trained_model.load(root / "on_maps").variables["params"]


def test_commands_on_a_run_on_stored_maps(root, runs, capsys):
    workdir = f"--workdir={root / 'on_maps'}"
    assert evaluate.main([workdir]) == 0
    written = json.loads((root / "on_maps/evaluation-test-last.json").read_text())
    result = json.loads((root / "on_maps/result.json").read_text())
    assert written["loss"] == result["loss"] and written["confusion"] == result["confusion"]
    assert result["data"]["test"]["network"] == "bars"
    assert report.main([workdir]) == 0
    page = (root / "on_maps/report.html").read_text()
    assert "the feature maps that bars made of it" in page and "no videos are shown" in page
    assert "Confusion matrix" in page and "<h2>Test videos" not in page
    with pytest.raises(UserError, match="the data of this run are no pictures"):
        report.main([workdir, f"--picture={root / 'a.png'}"])
    capsys.readouterr()
    assert predict.main([workdir, "--json", "test:0-11"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert np.mean([r["truth"] == r["predictions"][0]["label"] for r in records]) == result["top1"]
    np.save(root / "video.npy", np.zeros((4, 16, 16, 3), np.uint8))
    files = [str(root / "video.npy"), "test:0", f"--visualise={root / 'drawn'}"]
    assert predict.main([workdir, *files]) == 1
    err = capsys.readouterr().err
    assert "video.npy: the model reads stored feature maps" in err
    assert "rstg_jax.convert.export --workdir=RUN" in err and "predict with --weights=FILE" in err
    assert "test:0 is no video that could be drawn" in err


def test_a_head_behind_its_network_labels_videos(root, runs, capsys):
    """The exported file gives from videos what the run gives from their maps."""
    out = root / "joined.safetensors"
    assert export.main([f"--workdir={root / 'on_maps'}", f"--out={out}"]) == 0
    assert evaluate.main([f"--weights={out}", f"--out={root}"]) == 0
    written = json.loads((root / "evaluation-test-joined.json").read_text())
    result = json.loads((root / "on_maps/result.json").read_text())
    assert written["loss"] == pytest.approx(result["loss"], rel=1e-6)
    assert written["confusion"] == result["confusion"]
    np.save(root / "a.npy", BarsConfig().open("test").batch(np.arange(1))["video"][0])
    capsys.readouterr()
    words = ["--json", str(root / "a.npy"), "test:0"]
    assert predict.main([f"--weights={out}", *words]) == 0
    of_file, of_split = json.loads(capsys.readouterr().out)
    assert of_file["predictions"] == of_split["predictions"]
    # Maps of other weights in the place of those that the run was trained on, or their network.
    store(root, "others", "--dtype=float32", "--config.train.init_from=")
    ours, theirs = (root / directory / NETWORK for directory in ("maps", "others"))
    sums = [
        FeaturesConfig(str(p.parent)).described("test").weights["sha256"] for p in (theirs, ours)
    ]
    own = ours.read_bytes()
    ours.write_bytes(theirs.read_bytes())
    with pytest.raises(
        UserError, match=rf"{ours}: its weights have.* {sums[0]}, .* {sums[1]}; put"
    ):
        export.main([f"--workdir={root / 'on_maps'}", f"--out={out}"])
    ours.write_bytes(own)
    # The maps have moved.
    ours.parent.rename(root / "moved")
    words = [f"--workdir={root / 'on_maps'}", f"--out={root / 'again.safetensors'}"]
    with pytest.raises(UserError, match="is no directory"):
        export.main(words)
    assert export.main([*words, f"--config.data.path={root / 'moved'}"]) == 0
    assert (root / "again.safetensors").read_bytes() == out.read_bytes()
    (root / "moved").rename(ours.parent)
    (root / "maps").rename(root / "aside")
    (root / "others").rename(root / "maps")
    try:
        with pytest.raises(UserError, match="its network is not the one of this run"):
            export.main([f"--workdir={root / 'on_maps'}", f"--out={out}"])
    finally:
        (root / "maps").rename(root / "others")
        (root / "aside").rename(root / "maps")


@pytest.mark.parametrize("variant", configs.VARIANTS)
def test_first_logits_are_those_of_the_probe(root, variant):
    def first(variant):
        experiment = configs.get_config(variant)
        plain = json.loads(json.dumps(config.to_dict(experiment)))
        assert config.from_dict(Experiment, plain) == experiment
        module = classifier.build(dataclasses.replace(experiment.model, rstg=BLOCK), len(NAMES))
        variables = jax.jit(module.init)(jax.random.key(0), maps)
        return jax.jit(module.apply), variables, jax.jit(module.apply)(variables, maps)[0]

    maps = FeaturesConfig(str(root / "maps")).open("test").batch(np.arange(4))["video"]
    apply, variables, logits = first(variant)
    probe = first("probe")[2]
    assert np.array_equal(logits, probe) == (variant in ("rstg", "probe"))
    if variant == "rstg":
        scale = variables["params"]["rstg_final"]["scale"]
        variables["params"]["rstg_final"]["scale"] = scale + 1e-3
        assert not np.array_equal(apply(variables, maps)[0], probe)


def test_command_line_killed_and_resumed(root, monkeypatch):
    """kill -9 as soon as a shard is there; the bytes are those of a run in one go."""
    monkeypatch.setattr(stored_features, "SHARD_CLIPS", 16)
    store(root, "whole")
    words = flags(root, "killed")
    words[0] += ":slow"
    script = (
        "import sys; from rstg_jax.inference import stored_features\n"
        "stored_features.SHARD_CLIPS = 16\n"
        "from rstg_jax import cli, features; sys.exit(cli.run(features.main))"
    )
    job = subprocess.Popen([sys.executable, "-c", script, *words], cwd=ROOT)
    first = root / "killed/train.array_record-00000-of-00003"
    deadline = time.monotonic() + 300
    while not first.exists() and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(job.pid, signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    made = first.read_bytes(), first.stat().st_mtime_ns
    assert not (root / "killed/train.json").exists()
    with pytest.raises(UserError, match=r"has no split 'train'; there are: none that is finished"):
        FeaturesConfig(str(root / "killed")).open("train")
    (root / "killed/.part1-train.json.unfinished").touch()  # killed while it was written
    store(root, "killed")
    assert contents(root / "killed") == contents(root / "whole")
    assert (first.read_bytes(), first.stat().st_mtime_ns) == made  # and was not made again


SEVERAL = """
import sys
from rstg_jax import cli, features, processes
from rstg_jax.inference import stored_features
stored_features.SHARD_CLIPS = 8
processes.HEARTBEAT_SECONDS = 4
sys.exit(cli.run(features.main, ("--out",)))
"""

IN_FOURS = ("--config.train.eval_batch_size=4", "--config.mesh.data=2")  # on two devices


def start_two(root, out, variant=""):
    """Two processes with two devices each, joined as on two machines."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        together = [f"--coordinator=localhost:{probe.getsockname()[1]}", "--num_processes=2"]
    words = flags(root, out, *together, *IN_FOURS)
    words[0] += variant
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", SEVERAL, *words, f"--process_id={number}"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]


@pytest.mark.slow
def test_two_processes_store_what_one_does_also_after_one_is_killed(root, monkeypatch):
    """kill -9 for one as soon as it has made a shard; the other one ends; then both again."""
    monkeypatch.setattr(stored_features, "SHARD_CLIPS", 8)
    store(root, "one", *IN_FOURS)
    whole = contents(root / "one")
    assert sum("train.array_record" in name for name in whole) == 6

    jobs = start_two(root, "two", ":slow")
    mine = root / "two/train.array_record-00001-of-00006"  # of the second process
    deadline = time.monotonic() + 300
    while not mine.exists() and jobs[1].poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(jobs[1].pid, signal.SIGKILL)
    ends = [job.communicate(timeout=300)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [processes.LOST, -signal.SIGKILL], ends
    assert "error: process 1 of 2 (counted from 0) is gone" in ends[0]
    made = {path.name: path.stat().st_mtime_ns for path in mine.parent.glob("*.array_record*")}
    assert mine.name in made and len(made) < 6 and not (root / "two/train.json").exists()

    jobs = start_two(root, "two")
    outputs = [job.communicate(timeout=300) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], outputs
    assert contents(root / "two") == whole
    assert {name: (root / "two" / name).stat().st_mtime_ns for name in made} == made
    assert "48 train clips" in outputs[0][0] and "clips" not in outputs[1][0]
    # Each of them makes shards, one by one; what is not there is shared anew.
    shares = [re.findall(r"train: (\d+) of 48 clips to make", err) for _, err in outputs]
    left = 48 - 8 * len(made)
    assert sum(int(share[0]) for share in shares if share) == left


def test_missing_and_damaged_shards_are_named_and_made_again(root, monkeypatch):
    monkeypatch.setattr(stored_features, "SHARD_CLIPS", 16)
    data = store(root, "damaged")
    directory = root / "damaged"
    whole = contents(directory)
    shard = directory / "train.array_record-00001-of-00003"

    shard.unlink()
    with pytest.raises(UserError, match=rf"{shard}: the shard is damaged or missing.*run python"):
        data.open("train")
    store(root, "damaged")
    assert contents(directory) == whole

    shard.write_bytes(whole[shard.name][:-70000])
    for attempt in (lambda: data.open("train"), lambda: store(root, "damaged")):
        with pytest.raises(UserError, match=rf"{shard}: the shard (is damaged|has)"):
            attempt()

    altered = np.frombuffer(whole[shard.name], np.uint8).copy()
    used = np.flatnonzero(altered)  # most of a small shard is padding
    altered[used[len(used) // 2]] ^= 1
    shard.write_bytes(altered.tobytes())
    with pytest.raises(UserError, match=rf"{shard}: .*damaged.*delete it and run python -m"):
        data.open("train").batch(np.arange(16, 32))
    shard.write_bytes(whole[shard.name])

    (directory / "train.json").write_text("{}")
    with pytest.raises(UserError, match=r"train\.json: does not describe stored features"):
        data.open("train")
    (directory / "train.json").unlink()
    with pytest.raises(UserError, match="has shards of train but not their description"):
        store(root, "damaged")


def test_other_maps_are_refused(root, monkeypatch, capsys):
    before = contents(root / "maps")
    cases = {
        "--dtype=bfloat16": "dtype: float32 != bfloat16",
        "--config.data.size=24": r"shape: \[4, 4, 4, 6\] != \[4, 6, 6, 6\]",
        "--config.data.num_test=13": r"network\.data\.num_test: 12 != 13",
        "--config.model.backbone.input_scale=50": "backbone.input_scale: 100.0 != 50.0",
        "--config.train.init_from=": "weights.sha256: ",
    }
    for flag, message in cases.items():
        more = [] if "dtype" in flag else ["--dtype=float32"]
        with pytest.raises(UserError, match=rf"test\.json: describes other.*{message}"):
            store(root, "maps", *more, flag)
        with pytest.raises(UserError, match="describes other"):
            store(root, "maps", *more, flag, "--split=test")
    assert contents(root / "maps") == before
    # Where the data lie and how the head is trained makes no difference.
    store(root, "maps", "--dtype=float32", "--config.data.where=x", "--config.optim.b1=0.8")
    assert contents(root / "maps") == before
    monkeypatch.setattr("sys.argv", ["features", *flags(root, "maps")])
    assert cli.run(features.main) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error")]
    assert "choose another --out" in line


def test_directories_below_are_of_others(root):
    """Such as maps of another network, or a run that was trained on the maps."""
    out = root / "outer"
    store(root, "outer", "--dtype=float32", "--split=test")
    (out / "run").mkdir(parents=True)
    (out / "run/config.json").write_text("{}")
    store(root, "outer/inner", "--dtype=bfloat16")
    store(root, "outer", "--dtype=float32")
    inner = {"run", "inner"}
    found = {path.name for path in out.iterdir() if path.suffix != ".safetensors"}
    assert found - inner == contents(root / "maps").keys()
    for name, content in contents(root / "maps").items():
        assert (out / name).read_bytes() == content


def test_a_directory_of_something_else_is_refused(root, tmp_path):
    """Such as that of the videos."""
    (tmp_path / "jump").mkdir()
    (tmp_path / ".index.json").write_text("{}")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        UserError, match=rf"{tmp_path}: is not empty and holds no.*, but jump, notes\.txt; choose"
    ):
        features.main(flags(root, tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"jump", ".index.json", "notes.txt"}


@pytest.mark.parametrize("cut", [False, True])
def test_a_description_that_was_never_finished_is_none(root, cut):
    """Killed after the description was written beside its place, or while it was."""
    out = root / f"part{cut}"
    store(root, out.name, "--dtype=float32")
    text = (out / "train.json").read_text()
    for path in out.iterdir():
        path.unlink()
    (out / ".part0123abcd-train.json.unfinished").write_text(text[:50] if cut else text)
    store(root, out.name, "--dtype=float32")
    assert contents(out) == contents(root / "maps")


def test_values_beyond_the_type_are_refused():
    stored = StoredSplit(
        *("train", (1, 1, 1, 2), "float16", 2, 2, True, ("a",), {}, "", {}, {}),
    )
    maps = np.ones((2, 1, 1, 1, 2), np.float16)
    batch = {"mask": np.ones(2), "index": np.arange(2), "label": np.zeros(2, np.int32)}
    assert len(stored_features.encoded(maps, batch, np.arange(7, 9), stored)) == 2
    assert len(stored_features.encoded(maps, batch | {"mask": np.eye(2)[0]}, np.arange(2), stored))
    maps[1, ..., 0] = np.inf
    with pytest.raises(UserError, match=r"map of 8 \(train 8\).*not finite as float16.*--dtype"):
        stored_features.encoded(maps, batch, np.arange(7, 9), stored)


def test_paths_and_splits_that_are_not_there(root, tmp_path):
    with pytest.raises(UserError, match="path='' is no directory: store feature maps with"):
        FeaturesConfig().open("train")
    with pytest.raises(UserError, match="set test_split to the split to test on; there are: none"):
        FeaturesConfig(str(tmp_path)).open("test")
    (tmp_path / ".part1-train.json").touch()
    assert FeaturesConfig(str(tmp_path)).splits == ()
    data = FeaturesConfig(str(root / "maps"))
    assert data.with_split(None)[1:] == ("test", "test")
    assert data.with_split("train")[1:] == ("train", "train")
    with pytest.raises(UserError, match="has no split 'validation'; there are: test, train"):
        data.with_split("validation")
