"""Rows 7 and 8: many processes publish to one target at once; two publish the same."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from faults.cases import HERE, Found, reader, s3_port
from faults.history import Event, problems
from faults.proxy import Faulty, between

LIMIT_S = 600


def crowd(root: Any, folder: Path, *, processes: int, commits: int, same: bool = False) -> tuple[list[Event], Found]:
    """Run them to their ends, a reader looking on all the time; the history, and what the reader found torn."""
    command = [sys.executable, str(HERE / "writer.py"), str(root), "--processes", str(processes)]
    command += ["--commits", str(commits), *(["--same"] if same else [])]
    commands = [
        [*command, "--process", str(number), "--history", str(folder / f"{number}.history")]
        for number in range(processes)
    ]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    torn, looked, began = 0, 0, time.monotonic()
    while any(it.poll() is None for it in running) and time.monotonic() - began < LIMIT_S:
        asked = time.monotonic()
        torn += bool(reader()(root)["problems"])
        looked += 1
        time.sleep(max(0.01, time.monotonic() - asked))  # it is to look on, not to keep the store busy
    said = [it.communicate()[1] if it.poll() is not None else it.kill() for it in running]
    failed = next((str(it).strip().splitlines()[-1] for it in said if it), "") or ("" if looked else "nobody looked")
    events = [json.loads(line) for path in folder.glob("*.history") for line in path.read_text().splitlines()]
    return sorted(events, key=lambda it: it["at"]), Found(torn=torn, failed=failed)


def judged(events: list[Event], root: Any, found: Found, *, commits: int) -> Found:
    """The history against what lies there now."""
    seen = reader()(root)
    final = [it["run_key"] for it in seen["versions"]]
    wrong = [*seen["problems"], *problems(events, final)]
    if [it["version"] for it in seen["versions"]] != [f"v{number:06d}" for number in range(1, commits + 1)]:
        wrong.append(f"{len(final)} versions, not 1 to {commits} without a gap")
    acknowledged = {it["value"] for it in events if it["type"] == "ok" and it["f"] == "append"}
    return Found(
        lost=len(acknowledged - {*final}),
        duplicated=len(final) - len({*final}),
        torn=found.torn + bool(seen["problems"]),
        failed=found.failed or next(iter(wrong), ""),
        cases=commits,
    )


def many(folder: Path, *, processes: int, commits: int, remote: bool) -> Found:
    """Each process its own keys: as many versions as commits."""
    with _place(folder, remote) as root:
        events, found = crowd(root, folder, processes=processes, commits=commits)
        lines = "".join(json.dumps(it) + "\n" for it in events)
        (folder / f"history-{'bucket' if remote else 'folder'}.jsonl").write_text(lines)
        return judged(events, root, found, commits=processes * commits)


def twins(folder: Path, *, rounds: int, remote: bool) -> Found:
    """Two processes, the same key, at a barrier, round after round: one version each, and both are told of it."""
    with _place(folder, remote) as root:
        events, found = crowd(root, folder, processes=2, commits=rounds, same=True)
        seen = reader()(root)
        final = [it["run_key"] for it in seen["versions"]]
        told = [(it["value"], it["version"]) for it in events if it["type"] == "ok"]
        right = sorted((str(number), number) for number in range(1, rounds + 1) for _ in range(2))
        failed = found.failed or ("" if sorted(told) == right else f"told {sorted(told)}")
        if final != [str(number) for number in range(1, rounds + 1)]:
            failed = failed or f"versions by {final}"
        twice = len(final) - len({*final})
        return Found(duplicated=twice, torn=found.torn + bool(seen["problems"]), failed=failed, cases=rounds)


@contextmanager
def _place(folder: Path, remote: bool) -> Iterator[Any]:
    """A root; in a bucket by way of the proxy, which lets one conditional put through at a time."""
    if not remote:
        yield folder / "root"
        return
    with ExitStack() as stack:
        port = stack.enter_context(between(Faulty(s3_port(), lambda method, path, conditional: "")))
        stack.enter_context(mock.patch.dict("os.environ", {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}))
        yield f"s3://faults/{folder.name}/crowd"
