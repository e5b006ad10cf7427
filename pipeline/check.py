"""check: would these files be taken in? Each is read alone, in a process of its own, within bounds of time and memory.

What crashes a parser ends that process, and so as a `refuse` of that file, not of the others. No Ray, no torch.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, Literal, NoReturn

import pyarrow as pa

from pipeline import sources
from pipeline.config import Data, RunConfig
from pipeline.errors import DataError, LatentpipeError
from pipeline.intake.inventory import check_columns
from pipeline.intake.taking import Intake, Share, describe
from pipeline.survey import modelled, sniffed, surveyed

TIME_S: Final = 9.0
"""For one file; what is around it takes less than the second that is left to ten."""
MEMORY_MB: Final = 1792
"""For one file, on top of what the process has before it begins: 2 GB in all."""
ANSWER_BYTES: Final = 1 << 16
Outcome = Literal["accept", "quarantine", "refuse"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What would become of one file."""

    path: str
    outcome: Outcome
    rows: int = 0
    """Rows that were read."""
    quarantined: int = 0
    """Rows among them that would be set aside."""
    rule: str = ""
    """What the file, or the first of these rows, breaks: `place`, `unreadable`, `contract`, `no rows`,
    `quarantine limit`, `time`, `memory`, `crash`, or the rule of a row."""
    detail: str = ""


def check(
    paths: Sequence[str], *, config: RunConfig | None = None, time_s: float = TIME_S, memory_mb: int = MEMORY_MB
) -> Iterator[Verdict]:
    """A verdict for each file, folders file by file; by the run's contract, or by what the file itself suggests."""
    for path in _expanded(paths):
        yield _alone(path, partial(judge, path, config), time_s, memory_mb)


def summary(verdicts: Sequence[Verdict]) -> dict[str, int | bool]:
    """The figures of the last line; `ok` if every file is accepted, or quarantined within the limit."""
    counts = {outcome: sum(it.outcome == outcome for it in verdicts) for outcome in ("accept", "quarantine", "refuse")}
    rows = {name: sum(getattr(it, name) for it in verdicts) for name in ("rows", "quarantined")}
    return {"ok": counts["refuse"] == 0, "files": len(verdicts), **counts, **rows}


def judge(path: str, config: RunConfig | None) -> Verdict:
    """Read the file to its end, in this process."""
    rule, intake = "place", None
    try:
        settings = _aimed(config, path)
        if os.path.islink(path) and not settings.data.follow_symlinks:
            raise DataError("a link, not a plain file", path, "name its target, or set data.follow_symlinks")
        (file,) = sources.files(settings.data, workspace=Path(os.devnull))
        rule = "unreadable"
        if config is None:
            settings = replace(settings, data=sniffed(settings.data))
            found = surveyed(settings.data).columns()
            rule = "contract"
            settings = replace(settings, columns=modelled(found, where=file.name))
        names, pieces = sources.names(file, settings.data), sources.cut(file, settings.data).pieces
        rule = "contract"
        check_columns(file, names, settings)
        intake = Intake(settings)
        for _ in intake.batches([Share(piece=piece) for piece in pieces]):
            pass
        return _verdict(path, intake, settings)
    except LatentpipeError as error:
        return Verdict(path=path, outcome="refuse", rule=rule, rows=intake.rows_in if intake else 0, detail=str(error))


def _aimed(config: RunConfig | None, path: str) -> RunConfig:
    """The run's settings for this file alone; rows that break the contract are counted, not fatal."""
    config = config or RunConfig(name="check", data=Data(uri=path), columns={})
    return replace(config, data=replace(config.data, uri=path, query="", on_bad_row="quarantine"))


def _verdict(path: str, intake: Intake, config: RunConfig) -> Verdict:
    verdict = Verdict(path=path, outcome="accept", rows=intake.rows_in, quarantined=len(intake.rejected))
    if not intake.rows_in:
        return replace(verdict, outcome="refuse", rule="no rows", detail="there is no row in it")
    if not intake.rejected:
        return verdict
    first = intake.rejected[0][1]
    if len(intake.rejected) > config.data.quarantine_limit * intake.rows_in:
        return replace(verdict, outcome="refuse", rule="quarantine limit", detail=describe(first))
    return replace(verdict, outcome="quarantine", rule=first.rule, detail=describe(first))


def _expanded(paths: Sequence[str]) -> Iterator[str]:
    """The paths, folders as the files below them, in order; hidden ones are not data."""
    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        for folder, below, names in os.walk(path):
            below[:] = sorted(it for it in below if it[0] not in "._")
            yield from (os.path.join(folder, it) for it in sorted(names) if it[0] not in "._")


def _alone(path: str, judged: Callable[[], Verdict], time_s: float, memory_mb: int) -> Verdict:
    """The verdict of a child process, whatever becomes of it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _answer(writer, path, judged, memory_mb)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer, late = _until(time.monotonic() + time_s, pipe.fileno())
    if late:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if late:
        return Verdict(path=path, outcome="refuse", rule="time", detail=f"not read to its end within {time_s:g} s")
    try:
        return Verdict(**json.loads(answer))
    except ValueError:
        died = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {status >> 8}"
        return Verdict(path=path, outcome="refuse", rule="crash", detail=f"reading it ended the process: {died}")


def _until(deadline: float, descriptor: int) -> tuple[bytes, bool]:
    """All bytes of a pipe; or what came before the deadline, and that it was late."""
    answer = b""
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([descriptor], [], [], left)[0]:
            break
        if not (some := os.read(descriptor, ANSWER_BYTES)):
            return answer, False
        answer += some
    return answer, True


def _answer(descriptor: int, path: str, judged: Callable[[], Verdict], memory_mb: int) -> NoReturn:
    """In the child: judge within bounds, tell the parent, and end without cleaning up."""
    try:
        _bound(memory_mb)
        verdict = judged()
    except MemoryError:
        verdict = Verdict(path=path, outcome="refuse", rule="memory", detail=f"it takes more than {memory_mb:,} MB")
    except Exception as error:  # whatever a parser throws is a verdict on this file
        words = f"{type(error).__name__}: {error}".splitlines()[0]
        verdict = Verdict(path=path, outcome="refuse", rule="unreadable", detail=words)
    with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as pipe:
        json.dump(asdict(verdict), pipe)
    os._exit(0)


def _bound(memory_mb: int) -> None:
    """So much memory and no more; nothing on the console."""
    pa.set_memory_pool(pa.system_memory_pool())  # the default one reserves address space it does not use
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (memory_mb << 20), resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
