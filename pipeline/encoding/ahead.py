"""Two things at once: a thread makes what another will ask for. How reading, computing and writing overlap."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")
END: Final = object()


def ahead(items: Generator[T, None, None], *, depth: int = 1) -> Generator[T, None, None]:
    """The same items in the same order, made by a thread of their own, `depth` of them before they are asked for.

    An error in making one is raised here in its place. Whoever stops asking stops the making.

    >>> list(ahead(number**2 for number in range(4)))
    [0, 1, 4, 9]
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    try:
        coming: deque[Future[T | object]] = deque(thread.submit(next, items, END) for _ in range(depth))
        while (item := coming.popleft().result()) is not END:
            coming.append(thread.submit(next, items, END))
            yield item  # type: ignore[misc]
    finally:
        thread.shutdown(cancel_futures=True)
        items.close()
