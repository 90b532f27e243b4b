"""Checks somebody's run: replays some of its updates and compares all that it recorded.

    python -m rstg_jax.verify --workdir=DIR [--start=STEP] [--steps=100] [--test] [--test_videos=M]

Training goes on from a copy of one of the run's checkpoints, with its config and its data
(``--config.data.KEY=VALUE`` if they lie elsewhere now), by the code that trains. Compared are the
lines of metrics.jsonl and the checkpoints that both have: weights, optimiser, statistics, random
key. --test also evaluates the newest checkpoint that was tested, and compares the metrics. Where
that takes hours, --test_videos=M compares the predictions of the first M videos with those that
`rstg_jax.evaluate` wrote to the run, of the newest checkpoint that has some.

Prints what is identical and how far the rest differs, relative to the largest value of an array.
On the machine and devices of the run all is identical. Elsewhere sums have another order, so that
figures agree to rounding, which grows with the number of updates. The exit status is 1 if anything
differs by more than --tolerance. The run itself stays as it is. Updates that were made before a run
was resumed with another length cannot be checked where that changed their learning rate.
"""

import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rstg_jax import cli, files, storage
from rstg_jax.errors import UserError, reason, translated
from rstg_jax.inference import evaluation
from rstg_jax.training import checkpoint, integrity, logs, optim, train_loop, trained_model


class Comparison(NamedTuple):
    """The name of two compared values and their largest relative difference."""

    name: str
    difference: float

    def __str__(self) -> str:
        found = f"within {self.difference:.2g}" if self.difference else "identical"
        return f"{self.name}: {found}"


def difference(found: Any, expected: Any) -> float:
    """The largest difference of two arrays over the largest value.

    Infinite for other shapes and where one has values that are not finite.
    """
    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape != expected.shape:
        return float("inf")
    if np.array_equal(found, expected):
        return 0.0
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    if not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return float("inf")  # and not NaN, which is larger than nothing
    return float(np.abs(found - expected).max() / np.abs(expected).max(initial=1e-30))


def compare_metrics(name: str, found: dict[str, Any], expected: dict[str, Any]) -> Comparison:
    """Compares the numbers that both have, but for those of the clock."""
    # The log calls what a run tests on "test", an evaluation has the data set's own name of it.
    keys = (found.keys() & expected.keys()) - {"split", *logs.CLOCK}
    return Comparison(name, max(difference(found[key], expected[key]) for key in keys))


def replay(
    model: trained_model.TrainedModel, workdir: storage.Path, start: int, until: int
) -> Iterator[Comparison]:
    """Trains from checkpoint `start` to `until` and compares; `model` is of any checkpoint.

    Raises:
      UserError: the training was stopped before.
    """
    with tempfile.TemporaryDirectory() as temporary:
        again = Path(temporary)
        if start:
            integrity.verify(workdir / "checkpoints", start)
            storage.copy_tree(workdir / f"checkpoints/{start}", again / f"checkpoints/{start}")
        reached = train_loop.train(model.experiment, again, until).get("stopped_at", until)
        if reached < until:
            raise UserError(f"stopped after step {reached}; step {until} was to be compared")
        there = logs.read(workdir / "metrics.jsonl")
        for (split, step), found in logs.read(again / "metrics.jsonl").items():
            if (split, step) in there:
                yield compare_metrics(f"{split} at step {step}", found, there[split, step])
        with (
            checkpoint.Checkpoints(again, read_only=True) as ours,
            checkpoint.Checkpoints(workdir, read_only=True) as theirs,
        ):
            abstract = model.abstract_state()
            both = set(integrity.steps(ours.path)) & set(integrity.steps(theirs.path))
            for step in sorted(both - {start}):
                states = [jax.device_get(c.restore(step, abstract)) for c in (ours, theirs)]
                differences = jax.tree.leaves(jax.tree.map(difference, *states))
                yield Comparison(f"checkpoint {step}", max(differences))


def check_schedule(
    model: trained_model.TrainedModel, workdir: storage.Path, start: int, until: int
) -> None:
    """Refuses to replay updates that were made with another schedule than that of `model`.

    A run may be resumed with another length, which changes a cosine. Checkpoints hold the config of
    their own time, but those of updates long ago are gone; what is left are the logged rates.

    Raises:
      UserError: the logged learning rates from `start` to `until` are not those of the config.
    """
    if model.meta.get("skipped"):  # the rate is then behind, no one knows since which step
        return
    rate = optim.learning_rate(model.experiment.optimizer, model.meta["total_steps"])
    logged = logs.read(workdir / "metrics.jsonl")
    other = [
        step
        for (split, step), row in logged.items()
        if split == "train" and "learning_rate" in row
        if not math.isclose(row["learning_rate"], float(rate(step - 1)), rel_tol=1e-3)
    ]
    if any(start < step <= until for step in other):
        raise UserError(
            f"{workdir} was resumed with another length: the learning rates that were logged up to "
            f"step {max(other)} are not those of its config, so that these updates cannot be "
            "checked; give a later --start"
        )


def evaluate_again(workdir: storage.Path, overrides: Mapping[str, str]) -> Comparison:
    """Evaluates the newest checkpoint that was tested and compares with what was logged."""
    with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
        tested = [step for _, step in checkpoints.scores()]
    logged = logs.read(workdir / "metrics.jsonl")
    if not tested or ("test", max(tested)) not in logged:
        raise UserError(f"{workdir} has no checkpoint with a logged test")
    model = trained_model.load(workdir, str(max(tested)), overrides)
    result, _ = evaluation.evaluate_checkpoint(model)
    expected = logged["test", model.step]
    return compare_metrics(f"test of checkpoint {model.step}", result, expected)


def test_of(path: storage.Path) -> tuple[int, str, str | None]:
    """Step, split and protocol of an evaluation."""
    with translated(lambda error: f"{path}: is no evaluation ({reason(error)})"):
        result = files.read_json(path)
        return int(result["step"]), result["split"], result["protocol"]


def predict_again(workdir: storage.Path, count: int, overrides: Mapping[str, str]) -> Comparison:
    """Predicts the first videos of the newest evaluation, and compares the five best classes.

    Raises:
      UserError: no checkpoint has an evaluation, or its files are damaged.
    """
    known = integrity.steps(workdir / "checkpoints")
    tests = {path: test_of(path) for path in sorted(workdir.glob("evaluation-*.json"))}
    evaluated = [path for path, (step, _, _) in tests.items() if step in known]
    if not evaluated:
        raise UserError(
            f"{workdir} has no predictions to compare with; those who have all its data can write "
            f"them: python -m rstg_jax.evaluate --workdir={workdir}"
        )
    newest = max(evaluated, key=lambda path: tests[path][0])
    step, split, protocol = tests[newest]
    path = newest.with_name(newest.name.replace("evaluation", "predictions", 1))
    recorded = files.read_json(path)
    model = trained_model.load(workdir, str(step), overrides).with_protocol(protocol)
    _, predictions = evaluation.evaluate_checkpoint(model, split, count)
    differences = []
    with translated(lambda error: f"{path}: holds no such predictions ({reason(error)})"):
        for name, labels, probabilities in zip(*predictions, strict=True):
            there = {best["label"]: best["probability"] for best in recorded[name]}
            here = {model.label_names[k]: p for k, p in zip(labels, probabilities, strict=True)}
            # What is not among the best there, because of a tie, has at most their least value.
            both = [
                [best.get(label, min(best.values())) for label in sorted(here | there)]
                for best in (here, there)
            ]
            differences.append(difference(*both))
    count = len(differences)
    return Comparison(f"predictions of {count} videos by checkpoint {model.step}", max(differences))


def start_of(known: Sequence[int], wanted: int | None) -> int:
    """The checkpoint to go on from: the newest that another follows, or else step 0."""
    if wanted is None:
        return sorted(known)[-2] if len(known) > 1 else 0
    if wanted and wanted not in known:
        choices = ", ".join(map(str, sorted({0, *known})))
        raise UserError(f"--start={wanted}: choose one of {choices}")
    return wanted


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = cli.command_parser("rstg_jax.verify", __doc__, whole=True)
    parser.add_argument("--workdir", required=True, help="directory of the training run")
    parser.add_argument("--start", type=int, help="checkpoint, or 0; default: the last but one")
    parser.add_argument("--steps", type=int, default=100, help="updates to replay (default 100)")
    parser.add_argument("--test", action="store_true", help="also evaluate")
    parser.add_argument(
        "--test_videos", type=int, default=0, metavar="M", help="also predict so many test videos"
    )
    parser.add_argument("--tolerance", type=float, default=1e-3, help="default 0.001")
    args, overrides = cli.parse(parser, argv)
    if min(args.steps, args.test_videos) < 0 or not (args.steps or args.test or args.test_videos):
        parser.error(f"--steps={args.steps}: at least 1, or 0 with --test or --test_videos")
    cli.keep_compiled_programs()
    workdir = storage.path(args.workdir)
    model = trained_model.load(workdir, "last", overrides)
    start = start_of(integrity.steps(workdir / "checkpoints"), args.start)
    if args.steps and start >= model.step:
        raise UserError(f"--start={start}: the run ends at step {model.step}; give an earlier one")
    until = min(start + args.steps, model.step)
    check_schedule(model, workdir, start, until)
    found = []
    for comparison in replay(model, workdir, start, until) if until > start else ():
        print(comparison, flush=True)
        found.append(comparison)
    if args.test:
        found.append(evaluate_again(workdir, overrides))
        print(found[-1])
    if args.test_videos:
        found.append(predict_again(workdir, args.test_videos, overrides))
        print(found[-1])
    if not found:
        raise UserError(
            f"nothing was recorded from step {start + 1} to {until}: more --steps are needed"
        )
    largest = max(comparison.difference for comparison in found)
    print(Comparison("all", largest))
    return 0 if largest <= args.tolerance else 1


if __name__ == "__main__":
    sys.exit(cli.run(main))
