"""Row 6: the store answers 503, 500, resets, silence; and the reply to the commit is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

from faults.cases import Found, reader, s3_port
from faults.proxy import Faulty, Plan, between, on_commit, shares
from faults.writer import commit

from pipeline import storage
from pipeline.errors import InfrastructureError
from pipeline.stores import arrow, s3
from pipeline.stores.objects import Objects
from pipeline.stores.patience import Patience
from pipeline.stores.remote import Remote

HURRIED = Patience(total_s=60, first_s=0.01, longest_s=0.2, answer_s=1.0, connect_s=1.0)
IMPATIENT = Patience(total_s=0.5, first_s=0.01, longest_s=0.1, answer_s=0.2, connect_s=0.2)


@contextmanager
def by_way_of(faulty: Faulty, patience: Patience = HURRIED) -> Iterator[None]:
    """What this process asks of the store goes through the proxy; the reader's way is the straight one."""
    with between(faulty) as port:
        address = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        arrow.connected.cache_clear()
        with mock.patch.dict("os.environ", address):
            client = Objects(patience)
            with mock.patch.object(s3, "client", return_value=client):
                yield
        arrow.connected.cache_clear()


def published(folder: Path, plan: Plan, *, commits: int) -> Found:
    """Commits through it: each there once, whatever befell the requests."""
    faulty = Faulty(s3_port(), plan)
    root = Remote(f"s3://faults/{folder.name}/busy")
    with by_way_of(faulty):
        for number in range(1, commits + 1):
            commit(root, f"key-{number}", [number])
    seen = reader()(root)
    expected = [[number] for number in range(1, commits + 1)]
    return compared(seen, expected, happened=sum(faulty.done.values()) > faulty.done["passed"])


def compared(seen: dict, expected: list[list[int]], *, happened: bool) -> Found:
    """The versions' ids against those that were acknowledged."""
    history = [it["ids"] for it in seen["versions"]]
    lost = sum(it not in history for it in expected)
    twice = sum(max(history.count(it) - 1, 0) for it in expected)
    failed = "" if happened else "nothing befell any request"
    if history != expected or seen["problems"]:
        failed = f"versions hold {history}, not {expected}; {seen['problems'][:1]}"
    return Found(lost=lost, duplicated=twice, torn=int(bool(seen["problems"])), failed=failed)


def some_fail(folder: Path, rate: float, seed: int, commits: int) -> Found:
    """A share of all requests."""
    return published(folder, shares(rate, seed=seed), commits=commits)


def commit_fails(folder: Path, faults: list[str]) -> Found:
    """The commit itself, so often."""
    return published(folder, on_commit(*faults), commits=2)


def all_fail(folder: Path) -> Found:
    """Nothing is answered: an end after a bounded time, by our name, with nothing visible; then it works again."""
    port, root = s3_port(), Remote(f"s3://faults/{folder.name}/down")
    commit(root, "key-1", [1])
    faulty = Faulty(port, lambda method, path, conditional: "503" if method != "GET" else "")
    with by_way_of(faulty, IMPATIENT):
        try:
            commit(root, "key-2", [2])
            return Found(failed="published through a store that answers nothing")
        except InfrastructureError as error:
            if error.exit_code != 4 or "does not answer" not in error.what:
                return Found(failed=f"named otherwise: {error}")
    if faulty.done["503"] < 3:
        return Found(failed="given up without another try")
    commit(root, "key-2", [2])
    return compared(reader()(root), [[1], [2]], happened=True)


def commit_unanswered(folder: Path) -> Found:
    """The store has committed, but never says so: exit 4, and the same command again finds it done, once."""
    root = Remote(f"s3://faults/{folder.name}/unanswered")
    commits = iter(["lost reply"])

    def plan(method: str, path: str, conditional: bool) -> str:
        if conditional and path.endswith("/_manifest.json"):
            return next(commits, "503")
        return ""

    with by_way_of(Faulty(s3_port(), plan), IMPATIENT), suppress(InfrastructureError):
        commit(root, "key-1", [1])
        return Found(failed="acknowledged what nobody has answered")
    if (known := storage.standing(root, "key-1")) is None or known.version != 1:
        return Found(lost=1, failed="the same command again does not find it")
    commit(root, "key-1", [1])
    return compared(reader()(root), [[1]], happened=True)
