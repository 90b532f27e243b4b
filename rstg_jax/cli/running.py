"""How a command runs: signals, one-line errors, exit status, cache of compiled programs."""

import contextlib
import io
import logging
import os
import platform
import select
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from rstg_jax import machine, processes
from rstg_jax.cli import flags
from rstg_jax.errors import UserError

BUCKET_FLAGS = (
    *("--workdir", "--config.data.data_dir", "--config.data.path"),
    "--config.train.init_from",
)
_UNTOUCHED = (signal.SIG_DFL, signal.default_int_handler)  # handlers as Python begins
_DEVICE_FULL = "RESOURCE_EXHAUSTED"  # how JAX's errors of a device's memory begin

_log = logging.getLogger(__name__)


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
        flags.refuse_nothing(sys.argv[1:])
        flags.refuse_addresses(sys.argv[1:], bucket_flags)
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
