"""The record of a row of `benchmarks.table`, from its runs: phases, figures, curve."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rstg_jax import files
from rstg_jax.training import logs, weights_file

STARTS = "starts.jsonl"  # in a run's directory: the commit and config flags of each start
KEPT = ("run", "examples", "hours", "config_hash")  # of the record of each phase
WINDOW = 4000  # videos for each point of a curve
LENGTH = "--config.train.total_examples={}"


class Phase(NamedTuple):
    """A run of train.py, which begins with the weights of the phase before.

    Attributes:
      directory: its working directory, in that of all runs.
      variant: of the config file.
      flags: further flags.
      config: the file.
    """

    directory: str
    variant: str
    flags: tuple[str, ...] = ()
    config: str = "configs/sync_mnist.py"


def longer(last: Phase, videos: int) -> Phase:
    """One more phase: the last one again, from its own weights, for so many videos."""
    directory = last.directory.replace("-seed", "-longer-seed")
    return last._replace(directory=directory, flags=(*last.flags, LENGTH.format(videos)))


def record(
    row: str, seed: int, workdirs: Path, row_phases: Sequence[Phase], results: Path
) -> dict[str, Any] | None:
    """Summarises a row.

    Args:
      row: its variant.
      seed: of its training.
      workdirs: directory of all runs.
      row_phases: of the row.
      results: directory of the records of other rows, see `given_phases`.

    Returns:
      The record, or None if its last phase has not been evaluated yet.
    """
    every = [*row_phases, longer(row_phases[-1], 0)]
    given, before = given_phases(workdirs, every, results)
    every = every[given:]
    runs = [run for phase in every if (run := run_record(workdirs / phase.directory))]
    if runs and runs[-1]["run"] == every[-1].directory and not runs[-1]["last"]:
        runs.pop()  # `--longer` has not been evaluated yet
    if not runs or runs[-1]["run"] not in [p.directory for p in every[-2:]] or not runs[-1]["last"]:
        return None
    workdir = workdirs / runs[-1]["run"]
    config = files.read_json(workdir / "config.json")
    last = runs[-1]["last"]
    alike = [run for run in runs if run["digits"] == runs[-1]["digits"]]
    row_runs = [*before, *runs]
    return {
        "row": row,
        "seed": seed,
        "digits": runs[-1]["digits"],
        "finished": runs[-1]["finished"],
        "top1": last["top1"],
        "top5": last["top5"],
        "test_videos": last["examples"],
        "videos_planned": config["train"]["total_examples"],
        "hours": sum(run["hours"] for run in row_runs),
        "parameters": runs[-1]["parameters"],
        "config_hash": runs[-1]["config_hash"],
        "commits": list(dict.fromkeys(name for run in runs for name in run["commits"])),
        "seen": sum(run["examples"] for run in alike),
        "curve": joined(alike),
        "phases": [{key: run[key] for key in KEPT} for run in row_runs],
    }


def given_phases(
    workdirs: Path, row_phases: Sequence[Phase], results: Path
) -> tuple[int, list[dict[str, Any]]]:
    """Facts about the phases that a file of weights stands for, see `--given`.

    Returns:
      Their number, even if directories of some of them are there, which belong to other rows; and
      their record if the last of them is a row's last phase, or else the name of the file.
    """
    names = [phase.directory for phase in row_phases]
    for number in range(len(names) - 1, 0, -1):
        config = workdirs / names[number] / "config.json"
        if not config.exists():
            continue
        file = Path(files.read_json(config)["train"]["init_from"])
        if file.suffix != weights_file.SUFFIX:
            continue
        saved = results / f"{names[number - 1]}.json"
        if saved.exists():
            return number, list(files.read_json(saved)["phases"])
        name = f"{names[number - 1]} of {file.name}"
        return number, [{"run": name, "examples": 0, "hours": 0.0, "config_hash": None}]
    return 0, []


def run_record(workdir: Path) -> dict[str, Any] | None:
    """The record of one run of train.py; None if it has not logged anything yet."""
    log, starts = workdir / "metrics.jsonl", workdir / STARTS
    rows = logs.read(log) if log.exists() else {}
    if not rows:
        return None
    config = files.read_json(workdir / "config.json")
    batch_size = config["train"]["batch_size"]
    tests = {step: row for (split, step), row in rows.items() if split == "test"}
    finished = (workdir / "result.json").exists()
    result = files.read_json(workdir / "result.json") if finished else {}
    begun = files.read_json_lines(starts) if starts.exists() else []
    return {
        "run": workdir.name,
        "digits": config["data"].get("num_digits"),
        "finished": finished,
        "examples": max(step for _, step in rows) * batch_size,
        "hours": max(row["time"] for row in rows.values()) / 3600,
        "last": tests[max(tests)] if tests else None,
        "parameters": result.get("parameters"),
        "config_hash": result.get("config_hash"),
        "commits": list(dict.fromkeys(start["commit"] for start in begun)),
        "curve": curve([row for (split, _), row in sorted(rows.items()) if split == "train"]),
    }


def curve(rows: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Training videos seen, and accuracy on the next `WINDOW` of them: no video comes twice."""
    points: list[list[float]] = []
    start, before, right = 0, 0, 0.0
    for row in rows:
        right += row["top1"] * (row["examples"] - before)
        before = row["examples"]
        if before - start >= WINDOW:
            points.append([start, round(right / (before - start), 4)])
            start, right = before, 0.0
    return points


def joined(runs: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """The curves of runs one after another."""
    points, before = [], 0
    for run in runs:
        points += [[before + seen, top1] for seen, top1 in run["curve"]]
        before += run["examples"]
    return points
