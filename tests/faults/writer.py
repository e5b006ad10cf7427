"""What the cases publish: small snapshots of an id column, written as a step writes them; also as a process.

    python tests/faults/writer.py ROOT --process 3 --commits 25 --history FILE

Each commit is one id, `3 * 1000 + n`; after it the process reads the history of versions. Both are written down, by
the machine's own clock, as they are begun and ended: invoke, then ok, fail (a conflict) or info (nobody knows).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]

from pipeline import snapshots, storage  # noqa: E402
from pipeline.errors import CommitConflict, InfrastructureError  # noqa: E402
from pipeline.parts import Part, write  # noqa: E402
from pipeline.snapshots import Snapshot  # noqa: E402
from pipeline.stores.remote import located  # noqa: E402

SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False)])


def parts_of(directory: Any, ids: Sequence[int], *, files: int = 2) -> list[Part]:
    """The ids in data files, and the first again, as a text, in the quarantine."""
    cuts = [ids[number::files] for number in range(files)]
    batches = [pa.record_batch([pa.array(cut, pa.int64())], schema=SCHEMA) for cut in cuts]
    data = [
        write(directory, f"part-{number:05d}.parquet", [it], schema=SCHEMA, id_column="id")
        for number, it in enumerate(batches)
        if len(it)
    ]
    aside = pa.record_batch([pa.array([str(ids[0])])], names=["id"])
    return [*data, write(directory, "_quarantine/part-00000.parquet", [aside], schema=aside.schema)]


def commit(root: Any, key: str, ids: Sequence[int], *, before: Snapshot | None = None, files: int = 2) -> Snapshot:
    """As a step does it: is it there already? if not, write and publish; the files of `before` are carried over."""
    if (known := storage.standing(root, key)) is not None:
        return known
    with storage.attempt(root, key) as directory:
        parts = parts_of(directory, ids, files=files)
        if before is not None:
            kept = [storage.carried(before, it, directory) for it in before.manifest["files"]]
            parts += [Part(**{**vars(it), "path": f"kept-{number}.parquet"}) for number, it in enumerate(kept)]
        storage.verify_ids(parts, directory, "id")
        return storage.publish(root, directory, parts, {"run_key": key, "kind": "numbers", "id": "id"})


class History:
    """Of one process, as lines of JSON."""

    def __init__(self, path: Path, process: int) -> None:
        self.file, self.process = path.open("a"), process

    def note(self, kind: str, what: str, **facts: Any) -> None:
        """One event, now."""
        event = {"at": time.monotonic_ns(), "process": self.process, "type": kind, "f": what, **facts}
        self.file.write(json.dumps(event) + "\n")
        self.file.flush()


def digest(keys: Sequence[str]) -> str:
    """Of a list, in short."""
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]


def append(root: Any, history: History, number: int) -> bool:
    """Commit one id, and note it; False if that is to be tried again."""
    key = str(number)
    history.note("invoke", "append", value=key)
    try:
        snapshot = commit(root, key, [number], files=1)
    except CommitConflict:
        history.note("fail", "append", value=key)
        return False
    except InfrastructureError as error:
        history.note("info", "append", value=key, error=str(error).splitlines()[0])
        return False
    history.note("ok", "append", value=key, version=snapshot.version)
    return True


def look(root: Any, history: History) -> None:
    """Read all versions, and note them."""
    history.note("invoke", "read")
    keys = [it.key for it in snapshots.versions(root)]
    history.note("ok", "read", length=len(keys), digest=digest(keys))


def at_once(folder: Path, name: str, process: int, others: int) -> None:
    """Wait until all have come here."""
    (folder / f"{name}-{process}").touch()
    while len([*folder.glob(f"{name}-*")]) < others:
        time.sleep(0.0005)


def main() -> None:
    """Commit, look, commit ..."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root")
    parser.add_argument("--process", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--commits", type=int, default=5)
    parser.add_argument("--history", type=Path, required=True)
    parser.add_argument("--same", action="store_true", help="every process commits the same keys, each at a barrier")
    arguments = parser.parse_args()
    root, history = located(arguments.root), History(arguments.history, arguments.process)
    folder = arguments.history.parent
    at_once(folder, "started", arguments.process, arguments.processes)
    for commit_number in range(1, arguments.commits + 1):
        if arguments.same:
            at_once(folder, f"round{commit_number}", arguments.process, arguments.processes)
            append(root, history, commit_number)
            continue
        while not append(root, history, 1000 * (arguments.process + 1) + commit_number):
            time.sleep(random.uniform(0, 0.05))
        look(root, history)


if __name__ == "__main__":
    main()
