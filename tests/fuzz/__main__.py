"""Gives thousands of damaged files to the readers of this package, each in a process of its own.

    python -m tests.fuzz [--cases=10000] [--seed=0] [--kinds=mp4,csv] [--seconds=60]
    python -m tests.fuzz --case=KIND:NUMBER [--seed=0]

A reader may return, or refuse with a `UserError`. A failure is any other exception, a process that
dies or hangs, more memory than `--megabytes`, and, of files with checksums, a wrong value. Every
case is made again from its name, KIND:NUMBER, and the seed: --case runs it alone, with a traceback,
and leaves its files for inspection.
"""

import argparse
import collections
import concurrent.futures
import faulthandler
import multiprocessing
import os
import random
import re
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any, NamedTuple

import av
import tqdm

from rstg_jax.errors import UserError
from rstg_jax.machine import num_cores
from tests.fuzz.kinds import KINDS, unpack
from tests.fuzz.mutations import Files, mutate

READ, REFUSED, FAILED = "read", "refused", "failed"
HANGS, DIES = "hangs", "the process dies"
ROOT = Path(__file__).parents[2]
_START = 600  # seconds for the first import of a large package
_FORK = multiprocessing.get_context("fork")  # workers start at once and share the samples
Corpus = Mapping[str, Sequence[Files]]


class Case(NamedTuple):
    """One damaged file."""

    kind: str
    number: int

    def files(self, samples: Sequence[Files], seed: int) -> Files:
        """The damaged file and those beside it."""
        kind, rng = KINDS[self.kind], random.Random(f"{seed} {self.kind} {self.number}")
        whole = rng.choice(samples)
        harmed = {name: content for name, content in whole.items() if name.endswith(kind.harm)}
        changed = mutate(harmed, samples, rng, kind.text)
        if kind.repair and rng.random() < 0.5:
            changed = {name: kind.repair(content) for name, content in changed.items()}
        return {name: whole[name] for name in whole.keys() - harmed.keys()} | changed


class Result(NamedTuple):
    """How a case ended: READ, REFUSED or FAILED, and why."""

    case: Case
    verdict: str
    detail: str = ""


def make(names: Sequence[str]) -> Corpus:
    """Small whole files of the kinds."""
    return {name: KINDS[name].make() for name in names}


def value(kind: str, files: Files) -> Any:
    """What is read from whole files."""
    with tempfile.TemporaryDirectory() as place:
        return KINDS[kind].read(unpack(files, Path(place)))


def attempt(case: Case, files: Files, originals: Sequence[Any], headroom: int) -> Result:
    """Reads a damaged file, with so many bytes of memory."""
    kind = KINDS[case.kind]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        directory = unpack(files, Path(place))
        try:
            with_limit(headroom)
            value = kind.read(directory)
        except BaseException as error:
            with_limit(None)
            for cause in chain(error):
                if is_of_memory(cause):
                    return Result(case, FAILED, f"too much memory: {where(cause)}")
            if isinstance(error, UserError):
                return Result(case, REFUSED, str(error))
            return Result(case, FAILED, where(error))
        with_limit(None)
    if kind.exact and value not in originals:
        return Result(case, FAILED, "a wrong value is accepted")
    return Result(case, READ)


def with_limit(headroom: int | None) -> None:
    """Limits the memory of this process to what it has, and so many bytes."""
    limit = resource.RLIM_INFINITY
    if headroom is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + headroom
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it comes from."""
    while error:
        yield error
        error = error.__cause__ or error.__context__


def is_of_memory(error: BaseException) -> bool:
    """Whether memory was wanted and not there. FFmpeg says the same where its own bounds refuse."""
    ours = isinstance(error, MemoryError) and not isinstance(error, av.FFmpegError)
    return ours or (isinstance(error, RuntimeError) and "allocate memory" in str(error))


def where(error: BaseException) -> str:
    """An exception in a line, with the last line of this repository that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f"{f.filename}:{f.lineno}" for f in frames if f.filename.startswith(str(ROOT))]
    place = f" ({ours[-1].removeprefix(f'{ROOT}/')})" if ours else ""
    text = re.sub(rf"{tempfile.gettempdir()}/\w+", "DIR", str(error).replace("\n", " "))
    return f"{type(error).__name__}: {text[:120]}{place}"


def divert(log: str | Path = os.devnull) -> None:
    """Sends what this process prints, and what its libraries in C do, to a file."""
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def work(pipe: connection.Connection, corpus: Corpus, flags: argparse.Namespace, log: Path) -> None:
    """A worker: receives cases, sends results; before the first of a kind an empty message."""
    parent, known, originals = os.getppid(), "", []
    warnings.simplefilter("ignore")
    divert(log)
    faulthandler.enable()
    while os.getppid() == parent:
        if not pipe.poll(5):
            continue
        case = pipe.recv()
        try:
            if case.kind != known:
                known = case.kind
                originals = [value(known, files) for files in corpus[known]]
                pipe.send(None)
        except Exception as error:
            known = ""
            pipe.send(Result(case, FAILED, f"a whole file is not read: {where(error)}"))
            continue
        files = case.files(corpus[case.kind], flags.seed)
        pipe.send(attempt(case, files, originals, flags.megabytes << 20))


class Worker:
    """A process that reads, and the case that it is busy with."""

    def __init__(self, corpus: Corpus, flags: argparse.Namespace, log: Path):
        self.pipe, theirs = _FORK.Pipe()
        self.log, self.deadline = log, 0.0
        self.case: Case | None = None
        self.process = _FORK.Process(target=work, args=(theirs, corpus, flags, log), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, case: Case) -> None:
        self.case, self.deadline = case, time.monotonic() + _START
        self.pipe.send(case)

    def answer(self, seconds: float, ready: bool) -> Result | None:
        """The result of its case, if there is one by now."""
        assert self.case is not None
        case, now = self.case, time.monotonic()
        if not ready:
            return Result(case, FAILED, f"{HANGS} {self.end()}") if now > self.deadline else None
        try:
            result: Result | None = self.pipe.recv()
        except (EOFError, OSError):
            return Result(case, FAILED, f"{DIES} {self.end()}")
        self.deadline = now + seconds
        self.case = None if result else case
        return result

    def end(self) -> str:
        """Kills it; returns its signal and what it said last."""
        self.process.join(0.5)
        self.process.kill()
        self.process.join()
        self.pipe.close()
        lines = self.log.read_text(errors="replace").splitlines()
        said = [" ".join(line.split()) for line in lines if line.strip()][:9]
        return f"(signal {-(self.process.exitcode or 0)}): {' | '.join(said)}"


def run(cases: Sequence[Case], corpus: Corpus, flags: argparse.Namespace) -> Iterator[Result]:
    """Yields the result of every case as it comes; a worker that dies or hangs is replaced."""
    waiting = collections.deque(cases)
    with tempfile.TemporaryDirectory() as place:
        logs = [Path(place, str(number)) for number in range(flags.workers)]
        workers = [Worker(corpus, flags, log) for log in logs]
        try:
            while waiting or any(worker.case for worker in workers):
                for worker in workers:
                    if worker.case is None and waiting:
                        worker.give(waiting.popleft())
                busy = [worker for worker in workers if worker.case]
                spare = min(worker.deadline for worker in busy) - time.monotonic()
                ready = connection.wait([worker.pipe for worker in busy], max(spare, 0))
                for worker in busy:
                    result = worker.answer(flags.seconds, worker.pipe in ready)
                    if result and result.detail.startswith((HANGS, DIES)):
                        workers[workers.index(worker)] = Worker(corpus, flags, worker.log)
                    if result:
                        yield result
        finally:
            for worker in workers:
                worker.end()


def report(results: Sequence[Result]) -> int:
    """Prints every distinct failure with its first case, and a table; returns the exit status."""
    failures = collections.defaultdict(list)
    for case, verdict, detail in results:
        if verdict == FAILED:
            failures[case.kind, detail].append(case.number)
    for (kind, detail), numbers in failures.items():
        print(f"{kind}: {detail}\n  cases {', '.join(map(str, sorted(numbers)[:9]))}")
    counts = collections.Counter((result.case.kind, result.verdict) for result in results)
    rows = [("kind", "cases", READ, REFUSED, "failures")]
    for kind in dict.fromkeys(result.case.kind for result in results):
        found = [counts[kind, verdict] for verdict in (READ, REFUSED, FAILED)]
        rows.append((kind, *(f"{n:,}" for n in (sum(found), *found))))
    total = [sum(counts[k, v] for k, v in counts if v == w) for w in (READ, REFUSED, FAILED)]
    rows.append(("all", *(f"{n:,}" for n in (sum(total), *total))))
    for name, *numbers in rows:
        print(f"{name:16}" + "".join(f"{number:>10}" for number in numbers))
    return 1 if failures else 0


def alone(case: Case, corpus: Corpus, flags: argparse.Namespace) -> int:
    """Reads one case in this process and leaves its files."""
    directory = Path(tempfile.mkdtemp(prefix=f"fuzz-{case.kind}-{case.number}-"))
    print(unpack(case.files(corpus[case.kind], flags.seed), directory))
    try:
        print(READ, KINDS[case.kind].read(directory))
    except UserError as error:
        traceback.print_exception(error)
    return 0


def main() -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS), help="default: all of them")
    parser.add_argument("--case", metavar="KIND:NUMBER", help="only this one, with a traceback")
    parser.add_argument("--seconds", type=float, default=60, help="for a case")
    parser.add_argument("--megabytes", type=int, default=1536, help="for a case")
    parser.add_argument("--workers", type=int, default=num_cores())
    flags = parser.parse_args()
    if flags.case:
        kind, _, number = flags.case.partition(":")
        return alone(Case(kind, int(number)), make([kind]), flags)
    names = flags.kinds.split(",")
    # Encoders and writers leave threads behind, with which a process must not fork.
    with concurrent.futures.ProcessPoolExecutor(1, _FORK, divert) as pool:
        corpus = pool.submit(make, names).result()
    count = -(-flags.cases // len(names))
    cases = [Case(name, number) for name in names for number in range(count)]
    results = []
    for result in tqdm.tqdm(run(cases, corpus, flags), total=len(cases), unit=" cases"):
        if result.verdict == FAILED and not any(result[1:] == other[1:] for other in results):
            tqdm.tqdm.write(f"{result.case.kind}:{result.case.number} {result.detail}")
        results.append(result)
    return report(results)


if __name__ == "__main__":
    sys.exit(main())
