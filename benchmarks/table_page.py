"""Writes docs/results.md: the paper's SyncMNIST table beside ours, from docs/results/*.json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rstg_jax import files

# Rows of the paper's table: variant, name, accuracy in % with 3 and with 5 digits as published.
ROWS: tuple[tuple[str, str, float | None, float | None], ...] = (
    ("mean_lstm", "Mean + LSTM", 77.0, None),
    ("conv_lstm", "Conv + LSTM", 95.0, 39.7),
    ("i3d", "I3D", None, 90.6),
    ("nl_i3d", "Non-Local", None, 93.5),
    ("space_only", "RSTG Space-Only", 61.3, None),
    ("time_only", "RSTG Time-Only", 89.7, None),
    ("homogeneous", "RSTG Homogeneous", 95.7, 58.3),
    ("one_temp_stage", "RSTG 1-temp-stage", 97.0, 74.1),
    ("all_temp_stages", "RSTG All-temp-stages", 98.9, 94.5),
    ("positional", "RSTG Positional All-temp", None, 97.2),
    ("objects", "not in the paper: digits as nodes", None, None),
)
PAPER = {
    f"lite{digits}_{variant}": (name, paper[digits == 5])
    for digits in (3, 5)
    for variant, name, *paper in ROWS
}
VARIANTS = tuple(PAPER)

COLUMNS: tuple[str, ...] = ("row", "paper", "ours", "seed", "videos seen", "before that", "hours")
COLUMNS += ("parameters", "variant", "config", "commits")

HEAD = """# SyncMNIST: the paper's table, trained

Generated from the files in docs/results/ by `python -m benchmarks.table --hours=0 --workdirs=DIR`;
not edited by hand.
Accuracy in % on all 10,000 test videos of the official law (real MNIST, 64x64 frames, 46 labels).
How model and training differ from the paper's: see the docstring of `lite` in
configs/sync_mnist.py. A row is trained in phases, see `phases` in benchmarks/table.py: "videos
seen" are those of the last one, "before that" lists the others; `lite_backbone` saw single frames.
"PHASE of FILE": the row began with those weights, whose hours are not counted.
Hours are those of all phases. "of N" marks a row that is not finished: its last evaluation counts.
A network that recognises all digits but not what moves together has one of three pairs, or of ten:
33% with 3 digits, 9.9% with 5. What helps and what does not: [what_helps.md](what_helps.md).
"""


def load(results: Path) -> list[dict[str, Any]]:
    """Reads the records of all runs, in the order of the paper's table, then of the seeds."""
    records = [files.read_json(path) for path in sorted(results.glob("*.json"))]
    known = [record for record in records if record["row"] in VARIANTS]
    return sorted(known, key=lambda r: (VARIANTS.index(r["row"]), r["seed"]))


def line(record: Mapping[str, Any]) -> str:
    """One run as a row of a Markdown table."""
    name, paper = PAPER[record["row"]]
    *before, last = record["phases"]
    videos = f"{last['examples']:,}"
    if not record["finished"]:
        videos += f" of {record['videos_planned']:,}"
    parameters = record["parameters"]
    cells = (
        name,
        "-" if paper is None else f"{paper:.1f}",
        f"{100 * record['top1']:.2f}",
        str(record["seed"]),
        videos,
        ", ".join(map(seen, before)) or "-",
        f"{record['hours']:.1f}",
        "-" if parameters is None else f"{parameters / 1e6:.2f}M",
        f"`{record['row']}`",
        record["config_hash"] or "-",
        ", ".join(record["commits"]),
    )
    return "| " + " | ".join(cells) + " |"


def seen(phase: Mapping[str, Any]) -> str:
    """A phase and how many videos it took, if it was trained at all."""
    return f"{phase['run']} {phase['examples']:,}" if phase["examples"] else str(phase["run"])


def markdown(records: Sequence[Mapping[str, Any]]) -> str:
    """The whole page."""
    parts = [HEAD]
    for digits in (3, 5):
        chosen = [record for record in records if record["digits"] == digits]
        if not chosen:
            continue
        parts.append(f"## {digits} digits\n")
        parts.append(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
        parts[-1] += "".join(f"\n{line(record)}" for record in chosen)
        parts.append(f"\n![Accuracy against videos seen](results/curves{digits}.svg)\n")
        parts.append(
            f"Lines: training on videos with {digits} digits, each seen once. Dots: test.\n"
        )
    return "\n".join(parts)


def curves(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws accuracy against videos seen: training as a line, the test as a dot, for each row.

    Both are on videos that were not seen before; those of the test are of other handwriting.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "rstg_jax", "font.size": 9}):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.add_subplot()
        for record in records:
            name = PAPER[record["row"]][0]
            x, y = [seen for seen, _ in record["curve"]], [top1 for _, top1 in record["curve"]]
            label = f"{name}, seed {record['seed']}"
            (line,) = axes.plot(x, [100 * value for value in y], label=label)
            axes.plot([record["seen"]], [100 * record["top1"]], "o", color=line.get_color())
        axes.set(xlabel="training videos seen", ylabel="accuracy (%)")
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.legend(loc="lower right", fontsize=8)
        figure.savefig(path, format="svg", metadata={"Date": None})


def write(results: Path, page: Path) -> None:
    """Rewrites the page and its curves from the records in a directory."""
    records = load(results)
    for digits in (3, 5):
        chosen = [record for record in records if record["digits"] == digits]
        if chosen:
            curves(chosen, results / f"curves{digits}.svg")
    files.write_text(page, markdown(records))
