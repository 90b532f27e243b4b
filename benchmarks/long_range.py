"""Trains the rows of configs/long_range.py and writes accuracy against delay and swaps.

    nice python -m benchmarks.long_range --hours=8 --workdirs=DIR [--seeds=0,1]
        [--rows=delay64_lru,cups20_lstm]

It works as `benchmarks.table`: each run has the working directory DIR/ROW-seedN, the run that is
under way when the hours are over saves its state, and the same command resumes it. Every run has a
small file in docs/long_range/, from which docs/long_range/table.md and the plot are generated;
`--hours=0` only rewrites them. Config flags are those of train.py.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import table
from benchmarks.table_records import Phase, record
from configs.long_range import DELAY_ROWS, DELAYS, LESSON, SWAPS, WITH_LAGS
from configs.long_range import VARIANTS as CONFIGS
from rstg_jax import cli, files
from rstg_jax.rstg import frame_attention

CONFIG = "configs/long_range.py"
RESULTS = table.ROOT / "docs" / "long_range"
TASKS = {f"delay{delay}": f"D = {delay}" for delay in DELAYS}
TASKS |= {f"cups{swaps}": f"{swaps} swaps" for swaps in SWAPS}
TASKS |= {"collisions": "collisions"}
LONG_DELAYS = tuple(f"delay{delay}" for delay in DELAYS if delay > LESSON)
VARIANTS = tuple(
    variant for task in TASKS for row in DELAY_ROWS if (variant := f"{task}_{row}") in CONFIGS
)

HEAD = f"""# Accuracy of every row of {CONFIG}

Generated from the files beside this page by
`python -m benchmarks.long_range --hours=0 --workdirs=DIR`; not edited by hand.
Test accuracy in %, a number for each seed; ... marks runs that are not finished, of which it is the
last evaluation's. [docs/long_range.md](../long_range.md) describes tasks and rows.
"""


def phases(row: str, seed: int) -> list[Phase]:
    """The runs of a row: long delays begin with the weights of a short one.

    What a repetition is can be learned only where it is found, and a short delay is found sooner.
    Rows with lags have all delays before them at once.
    """
    run = (f"--config.train.seed={seed}",)
    task, model = row.split("_", maxsplit=1)
    if task not in LONG_DELAYS or model in WITH_LAGS:
        return [Phase(f"{row}-seed{seed}", row, run, CONFIG)]
    lesson = f"delay{LESSON}_{model}"
    # Attention that has settled on one lag would not find another one.
    fresh = ("--config.train.init_fresh=lag_bias",) if model in frame_attention.CELLS else ()
    return [
        Phase(f"{lesson}-seed{seed}", lesson, run, CONFIG),
        Phase(f"{row}-seed{seed}", row, (*run, *fresh), CONFIG),
    ]


def write_record(row: str, seed: int, workdirs: Path) -> None:
    """Writes ROW-seedN.json, if there is something to say, the table and the plot."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    if (summary := record(row, seed, workdirs, phases(row, seed), RESULTS)) is not None:
        files.write_json(RESULTS / f"{row}-seed{seed}.json", summary)
    records = [files.read_json(path) for path in sorted(RESULTS.glob("*.json"))]
    files.write_text(RESULTS / "table.md", markdown(records))
    if any(record["row"].startswith("delay") for record in records):
        plot(records, RESULTS / "delay.svg")


def markdown(records: Sequence[Mapping[str, Any]]) -> str:
    """The page: a line for each model, a column for each task."""
    lines = [f"| model | {' | '.join(TASKS.values())} |", "|---" * (len(TASKS) + 1) + "|"]
    for row in DELAY_ROWS:
        cells = [", ".join(accuracies(records, f"{task}_{row}")) or "-" for task in TASKS]
        lines.append(f"| `{row}` | {' | '.join(cells)} |")
    return "\n".join([HEAD, *lines, ""])


def accuracies(records: Sequence[Mapping[str, Any]], variant: str) -> list[str]:
    """Test accuracy of each seed of a variant."""
    return [
        f"{100 * record['top1']:.1f}{'' if record['finished'] else ' ...'}"
        for record in records
        if record["row"] == variant
    ]


def plot(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws accuracy against delay, the mean over seeds, a line for each model."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "rstg_jax", "font.size": 9}):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot()
        for row in DELAY_ROWS:
            points = []
            for delay in DELAYS:
                of_row = [r["top1"] for r in records if r["row"] == f"delay{delay}_{row}"]
                if of_row:
                    points.append((delay, 100 * sum(of_row) / len(of_row)))
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", label=row)
        axes.axhline(100 / 7, color="grey", linestyle=":", label="chance")
        axes.set_xscale("symlog", base=2, linthresh=4)
        axes.set_xticks(DELAYS, [str(delay) for delay in DELAYS])
        axes.set(xlabel="delay D in frames", ylabel="test accuracy (%)", ylim=(0, 102))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        figure.savefig(path, format="svg", metadata={"Date": None})


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    args, rows, flags = table.parse(argv, "long_range", __doc__ or "", VARIANTS)
    table.train_all(rows, args, flags, phases, write_record)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
