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
33% with 3 digits, 9.9% with 5.
"""

TRIED = """## What was tried

One run each, accuracy on training videos, each seen once; flags are those of train.py.

- What limits the networks: a rule by hand that compares the steps of digits on the maps of the CNN
  (`python -m benchmarks.analysis` has it for shipped weights). On those of the CNN with four
  convolutions, which rows of less than 0.6M parameters have, it names 94.3% with three digits and
  91.2% with five (1,000 test videos). So with three digits those networks are where their CNN lets
  them be. Seven convolutions, three of them on maps of 16x16, give the rule 95.6% and 95.0% after
  480,000 single frames; six, of which all but two are on 8x8, 94.6% and 92.2% after 800,000.
- Regions of the pair that attend to each other (`loss.attention_weight`): to say whether digits
  move alike, a region has to find the one that holds the other digit, which the label teaches
  late. `lite3_positional` is at 66% after the first 8,000 videos; without this task, and all else
  alike, at 33%, and at 55% after 20,800. After 24,000 videos, and 24,000 with all weights at 1e-2,
  it has 92.52% of the 10,000 test videos, in 1.2 hours on one core: the older row, 94.23%, has seen
  144,000. The last phase was too short for its rate: training fell from 90% to 83% in between. With
  five digits, from the first 24,000 videos with three, training is at 48% after 16,000 at 4e-3,
  no better than before.
- Nodes that are objects (`lite3_objects`, `lite5_objects`): ten nodes, one for each class of
  digits, in place of regions, each with the place of its class on the map of the CNN, the same
  stages and the task on attention. Behind the frozen CNN five digits, learned from the start, are
  at 74% after 9,600 videos, and 90.2% of 1,000 test videos are right after 64,000, in 0.6 hours on
  one core. So what keeps the rows with five digits back are regions that hold several digits.
- A CNN that has seen 1,280,000 frames more (at 0.015 from the weights of 480,000, one more hour)
  gives the rule 96.2% and 95.5%, and names 98.8% instead of 98.6% of single digits among five over
  ten frames. In place of the one that `lite5_objects` was trained behind it is as good at once,
  as the nodes read classes and places and no features: 93.7% of the next training videos are right.
  Both rows on objects, also the one with three digits, began their last phase with it and with
  what `lite5_objects` had learned (`lite5_objects_first_long8.safetensors`): 2.0 hours that the
  table does not count. In that phase training falls from 93.7% to 88% at the full rate, 4e-3, and
  from 97.2% to 95%, and gains all of it and more while the rate decays.
- What is wrong in the end, of 1,000 test videos: with five digits 3.6% name a digit that is not
  there, 2.7% another pair of the video's digits; with three 2.4% and 0.6%. On images that training
  has seen they name about 1% more. So the recognition of unseen digits is next: a larger CNN, or
  digits that are turned and stretched a little in training; and pairs that overlap, of which five
  digits have 83% right.
- What a time stage finds of motion: share of the variance of the motions of each class that the
  region of the whole frame explains in `lite3_time_only` after 9,600 videos (400 test videos).
  0.45 with the mean of presence times place over a region; 0.37 with places weighted by presence
  (`model.map_pool=presence`), as the layer norm before the LSTM hides more of larger numbers; 0.47
  without this norm (`model.rstg.time_norm=false`); 0.84 if the LSTM also reads differences to the
  frame before (`model.rstg.differences`), 0.73 with these and the norm. A linear recurrence
  (`model.rstg.cell=lru`) finds 0.68 without norm and differences. The demo, whose nodes have
  features and no places, learns more slowly with differences, without the norm and with the task
  on attention: 53% instead of 72% after 10,400 videos.
- Finer regions: 4x4 and the whole frame in place of 3x3, 2x2 and 1x1, so that digits are more often
  alone in theirs, stay longer at 34% (with all but the three choices above): 42% after 24,000
  videos. Digits leave smaller regions sooner.
- Tasks also on the nodes after the first time stage (`model.early_heads`): the last time stage has
  weights of its own, so that otherwise no task asks for motions where messages could still compare
  them. With them `lite3_positional` learns what moves together from three digits at once: 78% after
  22,400 videos, 91% after 43,000. Without them it stays at 35% for 24,000 videos, and the rows of
  before had a lesson with two digits first (`lite2_...`, 32,000 videos), which is gone. The demo
  has 92.1% instead of 89.9% of its test, and 85.6% instead of 50.8% without
  skip connections.
- Messages between any two regions (`model.rstg.neighbours=all`), as the released code sends them:
  with five digits 51% instead of 45% after 6,400 videos from the same weights, at 1.3 times the
  operations. The demo is at 82.4% instead of 71.0% after 14,400 videos, and has 92.9% in the
  end, without skip connections 91.1% (all on one core; `make demo` on two has 92.3%).
- Rates for five digits: from the weights of three, 1e-2 stays at 35%, 2e-3 is at 47% after 9,600
  videos; batches of 64 at 5e-3 are where batches of 16 at 2e-3 are. Five digits at once, without
  three before, are at 10% after 21,000 videos.
- A task that asks every region which of its digits are in the pair changes nothing: 45.6% instead
  of 45.0% with five digits after 4,800 videos. Nor does a message layer that begins as a difference
  of sender and receiver.
- Wider nodes: `--config.model.rstg.dim=128` instead of 64 gives 88.9% instead of 83.7% after the
  first 48,000 videos with three digits, at 1.75 times the multiplications. The configs have 128
  now; RSTG rows with less than 0.2M parameters are older and have 64.
- Conv + LSTM names no digit without a norm behind its convolutions
  (`--config.model.head.norm=false`: 49% with two digits, as often as there is no pair, and the
  likeliest five labels hold the right one in 54% after 30,400 videos). With it, those five hold it
  in 99.5%, but it is still at 53%: it does not learn what moves together. Nor does it at a rate of
  5e-3 after 54,000 videos, nor with another weight of the task for regions.
- The row with one time stage stays there, too, with a CNN that is trained on (16,000 videos of two
  digits) and with d = 128 (14,400): no message of it follows a time stage and could compare
  motions.
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
    return "\n".join([*parts, TRIED])


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
