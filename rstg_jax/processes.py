"""The processes of one job: how they meet, notice that one is gone, and part; and their workers.

JAX alone lets the others wait for the lost one, or ends them with a trace of C++ calls. Here a
thread of each process asks the coordination service every few seconds who is there. If somebody is
missing, the process ends with one line. Only if it is process 0, which runs that service, JAX ends
the others at once in its own words.
"""

import itertools
import multiprocessing
import os
import shlex
import signal
import sys
import threading
from collections.abc import Collection
from typing import Any

# That tell a process to end: Ctrl-C, queues and `kill`, a terminal that is closed.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HEARTBEAT_SECONDS = 20  # a process that is silent for so long is gone
ASK_SECONDS = 2.0
SILENT_SECONDS = 10  # that a process waits for the others before it says so
LEAVE_SECONDS = 60  # that processes wait for the others at their end, and after an error:
LEAVE_SECONDS_AFTER_ERROR = 5
LOST = 3  # exit status of the others
MILLISECONDS_OF_A_MONTH = 30 * 24 * 3600 * 1000
LAUNCHER = "RSTG_JAX_LAUNCHER"  # variable in which `rstg_jax.launch` gives on its command line

_over = threading.Event()
_meetings = itertools.count()  # all processes come to the same ones


def join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins the other processes; with None three times, JAX finds them itself.

    Must come before the first use of a device. Raises what `jax.distributed.initialize` raises.
    """
    import jax  # late: --help and mistyped flags answer without JAX

    # Otherwise JAX swallows SIGTERM, on which training saves and stops.
    jax.config.update("jax_enable_preemption_service", False)
    # Otherwise JAX ends a process, with a trace of C++ calls, before it can say which one is gone.
    jax.config.update("jax_enable_recoverability", True)
    waiting = threading.Timer(SILENT_SECONDS, _say_waiting, [coordinator, num_processes])
    waiting.daemon = True
    waiting.start()
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_id, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
        )
    finally:
        waiting.cancel()
    _over.clear()
    threading.Thread(target=_watch, name="processes", daemon=True).start()


def _say_waiting(coordinator: str | None, num_processes: int | None) -> None:
    count = "all" if num_processes is None else f"all {num_processes}"
    place = "the cluster" if coordinator is None else coordinator
    print(f"waiting for {count} processes to join at {place} ...", file=sys.stderr, flush=True)


def leave(status: int) -> None:
    """Waits for the other processes at the end of a command, or does nothing without any.

    A process that ends earlier would be missed; without process 0, JAX would end the others.
    """
    client = _client()
    if client is None:
        return
    import jax

    _over.set()
    seconds = LEAVE_SECONDS_AFTER_ERROR if status else LEAVE_SECONDS
    try:
        client.wait_at_barrier("the end", seconds * 1000)
        if jax.process_index() == 0:  # waits for the others, until they have disconnected
            client.get_live_nodes(list(range(jax.process_count())))
    except RuntimeError:  # the others have ended otherwise, or go on for longer
        return
    jax.distributed.shutdown()


def wait_for_verdict() -> None:
    """Gives the watching thread the time to find out who is gone, and to end this process.

    For errors of communication, which come at once. Returns if nobody is missing.
    """
    if _client() is not None:
        _over.wait(HEARTBEAT_SECONDS + 2 * ASK_SECONDS)


def wait_for_all() -> None:
    """Waits until all processes are here, however long that takes; a single one goes on."""
    if (client := _client()) is not None:
        client.wait_at_barrier(f"meeting {next(_meetings)}", MILLISECONDS_OF_A_MONTH)


def of_the_first(text: str) -> str:
    """What process 0 says here; all come here, and each says something."""
    if (client := _client()) is None:
        return text
    import jax

    key = f"meeting {next(_meetings)}"
    if jax.process_index() == 0:
        client.key_value_set(key, text)
    said: str = client.blocking_key_value_get(key, MILLISECONDS_OF_A_MONTH)
    return said


def of_all(text: str) -> list[str]:
    """What the processes say here, in their order; all come here, and only some need to speak."""
    if (client := _client()) is None:
        return [text] if text else []
    import jax

    place = f"meeting {next(_meetings)}"
    if text:
        client.key_value_set(f"{place}/{jax.process_index():09}", text)
    wait_for_all()
    return [said for _, said in sorted(client.key_value_dir_get(place))]


def follow_parent() -> None:
    """Prepares a worker: the process that started it alone answers signals, and it ends with it.

    A signal may reach all processes of a terminal or of a job. That process then stops or kills its
    workers when it no longer needs them.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, name="follow", daemon=True).start()


def resume_command() -> str:
    """The command line of this process, or of the launcher that started it."""
    if launcher := os.environ.get(LAUNCHER):
        return launcher
    spec = getattr(sys.modules["__main__"], "__spec__", None)  # None for a script
    program = ["-m", spec.name.removesuffix(".__main__")] if spec else sys.argv[:1]
    return shlex.join([os.path.basename(sys.executable), *program, *sys.argv[1:]])


def _client() -> Any:
    """The client of JAX's coordination service, which has no public name; None in one process."""
    if "jax" not in sys.modules:
        return None
    from jax._src import distributed

    return distributed.global_state.client


def _watch() -> None:
    import jax

    client, everyone = _client(), range(jax.process_count())
    while not _over.wait(ASK_SECONDS):
        try:
            live = client.get_live_nodes(list(everyone))
        except RuntimeError:  # the service has ended: JAX ends this process
            return
        if not _over.is_set() and len(live) < len(everyone):
            _end(sorted(set(everyone) - set(live)), len(everyone))


def _end(gone: Collection[int], count: int) -> None:
    names = " and ".join(map(str, gone))
    print(
        f"error: process {names} of {count} (counted from 0) is gone, so this one ends too; start "
        f"all of them again to go on from what is saved: {resume_command()}",
        file=sys.stderr,
        flush=True,
    )
    os._exit(LOST)  # the main thread may wait for the lost one for ever
