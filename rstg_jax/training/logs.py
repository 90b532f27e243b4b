"""Output of a running job: metrics.jsonl, TensorBoard events, log lines or a live bar."""

import contextlib
import io
import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rstg_jax import files, storage
from rstg_jax.errors import UserError, reason
from rstg_jax.training import scores

METRICS = "metrics.jsonl"
CLOCK = ("time", "examples_per_second", "waiting_for_data")  # metrics that no two runs share
METER_SECONDS = 60.0  # between two lines of a `Meter`

_log = logging.getLogger("rstg_jax")


def read(path: storage.Path) -> dict[tuple[str, int], dict[str, Any]]:
    """The rows of a metrics.jsonl by split and step; of equal ones the last.

    Raises:
      UserError: It cannot be read, or a line is damaged; the message names it.
    """
    rows = {}
    for number, row in enumerate(files.read_json_lines(path), start=1):
        try:
            rows[row["split"], row["step"]] = row
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{path}: line {number} is not a row of metrics: remove the line, or train again"
            ) from error
    return rows


def truncate(path: Path, step: int, retest: bool = False) -> None:
    """Removes lines after `step`, and an incomplete last line, as a killed run leaves them.

    With `retest` also the line of an evaluation at `step`, which is going to be repeated. Lines
    that are no rows of metrics, which would stop `read`, go as well.
    """
    if not path.is_file():
        return
    kept = []
    for line in path.read_text("utf-8", errors="replace").splitlines(keepends=True):
        try:
            record = json.loads(line) if line.endswith("\n") else {}
            at, split = record["step"], record["split"]
            earlier = at <= step and not (retest and (at, split) == (step, "test"))
        except (ValueError, RecursionError, KeyError, TypeError):  # no JSON, or no row
            continue
        if earlier:
            kept.append(line)
    files.write_text(path, "".join(kept))


class MetricLog:
    """Appends metrics to WORKDIR/metrics.jsonl and to a TensorBoard event file.

    Every record is flushed immediately, before a checkpoint of its step is written, so the file is
    complete up to the last checkpoint whenever the process dies. For a bucket, where nothing can be
    appended, the files are written locally and copied as a whole with every record.
    """

    def __init__(self, workdir: storage.Path, step: int, enabled: bool, retest: bool = False):
        """Opens the files to continue after `step`, see `truncate`; none unless `enabled`.

        Raises:
          UserError: They cannot be written.
        """
        self._workdir = workdir
        self._temporary = contextlib.ExitStack()
        self._file: io.FileIO | None = None
        if enabled:
            with self._explained(step):
                self._open(step, retest)

    def _open(self, step: int, retest: bool) -> None:
        # Not with this module: where PyTorch is installed, this imports it, which takes seconds.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        if isinstance(self._workdir, Path):
            self._local = self._workdir
        else:
            self._local = Path(self._temporary.enter_context(tempfile.TemporaryDirectory()))
            if (self._workdir / METRICS).exists():
                storage.copy(self._workdir / METRICS, self._local / METRICS)
        path = self._local / METRICS
        truncate(path, step, retest)
        # Unbuffered: closing the file does not retry a failed write.
        self._file = path.open("ab", buffering=0)
        # Not a SummaryWriter: its thread ends with an error, and then it waits for the thread.
        self._events = EventsWriter(str(self._local / "events"))
        # Hides what an earlier process wrote of later steps.
        start = SessionLog(status=SessionLog.START)
        self._events.write_event(Event(step=step + 1, session_log=start))

    def go_back(self, step: int) -> None:
        """Removes the records after `step`."""
        if self._file is not None:
            self.close()
            with self._explained(step):
                self._open(step, retest=False)

    def write(self, step: int, split: str, values: Mapping[str, Any]) -> None:
        """Records the metrics of a split at a step.

        Raises:
          UserError: The files cannot be written, for example because the disk is full.
        """
        if self._file is None:
            return
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        line = json.dumps({"step": step, "split": split, **values}) + "\n"
        scalars = [Summary.Value(tag=f"{split}/{k}", simple_value=v) for k, v in values.items()]
        summary = Summary(value=scalars)
        with self._explained(step):
            self._file.write(line.encode())
            self._events.write_event(Event(wall_time=time.time(), step=step, summary=summary))
            self._events.flush()
            if self._local != self._workdir:
                storage.copy_tree(self._local, self._workdir)

    def close(self) -> None:
        """Closes the files; an error in writing them has been raised before."""
        if self._file is not None:
            self._file.close()
            with contextlib.suppress(OSError):
                self._events.close()
        self._temporary.close()

    @contextlib.contextmanager
    def _explained(self, step: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot write the logs of step {step} in {self._workdir}: {reason(error)}; when "
                "this is mended start again, the run resumes from its last checkpoint"
            ) from error


class Console:
    """Progress of training: a bar on a terminal, otherwise log lines; only on the first process."""

    def __init__(self, step: int, total: int, enabled: bool):
        self._enabled = enabled
        live = enabled and sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            initial=step,
            disable=not live,
            unit="step",
            dynamic_ncols=True,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps, "
            "{elapsed}<{remaining}{postfix}",
            desc="train",
        )
        self._live = live
        self._total = total

    def advance(self, values: Mapping[str, float] | None, rate: float) -> None:
        """Advances the bar by one step; shows the averages of the current window if it has some."""
        if self._live:
            if values is not None:
                averages = f"loss {values['loss']:.4f}, top1 {values['top1']:.1%}"
                self._bar.set_postfix_str(f"{averages}, {rate:.0f} videos/s", refresh=False)
            self._bar.update()

    def go_back(self, step: int) -> None:
        """Sets the bar back."""
        self._bar.n = step
        self._bar.refresh()

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._live:
            self._bar.write(text, file=sys.stderr)
        elif self._enabled:
            _log.info(text)

    def train_line(self, step: int, values: Mapping[str, float], left: int) -> None:
        """Logs a window, with `left` videos to go; on a terminal the bar shows it instead."""
        if not self._live:
            speed = values["examples_per_second"]  # 0 if its only update compiled
            eta = tqdm.format_interval(left / speed) if speed else "unknown"
            self.say(
                f"step {step}/{self._total}  loss {values['loss']:.4f}  "
                f"top1 {values['top1']:.1%}  {speed:.0f} videos/s  "
                f"waiting for data {values['waiting_for_data']:.1%}  ETA {eta}"
            )

    def test_line(self, step: int, values: Mapping[str, float]) -> None:
        """Logs an evaluation."""
        shares = "  ".join(f"{name} {share}" for name, share in scores.accuracies(values).items())
        self.say(
            f"step {step}/{self._total}  test: loss {values['loss']:.4f}  {shares}  "
            f"({values['examples']:.0f} videos)"
        )

    def close(self) -> None:
        self._bar.close()


class Meter:
    """Progress of a long job: a bar on a terminal, otherwise one log line per minute."""

    def __init__(self, total: int, unit: str, enabled: bool = True):
        """Counts up to `total` items of name `unit`."""
        self._bar = tqdm(
            total=total,
            unit=f" {unit}",
            disable=not (enabled and sys.stderr.isatty()),
            leave=False,
            dynamic_ncols=True,
        )
        self._lines = enabled and not sys.stderr.isatty()
        self._total, self._unit, self._done = total, unit, 0
        self._start = self._told = time.monotonic()

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, count: int) -> None:
        """Marks `count` more items as done."""
        self._done += count
        self._bar.update(count)
        now = time.monotonic()
        if self._lines and self._done < self._total and now - self._told >= METER_SECONDS:
            self._told = now
            rate = self._done / (now - self._start)
            seconds = (self._total - self._done) / rate if rate else 0.0
            left = tqdm.format_interval(seconds) if rate else "unknown"
            _log.info("%d/%d %s  %.1f/s  ETA %s", self._done, self._total, self._unit, rate, left)


class Clock:
    """Wall time of the run and of its current logging window."""

    def __init__(self, before: float = 0.0):
        """Starts at `before`, the seconds that earlier processes of the run took."""
        self._start = time.monotonic() - before
        self.reset()

    def reset(self) -> None:
        """Starts a new window."""
        self._window = time.monotonic()
        self._waited = 0.0
        self.examples = 0

    def seconds(self) -> float:
        """Wall time of the run."""
        return time.monotonic() - self._start

    def rate(self) -> float:
        """Videos per second in this window."""
        return self.examples / max(time.monotonic() - self._window, 1e-9)

    def waiting(self) -> float:
        """Fraction of this window spent waiting for data."""
        return self._waited / max(time.monotonic() - self._window, 1e-9)

    @contextlib.contextmanager
    def excluded(self) -> Iterator[None]:
        """Excludes the time inside (evaluating, saving, compiling) from the window."""
        start = time.monotonic()
        yield
        self._window += time.monotonic() - start

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Counts the time inside as waiting for data."""
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start
