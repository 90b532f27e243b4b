"""Updates that are not finite: the run stops, leaves them out, or goes back, as a plain loop does.

One pixel of the poisoned batches makes the logits of the network undefined.
"""

import dataclasses
import io

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rstg_jax import data
from rstg_jax.errors import UserError
from rstg_jax.models import classifier
from rstg_jax.training import (
    checkpoint,
    not_finite,
    optim,
    run,
    steps,
    train_loop,
    train_state,
    trained_model,
)
from rstg_jax.training.experiment import TrainConfig
from tests import standins

POISON = 255


class Network(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, video, train: bool):
        logits, out = standins.Model(self.classes)(video, train)
        return jnp.where((video == POISON).any(), jnp.nan, logits), out


@dataclasses.dataclass
class Source(standins.Source):
    poisoned: tuple[int, ...] = ()

    def batch(self, indices):
        batch = super().batch(indices)
        for row, index in enumerate(indices):
            if index // 8 in self.poisoned:
                batch["video"][row, 0, 0, 0] = POISON
        return batch


@pytest.fixture
def poison(monkeypatch):
    """Returns a function that poisons the training batches of some numbers, from 0."""

    def install(*numbers):
        standins.install(monkeypatch, train=Source(size=data.ENDLESS, poisoned=numbers))
        monkeypatch.setattr(classifier, "build", lambda config, classes: Network(classes))

    return install


def experiment(on_nan, **fields):
    defaults = {"total_steps": 10, "checkpoint_every": 4, "eval_every": 0, "log_every": 2}
    return standins.experiment(on_nan=on_nan, **defaults | fields)


def by_hand(workdir, numbers, expected_steps):
    """The weights after updates on the batches of some numbers, each with a given step number."""
    parts = run.set_up(experiment("stop"), workdir)
    with parts.checkpoints:
        state = train_state.create_state(parts.setup, parts.video_shape, 0, parts.mesh)
    for number, step in zip(numbers, expected_steps, strict=True):
        examples = parts.train_source.batch(8 * number + np.arange(8))
        batch = {key: examples[key] for key in ("video", "label")}
        state = state.replace(step=jnp.int32(step - 1))
        state, _ = jax.jit(steps.train_step, static_argnums=0)(
            parts.setup, state, batch | {"mask": np.ones(8, np.float32)}
        )
    return state.variables


def assert_same(variables, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), variables, expected)


def test_an_update_is_left_out(tmp_path, poison, caplog):
    poison(3)
    caplog.set_level("INFO", "rstg_jax")
    result = train_loop.train(experiment("skip:1"), tmp_path / "run")
    assert "became nan at step 4; the update is left out (1 of 1)" in caplog.text
    assert (result["skipped"], result["steps"]) == (1, 10)
    numbers = [0, 1, 2, 4, 5, 6, 7, 8, 9]
    variables = trained_model.load(tmp_path / "run").variables
    assert_same(variables, by_hand(tmp_path / "hand", numbers, [n + 1 for n in numbers]))
    with pytest.raises(AssertionError):  # the rate and the key of an update depend on its number
        assert_same(variables, by_hand(tmp_path / "late", numbers, range(1, 10)))
    records = {r["step"]: r for r in standins.records(tmp_path / "run") if r["split"] == "train"}
    assert all(np.isfinite(record["loss"]) for record in records.values())
    # The window of the steps 3 and 4 has the average of step 3 alone.
    train_loop.train(experiment("stop", log_every=1), tmp_path / "three", until=3)
    third = standins.records(tmp_path / "three")[2]
    assert records[4]["grad_norm"] == pytest.approx(third["grad_norm"], rel=1e-5)


def test_the_rate_that_is_logged_is_the_one_that_was_used(tmp_path, poison):
    """The optimiser, and so the schedule, does not count an update that was left out."""
    poison(3)
    settings = experiment("skip:1")
    train_loop.train(settings, tmp_path / "run")
    records = [r for r in standins.records(tmp_path / "run") if r["split"] == "train"]
    rate = optim.learning_rate(settings.optimizer, 10)
    used = {2: 1, 4: 2, 6: 4, 8: 6, 10: 8}  # updates before the last one that was made
    assert {r["step"]: r["learning_rate"] for r in records} == {
        step: float(rate(before)) for step, before in used.items()
    }
    model = trained_model.load(tmp_path / "run")
    with checkpoint.Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
        state = checkpoints.restore(model.step, model.abstract_state())
    counts = optax.tree.get_all_with_path(state.opt_state, "count")
    assert {int(count) for _, count in counts} == {9}


def test_the_bar_counts_what_is_left_out(tmp_path, poison, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    poison(0, 3)
    train_loop.train(experiment("skip:2"), tmp_path)
    assert "10/10 steps" in terminal.getvalue().split("\r")[-1]


def test_a_window_without_an_update_has_no_record(tmp_path, poison):
    poison(2, 3)
    train_loop.train(experiment("skip:2"), tmp_path)
    logged = [r["step"] for r in standins.records(tmp_path) if r["split"] == "train"]
    assert logged == [2, 6, 8, 10]


def test_a_run_goes_back_and_passes_over_the_batches(tmp_path, poison, caplog):
    poison(6)
    caplog.set_level("INFO", "rstg_jax")
    result = train_loop.train(experiment("rollback:1"), tmp_path / "run")
    assert "became nan at step 7; back to step 4, and on with the batches" in caplog.text
    assert (result["rollbacks"], result["batch_offset"], result["steps"]) == (1, 3, 10)
    variables = trained_model.load(tmp_path / "run").variables
    numbers = [0, 1, 2, 3, 7, 8, 9, 10, 11, 12]
    assert_same(variables, by_hand(tmp_path / "hand", numbers, range(1, 11)))
    with pytest.raises(AssertionError):
        other = [*numbers[:-1], 13]
        assert_same(variables, by_hand(tmp_path / "other", other, range(1, 11)))
    records = [r for r in standins.records(tmp_path / "run") if r["split"] == "train"]
    assert [r["step"] for r in records] == [2, 4, 6, 8, 10]


@pytest.mark.parametrize("on_nan", ["skip:3", "rollback:3"])
@pytest.mark.parametrize("after", [6, 9])
def test_resuming_is_exact(tmp_path, poison, monkeypatch, on_nan, after):
    poison(3, 6)
    settings = experiment(on_nan, checkpoint_every=2)
    whole = train_loop.train(settings, tmp_path / "whole")
    standins.stop_while_update(monkeypatch, after)
    assert "stopped_at" in train_loop.train(settings, tmp_path / "cut")
    again = train_loop.train(settings, tmp_path / "cut")
    assert standins.records(tmp_path / "cut") == standins.records(tmp_path / "whole")
    assert again | {"wall_time_seconds": 0} == whole | {"wall_time_seconds": 0}


@pytest.mark.parametrize(
    ("on_nan", "message"),
    [
        ("stop", "at step 4; no checkpoint was saved before it"),
        ("rollback:1", "at step 4; no checkpoint was saved before it"),
        ("skip:1", "at step 8, after 1 that were left out; step 4 is kept"),
    ],
)
def test_at_last_it_is_an_error(tmp_path, poison, on_nan, message):
    poison(3, 7)
    with pytest.raises(UserError, match=f"loss became nan {message}"):
        train_loop.train(experiment(on_nan), tmp_path)


def test_too_many_rollbacks_are_an_error(tmp_path, poison):
    poison(5, 9)  # after the first rollback the step 8 is of batch 9
    with pytest.raises(UserError, match="at step 8, after 1 rollbacks; step 4 is kept"):
        train_loop.train(experiment("rollback:1"), tmp_path)


@pytest.mark.parametrize("text", ["", "skip", "skip:0", "skip:-1", "rollback:x", "stop:1", "go"])
def test_other_words_are_refused(text):
    with pytest.raises(UserError, match="choose stop, skip:N or rollback:N"):
        TrainConfig(total_steps=1, on_nan=text)
    assert not_finite.parse("rollback:12") == ("rollback", 12)
