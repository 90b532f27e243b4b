"""Prepares SyncMNIST in several processes; resumes after an interruption.

    python -m tfds_builders.sync_mnist.build --config=digits5 --data_dir=DIR [--mnist_dir=DIR]
        [--processes=N] [--num_train=N] [--num_test=N] [--seed=N] ...

See `tfds_builders.shards` for how the data are written.
"""

import functools
import pathlib
import re
import sys
from collections.abc import Sequence

from rstg_jax import cli
from rstg_jax.data import SyncMNISTConfig
from rstg_jax.data.dataset import SPLITS
from rstg_jax.data.sync_mnist import digits as digits_lib
from rstg_jax.data.sync_mnist.prepared import prepared_dir
from rstg_jax.errors import UserError
from tfds_builders import processes as processes_lib
from tfds_builders import shards
from tfds_builders.sync_mnist import sync_mnist

SHARD = 4096  # examples per shard: about 30 MB


def build(data: SyncMNISTConfig, *, processes: int = 1, shard_size: int = SHARD) -> pathlib.Path:
    """Prepares `data` in `data.data_dir` and returns the directory of the data set.

    The bytes of a shard depend only on `data` and `shard_size`.

    Raises:
      UserError: Digits are missing, the disk is too small, or there is an interrupted run of other
        data.
    """
    processes_lib.check_number(processes)
    if data.mnist_dir:
        digits_lib.load("idx", "train", mnist_dir=data.mnist_dir)  # raises if they are missing
    target = prepared_dir(data)
    if shards.is_there(target):
        return target
    config = sync_mnist.SyncMNISTBuilderConfig.of(data)
    builder = shards.builder_of(sync_mnist.SyncMNIST, config, data.data_dir)
    metadata = sync_mnist.metadata(data)
    plan = shards.Plan(
        target=target,
        name=builder.name,
        sizes={split: sync_mnist.split_size(data, split) for split in SPLITS},
        shard_size=shard_size,
        examples=lambda *some: functools.partial(sync_mnist.examples, data, *some),
        features=functools.partial(sync_mnist.features, data),
        description=metadata,
    )
    return shards.prepare(plan, builder, metadata, processes=processes)


def _parse(argv: Sequence[str] | None) -> tuple[SyncMNISTConfig, int]:
    parser = cli.command_parser("tfds_builders.sync_mnist.build", __doc__)
    default = SyncMNISTConfig(digits_from="tfds")
    parser.add_argument("--config", default="digits5", help="digits3, digits5 (default), ...")
    parser.add_argument("--data_dir", default=default.data_dir, help="data directory of TFDS")
    parser.add_argument("--mnist_dir", default="", help="directory of the MNIST files")
    parser.add_argument("--digits_from", choices=digits_lib.SOURCES, default=default.digits_from)
    parser.add_argument("--processes", type=int, default=1, help="that generate videos")
    for name in ("num_train", "num_test", "num_frames", "frame_size", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(default, name))
    parser.add_argument("--none_probability", type=float, default=default.none_probability)
    parser.add_argument("--delay", type=int, help="frames between the steps of the pair")
    parser.add_argument("--frames", choices=("pictures", "maps"), default=default.frames)
    parser.add_argument("--classes", default="0,1,2,3,4,5,6,7,8,9", help="such as 1,4,7")
    flags = vars(parser.parse_args(argv))
    processes = flags.pop("processes")
    try:
        classes = tuple(int(c) for c in flags.pop("classes").split(","))
    except ValueError as e:
        raise UserError(f"--classes must be digits with commas between them ({e})") from e
    name = flags.pop("config")
    number = re.fullmatch(r"digits(\d+)", name)
    if number is None:
        raise UserError(f"--config={name} must be digits3, digits5 or another number of digits")
    return SyncMNISTConfig(num_digits=int(number[1]), classes=classes, **flags), processes


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    data, processes = _parse(argv)
    with processes_lib.stoppable():
        build(data, processes=processes)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
