"""What the command lines share: config overrides, and errors as one line."""

import argparse
import logging
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rstg_jax.errors import UserError


def config_overrides(rest: Sequence[str], parser: argparse.ArgumentParser) -> dict[str, str]:
    """Turns ``--config.KEY=VALUE`` (or ``--config.KEY VALUE``) into a dict; refuses the rest."""
    changes: dict[str, str] = {}
    words = iter(rest)
    for word in words:
        key, equals, value = word.partition("=")
        if not key.startswith("--config."):
            parser.error(f"unrecognised argument {word!r}")
        if not equals:
            value = next(words, "")
            if not value or value.startswith("--"):
                parser.error(f"{key} needs a value: {key}=VALUE")
        changes[key.removeprefix("--config.")] = value
    return changes


def add_process_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags by which the processes of several machines find each other."""
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    parser.add_argument("--num_processes", type=int, metavar="N", help="number of processes")
    parser.add_argument("--process_id", type=int, metavar="I", help="this process, from 0")
    parser.add_argument("--cluster", action="store_true", help="let JAX find the processes")


def join_processes(args: argparse.Namespace) -> None:
    """Joins the other processes if the flags of `add_process_flags` say so."""
    from rstg_jax.training import (
        sharding,  # late, for flags should be answered before JAX is loaded
    )

    several = (args.coordinator, args.num_processes, args.process_id)
    if args.cluster or any(value is not None for value in several):
        sharding.join_processes(*several, cluster=args.cluster)


def keep_compiled_programs() -> None:
    """Keeps what is compiled in a directory, so that the same command later starts sooner.

    JAX_COMPILATION_CACHE_DIR names another directory than that in the user's cache; empty, none is
    used. Programs for a CPU may use instructions that another machine lacks: each has its own.
    """
    import jax  # late, for flags should be answered before JAX is loaded

    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    machine = [platform.node()] if jax.default_backend() == "cpu" else []
    directory = cache.joinpath("rstg_jax", "compiled", *machine)
    jax.config.update("jax_compilation_cache_dir", str(directory))


def run_or_exit(command: Callable[[], object]) -> None:
    """`run` for a command that returns nothing: leaves the process unless all went well."""

    def main() -> int:
        command()
        return 0

    if status := run(main):
        sys.exit(status)


def run(main: Callable[[], int]) -> int:
    """Runs a command; a `UserError` becomes the line ``error: ...`` and status 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("rstg_jax").setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells of every file it writes
    try:
        return main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
