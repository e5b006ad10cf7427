"""Filesystems of `pyarrow.fs` that ask a busy server again, and not for ever."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from pyarrow import fs

ATTEMPTS: Final = 8
"""Of a request to S3. Waits double from 25 ms: 6 s for a server that refuses, half a minute for one that is silent."""
PATIENCE: Final = "retry_limit_seconds=30"
"""Google's client would try for a quarter of an hour."""


@lru_cache(maxsize=64)
def connected(root: str, options: str = "") -> tuple[fs.FileSystem, str]:
    """The filesystem, and what precedes its paths. Asks the network where the URI does not say a bucket's region."""
    if root.startswith(("gs://", "gcs://")) and "retry_limit_seconds=" not in options:
        options = f"{options}{'&' if options else '?'}{PATIENCE}"
    filesystem, path = fs.FileSystem.from_uri(f"{root}/x{options}")
    if isinstance(filesystem, fs.S3FileSystem):
        _, (settings,) = filesystem.__reduce__()
        retries = fs.AwsDefaultS3RetryStrategy(max_attempts=ATTEMPTS)
        filesystem = fs.S3FileSystem(**settings, retry_strategy=retries)
    return filesystem, path.removesuffix("x")
