"""Shared by all commands: flags, config overrides, one-line errors.

Commands end with ``sys.exit(cli.run(main))`` where ``main(argv=None)`` returns the exit status.
"""

import argparse
import contextlib
import io
import logging
import os
import platform
import re
import select
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from rstg_jax import config, machine, processes, storage
from rstg_jax.errors import UserError

BUCKET_FLAGS = (
    *("--workdir", "--config.data.data_dir", "--config.data.path"),
    "--config.train.init_from",
)
CONFIG_FLAG = re.compile(r"--?(no)?config\.([^=]*)(=.*)?", re.DOTALL)
BOOLEANS = ("true", "false", "1", "0")
_UNTOUCHED = (signal.SIG_DFL, signal.default_int_handler)  # handlers as Python begins
_DEVICE_FULL = "RESOURCE_EXHAUSTED"  # how JAX's errors of a device's memory begin

_log = logging.getLogger(__name__)


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


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Loads modules in its body; a signal meanwhile ends the process at once, and says so.

    An exception amid an import would become an ImportError, or a crash of compiled code. Afterwards
    each of `processes.SIGNALS` raises KeyboardInterrupt, as only SIGINT does otherwise; `run`
    reports it.
    """

    def end(number: int, _: object) -> None:
        print("interrupted", file=sys.stderr, flush=True)
        os._exit(128 + number)

    own = threading.current_thread() is threading.main_thread()  # others may not set handlers
    caught = [s for s in processes.SIGNALS if own and signal.getsignal(s) in _UNTOUCHED]
    for number in caught:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.default_int_handler)


def keep_compiled_programs() -> None:
    """Caches compiled programs on disk, so that the next start of a command skips compilation.

    The cache is in the user's cache directory. If JAX_COMPILATION_CACHE_DIR is set, all is left to
    JAX; an empty value disables the cache. Programs for a CPU may use instructions that another CPU
    lacks, so each machine has its own cache of these.
    """
    import jax  # late: --help and mistyped flags should answer at once

    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    own = [platform.node()] if jax.default_backend() == "cpu" else []
    directory = cache.joinpath("rstg_jax", "compiled", *own)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        _log.warning("compiled programs are not cached: %s: %s", directory, error.strerror)
        return
    jax.config.update("jax_compilation_cache_dir", str(directory))
    # JAX keeps only programs that took a second to compile, which is few of those of a start.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _quieten_orbax() -> None:
    """Silences what Orbax prints besides the errors that it raises.

    It logs every file that it writes, and tracebacks of errors in its threads, which it raises
    again. The event loops of these threads are closed with the error, and complain about it.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _report_unraisable


def _report_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Does what Python does, but for errors within asyncio."""
    trace = unraisable.exc_traceback
    if trace is None or not trace.tb_frame.f_globals["__name__"].startswith("asyncio."):
        sys.__unraisablehook__(unraisable)


def _refuse_addresses(words: Sequence[str], buckets: Collection[str]) -> None:
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


def _refuse_nothing(words: Sequence[str]) -> None:
    """Raises `UserError` for a flag or an argument without text, mostly a variable that is not set.

    As a path it would be the current directory. Keys of a config may be empty.
    """
    for before, word in zip(("", *words), words, strict=False):
        flag, equals, value = word.partition("=")
        if value or (flag and not equals):
            continue
        if not CONFIG_FLAG.match(flag or before):
            raise UserError(f"{flag}=: is empty" if flag else f"an argument is empty ({before} '')")


def run(main: Callable[[], int], bucket_flags: Sequence[str] = ()) -> int:
    """Runs a command; an error of the user's or of memory is printed in a line and gives status 2.

    Paths in a bucket are refused but in `BUCKET_FLAGS` and `bucket_flags`.

    Letters that the terminal cannot show, such as bytes in the name of a file, are escaped.
    """
    machine.keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:  # Orbax makes one when it is imported
            handler.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger("rstg_jax").setLevel(logging.INFO)
    _quieten_orbax()
    status = _run(main, (*BUCKET_FLAGS, *bucket_flags))
    processes.leave(status)
    return status


def _run(main: Callable[[], int], bucket_flags: Collection[str]) -> int:
    """The exit status of a command, whose known errors are printed."""
    try:
        _refuse_nothing(sys.argv[1:])
        _refuse_addresses(sys.argv[1:], bucket_flags)
        status = main()
        if sys.stdout is not None:  # None if it is closed
            sys.stdout.flush()
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        text = str(error) or "no more was said"
        if not isinstance(error, MemoryError) and not text.startswith(_DEVICE_FULL):
            raise
        print(
            f"error: out of memory ({text.splitlines()[0]}); smaller batches need less. Training "
            "goes on from its last checkpoint when it is started again",
            file=sys.stderr,
        )
        return 2
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        # Otherwise Python complains when it writes the rest at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE  # as of other programs
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _nobody_reads() -> bool:
    """Whether the reader of the output has ended, as `head` does after some lines."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
