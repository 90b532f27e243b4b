"""CATER: videos of moving objects, with lists of the labels of three tasks.

Objects that the data set calls `spl` are the golden "snitch". The lists number the labels; their
names here are those of the code that made them.
"""

from pathlib import Path

from rstg_jax.data.video.listing import Video
from rstg_jax.data.video.lists import Lists, lines, once
from rstg_jax.errors import UserError, quoted

# The order is that of the lists: slide and pick_place change places between the shapes.
ACTIONS = (
    *("sphere slide", "sphere pick_place"),
    *("spl slide", "spl pick_place", "spl rotate"),
    *("cylinder pick_place", "cylinder slide", "cylinder rotate"),
    *("cube slide", "cube pick_place", "cube rotate"),
    *("cone contain", "cone pick_place", "cone slide"),
)
ORDERS = tuple(  # of an action and itself there is no "after"
    f"{first} {order} {second}"
    for number, first in enumerate(ACTIONS)
    for second in ACTIONS[number:]
    for order in ("before", "during", "after")[: 2 if first == second else 3]
)
CELLS = tuple(f"x={x} y={y}" for y in range(-3, 3) for x in range(-3, 3))  # lower corners
LABELS = {"actions_present": ACTIONS, "actions_order_uniq": ORDERS, "localize": CELLS}


def cater(task: str, videos: Path, lists: Path, split: str) -> Lists:
    """Lines of `FILE LABEL,LABEL`; only the base name of the file counts.

    Args:
      task: "actions_present" or "actions_order_uniq", whose videos have any number of labels; or
        "localize", the cell of the ground in which the snitch is at the end.
      videos: See `PublishedConfig.path`.
      lists: See `PublishedConfig.lists`.
      split: "train" or "test".
    """
    label_names = LABELS[task]
    numbered = {str(number): name for number, name in enumerate(label_names)}
    file = lists / task / ("train.txt" if split == "train" else "val.txt")
    wanted = "`FILE LABEL`" if task == "localize" else "`FILE LABEL,LABEL`"
    found = []
    for line, text in lines(file):
        path, _, numbers = text.rpartition(" ")
        labels = tuple(numbered.get(number, "") for number in numbers.split(","))
        name = Path(path).name
        if not name or " " in name or not all(labels) or (task == "localize" and len(labels) > 1):
            raise UserError(
                f"{file}: line {line} is not {wanted} of labels from 0 to {len(label_names) - 1}: "
                f"{quoted(text)}"
            )
        found.append((line, Video(videos / name, name, labels)))
    return Lists(list(label_names), once(file, found))
