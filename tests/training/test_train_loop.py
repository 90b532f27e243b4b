"""The host loop with a small stand-in model: schedule of events, averages, stops, failures."""

import gzip
import json
import os
import re
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rstg_jax import config, machine
from rstg_jax.data import ENDLESS
from rstg_jax.errors import UserError
from rstg_jax.training import (
    checkpoint,
    eval_loop,
    logs,
    loop_log,
    sharding,
    signals,
    steps,
    train_loop,
    train_state,
    trained_model,
)
from rstg_jax.training.experiment import Experiment, TrainConfig
from rstg_jax.training.optim import OptimizerConfig
from rstg_jax.training.sharding import MeshConfig
from tests import standins


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    standins.install(monkeypatch)


def test_a_run_writes_everything_and_learns(tmp_path):
    experiment = standins.experiment(total_steps=150, log_every=10, eval_every=75)
    result = train_loop.train(experiment, tmp_path)
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert result["top1"] > 0.6  # chance is 1 in 7
    assert result["examples"] == 37 == np.sum(result["confusion"])
    assert result["top1"] == np.trace(result["confusion"]) / 37
    assert result["steps"] == 150
    assert result["config_hash"] == config.config_hash(experiment)
    assert result["label_names"] == list("abcdefg")
    assert result["parameters"] == 8 * 16 + 2 * 16 + 16 * 7 + 7
    assert result["data"]["test"] == {"name": "stripes test", "digits": "none", "seed": 0}
    stored = json.loads((tmp_path / "config.json").read_text())
    assert config.from_dict(Experiment, stored) == experiment
    records = standins.records(tmp_path)
    assert [r["step"] for r in records if r["split"] == "train"] == list(range(10, 151, 10))
    assert [r["step"] for r in records if r["split"] == "test"] == [75, 150]
    assert records[-1]["top1"] == result["top1"]
    assert any(p.name.startswith("events.out.tfevents") for p in tmp_path.iterdir())
    with checkpoint.Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.latest == 150
        assert checkpoints.meta(150)["test"]["top1"] == result["top1"]


def test_logged_values_are_averages_over_the_window(tmp_path):
    train_loop.train(standins.experiment(total_steps=6, log_every=1), tmp_path / "each")
    train_loop.train(standins.experiment(total_steps=6, log_every=3), tmp_path / "window")
    each = [r for r in standins.records(tmp_path / "each") if r["split"] == "train"]
    window = [r for r in standins.records(tmp_path / "window") if r["split"] == "train"]
    assert [r["step"] for r in window] == [3, 6]
    for name in ("loss", "objective", "top1", "grad_norm"):
        wanted = [np.mean([r[name] for r in part]) for part in (each[:3], each[3:])]
        np.testing.assert_allclose([r[name] for r in window], wanted, rtol=1e-12)
    assert window[-1]["examples"] == 48


def test_resuming_is_exact_even_in_the_middle_of_a_window(tmp_path, monkeypatch):
    whole = standins.experiment(total_steps=20, log_every=8, checkpoint_every=6, eval_every=9)
    train_loop.train(whole, tmp_path / "whole")
    # A signal arrives while step 11 is on its way; log_every and the rest do not divide 11.
    standins.stop_while_update(monkeypatch, 11)
    assert train_loop.train(whole, tmp_path / "cut") == {"stopped_at": 11}
    assert not (tmp_path / "cut" / "result.json").exists()
    # What a process that was killed later would have left behind.
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 12, "split": "train", "loss": 0.0}) + "\n" + '{"step": 13')
    resumed = train_loop.train(whole, tmp_path / "cut")
    assert standins.records(tmp_path / "cut") == standins.records(tmp_path / "whole")
    uninterrupted = json.loads((tmp_path / "whole" / "result.json").read_text())
    assert {k: v for k, v in resumed.items() if k != "wall_time_seconds"} == {
        k: v for k, v in uninterrupted.items() if k != "wall_time_seconds"
    }


def interrupt_first_evaluation(monkeypatch, number):
    """Sends a signal to this process when its first evaluation begins."""
    original, calls = eval_loop.evaluate, []

    def interrupted(*args):
        calls.append(0)
        if len(calls) == 1:
            os.kill(os.getpid(), number)
        return original(*args)

    monkeypatch.setattr(eval_loop, "evaluate", interrupted)


def test_a_signal_during_an_evaluation_owes_it_to_the_next_process(tmp_path, monkeypatch):
    experiment = standins.experiment(total_steps=20, eval_every=10, eval_batch_size=8)
    train_loop.train(experiment, tmp_path / "whole")
    interrupt_first_evaluation(monkeypatch, signal.SIGINT)
    before = signal.getsignal(signal.SIGINT)
    assert train_loop.train(experiment, tmp_path / "cut") == {"stopped_at": 10}
    assert [r["split"] for r in standins.records(tmp_path / "cut")] == ["train", "train"]
    train_loop.train(experiment, tmp_path / "cut")
    assert standins.records(tmp_path / "cut") == standins.records(tmp_path / "whole")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_during_the_only_evaluation_loses_no_score(tmp_path, monkeypatch):
    """The checkpoint of the last step is the only one when it is evaluated at last."""
    experiment = standins.experiment(total_steps=5, eval_every=0, checkpoint_every=0)
    whole = train_loop.train(experiment, tmp_path / "whole")
    interrupt_first_evaluation(monkeypatch, signal.SIGTERM)
    assert train_loop.train(experiment, tmp_path / "cut") == {"stopped_at": 5}
    # The next process is killed between the log line and the score.
    monkeypatch.setattr(checkpoint.Checkpoints, "add_score", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train_loop.train(experiment, tmp_path / "cut")
    monkeypatch.undo()
    standins.install(monkeypatch)
    for _ in range(2):
        result = train_loop.train(experiment, tmp_path / "cut")
        assert result["best"] == whole["best"] == {"step": 5, "top1": whole["top1"]}
        assert standins.records(tmp_path / "cut") == standins.records(tmp_path / "whole")
    assert trained_model.load(tmp_path / "cut", "best").step == 5


def test_a_signal_before_the_first_step_saves_nothing_and_says_so(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "rstg_jax")
    original = loop_log.announce

    def announce(*args):
        original(*args)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop_log, "announce", announce)
    assert train_loop.train(standins.experiment(), tmp_path) == {"stopped_at": 0}
    assert "trains on videos without end of stripes train, tests on all 37 videos" in caplog.text
    assert "SIGTERM: stopped before the first step; there is nothing to save" in caplog.text
    assert not os.listdir(tmp_path / "checkpoints")


def test_a_closed_terminal_stops_as_other_signals_do():
    """Unless the run was started with nohup, which ignores the signal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    terminal, other = os.openpty()
    try:
        with signals.StopSignal() as stop:
            stop._terminals = [other]
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.local() and stop.name == "SIGHUP"
        assert not os.isatty(other)  # what is written to it goes nowhere
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with signals.StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.local()
    finally:
        signal.signal(signal.SIGHUP, before)
        os.close(terminal)
        os.close(other)


def test_a_run_whose_time_is_over_resumes_exactly(tmp_path, monkeypatch, caplog):
    """The clock of the first process jumps by an hour at the seventh update."""
    caplog.set_level("INFO", "rstg_jax")
    limited = standins.experiment(max_seconds=3000.0)
    train_loop.train(limited, tmp_path / "whole")
    original, calls = train_loop.update, []

    def update(*args):
        original(*args)
        calls.append(0)
        if len(calls) == 7:
            now = signals.time.monotonic
            monkeypatch.setattr(signals.time, "monotonic", lambda: now() + 3600)

    monkeypatch.setattr(train_loop, "update", update)
    assert train_loop.train(limited, tmp_path / "cut") == {"stopped_at": 7}
    assert "train.max_seconds: stopped after step 7, which is saved" in caplog.text
    monkeypatch.undo()
    standins.install(monkeypatch)
    without_limit = config.override(limited, {"train.max_seconds": "none"})
    assert train_loop.train(without_limit, tmp_path / "cut")["steps"] == 20
    assert standins.records(tmp_path / "cut") == standins.records(tmp_path / "whole")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (MeshConfig(2, 2, 2), MeshConfig(data=1)),
        (MeshConfig(data=1), MeshConfig(1, 2, 2)),
        (MeshConfig(data=2), MeshConfig(data=4)),
    ],
    ids=["8 to 1", "1 to 4", "2 to 4"],
)
def test_a_run_goes_on_on_another_mesh(tmp_path, before, after):
    """The order of the data is the same, the numbers but for rounding."""
    # Not Adam, which blows rounding up.
    sgd = OptimizerConfig("nesterov", 0.1, ema_decay=0.9)
    whole = train_loop.train(standins.experiment(MeshConfig(data=1), sgd), tmp_path / "whole")
    assert train_loop.train(standins.experiment(before, sgd), tmp_path / "cut", until=7) == {
        "stopped_at": 7
    }
    for until in (5, 7):  # which is over
        stopped = train_loop.train(standins.experiment(after, sgd), tmp_path / "cut", until=until)
        assert stopped == {"stopped_at": 7}
    resumed = train_loop.train(standins.experiment(after, sgd), tmp_path / "cut")
    assert resumed["confusion"] == whole["confusion"]
    one, other = standins.records(tmp_path / "whole"), standins.records(tmp_path / "cut")
    for a, b in zip(other, one, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


def test_a_profile_beyond_the_last_update_is_refused(tmp_path):
    with pytest.raises(UserError, match="--profile=7:9: there are 6 updates"):
        train_loop.train(standins.experiment(total_steps=6), tmp_path, profile=(7, 9))


def test_a_profile_has_the_updates_that_were_asked_for(tmp_path):
    train_loop.train(standins.experiment(total_steps=6), tmp_path, profile=(3, 4))
    (trace,) = (tmp_path / "profile").rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    numbers = [int(e["args"]["step_num"]) for e in events if e.get("name") == "train"]
    assert sorted(set(numbers)) == [3, 4]


def test_the_cost_of_an_update_is_said_once(tmp_path, monkeypatch, caplog):
    """On a machine whose peak is known: a million operations a second."""
    caplog.set_level("INFO", "rstg_jax")
    kind = jax.devices()[0].device_kind
    monkeypatch.setattr(machine, "CHIPS", (machine.Chip("this", kind, 1e6, 1.0, 1.0),))
    rate = OptimizerConfig(learning_rate=0.01, reference_batch=4)
    train_loop.train(standins.experiment(optim=rate), tmp_path)
    assert "learning rate 0.02: optim.learning_rate=0.01 is for 4 videos an update" in caplog.text
    found = re.findall(r"an update: (\S+) GFLOP, (\S+) MB on each device", caplog.text)
    assert len(found) == 1, caplog.text
    said = re.findall(r"([\d.]+)% of the devices' peak in bfloat16", caplog.text)
    assert len(said) == 1
    flops = float(found[0][0]) * 1e9
    # `standins.Model` on 8 videos of 3 frames: a layer without gradient by its input, and one with.
    assert flops == pytest.approx(8 * 3 * 2 * (2 * 8 * 16 + 3 * 16 * 7), rel=0.01)
    rows = logs.read(tmp_path / "metrics.jsonl")
    speed = rows["train", 5]["examples_per_second"] / 8  # updates a second
    assert float(said[0]) / 100 == pytest.approx(speed * flops / 1e6, rel=0.05)


def test_a_finished_run_gives_its_result_again(tmp_path):
    experiment = standins.experiment(total_steps=5)
    first = train_loop.train(experiment, tmp_path)
    before = standins.records(tmp_path)
    again = train_loop.train(experiment, tmp_path)
    assert {**again, "wall_time_seconds": 0} == {**first, "wall_time_seconds": 0}
    assert standins.records(tmp_path) == before
    # And it can be trained further, but not less.
    longer = config.override(experiment, {"train.total_steps": "8"})
    assert train_loop.train(longer, tmp_path)["steps"] == 8
    with pytest.raises(UserError, match="already trained 8 steps, more than 5"):
        train_loop.train(experiment, tmp_path)


def test_best_is_kept_when_it_is_older_than_the_latest(tmp_path, monkeypatch):
    scores = iter([0.5, 0.9, 0.6, 0.7, 0.8, 0.8])
    original = eval_loop.evaluate
    monkeypatch.setattr(eval_loop, "evaluate", lambda *a: original(*a) | {"top1": next(scores)})
    experiment = standins.experiment(total_steps=12, eval_every=2, checkpoint_every=2, keep=1)
    result = train_loop.train(experiment, tmp_path)
    assert result["best"] == {"step": 4, "top1": 0.9}
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["12", "4"]
    assert trained_model.load(tmp_path, "best").step == 4


@pytest.mark.parametrize("eval_batch_size", [5, 8, 64])
def test_evaluation_counts_every_example_once_on_any_mesh(eval_batch_size):
    source, module = standins.Source("test"), standins.Model(7)
    figures = []
    for mesh_config in (MeshConfig(data=1), MeshConfig(2, 2, 2)):
        mesh = sharding.make_mesh(mesh_config)
        experiment = standins.experiment()
        setup = train_state.make_setup(module, experiment.loss, experiment.optim, 1)
        abstract = train_state.abstract_variables(module, (3, 32, 32, 1), mesh)
        state = train_state.create_state(setup, (3, 32, 32, 1), 0, mesh)
        eval_step = steps.jit_eval_step(module, mesh, abstract, "logits")
        size = eval_loop.eval_batch_size(eval_batch_size, mesh)
        figures.append(eval_loop.evaluate(eval_step, state.variables, source, mesh, size))
    batch = source.batch(np.arange(37))
    logits, _ = module.apply(jax.device_get(state.variables), batch["video"], train=False)
    for got in figures:
        assert got["examples"] == 37
        assert got["top1"] == np.mean(np.argmax(logits, 1) == batch["label"])
        np.testing.assert_allclose(got["loss"], figures[0]["loss"], rtol=1e-6)
        np.testing.assert_array_equal(got["confusion"], figures[0]["confusion"])


def test_length_in_steps_epochs_or_examples():
    assert TrainConfig(total_steps=7).steps(ENDLESS) == 7
    assert TrainConfig(total_examples=100, batch_size=32).steps(ENDLESS) == 4
    assert TrainConfig(total_epochs=1.5, batch_size=32).steps(100) == 5
    assert TrainConfig(total_epochs=0.07, batch_size=1).steps(100) == 7
    assert TrainConfig(total_epochs=1e-9, batch_size=1).steps(100) == 1
    for endless in (float("inf"), float("nan")):
        with pytest.raises(UserError, match="positive and finite"):
            TrainConfig(total_epochs=endless)
    with pytest.raises(UserError, match=r"train\.total_epochs.*endless"):
        TrainConfig(total_epochs=1.0).steps(ENDLESS)
    for fields in ({}, {"total_steps": 1, "total_epochs": 1.0}):
        with pytest.raises(ValueError, match="exactly one of total_steps"):
            TrainConfig(**fields)


def test_nan_stops_names_the_step_and_keeps_the_last_good_checkpoint(tmp_path):
    """A rate that explodes between two checkpoints."""
    experiment = standins.experiment(
        total_steps=40,
        checkpoint_every=2,
        eval_every=0,
        keep=1,
        optim=OptimizerConfig("nesterov", learning_rate=1e4, schedule="constant"),
    )
    with pytest.raises(UserError, match=r"became (nan|inf) at step \d+; step \d+ is kept") as error:
        train_loop.train(experiment, tmp_path)
    assert "\n" not in str(error.value)
    loaded = trained_model.load(tmp_path)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(loaded.variables))
    assert f"step {loaded.step} is kept" in str(error.value)
    assert all(np.isfinite(r["loss"]) for r in standins.records(tmp_path))


def test_running_statistics_that_are_not_finite_stop_the_run(tmp_path, monkeypatch):
    """The loss of a training step does not read them, evaluation would."""
    original = standins.nn.BatchNorm.__call__

    def overflowing(self, x):
        y = original(self, x)
        self.put_variable("batch_stats", "var", jnp.full(16, jnp.inf))
        return y

    monkeypatch.setattr(standins.nn.BatchNorm, "__call__", overflowing)
    with pytest.raises(UserError, match=r"running statistics became nan at step 1;"):
        train_loop.train(standins.experiment(), tmp_path)


def test_average_of_weights_is_what_gets_evaluated(tmp_path):
    experiment = standins.experiment(total_steps=5)
    result = train_loop.train(experiment, tmp_path)
    loaded = trained_model.load(tmp_path)
    source = standins.Source("test")
    batch = source.batch(np.arange(37))
    with checkpoint.Checkpoints(tmp_path, read_only=True) as checkpoints:
        state = checkpoints.restore(5, loaded.abstract_state())
    logits, _ = loaded.module.apply(
        {"params": state.ema_params, "batch_stats": state.batch_stats}, batch["video"], train=False
    )
    assert result["top1"] == np.mean(np.argmax(logits, 1) == batch["label"])
    assert not np.allclose(
        state.ema_params["head"]["kernel"], state.params["head"]["kernel"], atol=1e-6
    )
