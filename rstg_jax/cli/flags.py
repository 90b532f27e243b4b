"""Flags of the command line: parsers, config overrides, and words that no command takes."""

import argparse
import re
import sys
from collections.abc import Callable, Collection, Sequence

from rstg_jax import config, processes, storage
from rstg_jax.errors import UserError

CONFIG_FLAG = re.compile(r"--?(no)?config\.([^=]*)(=.*)?", re.DOTALL)
BOOLEANS = ("true", "false", "1", "0")


def command_parser(
    module: str, doc: str | None, *, whole: bool = False, epilog: str | None = None
) -> argparse.ArgumentParser:
    """Makes the parser of a command that is started with ``python -m MODULE``.

    Args:
      module: its dotted name, as it is typed.
      doc: its docstring, of which ``--help`` shows the first line.
      whole: whether ``--help`` shows all of it, in its own lines.
      epilog: shown below the flags.
    """
    text = (doc or "").strip()
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=text if whole else text.partition("\n")[0],
        epilog=epilog,
        formatter_class=(argparse.RawDescriptionHelpFormatter if whole else argparse.HelpFormatter),
        allow_abbrev=False,
    )


def parse(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
    *,
    config_class: type | None = None,
) -> tuple[argparse.Namespace, dict[str, str]]:
    """Parses the flags of a command, adds ``--import`` and reads config overrides.

    An override is written ``--config.KEY=VALUE`` or ``--config.KEY VALUE``; for a boolean also
    ``--config.KEY`` and ``--noconfig.KEY``. One dash is as good as two. Words after ``--`` are not
    flags.

    Args:
      parser: the flags of the command; an unknown flag ends the process with its usage.
      argv: the words of the command line; those of this process if None.
      config_class: for commands that also take words that are not flags: the class of the
        configuration. A word after a ``--config.KEY`` that is boolean in this class is one of
        these words, unless it is true, false, 1 or 0.

    Returns:
      The flags, and dotted key -> text for `config.override`.
    """
    parser.allow_abbrev = False
    _add_import_flag(parser)
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    words, after = words[:end], words[end + 1 :]
    if after and config_class is None:
        parser.error(f"unrecognised argument {after[0]!r}")
    is_boolean = _is_boolean(config_class, words) if config_class else None
    rest, changes = _split(words, parser, is_boolean)
    args, unknown = parser.parse_known_args([*rest, "--", *after] if after else rest)
    if unknown:
        parser.error(f"unrecognised argument {unknown[0]!r}")
    config.import_modules(args.modules)
    return args, changes


def choices(
    parser: argparse.ArgumentParser, flag: str, text: str, known: Collection[str]
) -> list[str]:
    """Splits the value of a flag at its commas; an unknown name ends the process with its usage."""
    names = text.split(",")
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"{flag}={unknown[0]}: choose from {', '.join(known)}")
    return names


def number_range(parser: argparse.ArgumentParser, flag: str, text: str) -> tuple[int, int]:
    """Reads ``FROM:TO``, from 1; anything else ends the process with its usage."""
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        parser.error(f"{flag}={text}: give FROM:TO, two numbers in order, from 1")
    return int(found[1]), int(found[2])


def _split(
    words: Sequence[str],
    parser: argparse.ArgumentParser,
    is_boolean: Callable[[str], bool] | None,
) -> tuple[list[str], dict[str, str]]:
    """Separates config overrides from the other words of a command line."""
    rest: list[str] = []
    changes: dict[str, str] = {}
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        match = CONFIG_FLAG.fullmatch(word)
        if match is None:
            rest.append("-" + word if re.match(r"-config(=|$)", word) else word)
            continue
        no, key, value = match.groups()
        if no and value:
            parser.error(f"{word}: --noconfig.{key} takes no value")
        if no or value:
            changes[key] = config.OFF if no else value[1:]
            continue
        following = words[position] if position < len(words) else "--"
        is_flag = following.startswith("--") or CONFIG_FLAG.fullmatch(following)
        if is_flag or (is_boolean and following.lower() not in BOOLEANS and is_boolean(key)):
            changes[key] = config.ON
        else:
            changes[key] = following
            position += 1
    return rest, changes


def _is_boolean(config_class: type, words: Sequence[str]) -> Callable[[str], bool]:
    """Returns a function that looks up whether a key of a configuration is boolean."""

    def look_up(key: str) -> bool:
        # A module may define the class that has the key.
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        _add_import_flag(finder)
        config.import_modules(finder.parse_known_args(list(words))[0].modules)
        return config.is_boolean(config_class, key)

    return look_up


def _add_import_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--import",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="import a module that defines data sets, backbones or heads; may be repeated",
    )


def add_process_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags with which the processes of several machines find each other."""
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    parser.add_argument("--num_processes", type=int, metavar="N", help="number of processes")
    parser.add_argument("--process_id", type=int, metavar="I", help="this process, from 0")
    parser.add_argument("--cluster", action="store_true", help="let JAX find the processes")


def join_processes(args: argparse.Namespace) -> None:
    """Joins the other processes if the flags of `add_process_flags` are given.

    Must come before the first use of a device.

    Raises:
      UserError: some flags are missing, or the other processes cannot be reached.
    """
    several = (args.coordinator, args.num_processes, args.process_id)
    if not args.cluster and several == (None, None, None):
        return
    if not args.cluster and None in several:
        raise UserError("give --coordinator, --num_processes and --process_id together")
    if args.coordinator and not re.fullmatch(r".+:\d{1,5}", args.coordinator):
        raise UserError(f"--coordinator={args.coordinator}: give HOST:PORT, the same everywhere")
    try:
        processes.join(*several)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"cannot join the other processes: {error}") from error


def refuse_addresses(words: Sequence[str], buckets: Collection[str]) -> None:
    """Raises `UserError` for a path such as s3://bucket/run, which would become a directory.

    Values of the flags `buckets` may be in a bucket that `rstg_jax.storage` reads.
    """
    for before, word in zip(("", *words), words, strict=False):
        is_flag = word.startswith("-")
        flag, _, value = word.partition("=") if is_flag else (before, "", word)
        # Also in a list of NAME=PATH.
        found = storage.ADDRESS.match(value) or storage.ADDRESS.match(value.rpartition("=")[2])
        if found:
            # One dash of a config key is as good as two.
            if found[0] == storage.SCHEME and {flag, f"-{flag}"} & {*buckets}:
                continue
            raise UserError(
                f"{word}: {found[0]} is not read or written here; copy it, or mount the bucket as "
                f"a directory (gcsfuse, s3fs), and give its path. {storage.SCHEME} may be in "
                f"{', '.join(buckets)}"
            )


def refuse_nothing(words: Sequence[str]) -> None:
    """Raises `UserError` for a flag or an argument without text, mostly a variable that is not set.

    As a path it would be the current directory. Keys of a config may be empty.
    """
    for before, word in zip(("", *words), words, strict=False):
        flag, equals, value = word.partition("=")
        if value or (flag and not equals):
            continue
        if not CONFIG_FLAG.match(flag or before):
            raise UserError(f"{flag}=: is empty" if flag else f"an argument is empty ({before} '')")
